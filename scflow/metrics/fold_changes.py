"""Whether conditions differ from each other as much as they do in reality: log fold changes, generated on real."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate
from scflow.metrics.genes import check_cells, groups, jackknifed

__all__ = ["fold_change_slope", "log_fold_changes", "slope"]

Numbers = NDArray[np.float64]

# Added to mean counts per 10,000: genes with fewer are not told from noise.
_PSEUDO = 1.0


def fold_change_slope(
    x: sparse.csr_matrix,
    labels_x: NDArray[Any],
    y: sparse.csr_matrix,
    labels_y: NDArray[Any],
    *,
    conditions: NDArray[Any] | None = None,
    n_genes: int = 100,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """The slope of generated on real log fold changes of each condition against the rest.

    Of each condition the genes with the largest real fold changes enter, log2 of mean counts per 10,000 plus 1, and the
    line goes through 0. 1 is perfect, less means that conditions are too alike, more that they are exaggerated. Genes
    are chosen by, and errors divided by, the real cells `y`, so two real samples score a little below 1: compare with
    the floor.

    Parameters
    ----------
    x, y
        Log1p of counts per 10,000 of generated and of real cells, ``[n, n_genes]`` and ``[m, n_genes]``, CSR.
    labels_x, labels_y
        The condition of each cell.
    conditions
        Whose fold changes to take; all of `labels_y` where it is not given.
    n_genes
        How many genes of each condition.
    interval
        Whether to add the interval, by leaving out each of 20 random groups of cells (the grouped jackknife).
    seed
        Of the groups.

    Returns
    -------
    Estimate
        Without units; NaN where a condition has no cells in `x`, or nothing differs.

    Raises
    ------
    InputError
        Where shapes do not fit, or there are fewer than 2 conditions.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.repeat(["a", "b"], 30)
    >>> rates = np.where(labels[:, None] == "a", [1.0, 5.0, 3.0], [5.0, 1.0, 3.0])
    >>> x, y = (sparse.csr_matrix(np.log1p(np.random.default_rng(seed).poisson(rates))) for seed in (0, 1))
    >>> bool(fold_change_slope(x, labels, y, labels, interval=False).value > 0.8)
    True
    """
    check_cells(x, y)
    classes = np.unique(labels_y)
    chosen = np.arange(len(classes)) if conditions is None else np.flatnonzero(np.isin(classes, conditions))
    if len(classes) < 2 or not len(chosen):
        raise InputError(
            f"There are {len(classes)} conditions, of which {len(chosen)} were asked for; a fold change needs one and "
            "others to hold against it. Leave this metric out where all cells are of one condition."
        )
    parts = _sums(x, labels_x, classes, seed), _sums(y, labels_y, classes, seed + 1)
    real = _fold_changes(parts[1].sum(axis=0), chosen)
    top = np.argsort(-np.abs(real), axis=1, kind="stable")[:, :n_genes]

    def largest(sums: Numbers) -> Numbers:
        """The fold changes of the chosen genes of all chosen conditions."""
        return np.take_along_axis(_fold_changes(sums, chosen), top, axis=1)

    return jackknifed(*parts, largest, slope, interval)


def log_fold_changes(x: sparse.csr_matrix, labels: NDArray[Any]) -> Numbers:
    """Log2 of mean counts per 10,000 plus 1 of each condition over the rest, ``[n_conditions, n_genes]``.

    From log1p of counts per 10,000 ``[n, n_genes]`` and the condition of each cell; conditions are in sorted order.
    """
    classes = np.unique(labels)
    return _fold_changes(_sums(x, labels, classes, 0).sum(axis=0), np.arange(len(classes)))


def _sums(x: sparse.csr_matrix, labels: NDArray[Any], classes: NDArray[Any], seed: int) -> Numbers:
    """Per group and condition: number of cells and sums of counts per 10,000, ``[k, n_conditions, 1 + n_genes]``."""
    group, k = groups(x.shape[0], seed)
    place = np.searchsorted(classes, labels)
    known = (place < len(classes)) & (classes[np.minimum(place, len(classes) - 1)] == labels)
    row = (group * len(classes) + place)[known]
    shape = (k * len(classes), x.shape[0])
    members = sparse.csr_matrix((np.ones(len(row)), (row, np.flatnonzero(known))), shape=shape)
    rates = sparse.csr_matrix((np.expm1(x.data.astype(np.float64)), x.indices, x.indptr), shape=x.shape)
    number = np.asarray(members.sum(axis=1)).reshape(k, len(classes), 1)
    return np.concatenate([number, (members @ rates).toarray().reshape(k, len(classes), -1)], axis=2)


def slope(fake: Numbers, true: Numbers) -> float:
    """Of the line of `fake` on `true` through 0, by least squares; NaN where nothing is true.

    Examples
    --------
    >>> import numpy as np
    >>> slope(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    0.5
    """
    norm = float((true**2).sum())
    return float((fake * true).sum()) / norm if norm > 0 else float("nan")


def _fold_changes(sums: Numbers, chosen: NDArray[np.int64]) -> Numbers:
    """Log2 of the chosen conditions' means over those of the rest, ``[n_chosen, n_genes]``; NaN without cells."""
    mine = sums[chosen]
    rest = sums.sum(axis=0) - mine
    with np.errstate(invalid="ignore", divide="ignore"):
        own, other = mine[:, 1:] / mine[:, :1], rest[:, 1:] / rest[:, :1]
    result: Numbers = np.log2((own + _PSEUDO) / (other + _PSEUDO))
    return result
