"""Counts that are not in memory: in a file, in Dask, in several such places. Rows are read by spans, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow._anndata._checks import is_sparse
from scflow._anndata._counts import as_csr
from scflow.errors import InputError

__all__ = ["Compressed", "Dense", "Here", "Joined", "Lazy", "Matrix", "matrix_of"]

GAP = 16
"""Rows that are read for nothing rather than begin another span."""
BLOCK = 1 << 20
"""Values, stored or dense, of a block."""

Span = tuple[int, int]


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
    """

    shape: tuple[int, int]
    where: str
    grain: int = 1

    @abstractmethod
    def spans(self, spans: Sequence[Span]) -> Any:
        """The rows of ascending spans, one under another, sparse by rows, in the type that they are kept in."""

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """The counts of ascending rows, as canonical CSR; neighbours are read together."""
        spans = _spans(rows, max(GAP, self.grain))
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
        rows = max(1, BLOCK // max(1, self.shape[1]))
        return -(-rows // self.grain) * self.grain


class Compressed(Matrix):
    """A sparse matrix by rows in an HDF5 or zarr group, as anndata writes it; only where rows begin is in memory."""

    def __init__(self, group: Any, where: str) -> None:
        self.where, self.data, self.indices = where, group["data"], group["indices"]
        self.indptr = np.asarray(group["indptr"][:])
        n_cells, n_genes = (int(n) for n in group.attrs["shape"])
        self.shape = (n_cells, n_genes)
        self.per_cell = max(1, int(self.data.shape[0]) // max(1, n_cells))
        self.grain = max(1, _packed(self.data) // self.per_cell)

    def spans(self, spans: Sequence[Span]) -> Any:
        """Two reads a span, into arrays of the right size."""
        places = [(int(self.indptr[start]), int(self.indptr[stop])) for start, stop in spans]
        total = sum(stop - start for start, stop in places)
        data, indices = np.empty(total, self.data.dtype), np.empty(total, self.indices.dtype)
        at = 0
        for start, stop in places:
            data[at : at + stop - start] = self.data[start:stop]
            indices[at : at + stop - start] = self.indices[start:stop]
            at += stop - start
        lengths = np.concatenate([np.diff(self.indptr[start : stop + 1]) for start, stop in spans])
        indptr = np.concatenate([[0], lengths.cumsum()])
        return sparse.csr_matrix((data, indices, indptr), shape=(len(lengths), self.shape[1]))

    def step(self) -> int:
        """By the values that are stored."""
        rows = max(1, BLOCK // self.per_cell)
        return -(-rows // self.grain) * self.grain


class Dense(Matrix):
    """An array in an HDF5 or zarr file."""

    def __init__(self, array: Any, where: str) -> None:
        self.where, self.array = where, array
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        chunks = getattr(array, "chunks", None)
        self.grain = int(chunks[0]) if chunks else 1

    def spans(self, spans: Sequence[Span]) -> Any:
        """Some rows at a time are dense, never all."""
        step = self.step()
        pieces = [(at, min(at + step, stop)) for start, stop in spans for at in range(start, stop, step)]
        return _stacked([sparse.csr_matrix(np.asarray(self.array[start:stop])) for start, stop in pieces])


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
        self.grain = max(array.chunks[0])

    def spans(self, spans: Sequence[Span]) -> Any:
        """Each span is computed on its own."""
        return _stacked([_rows(self.array[start:stop].compute()) for start, stop in spans])


class Here(Matrix):
    """Counts that are in memory after all, beside others that are not."""

    def __init__(self, counts: Any, where: str) -> None:
        self.where, self.counts = where, as_csr(counts, where)
        self.shape = (int(counts.shape[0]), int(counts.shape[1]))

    def spans(self, spans: Sequence[Span]) -> Any:
        """Slices."""
        return _stacked([self.counts[start:stop] for start, stop in spans])


class Joined(Matrix):
    """Several matrices of the same genes, one under another."""

    def __init__(self, parts: Sequence[Matrix], where: str) -> None:
        self.parts, self.where = list(parts), where
        self.edges = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self.edges[-1]), parts[0].shape[1])
        self.grain = max(part.grain for part in parts)

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
    kind = str(getattr(values, "attrs", {}).get("encoding-type", ""))
    if kind == "csc_matrix":
        raise _by_genes(where)
    if kind == "csr_matrix":
        return Compressed(values, where)
    return Dense(values, where) if len(getattr(values, "shape", ())) == 2 else None


def _by_genes(where: str) -> InputError:
    return InputError(
        f"{where} is stored by genes (CSC): cells cannot be read a few at a time. Write it by cells once: "
        "adata = anndata.read_h5ad(path); adata.X = adata.X.tocsr(); adata.write_h5ad(path)."
    )


def _packed(array: Any) -> int:
    """How many values have to be unpacked to read one: those of a chunk, where chunks are compressed."""
    plain = hasattr(array, "compression") and array.compression is None  # of HDF5; zarr compresses unless told not to
    return 1 if plain or not getattr(array, "chunks", None) else int(array.chunks[0])


def _spans(rows: NDArray[np.int64], gap: int) -> list[Span]:
    """Spans that hold the ascending rows; those less than `gap` apart are in one."""
    breaks = np.flatnonzero(np.diff(rows) > gap)
    starts = rows[np.concatenate([[0], breaks + 1])]
    stops = rows[np.concatenate([breaks, [len(rows) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _rows(values: Any) -> Any:
    """A chunk, sparse by rows."""
    if not is_sparse(values):
        return sparse.csr_matrix(np.asarray(values))
    return values if values.format == "csr" else values.tocsr()


def _stacked(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
