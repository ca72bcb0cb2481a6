"""Progress bars."""

from __future__ import annotations

import sys
import warnings
from typing import Any

__all__ = ["bar_class"]


def bar_class() -> Any:
    """The bar that suits the place, by ``tqdm.auto``.

    In a notebook without ipywidgets that is the plain one, and tqdm warns on import that a prettier one is missing. It
    would be the first thing that a newcomer sees, and nothing is wrong.
    """
    if "tqdm.auto" in sys.modules:
        return sys.modules["tqdm.auto"].tqdm
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    return tqdm
