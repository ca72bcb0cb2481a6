"""The default field: a residual multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from scflow.nn.blocks import AdaLN, ResidualBlock
from scflow.nn.field import Field, zeroed

__all__ = ["MLP"]


class MLP(Field):
    """Residual blocks whose norms are modulated by time and conditions; the output starts at zero.

    Parameters
    ----------
    dim
        Coordinates of the state.
    cardinalities
        Number of categories of each condition, 0 for a continuous one, -m for a vector of m numbers.
    width, depth
        Width of the hidden layers and number of blocks; by default both grow with `dim`.
    dropout
        Share of hidden units dropped in training.

    Examples
    --------
    >>> import torch
    >>> field = MLP(10, cardinalities=(3,))
    >>> field(torch.randn(4, 10), torch.rand(4), torch.tensor([[0.0], [1.0], [2.0], [torch.nan]])).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        dim: int,
        *,
        cardinalities: Sequence[int] = (),
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        width = width or _width(dim)
        depth = depth or (3 if dim <= 512 else 4)
        context = min(width, 256)
        super().__init__({"dim": dim, "width": width, "depth": depth, "dropout": dropout}, cardinalities, context)
        self.first = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, context, dropout=dropout) for _ in range(depth))
        self.norm = AdaLN(width, context)
        self.last = zeroed(nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """States ``[n, dim]``, times ``[n]``, conditions ``[n, k]`` (NaN is none) to velocities ``[n, dim]``."""
        context = self.context(t, condition)
        x = self.first(x)
        for block in self.blocks:
            x = block(x, context)
        out: Tensor = self.last(self.norm(x, context))
        return out


def _width(dim: int) -> int:
    """A power of two of at least seven times the square root of a wide state, 256 at least and 1024 at most."""
    width = 256
    while width < 1024 and width * width < 50 * dim:
        width *= 2
    return width
