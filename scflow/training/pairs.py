"""Pairs of cells and noise that a field is trained on: drawn anew for every batch, or kept together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scflow.matching import noises
from scflow.training.batches import States

__all__ = ["Coupled", "Fresh", "Pair", "Pairs", "dropped"]


class Pair(NamedTuple):
    """States of cells and noise, each ``[n, ...]``, and the conditions that the field is told ``[n, k]``, if any."""

    data: Tensor
    noise: Tensor
    condition: Tensor | None


class Pairs(Protocol):
    """Where a batch's pairs come from."""

    def draw(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The pairs of a step."""
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
    """

    states: States
    condition: Tensor | None
    noise: noises.Noise
    dropout: float

    def draw(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """Cells, noise, and what the field is told (in an order such that a seed gives the flow it always gave)."""
        x0 = self.states.states(rows, rng=rng)
        own = None if self.condition is None else self.condition[rows]
        n, dim = len(rows), x0[0].numel()
        if self.noise.by_condition:
            told = dropped(own, rate=self.dropout, rng=rng)
            x1 = self.noise.sample_given(told, n, dim, rng=rng)
        else:
            x1 = self.noise.sample(n, dim, rng=rng)
            told = dropped(own, rate=self.dropout, rng=rng)
        return Pair(x0, x1.reshape(x0.shape), told)

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

    def draw(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The pairs of the rows; nothing is random."""
        return Pair(self.data[rows], self.noise[rows], None if self.condition is None else self.condition[rows])

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The same."""
        return self.draw(rows, rng=rng)


def dropped(condition: Tensor | None, *, rate: float, rng: torch.Generator) -> Tensor | None:
    """Conditions with "none" in the place of some: all of a cell's at once, and now and then one of several."""
    if condition is None:
        return None
    n, k = condition.shape
    gone = torch.rand(n, 1, generator=rng, device=rng.device) < rate
    if k > 1:
        gone = gone | (torch.rand(n, k, generator=rng, device=rng.device) < rate / 2)
    return torch.where(gone, torch.nan, condition)
