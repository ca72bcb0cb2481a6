"""Counts that are not in memory: in a file, in Dask, in several such places. Rows are read by spans, in order."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow._anndata._checks import is_sparse
from scflow._anndata._counts import as_csr
from scflow.errors import InputError
from scflow.training.batches import smallest

__all__ = ["Compressed", "Dense", "Entry", "Here", "Joined", "Lazy", "Matrix", "matrix_of"]

GAP = 16
"""Rows that are read for nothing rather than begin another span."""
BLOCK = 1 << 20
"""Values, stored or dense, of a block."""

Span = tuple[int, int]
Opened = Callable[[], AbstractContextManager[Any]]


class Entry:
    """What an HDF5 file has by the name of `key`; the file is open only while something is read.

    So thousands of files can be learnt from, and none is left open or locked after an error.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key, self.stamp = path, key, _stamp(path)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The array or group.

        Raises
        ------
        InputError
            Where the file is not the one that it was.
        """
        import h5py

        if _stamp(self.path) != self.stamp:
            raise InputError(
                f"{str(self.path)!r} was written to while its cells were read. Start again, and leave the file alone "
                "until that is done."
            )
        with h5py.File(self.path, "r") as file:
            yield file[self.key]


class Matrix(ABC):
    """Counts ``[n_cells, n_genes]`` that are read a few cells at a time.

    Attributes
    ----------
    shape
        Cells and genes.
    where
        What the matrix is called in messages.
    grain
        How many consecutive cells cost about as much to read as one of them.
    per_cell
        Values of a cell, stored or dense, on average.
    """

    shape: tuple[int, int]
    where: str
    grain: int = 1
    per_cell: int

    @abstractmethod
    def spans(self, spans: Sequence[Span]) -> Any:
        """The rows of ascending spans, one under another, sparse by rows, in the type that they are kept in."""

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """The counts of ascending rows, as canonical CSR in a small type that is exact; neighbours are read together.

        They are read a block at a time, so that little beside them is in memory.
        """
        spans = _spans(rows, max(GAP, self.grain), self.step())
        pieces = []
        for some in _together(spans, self.step()):
            first, last = np.searchsorted(rows, [some[0][0], some[-1][1]])
            piece = self._taken(some, rows[first:last])
            piece.data = smallest(piece.data)
            pieces.append(piece)
        return _one(pieces)

    def _taken(self, spans: Sequence[Span], rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Ascending rows, all of which are in the spans."""
        found = as_csr(self.spans(spans), self.where)
        if found.shape[0] == len(rows):
            return found
        starts = np.array([start for start, _ in spans])
        lengths = np.array([stop - start for start, stop in spans])
        before = lengths.cumsum() - lengths
        span = np.searchsorted(starts, rows, side="right") - 1
        return sparse.csr_matrix(found[before[span] + rows - starts[span]])

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """All cells in order, some at a time, as canonical CSR."""
        n, step = self.shape[0], self.step()
        for start in range(0, n, step):
            yield as_csr(self.spans([(start, min(start + step, n))]), self.where)

    def step(self) -> int:
        """How many cells of a block hold about a million values, in whole grains."""
        rows = max(1, BLOCK // max(1, self.per_cell))
        return -(-rows // self.grain) * self.grain


class Compressed(Matrix):
    """A sparse matrix by rows in an HDF5 or zarr group, as anndata writes it; only where rows begin is in memory."""

    def __init__(self, opened: Opened, where: str) -> None:
        self.where, self.opened = where, opened
        with opened() as group:
            n_cells, n_genes = (int(n) for n in group.attrs["shape"])
            self.indptr, n_stored = np.asarray(group["indptr"][:]), int(group["data"].shape[0])
            packed = _packed(group["data"])
        self.shape = (n_cells, n_genes)
        self.per_cell = n_stored // max(1, n_cells)
        self.grain = max(1, packed // max(1, self.per_cell))
        if len(self.indptr) != n_cells + 1 or self.indptr[-1] > n_stored or (np.diff(self.indptr) < 0).any():
            raise _damaged(where, "cells do not begin where one before ends")

    def spans(self, spans: Sequence[Span]) -> Any:
        """Two reads a span, into arrays of the right size."""
        places = [(int(self.indptr[start]), int(self.indptr[stop])) for start, stop in spans]
        total, at = sum(stop - start for start, stop in places), 0
        with self.opened() as group:
            stored, genes = group["data"], group["indices"]
            data, indices = np.empty(total, stored.dtype), np.empty(total, genes.dtype)
            for start, stop in places:
                data[at : at + stop - start] = stored[start:stop]
                indices[at : at + stop - start] = genes[start:stop]
                at += stop - start
        if total and not 0 <= int(indices.min()) <= int(indices.max()) < self.shape[1]:
            raise _damaged(self.where, f"there are genes beyond its {self.shape[1]:,}")
        lengths = np.concatenate([np.diff(self.indptr[start : stop + 1]) for start, stop in spans])
        indptr = np.concatenate([[0], lengths.cumsum()])
        return sparse.csr_matrix((_known(data), indices, indptr), shape=(len(lengths), self.shape[1]))


class Dense(Matrix):
    """An array in an HDF5 or zarr file."""

    def __init__(self, opened: Opened, where: str) -> None:
        self.where, self.opened = where, opened
        with opened() as array:
            self.shape = (int(array.shape[0]), int(array.shape[1]))
            chunks = getattr(array, "chunks", None)
        self.grain, self.per_cell = int(chunks[0]) if chunks else 1, self.shape[1]

    def spans(self, spans: Sequence[Span]) -> Any:
        """Some rows at a time are dense, never all."""
        with self.opened() as array:
            return _stacked([_rows(array[start:stop]) for start, stop in _cut(spans, self.step())])


class Lazy(Matrix):
    """A Dask array, computed chunk by chunk by whatever cluster the caller has."""

    def __init__(self, array: Any, where: str) -> None:
        if np.isnan(array.shape).any():
            raise InputError(f"{where} is a Dask array of unknown size. Compute it: array.compute_chunk_sizes().")
        self.where, self.shape = where, (int(array.shape[0]), int(array.shape[1]))
        by_genes = array.numblocks[1] > 1
        if by_genes and getattr(array._meta, "format", "") == "csc":
            raise _by_genes(where)
        self.array = array.rechunk({1: -1}) if by_genes else array
        self.grain, self.per_cell = max(array.chunks[0]), self.shape[1]

    def spans(self, spans: Sequence[Span]) -> Any:
        """Each span is computed on its own."""
        return _stacked([_rows(self.array[start:stop].compute()) for start, stop in spans])


class Here(Matrix):
    """Counts that are in memory after all, beside others that are not."""

    def __init__(self, counts: Any, where: str) -> None:
        self.where, self.counts = where, as_csr(counts, where)
        self.shape = (int(counts.shape[0]), int(counts.shape[1]))
        self.per_cell = self.counts.nnz // max(1, self.shape[0])

    def spans(self, spans: Sequence[Span]) -> Any:
        """Slices."""
        return _stacked([self.counts[start:stop] for start, stop in spans])


class Joined(Matrix):
    """Several matrices of the same genes, one under another."""

    def __init__(self, parts: Sequence[Matrix], where: str) -> None:
        self.parts, self.where = list(parts), where
        self.edges = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self.edges[-1]), parts[0].shape[1])
        self.grain, self.per_cell = (max(getattr(part, of) for part in parts) for of in ("grain", "per_cell"))

    def spans(self, spans: Sequence[Span]) -> Any:
        """Each part reads what is its own."""
        found = []
        for part, (first, last) in zip(self.parts, pairwise(self.edges.tolist()), strict=True):
            own = [(max(a, first) - first, min(b, last) - first) for a, b in spans if a < last and b > first]
            if own:
                found.append(part.spans(own))
        return _stacked(found)

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """Part after part."""
        for part in self.parts:
            yield from part.blocks()


def matrix_of(values: Any, where: str) -> Matrix | None:
    """What reads `values`, or None where they are nothing that is known.

    Raises
    ------
    InputError
        Where they are stored by genes.
    """
    if type(values).__module__.startswith("dask."):
        return Lazy(values, where)
    if is_sparse(values) or isinstance(values, np.ndarray):
        return Here(values, where)
    values = getattr(values, "group", values) if hasattr(values, "backend") else values
    opened: Opened = values.open if isinstance(values, Entry) else functools.partial(nullcontext, values)
    with opened() as found:
        kind = str(getattr(found, "attrs", {}).get("encoding-type", ""))
        is_table = len(getattr(found, "shape", ())) == 2
    if kind == "csc_matrix":
        raise _by_genes(where)
    if kind == "csr_matrix":
        return Compressed(opened, where)
    return Dense(opened, where) if is_table else None


def _by_genes(where: str) -> InputError:
    return InputError(
        f"{where} is stored by genes (CSC): cells cannot be read a few at a time. Write it by cells once: "
        "adata = anndata.read_h5ad(path); adata.X = adata.X.tocsr(); adata.write_h5ad(path)."
    )


def _packed(array: Any) -> int:
    """How many values have to be unpacked to read one: those of a chunk, where chunks are compressed."""
    plain = hasattr(array, "compression") and array.compression is None  # of HDF5; zarr compresses unless told not to
    return 1 if plain or not getattr(array, "chunks", None) else int(array.chunks[0])


def _damaged(where: str, how: str) -> InputError:
    return InputError(f"{where} is damaged: {how}. Write the file again, or take a copy of it.")


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written to."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _spans(rows: NDArray[np.int64], gap: int, most: int) -> list[Span]:
    """Spans of at most `most` rows that hold the ascending rows; those at most `gap` apart are in one."""
    breaks = np.flatnonzero(np.diff(rows) > gap)
    starts = rows[np.concatenate([[0], breaks + 1])]
    stops = rows[np.concatenate([breaks, [len(rows) - 1]])] + 1
    return _cut(zip(starts.tolist(), stops.tolist(), strict=True), most)


def _cut(spans: Iterable[Span], most: int) -> list[Span]:
    """The same rows in spans that end at multiples of `most`, where grains end too."""
    return [
        (max(start, at), min(at + most, stop))
        for start, stop in spans
        for at in range(start - start % most, stop, most)
    ]


def _together(spans: Sequence[Span], most: int) -> Iterator[list[Span]]:
    """Spans that come to about `most` rows."""
    ends = np.cumsum([stop - start for start, stop in spans])
    for _, some in groupby(zip((ends - 1) // most, spans, strict=True), key=lambda pair: int(pair[0])):
        yield [span for _, span in some]


def _one(pieces: list[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Pieces one under another; these go as the whole comes, first all values, then all genes."""
    if len(pieces) == 1:
        return pieces[0]
    shape = (sum(piece.shape[0] for piece in pieces), pieces[0].shape[1])
    lengths = np.concatenate([np.diff(piece.indptr) for piece in pieces])
    indptr = np.concatenate([[0], lengths.cumsum(dtype=np.int64)])
    values, genes = [piece.data for piece in pieces], [piece.indices for piece in pieces]
    pieces.clear()
    data = np.concatenate(values)
    values.clear()
    return sparse.csr_matrix((data, np.concatenate(genes), indptr), shape=shape)


def _rows(values: Any) -> Any:
    """Some rows, sparse by rows."""
    if not is_sparse(values):
        return sparse.csr_matrix(_known(np.asarray(values)))
    return values if values.format == "csr" else values.tocsr()


def _known(values: NDArray[Any]) -> NDArray[Any]:
    """Types that scipy does not know: half precision as single, and bytes in this machine's order."""
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native.astype(np.float32) if native.dtype == np.float16 else native


def _stacked(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
