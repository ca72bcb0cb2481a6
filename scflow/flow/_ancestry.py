"""Ancestors of the cells of a time course, by plans between whole populations; and how many descendants cells have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scflow.flow._growth import Growth, Whitening
from scflow.matching import plans
from scflow.training.bars import bar_class

__all__ = ["MOST_CELLS", "Ancestry", "Stages"]

MOST_CELLS = 2000
"""Cells of a time point in one plan. A plan of 2,000 to 2,000 cells has 4 million entries of 8 bytes, and some six
such matrices are there at a time: 200 MB, however many cells there are."""
DRAWN = 64
"""Ancestors that are drawn for each cell, once: training draws from these."""
_FITTED = 20_000
"""Cells that the plans' coordinates are fitted on."""


@dataclass(frozen=True, eq=False)
class Stages:
    """When the cells of a course are, and which of them belong together.

    Attributes
    ----------
    point
        The number of each cell's time point, int64 ``[n_cells]``.
    group
        A code for each cell, int64 ``[n_cells]``: a cell and its ancestors have the same one.
    n_points, n_groups
        How many there are of both.
    epsilon, reach
        Of the plans between time points, in units of the mean cost: the weight of the entropy, and what it costs to
        change the earlier masses; infinite for balanced plans.
    """

    point: Tensor
    group: Tensor
    n_points: int
    n_groups: int
    epsilon: float
    reach: float

    def later(self, rows: Tensor) -> Tensor:
        """Those of `rows` that are not of the first time point."""
        return rows[self.point[rows] > 0]

    def of(self, rows: Tensor, point: int, group: int) -> Tensor:
        """Those of `rows` that are of a time point and a group; all that there are, where none of them is."""
        here = (self.point == point) & (self.group == group)
        mine = rows[here[rows]]
        return mine if len(mine) else here.nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class Ancestry:
    """Who comes from whom.

    Attributes
    ----------
    ancestors
        Row numbers ``[n_cells, 64]``, int32: draws from the plan given the later cell. 0 for the first time point.
    growth
        The masses of the plans.
    """

    ancestors: Tensor
    growth: Growth

    @classmethod
    def of(
        cls,
        states: Callable[[Tensor], Tensor],
        stages: Stages,
        rows: tuple[Tensor, Tensor],
        *,
        rng: torch.Generator,
        progress: bool = False,
    ) -> Ancestry:
        """Plans between consecutive time points, within each group.

        Each later cell has an ancestor, so the later marginal is kept; how many descendants an earlier cell has is not
        known, so the earlier one may change at a price (Schiebinger et al. 2019).

        Where a time point has more than 2,000 cells of a group, they are dealt into blocks at random, and each block
        has a plan with as many earlier cells, other ones each time while there are others. Cells that are held out have
        no part in the plans, and get ancestors by what the plans say of cells like them.

        Parameters
        ----------
        states
            From rows to the states that plans are made between.
        rows
            Cells to learn from, and cells to look at.
        rng
            On the CPU.
        """
        train, others = (part.cpu() for part in rows)
        stages = replace(stages, point=stages.point.cpu(), group=stages.group.cpu())
        fitted = train[torch.randperm(len(train), generator=rng)[:_FITTED]]
        white = Whitening.fit(states(fitted).cpu())
        found = _Found.empty(white, stages)
        blocks = list(_blocks(stages, train, others, rng))
        for block in bar_class()(blocks, desc="plans", unit="plan", disable=None if progress else True):
            place = [white(states(part)) for part in (block.earlier, block.later, block.others)]
            found.add(block, place, stages, train, rng)
        return cls(found.ancestors, found.growth(white, stages))


@dataclass(frozen=True, eq=False)
class _Block:
    """Cells of one plan: rows of both time points, and of later cells that are held out."""

    code: int
    earlier: Tensor
    later: Tensor
    others: Tensor
    first: bool


def _blocks(stages: Stages, train: Tensor, others: Tensor, rng: torch.Generator) -> Iterator[_Block]:
    """All of them, interval by interval and group by group."""
    for code in range((stages.n_points - 1) * stages.n_groups):
        point, group = divmod(code, stages.n_groups)
        there = (stages.point == point + 1) & (stages.group == group)
        if not bool(there.any()):
            continue
        later = _shuffled(stages.of(train, point + 1, group), rng)
        held = others[there[others] & ~torch.isin(others, later)]
        n = -(-len(later) // MOST_CELLS)
        deck = _Deck(stages.of(train, point, group), rng)
        for i, (some, rest) in enumerate(zip(later.tensor_split(n), held.tensor_split(n), strict=True)):
            yield _Block(code, deck.deal(MOST_CELLS), some, rest, i == 0)


class _Deck:
    """Rows in random order, dealt in parts; shuffled anew when too few are left."""

    def __init__(self, rows: Tensor, rng: torch.Generator) -> None:
        self.rows, self.rng, self.left = rows, rng, rows[:0]

    def deal(self, most: int) -> Tensor:
        """So many rows, or all."""
        n = min(most, len(self.rows))
        if len(self.left) < n:
            self.left = _shuffled(self.rows, self.rng)
        dealt, self.left = self.left[:n], self.left[n:]
        return dealt


@dataclass(eq=False)
class _Found:
    """What the plans have said so far."""

    ancestors: Tensor
    states: list[Tensor]
    scaling: list[Tensor]
    plan: list[Tensor]
    unit: Tensor
    mean: Tensor

    @classmethod
    def empty(cls, white: Whitening, stages: Stages) -> _Found:
        n = (stages.n_points - 1) * stages.n_groups
        nothing = torch.full((n,), torch.nan, dtype=torch.float64)
        drawn = torch.zeros(len(stages.point), DRAWN, dtype=torch.int32)
        return cls(drawn, [], [], [], nothing, nothing.clone())

    def add(self, block: _Block, place: Sequence[Tensor], stages: Stages, train: Tensor, rng: torch.Generator) -> None:
        """Make the plan of a block, and draw ancestors from it."""
        earlier, later, others = place
        costs = torch.cdist(earlier, later).square()
        unit = float(costs.mean()) or 1.0
        u, v = plans.semi_relaxed(costs / unit, stages.epsilon, stages.reach)
        for rows, x in ((block.later, later), (block.others, others)):
            if not len(rows):
                continue
            for some, here in zip(torch.split(rows, 1024), torch.split(x, 1024), strict=True):
                shares = torch.softmax(u - torch.cdist(here, earlier).square() / (unit * stages.epsilon), 1)
                places = torch.multinomial(shares, DRAWN, replacement=True, generator=rng)
                self.ancestors[some] = block.earlier[places].int()
        if block.first:
            # A time point's cells have one descendant each on average, those of a group as many as it has cells later.
            point, group = divmod(block.code, stages.n_groups)
            log_mass = torch.logsumexp(v - costs / (unit * stages.epsilon), 1) * _power(stages)
            share = _share(stages, train, point, group) / _share(stages, train, point + 1, group)
            self.unit[block.code] = unit
            self.mean[block.code] = torch.logsumexp(log_mass, 0) - math.log(len(log_mass)) + math.log(share)
            self.states.append(later.float())
            self.scaling.append(v)
            self.plan.append(torch.full((len(v),), block.code))

    def growth(self, white: Whitening, stages: Stages) -> Growth:
        """The masses."""
        epsilon, power = (torch.tensor(x, dtype=torch.float64) for x in (stages.epsilon, _power(stages)))
        states, scaling, plan = (torch.cat(parts) for parts in (self.states, self.scaling, self.plan))
        return Growth(white.centre, white.axes, states, scaling, plan, self.unit, self.mean, epsilon, power)


def _power(stages: Stages) -> float:
    """Of the masses that later cells leave to an earlier one, by which it has its own."""
    return stages.epsilon / (stages.reach + stages.epsilon)


def _share(stages: Stages, train: Tensor, point: int, group: int) -> float:
    """Of a group among the cells of a time point."""
    here = train[stages.point[train] == point]
    return max(int((stages.group[here] == group).sum()), 1) / max(len(here), 1)


def _shuffled(rows: Tensor, rng: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=rng)]
