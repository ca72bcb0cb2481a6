"""The law that training times are drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Importance", "LogitNormal", "Stratified", "Time", "UShaped", "Uniform"]

_CELLS = 4096


class Time(ABC):
    """A law of times in [0, 1], by its quantiles. It gives its density, to be told apart from a loss weight.

    A batch's times are stratified, one in each of n equally likely bins: its loss then varies less from step to step.
    They are shuffled, or a cell's time would follow its place in the batch.

    Attributes
    ----------
    corrected
        Whether the loss is divided by the density, so that the law changes the variance of the loss and not its mean.

    Examples
    --------
    >>> class Early(Time):
    ...     def quantile(self, u):
    ...         return u**3
    >>> t = torch.tensor([0.125])
    >>> [round(x, 2) for x in Early().density(t).tolist()]  # 1 / (3 t^(2/3))
    [1.33]
    """

    corrected: bool = False

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The time that a share `u` of the law lies below, of the same shape; it grows from 0 to 1 with `u`."""

    def density(self, t: Tensor) -> Tensor:
        """The density of the law at `t`; by differences of the quantile, unless a law writes it out."""
        u = torch.linspace(0, 1, _CELLS + 1, device=t.device, dtype=t.dtype)
        edges = self.quantile(u)
        cell = torch.searchsorted(edges, t.contiguous(), right=True).sub(1).clamp(0, _CELLS - 1)
        inside = (t >= edges[0]) & (t <= edges[-1])
        return torch.where(inside, 1 / (_CELLS * (edges[cell + 1] - edges[cell])), 0)

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """`n` times in [0, 1], float32, on the device of `rng`: one in each of `n` bins, shuffled."""
        order = torch.randperm(n, generator=rng, device=rng.device)
        return self.quantile((order + torch.rand(n, generator=rng, device=rng.device)) / n)


@dataclass(frozen=True)
class Uniform(Time):
    """Every time is drawn independently and equally often.

    Examples
    --------
    >>> Uniform().sample(3, rng=rng).shape
    torch.Size([3])
    """

    def quantile(self, u: Tensor) -> Tensor:
        """The share itself."""
        return u

    def density(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """Draw `n` independent times."""
        return torch.rand(n, generator=rng, device=rng.device)


@dataclass(frozen=True)
class Stratified(Time):
    """Uniform, with one draw in each of `n` equal bins: the loss of a batch varies less from step to step.

    Examples
    --------
    >>> (Stratified().sample(4, rng=rng).sort().values * 4).long().tolist()  # one in each quarter
    [0, 1, 2, 3]
    """

    def quantile(self, u: Tensor) -> Tensor:
        """The share itself."""
        return u

    def density(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class Importance(Time):
    r"""More times near the data: :math:`t = u^2`, of the density :math:`1 / (2 \sqrt{t})`.

    Parameters
    ----------
    corrected
        ``False``: times near the data count more, as with a weight. ``True``: importance sampling in its true sense,
        the loss is divided by the density and keeps the mean that it has under uniform times.

    Examples
    --------
    >>> Importance().quantile(torch.tensor([0.5])).tolist()  # half of the times are below a quarter
    [0.25]
    """

    corrected: bool = False

    def quantile(self, u: Tensor) -> Tensor:
        """The square of the share."""
        return u.square()

    def density(self, t: Tensor) -> Tensor:
        """``1 / (2 sqrt(t))``, infinite at 0."""
        return 0.5 * t.rsqrt()


@dataclass(frozen=True)
class LogitNormal(Time):
    """More times in the middle: the logit of t is normal (Esser et al. 2024, equation 19).

    Parameters
    ----------
    mean
        Of the logit: above 0 favours the noise, below 0 the data.
    scale
        Standard deviation of the logit, above 0.

    Examples
    --------
    >>> [round(t, 2) for t in LogitNormal().quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()]
    [0.22, 0.5, 0.78]
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale={self.scale} must be above 0: it is the standard deviation of the logit.")

    def quantile(self, u: Tensor) -> Tensor:
        """The logistic function of the normal quantile."""
        return torch.sigmoid(self.mean + self.scale * torch.special.ndtri(u))

    def density(self, t: Tensor) -> Tensor:
        """The normal density of the logit over ``t (1 - t)``; 0 at both ends."""
        inside = (t > 0) & (t < 1)
        t = torch.where(inside, t, 0.5)
        z = (t.logit() - self.mean) / self.scale
        normal = (-z.square() / 2).exp() / (self.scale * math.sqrt(2 * math.pi))
        return torch.where(inside, normal / (t * (1 - t)), 0)


@dataclass(frozen=True)
class UShaped(Time):
    r"""More times at both ends: the density is proportional to :math:`e^{a t} + e^{a (1 - t)}`.

    Meant for reflow, whose pairs leave least to learn in the middle (Lee et al. 2024, with a = 4). Read literally,
    :math:`e^{a t} + e^{-a t}` only rises on [0, 1]; a U has its mirror image about t = 1/2, as the authors draw it.

    Parameters
    ----------
    a
        How deep the U is, above 0; the ends are ``cosh(a / 2)`` times as dense as the middle.

    Examples
    --------
    >>> density = UShaped().density(torch.tensor([0.0, 0.5]))
    >>> round((density[0] / density[1]).item(), 2)  # cosh(2)
    3.76
    """

    a: float = 4.0

    def __post_init__(self) -> None:
        if not self.a > 0:
            raise ValueError(f"a={self.a} must be above 0: it says how deep the U is.")

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of ``1/2 + sinh(a (t - 1/2)) / (2 sinh(a / 2))``."""
        t = 0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a
        return t.clamp(0, 1)

    def density(self, t: Tensor) -> Tensor:
        """``a cosh(a (t - 1/2)) / (2 sinh(a / 2))``."""
        return self.a / (2 * math.sinh(self.a / 2)) * torch.cosh(self.a * (t - 0.5))
