"""What a flow map is trained to do: the loss of a piece of its teacher's way from noise to data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scflow.matching.maps import FlowMap
from scflow.matching.objective import Velocity
from scflow.matching.paths import like

__all__ = ["Distillation", "Lagrangian", "Piece", "Trajectory"]


class Piece(NamedTuple):
    """Pieces of trajectories: the states at the times `t` and `s`, both ``[n]`` with ``s < t``, and the conditions.

    Examples
    --------
    >>> Piece(torch.ones(2, 1), torch.ones(2), torch.zeros(2, 1), torch.zeros(2), None).t.tolist()
    [1.0, 1.0]
    """

    start: Tensor
    t: Tensor
    end: Tensor
    s: Tensor
    condition: Tensor | None


class Distillation(ABC):
    """A loss of flow maps.

    Examples
    --------
    >>> issubclass(Trajectory, Distillation), issubclass(Lagrangian, Distillation)
    (True, True)
    """

    @abstractmethod
    def losses(self, flow_map: FlowMap, teacher: Velocity, piece: Piece, *, rng: torch.Generator) -> Tensor:
        """The loss of every piece, ``[n]``: a squared error averaged over coordinates."""


@dataclass(frozen=True)
class Trajectory(Distillation):
    r"""Where the teacher got to: :math:`|u(x_t, t, s) - (x_s - x_t) / (s - t)|^2`.

    Plain regression on the ends of pieces that an accurate solver has gone; neither the teacher nor a derivative is
    needed any more. The whole way, from noise to data, is the one-step distillation of Liu et al. 2023.

    Examples
    --------
    >>> from scflow.matching import FlowMap
    >>> from scflow.nn import MLP
    >>> network = MLP(1)
    >>> network.take_two_times()
    >>> flow_map = FlowMap(network, torch.ones(1), torch.ones(1))
    >>> piece = Piece(torch.ones(2, 1), torch.ones(2), torch.zeros(2, 1), torch.zeros(2), None)
    >>> [round(loss, 2) for loss in Trajectory().losses(flow_map, lambda x, t, c: x, piece, rng=rng).tolist()]
    [1.0, 1.0]
    """

    def losses(self, flow_map: FlowMap, teacher: Velocity, piece: Piece, *, rng: torch.Generator) -> Tensor:
        """The error of the mean velocity."""
        velocity = (piece.end - piece.start) / like(piece.s - piece.t, piece.start)
        found = flow_map(piece.start, torch.stack([piece.t, piece.s], dim=1), piece.condition)
        error: Tensor = (found - velocity).square().flatten(1).mean(1)
        return error


@dataclass(frozen=True)
class Lagrangian(Distillation):
    r"""What the map's end does as its time goes on: :math:`|\partial_s X_{t \to s}(x) - b_s(X_{t \to s}(x))|^2`.

    A map is the flow's where its end moves with the teacher's velocity b (Boffi, Albergo and Vanden-Eijnden 2025). The
    derivative is taken forwards (`torch.func.jvp`) and the teacher's velocity as it is, without a
    gradient. Only the starts of pieces matter; times to go to are drawn anew between there and the data. The velocity
    on the diagonal is learnt beside it, :math:`|u(x, t, t) - b_t(x)|^2`, with half of the weight.

    Examples
    --------
    >>> from scflow.matching import FlowMap
    >>> from scflow.nn import MLP
    >>> network = MLP(1)
    >>> network.take_two_times()
    >>> flow_map = FlowMap(network, torch.ones(1), torch.ones(1))
    >>> piece = Piece(torch.ones(2, 1), torch.ones(2), torch.zeros(2, 1), torch.zeros(2), None)
    >>> Lagrangian().losses(flow_map, lambda x, t, c: x, piece, rng=rng).shape
    torch.Size([2])
    """

    def losses(self, flow_map: FlowMap, teacher: Velocity, piece: Piece, *, rng: torch.Generator) -> Tensor:
        """The errors of the end's velocity and of the velocity at the start."""
        x, t, c = piece.start, piece.t, piece.condition
        s = t * torch.rand(t.shape, generator=rng, device=rng.device)

        def end(s: Tensor) -> Tensor:
            return flow_map.between(x, t, s, c)

        # The fused kernels of attention have no derivative forwards.
        with sdpa_kernel(SDPBackend.MATH):
            state, moved = torch.func.jvp(end, (s,), (torch.ones_like(s),))  # type: ignore[misc]
        with torch.no_grad():
            wanted, here = teacher(state, s, c), teacher(x, t, c)
        on_the_way = (moved - wanted).square().flatten(1).mean(1)
        at_the_start: Tensor = (flow_map(x, t, c) - here).square().flatten(1).mean(1)
        both: Tensor = on_the_way + 0.5 * at_the_start
        return both
