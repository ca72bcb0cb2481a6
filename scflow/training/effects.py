"""What categories do to single genes beyond their codes, found after the codec of counts is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from scflow.codecs import Counts
from scflow.training.batches import Cells
from scflow.training.run import Run

__all__ = ["fit_effects"]

_PRIOR = 1.0
"""A count of each gene that a category's cells are taken to have shown besides, as their codes say."""
_MOST = 4096
"""Cells of a category that are looked at."""


@torch.no_grad()
def fit_effects(codec: Counts, cells: Cells, condition: Tensor | None, run: Run) -> None:
    """Leave in the codec, for each category and gene, what its cells' codes leave out of its mean.

    Eight cells teach the code little of their type, but the genes in which they surely differ from what their codes
    say are known. The factor of a gene is its posterior mean under a gamma prior of mean 1 and Poisson counts, of
    which sums over a category's cells are observed and expected: ``(observed + 1) / (expected + 1)``. Conditions follow
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


def _categories(condition: Tensor, cardinalities: Sequence[int]) -> Iterator[tuple[int, Tensor, int]]:
    """Column of the design, codes of its condition and code of its category, for each category."""
    column = 0
    for j, k in enumerate(cardinalities):
        for category in range(k):
            yield column + category, condition[:, j], category
        column += k or 1
