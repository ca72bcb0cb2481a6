"""Rerouting: a trained field that is followed along another path, to the same cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scflow.matching.objective import Velocity
from scflow.matching.paths import Affine, like

__all__ = ["Rerouted"]


@dataclass(frozen=True)
class Rerouted:
    r"""The velocity along one affine path, from a field that was trained on another.

    Affine paths differ by a change of time and a scaling (Kingma et al. 2021, section 5.1; Karras et al. 2022,
    appendix B). The state y of the wanted path at time t holds data and noise in the same proportion as the state x of
    the trained one at the time s of the same angle, :math:`\mathrm{atan2}(\sigma, \alpha)`: so :math:`y = c x`, where c
    is the ratio of the norms :math:`\sqrt{\alpha^2 + \sigma^2}`. The data and the noise that the trained velocity
    implies, mixed by the derivatives of the wanted path, are what the chain rule gives,
    :math:`dy/dt = c' x + c\, s' v(x, s)`, with no quotient of angles to take at the ends.

    Parameters
    ----------
    field
        A field that was trained on the path `trained`.
    trained, path
        The path that it was trained on, and the one to follow. Guidance goes inside: ``Rerouted(Guided(...), ...)``.

    Examples
    --------
    >>> from scflow.matching.paths import Linear, VariancePreserving
    >>> to_zero = lambda x, t, c: x / t[:, None]  # the field of data that are all 0
    >>> other = Rerouted(to_zero, Linear(), VariancePreserving())
    >>> velocity = other(torch.ones(1, 1), torch.tensor([0.5]), None)
    >>> round(velocity.item(), 4)  # pi / 2 on the circle, halfway
    1.5708
    """

    field: Velocity
    trained: Affine
    path: Affine

    @cached_property
    def start(self) -> float:
        """The time on `path` to start at: where it ends, or where `trained` did."""
        ends = torch.tensor([self.trained.end, self.path.end], dtype=torch.float64)
        last = self.trained.angle(ends[0])
        return self.path.end if last >= self.path.angle(ends[1]) else float(self.path.time_at(last))

    @cached_property
    def scale(self) -> float:
        """What to multiply the noise by there; 1 where the path ends in the noise itself."""
        at = self.path.coefficients(torch.tensor(self.start, dtype=torch.float64))
        return 1.0 if math.isclose(float(at.norm), 1.0) else float(at.norm)

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity of the states `x` ``[n, ...]`` of `path` at the times `t` ``[n]``."""
        s = self.trained.time_at(self.path.angle(t)).clamp(0, self.trained.end)
        here, there = self.path.coefficients(like(t, x)), self.trained.coefficients(like(s, x))
        state = x * (there.norm / here.norm)
        implied = self.trained.given_velocity(state, s, self.field(state, s, condition))
        return here.d_alpha * implied.data + here.d_sigma * implied.noise
