"""A field for pictures: rasterised spatial expression, one channel a gene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scflow.nn.blocks import Attention, ConvBlock, group_norm, image_of, tokens_of
from scflow.nn.field import Field, zeroed

__all__ = ["UNet2d"]


class UNet2d(Field):
    """A convolutional U-Net with ResNet blocks (Ronneberger et al. 2015; Dhariwal and Nichol 2021, section 3).

    Each level has half the height and width of the one before, rounded up, so that pictures may be of any size. Time
    and conditions modulate every block (FiLM); the narrowest level also has attention between all of its places. The
    output starts at zero.

    Parameters
    ----------
    channels
        Genes of the picture.
    cardinalities
        Number of categories of each condition, 0 for a continuous one, -m for a vector of m numbers.
    width
        Channels of the first level.
    multipliers
        Channels of each level, in multiples of `width`.
    depth
        ResNet blocks of each level, on the way down and on the way up.
    heads
        Of the attention.
    dropout
        Share of hidden channels dropped in training.

    Examples
    --------
    >>> import torch
    >>> field = UNet2d(5, cardinalities=(3,), width=16, multipliers=(1, 2))
    >>> field(torch.randn(2, 5, 9, 7), torch.rand(2), torch.tensor([[0.0], [torch.nan]])).shape
    torch.Size([2, 5, 9, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        cardinalities: Sequence[int] = (),
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        settings = {"channels": channels, "width": width, "multipliers": list(multipliers), "depth": depth}
        context = 4 * width
        super().__init__({**settings, "heads": heads, "dropout": dropout}, cardinalities, context)
        widths = [width * m for m in multipliers]

        def blocks(first: int, out: int) -> nn.ModuleList:
            ins = [first] + [out] * (depth - 1)
            return nn.ModuleList(ConvBlock(i, out, context, dropout=dropout) for i in ins)

        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(blocks(i, o) for i, o in zip([width, *widths], widths[:-1]))
        self.narrow = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = nn.ModuleList(blocks([width, *widths][-2], widths[-1]))
        self.norm_tokens = group_norm(widths[-1])
        self.attention = Attention(widths[-1], heads)
        self.after = ConvBlock(widths[-1], widths[-1], context, dropout=dropout)
        self.widen = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(widths[1:], widths[:-1], strict=True))
        self.up = nn.ModuleList(blocks(2 * w, w) for w in widths[:-1])
        self.norm = group_norm(widths[0])
        self.last = zeroed(nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Pictures ``[n, genes, height, width]``, times ``[n]``, conditions ``[n, k]`` to velocities of that shape."""
        context = self.context(t, condition)
        x, skips = self.first(x), []
        for blocks, narrow in zip(self.down, self.narrow, strict=True):
            x = _through(blocks, x, context)
            skips.append(x)
            x = narrow(x)
        x = self._bottleneck(x, context)
        for blocks, widen in zip(reversed(self.up), reversed(self.widen), strict=True):
            skip = skips.pop()
            x = widen(functional.interpolate(x, size=skip.shape[-2:], mode="nearest"))
            x = _through(blocks, torch.cat([x, skip], dim=1), context)
        out: Tensor = self.last(functional.silu(self.norm(x)))
        return out

    def _bottleneck(self, x: Tensor, context: Tensor) -> Tensor:
        """The narrowest level: blocks, attention, a block."""
        x = _through(self.middle, x, context)
        x = x + image_of(self.attention(tokens_of(self.norm_tokens(x))), *x.shape[-2:])
        out: Tensor = self.after(x, context)
        return out


def _through(blocks: nn.Module, x: Tensor, context: Tensor) -> Tensor:
    """One block after another."""
    for block in blocks.children():
        x = block(x, context)
    return x
