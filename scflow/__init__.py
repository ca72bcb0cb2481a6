"""Flow matching for single cells: learn a population of cells, draw new ones as counts, and know how real they are.

`pp` prepares, `tl` trains, draws and scores, `pl` draws pictures, `datasets` holds cells to start from. Everything is
loaded on first use (PEP 562), so that ``import scflow`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scflow import callbacks, codecs, datasets, errors, matching, metrics, nn, pl, pp, tl, training
    from scflow.flow import Flow

__all__ = [
    "Flow",
    "__version__",
    "callbacks",
    "codecs",
    "datasets",
    "errors",
    "matching",
    "metrics",
    "nn",
    "pl",
    "pp",
    "tl",
    "training",
]

__version__ = "0.1.0"

_MODULES = frozenset(
    {"callbacks", "codecs", "datasets", "errors", "matching", "metrics", "nn", "pl", "pp", "tl", "training"}
)


def __getattr__(name: str) -> Any:
    """Load a room, or the class `Flow`, the first time it is asked for."""
    if name in _MODULES:
        return importlib.import_module(f"scflow.{name}")
    if name == "Flow":
        return importlib.import_module("scflow.flow").Flow
    # `name` and `obj` let Python add the nearest public name by itself.
    raise AttributeError(f"module 'scflow' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
