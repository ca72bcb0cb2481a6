"""Pairs of one group a step, so that small groups teach as much as large ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.training.pairs import Carried, Pair, Sources
from scflow.training.workers import ALONE, Workers

__all__ = ["ByTurns"]


@dataclass(frozen=True, eq=False)
class ByTurns:
    """Carried cells of one group a step; each group as likely, whatever its size.

    Attributes
    ----------
    pairs
        How partners are found.
    targets
        Target cells by group.
    codes
        The groups that take part, int64 ``[n]``.
    """

    pairs: Carried
    targets: Sources
    codes: Tensor

    def draw(self, rows: Tensor, *, rng: torch.Generator, workers: Workers = ALONE) -> Pair:
        """As many pairs as there are `rows`, of a group that is drawn; the rows themselves are not looked at."""
        turn = torch.randint(len(self.codes), (1,), generator=rng, device=rng.device)
        return self.pairs.draw(self._targets(int(self.codes[turn]), len(rows), rng), rng=rng, workers=workers)

    def fixed(self, rows: Tensor, *, rng: torch.Generator) -> Pair:
        """The pairs of a look at the validation cells."""
        return self.pairs.fixed(rows, rng=rng)

    def of(self, code: int, n: int, *, rng: torch.Generator) -> Pair:
        """`n` pairs of a group under conditions as they are."""
        return self.pairs.fixed(self._targets(code, n, rng), rng=rng)

    def _targets(self, code: int, n: int, rng: torch.Generator) -> Tensor:
        """`n` rows of a group's target cells."""
        return self.targets.draw(torch.full((n,), code, device=rng.device), rng=rng)
