"""What categories do to single genes beyond their codes, found after the codec of counts is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from scflow.codecs import Counts
from scflow.training.batches import Cells
from scflow.training.run import Run

__all__ = ["categories", "fit_effects", "left_out"]

_PRIOR = 1.0
"""A count of each gene that cells are taken to have shown besides, as their codes say."""
_MOST = 4096
"""Cells that are looked at."""


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
    for column, codes, category in categories(condition[run.train], codec.cardinalities):
        codec.effects[column] = left_out(codec, cells, run.train[codes == category], condition, rng=rng)


def left_out(
    codec: Counts,
    cells: Cells,
    rows: Tensor,
    condition: Tensor | None,
    given: Tensor | None = None,
    *,
    rng: torch.Generator,
) -> Tensor:
    """The log of what cells show over what their codes expect, by gene ``[n_genes]``.

    Parameters
    ----------
    rows
        In random order, of which the first are looked at.
    condition
        What the codec is told of all cells.
    given
        Logs that are known beforehand, ``[len(rows), n_genes]``.
    """
    observed = torch.zeros(codec.n_genes, dtype=torch.float64, device=rng.device)
    expected = torch.zeros_like(observed)
    for place in torch.split(torch.arange(min(len(rows), _MOST), device=rows.device), 256):
        some = rows[place]
        counts = cells.dense(some)
        mean = codec.expected(counts, None if condition is None else condition[some], rng=rng)
        observed += counts.sum(0)
        expected += (mean if given is None else mean * given[place].exp()).sum(0)
    return torch.log((observed + _PRIOR) / (expected + _PRIOR)).float()


def categories(condition: Tensor, cardinalities: Sequence[int]) -> Iterator[tuple[int, Tensor, int]]:
    """Column of the design, codes of its condition and code of its category, for each category."""
    column = 0
    for j, k in enumerate(cardinalities):
        for category in range(k):
            yield column + category, condition[:, j], category
        column += k or 1
