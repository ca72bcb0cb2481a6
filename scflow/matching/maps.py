"""Flow maps: from any time of a flow to any other in one evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scflow.matching.paths import Linear, like
from scflow.matching.preconditioning import Shift

__all__ = ["FlowMap"]


class FlowMap(nn.Module):
    r"""A map along a flow on the linear path, :math:`X_{t \to s}(x) = x + (s - t)\, u(x, t, s)`.

    The flow takes the state x at time t to X at time s; u is its mean velocity on the way (Boffi, Albergo and
    Vanden-Eijnden 2025), and on the diagonal, :math:`s = t`, the velocity itself. As a field is around its
    network (:class:`scflow.matching.Preconditioned`), the map is around its own: Gaussian data and noise of standard
    deviations :math:`s_0, s_1` have the map :math:`x\, S_s / S_t` with :math:`S_t^2 = (1 - t)^2 s_0^2 + t^2 s_1^2`. So
    u is :math:`(S_s / S_t - 1) / (s - t)` times x, written without the quotient's pole, and the network's output times
    :math:`s_0 s_1 / S_t`. On the diagonal that is the field's own preconditioning.

    Parameters
    ----------
    network
        ``network(x, times, condition)`` with times ``[n, 2]``, from which and to which:
        :meth:`scflow.nn.Field.take_two_times`.
    data_variance, noise_variance
        Variance of each coordinate, ``[dim]`` or scalar.
    shift
        How far the data of each condition lie from the mean, where that is known.

    Examples
    --------
    >>> from scflow.nn import MLP
    >>> network = MLP(2)
    >>> network.take_two_times()
    >>> flow_map = FlowMap(network, torch.ones(2), torch.ones(2))
    >>> x, t, s = torch.randn(3, 2, generator=rng), torch.ones(3), torch.zeros(3)
    >>> flow_map.between(x, t, s, None).allclose(x)  # untrained it is the map between equal normal laws
    True
    """

    data_variance: Tensor
    noise_variance: Tensor
    path = Linear()

    def __init__(
        self, network: nn.Module, data_variance: Tensor, noise_variance: Tensor, shift: Shift | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.shift = shift
        self.register_buffer("data_variance", data_variance.float().clone())
        self.register_buffer("noise_variance", noise_variance.float().clone())

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity at states `x` ``[n, ...]`` and times ``[n]``, or for times ``[n, 2]`` the mean velocity."""
        begin, end = (t, t) if t.ndim == 1 else t.unbind(1)
        here, there = like(begin, x), like(end, x)
        move = 0.0 if self.shift is None else self.shift(condition)
        x = x if self.shift is None else x - (1 - here) * move
        s0, s1 = self.data_variance, self.noise_variance
        sd = self._sd(here)
        skip = ((here + there) * s1 - (2 - here - there) * s0) / (sd * (sd + self._sd(there)))
        out = self.network(x / sd, torch.stack([begin, end], dim=1), condition).float()
        velocity = torch.addcmul(skip * x, (s0 * s1).sqrt() / sd, out)
        return velocity if self.shift is None else velocity - move

    def between(self, x: Tensor, t: Tensor, s: Tensor, condition: Tensor | None) -> Tensor:
        """Where the flow takes the states `x` ``[n, ...]`` of the times `t` ``[n]`` by the times `s` ``[n]``."""
        end: Tensor = x + like(s - t, x) * self(x, torch.stack([t, s], dim=1), condition)
        return end

    def _sd(self, t: Tensor) -> Tensor:
        """The standard deviation of each coordinate at time t."""
        return ((1 - t).square() * self.data_variance + t.square() * self.noise_variance).clamp_min(1e-8).sqrt()
