"""Blocks that feel the time and the condition at every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AdaLN", "Attention", "ConvBlock", "DenseBlock", "FiLM", "ResidualBlock", "TransformerBlock"]


def _modulation(context: int, width: int) -> nn.Linear:
    """Shifts, scales and gates from a context; all zero at first."""
    layer = nn.Linear(context, width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class FiLM(nn.Module):
    """``x * (1 + scale) + shift``, both from a vector, a pair for each channel (Perez et al. 2018, equation 2).

    The modulation starts at zero: at first the block passes its input through.

    Examples
    --------
    >>> FiLM(8, 4)(torch.ones(2, 8), torch.ones(2, 4)).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.modulation = _modulation(context, 2 * width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, width, ...]`` and ``[n, context]`` to ``[n, width, ...]``."""
        scale, shift = self.modulation(context).reshape(len(x), -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
        out: Tensor = x * (1 + scale) + shift
        return out


class AdaLN(nn.Module):
    """LayerNorm without an affine of its own, then shift and scale from a vector (Peebles and Xie 2023, section 3.2).

    The modulation starts at zero: at first the block is a plain LayerNorm.

    Examples
    --------
    >>> AdaLN(8, 4)(torch.randn(2, 8, generator=rng), torch.ones(2, 4)).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _modulation(context, 2 * width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, ..., width]`` and ``[n, context]`` to ``[n, ..., width]``."""
        scale, shift = self.modulation(context).reshape(len(x), *(1,) * (x.ndim - 2), -1).chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class ResidualBlock(nn.Module):
    """``x + W2 silu(W1 AdaLN(x))``.

    Examples
    --------
    >>> ResidualBlock(8, 4)(torch.ones(2, 8), torch.ones(2, 4)).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int, context: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = AdaLN(width, context)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, width]`` and ``[n, context]`` to ``[n, width]``."""
        out: Tensor = x + self.layers(self.norm(x, context))
        return out


class Attention(nn.Module):
    """Multi-head self-attention, batch first (Vaswani et al. 2017, section 3.2).

    Examples
    --------
    >>> Attention(8, heads=2)(torch.ones(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} cannot be shared out among heads={heads}. Take a multiple of {heads}.")
        self.heads = heads
        self.inner = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[n, tokens, width]`` to tokens."""
        n, tokens, width = x.shape
        split = self.inner(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.outer(seen.transpose(1, 2).reshape(n, tokens, width))
        return out


class TransformerBlock(nn.Module):
    """Attention, then a network for each token, with AdaLN-zero (Peebles and Xie 2023, section 3.2).

    Six modulations come from the context: shift, scale and gate, for either branch. They start at zero, and with them
    the block as the identity. The last layers of the branches do not: beside a closed gate they would never learn.

    Examples
    --------
    >>> TransformerBlock(8, 4, heads=2)(torch.ones(2, 5, 8), torch.ones(2, 4)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, context: int, *, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.modulation = _modulation(context, 6 * width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Tokens ``[n, tokens, width]`` and ``[n, context]`` to tokens."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(context)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attention(self.norm(x) * (1 + scale) + shift)
        out: Tensor = x + gate_2 * self.layers(self.norm(x) * (1 + scale_2) + shift_2)
        return out


class DenseBlock(nn.Module):
    """A ResNet block of dense layers, ``W x + W2 silu(FiLM(norm(W1 silu(norm(x)))))``, between two widths.

    Examples
    --------
    >>> DenseBlock(8, 3, 4)(torch.ones(2, 8), torch.ones(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, width: int, out: int, context: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, out), nn.LayerNorm(out))
        self.film = FiLM(out, context)
        self.outer = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(out, out))
        self.skip = nn.Identity() if width == out else nn.Linear(width, out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, width]`` and ``[n, context]`` to ``[n, out]``."""
        result: Tensor = self.skip(x) + self.outer(self.film(self.inner(x), context))
        return result


class ConvBlock(nn.Module):
    """A ResNet block of convolutions with GroupNorm, SiLU and FiLM (Dhariwal and Nichol 2021, section 3).

    Examples
    --------
    >>> ConvBlock(8, 3, 4)(torch.ones(2, 8, 6, 6), torch.ones(2, 4)).shape
    torch.Size([2, 3, 6, 6])
    """

    def __init__(self, channels: int, out: int, context: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out, 3, padding=1)
        self.inner = nn.Sequential(group_norm(channels), nn.SiLU(), conv, group_norm(out))
        self.film = FiLM(out, context)
        self.outer = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, channels, height, width]`` and ``[n, context]`` to ``[n, out, height, width]``."""
        result: Tensor = self.skip(x) + self.outer(self.film(self.inner(x), context))
        return result


def group_norm(channels: int, *, most: int = 32) -> nn.GroupNorm:
    """GroupNorm in as many groups, 32 at most, as divide the channels into fours or more (Wu and He 2018)."""
    groups = next(g for g in range(max(1, min(most, channels // 4)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def tokens_of(image: Tensor) -> Tensor:
    """Every place of ``[n, channels, height, width]`` as a token, ``[n, height * width, channels]``."""
    return image.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `tokens_of`."""
    return torch.unflatten(tokens.transpose(1, 2), 2, (height, width))
