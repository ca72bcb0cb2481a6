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
        Where something else is there.
    """
    slot = _keys.slots(key_added).embed
    entries = adata.uns.get(slot, {})
    try:
        return {column: _parts(entry) for column, entry in plain(entries).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"adata.uns[{slot!r}] holds a {type(entries).__name__} ({repr(entries)[:60]}), and not what "
            f"scflow.pp.embed writes. Delete it, and embed anew where labels have parts: del adata.uns[{slot!r}]."
        ) from None


def _parts(entry: dict[str, Any]) -> Parts:
    names, none = (tuple(map(str, entry.get(field, ()))) for field in ("parts", "none"))
    vectors = tuple(map(tuple, np.asarray(entry["vectors"]).tolist())) if "vectors" in entry else None
    return Parts(names, vectors, str(entry["separator"]), none)
