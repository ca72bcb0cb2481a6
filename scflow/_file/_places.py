"""Where a file can be written, and what is at a place already."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scflow.errors import FileError, listed, path_of

__all__ = ["check_place", "checked_target", "followed", "is_zarr", "kind_of"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads to itself",
}


def followed(path: Path) -> Path:
    """The place that a path leads to: links are followed, so that a link stays one and what it leads to is replaced.

    Raises
    ------
    FileError
        Where that is neither a file, nor a folder, nor free: a fifo, a socket or a device is never replaced.
    """
    try:
        place = Path(os.path.realpath(path))
        kind = kind_of(place)
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null byte
        raise FileError(f"Cannot write to {str(path)!r}: {getattr(error, 'strerror', None) or error}.") from None
    if kind not in ("", "a file", "a folder"):
        raise FileError(f"Cannot write to '{path}': it is {kind}, which is not replaced. Give the path of a file.")
    return place


def kind_of(path: Path) -> str:
    """What is at a path, links followed, in words; nothing where nothing is there."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        if path.is_symlink():
            return _KINDS[stat.S_IFLNK]
        raise
    return "a file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def check_place(path: Path) -> None:
    """Write beside a place and see whether it can be replaced: asked before any work is done for what goes there.

    Raises
    ------
    FileError
        As :func:`followed` raises it; and where the folder that a link leads to is not there, or nothing can be
        written to it.
    """
    folder = followed(path).parent
    if not folder.is_dir():
        raise FileError(f"Cannot write to '{path}': there is no folder '{folder}'. Make it first.")
    try:
        # Permissions alone do not tell: file systems are read-only, and disks full.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(f"Cannot write to '{path}': {error.strerror or error}. Give another path.") from None


def checked_target(path: str | os.PathLike[str], suffixes: Sequence[str], *, overwrite: bool) -> Path:
    """Where a file, or a zarr store in a folder, is to be written, once it is known that it can be.

    Raises
    ------
    FileError
        Where it ends otherwise, is there and `overwrite` is False or it is something else, or its folder is not there
        or cannot be written to.
    """
    target = path_of(path, "path")
    if target.suffix not in suffixes:
        raise FileError(f"'{target}' ends in {target.suffix!r}; expected a path that ends in {listed(suffixes)}.")
    if target.is_dir() and not is_zarr(target):
        raise FileError(f"Cannot write to '{target}': it is a folder. Give another path.")
    if target.is_file() and target.suffix == ".zarr":
        raise FileError(f"Cannot write to '{target}': it is a file, and a zarr store is a folder. Give another path.")
    if target.exists() and not overwrite:
        raise FileError(f"'{target}' exists. Replace it with overwrite=True, or give another path.")
    check_place(target)
    return target


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store of this ending, which may be replaced as a file may."""
    return path.suffix == ".zarr" and any((path / name).is_file() for name in (".zgroup", "zarr.json"))
