"""A field whose tokens are patches of genes: a diffusion transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scflow.nn.blocks import AdaLN, TransformerBlock
from scflow.nn.field import Field

__all__ = ["Transformer"]

_FEWEST, _MOST = 4, 16
"""Tokens that a cell is cut into: at least, and by default at most."""


class Transformer(Field):
    """A diffusion transformer (Peebles and Xie 2023) on a cell cut into patches of coordinates.

    Coordinates are put in order, cut into patches of equal size (zeros fill the last), and each patch becomes a token
    through a linear map of its own: unlike pixels, the genes of two patches have nothing in common. Learned position
    embeddings are added, blocks modulated by time and conditions (AdaLN-zero) follow, and each token becomes the
    velocity of its patch. The output starts at zero.

    Parameters
    ----------
    dim
        Coordinates of the state.
    cardinalities
        Number of categories of each condition, 0 for a continuous one, -m for a vector of m numbers.
    patch
        Coordinates a token; by default one, or as many as leave at most 16 tokens.
    width, depth, heads
        Length of a token, number of blocks, and of heads in each.
    dropout
        Share of hidden units dropped in training.

    Attributes
    ----------
    order
        The coordinates in the order in which they are cut into patches, ``[dim]``; at first as they are. It is kept
        with the weights. See :func:`scflow.codecs.coexpression_order`.

    Raises
    ------
    ValueError
        Where a patch is so large that fewer than four tokens are left (and coordinates for more): with a single token
        attention is a linear map.

    Examples
    --------
    >>> import torch
    >>> field = Transformer(10, cardinalities=(3,), patch=2)
    >>> field(torch.randn(4, 10), torch.rand(4), torch.tensor([[0.0], [1.0], [2.0], [torch.nan]])).shape
    torch.Size([4, 10])
    """

    order: Tensor

    def __init__(
        self,
        dim: int,
        *,
        cardinalities: Sequence[int] = (),
        patch: int | None = None,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        patch = patch or -(-dim // _MOST)
        tokens = -(-dim // patch)
        if tokens < min(dim, _FEWEST):
            raise ValueError(
                f"patch={patch} makes {tokens} tokens of {dim} coordinates, and attention needs some to attend to: "
                f"{_FEWEST} at least. Use patch={max(1, dim // 16)}."
            )
        context = max(width, 128)
        settings = {"dim": dim, "patch": patch, "width": width, "depth": depth, "heads": heads}
        super().__init__({**settings, "dropout": dropout}, cardinalities, context)
        self.dim, self.patch, self.tokens = dim, patch, tokens
        self.register_buffer("order", torch.arange(dim))
        self.first = nn.Parameter(torch.randn(tokens, patch, width) / math.sqrt(patch))
        self.position = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, context, heads=heads, dropout=dropout) for _ in range(depth)
        )
        self.norm = AdaLN(width, context)
        self.last = nn.Parameter(torch.zeros(tokens, width, patch))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """States ``[n, dim]``, times ``[n]``, conditions ``[n, k]`` (NaN is none) to velocities ``[n, dim]``."""
        context = self.context(t, condition)
        cut = self.patches(x)
        tokens = torch.einsum("ntp,tpw->ntw", cut, self.first) + self.position.weight
        for block in self.blocks:
            tokens = block(tokens, context)
        velocity = torch.einsum("ntw,twp->ntp", self.norm(tokens, context), self.last)
        flat = velocity.flatten(1)[:, : self.dim]
        return torch.zeros_like(flat).index_copy(1, self.order, flat) + self.bias

    def patches(self, x: Tensor) -> Tensor:
        """States ``[n, dim]`` in order and in patches, ``[n, tokens, patch]``."""
        padded = functional.pad(x[:, self.order], (0, self.tokens * self.patch - self.dim))
        return padded.reshape(len(x), self.tokens, self.patch)

    @property
    def is_arranged(self) -> bool:
        """Whether the coordinates were given another order than their own."""
        return not torch.equal(self.order.cpu(), torch.arange(self.dim))

    @torch.no_grad()
    def arrange(self, order: Tensor) -> None:
        """Cut the coordinates into patches in this order, a permutation ``[dim]``.

        Raises
        ------
        ValueError
            Where it is none.
        """
        if not torch.equal(order.cpu().sort().values, torch.arange(self.dim)):
            raise ValueError(f"order is no permutation of {self.dim} coordinates: each has to come once.")
        self.order.copy_(order)
