"""The law of the noise x1 that cells are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dropout", "Gaussian", "Noise"]


class Noise(ABC):
    """A law of states ``[n, dim]``. It says of itself whether it is Gaussian and whether it has a density."""

    is_gaussian: bool = False
    has_density: bool = False

    @abstractmethod
    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """`n` states of `dim` coordinates, float32, on the device of `rng`."""

    def sd(self, dim: int) -> Tensor:
        """The standard deviation of each of `dim` coordinates; one, unless a law says otherwise."""
        return torch.ones(dim)


@dataclass(frozen=True)
class Gaussian(Noise):
    """Standard normal noise."""

    is_gaussian = True
    has_density = True

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Draw independent standard normals."""
        return torch.randn(n, dim, generator=rng, device=rng.device)


@dataclass(frozen=True, eq=False)
class Dropout(Noise):
    """Normal noise with zeros where the data have them: coordinate g is masked with the data's own rate of zeros.

    A masked noise has atoms, and a deterministic flow cannot spread an atom: without jitter many cells would land on
    one point. The jitter is a second, small normal, added to every coordinate. There is no density to speak of.

    Parameters
    ----------
    rate
        Share of zeros of each coordinate, ``[dim]``, in [0, 1]; 0 leaves a coordinate Gaussian.
    jitter
        Standard deviation of the normal that is added everywhere, above 0.
    """

    rate: Tensor
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not self.jitter > 0:
            raise ValueError(f"jitter={self.jitter} must be above 0: a flow cannot spread the atoms of masked noise.")
        if not bool(((self.rate >= 0) & (self.rate <= 1)).all()):
            raise ValueError("rate must lie in [0, 1]: it is the share of zeros of each coordinate.")

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Mask a normal draw, then add the jitter."""
        shape, device = (n, dim), rng.device
        keep = torch.rand(shape, generator=rng, device=device) >= self.rate.to(device)
        x = torch.randn(shape, generator=rng, device=device) * keep
        return x.add_(torch.randn(shape, generator=rng, device=device), alpha=self.jitter)

    def sd(self, dim: int) -> Tensor:
        """Square root of the kept share plus the jitter's variance."""
        return (1 - self.rate + self.jitter**2).sqrt()
