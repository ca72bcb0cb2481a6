"""An embedding of the user's own, standardised; it has no way back to counts."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow.codecs.base import Codec, Settings

__all__ = ["Embedding"]


class Embedding(Codec):
    """Coordinates ``[n, dim]``, each with mean 0 and standard deviation 1.

    Examples
    --------
    >>> codec = Embedding.fit(np.array([[0.0, 10.0], [2.0, 30.0]]))
    >>> codec.mean_state(torch.tensor([[2.0, 10.0]]), None).tolist()
    [[1.0, -1.0]]
    """

    name = "embedding"
    summarizes = True
    has_counts = False
    mean: Tensor
    sd: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.n_genes, self.dim = 0, dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("sd", torch.ones(dim))

    @classmethod
    def fit(cls, coordinates: NDArray[Any]) -> Embedding:
        """From the training cells' coordinates."""
        codec = cls(coordinates.shape[1])
        codec.mean.copy_(torch.from_numpy(coordinates.mean(0)))
        codec.sd.copy_(torch.from_numpy(coordinates.std(0)).clamp_min(1e-8))
        return codec

    def settings(self) -> Settings:
        """The number of coordinates."""
        return {"dim": self.dim}

    def summarize(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """Standardise coordinates (which stand in the place of counts)."""
        return (counts - self.mean) / self.sd

    def draw(self, summary: Tensor, *, rng: torch.Generator) -> Tensor:
        """The summary is the state."""
        return summary

    def log_volume(self) -> float:
        """The sum of the logarithms of the coordinates' standard deviations."""
        return float(self.sd.double().log().sum())

    def decode(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Coordinates in the user's own units."""
        return state * self.sd + self.mean
