"""The option `course` of `scflow.tl.train`, checked; and days that are asked of a flow through a time course."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from scflow import _anndata
from scflow.errors import InputError, listed
from scflow.flow import Flow, Sampling
from scflow.flow._carrying import Stops
from scflow.flow._course import Course
from scflow.flow._riding import Departure, carry_each, next_descendants
from scflow.matching import couplings
from scflow.matching.names import COUPLINGS, chosen
from scflow.tl._following import cells_of, sampling_of
from scflow.tl._options import check_enough
from scflow.tl._roles import grouped

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "Trip",
    "asked_day",
    "check_alone",
    "check_day",
    "coupling_of",
    "course_of",
    "in_words",
    "not_a_course",
    "real_times",
    "split_points",
]

EVALUATIONS = 24
"""How often the field is evaluated an interval unless asked otherwise."""
_LATEST = 1e15
"""The latest time: the squares of later ones overflow."""
_FEWEST = 2
"""Cells of a time point."""
_USUAL = {"path": "linear", "noise": "auto"}
_PLAN = (0.02, 0.5)
"""Entropy and reach by measurement: docs/guide.md, "Time courses"."""
_WHY = {
    "condition": "the field of a course is told the time alone; cells are kept apart by group=",
    "source": "a course starts at its first time point",
    "target": "a course goes through all of its time points",
    "path": "cells go along straight lines from one time point to the next",
    "noise": "the flow starts from cells",
    "validation": "groups are held out of populations that are carried; here cells of each time point are",
}


def check_alone(**given: Any) -> None:
    """Raise where an option was given that means nothing in a course."""
    for name, value in given.items():
        if value is not None and value != _USUAL.get(name):
            raise InputError(f"{name}={value!r} and course= exclude each other: {_WHY[name]}. Leave {name} out.")


def coupling_of(coupling: Any) -> couplings.Unbalanced | couplings.Entropic:
    """How whole time points are coupled: with growth, unless balanced plans are asked for.

    Raises
    ------
    InputError
        For a coupling that is no plan between populations of different sizes.
    """
    if isinstance(coupling, str) and coupling == "auto":
        return couplings.Unbalanced(*_PLAN)
    found = chosen(coupling, COUPLINGS, couplings.Coupling, "coupling")
    if not isinstance(found, (couplings.Unbalanced, couplings.Entropic)):
        raise InputError(
            f"coupling={coupling!r} pairs batches of equal size, and course= whole time points. Use 'auto', "
            "'unbalanced', or 'entropic', in which all cells have as many descendants."
        )
    return found


def course_of(
    adata: AnnData, column: str, group: str | Sequence[str] | None
) -> tuple[Course, NDArray[np.int64], NDArray[np.int64]]:
    """The course of a column, and each cell's time point and group, ``[n_obs]`` both.

    Raises
    ------
    InputError
        Where times are no numbers, there are fewer than two time points, one of them has fewer than two cells, or a
        group has cells at one that have nobody to come from.
    """
    times = real_times(adata, column)
    known, point, size = np.unique(times, return_inverse=True, return_counts=True)
    if len(known) < 2:
        raise InputError(
            f"obs[{column!r}] has one time only ({known[0]:g}) for all {adata.n_obs} cells; a course has two or more."
        )
    few = [f"{t:g}: {n} cell" for t, n in zip(known, size, strict=True) if n < _FEWEST]
    if few:
        raise InputError(
            f"{len(few)} of {len(known)} time points of obs[{column!r}] have fewer than {_FEWEST} cells "
            f"({listed(few)}). Drop them, or put times together: adata.obs[{column!r}] = "
            f"adata.obs[{column!r}].round()."
        )
    check_enough(adata.n_obs, "adata")
    columns = [group] if isinstance(group, str) else list(group or ())
    if column in columns:
        raise InputError(
            f"group names {column!r}, the times of the course, which no cell keeps. Leave it out of group."
        )
    codes, names = grouped(adata, columns)
    course = Course(column, tuple(known.tolist()), tuple(columns), tuple(names))
    _check_groups(course, point.reshape(-1), codes)
    return course, point.reshape(-1).astype(np.int64), codes


def real_times(adata: AnnData, column: str, *, name: str = "adata") -> NDArray[np.float64]:
    """`.obs[column]` as numbers.

    Raises
    ------
    InputError
        Where the column is not there, lacks values or holds anything else than finite numbers.
    """
    values = _anndata.obs_column(adata, column, name=name)
    values = values.infer_objects() if values.dtype == object else values
    if not pd.api.types.is_numeric_dtype(values.dtype) or values.dtype.kind in "bc":
        raise InputError(
            f"obs[{column!r}] holds {values.dtype} such as {str(values.iloc[0])!r}, and not numbers: how far apart "
            f"time points are has to be known. Make them numbers: {name}.obs[{column!r}] = "
            f"{name}.obs[{column!r}]{_into_numbers(values)}."
        )
    times = values.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(times) <= _LATEST))
    if wrong.size:
        how = "beyond 1e15" if np.isfinite(times[wrong]).all() else "infinite"
        raise InputError(
            f"obs[{column!r}] is {how} for {wrong.size} of {adata.n_obs} cells (first: "
            f"{str(adata.obs_names[wrong[0]])!r}). Drop them."
        )
    return times


def _into_numbers(values: pd.Series[Any]) -> str:
    """What makes numbers of labels: of "3" or of "day 3"; a table where there is none in them."""
    labels = pd.Series(pd.unique(values.astype(str)))
    if pd.to_numeric(labels, errors="coerce").notna().all():
        return ".astype(float)"
    if labels.str.contains(r"\d").all():
        return r".astype(str).str.extract(r'(\d+\.?\d*)', expand=False).astype(float)"
    first, second = [*labels[:2].tolist(), "..."][:2]
    return f".astype(str).map({{{first!r}: 0.0, {second!r}: 1.0}})"


def _check_groups(course: Course, point: NDArray[Any], codes: NDArray[np.int64]) -> None:
    """Raise where cells have nobody to come from in their group; warn where they have nobody to become."""
    there = np.zeros((len(course.times), len(course.groups)), dtype=np.int64)
    np.add.at(there, (point, codes), 1)
    before, after = there[:-1], there[1:]
    new, gone = np.argwhere((before == 0) & (after > 0)), np.argwhere((before > 0) & (after == 0))
    if len(new):
        found = [f"{course.groups[g]} at {course.times[i + 1]:g}: {there[i + 1, g]} cells" for i, g in new]
        raise InputError(
            f"{len(new)} times cells of a group of {listed(course.group)} are there that have none of their group at "
            f"the time point before ({listed(found)}): nothing could become them. Drop those cells, or group by "
            "something coarser."
        )
    if len(gone):
        found = [f"{course.groups[g]} after {course.times[i]:g}" for i, g in gone]
        warnings.warn(
            f"Groups of {listed(course.group)} end before the course does ({listed(found)}): what their cells become "
            "is not learnt, and they are carried as those like them.",
            stacklevel=5,
        )


def split_points(point: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows to learn from and rows to look at, in random order: the same share of every time point."""
    rng = np.random.default_rng([seed, 0])
    held = np.zeros(len(point), dtype=bool)
    for i in range(int(point.max()) + 1):
        mine = rng.permutation(np.flatnonzero(point == i))
        held[mine[: min(round(len(mine) * fraction), len(mine) - 1)]] = True
    order = rng.permutation(len(point))
    return order[~held[order]], order[held[order]]


def check_day(course: Course, value: Any, name: str) -> float:
    """A day within the course.

    Raises
    ------
    InputError
        Where it is no number, or outside of the course.
    """
    first, last = course.times[0], course.times[-1]
    try:
        day = float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{name}={value!r} is not a number. Ask for a time of obs[{course.column!r}] within {first:g} and "
            f"{last:g}, such as {name}={(first + last) / 2:g}."
        ) from None
    if not first <= day <= last:
        raise InputError(
            f"{name}={value!r} is outside of the course, which was learnt from obs[{course.column!r}] = {first:g} to "
            f"{last:g}. Ask for a time within that."
        )
    return day


def asked_day(course: Course, to: Any, target: Any, name: str = "to") -> float:
    """The day that is asked for.

    Raises
    ------
    InputError
        Where none is, a target is instead, or it is outside of the course.
    """
    first, last = course.times[0], course.times[-1]
    what = f"This flow carries cells through the times of obs[{course.column!r}], {first:g} to {last:g}"
    if target is not None:
        raise InputError(f"{what}, and target={target!r} is none. Say to when: {name}={last:g}.")
    if to is None:
        raise InputError(f"{what}. Say to when, at any time within that: {name}={last:g}.")
    return check_day(course, to, name)


@dataclass(frozen=True, eq=False)
class Trip:
    """Cells, and the flow that carries them through a course.

    Attributes
    ----------
    flow, course
        What carries them.
    data
        The cells' counts of its genes, or their coordinates.
    times
        Their real times, ``[n_cells]``.
    departure
        When they set off, in the flow's time, and their groups.
    """

    flow: Flow
    course: Course
    data: Any
    times: NDArray[np.float64]
    departure: Departure

    @classmethod
    def of(cls, adata: AnnData, flow: Flow, course: Course, layer: str | None, *, name: str = "adata") -> Trip:
        """Of all cells, checked.

        Raises
        ------
        InputError
            Where times or groups are missing, a time is outside of the course, or genes are not there.
        """
        times = real_times(adata, course.column, name=name)
        first, last = course.times[0], course.times[-1]
        outside = np.flatnonzero((times < first) | (times > last))
        if outside.size:
            raise InputError(
                f"{outside.size} of {adata.n_obs} cells have times outside of the course, {first:g} to {last:g} "
                f"(first: {str(adata.obs_names[outside[0]])!r}, {times[outside[0]]:g}). Leave them out: "
                f"{name}[{name}.obs[{course.column!r}].between({first:g}, {last:g})].copy()."
            )
        group = _codes(adata, course, name)
        begin = torch.from_numpy(course.place(times))
        departure = Departure(begin, torch.from_numpy(group), len(course.groups))
        return cls(flow, course, cells_of(flow, adata, layer, name=name), times, departure)

    def to(self, days: Sequence[float], options: Mapping[str, Any]) -> tuple[Stops, NDArray[np.float64]]:
        """The cells at rising days, as :func:`scflow.flow._riding.carry_each` has them; options of `sampling_of`."""
        stops = self.course.place(np.asarray(days, dtype=np.float64)).tolist()
        return carry_each(self.flow, self.data, self.departure, self.course, stops, self.followed(options))

    def followed(self, options: Mapping[str, Any]) -> Sampling:
        """How the cells are carried: options of `sampling_of`."""
        return sampling_of(self.flow, evaluations=EVALUATIONS * self.course.n_intervals, **options)

    def growth(self) -> NDArray[np.float64]:
        """How many descendants the cells have at the next time point."""
        return next_descendants(self.flow, self.data, self.departure, self.course, Sampling())

    def facts(self, target: str) -> dict[str, Any]:
        """What carried the cells, for `.uns`."""
        p, column = self.flow.provenance, self.course.column
        named = {name: p[name] for name in ("space", "use_rep") if name in p}
        source = f"{column}: {in_words(np.unique(self.times))}"
        return {**named, "course": column, "source": source, "target": f"{column}: {target}"}


def _codes(adata: AnnData, course: Course, name: str) -> NDArray[np.int64]:
    """The code of each cell's group; -1 for one that the flow was not trained on."""
    codes, names = grouped(adata, course.group, name=name)
    known: Mapping[str, int] = {group: i for i, group in enumerate(course.groups)}
    return np.array([known.get(group, -1) for group in names], dtype=np.int64)[codes]


def in_words(times: Sequence[float] | NDArray[np.float64], most: int = 5) -> str:
    """Up to `most` times, and how many more there are."""
    rest = len(times) - most
    return ", ".join(f"{t:g}" for t in times[:most]) + (f" and {rest} more" if rest > 0 else "")


def not_a_course(name: str, value: Any) -> InputError:
    """The error for a day that is asked of a flow without days."""
    return InputError(
        f"{name}={value!r} asks for a time of a time course, and this flow was not trained on one. Train one: "
        f"scflow.tl.train(adata, course='day')."
    )
