"""Cells into a file: new ones as they are drawn, a piece of them in memory and never all; and others as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow import _file

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Growing", "growing", "write_cells"]

_IN_H5AD, _IN_ZARR = 2**16, 2**20
"""Numbers in a chunk. One of HDF5 is to fit its cache of 1 MB; one of zarr is a file of its own."""


@contextmanager
def growing(target: Path) -> Iterator[Growing]:
    """A new file that ends in .h5ad or .zarr, to put cells into: it is in its place at the end, whole or not at all.

    Raises
    ------
    FileError
        Where the disk refuses.
    """
    with _file.beside(target) as made, _opened(made) as (store, check):
        yield Growing(store, check)


def write_cells(adata: AnnData, target: Path) -> None:
    """Write cells to an .h5ad file, as `adata.write_h5ad` does, whole or not at all.

    Raises
    ------
    FileError
        Where the disk refuses.
    """
    from anndata.io import write_elem

    adata.strings_to_categoricals()
    with _file.beside(target) as made, _opened(made) as (store, _):
        write_elem(store, "/", adata, dataset_kwargs={"compression": "gzip"})


class Growing:
    """Cells on disk, laid out as AnnData writes them.

    Parameters
    ----------
    store
        A group of h5py or of zarr to write to.
    check
        Raises what the disk raised meanwhile.
    """

    def __init__(self, store: Any, check: Callable[[], None]) -> None:
        self._store, self._check = store, check
        self._is_h5 = type(store).__module__.startswith("h5py")
        self._compressed = {"compression": "gzip"} if self._is_h5 else {}
        self._places: list[tuple[str, ...]] = []

    def append(self, cells: AnnData) -> None:
        """Put cells below those that are there: `.X`, `.layers` and `.obsm`, of which each piece has the same."""
        from anndata.io import sparse_dataset

        if not self._places:
            self._begin(cells)
        for place, values in _matrices(cells):
            held = self._at(place)
            if sparse.issparse(values):
                sparse_dataset(held).append(values)
            else:
                n = held.shape[0]
                held.resize((n + len(values), values.shape[1]))
                held[n:] = values
            self._check()

    def finish(self, cells: AnnData) -> None:
        """Write `.obs`, a row for each cell that was put there, and `.uns`; there is nothing else that they need."""
        from anndata.io import write_elem

        for place in self._places:
            _narrow(self._at(place))
        write_elem(self._store, "obs", cells.obs, dataset_kwargs=self._compressed)
        write_elem(self._store, "uns", dict(cells.uns), dataset_kwargs=self._compressed)

    def _begin(self, cells: AnnData) -> None:
        """Everything without rows."""
        from anndata.io import write_elem

        self._store.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(self._store, "var", cells.var, dataset_kwargs=self._compressed)
        for group in ("layers", "obsm", "obsp", "varm", "varp"):
            write_elem(self._store, group, {})
        for place, values in _matrices(cells):
            write_elem(self._at(place[:-1]), place[-1], values[:0], dataset_kwargs=self._kwargs(values))
            self._places.append(place)

    def _kwargs(self, values: Any) -> dict[str, Any]:
        """How a matrix is stored that is to grow."""
        numbers = _IN_H5AD if self._is_h5 else _IN_ZARR
        # A shard of zarr would be rewritten as a whole for every piece.
        common = self._compressed if self._is_h5 else {"shards": None}
        if sparse.issparse(values):
            # There may be more than 2**31 numbers in the end.
            return {**common, "chunks": (numbers,), "indptr_dtype": np.int64}
        width = values.shape[1]
        grows = {"maxshape": (None, width)} if self._is_h5 else {}
        return {**common, **grows, "chunks": (max(1, numbers // width), width)}

    def _at(self, place: tuple[str, ...]) -> Any:
        found = self._store
        for name in place:
            found = found[name]
        return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """An empty file or folder as a group, and what raises where the disk refused to take something of it."""
    if path.suffix == ".h5ad":
        import h5py

        with open(path, "r+b", buffering=0) as raw:
            file = _file.Steady(raw)
            with h5py.File(file, "w") as group:
                yield group, file.check
            file.check()
    else:
        import anndata
        import zarr

        group = zarr.open_group(path, mode="a", zarr_format=anndata.settings.zarr_write_format)
        yield group, lambda: None
        zarr.consolidate_metadata(group.store)


def _matrices(cells: AnnData) -> Iterator[tuple[tuple[str, ...], sparse.csr_matrix | NDArray[Any]]]:
    """What has a row for each cell, and where it goes."""
    if cells.X is not None:
        yield ("X",), cells.X
    for group, held in (("layers", cells.layers), ("obsm", cells.obsm)):
        for name, values in held.items():
            yield (group, name), values


def _narrow(held: Any) -> None:
    """Where rows begin, as 32 bits where they fit, as in memory: scikit-learn refuses others in places."""
    from anndata.io import write_elem

    if "indptr" not in getattr(held, "keys", tuple)():
        return
    begins = held["indptr"][...]
    if begins[-1] <= np.iinfo(np.int32).max:
        write_elem(held, "indptr", begins.astype(np.int32))
