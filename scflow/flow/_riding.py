"""Carrying cells through a time course, each from its own time; and how many descendants they have by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.flow._carrying import Stops, counts_alike, decoded_alike, edited_alike
from scflow.flow._course import Course
from scflow.flow._following import Batch, Given, Origin, Way, batches, check_velocity
from scflow.flow._sampling import Sampling, moved
from scflow.matching import solvers

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["Departure", "carried", "carry_each", "descendants", "joined", "next_descendants"]


@dataclass(frozen=True, eq=False)
class Departure:
    """When each cell sets off along a course, and which of its plans say how many descendants it has.

    Attributes
    ----------
    begin
        The flow's time, float64 ``[n]``.
    group
        The code of each cell's group, int64 ``[n]``; below 0 where it is not known.
    n_groups
        How many there are.
    """

    begin: Tensor
    group: Tensor
    n_groups: int


def carry_each(
    flow: Flow,
    data: Given,
    departure: Departure,
    course: Course,
    stops: Sequence[float],
    sampling: Sampling,
) -> tuple[Stops, NDArray[np.float64]]:
    """Follow each cell from its own time to each of `stops`, forwards or back.

    Parameters
    ----------
    data
        Counts ``[n_cells, n_genes]``, or coordinates ``[n_cells, dim]`` for a flow in an embedding.
    stops
        Times of the flow, falling.
    sampling
        Solver, steps for the whole course, device and seed.

    Returns
    -------
    The states where cells set off, and then at each stop, with counts at the stops; and how many descendants a cell has
    relative to the mean of its time point, at the first time point that is not before the stop, ``[n_stops, n_cells]``;
    NaN at stops before it sets off.
    """
    return joined(list(carried(flow, data, departure, course, stops, sampling)))


def carried(
    flow: Flow,
    data: Given,
    departure: Departure,
    course: Course,
    stops: Sequence[float],
    sampling: Sampling,
    *,
    rows: Tensor | None = None,
) -> Iterator[tuple[Stops, NDArray[np.float64]]]:
    """What `carry_each` finds, batch by batch: nothing of all cells is held.

    With `rows` cells are those of `data`, and their departures, in that order: as often as each is named.
    """
    check_velocity(sampling)
    way = Way.of(flow, sampling)
    with moved(flow, sampling.device):
        origin = Origin.of(flow, data, None, sampling.device)
        for batch in batches(len(origin.cells) if rows is None else len(rows), sampling, rows):
            yield _Ride(origin, batch, way, departure, course).stops(list(stops))


def joined(parts: Sequence[tuple[Stops, NDArray[np.float64]]]) -> tuple[Stops, NDArray[np.float64]]:
    """The cells of all batches, in order."""
    states = np.concatenate([stops.states for stops, _ in parts], axis=1)
    counts = tuple(
        sparse.csr_matrix(sparse.vstack(each, format="csr")) for each in zip(*(stops.counts for stops, _ in parts))
    )
    return Stops(states, counts), np.concatenate([mass for _, mass in parts], axis=1)


def descendants(
    flow: Flow, data: Given, departure: Departure, course: Course, stop: float, sampling: Sampling
) -> NDArray[np.float64]:
    """How many descendants cells have as `carry_each` tells it, by the `stop` alone, ``[n]``.

    A plan is asked where a cell enters an interval: the way from the last time point to the stop is not gone, and where
    that is all of it, nothing is integrated.
    """
    found, way = [], Way.of(flow, sampling)
    with torch.no_grad(), moved(flow, sampling.device):
        origin = Origin.of(flow, data, None, sampling.device)
        for batch in batches(len(origin.cells), sampling):
            found.append(_Ride(origin, batch, way, departure, course).mass(stop)[: len(batch)].numpy())
    return np.concatenate(found)


def next_descendants(
    flow: Flow, data: Given, departure: Departure, course: Course, sampling: Sampling
) -> NDArray[np.float64]:
    """How many descendants each cell has at the next time point, relative to the mean of its time point, ``[n]``.

    NaN where there is no next one, or no plan for a cell's group.
    """
    found, way = [], Way.of(flow, sampling)
    knots = torch.from_numpy(course.knots)
    with torch.no_grad(), moved(flow, sampling.device):
        origin = Origin.of(flow, data, None, sampling.device)
        for batch in batches(len(origin.cells), sampling):
            begin = departure.begin[batch.rows.cpu()]
            ride = _Ride(origin, batch, way, departure, course)
            n = course.n_intervals
            until = knots[(((1 - begin) * n + 1e-9).floor().long() + 1).clamp_max(n)]
            first = origin.mean(batch)
            log_mass = ride.grown((first, first), begin, until, torch.full((len(begin),), -1))
            found.append(log_mass.exp().masked_fill(until >= begin, torch.nan)[: len(batch)].numpy())
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class _Ride:
    """A batch of cells on their way through a course."""

    origin: Origin
    batch: Batch
    way: Way
    departure: Departure
    course: Course

    @torch.no_grad()  # not around a yield: it would hold for whoever takes the batches
    def stops(self, stops: list[float]) -> tuple[Stops, NDArray[np.float64]]:
        """The batch's own cells as `carry_each` has them."""
        flow, sampling, n = self.origin.flow, self.way.sampling, len(self.batch)
        with sampling.keeping(flow):
            first, kept, mass = self.through(stops)
        shown, counts = [first, *kept], []
        if flow.codec.has_counts:
            counts = [counts_alike(self.origin, self.batch, (first, x), (0.0, 1.0), sampling) for x in kept]
        else:
            shown = [decoded_alike(flow, x, sampling, self.batch) for x in shown]
        return Stops(np.stack([x[:n].cpu().numpy() for x in shown]), tuple(counts)), mass[:, :n].numpy()

    def mass(self, stop: float) -> Tensor:
        """How many descendants the cells have by the stop, ``[n]``; NaN where they set off after it."""
        begin = self.departure.begin[self.batch.rows.cpu()]
        first = self.origin.drawn(self.batch, self.way.sampling)
        log_mass = self._leg(first, begin, [stop], arrive=False)[1][0]
        return log_mass.exp().masked_fill(begin < stop, torch.nan)

    def through(self, stops: list[float]) -> tuple[Tensor, list[Tensor], Tensor]:
        """The states where cells set off, those at each stop, and how many descendants they have there."""
        rows = self.batch.rows.cpu()
        begin = self.departure.begin[rows]
        first = self.origin.drawn(self.batch, self.way.sampling)
        on, log_mass = self._leg(first, begin, stops)
        back = dict(zip(stops[::-1], self._leg(first, begin, stops[::-1], back=True)[0]))
        before = [(begin < stop).to(first.device)[:, None] for stop in stops]
        kept = [torch.where(b, back[stop], x) for stop, x, b in zip(stops, on, before, strict=True)]
        gone = torch.stack([begin < stop for stop in stops])
        return first, kept, log_mass.exp().masked_fill(gone, torch.nan)

    def _leg(
        self, x: Tensor, begin: Tensor, stops: list[float], *, back: bool = False, arrive: bool = True
    ) -> tuple[list[Tensor], Tensor]:
        """The states at stops in one direction; a cell that has not set off by then stays where it is.

        Cells stop at time points too, so that no step of the solver goes over one. Unless they are to `arrive`, the
        states at the last stop are those before it.
        """
        later = torch.maximum if back else torch.minimum
        grid = sorted({*stops, *self.course.knots.tolist()}, reverse=not back)
        kept: dict[float, Tensor] = {}
        masses: dict[float, Tensor] = {}
        first, now, log_mass = x, begin, torch.zeros(len(begin), dtype=torch.float64)
        entered = torch.full((len(begin),), -1)
        for stop in grid[: grid.index(stops[-1]) + 1]:
            until = later(now, torch.tensor(stop, dtype=begin.dtype))
            if not back:
                log_mass = log_mass + self.grown((first, x), now, until, entered)
            x = self._moved(x, now, until) if arrive or stop != stops[-1] else x
            now = until
            kept[stop], masses[stop] = x, log_mass
        return [kept[stop] for stop in stops], torch.stack([masses[stop] for stop in stops])

    def _moved(self, x: Tensor, now: Tensor, until: Tensor) -> Tensor:
        """The states after a way of each cell's own length, as one way from 0 to 1."""
        length = until - now
        longest = float(length.abs().max())
        if longest == 0:
            return x
        t0, h = now.float().to(x.device), length.float().to(x.device)
        field = self.way.field
        times = solvers.grid(max(1, round(self.way.sampling.steps * longest)), start=0.0, end=1.0).to(x.device)
        return self.way.sampling.solver.integrate(lambda y, t: h[:, None] * field(y, t0 + h * t, None), x, times)

    def grown(self, ends: tuple[Tensor, Tensor], now: Tensor, until: Tensor, entered: Tensor) -> Tensor:
        """The logarithm of how many descendants cells have at the end of the intervals that they enter, 0 for others.

        They count in full from the beginning: the field is that of pairs of the plan, so cells that have none are on no
        way. The plan is asked where a cell enters. `ends` are the states where cells set off and where they are;
        `entered` holds the interval of each cell, below 0 before it sets off, and is kept.
        """
        n = self.course.n_intervals
        interval = ((1 - now) * n + 1e-9).floor().long().clamp(0, n - 1)
        enters = (until < now) & (entered != interval)
        out = torch.zeros(len(now), dtype=torch.float64)
        growth = self.origin.flow.growth
        if growth is not None and bool(enters.any()):
            group = self.departure.group[self.batch.rows.cpu()]
            plan = torch.where(group < 0, -1, interval * self.departure.n_groups + group)
            states = self.origin.mean(self.batch).cpu()
            if bool((entered >= 0).any()):
                states = torch.where((entered < 0)[:, None], states, self._known_by(ends).cpu())
            out[enters] = growth.log(states[enters], plan[enters])
            entered[enters] = interval[enters]
        return out

    def _known_by(self, ends: tuple[Tensor, Tensor]) -> Tensor:
        """The states that plans know carried cells by: the mean ones of their counts, as plans are made between those.

        The states themselves are draws, which spread along codes that say little of a cell as no mean state does: by
        them no cell is like any of the later ones.
        """
        codec = self.origin.flow.codec
        if not codec.has_counts:
            return ends[1]
        return codec.mean_state(edited_alike(self.origin, self.batch, ends, (0.0, 1.0), self.way.sampling), None)
