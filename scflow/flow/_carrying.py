"""Carrying cells along a flow: into the space, from one time to another, and back to counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.codecs import Embedding
from scflow.flow._following import Batch, Given, Origin, Way, batches, check_velocity
from scflow.flow._sampling import Sampling, generator, moved

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["Stops", "carry", "decoded_alike", "edited_alike", "velocity_of"]


@dataclass(frozen=True, eq=False)
class Stops:
    """Where cells were at some times.

    Attributes
    ----------
    states
        ``[n_times, n_cells, dim]``, float32; in an embedding in the user's units.
    counts
        Whole numbers ``[n_cells, n_genes]`` a time, int32; none for a flow in an embedding or where not asked for.
    """

    states: NDArray[np.float32]
    counts: tuple[sparse.csr_matrix, ...]


def carry(
    flow: Flow,
    data: Given,
    condition: Tensor | None,
    times: Sequence[float],
    sampling: Sampling,
    *,
    decode: Sequence[bool] | None = None,
) -> Stops:
    """Follow cells through `times` of the flow, of which the first is where they are.

    Parameters
    ----------
    data
        Counts ``[n_cells, n_genes]``, or coordinates ``[n_cells, dim]`` for a flow in an embedding.
    condition
        What the field is told, ``[n_cells, n_conditions]``.
    times
        Falling from 1, the source, to 0, the target, or rising.
    sampling
        Solver, steps for the whole way from 1 to 0, guidance, device and seed.
    decode
        At which of the times counts are made; at all but the first unless given.
    """
    check_velocity(sampling)
    genes = flow.codec.has_counts
    wanted = [i > 0 for i in range(len(times))] if decode is None else list(decode)
    states: list[NDArray[np.float32]] = []
    counts: list[list[sparse.csr_matrix]] = [[] for made in wanted if made and genes]
    way = Way.of(flow, sampling)
    with torch.no_grad(), moved(flow, sampling.device):
        origin = Origin.of(flow, data, condition, sampling.device)
        for batch in batches(len(origin.cells), sampling):
            kept = _kept(origin, batch, way, times)
            shown = kept if genes else [decoded_alike(flow, x, sampling, batch) for x in kept]
            states.append(np.stack([x[: len(batch)].cpu().numpy() for x in shown]))
            made = [(x, t) for x, t, asked in zip(kept, times, wanted, strict=True) if asked and genes]
            for (x, t), place in zip(made, counts, strict=True):
                place.append(counts_alike(origin, batch, (kept[0], x), (1.0 - times[0], 1.0 - t), sampling))
    return Stops(np.concatenate(states, axis=1), tuple(sparse.vstack(parts, format="csr") for parts in counts))


def velocity_of(
    flow: Flow, data: Given, condition: Tensor | None, time: float | NDArray[np.float64], sampling: Sampling
) -> Stops:
    """The states of cells, and by how much the flow moves them from the source to the target in a unit of its time.

    `time` is that of all cells, or one of each. Two times of :class:`Stops`: the states, and the velocity in the same
    units.
    """
    found, way = [], Way.of(flow, sampling)
    scale = flow.codec.sd.numpy() if isinstance(flow.codec, Embedding) else np.float32(1)
    with torch.no_grad(), moved(flow, sampling.device):
        origin = Origin.of(flow, data, condition, sampling.device)
        each = torch.as_tensor(time, dtype=torch.float32, device=sampling.device).expand(len(origin.cells))
        for batch in batches(len(origin.cells), sampling):
            x = origin.drawn(batch, sampling)
            v = -way.velocity(origin.conditions(batch))(x, each[batch.rows])
            shown = x if flow.codec.has_counts else decoded_alike(flow, x, sampling, batch)
            found.append(torch.stack([shown, v])[:, : len(batch)].cpu().numpy())
    states, velocity = np.concatenate(found, axis=1)
    return Stops(np.stack([states, velocity * scale]), ())


def _kept(origin: Origin, batch: Batch, way: Way, times: Sequence[float]) -> list[Tensor]:
    """The states of a batch's cells at each of the times."""
    x, velocity = origin.drawn(batch, way.sampling), way.velocity(origin.conditions(batch))
    kept = [x]
    for start, end in pairwise(times):
        x = way.sampling.solver.integrate(velocity, x, way.part(start, end))
        kept.append(x)
    return kept


def decoded_alike(flow: Flow, state: Tensor, sampling: Sampling, batch: Batch) -> Tensor:
    """Counts of states, or the user's coordinates.

    The same random numbers at each time, so that a cell's noise does not flicker on its way.
    """
    tiles = batch.parts(state)
    return torch.cat([flow.codec.decode(x, None, rng=generator(sampling, i, 1)) for i, x in tiles])


def counts_alike(
    origin: Origin, batch: Batch, ends: tuple[Tensor, Tensor], shares: tuple[float, float], sampling: Sampling
) -> sparse.csr_matrix:
    """The counts of `edited_alike`, sparse, of the batch's own cells."""
    edited = edited_alike(origin, batch, ends, shares, sampling)[: len(batch)]
    return sparse.csr_matrix(edited.cpu().numpy().astype(np.int32))


def edited_alike(
    origin: Origin, batch: Batch, ends: tuple[Tensor, Tensor], shares: tuple[float, float], sampling: Sampling
) -> Tensor:
    """What became of the cells' counts between two states, which are at such shares of the way to the target.

    The same random numbers at each time, so that a cell's noise does not flicker on its way.
    """
    own, before, after = (batch.parts(x) for x in (origin.cells.dense(batch.rows), *ends))
    codec, c = origin.flow.codec, origin.conditions(batch)
    told = [None] * len(batch.tiles) if c is None else [part for _, part in batch.parts(c)]
    return torch.cat(
        [
            codec.edit(x, x0, x1, condition, shares=shares, rng=generator(sampling, i, 1))
            for (i, x), (_, x0), (_, x1), condition in zip(own, before, after, told, strict=True)
        ]
    )
