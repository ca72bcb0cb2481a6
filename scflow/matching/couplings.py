"""Couplings: which noise belongs to which cell.

A coupling returns indices, never data, so that conditions can follow their cell. Cells are paired within their group:
pairing across conditions lowers the loss and learns the wrong law.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coupling", "Independent"]


class Coupling(ABC):
    """A rule that pairs two minibatches of equal size."""

    @abstractmethod
    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor | None:
        """Index into `x1`, aligned with `x0` (``None`` leaves them as drawn); `group` ``[n]`` holds for both."""


@dataclass(frozen=True)
class Independent(Coupling):
    """Pairs as they were drawn."""

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor | None:
        """Leave the pairs alone."""
        return None
