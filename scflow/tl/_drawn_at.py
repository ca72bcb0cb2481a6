"""Cells of any time of a course: ancestors before it, drawn by how many descendants they have, and carried there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from scflow import _anndata, _keys
from scflow.errors import InputError, listed
from scflow.flow import Flow, Sampling
from scflow.flow._balance import at_a_time
from scflow.flow._carrying import Stops
from scflow.flow._course import Course
from scflow.flow._riding import carried, descendants, joined
from scflow.flow._sampling import TILE
from scflow.matching import plans
from scflow.tl._course import Trip, asked_day, in_words, real_times

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Day", "check_usual"]

_USUAL = {"condition": None, "shift": 1.0, "path": None, "weights": "average", "calibration": "balanced"}


def check_usual(course: Course, **given: Any) -> None:
    """Raise where an option was given that means nothing for cells that are carried."""
    for name, value in given.items():
        if value is not _USUAL[name] and value != _USUAL[name]:
            raise InputError(
                f"{name}={value!r} is for cells that are drawn from noise, and this flow carries cells through the "
                f"times of obs[{course.column!r}]. Leave {name} out."
            )


@dataclass(frozen=True, eq=False)
class Day:
    """New cells of a day of a course, which are made when they are asked for.

    Attributes
    ----------
    trip
        The cells of the time point before, and the flow that carries them.
    day
        Which day.
    rows
        The new cells' ancestors among these, int64 ``[n]``.
    obs
        A row for each new cell.
    facts
        Where they come from.
    sampling
        How they are carried.
    """

    trip: Trip
    day: float
    rows: NDArray[np.int64]
    obs: pd.DataFrame
    facts: Mapping[str, Any]
    sampling: Sampling

    @classmethod
    def of(
        cls, flow: Flow, course: Course, n: int, at: float | None, adata: AnnData | None, options: Mapping[str, Any]
    ) -> Day:
        """`n` cells of a day, with options of `sampling_of`.

        Raises
        ------
        InputError
            Where no day or no cells are given, the day is outside of the course or its first, or there are no cells
            before.
        """
        day = asked_day(course, at, None, "at")
        if adata is None:
            raise InputError(
                f"Cells of {course.column} {day:g} come from cells before, and the flow does not hold them. Give some: "
                f"scflow.tl.generate(flow, {n}, at={day:g}, adata=adata)."
            )
        _anndata.checked(adata)
        _anndata.check_sliced(adata)
        cells, before = _before(adata, course, day)
        trip = Trip.of(cells, flow, course, None)
        unknown = trip.departure.group.numpy() < 0
        if unknown.any():
            raise InputError(
                f"{int(unknown.sum())} of {cells.n_obs} cells are of groups of {listed(course.group)} that this flow "
                f"was not trained on, so how many descendants they have is not known. It knows {listed(course.groups)}."
            )
        sampling = trip.followed(options)
        rows = _ancestors(trip, day, n, sampling)
        obs = cells.obs.iloc[rows][list(course.group)].copy()
        obs.insert(0, course.column, day)
        obs[_keys.slots().cell] = cells.obs_names.to_numpy(dtype=object)[rows].astype(str)
        facts = {
            "at": day,
            "ancestors": f"{course.column}: {before:g}",
            "generate_seed": sampling.seed,
            "generate_precision": sampling.precision,
        }
        return cls(trip, day, rows, obs, {**flow.provenance, "condition": [], **facts}, sampling)

    def cells(self) -> AnnData:
        """All of them."""
        found, _ = joined(list(self._batches()))
        return self._annotated(found.states, found.counts[0] if found.counts else None, self.obs)

    def written(self, target: Path) -> Path:
        """All of them into a file, a block of some thousands before the next is made."""
        first, flow = 0, self.trip.flow
        size = at_a_time(len(flow.genes) or flow.codec.dim, TILE)
        with _anndata.growing(target) as file:
            for block in _blocks(self._batches(), size):
                last = first + block.states.shape[1]
                counts = block.counts[0] if block.counts else None
                file.append(self._annotated(block.states, counts, self.obs.iloc[first:last]))
                first = last
            file.finish(self._annotated(np.zeros((2, len(self.obs), 0), np.float32), None, self.obs))
        return target

    def _batches(self) -> Iterator[tuple[Stops, NDArray[np.float64]]]:
        trip = self.trip
        stops = trip.course.place(np.array([self.day])).tolist()
        rows = torch.from_numpy(self.rows)
        return carried(trip.flow, trip.data, trip.departure, trip.course, stops, self.sampling, rows=rows)

    def _annotated(self, states: NDArray[np.float32], counts: sparse.csr_matrix | None, obs: pd.DataFrame) -> AnnData:
        flow = self.trip.flow
        sizes = float(flow.provenance.get("target_sum", 1e4))
        ends = (states[0], states[1])
        return _anndata.cells_at(obs, ends, counts, flow.genes, target_sum=sizes, provenance=self.facts)


def _blocks(batches: Iterator[tuple[Stops, NDArray[np.float64]]], size: int) -> Iterator[Stops]:
    """Batches put together to so many cells at least, but for the last."""
    held: list[tuple[Stops, NDArray[np.float64]]] = []
    for batch in batches:
        held.append(batch)
        if sum(stops.states.shape[1] for stops, _ in held) >= size:
            yield joined(held)[0]
            held = []
    if held:
        yield joined(held)[0]


def _before(adata: AnnData, course: Course, day: float) -> tuple[AnnData, float]:
    """The cells of the latest time before a day, and that time."""
    times = real_times(adata, course.column)
    there = np.unique(times[(times >= course.times[0]) & (times < day)])
    if not len(there):
        raise InputError(
            f"There are no cells before {course.column} {day:g} that could become its cells; adata has "
            f"{in_words(np.unique(times))}, and the course begins at {course.times[0]:g}. Ask for a "
            "later time, or give cells of an earlier one."
        )
    return adata[times == there[-1]].copy(), float(there[-1])


def _ancestors(trip: Trip, day: float, n: int, sampling: Sampling) -> NDArray[np.int64]:
    """Rows of ancestors, each as often as it has descendants by that day, in random order."""
    stop = float(trip.course.place(np.array([day]))[0])
    found = descendants(
        trip.flow, trip.data, trip.departure, trip.course, stop, replace(sampling, progress=False, precision="float32")
    )
    mass = np.nan_to_num(found, nan=0.0)
    if not mass.sum() > 0:
        raise InputError(f"None of the {len(mass)} cells before has descendants by {trip.course.column} {day:g}.")
    rng = torch.Generator().manual_seed(sampling.seed)
    order = torch.randperm(len(mass), generator=rng)
    expected = torch.from_numpy(mass / mass.sum() * n)[order]
    rows = order.repeat_interleave(plans.rounded(expected, rng=rng))
    chosen: NDArray[np.int64] = rows[torch.randperm(n, generator=rng)].numpy()
    return chosen
