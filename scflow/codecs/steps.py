"""Many step functions at once: the distribution functions of whole numbers, gene by gene."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

__all__ = ["Steps", "count_steps", "random_ranks"]

_SPAN = 1 << 40  # keys are row * _SPAN + value: values below 2**39, rows below 2**22
_BLOCK = 1 << 20  # stored values that are sorted at a time


class Steps(nn.Module):
    """Distribution functions of whole numbers, one a row, as their steps: values and what has accumulated there.

    Attributes
    ----------
    start
        Where each row's steps begin, int64 ``[rows + 1]``.
    value, cumulative
        The steps, ascending within a row: int64 values and the distribution function at them, float64, ending at 1.
    """

    start: Tensor
    value: Tensor
    cumulative: Tensor
    key: Tensor
    height: Tensor

    def __init__(self, start: Tensor, value: Tensor, cumulative: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.register_buffer("value", value)
        self.register_buffer("cumulative", cumulative)
        # The size is told, so that steps which begin anywhere take no more room than there are values.
        row = torch.repeat_interleave(torch.arange(len(start) - 1), start.diff(), output_size=len(value))
        self.register_buffer("key", row * _SPAN + value, persistent=False)
        self.register_buffer("height", row + cumulative, persistent=False)

    @classmethod
    def empty(cls, rows: int, steps: int) -> Steps:
        """Room for steps that are loaded afterwards."""
        start = torch.zeros(rows + 1, dtype=torch.int64)
        start[1:] = steps
        return cls(start, torch.zeros(steps, dtype=torch.int64), torch.ones(steps, dtype=torch.float64))

    def around(self, row: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution function just below and at `value` (int64), in the given rows; float64."""
        wanted = row * _SPAN + value
        below = torch.searchsorted(self.key, wanted)
        upto = torch.searchsorted(self.key, wanted, right=True)
        return self._height(row, below), self._height(row, upto)

    def _height(self, row: Tensor, index: Tensor) -> Tensor:
        inside = index > self.start[row]
        return torch.where(inside, self.cumulative[(index - 1).clamp_min(0)], 0.0)

    def quantile(self, row: Tensor, u: Tensor) -> Tensor:
        """The smallest value whose distribution function exceeds `u` in [0, 1), in the given rows; int64."""
        index = torch.searchsorted(self.height, row + u, right=True)
        return self.value[torch.minimum(index, self.start[row + 1] - 1)]


def count_steps(
    counts: sparse.csr_matrix, rows: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The steps of every gene's distribution over cells: start ``[n_genes + 1]``, values, cumulative shares.

    Zeros are counted, never stored: the matrix may be as sparse as it is. `rows` selects cells.
    """
    chosen = (counts if rows is None else counts[rows]).tocsc()
    genes = chosen.shape[1]
    edges = [0]
    while edges[-1] < genes:  # Blocks of genes: sorting wants several times the memory of what is sorted.
        upto = int(np.searchsorted(chosen.indptr, chosen.indptr[edges[-1]] + _BLOCK, side="right")) - 1
        edges.append(min(max(upto, edges[-1] + 1), genes))
    blocks = [_block_steps(chosen[:, i:j]) for i, j in pairwise(edges)]
    start, values, shares = [np.zeros(1, np.int64)], [], []
    for begin, value, share in blocks:
        start.append(begin[1:] + start[-1][-1])
        values.append(value)
        shares.append(share)
    return np.concatenate(start), np.concatenate(values), np.concatenate(shares)


def _block_steps(
    stored: sparse.csc_matrix,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The steps of a few genes."""
    n, genes = stored.shape
    gene = np.repeat(np.arange(genes, dtype=np.int64), np.diff(stored.indptr))
    key, times = np.unique(gene * _SPAN + stored.data.astype(np.int64), return_counts=True)
    shift = 1 << 39  # a negative value borrows from the gene's part of the key
    gene_of = (key + shift) // _SPAN
    value = key - gene_of * _SPAN
    zeros = n - np.bincount(gene_of, weights=times, minlength=genes).astype(np.int64)
    return _merge_zeros(genes, gene_of, value, times, zeros, n)


def _merge_zeros(
    genes: int,
    gene: NDArray[np.int64],
    value: NDArray[np.int64],
    times: NDArray[np.int64],
    zeros: NDArray[np.int64],
    n: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The stored values and the zeros of each gene, sorted together and accumulated."""
    some = np.flatnonzero(zeros > 0)
    gene = np.concatenate([gene, some])
    value = np.concatenate([value, np.zeros(len(some), np.int64)])
    times = np.concatenate([times, zeros[some]])
    order = np.lexsort((value, gene))
    gene, value, times = gene[order], value[order], times[order]
    start = np.concatenate([[0], np.cumsum(np.bincount(gene, minlength=genes))]).astype(np.int64)
    total = np.cumsum(times)
    before = np.concatenate([[0], total])[start[gene]]
    return start, value, (total - before) / n


def random_ranks(steps: Steps, row: Tensor, value: Tensor, *, rng: torch.Generator) -> Tensor:
    """A randomised probability integral transform: uniform within the step that each value stands on, in [0, 1)."""
    low, high = steps.around(row, value)
    u = low + (high - low) * torch.rand(low.shape, generator=rng, device=rng.device, dtype=torch.float64)
    return u.clamp_max(1 - 1e-12)
