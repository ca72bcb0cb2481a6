"""What a field is trained to do: path + time + weight + coupling -> the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scflow.matching import couplings, paths, times, weights

__all__ = ["FlowMatching", "Velocity"]

Velocity = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class FlowMatching:
    """Conditional flow matching: regress the field on the path's velocity (Lipman et al. 2023, equation 9)."""

    path: paths.Path = field(default_factory=paths.Linear)
    time: times.Time = field(default_factory=times.Stratified)
    weight: weights.Weight = field(default_factory=weights.Uniform)
    coupling: couplings.Coupling = field(default_factory=couplings.Independent)

    def loss(
        self, field: Velocity, x0: Tensor, x1: Tensor, condition: Tensor | None, *, rng: torch.Generator
    ) -> Tensor:
        """The mean loss of a batch: cells `x0` and noise `x1` ``[n, ...]``, `condition` ``[n, k]`` or ``None``."""
        return self.terms(field, x0, x1, condition, rng=rng)[0].mean()

    def terms(
        self, field: Velocity, x0: Tensor, x1: Tensor, condition: Tensor | None, *, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What `loss` is the mean of: the loss of every cell, and the time it was drawn at, each ``[n]``."""
        order = self.coupling.pair(x0, x1, None, rng=rng)
        x1 = x1 if order is None else x1[order]
        t = self.time.sample(len(x0), rng=rng)
        return self.losses(field, x0, x1, t, condition), t

    def losses(self, field: Velocity, x0: Tensor, x1: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The weighted loss of every cell, ``[n]``: the squared error of the velocity, averaged over coordinates."""
        x, velocity = self.path.sample(x0, x1, t)
        error = (field(x, t, condition).float() - velocity).square().flatten(1).mean(1)
        return self.weight(t) * error
