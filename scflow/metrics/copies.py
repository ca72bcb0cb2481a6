"""Whether cells were copied: nearer to the training cells than to unseen ones, or the same to the last count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate, jackknife_variance, normal_interval, share_interval
from scflow.metrics.neighbours import nearest_distances
from scflow.metrics.transport import check_clouds

__all__ = ["copying", "duplicates", "fingerprints"]

# Groups of cells that are left out in turn for the interval.
_GROUPS = 20


def copying(
    x: NDArray[Any],
    train: NDArray[Any],
    held_out: NDArray[Any],
    *,
    equal: bool = True,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """Median distance to the nearest training cell, over the median distance to the nearest held-out cell.

    1 where training cells are no nearer than unseen ones of the same number, 0 where more than half of the cells are
    copies. (Meehan, Chaudhuri and Dasgupta 2020 compare the same two distances by ranks.)

    The space has to be fitted on both or on neither: in principal components of the training cells alone these lie
    further out, and 1.4 would be perfect on pbmc68k.

    Parameters
    ----------
    x
        Generated cells ``[n, d]``.
    train, held_out
        Training and unseen real cells ``[m, d]``.
    equal
        Whether to draw as many of the larger side as the smaller one has: among more cells the nearest is nearer. But
        copies of training cells that were not drawn are missed. Without it 1 is not perfect: what unseen real cells
        score is (the floor), and no copy is missed.
    interval
        Whether to add the interval, by leaving out each of 20 random groups of cells of all three (the grouped
        jackknife).
    seed
        Of the groups and of what is drawn.

    Returns
    -------
    Estimate
        Without units. 1 where both medians are 0, infinite where only that of the held-out cells is.

    Raises
    ------
    InputError
        Where shapes do not fit or values are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> train, held_out = np.random.default_rng(0).normal(size=(2, 60, 2))
    >>> copying(train, train, held_out).value
    0.0
    """
    x, train = check_clouds(x, train)
    _, held_out = check_clouds(x, held_out)
    rng = np.random.default_rng(seed)
    n = min(len(train), len(held_out))
    drawn = [side[rng.permutation(len(side))[: n if equal else None]] for side in (train, held_out)]
    near = [nearest_distances(x, side, np.arange(len(side)) % _GROUPS) for side in drawn]
    value = _ratio(*near)
    if not interval or min(n, len(x)) < _GROUPS or not 0 < value < np.inf:
        return Estimate(value)
    mine = rng.permutation(len(x)) % _GROUPS
    others = np.arange(_GROUPS)
    variance = (
        jackknife_variance([_ratio(near[0][mine != g], near[1][mine != g]) for g in others])
        + jackknife_variance([_ratio(near[0][:, others != g], near[1]) for g in others])
        + jackknife_variance([_ratio(near[0], near[1][:, others != g]) for g in others])
    )
    return normal_interval(value, variance, least=0.0)


def duplicates(
    x: sparse.csr_matrix, train: sparse.csr_matrix | NDArray[np.uint64], *, interval: bool = True
) -> Estimate:
    """The share of cells of `x` whose every count equals that of one training cell.

    Real cells can coincide where counts are few, so compare with the share among held-out cells.

    Parameters
    ----------
    x
        Raw counts of generated cells ``[n, n_genes]``, CSR.
    train
        Raw counts of the training cells ``[m, n_genes]``, CSR; or their :func:`fingerprints`.
    interval
        Whether to add the interval of a share (Wilson 1927).

    Returns
    -------
    Estimate
        Between 0 and 1.

    Raises
    ------
    InputError
        Where the genes are not as many.

    Examples
    --------
    >>> import numpy as np
    >>> train = sparse.csr_matrix(np.array([[1, 0], [2, 3]]))
    >>> duplicates(sparse.csr_matrix(np.array([[2, 3], [3, 2]])), train, interval=False).value
    0.5
    """
    if sparse.issparse(train):
        if x.shape[1] != train.shape[1]:
            raise InputError(
                f"The cells have {x.shape[1]} genes and the training cells {train.shape[1]}. Give the same genes in "
                "the same order: adata[:, train.var_names]."
            )
        train = fingerprints(train)
    same = np.isin(fingerprints(x), train)
    share = float(same.mean())
    return share_interval(share, len(same)) if interval else Estimate(share)


def fingerprints(counts: sparse.csr_matrix) -> NDArray[np.uint64]:
    """A number for each cell ``[n]`` that all its counts go into; different cells share one once in 2**64 or so.

    The sum over genes of count times a random weight, modulo 2**64: neither the order of stored entries nor stored
    zeros matter.
    """
    weights = np.random.default_rng(20240229).integers(0, 2**64, size=counts.shape[1], dtype=np.uint64)
    # The weights are odd, so that no power of two in a count is lost.
    parts = np.rint(counts.data).astype(np.int64).astype(np.uint64) * (weights | np.uint64(1))[counts.indices]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(parts, dtype=np.uint64)])
    result: NDArray[np.uint64] = sums[counts.indptr[1:]] - sums[counts.indptr[:-1]]
    return result


def _ratio(to_train: NDArray[np.float64], to_held_out: NDArray[np.float64]) -> float:
    """The ratio of the medians of the least distances."""
    a, b = float(np.median(to_train.min(axis=1))), float(np.median(to_held_out.min(axis=1)))
    if b > 0:
        return a / b
    return 1.0 if a == 0 else float("inf")
