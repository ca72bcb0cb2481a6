"""Cells followed back to their noise, and the log-density that they have under the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow.flow._following import Batch, Given, Origin, Way, batches, check_velocity
from scflow.flow._sampling import TILE, Sampling, generator, moved
from scflow.matching.likelihood import log_prob, random_signs

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["Code", "Density", "densities", "encoded"]

_PROBES = 3
"""The stream of random numbers that probes are drawn from: drawing cells has 0 to 2."""


@dataclass(frozen=True, eq=False)
class Code:
    """Cells and the noise they come from.

    Attributes
    ----------
    state
        What the flow sees of each cell, float32 ``[n, dim]``; in an embedding in the user's units.
    noise
        Where the flow, followed backwards, takes it, float32 ``[n, dim]``.
    """

    state: NDArray[np.float32]
    noise: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Density:
    """Log-densities of cells' states.

    Attributes
    ----------
    value
        In nats, float64 ``[n]``; in an embedding per unit of the user's coordinates.
    se
        Standard error over the probes, float64 ``[n]``, or ``None`` where the divergence is exact.
    """

    value: NDArray[np.float64]
    se: NDArray[np.float64] | None


def encoded(flow: Flow, cells: Given, condition: Tensor | None, sampling: Sampling) -> Code:
    """Follow the flow from cells to noise: see :meth:`scflow.flow.Flow.encode`."""
    check_velocity(sampling)
    way, states, noises = Way.of(flow, sampling), [], []
    with torch.no_grad(), moved(flow, sampling.device):
        origin, times = Origin.of(flow, cells, condition, sampling.device), way.times(up=True)
        for batch in batches(len(origin.cells), sampling):
            x = origin.mean(batch)
            end = sampling.solver.integrate(way.velocity(origin.conditions(batch)), x, times) / way.scale
            states.append(origin.shown(batch, x)[: len(batch)].cpu().numpy())
            noises.append(end[: len(batch)].cpu().numpy())
    return Code(np.concatenate(states), np.concatenate(noises))


def densities(flow: Flow, cells: Given, condition: Tensor | None, sampling: Sampling, probes: int | None) -> Density:
    """The log-density of cells' states: see :meth:`scflow.flow.Flow.log_prob`."""
    check_velocity(sampling)
    flow.noise.log_prob(torch.zeros(1, flow.codec.dim))  # raises where there is none
    way, values, errors = Way.of(flow, sampling), [], []
    with torch.no_grad(), moved(flow, sampling.device):
        origin, times = Origin.of(flow, cells, condition, sampling.device), way.times(up=True)
        for batch in batches(len(origin.cells), sampling):
            x = origin.mean(batch)
            signs = None if probes is None else _signs(batch, x, probes, sampling)
            velocity = way.velocity(origin.conditions(batch))
            found = log_prob(velocity, x, flow.noise, times, solver=sampling.solver, scale=way.scale, probes=signs)
            values.append(found.value[: len(batch)].cpu())
            if found.se is not None:
                errors.append(found.se[: len(batch)].cpu())
        volume = flow.codec.log_volume()
    value = torch.cat(values).double().numpy() - volume
    return Density(value, torch.cat(errors).double().numpy() if errors else None)


def _signs(batch: Batch, x: Tensor, probes: int, sampling: Sampling) -> Tensor:
    """Each tile's own probes."""
    drawn = (random_signs(probes, x[:TILE], rng=generator(sampling, tile, _PROBES)) for tile in batch.tiles)
    return torch.cat(list(drawn), dim=1)
