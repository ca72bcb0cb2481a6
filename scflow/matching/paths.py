r"""Paths from data to noise.

Time runs from the data at :math:`t = 0` to the noise at :math:`t = 1`, here and everywhere in scflow; generating
integrates from 1 down to 0. Several libraries run the other way: every weight and time law changes sign between the
two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scflow.errors import InputError

__all__ = [
    "Affine",
    "Coefficients",
    "Linear",
    "Path",
    "PathSample",
    "Predictions",
    "VariancePreserving",
    "VariancePreservingLinear",
    "VariancePreservingOwn",
    "affine",
    "like",
    "quotient",
]

_ALMOST_ONE = 1 - 1e-3
_HALVINGS = 60


def like(t: Tensor, x: Tensor) -> Tensor:
    """Times `t` of shape ``[n]`` (or a scalar) with as many trailing axes as `x` has, for broadcasting.

    Examples
    --------
    >>> like(torch.tensor([0.1, 0.2]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


class PathSample(NamedTuple):
    """A point on a path and the conditional velocity there.

    Examples
    --------
    >>> x0, x1, t = torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.25])
    >>> Linear().sample(x0, x1, t)
    PathSample(x=tensor([[0.2500]]), velocity=tensor([[1.]]))
    """

    x: Tensor
    velocity: Tensor


class Path(ABC):
    """A way from data to noise, differentiable in time: ``x_t = psi_t(x0, x1)`` (Lipman et al. 2023, section 4).

    Attributes
    ----------
    end
        The latest time that the path is trained at and solved from: 1, unless its velocity has no limit there.

    Examples
    --------
    >>> class Detour(Path):
    ...     def sample(self, x0, x1, t):
    ...         t = like(t, x0)
    ...         bow = (torch.pi * t).sin()
    ...         return PathSample((1 - t) * x0 + t * x1 + bow, x1 - x0 + torch.pi * (torch.pi * t).cos())
    >>> Detour().sample(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.5])).x.tolist()
    [[1.5]]
    """

    end: float = 1.0

    @abstractmethod
    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
        """The point between data `x0` and noise `x1`, both ``[n, ...]``, at the times `t` ``[n]``; its derivative."""


class Coefficients(NamedTuple):
    """How much of data and noise is in the mixture at a time, and how fast that changes.

    Examples
    --------
    >>> at = Linear().coefficients(torch.tensor(0.25))
    >>> at.alpha.item(), at.sigma.item(), at.determinant.item()
    (0.75, 0.25, 1.0)
    """

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def determinant(self) -> Tensor:
        """``alpha sigma' - alpha' sigma``: state and velocity tell data and noise apart where it is not 0."""
        return self.alpha * self.d_sigma - self.d_alpha * self.sigma

    @property
    def norm(self) -> Tensor:
        """``sqrt(alpha^2 + sigma^2)``."""
        return (self.alpha.square() + self.sigma.square()).sqrt()


class Predictions(NamedTuple):
    """What a state is made of, and where it goes: three ways of saying the same.

    Examples
    --------
    >>> x, t = torch.tensor([[2.5]]), torch.tensor([0.5])
    >>> Linear().given_data(x, t, torch.tensor([[1.0]]))
    Predictions(data=tensor([[1.]]), noise=tensor([[4.]]), velocity=tensor([[3.]]))
    """

    data: Tensor
    noise: Tensor
    velocity: Tensor


class Affine(Path):
    r"""A path :math:`x_t = \alpha(t) x_0 + \sigma(t) x_1` (Lipman et al. 2023, section 4).

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Quadratic(Affine):
    ...     def coefficients(self, t):
    ...         return Coefficients(1 - t**2, t**2, -2 * t, 2 * t)
    >>> Quadratic().sample(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.5])).velocity.tolist()
    [[1.0]]
    """

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Alpha, sigma and their derivatives, written out in closed form, at the times `t`."""

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
        """Mix data `x0` and noise `x1`, both ``[n, ...]``, at the times `t` of shape ``[n]``."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(like(t, x0))
        return PathSample(alpha * x0 + sigma * x1, d_alpha * x0 + d_sigma * x1)

    def given_data(self, x: Tensor, t: Tensor, data: Tensor) -> Predictions:
        r"""All predictions from that of the data: :math:`x_1 = (x - \alpha x_0) / \sigma`.

        An error of `data` grows by :math:`\alpha / \sigma` towards t = 0. At t = 0 itself the state holds no noise, and
        the noise is given as 0, the mean of what it can be.
        """
        at = self.coefficients(like(t, x))
        noise = quotient(x - at.alpha * data, at.sigma)
        return Predictions(data, noise, at.d_alpha * data + at.d_sigma * noise)

    def given_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Predictions:
        r"""All predictions from that of the noise: :math:`x_0 = (x - \sigma x_1) / \alpha`.

        An error of `noise` grows by :math:`\sigma / \alpha` towards t = 1. At t = 1 itself the state holds no data, and
        the data are given as 0, their mean where they are centred.
        """
        at = self.coefficients(like(t, x))
        data = quotient(x - at.sigma * noise, at.alpha)
        return Predictions(data, noise, at.d_alpha * data + at.d_sigma * noise)

    def given_velocity(self, x: Tensor, t: Tensor, velocity: Tensor) -> Predictions:
        r"""All predictions from that of the velocity, at all times up to the path's `end`.

        With :math:`D = \alpha \sigma' - \alpha' \sigma`, the data are :math:`(\sigma' x - \sigma v) / D` and the noise
        :math:`(\alpha v - \alpha' x) / D`. Where a path sets off with D = 0, at t = 0, the noise is given as 0.
        """
        at = self.coefficients(like(t, x))
        noise = quotient(at.alpha * velocity - at.d_alpha * x, at.determinant)
        data = quotient(at.d_sigma * x - at.sigma * velocity, at.determinant)
        still = at.determinant.abs() <= torch.finfo(x.dtype).eps
        return Predictions(torch.where(still, quotient(x, at.alpha), data), noise, velocity)

    def angle(self, t: Tensor) -> Tensor:
        """``atan2(sigma, alpha)``, from 0 where all is data to pi / 2 where all is noise; it grows with `t`."""
        at = self.coefficients(t)
        return torch.atan2(at.sigma, at.alpha)

    def time_at(self, angle: Tensor) -> Tensor:
        """The time of an angle: the inverse of `angle`, by bisection unless a path has it in closed form."""
        wanted = _wide(angle)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.angle(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(angle.dtype)


@dataclass(frozen=True)
class Linear(Affine):
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

    def time_at(self, angle: Tensor) -> Tensor:
        """The share of the sine in sine and cosine."""
        return angle.sin() / (angle.sin() + angle.cos())


@dataclass(frozen=True)
class VariancePreserving(Affine):
    r"""Data and noise on a circle, :math:`x_t = \cos(\pi t / 2) x_0 + \sin(\pi t / 2) x_1`.

    It is :math:`\sqrt{1 - s(t)^2} x_0 + s(t) x_1` with :math:`s = \sin(\pi t / 2)` (Albergo and Vanden-Eijnden 2023,
    section 3): the state's variance stays what it is where data and noise have the same, and so does the velocity's.

    Examples
    --------
    >>> x0, x1, t = torch.ones(3, 1), torch.zeros(3, 1), torch.tensor([0.0, 2 / 3, 1.0])
    >>> [round(x, 6) for x in VariancePreserving().sample(x0, x1, t).x.squeeze(1).tolist()]
    [1.0, 0.5, 0.0]
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        """The cosine (as the sine of what is left, so that it is 0 at t = 1) and the sine of the angle."""
        half = math.pi / 2
        alpha, sigma = (half * (1 - t)).sin(), (half * t).sin()
        return Coefficients(alpha, sigma, -half * sigma, half * alpha)

    def time_at(self, angle: Tensor) -> Tensor:
        """The angle runs evenly."""
        return angle * (2 / math.pi)


@dataclass(frozen=True)
class VariancePreservingLinear(Affine):
    r"""The variance-preserving path with :math:`s(t) = t`: :math:`x_t = \sqrt{1 - t^2} x_0 + t x_1`.

    Its velocity, :math:`-t / \sqrt{1 - t^2} x_0 + x_1`, has no limit at t = 1, and two thirds of the loss would come
    from t > 0.99: the path ends before, in training and in drawing.

    Parameters
    ----------
    end
        The latest time, above 0 and below 1.

    Examples
    --------
    >>> at = VariancePreservingLinear().coefficients(torch.tensor(0.6))
    >>> round(at.alpha.item(), 3), round(at.sigma.item(), 3)
    (0.8, 0.6)
    """

    end: float = _ALMOST_ONE

    def __post_init__(self) -> None:
        if not 0 < self.end < 1:
            raise ValueError(f"end={self.end} must be above 0 and below 1: at 1 the velocity is infinite.")

    def coefficients(self, t: Tensor) -> Coefficients:
        """``sqrt(1 - t^2)`` of the data, ``t`` of the noise."""
        alpha = ((1 - t) * (1 + t)).sqrt()
        return Coefficients(alpha, t, -t / alpha, torch.ones_like(t))

    def time_at(self, angle: Tensor) -> Tensor:
        """The sine."""
        return angle.sin()


@dataclass(frozen=True)
class VariancePreservingOwn(Affine):
    r"""The variance-preserving path of an `s` of your own: :math:`x_t = \sqrt{1 - s(t)^2} x_0 + s(t) x_1`.

    The derivative of alpha, :math:`-s s' / \sqrt{1 - s^2}`, is computed in float64: near s = 1 it is a quotient of two
    small numbers. A flow with such a path can be drawn from and not saved: functions are no settings.

    Parameters
    ----------
    s, d_s
        A function of time that grows from 0 to 1, and its derivative, both of a tensor.
    end
        The latest time, above 0 and at most 1; 1 only where `s` stays below 1.

    Examples
    --------
    >>> path = VariancePreservingOwn(lambda t: t * t, lambda t: 2 * t)
    >>> path.coefficients(torch.tensor([0.5])).sigma.item()
    0.25
    """

    s: Callable[[Tensor], Tensor]
    d_s: Callable[[Tensor], Tensor]
    end: float = _ALMOST_ONE

    def __post_init__(self) -> None:
        if not 0 < self.end <= 1:
            raise ValueError(f"end={self.end} must be above 0 and at most 1.")

    def coefficients(self, t: Tensor) -> Coefficients:
        """``sqrt(1 - s^2)`` of the data, ``s`` of the noise."""
        wide = _wide(t)
        s, d_s = self.s(wide), self.d_s(wide)
        alpha = ((1 - s) * (1 + s)).clamp_min(torch.finfo(s.dtype).tiny).sqrt()
        return Coefficients(*(c.to(t.dtype) for c in (alpha, s, -s * d_s / alpha, d_s)))


def affine(path: Path, what: str) -> Affine:
    """The path itself, where it is affine; `what` needs it to be.

    Raises
    ------
    InputError
        Where it is not.

    Examples
    --------
    >>> affine(Linear(), "guidance")
    Linear()
    """
    if isinstance(path, Affine):
        return path
    raise InputError(
        f"{what} needs an affine path, alpha(t) x0 + sigma(t) x1; {type(path).__qualname__} is none. Derive it from "
        "scflow.matching.paths.Affine and give its coefficients(t), or take path='linear'."
    )


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where `b` is 0 but for rounding.

    Examples
    --------
    >>> quotient(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    zero = b.abs() <= torch.finfo(b.dtype).eps
    return torch.where(zero, 0, a / torch.where(zero, 1, b))


def _wide(t: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return t if t.device.type == "mps" else t.double()
