"""What going along a flow has in common, from either end: whole tiles, the velocity of a batch, the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scflow.errors import InputError
from scflow.flow._sampling import TILE, Sampling, along
from scflow.matching import solvers
from scflow.matching.likelihood import Velocity
from scflow.matching.objective import Velocity as Field

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["Batch", "Way", "batches", "check_velocity", "moved"]


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


def batches(n: int, sampling: Sampling) -> Iterator[Batch]:
    """All `n` cells in batches, with a progress bar where it is asked for."""
    from tqdm.auto import tqdm

    alone = sampling.device.type == "cpu" or sampling.solver.adaptive
    size = TILE if alone else max(1, sampling.batch_size // TILE) * TILE
    with tqdm(total=n, desc="cells", unit="cell", disable=None if sampling.progress else True) as bar:
        for first in range(0, n, size):
            last = min(n, first + size)
            tiles = range(first // TILE, -(-last // TILE))
            rows = torch.arange(first, first + TILE * len(tiles)).clamp_max(n - 1).to(sampling.device)
            yield Batch(first, last, rows, tiles)
            bar.update(last - first)


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
        guided = sampling.guided.around(flow.field, flow.conditions.names)
        return cls(*along(guided, flow.path, sampling.path), sampling)

    def velocity(self, condition: Tensor | None) -> Velocity:
        """The velocity under the conditions ``[n, n_conditions]``."""
        return lambda x, t: self.field(x, t.expand(len(x)), condition)

    def times(self, *, up: bool) -> Tensor:
        """The solver's times, up from the data to the noise or down."""
        start, end = (0.0, self.end) if up else (self.end, 0.0)
        how = self.sampling
        return solvers.grid(how.steps, start=start, end=end, shift=how.shift).to(how.device)


@contextmanager
def moved(flow: Flow, device: torch.device) -> Iterator[None]:
    """The flow's modules on a device while this lasts, ready to be evaluated, and on the CPU afterwards."""
    modules = [flow.field, flow.codec, *([flow.calibration] if flow.calibration is not None else [])]
    try:
        for module in modules:
            module.to(device).eval()
        yield
    finally:
        for module in modules:
            module.to("cpu")


def check_velocity(sampling: Sampling) -> None:
    """Raise where the solver does not follow a velocity."""
    if sampling.solver.jumps:
        raise InputError(
            "solver='jump' takes the steps of a flow map, from noise to cells, and there is no map back. Use "
            "solver='rk4', which follows the velocity that a map has, too."
        )
