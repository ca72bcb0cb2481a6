"""Times and conditions as vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ConditionEmbedding", "TimeEmbedding", "sinusoids"]


def sinusoids(t: Tensor, width: int, *, scale: float = 1000.0, period: float = 10_000.0) -> Tensor:
    """Half sines, half cosines of `t` ``[n]``, as ``[n, width]``, in float32 (Vaswani et al. 2017, section 3.5).

    Times in [0, 1] are scaled by 1000 first: unscaled, nearly all of the embedding is one direction.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = scale * t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """A time as a vector: sinusoids of `scale` times it, and a two-layer network."""

    def __init__(self, width: int, *, frequencies: int = 128, scale: float = 1000.0) -> None:
        super().__init__()
        self.frequencies, self.scale, self.width = frequencies, scale, width
        self.layers = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def start_at_zero(self) -> None:
        """Embed every time as zero, to begin with."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, t: Tensor) -> Tensor:
        """``[n]`` to ``[n, width]``."""
        out: Tensor = self.layers(sinusoids(t, self.frequencies, scale=self.scale))
        return out


class ConditionEmbedding(nn.Module):
    """Conditions ``[n, k]`` as a vector: the sum of an embedding of each; NaN stands for "none", which has its own.

    Parameters
    ----------
    cardinalities
        Number of categories of each column, whose values are the codes 0, 1, ...; 0 for a continuous column.
    width
        Length of the vector.
    """

    def __init__(self, cardinalities: Sequence[int], width: int) -> None:
        super().__init__()
        self.cardinalities = tuple(cardinalities)
        self.columns = nn.ModuleList(
            nn.Embedding(k + 1, width) if k else nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
            for k in self.cardinalities
        )

    def forward(self, condition: Tensor) -> Tensor:
        """``[n, k]`` to ``[n, width]``."""
        missing = condition.isnan()
        out: Tensor | float = 0.0
        for j, (k, column) in enumerate(zip(self.cardinalities, self.columns, strict=True)):
            value, none = condition[:, j], missing[:, j]
            if k:
                out = out + column(torch.where(none, k, value).long())
            else:
                out = out + column(torch.stack([torch.where(none, 0.0, value), none.to(value.dtype)], dim=1))
        assert isinstance(out, Tensor)
        return out
