"""The law of the noise x1 that cells are made from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.errors import InputError

__all__ = ["Dropout", "DropoutByCondition", "Gaussian", "MatchedVariance", "Noise", "Population", "Sparse"]


class Noise(ABC):
    """A law of states ``[n, dim]``.

    It says of itself whether it is Gaussian, whether it has a density, and whether it depends on what a cell is
    conditioned on.

    Examples
    --------
    >>> class Laplace(Noise):
    ...     def sample(self, n, dim, *, rng):
    ...         u = torch.rand(n, dim, generator=rng, device=rng.device) - 0.5
    ...         return -u.sign() * (1 - 2 * u.abs()).log() / 2**0.5
    >>> round(Laplace().sample(10_000, 1, rng=rng).std().item(), 1)
    1.0
    """

    is_gaussian: bool = False
    has_density: bool = False
    by_condition: bool = False

    @abstractmethod
    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """`n` states of `dim` coordinates, float32, on the device of `rng`."""

    def sample_given(self, condition: Tensor | None, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """The same for cells of the encoded `condition` ``[n, n_conditions]``; one law for all, unless it says so."""
        return self.sample(n, dim, rng=rng)

    def sd(self, dim: int) -> Tensor:
        """The standard deviation of each of `dim` coordinates; one, unless a law says otherwise."""
        return torch.ones(dim)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density of the states `x` ``[n, dim]``, ``[n]``.

        Raises
        ------
        InputError
            Where the law has none.
        """
        raise InputError(
            f"A {type(self).__name__} noise has no density (has_density is {self.has_density}), and neither have the "
            "cells of a flow that was trained with it. Train with noise='gaussian' or noise='matched_variance' for one."
        )


@dataclass(frozen=True)
class Gaussian(Noise):
    """Standard normal noise.

    Examples
    --------
    >>> Gaussian().sample(2, 3, rng=rng).shape
    torch.Size([2, 3])
    >>> Gaussian().log_prob(torch.zeros(1, 2)).tolist()  # -log(2 pi)
    [-1.8378770351409912]
    """

    is_gaussian = True
    has_density = True

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Draw independent standard normals."""
        return torch.randn(n, dim, generator=rng, device=rng.device)

    def log_prob(self, x: Tensor) -> Tensor:
        """The sum over coordinates of ``-(x^2 + log 2 pi) / 2``."""
        return -0.5 * (x.square() + math.log(2 * math.pi)).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class MatchedVariance(Noise):
    """Normal noise with the data's own standard deviation in every coordinate.

    Parameters
    ----------
    scale
        The standard deviation of each coordinate, ``[dim]``, above 0.

    Examples
    --------
    >>> states = torch.tensor([[0.0, 0.0], [2.0, 10.0]])
    >>> MatchedVariance.of(states).scale.tolist()
    [1.0, 5.0]
    """

    is_gaussian = True
    has_density = True

    scale: Tensor

    def __post_init__(self) -> None:
        if not bool(((self.scale > 0) & self.scale.isfinite()).all()):
            bad = int((~((self.scale > 0) & self.scale.isfinite())).sum())
            raise InputError(f"scale must be above 0 and finite; {bad} of its {self.scale.numel()} values are not.")

    @classmethod
    def of(cls, states: Tensor, *, least: float = 1e-3) -> MatchedVariance:
        """Matched to states ``[n, dim]``; a coordinate that never varies has the deviation `least`, and a density."""
        return cls(states.float().std(0, correction=0).clamp_min(least).cpu())

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Draw standard normals, and scale them."""
        return torch.randn(n, dim, generator=rng, device=rng.device) * self.scale.to(rng.device)

    def sd(self, dim: int) -> Tensor:
        """The scale."""
        return self.scale

    def log_prob(self, x: Tensor) -> Tensor:
        """That of a standard normal at ``x / scale``, less the sum of the scales' logarithms."""
        scale = self.scale.to(x)
        return Gaussian().log_prob(x / scale) - scale.log().sum()


@dataclass(frozen=True)
class Sparse(Noise):
    """Normal noise with zeros at one rate everywhere, ``randn * (rand >= rate)``, and a jitter.

    A masked noise has atoms, and a deterministic flow cannot spread an atom: without jitter many cells would land on
    one point. The jitter is a second, small normal, added to every coordinate. There is no density to speak of.

    Parameters
    ----------
    rate
        The share of zeros, in [0, 1].
    jitter
        Standard deviation of the normal that is added everywhere, above 0.

    Examples
    --------
    >>> x = Sparse(rate=0.5, jitter=0.01).sample(10_000, 1, rng=rng)
    >>> round((x.abs() < 0.05).float().mean().item(), 1)  # half are zero but for the jitter
    0.5
    """

    rate: float = 0.1
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check_masked(torch.tensor(float(self.rate)), self.jitter)

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Mask a normal draw, then add the jitter."""
        return _masked(n, dim, torch.tensor(self.rate), self.jitter, rng)

    def sd(self, dim: int) -> Tensor:
        """Square root of the kept share plus the jitter's variance."""
        return torch.full((dim,), math.sqrt(1 - self.rate + self.jitter**2))


@dataclass(frozen=True, eq=False)
class Dropout(Noise):
    """Normal noise with zeros where the data have them: coordinate g is masked with the data's own rate of zeros.

    It has atoms, and therefore a jitter: see :class:`Sparse`.

    Parameters
    ----------
    rate
        Share of zeros of each coordinate, ``[dim]``, in [0, 1]; 0 leaves a coordinate Gaussian.
    jitter
        Standard deviation of the normal that is added everywhere, above 0.

    Examples
    --------
    >>> x = Dropout(torch.tensor([0.9, 0.1]), jitter=0.01).sample(10_000, 2, rng=rng)
    >>> [round(share, 1) for share in (x.abs() < 0.03).float().mean(0).tolist()]
    [0.9, 0.1]
    """

    rate: Tensor
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check_masked(self.rate, self.jitter)

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Mask a normal draw, then add the jitter."""
        return _masked(n, dim, self.rate, self.jitter, rng)

    def sd(self, dim: int) -> Tensor:
        """Square root of the kept share plus the jitter's variance."""
        return (1 - self.rate + self.jitter**2).sqrt()


@dataclass(frozen=True, eq=False)
class DropoutByCondition(Noise):
    """Dropout noise whose rates are those of the cell's own group: a combination of categorical conditions.

    A cell of a group that is not in the table, or with a condition missing, has the rates of the whole.

    Parameters
    ----------
    rate
        Share of zeros of each coordinate in all cells, ``[dim]``, in [0, 1].
    groups
        The encoded conditions of each group, ``[n_groups, n_conditions]``; NaN in the columns that do not define it.
    rates
        Share of zeros of each coordinate in each group, ``[n_groups, dim]``.
    jitter
        Standard deviation of the normal that is added everywhere, above 0: see :class:`Sparse`.

    Examples
    --------
    >>> zeros, size = torch.tensor([[90.0], [10.0]]), torch.tensor([100.0, 100.0])
    >>> noise = DropoutByCondition.of(zeros, size, groups=torch.tensor([[0.0], [1.0]]))
    >>> [round(rate, 2) for rate in noise.rates[:, 0].tolist()]  # drawn a little towards one half
    [0.83, 0.17]
    """

    by_condition = True

    rate: Tensor
    groups: Tensor
    rates: Tensor
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check_masked(self.rate, self.jitter)
        _check_masked(self.rates, self.jitter)
        expected = (len(self.groups), len(self.rate))
        if tuple(self.rates.shape) != expected or not len(self.groups):
            raise InputError(
                f"rates has the shape {tuple(self.rates.shape)}; {expected[0]} groups of {expected[1]} coordinates "
                f"need {expected}."
            )

    @classmethod
    def of(cls, zeros: Tensor, size: Tensor, groups: Tensor, *, shrinkage: float = 20.0) -> DropoutByCondition:
        """From how many of a group's cells are zero in each coordinate.

        A group's rate is ``(zeros + shrinkage * rate) / (size + shrinkage)``, with `rate` that of all cells: where
        cells are few, the whole decides.

        Parameters
        ----------
        zeros
            Cells with a zero, ``[n_groups, dim]``.
        size
            Cells, ``[n_groups]``.
        groups
            As in the class.
        shrinkage
            How many cells the whole counts for.
        """
        zeros, size = zeros.double(), size.double()
        rate = zeros.sum(0) / size.sum()
        rates = (zeros + shrinkage * rate) / (size + shrinkage)[:, None]
        return cls(rate.float().clamp(0, 1), groups.float(), rates.float().clamp(0, 1))

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Mask a normal draw with the rates of the whole, then add the jitter."""
        return _masked(n, dim, self.rate, self.jitter, rng)

    def sample_given(self, condition: Tensor | None, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Mask a normal draw with the rates of each cell's group, then add the jitter."""
        if condition is None:
            return self.sample(n, dim, rng=rng)
        groups = self.groups.to(condition.device)
        same = ((condition[:, None] == groups) | groups.isnan()).all(2)
        known, place = same.max(1)
        rate = torch.where(known[:, None], self.rates.to(rng.device)[place], self.rate.to(rng.device))
        return _masked(n, dim, rate, self.jitter, rng)

    def sd(self, dim: int) -> Tensor:
        """That of all cells together: square root of the kept share plus the jitter's variance."""
        return (1 - self.rate + self.jitter**2).sqrt()


def _masked(n: int, dim: int, rate: Tensor, jitter: float, rng: torch.Generator) -> Tensor:
    """Standard normals ``[n, dim]``, zero with the probability `rate`, and normals of deviation `jitter` added.

    The sum of two normals is one: with the jitter's deviation where there is a zero, and elsewhere a little over 1.
    """
    shape, device = (n, dim), rng.device
    zero = torch.rand(shape, generator=rng, device=device) < rate.to(device)
    x = torch.randn(shape, generator=rng, device=device).mul_(math.hypot(1, jitter))
    return torch.where(zero, x * (jitter / math.hypot(1, jitter)), x)


def _check_masked(rate: Tensor, jitter: float) -> None:
    """Raise where rates are no shares, or there is no jitter."""
    if not jitter > 0:
        raise InputError(f"jitter={jitter} must be above 0: a flow cannot spread the atoms of masked noise.")
    if not bool(((rate >= 0) & (rate <= 1)).all()):
        raise InputError("rate must lie in [0, 1]: it is the share of zeros of each coordinate.")


@dataclass(frozen=True, eq=False)
class Population(Noise):
    """Cells of a source population in the place of noise. They are carried: none can be drawn.

    Parameters
    ----------
    scale
        The standard deviation of each coordinate of the source cells' states, ``[dim]``.

    Examples
    --------
    >>> Population.of(torch.tensor([[0.0], [2.0]])).sd(1).tolist()
    [1.0]
    """

    scale: Tensor

    @classmethod
    def of(cls, states: Tensor) -> Population:
        """From source cells' states ``[n, dim]``."""
        return cls(states.std(0, correction=0).cpu())

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        """Raise: there is no law to draw from."""
        raise InputError(
            "This flow starts from cells, of a source population or of the first time point of a course, and not from "
            "noise: it draws none. Give it cells to carry: scflow.tl.transport(adata, flow)."
        )

    def sd(self, dim: int) -> Tensor:
        """The source cells' standard deviations."""
        return self.scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Raise: nobody knows the density of cells."""
        raise InputError(
            "This flow starts from cells, of a source population or of the first time point of a course, whose density "
            "is not known, and neither is that of the cells that it carries them to. Train one from noise: "
            "scflow.tl.train(adata, noise='gaussian'), without source= and course=."
        )
