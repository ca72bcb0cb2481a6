"""When things are in a time course: real times, time points, and the times of the flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Course"]

Times = NDArray[np.float64]

_EDGE = 0.05


@dataclass(frozen=True)
class Course:
    """The time points of a course. The flow runs from 1 at the first to 0 at the last, an equal share an interval.

    So times between time points are linear in real time, and an interval of a day takes as long as one of a week: time
    points are chosen such that cells change about evenly from one to the next.

    Attributes
    ----------
    column
        Of `.obs`, with the real times.
    times
        The real times of the time points, rising.
    group, groups
        Columns of `.obs` whose values a cell keeps, and the names of their combinations.
    """

    column: str
    times: tuple[float, ...]
    group: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Course | None:
        """From a flow's provenance; None where the flow is of no course."""
        told = facts.get("course")
        if told is None:
            return None
        return cls(
            str(told["column"]),
            tuple(float(t) for t in told["times"]),
            tuple(str(name) for name in told["group"]),
            tuple(str(name) for name in told["groups"]),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @property
    def n_intervals(self) -> int:
        """One fewer than time points."""
        return len(self.times) - 1

    @property
    def knots(self) -> Times:
        """The time points in the flow's time, falling from 1 to 0."""
        return 1.0 - np.arange(len(self.times)) / self.n_intervals

    def place(self, real: Times) -> Times:
        """Real times in the flow's time."""
        return np.interp(real, self.times, self.knots)

    def interval(self, real: Times) -> NDArray[np.int64]:
        """The interval that begins at or before each time; that before the last time point at the end."""
        found = np.searchsorted(self.times, real, side="right") - 1
        return np.clip(found, 0, self.n_intervals - 1).astype(np.int64)

    def within(self, real: Times) -> Times:
        """Real times in the flow's time, kept a twentieth of the interval away from the time points at its ends.

        The field turns from one interval's velocities to the next within a few hundredths around a time point.
        """
        n, interval = self.n_intervals, self.interval(real)
        along = (1.0 - self.place(real)) * n - interval
        times: Times = 1.0 - (interval + np.clip(along, _EDGE, 1 - _EDGE)) / n
        return times

    def pace(self, real: Times) -> Times:
        """How much of the flow's time a unit of real time is, in the interval of each time."""
        shares: Times = 1.0 / (self.n_intervals * np.diff(self.times)[self.interval(real)])
        return shares
