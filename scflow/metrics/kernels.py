"""Kernel distances: maximum mean discrepancy and energy distance, both unbiased."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate
from scflow.metrics.transport import check_clouds

__all__ = [
    "biased_mmd",
    "energy_distance",
    "gaussian_blocks",
    "mean_square",
    "median_distance",
    "mmd",
    "mmd_bandwidth",
]

Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# Entries of a kernel matrix held at once: 16 MB in float64.
_CHUNK = 1 << 21


def median_distance(x: NDArray[Any], y: NDArray[Any] | None = None, *, seed: int = 0) -> float:
    """The median distance between two different cells of `x` (and `y`), over at most 1,000 cells drawn at random.

    Raises
    ------
    InputError
        Where there are fewer than two cells, or half of the distances are zero.

    Examples
    --------
    >>> import numpy as np
    >>> median_distance(np.array([[0.0], [3.0]]))
    3.0
    """
    from scipy.spatial.distance import pdist

    pooled = np.asarray(x, dtype=np.float64) if y is None else np.vstack(check_clouds(x, y))
    if len(pooled) > 1000:
        pooled = pooled[np.random.default_rng(seed).choice(len(pooled), 1000, replace=False)]
    distance = float(np.median(pdist(pooled))) if len(pooled) > 1 else 0.0
    if not distance > 0:
        raise InputError(
            f"The median distance between {len(pooled)} cells is {distance:g}: most of them are the same. "
            "Expected cells that differ; or give a bandwidth: mmd(x, y, bandwidth=1.0)."
        )
    return distance


def mmd(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    bandwidth: float | None = None,
    interval: bool = True,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Estimate:
    r"""Unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3) with five Gaussian kernels.

    .. math:: k(a, b) = \tfrac15 \sum_s \exp\bigl(-\lVert a - b \rVert^2 / 2 (s h)^2\bigr),
              \quad s \in \{1/4, 1/2, 1, 2, 4\}

    Its mean is 0 for two samples of one law, so it can be negative.

    Parameters
    ----------
    x, y
        Cells `[n, d]` and `[m, d]`, at least two of each.
    bandwidth
        The length h; the median distance of the pooled cells where it is not given. Values to be compared need the
        same.
    interval
        Whether to add the interval: percentiles of `n_bootstrap` values with multinomial weights on the cells. A cell
        drawn twice counts twice against others but never against itself, whose kernel of 1 is no evidence.
    seed
        Of the bootstrap, and of the median over many cells.

    Returns
    -------
    Estimate
        Without units; at most 2.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 200, 3))
    >>> abs(mmd(x, y).value) < 0.01 < mmd(x, y + 1).value
    True
    """
    x, y = check_clouds(x, y)
    h = mmd_bandwidth(x, y, bandwidth, seed)
    draws = n_bootstrap if interval else 0
    return _two_sample(x, y, lambda squares: _gaussians(squares / h**2), draws, seed)


def mmd_bandwidth(x: NDArray[Any], y: NDArray[Any], bandwidth: float | None, seed: int) -> float:
    """The bandwidth given, or the median distance of the pooled cells."""
    h = median_distance(x, y, seed=seed) if bandwidth is None else float(bandwidth)
    if not h > 0:
        raise InputError(f"bandwidth={bandwidth!r} is no length. Give a positive number, or None for the median.")
    return h


def gaussian_blocks(x: NDArray[np.float64], bandwidth: float) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """The kernel of :func:`mmd` between the cells of `x`, by chunks of rows ``[chunk, n]``; 0 of a cell with itself."""
    return _blocks(x, x, lambda squares: _gaussians(squares / bandwidth**2), same=True)


def energy_distance(
    x: NDArray[Any], y: NDArray[Any], *, interval: bool = True, n_bootstrap: int = 200, seed: int = 0
) -> Estimate:
    r"""Unbiased energy distance (Székely and Rizzo 2013): ``2 E|x - y| - E|x - x'| - E|y - y'|`` over different cells.

    Its mean is 0 for two samples of one law, so it can be negative. In one dimension it is
    :math:`2 \int (F - G)^2`, the square of what `scipy.stats.energy_distance` returns (which is biased).

    Parameters
    ----------
    x, y
        Cells `[n, d]` and `[m, d]`, at least two of each.
    interval, n_bootstrap, seed
        As in :func:`mmd`.

    Returns
    -------
    Estimate
        In the units of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> bool(energy_distance(x, y + 5).value > 1 > energy_distance(x, y).value)
    True
    """
    x, y = check_clouds(x, y)
    return _two_sample(x, y, lambda squares: -np.sqrt(squares), n_bootstrap if interval else 0, seed)


def biased_mmd(x: NDArray[Any], y: NDArray[Any], widths: Sequence[float]) -> float:
    """Squared MMD with cells compared with themselves too (Gretton et al. 2012, equation 5), as papers report it.

    The mean of kernels ``exp(-|a - b|^2 / width)``. Even for two samples of one law it is positive: about the kernel's
    spread times ``1 / n + 1 / m``. Use :func:`mmd` for anything but laying numbers beside published ones.
    """
    x, y = check_clouds(x, y)

    def kernel(squares: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros_like(squares)
        for width in widths:
            total += np.exp(squares / -width)
        total /= len(widths)
        return total

    parts = [sum(float(k.sum()) for _, k in _blocks(a, b, kernel, same=False)) for a, b in ((x, x), (y, y), (x, y))]
    n, m = len(x), len(y)
    return parts[0] / n**2 + parts[1] / m**2 - 2 * parts[2] / (n * m)


def mean_square(x: NDArray[Any]) -> float:
    """The mean squared distance between two different cells: twice the sum of the variances (ddof 1)."""
    return 2 * float(np.asarray(x, dtype=np.float64).var(axis=0, ddof=1).sum())


def _gaussians(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the five kernels at squared distances in units of the bandwidth, with one exponential for all.

    Each scale is half of the one before, so its kernel is the one before to the fourth power.
    """
    kernel = np.exp(squares / -32.0)
    total = kernel.copy()
    for _ in range(4):
        kernel *= kernel
        kernel *= kernel
        total += kernel
    total /= 5
    return total


def _two_sample(
    x: NDArray[np.float64], y: NDArray[np.float64], kernel: Kernel, n_bootstrap: int, seed: int
) -> Estimate:
    """``E k(x, x') + E k(y, y') - 2 E k(x, y)`` over different cells, and percentiles of its bootstrap."""
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise InputError(f"The clouds have {n} and {m} cells; an unbiased kernel distance needs at least 2 of each.")
    rng = np.random.default_rng(seed)
    # The first column is the sample itself: every cell once.
    of_x = np.column_stack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).T])
    of_y = np.column_stack([np.ones(m), rng.multinomial(m, np.full(m, 1 / m), size=n_bootstrap).T])
    values = (
        _within(x, of_x, kernel)
        + _within(y, of_y, kernel)
        - 2 * _weighted(x, y, of_x, of_y, kernel, same=False) / (n * m)
    )
    if not n_bootstrap:
        return Estimate(float(values[0]))
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def _within(x: NDArray[np.float64], weights: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    """The weighted mean of the kernel over pairs of different cells, one value a column of `weights`."""
    pairs = len(x) ** 2 - (weights**2).sum(axis=0)
    result: NDArray[np.float64] = _weighted(x, x, weights, weights, kernel, same=True) / np.maximum(pairs, 1)
    return result


def _weighted(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    of_x: NDArray[np.float64],
    of_y: NDArray[np.float64],
    kernel: Kernel,
    *,
    same: bool,
) -> NDArray[np.float64]:
    """``sum_ij u_i v_j k(x_i, y_j)`` for each column u of `of_x` and v of `of_y`, by chunks of rows.

    `same` says that the clouds are one, whose diagonal is left out.
    """
    total = np.zeros(of_x.shape[1])
    for rows, values in _blocks(x, y, kernel, same=same):
        total += (of_x[rows] * (values @ of_y)).sum(axis=0)
    return total


def _blocks(
    x: NDArray[np.float64], y: NDArray[np.float64], kernel: Kernel, *, same: bool
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """``k(x_i, y_j)`` by chunks of rows."""
    norms = (y**2).sum(axis=1)
    step = max(1, _CHUNK // len(y))
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        squares = (rows**2).sum(axis=1)[:, None] + norms - 2 * rows @ y.T
        values = kernel(np.maximum(squares, 0.0, out=squares))
        if same:
            here = np.arange(len(rows))
            values[here, start + here] = 0.0
        yield slice(start, start + len(rows)), values
