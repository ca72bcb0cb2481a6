"""What the code of counts leaves out: directions that the cells' residuals share, found after training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scflow.codecs import Counts
from scflow.codecs.residuals import shared_directions
from scflow.training.batches import Cells
from scflow.training.run import Run

__all__ = ["fit_shared"]

_MOST = 4096
"""Cells that are looked at: enough for directions that matter."""
_LEAST_SLOPE = 0.05
"""A gene that hardly answers to its rate is not moved without bound."""


def fit_shared(codec: Counts, cells: Cells, condition: Tensor | None, run: Run) -> None:
    """Find the directions that the residuals of training cells share, and leave them in the codec.

    How far cells lie out along them is that of the validation cells, which neither codec nor directions were fitted
    on: one factor for all, since these cells are few.
    """

    def residuals(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for some in torch.split(rows, 256):
            yield codec.pearson(cells.dense(some), None if condition is None else condition[some])

    codec.eval()
    train, validation = run.train[:_MOST], run.validation[:_MOST]  # both in random order
    found = shared_directions(lambda: (r for r, _ in residuals(train)), codec.shared, rng=run.generator(9))
    if not len(found.signal):
        return
    slope = torch.stack([s.square().sum(0) for _, s in residuals(train)]).sum(0).div(len(train)).sqrt()
    # 1,024 cells of a genome's genes are 80 MB.
    excess = found.excess(torch.cat([r for r, _ in residuals(validation[:1024])]))
    signal = found.signal * min(max(excess, 0.5), 2.0)
    codec.share((found.axes * signal.sqrt() / slope.clamp_min(_LEAST_SLOPE)[:, None]).T)
