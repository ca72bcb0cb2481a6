r"""Loss weights w(t), for the loss on velocities.

A weight belongs to a prediction. On an affine path an error of the velocity is one of the data times a number:
:math:`|\hat x_0 - x_0|^2 = (\sigma / D)^2 |\hat v - v|^2` with :math:`D = \alpha \sigma' - \alpha' \sigma`. So a weight
:math:`w_{x_0}` that is defined on the data is :math:`w_v = w_{x_0} (\sigma / D)^2` here (D is 1 on the linear path, and
:math:`\pi / 2` on the variance-preserving one).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.matching.paths import Path, affine, quotient

__all__ = ["Endpoint", "EndpointNoise", "InverseSNR", "MinSNR", "Uniform", "Weight"]


class Weight(ABC):
    """How much the squared error of the velocity counts at time t.

    Only its shape matters: the objective divides it by its mean under the time law.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> class Middle(Weight):
    ...     def __call__(self, t, path):
    ...         return t * (1 - t)
    >>> Middle()(torch.tensor([0.0, 0.5]), Linear()).tolist()
    [0.0, 0.25]
    """

    @abstractmethod
    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """The weight at the times `t` on `path`, of the same shape as `t`, not negative."""


@dataclass(frozen=True)
class Uniform(Weight):
    """Every time counts the same.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> [round(w, 3) for w in Uniform()(torch.tensor([0.1, 0.5, 0.9]), Linear()).tolist()]
    [1.0, 1.0, 1.0]
    """

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """One, everywhere."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class InverseSNR(Weight):
    r"""More at the noise: :math:`\min(1 / \mathrm{SNR}, \gamma)` on the prediction of the data.

    The signal-to-noise ratio is :math:`(\alpha / \sigma)^2`. Without the clamp the weight has no finite mean. On the
    linear path the velocity's weight is :math:`t^2 \min(t^2 / (1 - t)^2, \gamma)`.

    Parameters
    ----------
    gamma
        The clamp, above 0.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> [round(w, 3) for w in InverseSNR()(torch.tensor([0.1, 0.5, 0.9]), Linear()).tolist()]
    [0.0, 0.25, 4.05]
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _above_zero(self.gamma)

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """The clamped ratio of noise to signal, in the velocity's terms."""
        at = affine(path, "weight='inverse_snr'").coefficients(t)
        ratio = (at.sigma / at.alpha).square().clamp_max(self.gamma)
        return ratio * quotient(at.sigma, at.determinant).square()


@dataclass(frozen=True)
class MinSNR(Weight):
    r"""Less at both ends: :math:`\min(\mathrm{SNR}, \gamma)` on the prediction of the data (Hang et al. 2023, eq. 8).

    The signal-to-noise ratio is :math:`(\alpha / \sigma)^2`. On the linear path the velocity's weight is
    :math:`t^2 \min((1 - t)^2 / t^2, \gamma)`.

    Parameters
    ----------
    gamma
        The clamp, above 0.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> [round(w, 3) for w in MinSNR()(torch.tensor([0.1, 0.5, 0.9]), Linear()).tolist()]
    [0.05, 0.25, 0.01]
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _above_zero(self.gamma)

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """The clamped signal-to-noise ratio, in the velocity's terms; both factors multiplied out, for t = 0."""
        at = affine(path, "weight='min_snr'").coefficients(t)
        clamped = torch.minimum(at.alpha.square(), self.gamma * at.sigma.square())
        return quotient(clamped.sqrt(), at.determinant).square()


@dataclass(frozen=True)
class Endpoint(Weight):
    """More at the data: ``(1 - t)^2``, defined on the velocity.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> [round(w, 3) for w in Endpoint()(torch.tensor([0.1, 0.5, 0.9]), Linear()).tolist()]
    [0.81, 0.25, 0.01]
    """

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """``(1 - t)^2``."""
        return (1 - t).square()


@dataclass(frozen=True)
class EndpointNoise(Weight):
    """More at the noise: ``t^2``, defined on the velocity.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> [round(w, 3) for w in EndpointNoise()(torch.tensor([0.1, 0.5, 0.9]), Linear()).tolist()]
    [0.01, 0.25, 0.81]
    """

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """``t^2``."""
        return t.square()


def _above_zero(gamma: float) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma={gamma} must be above 0: the ratio is clamped there.")
