"""What a codec needs to know about genes, streamed from sparse counts in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError

__all__ = [
    "EPSILON",
    "GeneStatistics",
    "checked_target",
    "gene_statistics",
    "library_sizes",
    "median_size",
    "rechunked",
    "row_chunks",
    "standardized",
    "statistics_of",
]

EPSILON = 1e-8
"""Added to every standard deviation, so that a gene that never varies stays finite."""

CHUNK = 1 << 20
"""Stored values looked at in one go: 8 MB in float64."""


@dataclass(frozen=True, eq=False)
class GeneStatistics:
    """Per-gene statistics of log1p of counts per `target_sum`.

    Attributes
    ----------
    mean, sd
        Mean and standard deviation (ddof 0) of `log1p(count / library size * target_sum)`, float64 `[n_genes]`.
    dropout
        Fraction of cells in which the gene's count is zero, float64 `[n_genes]`.
    target_sum
        Counts per cell after size normalisation.

    Examples
    --------
    >>> found = gene_statistics(counts)
    >>> found.mean.shape == found.sd.shape == found.dropout.shape
    True
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    dropout: NDArray[np.float64]
    target_sum: float


def row_chunks(counts: sparse.csr_matrix, chunk: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Consecutive `(start, stop)` row ranges, each of at most `chunk` stored values (but of at least one row)."""
    start, n_rows, indptr = 0, counts.shape[0], counts.indptr
    while start < n_rows:
        stop = int(np.searchsorted(indptr, int(indptr[start]) + chunk, side="right")) - 1
        stop = min(max(stop, start + 1), n_rows)
        yield start, stop
        start = stop


def library_sizes(counts: sparse.csr_matrix, chunk: int = CHUNK) -> NDArray[np.float64]:
    """Total counts of each cell, float64 `[n_cells]`: exact where a sum in the matrix's type would round or wrap."""
    sizes = np.zeros(counts.shape[0], dtype=np.float64)
    for start, stop in row_chunks(counts, chunk):
        values = counts.data[counts.indptr[start] : counts.indptr[stop]]
        rows = np.repeat(np.arange(stop - start), np.diff(counts.indptr[start : stop + 1]))
        sizes[start:stop] = np.bincount(rows, weights=values, minlength=stop - start)
    return sizes


def gene_statistics(counts: sparse.csr_matrix, target_sum: float | str = 1e4, chunk: int = CHUNK) -> GeneStatistics:
    """Mean, standard deviation and dropout rate of every gene, in one pass over chunks of rows and never dense.

    Chunks are merged by the pairwise update of Chan, Golub and LeVeque (1983, equation 2.1), which does not lose
    the variance of a gene whose mean is large.

    Parameters
    ----------
    counts
        Raw counts `[n_cells, n_genes]`, canonical CSR. A cell without counts is a row of zeros.
    target_sum
        Counts per cell after size normalisation, or `"median"` for the median library size of the non-empty cells.
    chunk
        Stored values looked at in one go.

    Raises
    ------
    InputError
        Where `target_sum` is neither a positive number nor `"median"`, or there are no cells.

    Examples
    --------
    >>> counts = sparse.csr_matrix(np.array([[1, 0], [1, 3]]))
    >>> gene_statistics(counts).dropout.tolist()
    [0.0, 0.5]
    """
    if counts.shape[0] == 0:
        raise InputError("Statistics of genes need at least one cell; counts has 0 rows.")
    target = median_size(library_sizes(counts, chunk)) if target_sum == "median" else checked_target(target_sum)
    return statistics_of((counts[start:stop] for start, stop in row_chunks(counts, chunk)), target)


def statistics_of(blocks: Iterable[sparse.csr_matrix], target_sum: float) -> GeneStatistics:
    """As :func:`gene_statistics`, of a matrix that comes in blocks of consecutive rows, one at a time.

    Sums are rounded block by block: blocks as :func:`rechunked` cuts them give the bits of the whole matrix.

    Raises
    ------
    InputError
        Where there are no blocks.
    """
    n, mean, squares, nonzero = 0, np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    for block in blocks:
        rows, n_genes = block.shape
        if n == 0:
            mean, squares, nonzero = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes, dtype=np.int64)
        sizes = library_sizes(block)
        scale = np.divide(target_sum, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        genes, values = _log_normalised(block, scale, 0, rows)
        block_mean = _sums(genes, values, n_genes) / rows
        absent = rows - np.bincount(genes, minlength=n_genes)
        centred = _sums(genes, (values - block_mean[genes]) ** 2, n_genes) + absent * block_mean**2
        delta, stop = block_mean - mean, n + rows
        mean += delta * (rows / stop)
        squares += centred + delta**2 * (n * rows / stop)
        nonzero += np.bincount(genes[values != 0], minlength=n_genes)
        n = stop
    if n == 0:
        raise InputError("Statistics of genes need at least one cell; there are none.")
    return GeneStatistics(mean, np.sqrt(squares / n), 1.0 - nonzero / n, target_sum)


def rechunked(blocks: Iterable[sparse.csr_matrix], chunk: int = CHUNK) -> Iterator[sparse.csr_matrix]:
    """The same rows, cut where :func:`row_chunks` cuts the whole matrix, wherever the blocks were cut."""
    left: sparse.csr_matrix | None = None
    for block in blocks:
        left = block if left is None else sparse.csr_matrix(sparse.vstack([left, block], format="csr"))
        *complete, last = row_chunks(left, chunk)
        yield from (left[start:stop] for start, stop in complete)
        left = left[last[0] :]
    if left is not None:
        yield left


def standardized(
    counts: sparse.csr_matrix, statistics: GeneStatistics, clip: float = 10.0, chunk: int = CHUNK
) -> NDArray[np.float32]:
    """Standardised expression, `clip((log1p - mean) / (sd + 1e-8))`, dense float32 `[n_cells, n_genes]`.

    For the rare caller who asks for the dense matrix; training encodes batch by batch.
    """
    sizes = library_sizes(counts, chunk)
    scale = np.divide(statistics.target_sum, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    result = np.empty(counts.shape, dtype=np.float32)
    step = max(1, chunk // max(1, counts.shape[1]))
    for start in range(0, counts.shape[0], step):
        stop = min(start + step, counts.shape[0])
        genes, values = _log_normalised(counts, scale, start, stop)
        rows = np.repeat(np.arange(stop - start), np.diff(counts.indptr[start : stop + 1]))
        dense = np.zeros((stop - start, counts.shape[1]))
        dense[rows, genes] = values
        dense = (dense - statistics.mean) / (statistics.sd + EPSILON)
        result[start:stop] = np.clip(dense, -clip, clip)
    return result


def _sums(genes: NDArray[np.integer], values: NDArray[np.float64], n_genes: int) -> NDArray[np.float64]:
    """The sum of each gene's values."""
    return np.asarray(np.bincount(genes, weights=values, minlength=n_genes), dtype=np.float64)


def _log_normalised(
    counts: sparse.csr_matrix, scale: NDArray[np.float64], start: int, stop: int
) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    """Gene and log-normalised value of every stored entry of the rows `start` to `stop`."""
    entries = slice(counts.indptr[start], counts.indptr[stop])
    factor = np.repeat(scale[start:stop], np.diff(counts.indptr[start : stop + 1]))
    return counts.indices[entries], np.log1p(counts.data[entries] * factor)


def median_size(sizes: NDArray[np.float64]) -> float:
    """The median library size of the cells that are not empty; 1 where all are."""
    return float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0


def checked_target(target_sum: float | str) -> float:
    """`target_sum` as a number.

    Raises
    ------
    InputError
        Where it is not a positive one.
    """
    if (
        not isinstance(target_sum, (int, float, np.integer, np.floating))
        or not np.isfinite(target_sum)
        or target_sum <= 0
    ):
        raise InputError(
            f"target_sum={target_sum!r} is neither a positive number of counts per cell nor 'median'. "
            "Use target_sum=1e4."
        )
    return float(target_sum)
