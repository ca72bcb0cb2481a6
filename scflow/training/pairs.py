"""Pairs of cells and noise that a field is trained on: drawn anew for every batch, or kept together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scflow.matching import noises
from scflow.training.batches import States, shared
from scflow.training.workers import ALONE, Workers

__all__ = ["Carried", "Coupled", "Fresh", "Pair", "Pairs", "Sources", "dropped"]


_UNUSED = 8192
"""Numbers that a process draws for each of its cells and does not use, at most: five processes of 2,000 genes."""


class Pair(NamedTuple):
    """States of cells and noise, each ``[n, ...]``, and the conditions that the field is told ``[n, k]``, if any.

    `group` ``[n]`` is what the field is not told, and pairs are made within as well.
    """

    data: Tensor
    noise: Tensor
    condition: Tensor | None
    group: Tensor | None = None


class Pairs(Protocol):
    """Where a batch's pairs come from."""

    def draw(self, rows: Tensor, *, rng: torch.Generator, workers: Workers = ALONE) -> Pair:
        """The pairs of a step; of the rows of all `workers`, those of this process.

        Random numbers are drawn for the rows of all, so that the pairs do not depend on how many share them.
        """
        ...

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The pairs of a look at the validation cells, under conditions as they are."""
        ...


@dataclass(frozen=True, eq=False)
class Fresh:
    """Cells with noise that is drawn anew each time, and with conditions that are dropped now and then.

    Attributes
    ----------
    states
        Where the cells' states come from.
    condition
        Of all cells ``[n_cells, n_conditions]``.
    noise
        The law of the noise. One by condition knows what the field is told and no more: "none" has a noise of its own,
        from which cells without a condition are drawn.
    dropout
        How often a condition is dropped.
    widths
        Columns of each condition, which are dropped together; one each unless given.
    """

    states: States
    condition: Tensor | None
    noise: noises.Noise
    dropout: float
    widths: Sequence[int] | None = None

    def draw(self, rows: Tensor, *, rng: torch.Generator, workers: Workers = ALONE) -> Pair:
        """Cells, noise, and what the field is told (in an order such that a seed gives the flow it always gave)."""
        x0 = shared(self.states, rows, rng=rng, workers=workers)
        own = None if self.condition is None else self.condition[rows]
        n, dim = len(rows), x0[0].numel()
        if self.noise.by_condition:
            told = dropped(own, rate=self.dropout, widths=self.widths, rng=rng)
            x1 = self._noise(told, n, dim, rng, workers)
        else:
            x1 = self._noise(None, n, dim, rng, workers)
            told = dropped(own, rate=self.dropout, widths=self.widths, rng=rng)
        return Pair(x0, x1.reshape(x0.shape), None if told is None else workers.share(told))

    def _noise(self, told: Tensor | None, n: int, dim: int, rng: torch.Generator, workers: Workers) -> Tensor:
        """Noise of this process's cells: drawn for all, or where too much of that is not used, for these alone."""
        if dim * (workers.size - 1) <= _UNUSED:
            return workers.share(self.noise.sample_given(told, n, dim, rng=rng))
        mine = None if told is None else workers.share(told)
        return self.noise.sample_given(mine, n // workers.size, dim, rng=workers.own(rng))

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """Cells and noise under the cells' own conditions."""
        x0 = self.states.states(rows, rng=rng)
        c = None if self.condition is None else self.condition[rows]
        return Pair(x0, self.noise.sample_given(c, len(rows), x0[0].numel(), rng=rng).reshape(x0.shape), c)


@dataclass(frozen=True, eq=False)
class Coupled:
    """Cells, each with the noise that it was made from and the condition that it was made under.

    What was drawn under none stays there: no condition is dropped, for the pair belongs to the one it has.

    Attributes
    ----------
    data, noise
        States ``[n, dim]``.
    condition
        ``[n, n_conditions]``, or ``None``.
    """

    data: Tensor
    noise: Tensor
    condition: Tensor | None

    def draw(self, rows: Tensor, *, rng: torch.Generator, workers: Workers = ALONE) -> Pair:
        """The pairs of the rows; nothing is random."""
        rows = workers.share(rows)
        return Pair(self.data[rows], self.noise[rows], None if self.condition is None else self.condition[rows])

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The same."""
        return self.draw(rows, rng=rng)


@dataclass(frozen=True, eq=False)
class Sources:
    """Cells of a source population, to be drawn by their group.

    Attributes
    ----------
    rows
        Row numbers, group by group, int64 ``[n_sources]``.
    start
        Where each group begins in `rows`, and the end of the last, int64 ``[n_groups + 1]``.
    """

    rows: Tensor
    start: Tensor

    @classmethod
    def of(cls, rows: Tensor, group: Tensor, n_groups: int) -> Sources:
        """From the rows of source cells and the codes of their groups, each ``[n_sources]``."""
        size = torch.bincount(group, minlength=n_groups)
        start = torch.cat([size.new_zeros(1), size.cumsum(0)])
        return cls(rows[torch.argsort(group, stable=True)], start)

    def draw(self, group: Tensor, *, rng: torch.Generator) -> Tensor:
        """A row for each code of `group` ``[n]``, evenly: no cell of a group comes twice before each came once."""
        size = self.start[group + 1] - self.start[group]
        shuffle = torch.rand(len(self.rows), generator=rng, device=rng.device)
        order = torch.argsort(shuffle)
        order = order[torch.argsort(self._codes()[order], stable=True)]
        return self.rows[order[self.start[group] + _turn(group) % size]]

    def within(self, group: int) -> Tensor:
        """All rows of a group."""
        return self.rows[int(self.start[group]) : int(self.start[group + 1])]

    def _codes(self) -> Tensor:
        """The group of each of `rows`."""
        numbers = torch.arange(len(self.start) - 1, device=self.start.device)
        return torch.repeat_interleave(numbers, self.start.diff())


def _turn(group: Tensor) -> Tensor:
    """How many times its code came before, for each entry."""
    order = torch.argsort(group, stable=True)
    size = torch.bincount(group)
    first = (size.cumsum(0) - size)[group[order]]
    turn = torch.empty_like(group)
    turn[order] = torch.arange(len(group), device=group.device) - first
    return turn


@dataclass(frozen=True, eq=False)
class Carried:
    """Cells of a target population, each with a cell of the source population that is of its group.

    Attributes
    ----------
    states
        Where the states of both come from.
    condition
        What the field is told of the target cells ``[n_cells, n_conditions]``; of source cells it is not looked at.
    group
        The code of each cell's group ``[n_cells]``.
    sources
        The source cells.
    dropout
        How often a condition is dropped.
    widths
        Columns of each condition, which are dropped together; one each unless given.
    """

    states: States
    condition: Tensor | None
    group: Tensor
    sources: Sources
    dropout: float
    widths: Sequence[int] | None = None

    def draw(self, rows: Tensor, *, rng: torch.Generator, workers: Workers = ALONE) -> Pair:
        """Cells, partners, and what the field is told."""
        x0, x1, c, group = self._paired(rows, rng, workers)
        told = dropped(c, rate=self.dropout, widths=self.widths, rng=rng)
        return Pair(x0, x1, None if told is None else workers.share(told), workers.share(group))

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The same under the cells' own conditions."""
        return Pair(*self._paired(rows, rng, ALONE))

    def _paired(
        self, rows: Tensor, rng: torch.Generator, workers: Workers
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """States of this process's pairs, and conditions and groups of all."""
        group = self.group[rows]
        x0 = shared(self.states, rows, rng=rng, workers=workers)
        x1 = shared(self.states, self.sources.draw(group, rng=rng), rng=rng, workers=workers)
        return x0, x1, None if self.condition is None else self.condition[rows], group


def dropped(
    condition: Tensor | None, *, rate: float, rng: torch.Generator, widths: Sequence[int] | None = None
) -> Tensor | None:
    """Conditions with "none" in the place of some: all of a cell's at once, and now and then one of several.

    `widths` are the columns that each condition takes, one unless given: they go together.
    """
    if condition is None:
        return None
    n, k = len(condition), condition.shape[1] if widths is None else len(widths)
    gone = torch.rand(n, 1, generator=rng, device=rng.device) < rate
    if k > 1:
        gone = gone | (torch.rand(n, k, generator=rng, device=rng.device) < rate / 2)
        if widths is not None:
            gone = gone.repeat_interleave(torch.tensor(widths, device=gone.device), dim=1)
    return torch.where(gone, torch.nan, condition)
