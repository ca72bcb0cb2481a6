"""Pairs of a time course: cells of one time point with ancestors at the time point before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.training.batches import States, shared
from scflow.training.pairs import Pair
from scflow.training.workers import ALONE, Workers

__all__ = ["Descended"]


@dataclass(frozen=True, eq=False)
class Descended:
    """Cells, each with an ancestor out of those that were drawn for it; each interval as often as any other.

    Attributes
    ----------
    states
        Where the states of all come from.
    rows
        Row numbers of the cells to learn from, interval by interval, int64 ``[n]``.
    start
        Where each interval begins in `rows`, and the end of the last, int64 ``[n_intervals + 1]``.
    ancestors
        Row numbers ``[n_cells, n_drawn]``; those of the first time point are not looked at.
    later
        The time of each cell's time point in the flow, ``[n_cells, 1]``: the field is told it as a condition.
    """

    states: States
    rows: Tensor
    start: Tensor
    ancestors: Tensor
    later: Tensor

    @classmethod
    def of(cls, states: States, rows: Tensor, interval: Tensor, ancestors: Tensor, later: Tensor) -> Descended:
        """From the rows of the cells to learn from and the number of each one's interval ``[n]``."""
        size = torch.bincount(interval)
        start = torch.cat([size.new_zeros(1), size[size > 0].cumsum(0)])
        return cls(states, rows[torch.argsort(interval, stable=True)], start, ancestors, later)

    def draw(self, rows: Tensor, *, rng: torch.Generator, workers: Workers = ALONE) -> Pair:
        """As many pairs as there are `rows`, the same number of each interval; the rows are not looked at."""
        interval = torch.arange(len(rows), device=rng.device) % (len(self.start) - 1)
        size = self.start.diff()[interval]
        share = torch.rand(len(rows), generator=rng, device=rng.device)
        place = torch.minimum((share * size).long(), size - 1)
        return self._paired(self.rows[self.start[interval] + place], rng, workers)

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The pairs of these cells."""
        return self._paired(rows, rng, ALONE)

    def _paired(self, rows: Tensor, rng: torch.Generator, workers: Workers) -> Pair:
        n, drawn = len(rows), self.ancestors.shape[1]
        which = torch.randint(drawn, (n,), generator=rng, device=rng.device)
        x0 = shared(self.states, rows, rng=rng, workers=workers)
        x1 = shared(self.states, self.ancestors[rows, which].long(), rng=rng, workers=workers)
        return Pair(x0, x1, workers.share(self.later[rows]))
