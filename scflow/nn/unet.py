"""A field for expression vectors: a U of narrowing dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scflow.nn.blocks import DenseBlock
from scflow.nn.field import Field, zeroed

__all__ = ["UNet"]


class UNet(Field):
    """Dense layers that narrow level by level and widen again, with a skip connection across each level.

    The arrangement is that of Ronneberger, Fischer and Brox 2015 (figure 1) without the convolutions. Time and
    conditions modulate every block (FiLM); the output starts at zero.

    Parameters
    ----------
    dim
        Coordinates of the state.
    cardinalities
        Number of categories of each condition, 0 for a continuous one, -m for a vector of m numbers.
    width
        Width of the first level; by default it grows with `dim`.
    levels
        How many there are, each half as wide as the one before.
    dropout
        Share of hidden units dropped in training.

    Examples
    --------
    >>> import torch
    >>> field = UNet(10, cardinalities=(3,))
    >>> field(torch.randn(4, 10), torch.rand(4), torch.tensor([[0.0], [1.0], [2.0], [torch.nan]])).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        dim: int,
        *,
        cardinalities: Sequence[int] = (),
        width: int | None = None,
        levels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        width = width or (256 if dim <= 512 else 512)
        widths = [width // 2**level for level in range(levels)]
        if levels < 2 or widths[-1] < 4:
            raise ValueError(
                f"width={width} cannot be halved over levels={levels}. Use 2 or more, the last 4 or wider."
            )
        context = min(width, 256)
        super().__init__({"dim": dim, "width": width, "levels": levels, "dropout": dropout}, cardinalities, context)

        def block(width: int, out: int) -> DenseBlock:
            return DenseBlock(width, out, context, dropout=dropout)

        self.first = nn.Linear(dim, width)
        self.down = nn.ModuleList(block(w, w) for w in widths[:-1])
        self.narrow = nn.ModuleList(nn.Linear(w, w // 2) for w in widths[:-1])
        self.middle = block(widths[-1], widths[-1])
        self.widen = nn.ModuleList(nn.Linear(w // 2, w) for w in widths[:-1])
        self.up = nn.ModuleList(block(2 * w, w) for w in widths[:-1])
        self.norm = nn.LayerNorm(width)
        self.last = zeroed(nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """States ``[n, dim]``, times ``[n]``, conditions ``[n, k]`` (NaN is none) to velocities ``[n, dim]``."""
        context = self.context(t, condition)
        x, skips = self.first(x), []
        for block, narrow in zip(self.down, self.narrow, strict=True):
            x = block(x, context)
            skips.append(x)
            x = narrow(x)
        x = self.middle(x, context)
        for block, widen in zip(reversed(self.up), reversed(self.widen), strict=True):
            x = block(torch.cat([widen(x), skips.pop()], dim=1), context)
        out: Tensor = self.last(self.norm(x))
        return out
