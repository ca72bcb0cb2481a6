"""Preconditioning: the best linear velocity as a skip, so that the network learns only what is left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scflow.matching.paths import Affine, Path, like

__all__ = ["Bare", "Displaced", "Preconditioned", "Shift", "preconditioned"]


class Shift(nn.Module):
    r"""How far the data of a condition lie from the mean, linear in the vectors that stand for labels: :math:`m = W c`.

    A field around a network takes it out beforehand: with :math:`y = x - \alpha m` the velocity is that of y, and
    :math:`\alpha' m` more. So sums of vectors move cells by the sums of their moves, and the network, which sees the
    data of all conditions in one place, learns what is not linear.

    Parameters
    ----------
    weight
        W, ``[n_columns, dim]``; rows of zeros for conditions that are no vectors. None of a condition is no move.

    Examples
    --------
    >>> shift = Shift(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))  # a row for each part
    >>> shift(torch.tensor([[1.0, 1.0]])).tolist()
    [[1.0, 2.0]]
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float().clone())

    def forward(self, condition: Tensor | None) -> Tensor | float:
        """The moves ``[n, dim]`` of conditions ``[n, n_columns]``."""
        if condition is None:
            return 0.0
        with torch.autocast(condition.device.type, enabled=False):
            move: Tensor = condition.nan_to_num(0.0) @ self.weight
        return move


class Preconditioned(nn.Module):
    r"""A field around a network: :math:`v = c(t) x + o(t)\, f(x / s(t), t)`.

    For data and noise of standard deviations :math:`s_0, s_1` (independent, centred) the state has the variance
    :math:`s^2 = \alpha^2 s_0^2 + \sigma^2 s_1^2`; the best linear velocity is
    :math:`c = (\alpha \alpha' s_0^2 + \sigma \sigma' s_1^2) / s^2`; and what it leaves has the standard deviation
    :math:`o = |\alpha \sigma' - \alpha' \sigma| s_0 s_1 / s`. A network narrower than its input cannot pass its input
    through; the skip does it. The idea is that of Karras et al. 2022 (section 5), for any affine path.

    Parameters
    ----------
    network
        ``network(x, t, condition) -> velocity``, all of the shape of `x`.
    path
        The affine path whose velocity is learnt.
    data_sd, noise_sd
        Standard deviation of each coordinate, ``[dim]`` or scalar.
    shift
        How far the data of each condition lie from the mean, where that is known; `data_sd` is of what it leaves.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> from scflow.nn import MLP
    >>> field = Preconditioned(MLP(1), Linear(), data_sd=torch.tensor([2.0]), noise_sd=torch.tensor([1.0]))
    >>> field(torch.ones(1, 1), torch.zeros(1), None).tolist()  # at the data the best linear velocity is -x
    [[-1.0]]
    """

    data_variance: Tensor
    noise_variance: Tensor

    def __init__(
        self, network: nn.Module, path: Affine, data_sd: Tensor, noise_sd: Tensor, shift: Shift | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.path = path
        self.shift = shift
        self.register_buffer("data_variance", data_sd.float().square())
        self.register_buffer("noise_variance", noise_sd.float().square())

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity at the states `x` ``[n, ...]`` and times `t` ``[n]``, float32."""
        alpha, sigma, d_alpha, d_sigma = self.path.coefficients(like(t, x))
        move = 0.0 if self.shift is None else self.shift(condition)
        x = x if self.shift is None else x - alpha * move
        s0, s1 = self.data_variance, self.noise_variance
        variance = (alpha.square() * s0 + sigma.square() * s1).clamp_min(1e-8)
        skip = (alpha * d_alpha * s0 + sigma * d_sigma * s1) / variance
        scale = variance.rsqrt()
        left = (alpha * d_sigma - d_alpha * sigma).abs() * (s0 * s1).sqrt() * scale
        out = self.network(x * scale, t, condition).float()
        velocity = torch.addcmul(skip * x, left, out)
        return velocity if self.shift is None else velocity + d_alpha * move

    def errors(self, x0: Tensor, x1: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        r"""The squared error of the velocity between data `x0` and noise `x1`, averaged over coordinates, ``[n]``.

        What the skip leaves of a pair's own velocity is :math:`D (\alpha s_0^2 x_1 - \sigma s_1^2 x_0) / s^2`, with
        :math:`D = \alpha \sigma' - \alpha' \sigma`: neither velocity is made, nor is their small difference taken. The
        gradient goes to the network alone, and most of memory is written once.
        """
        if self.shift is not None:
            x0 = x0 - self.shift(condition)
        at = self.path.coefficients(like(t, x0))
        s0, s1, turn = self.data_variance, self.noise_variance, at.determinant
        scale = (at.alpha.square() * s0).addcmul_(at.sigma.square(), s1).clamp_min_(1e-8).rsqrt_()
        left = (turn.abs() * (s0 * s1).sqrt()).mul_(scale)
        out = self.network((at.alpha * x0).addcmul_(at.sigma, x1).mul_(scale), t, condition).float()
        wanted = (s0 * x1).mul_(at.alpha).addcmul_(s1 * x0, at.sigma, value=-1).mul_(turn).mul_(scale).mul_(scale)
        errors: Tensor = _SquaredError.apply(out, left, wanted)  # type: ignore[no-untyped-call]
        return errors


class _SquaredError(torch.autograd.Function):
    """``mean((left * out - wanted)^2)`` over all axes but the first, ``[n]``, with its gradient by `out` alone."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, left: Tensor, wanted: Tensor) -> Tensor:
        error = (left * out).sub_(wanted)
        ctx.save_for_backward(left, error)
        norm: Tensor = torch.linalg.vector_norm(error.flatten(1), dim=1)
        return norm.square_().div_(error[0].numel())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        left, error = ctx.saved_tensors
        each = like(gradients[0] * (2 / error[0].numel()), error)
        return (left * error).mul_(each), None, None


class Bare(nn.Module):
    """A field that is its network, for a path that is not affine: nothing is known of its best linear velocity.

    Parameters
    ----------
    network
        ``network(x, t, condition) -> velocity``, all of the shape of `x`.

    Examples
    --------
    >>> from scflow.nn import MLP
    >>> Bare(MLP(2))(torch.zeros(3, 2), torch.zeros(3), None).shape
    torch.Size([3, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The network's velocity at the states `x` ``[n, ...]`` and times `t` ``[n]``, float32."""
        velocity: Tensor = self.network(x, t, condition).float()
        return velocity


class Displaced(nn.Module):
    r"""A field from cells to cells: :math:`v = m + o\, f((x - c) / s, t)`.

    Cells and their partners are alike, so the best linear velocity of independent ones is no help. What is known
    beforehand is the displacement :math:`x_1 - x_0` of the pairs: its mean :math:`m` and its root mean square around it
    :math:`o`. A network that has learnt nothing moves all cells alike.

    Parameters
    ----------
    network
        ``network(x, t, condition) -> velocity``, all of the shape of `x`.
    centre, spread
        Mean and standard deviation of each coordinate of the states, ``[dim]``.
    step, step_sd
        Mean and standard deviation of each coordinate of the displacement from data to source, ``[dim]``.
    shift
        By how much the displacement of each condition differs from that, where it is known; all of the above are then
        of what it leaves.

    Examples
    --------
    >>> from scflow.nn import MLP
    >>> one = torch.ones(1)
    >>> field = Displaced(MLP(1), centre=0 * one, spread=one, step=3 * one, step_sd=one)
    >>> field(torch.zeros(2, 1), torch.zeros(2), None).tolist()  # untrained it moves all cells alike
    [[3.0], [3.0]]
    """

    centre: Tensor
    spread: Tensor
    step: Tensor
    step_sd: Tensor

    def __init__(
        self,
        network: nn.Module,
        centre: Tensor,
        spread: Tensor,
        step: Tensor,
        step_sd: Tensor,
        shift: Shift | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.shift = shift
        self.register_buffer("centre", centre.float().clone())
        self.register_buffer("spread", spread.float().clamp_min(1e-6))
        self.register_buffer("step", step.float().clone())
        self.register_buffer("step_sd", step_sd.float().clamp_min(1e-6))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity at the states `x` ``[n, dim]`` and times `t` ``[n]``, float32."""
        move = 0.0 if self.shift is None else self.shift(condition)
        x = x if self.shift is None else x - like(1 - t, x) * move
        out = self.network((x - self.centre) / self.spread, t, condition).float()
        velocity = torch.addcmul(self.step, self.step_sd, out)
        return velocity if self.shift is None else velocity - move


def preconditioned(
    network: nn.Module, path: Path, data_sd: Tensor, noise_sd: Tensor, shift: Shift | None = None
) -> Preconditioned | Bare:
    """The field around a network: preconditioned on any affine path, bare on another.

    Examples
    --------
    >>> from scflow.matching.paths import Linear
    >>> from scflow.nn import MLP
    >>> type(preconditioned(MLP(1), Linear(), torch.ones(1), torch.ones(1))).__name__
    'Preconditioned'
    """
    return Preconditioned(network, path, data_sd, noise_sd, shift) if isinstance(path, Affine) else Bare(network)
