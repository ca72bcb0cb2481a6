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

    Examples
    --------
    >>> sinusoids(torch.tensor([0.0]), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    half = width // 2
    frequencies = torch.exp(-math.log(period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = scale * t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """A time as a vector: sinusoids of `scale` times it, and a two-layer network.

    Examples
    --------
    >>> TimeEmbedding(16)(torch.tensor([0.0, 0.5, 1.0])).shape
    torch.Size([3, 16])
    """

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
    """Conditions ``[n, n_columns]`` as a vector: an embedding of each, added up; NaN is "none", which has its own.

    A vector's is linear: what is told as a sum of vectors is embedded as the sum of their embeddings, and an entry that
    never varied in training has no effect.

    Parameters
    ----------
    cardinalities
        Number of categories of each condition, whose values are the codes 0, 1, ...; 0 for a number, -m for a vector of
        m entries, which are columns beside each other.
    width
        Length of the vector.

    Examples
    --------
    >>> embedding = ConditionEmbedding((3, 0), 16)  # three types, and a dose
    >>> embedding(torch.tensor([[2.0, 0.1], [torch.nan, torch.nan]])).shape
    torch.Size([2, 16])
    """

    def __init__(self, cardinalities: Sequence[int], width: int) -> None:
        super().__init__()
        self.cardinalities = tuple(cardinalities)
        self.widths = [max(1, -k) for k in self.cardinalities]
        self.columns = nn.ModuleList(_embedding(k, width) for k in self.cardinalities)

    def forward(self, condition: Tensor) -> Tensor:
        """``[n, n_columns]`` to ``[n, width]``."""
        out: Tensor | float = 0.0
        each = zip(self.cardinalities, self.columns, torch.split(condition, self.widths, dim=1), strict=True)
        for k, column, value in each:
            none = value[:, 0].isnan()
            if k > 0:
                out = out + column(torch.where(none, k, value[:, 0]).long())
            else:
                told = torch.where(none[:, None], 0.0, value)
                out = out + column(torch.cat([told, none.to(value.dtype)[:, None]], dim=1))
        assert isinstance(out, Tensor)
        return out


def _embedding(k: int, width: int) -> nn.Module:
    """What embeds the codes of k categories, a number, or a vector of -k entries, and "none" beside them."""
    if k > 0:
        return nn.Embedding(k + 1, width)
    if k == 0:
        return nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
    linear = nn.Linear(1 - k, width)
    nn.init.zeros_(linear.weight)  # A direction in which no training label differs is never heard of.
    return linear
