r"""The log-density of what a flow draws, by the change of variables along its way from data to noise.

A state that moves with the velocity v has a density that changes as
:math:`\frac{d}{dt} \log p_t(x_t) = -\nabla \cdot v(x_t, t)` (Chen et al. 2018, theorem 1). So a cell that goes from
t = 0 to the noise has :math:`\log p_0(x_0) = \log p_1(x_1) + \int_0^1 \nabla \cdot v(x_t, t)\, dt`. State and integral
are solved together. The divergence, the trace of the velocity's Jacobian J, is exact by one product with J a
coordinate, or estimated as the mean of :math:`e^\top J e` over random signs e (Hutchinson 1989; Grathwohl et al. 2019,
equation 7).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scflow.matching.noises import Noise
from scflow.matching.solvers import Solver

__all__ = ["LogProb", "Velocity", "divergence", "log_prob", "random_signs"]

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, t)`` of states ``[n, ...]`` at one time; each state's depends on that state alone."""


class LogProb(NamedTuple):
    """What became of states that were followed to the noise.

    Attributes
    ----------
    value
        Log-density of each state, in nats, ``[n]``.
    se
        Its standard error over the probes, ``[n]``; ``None`` where the divergence is exact.
    noise
        Where each state came from, of its own shape.

    Examples
    --------
    >>> from scflow.matching import noises, solvers
    >>> times = torch.linspace(0, 1, 9)
    >>> found = log_prob(lambda x, t: -x, torch.zeros(1, 2), noises.Gaussian(), times, solver=solvers.RK4())
    >>> round(found.value.item(), 3)  # two coordinates shrink by e: -log(2 pi) - 2
    -3.838
    """

    value: Tensor
    se: Tensor | None
    noise: Tensor


def random_signs(probes: int, like: Tensor, *, rng: torch.Generator) -> Tensor:
    """Signs +1 and -1 with even chances (Rademacher), ``[probes, *like.shape]``.

    Of all probes with independent coordinates of variance 1 they give the estimate that varies least.

    Examples
    --------
    >>> random_signs(4, torch.zeros(3, 2), rng=rng).abs().unique().tolist()
    [1.0]
    """
    drawn = torch.randint(0, 2, (probes, *like.shape), generator=rng, device=rng.device)
    return (2 * drawn - 1).to(like)


def divergence(velocity: Velocity, x: Tensor, t: Tensor, probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The velocity at the states `x` ``[n, ...]`` and time `t`, and its divergence.

    Parameters
    ----------
    probes
        Random signs ``[k, n, ...]``; ``None`` for the exact divergence, by as many products as a state has coordinates.

    Returns
    -------
    The velocity ``[n, ...]``, and the divergence ``[n, 1]``, or each probe's own estimate of it ``[n, k]``.

    Examples
    --------
    >>> velocity, trace = divergence(lambda x, t: 3 * x, torch.ones(1, 2), torch.zeros(1))
    >>> trace.tolist()  # 3 in each of two coordinates
    [[6.0]]
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        v = velocity(at, t)
        if not v.requires_grad:  # a velocity that does not depend on where it is
            return v, x.new_zeros(len(x), 1 if probes is None else len(probes))
        if probes is not None:
            found = [(_product(v, at, e) * e).flatten(1).sum(1) for e in probes]
            return v.detach(), torch.stack(found, dim=1)
        trace = x.new_zeros(len(x))
        for i in range(x[0].numel()):
            e = torch.zeros_like(v).flatten(1)
            e[:, i] = 1
            trace += _product(v, at, e.view_as(v)).flatten(1)[:, i]
    return v.detach(), trace[:, None]


def _product(v: Tensor, x: Tensor, e: Tensor) -> Tensor:
    """The product of `e` with each state's Jacobian, of the shape of `x`."""
    (product,) = torch.autograd.grad(v, x, e, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def log_prob(
    velocity: Velocity,
    x: Tensor,
    noise: Noise,
    times: Tensor,
    *,
    solver: Solver,
    scale: float = 1.0,
    probes: Tensor | None = None,
) -> LogProb:
    r"""The log-density of the states `x` under the law that noise, followed from the last of `times` to the first, has.

    Each probe is kept for the whole way, so that each gives one estimate without bias (but for the solver's error), and
    their spread tells the error of their mean.

    Parameters
    ----------
    velocity
        The flow's, under the states' conditions.
    x
        States of data, ``[n, ...]``.
    noise
        The law at the end.
    times
        From 0 up to where the path ends: :func:`scflow.matching.solvers.grid`.
    solver
        Any but :class:`scflow.matching.solvers.Jump`.
    scale
        What noise is multiplied by at the last time; it adds :math:`-d \log` of it, for d coordinates.
    probes
        Random signs ``[k, n, ...]`` of :func:`random_signs`, at least two; ``None`` for the exact divergence.

    Raises
    ------
    InputError
        Where the noise has no density.

    Examples
    --------
    >>> from scflow.matching import noises, solvers
    >>> still = lambda x, t: 0 * x  # nothing moves: the density is that of the noise
    >>> times = torch.linspace(0, 1, 3)
    >>> found = log_prob(still, torch.zeros(1, 2), noises.Gaussian(), times, solver=solvers.Midpoint())
    >>> round(found.value.item(), 3)  # -log(2 pi)
    -1.838
    """
    noise.log_prob(x[:1])  # raises where there is none, before any work
    shape, dim = x.shape, x[0].numel()

    def both(y: Tensor, t: Tensor) -> Tensor:
        """The velocity of state and integrals side by side."""
        v, trace = divergence(velocity, y[:, :dim].reshape(shape), t, probes)
        return torch.cat([v.flatten(1), trace], dim=1)

    start = torch.cat([x.flatten(1), x.new_zeros(len(x), 1 if probes is None else len(probes))], dim=1)
    end = solver.integrate(both, start, times)
    found = (end[:, :dim] / scale).reshape(shape)
    known = noise.log_prob(found) - dim * math.log(scale)
    integral = end[:, dim:]
    se = None if probes is None else integral.std(1) / math.sqrt(len(probes))
    return LogProb(known + integral.mean(1), se, found)
