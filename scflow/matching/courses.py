"""Courses: populations of cells at several times, and the ways of cells through them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

__all__ = ["bridge", "plan"]

_MOST = 2000
"""Cells of a population that are paired at once: a plan of so many costs seconds."""


def plan(
    x: NDArray[np.floating], y: NDArray[np.floating], *, rng: np.random.Generator, most: int = _MOST
) -> sparse.csr_matrix:
    """The optimal transport of one population to another, squared distances being the cost, ``[len(x), len(y)]``.

    All cells of a population have the same mass, and the plan's sum is 1. Where there are more than `most` cells, both
    populations are cut at random into as many parts, which are paired part by part: each cell still has partners, that
    are a little further off.
    """
    import ot

    parts = max(1, math.ceil(max(len(x), len(y)) / most))
    parts = min(parts, len(x), len(y))
    found = []
    for rows, columns in zip(
        np.array_split(rng.permutation(len(x)), parts), np.array_split(rng.permutation(len(y)), parts), strict=True
    ):
        cost = ot.dist(x[rows].astype(np.float64), y[columns].astype(np.float64))
        mass = ot.emd(ot.unif(len(rows)), ot.unif(len(columns)), cost / cost.max().clip(1e-12), numItermax=10_000_000)
        i, j = np.nonzero(mass)
        found.append((mass[i, j] * len(rows) / len(x), rows[i], columns[j]))
    mass, i, j = (np.concatenate(each) for each in zip(*found, strict=True))
    return sparse.csr_matrix((mass, (i, j)), shape=(len(x), len(y)))


def bridge(knots: Tensor, times: Tensor, s: Tensor, *, bend: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Where a way through four cells is at a time between the second and the third, and its velocity there.

    A cubic Hermite curve: it passes through both cells, with the slopes there that the parabola through a cell and its
    two neighbours has. `bend` takes them part of the way from the straight line's. A missing neighbour is NaN, and the
    slope on its side then is that of the line.

    Parameters
    ----------
    knots
        States ``[n, 4, dim]``.
    times
        When they are, rising, ``[n, 4]``; those of missing neighbours may be anything but equal.
    s
        Times between the second and the third, ``[n]``.
    bend
        0 for straight lines.

    Returns
    -------
    tuple
        States and velocities in a unit of time, each ``[n, dim]``.
    """
    before, a, b, after = knots.unbind(1)
    first, h, last = times.diff(dim=1)[:, :, None].unbind(1)
    line = (b - a) / h
    start = bend * _turn((a - before) / first, line, first, h)
    end = bend * _turn((after - b) / last, line, last, h)
    u = (s[:, None] - times[:, 1:2]) / h
    x = a + h * u * (line + (1 - u) * ((1 - u) * start - u * end))
    return x, line + (1 - u) * (1 - 3 * u) * start + u * (3 * u - 2) * end


def _turn(other: Tensor, line: Tensor, gap: Tensor, h: Tensor) -> Tensor:
    """By how much the slope at a cell differs from the line's, for the slope `other` of the line on its other side.

    The parabola's slope is the mean of both, the shorter line's counting more; 0 where there is no other side.
    """
    return ((h * other + gap * line) / (h + gap) - line).nan_to_num(0.0)
