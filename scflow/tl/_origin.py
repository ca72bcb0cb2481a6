"""Where generated cells and a report on them come from, as names and values to read."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from scflow import _keys

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["in_words", "now", "provenance_of", "versions"]

_PACKAGES = ("anndata", "matplotlib", "numpy", "pandas", "scanpy", "scikit-learn", "scipy", "torch", "umap-learn")
_MOST = 12


def now() -> str:
    """The date and time, to the minute, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def provenance_of(generated: AnnData) -> dict[str, Any]:
    """What :func:`scflow.tl.generate` wrote on how the cells were drawn; empty for cells from elsewhere."""
    flow = generated.uns.get(_keys.FLOW)
    found = flow.get("provenance") if isinstance(flow, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def versions() -> dict[str, str]:
    """Of scflow, Python and what figures depend on."""
    from scflow import __version__

    found = {"scflow": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def in_words(value: Any) -> str:
    """A value of the provenance on one line: numbers short, long lists cut."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {in_words(one)}" for name, one in value.items())
    if isinstance(value, (np.ndarray, list, tuple)):
        every = np.ravel(np.asarray(value, dtype=object)).tolist()
        rest = len(every) - _MOST
        return ", ".join(map(in_words, every[:_MOST])) + (f" and {rest} more" if rest > 0 else "")
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
