"""The ways that a flow takes from noise to cells, and from cells back to noise, by an accurate solver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.flow._flow import Flow
from scflow.flow._sampling import along
from scflow.matching import guidance as guiding
from scflow.matching import paths, solvers
from scflow.matching.objective import Velocity
from scflow.training import Run

__all__ = ["Teacher", "Trajectories", "solved_back", "teacher_of", "trajectories"]

_CHUNK = 1024
"""States that are integrated at once: always as many, so that a seed gives the same bits."""
_ACCURATE = 16
"""Steps of RK4 from one end to the other: 64 evaluations."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A flow's guided velocity, along the linear path where it can be.

    Attributes
    ----------
    velocity
        With the averaged weights, ``velocity(x, t, condition)``.
    begin, scale
        The time to start from, and what noise is multiplied by there: 1 and 1 unless the flow was trained on a path
        that ends before the noise.
    """

    velocity: Velocity
    begin: float
    scale: float


@dataclass(frozen=True, eq=False)
class Trajectories:
    """States on the way from noise to data.

    Attributes
    ----------
    states
        ``[n, k + 1, dim]``, the noise first and the cell last.
    times
        Where they are, ``[n, k + 1]``, falling to 0.
    condition
        What each was drawn under, ``[n, n_conditions]``, NaN for none; or ``None``.
    """

    states: Tensor
    times: Tensor
    condition: Tensor | None


def teacher_of(flow: Flow, guidance: guiding.Guidance) -> Teacher:
    """The velocity that a flow teaches."""
    linear = paths.Linear() if isinstance(flow.path, paths.Affine) else None
    return Teacher(
        *along(guidance.around(flow.field, flow.conditions.names, flow.conditions.widths), flow.path, linear)
    )


@torch.no_grad()
def trajectories(
    flow: Flow, teacher: Teacher, condition: Tensor | None, n: int, run: Run, *, pieces: int = 1
) -> Trajectories:
    """Follow `n` noises to their cells, each under its condition, and keep the states after each of `pieces`.

    Pieces are as long as chance has it, other ones in each thousand of cells.
    """
    rng, dim = run.generator(20), flow.codec.dim
    states, times = [], []
    for rows in _chunks(n, run):
        c = None if condition is None else condition[rows]
        noise = flow.noise.sample_given(c, len(rows), dim, rng=rng)
        inner = torch.rand(pieces - 1, generator=rng, device=rng.device).sort(descending=True).values
        at = torch.cat([inner.new_ones(1), inner, inner.new_zeros(1)]) * teacher.begin
        x, kept = noise * teacher.scale, [noise]
        for both in at.unfold(0, 2, 1).tolist():
            x = _solved(teacher, x, c, *both)
            kept.append(x)
        states.append(torch.stack(kept, dim=1))
        # Where the solver has to start before the noise, the noise stands for what it starts from.
        times.append(torch.cat([at.new_ones(1), at[1:]]).expand(len(rows), -1))
    return Trajectories(torch.cat(states), torch.cat(times), condition)


@torch.no_grad()
def solved_back(teacher: Teacher, states: Tensor, condition: Tensor | None, run: Run) -> Tensor:
    """The noise that the states ``[n, dim]`` of cells come from: the flow followed from the data to the noise."""
    found = []
    for rows in _chunks(len(states), run):
        c = None if condition is None else condition[rows]
        found.append(_solved(teacher, states[rows], c, 0.0, teacher.begin) / teacher.scale)
    return torch.cat(found)


def _chunks(n: int, run: Run) -> Iterator[Tensor]:
    yield from torch.split(torch.arange(n, device=run.device), _CHUNK)


def _solved(teacher: Teacher, x: Tensor, condition: Tensor | None, start: float, end: float) -> Tensor:
    """From one time to another, in RK4 steps as short as those of the whole way or shorter."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return teacher.velocity(x, t.expand(len(x)), condition)

    steps = max(1, round(_ACCURATE * abs(end - start) + 0.5))
    return solvers.RK4().integrate(velocity, x, solvers.grid(steps, start=start, end=end).to(x.device))
