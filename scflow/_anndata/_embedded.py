"""What labels in `.obs` are made of, in `.uns` and out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scflow import _keys
from scflow._anndata._results import plain, storable, writing
from scflow.conditions import Parts
from scflow.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["read_parts", "write_parts"]


def write_parts(adata: AnnData, column: str, parts: Parts, key_added: str = _keys.FLOW) -> None:
    """Write what the labels of `.obs[column]` are made of to `.uns["scflow_embed"]`, by `key_added`."""
    slot = _keys.slots(key_added).embed
    read_parts(adata, key_added)
    entry = {
        "parts": parts.names,
        "vectors": None if parts.vectors is None else np.array(parts.vectors, dtype=np.float64),
        "separator": parts.separator,
        "none": parts.none or None,
    }
    with writing():
        adata.uns[slot] = storable({**plain(adata.uns.get(slot, {})), column: entry})


def read_parts(adata: AnnData, key_added: str = _keys.FLOW) -> dict[str, Parts]:
    """What :func:`write_parts` left, by column of `.obs`; nothing where it left nothing.

    Raises
    ------
    InputError
        Where what is there is of another's making.
    """
    slot = _keys.slots(key_added).embed
    try:
        entries = plain(adata.uns.get(slot, {}))
        return {column: _parts(entry) for column, entry in entries.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f".uns[{slot!r}] is none that scflow wrote ({str(error)[:200]}). Write it anew with scflow.pp.embed, or "
            "drop it."
        ) from error


def _parts(entry: dict[str, Any]) -> Parts:
    names, none = (tuple(map(str, entry.get(field, ()))) for field in ("parts", "none"))
    separator, vectors = str(entry["separator"]), None
    if "vectors" in entry:
        values = np.asarray(entry["vectors"], dtype=np.float64)
        if values.ndim != 2 or len(values) != len(names) or not np.isfinite(values).all():
            raise ValueError(f"vectors of the shape {values.shape} for {len(names)} parts, or not finite")
        vectors = tuple(map(tuple, values.tolist()))
    if not separator or len(set(names)) < len(names):
        raise ValueError(f"{len(set(names))} different names in {len(names)} parts, separated by {separator!r}")
    return Parts(names, vectors, separator, none)
