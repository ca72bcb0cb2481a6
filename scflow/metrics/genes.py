"""Gene by gene: means, variances, zeros, correlations between genes; and cell by cell: depth and genes detected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate, normal_interval

__all__ = [
    "Profile",
    "correlations",
    "gene_correlation",
    "gene_means",
    "gene_variances",
    "ks",
    "pearson",
    "profile",
    "zero_fractions",
]

Compare = Literal["error", "correlation"]
Numbers = NDArray[np.float64]
View = TypeVar("View")

# Groups of cells that are left out in turn for the interval.
_GROUPS = 20


class Profile(NamedTuple):
    """Gene by gene, float64 `[n_genes]`: mean, variance (ddof 1) and share of cells without a count.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0.0, 1.0], [4.0, 1.0]]))
    >>> profile(x).zeros.tolist()
    [0.5, 0.0]
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    zeros: NDArray[np.float64]


def profile(x: sparse.csr_matrix) -> Profile:
    """The profile of counts or expression `[n_cells, n_genes]`, CSR.

    Examples
    --------
    >>> import numpy as np
    >>> profile(sparse.csr_matrix(np.array([[0, 1], [4, 1]]))).variance.tolist()
    [8.0, 0.0]
    """
    one = moments(x, np.zeros(x.shape[0], dtype=np.int64), 1)[0]
    return Profile(mean_of(one), _variance(one), zeros_of(one))


def gene_means(
    x: sparse.csr_matrix, y: sparse.csr_matrix, *, compare: Compare = "error", interval: bool = True, seed: int = 0
) -> Estimate:
    """How far the genes' means in `x` are from those in `y`.

    Parameters
    ----------
    x, y
        Expression `[n, n_genes]` and `[m, n_genes]`, CSR, such as log1p of counts per 10,000
        (:meth:`scflow.metrics.Space.expression`).
    compare
        `"error"`: the mean over genes of the absolute difference, 0 is perfect. `"correlation"`: Pearson's r over
        genes, 1 is perfect; it is close to 1 for almost anything.
    interval
        Whether to add the interval, by leaving out each of 20 random groups of cells (the grouped jackknife).
    seed
        Of the groups.

    Returns
    -------
    Estimate
        In the units of `x`, or without.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0.0, 1.0], [4.0, 1.0]]))
    >>> y = sparse.csr_matrix(np.array([[1.0, 1.0], [4.0, 1.0]]))
    >>> gene_means(x, y, interval=False).value  # 2 against 2.5 in one gene of two
    0.25
    """
    return _by_gene(x, y, mean_of, compare, interval, seed)


def gene_variances(
    x: sparse.csr_matrix, y: sparse.csr_matrix, *, compare: Compare = "error", interval: bool = True, seed: int = 0
) -> Estimate:
    """How far the genes' variances (ddof 1) in `x` are from those in `y`; parameters as in :func:`gene_means`.

    Returns
    -------
    Estimate
        In the units of `x`, squared; or without.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0.0, 1.0], [4.0, 1.0]]))
    >>> y = sparse.csr_matrix(np.array([[2.0, 1.0], [4.0, 1.0]]))
    >>> gene_variances(x, y, interval=False).value  # 8 against 2 in one gene of two
    3.0
    """
    return _by_gene(x, y, _variance, compare, interval, seed)


def zero_fractions(
    x: sparse.csr_matrix, y: sparse.csr_matrix, *, compare: Compare = "error", interval: bool = True, seed: int = 0
) -> Estimate:
    """How far the genes' shares of cells with no count in `x` are from those in `y`; as in :func:`gene_means`.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0.0, 1.0], [4.0, 1.0]]))
    >>> y = sparse.csr_matrix(np.array([[1.0, 1.0], [4.0, 1.0]]))
    >>> zero_fractions(x, y, interval=False).value  # 1/2 against 0 in one gene of two
    0.25
    """
    return _by_gene(x, y, zeros_of, compare, interval, seed)


def gene_correlation(
    x: sparse.csr_matrix, y: sparse.csr_matrix, *, n_genes: int = 200, interval: bool = True, seed: int = 0
) -> Estimate:
    """The mean absolute difference of Pearson's r between pairs of genes, over the most variable genes of `y`.

    Parameters
    ----------
    x, y
        Expression `[n, n_genes]` and `[m, n_genes]`, CSR; `y` are the real cells.
    n_genes
        How many of the most variable genes make the pairs. A gene that never varies has r = 0 with all others.
    interval, seed
        As in :func:`gene_means`.

    Returns
    -------
    Estimate
        0 is perfect, and out of reach for finite samples: compare with two samples of real cells.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]))
    >>> y = sparse.csr_matrix(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    >>> round(gene_correlation(x, y, interval=False).value, 3)  # r is -1 and 1
    2.0
    """
    check_cells(x, y)
    top = np.sort(np.argsort(-profile(y).variance, kind="stable")[:n_genes])
    return jackknifed(_products(x[:, top], seed), _products(y[:, top], seed + 1), _pairs, _error_of_pairs, interval)


def correlations(x: sparse.csr_matrix) -> NDArray[np.float64]:
    """Pearson's r between all pairs of columns of `x` `[n, n_genes]`, `[n_genes, n_genes]`.

    0 with a column that does not vary, and so on its place in the diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> correlations(sparse.csr_matrix(np.array([[0, 2, 1], [1, 1, 1], [2, 0, 1]]))).round(3).tolist()
    [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _correlations(_products(x, 0).sum(axis=0))


def ks(x: NDArray[Any], y: NDArray[Any], *, interval: bool = True, n_bootstrap: int = 200, seed: int = 0) -> Estimate:
    """The Kolmogorov-Smirnov distance between two samples of a number, such as library sizes.

    The largest difference of the two distribution functions: 0 is perfect, 1 is the most. The interval is +- 1.96
    standard deviations of bootstrapped values, around the value itself, because resampling only ever adds distance.

    Examples
    --------
    >>> import numpy as np
    >>> ks(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]), interval=False).value
    0.5
    """
    a, b = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if not a.size or not b.size or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(
            f"The samples hold {a.size} and {b.size} numbers, of which {np.isfinite(a).sum()} and "
            f"{np.isfinite(b).sum()} are finite. Expected some numbers on both sides, all of them finite."
        )
    value = _largest_gap(a, b)
    if not interval:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    draws = [_largest_gap(rng.choice(a, a.size), rng.choice(b, b.size)) for _ in range(n_bootstrap)]
    return normal_interval(value, float(np.var(draws, ddof=1)), least=0.0, most=1.0)


def _largest_gap(a: Numbers, b: Numbers) -> float:
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    gaps = np.searchsorted(a, at, "right") / a.size - np.searchsorted(b, at, "right") / b.size
    return float(np.abs(gaps).max())


def _by_gene(
    x: sparse.csr_matrix,
    y: sparse.csr_matrix,
    statistic: Callable[[Numbers], Numbers],
    compare: Compare,
    interval: bool,
    seed: int,
) -> Estimate:
    check_cells(x, y)
    if compare not in ("error", "correlation"):
        raise InputError(f"compare={compare!r} is not known. Choose 'error' or 'correlation'.")
    difference = _error if compare == "error" else pearson
    parts = (moments(x, *groups(x.shape[0], seed)), moments(y, *groups(y.shape[0], seed + 1)))
    return jackknifed(*parts, statistic, difference, interval)


def check_cells(x: sparse.csr_matrix, y: sparse.csr_matrix) -> None:
    """Raise unless both sides have the same genes and at least 2 cells."""
    if x.shape[1] != y.shape[1] or min(x.shape[0], y.shape[0]) < 2:
        raise InputError(
            f"The cells have shapes {x.shape} and {y.shape}; expected [n, n_genes] and [m, n_genes] with the same "
            "genes, and at least 2 cells of each. Put one in the other's order: adata[:, other.var_names]."
        )


def groups(n: int, seed: int) -> tuple[NDArray[np.int64], int]:
    """A group for each of `n` cells, at random and even, and the number of groups."""
    k = min(_GROUPS, n)
    return np.random.default_rng(seed).permutation(n) % k, k


def moments(x: sparse.csr_matrix, group: NDArray[np.int64], k: int) -> Numbers:
    """Per group and gene: number of cells, sum, sum of squares, number above zero: `[k, 4, n_genes]`."""
    members = sparse.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))), shape=(k, len(group)))
    values = sparse.csr_matrix((x.data.astype(np.float64), x.indices, x.indptr), shape=x.shape)
    squares = sparse.csr_matrix((values.data**2, x.indices, x.indptr), shape=x.shape)
    above = sparse.csr_matrix(((values.data > 0).astype(np.float64), x.indices, x.indptr), shape=x.shape)
    counts = np.repeat(np.bincount(group, minlength=k)[:, None], x.shape[1], axis=1)
    return np.stack([counts, *((members @ part).toarray() for part in (values, squares, above))], axis=1)


def mean_of(sums: Numbers) -> Numbers:
    """Genes' means, of what `moments` summed."""
    result: Numbers = sums[1] / sums[0]
    return result


def _variance(sums: Numbers) -> Numbers:
    n, total, squares = sums[:3]
    result: Numbers = np.maximum(squares - total**2 / n, 0.0) / np.maximum(n - 1, 1)
    return result


def zeros_of(sums: Numbers) -> Numbers:
    """Genes' shares of cells without a count, of what `moments` summed."""
    result: Numbers = 1 - sums[3] / sums[0]
    return result


def _products(x: sparse.csr_matrix, seed: int) -> Numbers:
    """Per group: number of cells, sums of genes, sums of products of pairs: `[k, n_genes + 1, n_genes + 1]`."""
    group, k = groups(x.shape[0], seed)
    result = np.empty((k, x.shape[1] + 1, x.shape[1] + 1))
    for i in range(k):
        rows = x[np.flatnonzero(group == i)].toarray().astype(np.float64)
        rows = np.column_stack([np.ones(len(rows)), rows])
        result[i] = rows.T @ rows
    return result


def _pairs(products: Numbers) -> Numbers:
    """Pearson's r of each pair of genes once."""
    result: Numbers = _correlations(products)[np.triu_indices(len(products) - 1, 1)]
    return result


def _error_of_pairs(a: Numbers, b: Numbers) -> float:
    """A single gene makes no pair, and no error."""
    return _error(a, b) if a.size else 0.0


def _correlations(products: Numbers) -> Numbers:
    """Pearson's r between all pairs of genes; 0 with a gene that does not vary."""
    n, total = products[0, 0], products[0, 1:]
    covariance = products[1:, 1:] / n - np.outer(total, total) / n**2
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-9)
    result: Numbers = covariance * scale * scale[:, None]
    return result


def _error(a: Numbers, b: Numbers) -> float:
    return float(np.abs(a - b).mean())


def pearson(a: Numbers, b: Numbers) -> float:
    """Pearson's r of two rows of numbers; NaN where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def jackknifed(
    parts_x: Numbers,
    parts_y: Numbers,
    view: Callable[[Numbers], View],
    compare: Callable[[View, View], float],
    interval: bool,
) -> Estimate:
    """A comparison of what is seen of sums over cells, ``compare(view(sums of x), view(sums of y))``.

    Its interval is by leaving out each group of cells (Efron and Tibshirani 1993).
    """
    sums_x, sums_y = parts_x.sum(axis=0), parts_y.sum(axis=0)
    x, y = view(sums_x), view(sums_y)
    value = compare(x, y)
    if not interval:
        return Estimate(value)
    without_x = np.array([compare(view(sums_x - part), y) for part in parts_x])
    without_y = np.array([compare(x, view(sums_y - part)) for part in parts_y])
    return normal_interval(value, sum(float(v.var()) * (len(v) - 1) for v in (without_x, without_y)))
