"""Solvers of dx/dt = v(x, t), from noise at t=1 to data at t=0, or back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["Euler", "Heun", "Midpoint", "Solver", "grid"]

Velocity = Callable[[Tensor, Tensor], Tensor]


def grid(steps: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """``steps + 1`` equally spaced times from `start` to `end`, float32."""
    return torch.linspace(start, end, steps + 1, dtype=torch.float64).float()


class Solver(ABC):
    """A one-step method: its `order` is the power of the step that its error falls with."""

    order: ClassVar[int]
    evaluations: ClassVar[int]

    @abstractmethod
    def step(self, velocity: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """The state at ``t + h``, from the state `x` at `t` (both times are scalars)."""

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """The state at the last of `times`, from the state `x` at the first."""
        for t, t_next in pairwise(times):
            x = self.step(velocity, x, t, t_next - t)
        return x


@dataclass(frozen=True)
class Euler(Solver):
    """First order, one evaluation a step."""

    order = 1
    evaluations = 1

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Follow the velocity at the start of the step."""
        return x + h * velocity(x, t)


@dataclass(frozen=True)
class Midpoint(Solver):
    """Second order, two evaluations a step."""

    order = 2
    evaluations = 2

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Follow the velocity in the middle of the step."""
        middle = x + h / 2 * velocity(x, t)
        return x + h * velocity(middle, t + h / 2)


@dataclass(frozen=True)
class Heun(Solver):
    """Second order, two evaluations a step: the trapezoidal rule with an Euler predictor."""

    order = 2
    evaluations = 2

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Follow the mean of the velocities at both ends of the step."""
        here = velocity(x, t)
        there = velocity(x + h * here, t + h)
        return x + h / 2 * (here + there)
