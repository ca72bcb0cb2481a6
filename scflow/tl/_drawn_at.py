"""Cells of any time of a course: ancestors before it, drawn by how many descendants they have, and carried there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from scflow import _anndata, _keys
from scflow.errors import InputError, listed
from scflow.flow import Flow
from scflow.flow._course import Course
from scflow.flow._riding import Departure
from scflow.matching import plans
from scflow.tl._course import Trip, asked_day, in_words, real_times

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["check_usual", "drawn_at"]

_USUAL = {"condition": None, "shift": 1.0, "path": None, "weights": "average", "calibration": "balanced"}


def check_usual(course: Course, **given: Any) -> None:
    """Raise where an option was given that means nothing for cells that are carried."""
    for name, value in given.items():
        if value is not _USUAL[name] and value != _USUAL[name]:
            raise InputError(
                f"{name}={value!r} is for cells that are drawn from noise, and this flow carries cells through the "
                f"times of obs[{course.column!r}]. Leave {name} out."
            )


def drawn_at(
    flow: Flow, course: Course, n: int, at: float | None, adata: AnnData | None, options: Mapping[str, Any]
) -> AnnData:
    """`n` cells of a day of the course.

    Raises
    ------
    InputError
        Where no day or no cells are given, the day is outside of the course or its first, or there are no cells before.
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
            f"{int(unknown.sum())} of {cells.n_obs} cells are of groups of {listed(course.group)} that this flow was "
            f"not trained on, so how many descendants they have is not known. It knows {listed(course.groups)}."
        )
    rows = _ancestors(trip, day, n, options)
    departure = Departure(trip.departure.begin[rows], trip.departure.group[rows], trip.departure.n_groups)
    taken = replace(trip, data=trip.data[rows], times=trip.times[rows], departure=departure)
    way = taken.to([day], options)[0]
    obs = cells.obs.iloc[rows][list(course.group)].copy()
    obs.insert(0, course.column, day)
    obs[_keys.slots().cell] = cells.obs_names.to_numpy(dtype=object)[rows].astype(str)
    facts = {"at": day, "ancestors": f"{course.column}: {before:g}", "generate_seed": options["seed"]}
    return _anndata.cells_at(
        obs,
        (way.states[0], way.states[1]),
        way.counts[0] if way.counts else None,
        flow.genes,
        target_sum=float(flow.provenance.get("target_sum", 1e4)),
        provenance={**flow.provenance, "condition": [], **facts},
    )


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


def _ancestors(trip: Trip, day: float, n: int, options: Mapping[str, Any]) -> NDArray[np.int64]:
    """Rows of ancestors, each as often as it has descendants by that day, in random order."""
    mass = np.nan_to_num(trip.to([day], {**options, "progress": False}, decode=False)[1][0], nan=0.0)
    if not mass.sum() > 0:
        raise InputError(f"None of the {len(mass)} cells before has descendants by {trip.course.column} {day:g}.")
    rng = torch.Generator().manual_seed(options["seed"])
    order = torch.randperm(len(mass), generator=rng)
    expected = torch.from_numpy(mass / mass.sum() * n)[order]
    rows = order.repeat_interleave(plans.rounded(expected, rng=rng))
    found: NDArray[np.int64] = rows[torch.randperm(n, generator=rng)].numpy()
    return found
