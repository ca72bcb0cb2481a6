"""What a velocity field is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from scflow.nn.embeddings import ConditionEmbedding, TimeEmbedding

__all__ = ["Field", "zeroed"]


class Field(nn.Module, ABC):
    """A network ``field(x, t, condition) -> velocity`` that feels time and conditions through one vector.

    Any other module of that signature will do as a field; these can be saved, by their `settings`.

    Attributes
    ----------
    settings
        What the constructor needs to build the network anew, as JSON types; weights follow in the state dict.
    """

    settings: dict[str, Any]

    def __init__(self, settings: Mapping[str, Any], cardinalities: Sequence[int], context: int) -> None:
        super().__init__()
        self.settings = {**settings, "cardinalities": list(cardinalities)}
        self.time = TimeEmbedding(context)
        self.condition = ConditionEmbedding(cardinalities, context) if cardinalities else None

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """States ``[n, ...]``, times ``[n]``, conditions ``[n, k]`` (NaN is none) to velocities ``[n, ...]``."""

    def context(self, t: Tensor, condition: Tensor | None) -> Tensor:
        """Times ``[n]`` and conditions ``[n, k]`` as one vector a cell; no conditions at all is none of each."""
        context: Tensor = self.time(t)
        if self.condition is not None:
            if condition is None:
                condition = t.new_full((len(t), len(self.condition.cardinalities)), float("nan"))
            context = context + self.condition(condition)
        return functional.silu(context)


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The layer with all of its weights at zero: a field's last, so that its output starts at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
