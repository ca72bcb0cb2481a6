"""Loss weights w(t), for the loss on velocities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Uniform", "Weight"]


class Weight(ABC):
    """How much the squared error of the velocity counts at time t; its mean is 1 under the time law."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """The weight at the times `t`, of the same shape."""


@dataclass(frozen=True)
class Uniform(Weight):
    """Every time counts the same."""

    def __call__(self, t: Tensor) -> Tensor:
        """One, everywhere."""
        return torch.ones_like(t)
