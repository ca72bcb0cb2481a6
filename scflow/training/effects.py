"""What categories do to single genes beyond their codes, found after the codec of counts is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from scflow.codecs import Counts
from scflow.training.batches import Cells
from scflow.training.run import Run

__all__ = ["fit_effects", "often_enough"]

_PRIOR = 3.0
"""Counts of a gene that a category's cells are taken to have shown besides, just as many as their codes say."""
_MOST = 4096
"""Cells of a category that are looked at."""
_SHARE = 0.05
"""Share of the cells that training shows which a category has at least, or half of an equal one where that is less."""


@torch.no_grad()
def fit_effects(codec: Counts, cells: Cells, condition: Tensor | None, run: Run) -> None:
    """Leave in the codec, for each category and gene, what its cells' codes leave out of its mean.

    Eight cells teach the code little of their type, but the genes in which they surely differ from what their codes
    say are known. The factor of a gene is its posterior mean under a gamma prior of mean 1 and Poisson counts, of
    which sums over a category's cells are observed and expected: ``(observed + 3) / (expected + 3)``. Conditions follow
    one another, each given those before. Categories of many cells have hardly any effects: their codes say it all.
    """
    if condition is None:
        return
    codec.eval()
    rng = run.generator(10)
    columns = codec.design(condition[run.train], condition)
    for j in codec.categorical_columns():
        observed = torch.zeros(codec.n_genes, dtype=torch.float64, device=run.device)
        expected = torch.zeros_like(observed)
        rows = run.train[torch.nonzero(columns[:, j])[:_MOST, 0]]  # in random order
        for some in torch.split(rows, 256):
            counts = cells.dense(some)
            observed += counts.sum(0)
            expected += codec.expected(counts, condition[some], rng=rng).sum(0)
        codec.effects[j] = torch.log((observed + _PRIOR) / (expected + _PRIOR))


def often_enough(rows: Tensor, condition: Tensor | None, codec: Counts) -> Tensor:
    """Rows to learn the codec from, those of rare categories several times: with few cells, no direction is theirs.

    A cell of several rare categories is repeated as the rarest asks. What conditions are is left to the flow, which
    learns from all cells alike.
    """
    columns = codec.categorical_columns()
    if condition is None or not columns:
        return rows
    there = codec.design(condition[rows], condition)[:, columns]
    least = torch.tensor([min(_SHARE, 0.5 / k) for k in codec.cardinalities for _ in range(k)], device=rows.device)
    times = (least * len(rows) / there.sum(0).clamp_min(1)).ceil().clamp_min(1)
    return rows.repeat_interleave((there * times).amax(1).long().clamp_min(1))
