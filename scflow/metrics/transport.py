"""Optimal transport: how far the cells of one cloud have to move to become the other."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate, normal_interval

__all__ = ["wasserstein"]

_MOST_ITERATIONS = 100_000_000


def wasserstein(x: NDArray[Any], y: NDArray[Any], *, p: float = 2, interval: bool = True) -> Estimate:
    r"""Exact p-Wasserstein distance between two clouds, by the network simplex (POT's ``emd2``).

    .. math:: W_p(x, y) = \Bigl(\min_\pi \sum_{ij} \pi_{ij} \lVert x_i - y_j \rVert^p\Bigr)^{1/p}

    Zero only for equal clouds. In many dimensions two samples of one law are far apart, the farther the fewer they
    are, so it means something only beside the distance of two real samples of the same size, and a cloud with too
    little spread can come below that.

    Parameters
    ----------
    x, y
        Cells `[n, d]` and `[m, d]`, each of equal weight.
    p
        The power, at least 1.
    interval
        Whether to add the interval. With dual potentials f and g the variance of :math:`W_p^p` is
        ``Var f(x) / n + Var g(y) / m`` (del Barrio and Loubes 2019, theorem 4.1; for p > 1). It is the interval of
        the distance between two samples of this size, not between the populations.

    Returns
    -------
    Estimate
        In the units of `x`.

    Raises
    ------
    InputError
        Where shapes do not fit, values are not finite, or `p` is below 1.
    RuntimeError
        Where the solver did not reach the optimum.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(wasserstein(x, x + [3.0, 0.0, 4.0]).value, 6)
    5.0
    """
    x, y = check_clouds(x, y)
    if not p >= 1:
        raise InputError(f"p={p!r} gives no Wasserstein distance. Give a power of at least 1, such as p=2.")
    cost, f, g = _transport(_costs(x, y, p))
    if not interval:
        return Estimate(cost ** (1 / p))
    variance = float(f.var(ddof=1) / len(x) + g.var(ddof=1) / len(y)) if min(len(x), len(y)) > 1 else np.nan
    power = normal_interval(cost, variance, least=0.0)
    return Estimate(*(end ** (1 / p) for end in power))


def check_clouds(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`x` and `y` as float64 `[n, d]` and `[m, d]`, with cells, as many columns, and finite values."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise InputError(
            f"The clouds have shapes {a.shape} and {b.shape}; expected [n, d] and [m, d] with the same d. "
            "Project both into one space first: scflow.metrics.Space.fit(reference).components(counts)."
        )
    for cloud, name in ((a, "first"), (b, "second")):
        bad = np.flatnonzero(~np.isfinite(cloud).all(axis=1))
        if bad.size:
            raise InputError(
                f"The {name} cloud holds NaN or infinite values in {bad.size} of {len(cloud)} rows (first: row {bad[0]}"
                "). Expected finite numbers: drop those rows."
            )
    return a, b


def _costs(x: NDArray[np.float64], y: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    """`|x_i - y_j|^p`, `[n, m]`."""
    from scipy.spatial.distance import cdist

    if p == 2:
        # Differences, not the expanded square: equal cells are exactly 0 apart.
        return np.asarray(cdist(x, y, "sqeuclidean"))
    return np.asarray(cdist(x, y) ** p)


def _transport(costs: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The optimal cost and the two dual potentials."""
    import ot

    with warnings.catch_warnings():
        # What POT warns of (too few iterations, unbounded, infeasible) makes the number wrong.
        warnings.simplefilter("error", UserWarning)
        try:
            cost, log = ot.emd2([], [], costs, numItermax=_MOST_ITERATIONS, log=True)
        except UserWarning as warning:
            raise RuntimeError(
                f"Optimal transport of {costs.shape[0]} x {costs.shape[1]} cells was not solved: {warning}. "
                "Score fewer cells, and look for extreme values among them."
            ) from warning
    return float(cost), np.asarray(log["u"]), np.asarray(log["v"])
