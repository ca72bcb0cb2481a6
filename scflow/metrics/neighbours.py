"""Fidelity and diversity by nearest neighbours: precision, recall, density and coverage; and distances, by chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate, jackknife_variance, normal_interval
from scflow.metrics.transport import check_clouds

__all__ = [
    "NEIGHBOURS",
    "coverage",
    "density",
    "nearest_distances",
    "nearest_neighbours",
    "precision",
    "radii",
    "recall",
]

NEIGHBOURS = 5
"""The k of Naeem et al. (2020)."""

Numbers = NDArray[np.float64]

# Distances held at once: 32 MB in float64.
_CHUNK = 1 << 22

# Groups of cells that are left out in turn for the interval.
_GROUPS = 20


def precision(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    k: int = NEIGHBOURS,
    radii_y: NDArray[np.float64] | None = None,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """The share of `x` within reach of the real cells `y` (Kynkäänniemi et al. 2019, equation 1).

    It tells whether cells are plausible. A cell is within reach where it lies in one of the balls around the cells of
    `y` that reach up to each one's `k`-th nearest neighbour in `y`. One outlier with its wide ball can swallow much
    (see :func:`density`), and cells with too little spread score above new real ones.

    Parameters
    ----------
    x, y
        Generated and real cells ``[n, d]`` and ``[m, d]``. Compare at equal numbers only.
    k
        The neighbour that sets a ball's radius.
    radii_y
        What ``radii(y, k)`` returned, where it is there already.
    interval
        Whether to add the interval, by leaving out each of 20 random groups of cells on both sides (the grouped
        jackknife), with the radii as they are.
    seed
        Of the groups.

    Returns
    -------
    Estimate
        Between 0 and 1; less than 1 for two real samples, so compare with the floor.

    Raises
    ------
    InputError
        Where shapes do not fit, values are not finite, or a side has `k` cells or fewer.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> precision(x + 50, y).value
    0.0
    """
    x, y = _checked(x, y, k)
    inside = _counted(x, y, radii(y, k) if radii_y is None else radii_y, of_centres=False, seed=seed)
    return _share(inside, lambda counts: (counts > 0.5).astype(np.float64), interval, seed, most=1.0)


def recall(x: NDArray[Any], y: NDArray[Any], *, k: int = NEIGHBOURS, interval: bool = True, seed: int = 0) -> Estimate:
    """The share of the real cells `y` within reach of `x` (Kynkäänniemi et al. 2019, equation 2).

    It tells whether nothing is missing. As :func:`precision` with the sides exchanged: balls are around generated
    cells, so outliers among them make it too large (see :func:`coverage`).

    Returns
    -------
    Estimate
        Between 0 and 1; less than 1 for two real samples.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> recall(x + 50, y).value, bool(recall(x, y).value > 0.5)
    (0.0, True)
    """
    return precision(y, x, k=k, interval=interval, seed=seed)


def density(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    k: int = NEIGHBOURS,
    radii_y: NDArray[np.float64] | None = None,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """How many balls of `y` hold each cell of `x`, over `k` (Naeem et al. 2020, equation 4).

    As :func:`precision`, but a cell in the wide ball of one outlier counts little. About 1 for two samples of one law;
    more where generated cells crowd where real ones are dense, less where they stray.

    Returns
    -------
    Estimate
        At least 0, without an upper end.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> density(x + 50, y).value, bool(density(x, y).value > 0.5)
    (0.0, True)
    """
    x, y = _checked(x, y, k)
    inside = _counted(x, y, radii(y, k) if radii_y is None else radii_y, of_centres=False, seed=seed)
    return _share(inside, lambda counts: counts / k, interval, seed, most=np.inf)


def coverage(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    k: int = NEIGHBOURS,
    radii_y: NDArray[np.float64] | None = None,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """The share of real cells `y` whose ball holds a cell of `x` (Naeem et al. 2020, equation 5).

    As :func:`recall`, but balls are around real cells, so that outliers among `x` cannot raise it. For two samples of
    one law and one size about ``1 - 2**-k``, 0.97.

    Returns
    -------
    Estimate
        Between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> coverage(x + 50, y).value, bool(coverage(x, y).value > 0.5)
    (0.0, True)
    """
    x, y = _checked(x, y, k)
    inside = _counted(x, y, radii(y, k) if radii_y is None else radii_y, of_centres=True, seed=seed)
    return _share(inside, lambda counts: (counts > 0.5).astype(np.float64), interval, seed, most=1.0)


def radii(x: NDArray[Any], k: int = NEIGHBOURS) -> Numbers:
    """The distance of each cell of `x` to its `k`-th nearest other cell, ``[n]``, by chunks."""
    x, _ = _checked(x, x, k)
    found = np.empty(len(x))
    for rows, squares in _squares(x, x):
        # The cell itself is one of the k + 1 nearest.
        squares[np.arange(len(squares)), np.arange(rows.start, rows.start + len(squares))] = 0.0
        found[rows] = np.sqrt(np.partition(squares, k, axis=1)[:, k])
    return found


def nearest_neighbours(x: NDArray[Any], k: int) -> tuple[Numbers, NDArray[np.int64]]:
    """Squared distances to the `k` nearest others of each cell, and which these are, ``[n, k]`` in no order."""
    x, _ = _checked(x, x, k)
    far, near = np.empty((len(x), k)), np.empty((len(x), k), dtype=np.int64)
    for rows, squares in _squares(x, x):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.start + len(squares))] = np.inf
        near[rows] = np.argpartition(squares, k - 1, axis=1)[:, :k]
        far[rows] = np.take_along_axis(squares, near[rows], axis=1)
    return far, near


def nearest_distances(x: NDArray[Any], y: NDArray[Any], groups: NDArray[np.int64] | None = None) -> Numbers:
    """The distance of each cell of `x` to the nearest of `y`, by chunks; exactly 0 for copies.

    Parameters
    ----------
    groups
        A group for each cell of `y`, numbered from 0, where the nearest of each group is wanted.

    Returns
    -------
    numpy.ndarray
        ``[n, n_groups]``; ``[n, 1]`` without groups.
    """
    x, y = check_clouds(x, y)
    groups = np.zeros(len(y), dtype=np.int64) if groups is None else groups
    members = [np.flatnonzero(groups == g) for g in range(int(groups.max()) + 1)]
    found = np.empty((len(x), len(members)))
    for rows, squares in _squares(x, y):
        for g, columns in enumerate(members):
            near = columns[squares[:, columns].argmin(axis=1)]
            # The expanded square is off by rounding where the distance is small: the nearest one's is taken anew.
            found[rows, g] = np.sqrt(((x[rows] - y[near]) ** 2).sum(axis=1))
    return found


def _checked(x: NDArray[Any], y: NDArray[Any], k: int) -> tuple[Numbers, Numbers]:
    a, b = check_clouds(x, y)
    if not 1 <= k < min(len(a), len(b)):
        raise InputError(
            f"k={k} neighbours were asked for among {len(a)} and {len(b)} cells. Expected k from 1 up to one less than "
            f"the smaller number: give more cells, or a smaller k."
        )
    return a, b


def _squares(x: Numbers, y: Numbers) -> Iterator[tuple[slice, Numbers]]:
    """Squared distances ``[chunk, m]`` of the cells of `x`, some rows at a time.

    By the expanded square around the mean of `y`, which costs one matrix product; its rounding is far below the
    distances between cells.
    """
    centre = y.mean(axis=0)
    x, y = x - centre, y - centre
    norms = (y**2).sum(axis=1)
    step = max(1, _CHUNK // len(y))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        squares = part @ y.T
        squares *= -2
        squares += norms
        squares += (part**2).sum(axis=1)[:, None]
        yield slice(start, start + len(part)), np.maximum(squares, 0.0, out=squares)


def _counted(x: Numbers, y: Numbers, reach: Numbers, *, of_centres: bool, seed: int) -> Numbers:
    """How many cells of each group of one side meet each cell of the other: ``[n or m, 20]``.

    For each cell of `x`, the balls of `y` that hold it; with `of_centres` for each ball of `y`, the cells of `x` in it.
    """
    other = x if of_centres else y
    member = np.eye(_GROUPS, dtype=np.float32)[_groups(len(other), seed + 1)]
    counts = np.zeros((len(y) if of_centres else len(x), _GROUPS), dtype=np.float32)
    squared = reach**2
    for rows, squares in _squares(x, y):
        inside = (squares <= squared).astype(np.float32)
        if of_centres:
            counts += inside.T @ member[rows]
        else:
            counts[rows] = inside @ member
    return counts.astype(np.float64)


def _groups(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(n) % _GROUPS


def _share(counts: Numbers, score: Callable[[Numbers], Numbers], interval: bool, seed: int, most: float) -> Estimate:
    """The mean over cells of a score of how many of the other side each meets."""
    total = counts.sum(axis=1)
    scores = score(total)
    value = float(scores.mean())
    if not interval:
        return Estimate(value)
    group = _groups(len(scores), seed)
    present = np.unique(group)
    mine = [scores[group != g].mean() for g in present] if len(present) > 1 else [value]
    # Leaving out cells of the other side makes less to meet for the same radii, which errs on the safe side.
    others = [score(total - part).mean() for part in counts.T if part.any()]
    return normal_interval(value, jackknife_variance(mine) + jackknife_variance(others), least=0.0, most=most)
