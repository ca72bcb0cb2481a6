"""Zeros against means: whether genes of one mean are missing in as many cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.metrics.estimate import Estimate
from scflow.metrics.genes import check_cells, groups, jackknifed, mean_of, moments, zeros_of

__all__ = ["dropout_curve"]

Numbers = NDArray[np.float64]


def dropout_curve(
    x: sparse.csr_matrix, y: sparse.csr_matrix, *, bins: int = 20, interval: bool = True, seed: int = 0
) -> Estimate:
    """How far apart the two curves of zero fraction against mean are (Kharchenko et al. 2014; Hicks et al. 2018).

    Genes are put into bins of equal number by their mean in `y`. Each side's curve goes through its bins' means and
    zero fractions, and the curve of `x` is read off where the bins of `y` lie: a gene whose mean is off does no harm as
    long as it has the zeros of genes of that mean. Denoised cells have far too few.

    Parameters
    ----------
    x, y
        Expression ``[n, n_genes]`` and ``[m, n_genes]``, CSR; `y` are the real cells. Genes without a count in `y` are
        left out.
    bins
        Of genes; fewer where genes are.
    interval, seed
        As in :func:`gene_means`.

    Returns
    -------
    Estimate
        The mean over bins of the absolute difference of zero fractions: 0 is perfect, 1 the most. NaN where no gene of
        `y` has a count.

    Raises
    ------
    InputError
        Where genes differ in number, or a side has fewer than 2 cells.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, size=(50, 30)).astype(float))
    >>> dropout_curve(x, x).value
    0.0
    """
    check_cells(x, y)
    parts = moments(x, *groups(x.shape[0], seed)), moments(y, *groups(y.shape[0], seed + 1))
    mean = mean_of(parts[1].sum(axis=0))
    expressed = np.flatnonzero(mean > 0)
    if not expressed.size:
        return Estimate(np.nan)
    # Genes of one mean fall into one bin, so that the means of bins differ.
    edges = np.unique(np.quantile(mean[expressed], np.linspace(0, 1, bins + 1)[1:-1]))
    members = np.searchsorted(edges, mean[expressed])
    belongs = np.zeros((len(edges) + 1, mean.size))
    belongs[members, expressed] = 1
    belongs = belongs[belongs.any(axis=1)]
    belongs /= belongs.sum(axis=1, keepdims=True)

    def curve(sums: Numbers) -> tuple[Numbers, Numbers]:
        """Means and zero fractions of the bins."""
        return belongs @ mean_of(sums), belongs @ zeros_of(sums)

    def gap(a: tuple[Numbers, Numbers], b: tuple[Numbers, Numbers]) -> float:
        """Between the curve of `a` and the points of `b`."""
        (at_a, zeros_a), (at_b, zeros_b) = a, b
        order = np.argsort(at_a, kind="stable")
        return float(np.abs(np.interp(at_b, at_a[order], zeros_a[order]) - zeros_b).mean())

    return jackknifed(*parts, curve, gap, interval)
