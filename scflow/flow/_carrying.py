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
from scflow.flow._sampling import TILE, Sampling, generator
from scflow.matching import solvers
from scflow.matching.objective import Velocity

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["Way", "carry", "velocity_of"]

Data = sparse.csr_matrix | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Way:
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
    data: Data,
    condition: Tensor | None,
    times: Sequence[float],
    sampling: Sampling,
    *,
    decode: Sequence[bool] | None = None,
) -> Way:
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
    from tqdm.auto import tqdm

    n, genes = data.shape[0], flow.codec.has_counts
    wanted = [i > 0 for i in range(len(times))] if decode is None else list(decode)
    states: list[NDArray[np.float32]] = []
    counts: list[list[sparse.csr_matrix]] = [[] for made in wanted if made and genes]
    modules = (flow.field, flow.codec)
    for module in modules:
        module.to(sampling.device).eval()
    try:
        with torch.no_grad(), tqdm(total=n, desc="cells", unit="cell", disable=not sampling.progress) as bar:
            for tile, first in enumerate(range(0, n, TILE)):
                rows = slice(first, min(n, first + TILE))
                c = None if condition is None else condition[rows].to(sampling.device)
                kept = _tile(flow, _dense(data, rows, sampling), c, times, sampling, tile)
                shown = kept if genes else [flow.codec.decode(x, None, rng=generator(sampling, tile, 1)) for x in kept]
                states.append(np.stack([x.cpu().numpy() for x in shown]))
                made = [x for x, asked in zip(kept, wanted, strict=True) if asked and genes]
                for x, place in zip(made, counts, strict=True):
                    place.append(_counts(flow, x, sampling, tile))
                bar.update(rows.stop - first)
    finally:
        for module in modules:
            module.to("cpu")
    return Way(np.concatenate(states, axis=1), tuple(sparse.vstack(tiles, format="csr") for tiles in counts))


def velocity_of(flow: Flow, data: Data, condition: Tensor | None, time: float, sampling: Sampling) -> Way:
    """The states of cells, and by how much the flow moves them from the source to the target in a unit of its time.

    Two times of :class:`Way`: the states, and the velocity in the same units.
    """
    found = []
    scale = flow.codec.sd.numpy() if isinstance(flow.codec, Embedding) else np.float32(1)
    for module in (flow.field, flow.codec):
        module.to(sampling.device).eval()
    with torch.no_grad():
        for tile, first in enumerate(range(0, data.shape[0], TILE)):
            rows = slice(first, min(data.shape[0], first + TILE))
            c = None if condition is None else condition[rows].to(sampling.device)
            x = flow.codec.encode(_dense(data, rows, sampling), None, rng=generator(sampling, tile, 0))
            v = -_guided(flow, sampling)(x, torch.full((len(x),), time, device=x.device), c)
            found.append(torch.stack([x, v]).cpu().numpy())
    for module in (flow.field, flow.codec):
        module.to("cpu")
    states, velocity = np.concatenate(found, axis=1)
    if not flow.codec.has_counts:
        states = flow.codec.decode(torch.from_numpy(states), None, rng=generator(sampling, 0, 1)).numpy()
    return Way(np.stack([states, velocity * scale]), ())


def _tile(
    flow: Flow, dense: Tensor, condition: Tensor | None, times: Sequence[float], sampling: Sampling, tile: int
) -> list[Tensor]:
    """The states of a tile's cells at each of the times."""
    field = _guided(flow, sampling)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return field(x, t.expand(len(x)), condition)

    x = flow.codec.encode(dense, None, rng=generator(sampling, tile, 0))
    kept = [x]
    for start, end in pairwise(times):
        steps = max(1, round(sampling.steps * abs(end - start)))
        grid = solvers.grid(steps, start=start, end=end).to(x.device)
        x = sampling.solver.integrate(velocity, x, grid)
        kept.append(x)
    return kept


def _guided(flow: Flow, sampling: Sampling) -> Velocity:
    return sampling.guided.around(flow.field, flow.conditions.names)


def _dense(data: Data, rows: slice, sampling: Sampling) -> Tensor:
    """Some cells' counts or coordinates."""
    part = data[rows]
    values = part.toarray() if sparse.issparse(part) else np.asarray(part)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(sampling.device)


def _counts(flow: Flow, state: Tensor, sampling: Sampling, tile: int) -> sparse.csr_matrix:
    """Counts of states: the same random numbers at each time, so that a cell's noise does not flicker on its way."""
    drawn = flow.codec.decode(state, None, rng=generator(sampling, tile, 1))
    return sparse.csr_matrix(drawn.cpu().numpy().astype(np.int32))
