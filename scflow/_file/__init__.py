"""Files that are written whole or not at all, where they can be written, and one kind of them: tensors beside JSON."""

from __future__ import annotations

from scflow._file._places import check_place, checked_target, followed, is_zarr
from scflow._file._steady import Steady
from scflow._file._tensors import read, write
from scflow._file._writing import abandoned, beside, write_bytes

__all__ = [
    "Steady",
    "abandoned",
    "beside",
    "check_place",
    "checked_target",
    "followed",
    "is_zarr",
    "read",
    "write",
    "write_bytes",
]
