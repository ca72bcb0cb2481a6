"""The law that training times are drawn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Stratified", "Time", "Uniform"]


class Time(ABC):
    """A law of times in [0, 1]. It returns its density, so that it can be told apart from a loss weight."""

    @abstractmethod
    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """`n` times in [0, 1], float32, on the device of `rng`."""

    def density(self, t: Tensor) -> Tensor:
        """The density of the law at `t`; uniform unless a law says otherwise."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class Uniform(Time):
    """Every time is drawn independently and equally often."""

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """Draw `n` independent times."""
        return torch.rand(n, generator=rng, device=rng.device)


@dataclass(frozen=True)
class Stratified(Time):
    """Uniform, with one draw in each of `n` equal bins: the loss of a batch varies less from step to step.

    The draws are shuffled, or a cell's time would follow its place in the batch.
    """

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """Draw one time in each bin and shuffle them."""
        order = torch.randperm(n, generator=rng, device=rng.device)
        return (order + torch.rand(n, generator=rng, device=rng.device)) / n
