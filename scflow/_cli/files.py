"""Files in and out: everything that can be wrong with a path is said before any work is done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scflow import _anndata, _file
from scflow.errors import FileError, listed

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["check_folder", "check_input", "check_output", "read_cells", "write_cells", "write_whole"]


def check_input(path: str, *suffixes: str) -> Path:
    """The path of a file that is there, with one of the `suffixes`; of a zarr store, its folder.

    Raises
    ------
    FileError
        Where it is not there, is another folder, or has another suffix.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise FileError(f"there is no file {path!r}. Check the path; the current folder is {str(Path.cwd())!r}.")
    if found.is_dir() and not (found.suffix == ".zarr" and ".zarr" in suffixes):
        raise FileError(f"{path!r} is a folder; expected a file that ends in {listed(suffixes)}.")
    return _check_suffix(found, suffixes)


def check_output(path: str, *suffixes: str, overwrite: bool) -> Path:
    """The path of a file that can be written, with one of the `suffixes`.

    Raises
    ------
    FileError
        Where the file is there already and `overwrite` is False, its folder is not there or cannot be written to, it
        has another suffix, or it is a device, a fifo or a socket.
    """
    found = _check_suffix(Path(path).expanduser(), suffixes)
    if found.is_dir() and not _file.is_zarr(found):
        raise FileError(f"{path!r} is a folder; expected the path of a file.")
    if found.exists() and not overwrite:
        raise FileError(f"{path!r} exists already. Give another path with --out, or --overwrite to replace it.")
    folder = _file.followed(found).parent
    if not folder.is_dir():
        raise FileError(f"there is no folder {str(folder)!r} to write {found.name!r} to. Make it: mkdir -p {folder}")
    _check_writable(folder)
    return found


def check_folder(path: str) -> Path:
    """The path of a folder that can be written to; it is made where it is not there.

    Raises
    ------
    FileError
        Where it cannot be made or written to.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {path!r} cannot be made: {error.strerror}. Give another with --out.") from None
    _check_writable(folder)
    return folder


def read_cells(path: Path) -> AnnData:
    """Cells from an h5ad file.

    Raises
    ------
    FileError
        Where it cannot be read as one.
    """
    import anndata

    try:
        return anndata.read_h5ad(path)
    except Exception as error:
        # h5py and anndata raise a dozen types for a damaged file; whichever it is, the file is at fault.
        reason = str(error).strip().splitlines() or [""]
        raise FileError(
            f"{str(path)!r} cannot be read as an h5ad file ({type(error).__name__}: {reason[0]}). Expected what "
            "adata.write_h5ad writes."
        ) from error


def write_cells(adata: AnnData, path: Path) -> None:
    """Write cells to an h5ad file, whole or not at all."""
    _anndata.write_cells(adata, path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with the path of a file beside `path`, and put that in its place once it is complete."""
    with _file.beside(path) as made:
        write(made)


def _check_suffix(path: Path, suffixes: tuple[str, ...]) -> Path:
    if path.suffix not in suffixes:
        raise FileError(f"{str(path)!r} ends in {path.suffix!r}; expected a file that ends in {listed(suffixes)}.")
    return path


def _check_writable(folder: Path) -> None:
    """Write to the folder and see: permissions alone do not tell (read-only file systems, full disks, root)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(
            f"the folder {str(folder)!r} cannot be written to: {error.strerror}. Give another with --out."
        ) from None
