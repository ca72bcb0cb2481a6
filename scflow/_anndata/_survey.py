"""One pass over counts that are not in memory: every value looked at, genes' statistics made, some cells kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow._anndata._counts import bad_values, kinds_listed
from scflow._anndata._results import read_preprocessing, write_preprocessing
from scflow._anndata._stores import Store
from scflow.codecs.statistics import checked_target, library_sizes, median_size, rechunked, statistics_of
from scflow.errors import InputError, listed

__all__ = ["Survey", "survey"]


class Survey:
    """What is seen of the cells as they pass: the first fault ends it.

    Attributes
    ----------
    part
        The counts of the cells that were asked for ``[n_part, n_genes]``.
    fingerprint
        The sha256 of all counts, where it was asked for.
    """

    def __init__(self, store: Store, rows: NDArray[np.int64], *, fingerprint: bool) -> None:
        self.store, self.rows = store, rows
        self._sha = hashlib.sha256() if fingerprint else None
        self._kept: list[sparse.csr_matrix] = []
        self._empty: list[NDArray[np.int64]] = []
        self._first: sparse.csr_matrix | None = None
        self._varies = False

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """All cells in order, once."""
        start, matrix = 0, self.store.matrix
        for block in rechunked(matrix.blocks()):
            self._check(block, start, matrix.where)
            stop = start + block.shape[0]
            first, last = np.searchsorted(self.rows, [start, stop])
            self._kept.append(block[self.rows[first:last] - start])
            if self._sha is not None:
                for part, kind in ((np.diff(block.indptr), np.int64), (block.indices, np.int64), (block.data, float)):
                    self._sha.update(np.ascontiguousarray(part, dtype=kind).tobytes())
            yield block
            start = stop
        self._check_cells(matrix.where)

    @property
    def part(self) -> sparse.csr_matrix:
        """Of the cells that were asked for."""
        return sparse.csr_matrix(sparse.vstack(self._kept, format="csr"))

    @property
    def fingerprint(self) -> str:
        """Empty where it was not asked for."""
        return "" if self._sha is None else self._sha.hexdigest()

    def _check(self, block: sparse.csr_matrix, start: int, where: str) -> None:
        """Raise where a value of the block is no count; note what can be said at the end alone."""
        found = bad_values(block)
        if found is not None:
            kinds, row, gene, value = found
            cells = self.store.cells
            raise InputError(
                f"{where} holds values that are not counts: {kinds_listed(kinds)} in cells {start:,} to "
                f"{start + block.shape[0] - 1:,} (first: {value:g} in cell {str(cells.obs_names[start + row])!r}, gene "
                f"{str(cells.var_names[gene])!r}). Expected whole numbers from 0 up. Give the layer that holds the "
                "counts, such as layer='counts', or write them to the file."
            )
        self._empty.append(np.flatnonzero(np.diff(block.indptr) == 0) + start)
        self._first = block[:1] if self._first is None else self._first
        self._varies = self._varies or _differ(block, self._first)

    def _check_cells(self, where: str) -> None:
        """Raise where a cell has no counts, or no gene varies."""
        empty, names = np.concatenate(self._empty), self.store.cells.obs_names
        if empty.size:
            raise InputError(
                f"{empty.size} of {len(names)} cells have no counts in {where} (first: {listed(names[empty[:3]])}). "
                "Drop them: sc.pp.filter_cells(adata, min_counts=1) before the file is written."
            )
        if not self._varies:
            raise InputError(
                f"Every gene is constant across the {len(names)} cells of {where}: there is nothing to learn. "
                "Expected cells that differ: check that this is the matrix you mean."
            )


def survey(
    store: Store,
    rows: NDArray[np.int64],
    *,
    key_added: str,
    target_sum: float | str = 1e4,
    clip: float = 10.0,
    anew: bool = False,
    fingerprint: bool = False,
) -> Survey:
    """Look at all cells, and leave the genes' statistics with the store's annotations.

    Statistics that are there already stay, unless they are wanted `anew`; every value is looked at all the same. A
    median library size takes one more pass.

    Parameters
    ----------
    rows
        Cells whose counts are kept, ascending.

    Raises
    ------
    InputError
        Where a value is no count, a cell has none, or no gene varies.
    """
    found = Survey(store, rows, fingerprint=fingerprint)
    done = None if anew else read_preprocessing(store.cells, key_added)
    if done is not None and done.layer == store.layer:
        for _ in found.blocks():
            pass
        return found
    if target_sum == "median":
        target = median_size(np.concatenate([library_sizes(block) for block in store.matrix.blocks()]))
    else:
        target = checked_target(target_sum)
    statistics = statistics_of(found.blocks(), target)
    write_preprocessing(store.cells, statistics, clip=clip, layer=store.layer, key_added=key_added)
    return found


def _differ(block: sparse.csr_matrix, first: sparse.csr_matrix) -> bool:
    """Whether any row of the block is another than `first`."""
    stored = np.diff(block.indptr)
    if (stored != first.nnz).any():
        return True
    if first.nnz == 0:
        return False
    genes, values = block.indices.reshape(-1, first.nnz), block.data.reshape(-1, first.nnz)
    return bool((genes != first.indices).any() or (values != first.data).any())
