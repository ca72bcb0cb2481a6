"""Chains of cells through the times of a course, drawn along plans that pair each population with the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scflow.matching.courses import bridge
from scflow.training.batches import States

__all__ = ["Chains", "Plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan between two populations, to be drawn from.

    Attributes
    ----------
    source, target
        The cells of each pair that has mass, int64 ``[n_pairs]``, places within their populations.
    after, before
        The pairs by their source, and by their target: see :class:`_Lists`.
    """

    source: Tensor
    target: Tensor
    upto: Tensor
    after: _Lists
    before: _Lists

    @classmethod
    def of(cls, plan: sparse.csr_matrix, device: torch.device) -> Plan:
        """From the masses ``[n_source, n_target]``."""
        pairs = plan.tocoo()
        source, target = (torch.from_numpy(p.astype(np.int64)).to(device) for p in (pairs.row, pairs.col))
        upto = torch.from_numpy(np.cumsum(pairs.data / pairs.data.sum())).to(device)
        return cls(source, target, upto, _Lists.of(plan, device), _Lists.of(sparse.csr_matrix(plan.T), device))

    def draw(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` pairs in the shares of their mass, one from each `n`-th of it."""
        u = (torch.arange(n, device=rng.device) + torch.rand(n, generator=rng, device=rng.device)) / n
        place = torch.searchsorted(self.upto, u.to(self.upto.dtype)).clamp_max(len(self.upto) - 1)
        return self.source[place], self.target[place]


@dataclass(frozen=True, eq=False)
class _Lists:
    """For each cell of a population, its partners and the share of its mass that each gets.

    Attributes
    ----------
    start
        Where each cell's partners begin, int64 ``[n_cells + 1]``.
    partner
        The partners, int64 ``[n_pairs]``.
    upto
        The cell's number plus the share of its mass up to and with this partner, rising over all, ``[n_pairs]``.
    """

    start: Tensor
    partner: Tensor
    upto: Tensor

    @classmethod
    def of(cls, plan: sparse.csr_matrix, device: torch.device) -> _Lists:
        """From the masses, a row a cell."""
        rows = np.repeat(np.arange(plan.shape[0]), np.diff(plan.indptr))
        total = np.asarray(plan.sum(1)).ravel()
        sums = np.cumsum(plan.data)
        before = np.concatenate([[0.0], sums])[plan.indptr[:-1]]
        upto = rows + (sums - before[rows]) / total[rows]
        parts = (plan.indptr.astype(np.int64), plan.indices.astype(np.int64), upto)
        return cls(*(torch.from_numpy(np.ascontiguousarray(p)).to(device) for p in parts))

    def draw(self, cells: Tensor, *, rng: torch.Generator) -> Tensor:
        """A partner of each of `cells`; -1 where it has none."""
        u = torch.rand(len(cells), generator=rng, device=rng.device).double() * (1 - 1e-9)
        place = torch.searchsorted(self.upto, cells.double() + u, right=True)
        place = torch.minimum(torch.maximum(place, self.start[cells]), self.start[cells + 1] - 1)
        alone = self.start[cells] == self.start[cells + 1]
        return torch.where(alone, -1, self.partner[place.clamp_min(0)])


@dataclass(frozen=True, eq=False)
class Chains:
    """Where the ways of cells through a course are at any of its times.

    Attributes
    ----------
    states
        Where cells' states come from.
    rows
        The cells of each time, int64.
    times
        When that is: from 0 to 1, rising.
    plans
        Between each time and the next.
    bend
        How far ways are bent: see :func:`scflow.matching.courses.bridge`.
    """

    states: States
    rows: Sequence[Tensor]
    times: Sequence[float]
    plans: Sequence[Plan]
    bend: float = 1.0

    def draw(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times ``[n]`` spread over the course, states and velocities ``[n, dim]`` of ways there, and their cells.

        The last are rows ``[n]`` of the cells that ways come from in the interval that the time is in.
        """
        shuffled = torch.randperm(n, generator=rng, device=rng.device)
        s = (shuffled + torch.rand(n, generator=rng, device=rng.device)) / n
        grid = torch.tensor(self.times, device=s.device, dtype=s.dtype)
        interval = (torch.searchsorted(grid, s, right=True) - 1).clamp(0, len(self.plans) - 1)
        x: Tensor | None = None
        v = cells = torch.empty(0)
        for k in range(len(self.plans)):
            here = torch.nonzero(interval == k)[:, 0]
            if not len(here):
                continue
            at, moves, of = self._within(k, s[here], rng=rng)
            if x is None:
                x, v = at.new_empty(n, at.shape[1]), at.new_empty(n, at.shape[1])
                cells = of.new_empty(n)
            x[here], v[here], cells[here] = at, moves, of
        assert x is not None
        return s, x, v, cells

    def _within(self, k: int, s: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States, velocities and cells at times within the interval `k`."""
        a, b = self.plans[k].draw(len(s), rng=rng)
        knots = [self._at(k, a, rng=rng), self._at(k + 1, b, rng=rng)]
        none = torch.full_like(knots[0], torch.nan)
        before, after = none, none
        if k > 0 and self.bend:
            before = self._at(k - 1, self.plans[k - 1].before.draw(a, rng=rng), rng=rng)
        if k + 1 < len(self.plans) and self.bend:
            after = self._at(k + 2, self.plans[k + 1].after.draw(b, rng=rng), rng=rng)
        first, last = self.times[k], self.times[k + 1]
        outer = (self.times[k - 1] if k else first - 1.0, [*self.times, last + 1.0][k + 2])
        times = s.new_tensor([outer[0], first, last, outer[1]]).expand(len(s), 4)
        x, v = bridge(torch.stack([before, *knots, after], dim=1), times, s, bend=self.bend)
        return x, v, self.rows[k][a]

    def _at(self, k: int, places: Tensor, *, rng: torch.Generator) -> Tensor:
        """States of cells of the time `k`; NaN where there is none."""
        x = self.states.states(self.rows[k][places.clamp_min(0)], rng=rng)
        return torch.where((places < 0)[:, None], torch.nan, x)
