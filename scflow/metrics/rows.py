"""The table of a score: every value beside its floor and the trivial generator."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scflow.metrics.estimate import Estimate, average

__all__ = ["Compared", "Figures", "Row", "rows_of"]

Figures = dict[str, dict[str, Estimate]]
"""Metric -> condition -> estimate."""

Compared = Mapping[str, Figures]
""""value", "floor" or "trivial" -> figures."""


class Row(NamedTuple):
    """One metric in one condition.

    Attributes
    ----------
    condition
        A category, or "all".
    metric
        A name out of `METRICS`.
    value
        Generated cells against held-out real ones.
    floor
        Other held-out real cells against the same ones: what a perfect generator scores.
    trivial
        The trivial generator against the same ones: what has to be beaten.
    distance
        ``value - floor``.
    ratio
        ``value / floor``; NaN where that means nothing.
    low, high
        95 % interval of the value.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from scflow.metrics import judge
    >>> real, new = (sparse.csr_matrix(x) for x in np.random.default_rng(0).poisson(2.0, size=(2, 100, 30)))
    >>> row = judge(real, new, metrics="gene_means")[0]
    >>> row.condition, row.metric, bool(row.low <= row.value <= row.high)
    ('all', 'gene_means', True)
    """

    condition: str
    metric: str
    value: float
    floor: float
    trivial: float
    distance: float
    ratio: float
    low: float
    high: float


def rows_of(names: Sequence[str], repeats: Iterable[Compared], has_ratio: Collection[str]) -> list[Row]:
    """Repeats averaged, condition by condition and metric by metric; `has_ratio` names metrics with a ratio.

    What no repeat holds, such as values where no cells were judged, is NaN.
    """
    found: dict[tuple[str, str, str], list[Estimate]] = {}
    for repeat in repeats:
        for role, figures in repeat.items():
            for metric, conditions in figures.items():
                for condition, estimate in conditions.items():
                    found.setdefault((condition, metric, role), []).append(estimate)
    rows = []
    for condition in dict.fromkeys(key[0] for key in found):
        for metric in names:
            value, floor, bad = (
                average(found.get((condition, metric, role), [])) for role in ("value", "floor", "trivial")
            )
            ratio = value.value / floor.value if metric in has_ratio and floor.value > 0 else np.nan
            distance = value.value - floor.value
            rows.append(Row(condition, metric, value.value, floor.value, bad.value, distance, ratio, *value[1:]))
    return rows
