"""Guidance: a field made to follow its condition more (or less) closely."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.matching.objective import Velocity

__all__ = ["Guided"]


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance on velocities, ``v_none + scale (v_condition - v_none)`` (Ho and Salimans 2022).

    Parameters
    ----------
    field
        A field that was trained with its conditions dropped now and then; NaN stands for "none".
    scale
        1 draws from the learnt law, above 1 sharpens it towards the condition, 0 ignores the condition.
    """

    field: Velocity
    scale: float

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Evaluate both fields in one pass and extrapolate."""
        if condition is None or self.scale == 1:
            return self.field(x, t, condition)
        both = torch.cat([condition, torch.full_like(condition, torch.nan)])
        asked, none = self.field(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(none, asked, self.scale)
