"""Before training: splitting cells, what labels are made of, and what a codec needs to know about genes."""

from __future__ import annotations

# Not lazy: a function shares its file's name, and whoever imported the file first would find the module in its place.
from scflow.pp.embed import embed
from scflow.pp.log1p_standardize import log1p_standardize
from scflow.pp.split import split

__all__ = ["embed", "log1p_standardize", "split"]
