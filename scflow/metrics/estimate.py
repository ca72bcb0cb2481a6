"""A number with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Estimate", "average", "jackknife_variance", "normal_interval", "share_interval"]

# The 97.5 % quantile of the standard normal law.
_Z = 1.959963984540054


class Estimate(NamedTuple):
    """A metric's value and its 95 % interval.

    Attributes
    ----------
    value
        The metric on these cells.
    low, high
        Where the metric would fall, 95 times in 100, with other cells of the same two populations at the same numbers
        of cells; NaN where no interval was asked for.

    Examples
    --------
    >>> Estimate(0.5, 0.4, 0.6).value
    0.5
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def normal_interval(value: float, variance: float, *, least: float = -math.inf, most: float = math.inf) -> Estimate:
    """`value` +- 1.96 standard deviations, cut at `least` and `most`.

    Examples
    --------
    >>> normal_interval(0.9, 0.01, most=1.0).high
    1.0
    """
    reach = _Z * math.sqrt(max(variance, 0.0))
    return Estimate(value, max(value - reach, least), min(value + reach, most))


def share_interval(share: float, n: int) -> Estimate:
    """The share of `n` cells that are something, with the interval of Wilson (1927), which holds at 0 and 1 too."""
    z2 = _Z**2
    centre, reach = share + z2 / (2 * n), math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2)))
    low, high = (centre - reach) / (1 + z2 / n), (centre + reach) / (1 + z2 / n)
    return Estimate(share, max(0.0, min(share, low)), min(1.0, max(share, high)))


def jackknife_variance(without: Sequence[float]) -> float:
    """The variance of a statistic from its values with each group of cells left out (Efron and Tibshirani 1993).

    Examples
    --------
    >>> jackknife_variance([1.0, 3.0])
    1.0
    """
    n = len(without)
    mean = sum(without) / max(1, n)
    return sum((value - mean) ** 2 for value in without) * (n - 1) / max(1, n)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of values and of the ends of intervals; NaN of nothing.

    For repeats on overlapping cells: their mean varies less than each of them, so this interval is on the safe side.
    """
    if not estimates:
        return Estimate(math.nan)
    n = len(estimates)
    return Estimate(*(sum(numbers) / n for numbers in zip(*estimates, strict=True)))
