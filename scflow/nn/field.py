"""What a velocity field is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from scflow.nn.embeddings import ConditionEmbedding, TimeEmbedding

__all__ = ["Field", "zeroed"]

_MAP_SCALE = 10.0


class Field(nn.Module, ABC):
    """A network ``field(x, t, condition) -> velocity`` that feels time and conditions through one vector.

    Any other module of that signature will do as a field; these can be saved, by their `settings`.

    Attributes
    ----------
    settings
        What the constructor needs to build the network anew, as JSON types; weights follow in the state dict.

    Examples
    --------
    >>> import torch
    >>> class Linear(Field):
    ...     def __init__(self, dim, *, cardinalities=()):
    ...         super().__init__({"dim": dim}, cardinalities, context=8)
    ...         self.layer = torch.nn.Linear(dim + 8, dim)
    ...
    ...     def forward(self, x, t, condition=None):
    ...         return self.layer(torch.cat([x, self.context(t, condition)], dim=1))
    >>> Linear(2, cardinalities=(3,))(torch.zeros(4, 2), torch.zeros(4), torch.ones(4, 1)).shape
    torch.Size([4, 2])
    """

    settings: dict[str, Any]

    def __init__(self, settings: Mapping[str, Any], cardinalities: Sequence[int], context: int) -> None:
        super().__init__()
        self.settings = {**settings, "cardinalities": list(cardinalities)}
        self.time = TimeEmbedding(context)
        self.length: TimeEmbedding | None = None
        self.condition = ConditionEmbedding(cardinalities, context) if cardinalities else None

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """States ``[n, ...]``, times ``[n]``, conditions ``[n, k]`` (NaN is none) to velocities ``[n, ...]``."""

    def take_two_times(self) -> None:
        """From now on read times ``[n, 2]``, from which and to which, as the field of a flow map has to.

        The length of the way from the one to the other gets an embedding of its own, of scale 10: some losses of maps
        differentiate in it, and the derivative of the usual one is a hundred times as large. It starts at zero, so that
        the field says for every length what it said for the first time alone.
        """
        self.length = TimeEmbedding(self.time.width, scale=_MAP_SCALE)
        self.length.start_at_zero()

    def context(self, t: Tensor, condition: Tensor | None) -> Tensor:
        """Times ``[n]`` and conditions ``[n, k]`` as one vector a cell; no conditions at all is none of each.

        Where the field takes two times, ``[n, 2]``, the second counts by its distance from the first.
        """
        if self.length is None:
            context: Tensor = self.time(t)
        else:
            t, until = t.unbind(1)
            context = self.time(t) + self.length(t - until)
        if self.condition is not None:
            if condition is None:
                condition = t.new_full((len(t), sum(self.condition.widths)), float("nan"))
            context = context + self.condition(condition)
        return functional.silu(context)


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The layer with all of its weights at zero: a field's last, so that its output starts at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
