r"""Paths from data to noise.

Time runs from the data at :math:`t = 0` to the noise at :math:`t = 1`, here and everywhere in scflow; generating
integrates from 1 down to 0. Several libraries run the other way: every weight and time law changes sign between the
two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Coefficients", "Linear", "Path", "PathSample", "like"]


def like(t: Tensor, x: Tensor) -> Tensor:
    """Times `t` of shape ``[n]`` (or a scalar) with as many trailing axes as `x` has, for broadcasting."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


class Coefficients(NamedTuple):
    """How much of data and noise is in the mixture at a time, and how fast that changes."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class PathSample(NamedTuple):
    """A point on a path and the conditional velocity there."""

    x: Tensor
    velocity: Tensor


class Path(ABC):
    r"""An affine path :math:`x_t = \alpha(t) x_0 + \sigma(t) x_1` (Lipman et al. 2023, section 4)."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Alpha, sigma and their derivatives, written out in closed form, at the times `t`."""

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
        """Mix data `x0` and noise `x1`, both ``[n, ...]``, at the times `t` of shape ``[n]``."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(like(t, x0))
        return PathSample(alpha * x0 + sigma * x1, d_alpha * x0 + d_sigma * x1)


@dataclass(frozen=True)
class Linear(Path):
    """The straight line from data to noise, or rectified flow (Liu et al. 2023, equation 1).

    Examples
    --------
    >>> x0, x1, t = torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.0, 0.25])
    >>> Linear().sample(x0, x1, t).x.squeeze(1).tolist()
    [0.0, 0.25]
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        """``1 - t`` of the data, ``t`` of the noise."""
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
        """Interpolate; the velocity is the same all along the line."""
        velocity = x1 - x0
        return PathSample(torch.addcmul(x0, like(t, x0), velocity), velocity)
