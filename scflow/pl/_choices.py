"""Choices of a picture, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scflow.errors import InputError, listed, nearest

__all__ = ["check_known", "check_whole"]


def check_known(value: Any, known: Sequence[str], name: str) -> None:
    """Raise where a name is none of those that there are."""
    if value not in known:
        raise InputError(f"{name}={value!r} is not known.{nearest(value, known)} Choose out of {listed(known)}.")


def check_whole(value: Any, name: str, *, least: int) -> None:
    """Raise where a number is not whole, or too small."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}={value!r}; expected a whole number of at least {least}.")
