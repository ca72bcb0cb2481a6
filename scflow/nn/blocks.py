"""Blocks that feel the time and the condition at every layer."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["AdaLN", "ResidualBlock"]


class AdaLN(nn.Module):
    """LayerNorm without an affine of its own, then shift and scale from a vector (Peebles and Xie 2023, section 3.2).

    The modulation starts at zero: at first the block is a plain LayerNorm.
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(context, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, width]`` and ``[n, context]`` to ``[n, width]``."""
        scale, shift = self.modulation(context).chunk(2, dim=-1)
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


class ResidualBlock(nn.Module):
    """``x + W2 silu(W1 AdaLN(x))``."""

    def __init__(self, width: int, context: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = AdaLN(width, context)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, width]`` and ``[n, context]`` to ``[n, width]``."""
        out: Tensor = x + self.layers(self.norm(x, context))
        return out
