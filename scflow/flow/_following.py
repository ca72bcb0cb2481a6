"""What going along a flow has in common, from either end: whole tiles, the velocity of a batch, the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.errors import InputError
from scflow.flow._sampling import TILE, Sampling, along, generator
from scflow.matching import solvers
from scflow.matching.likelihood import Velocity
from scflow.matching.objective import Velocity as Field
from scflow.training.bars import bar_class
from scflow.training.batches import Cells, Coordinates

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["Batch", "Given", "Origin", "Way", "batches", "check_velocity"]

Given = sparse.csr_matrix | NDArray[Any]
"""Counts, or dense states."""


@dataclass(frozen=True)
class Batch:
    """Cells that are computed at once.

    Attributes
    ----------
    first, last
        The cells, without `last`.
    rows
        Their numbers, int64, filled up with the last cell to whole tiles: a cell's bits then depend on its place in its
        tile, and on no batch size.
    tiles
        The tiles' numbers.
    """

    first: int
    last: int
    rows: Tensor
    tiles: range

    def __len__(self) -> int:
        return self.last - self.first

    def parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each tile's number, and its part of the batch's `values` ``[len(rows), ...]``."""
        return zip(self.tiles, torch.split(values, TILE), strict=True)


def batches(n: int, sampling: Sampling, of: Tensor | None = None) -> Iterator[Batch]:
    """All `n` cells in batches, with a progress bar where it is asked for.

    `of` are the rows that they have among more cells, or among fewer, of which some are there several times.
    """
    alone = sampling.device.type == "cpu" or sampling.solver.adaptive
    size = TILE if alone else max(1, sampling.batch_size // TILE) * TILE
    with bar_class()(total=n, desc="cells", unit="cell", disable=None if sampling.progress else True) as bar:
        for first in range(0, n, size):
            last = min(n, first + size)
            tiles = range(first // TILE, -(-last // TILE))
            rows = torch.arange(first, first + TILE * len(tiles)).clamp_max(n - 1)
            yield Batch(first, last, (rows if of is None else of[rows]).to(sampling.device), tiles)
            bar.update(last - first)


@dataclass(frozen=True)
class Origin:
    """Where cells begin that are followed.

    Attributes
    ----------
    flow
        Its modules are on the device.
    cells
        Counts, a user's coordinates, or states that are there already.
    condition
        Encoded conditions ``[n, n_conditions]``, or ``None``.
    """

    flow: Flow
    cells: Cells | Coordinates
    condition: Tensor | None

    @classmethod
    def of(cls, flow: Flow, cells: Given, condition: Tensor | None, device: torch.device) -> Origin:
        """On a device."""
        there = Cells(cells, device) if sparse.issparse(cells) else Coordinates(cells, device)
        return cls(flow, there, None if condition is None else condition.to(device))

    def conditions(self, batch: Batch) -> Tensor | None:
        """Those of a batch."""
        return None if self.condition is None else self.condition[batch.rows]

    def shown(self, batch: Batch, state: Tensor) -> Tensor:
        """The states as `.obsm` has them; in an embedding the user's coordinates as they were given."""
        return state if self.flow.codec.has_counts else self.cells.dense(batch.rows)

    def mean(self, batch: Batch) -> Tensor:
        """The mean states of cells, by which they are known where nothing is to be drawn."""
        x = self.cells.dense(batch.rows)
        if isinstance(self.cells, Coordinates) and self.flow.codec.has_counts:
            return x
        return self.flow.codec.mean_state(x, self.conditions(batch))

    def drawn(self, batch: Batch, sampling: Sampling) -> Tensor:
        """States that cells might have, drawn without their conditions: a flow that carries cells has such a codec."""
        tiles = batch.parts(self.cells.dense(batch.rows))
        return torch.cat([self.flow.codec.encode(x, None, rng=generator(sampling, i, 0)) for i, x in tiles])


@dataclass(frozen=True)
class Way:
    """The way between a flow's cells and its noise.

    Attributes
    ----------
    field
        The flow's, guided.
    end, scale
        The time of the noise, and what noise is multiplied by there: 1, but along another path than the flow's own.
    sampling
        Solver, steps and shift.
    """

    field: Field
    end: float
    scale: float
    sampling: Sampling

    @classmethod
    def of(cls, flow: Flow, sampling: Sampling) -> Way:
        """Along the path that was asked for."""
        return cls(*along(sampling.around(flow), flow.path, sampling.path), sampling)

    def velocity(self, condition: Tensor | None) -> Velocity:
        """The velocity under the conditions ``[n, n_conditions]``."""
        return lambda x, t: self.field(x, t.expand(len(x)), condition)

    def part(self, start: float, end: float) -> Tensor:
        """The solver's times from one time to another, steps as long as those of the whole way, without shift."""
        steps = max(1, round(self.sampling.steps * abs(end - start)))
        return solvers.grid(steps, start=start, end=end).to(self.sampling.device)

    def times(self, *, up: bool) -> Tensor:
        """The solver's times, up from the data to the noise or down."""
        start, end = (0.0, self.end) if up else (self.end, 0.0)
        how = self.sampling
        return solvers.grid(how.steps, start=start, end=end, shift=how.shift).to(how.device)


def check_velocity(sampling: Sampling) -> None:
    """Raise where the solver does not follow a velocity."""
    if sampling.solver.jumps:
        raise InputError(
            "solver='jump' takes the steps of a flow map, from noise to cells, and cells are followed by a velocity. "
            "Use solver='rk4': the velocity is there, too, in a flow that is a map."
        )
