"""What categories do to single genes beyond their codes, found after the codec of counts is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
"""Share of the training cells that a category is shown as often as, or half of an equal one where that is less."""


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
    for column, codes, category in _categories(condition[run.train], codec.cardinalities):
        observed = torch.zeros(codec.n_genes, dtype=torch.float64, device=run.device)
        expected = torch.zeros_like(observed)
        for some in torch.split(run.train[codes == category][:_MOST], 256):  # in random order
            counts = cells.dense(some)
            observed += counts.sum(0)
            expected += codec.expected(counts, condition[some], rng=rng).sum(0)
        codec.effects[column] = torch.log((observed + _PRIOR) / (expected + _PRIOR))


def often_enough(rows: Tensor, condition: Tensor | None, cardinalities: Sequence[int]) -> Tensor:
    """Rows to learn the codec from, those of rare categories several times: no direction of the code is theirs else.

    A cell of several rare categories is repeated as the rarest asks. How many cells there are of each is left to the
    flow, which learns from all cells alike.
    """
    if condition is None:
        return rows
    times = torch.ones(len(rows), dtype=torch.int64, device=rows.device)
    for j, k in enumerate(cardinalities):
        known = torch.nonzero(condition[rows, j].isfinite())[:, 0] if k else rows[:0]
        codes = condition[rows[known], j].long()
        least = min(_SHARE, 0.5 / max(k, 1)) * len(rows)
        asked = (least / torch.bincount(codes, minlength=k).clamp_min(1)).ceil().long()
        times[known] = torch.maximum(times[known], asked[codes])
    return rows.repeat_interleave(times)


def _categories(condition: Tensor, cardinalities: Sequence[int]) -> Iterator[tuple[int, Tensor, int]]:
    """Column of the design, codes of its condition and code of its category, for each category."""
    column = 0
    for j, k in enumerate(cardinalities):
        for category in range(k):
            yield column + category, condition[:, j], category
        column += k or 1
