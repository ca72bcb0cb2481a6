"""In which units a matrix of cells is, beside their counts; and the values of other cells in the same units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.codecs.statistics import library_sizes

__all__ = ["Units"]

_CLOSE = 1e-3
"""Relative: values in single precision went through a division and a logarithm."""
_LOOK = 2000
"""Cells looked at, spread over all of them."""


@dataclass(frozen=True)
class Units:
    """What a matrix holds, as a function of counts.

    Attributes
    ----------
    name
        ``"counts"``; ``"normalised"``: counts per `target`; or ``"log1p"``: log1p of these.
    target
        Counts a cell after size normalisation, over the genes at hand. Where genes were dropped after normalising it is
        another in every cell; this is their median.
    """

    name: str
    target: float = 1.0

    @classmethod
    def of(cls, values: Any, counts: sparse.csr_matrix) -> Units | None:
        """The units of `values` `[n_cells, n_genes]`, or None where they are no function of `counts` that is known.

        Parameters
        ----------
        values
            Sparse or dense.
        counts
            The same cells' counts, CSR without stored zeros.
        """
        rows = np.unique(np.linspace(0, counts.shape[0] - 1, _LOOK).astype(np.int64))
        some = sparse.csr_matrix(counts[rows])
        some.sort_indices()
        looked: Any = values[rows]
        if not sparse.issparse(looked):  # scipy takes no half precision, and no bytes in another machine's order
            looked = np.asarray(looked, dtype=np.float64)
        found = sparse.csr_matrix(looked)
        found.sum_duplicates()
        found.eliminate_zeros()
        same = np.array_equal(found.indptr, some.indptr) and np.array_equal(found.indices, some.indices)
        if not same or found.dtype.kind not in "biuf":
            return None
        stored = found.data.astype(np.float64)
        if np.array_equal(stored, some.data):
            return cls("counts")
        with np.errstate(over="ignore"):
            ways = {"normalised": stored, "log1p": np.expm1(stored)}
        for name, linear in ways.items():
            target = _target(linear, some)
            if target is not None:
                return cls(name, target)
        return None

    def __call__(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Counts `[n_cells, n_genes]` in these units; a cell without counts stays a row of zeros."""
        if self.name == "counts":
            return counts
        sizes = library_sizes(counts)
        scale = np.divide(self.target, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        linear: NDArray[np.float64] = counts.data * np.repeat(scale, np.diff(counts.indptr))
        data = np.log1p(linear) if self.name == "log1p" else linear
        return sparse.csr_matrix((data, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)


def _target(linear: NDArray[np.float64], counts: sparse.csr_matrix) -> float | None:
    """The median total of a cell, where its values are its counts times one factor; None where they are not."""
    stored = np.diff(counts.indptr)
    ratios, starts = linear / counts.data, counts.indptr[:-1][stored > 0]
    first = np.repeat(ratios[starts], stored[stored > 0])
    if not np.isfinite(ratios).all() or (ratios <= 0).any() or not np.allclose(ratios, first, rtol=_CLOSE, atol=0):
        return None
    return float(np.median(ratios[starts] * library_sizes(counts)[stored > 0]))
