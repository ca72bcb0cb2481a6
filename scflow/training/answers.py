"""What codes leave out of two populations' genes, found after the codec of counts is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from scflow.codecs import Counts
from scflow.codecs.base import design
from scflow.training.batches import Cells
from scflow.training.effects import categories
from scflow.training.run import Run

__all__ = ["fit_answers"]

_PRIOR = 1.0
"""A count of each gene that a population's cells are taken to have shown besides, as their codes say."""
_MOST = 4096
"""Cells of a population that are looked at."""


@torch.no_grad()
def fit_answers(
    codec: Counts, cells: Cells, source: Tensor, target: Tensor, condition: Tensor | None, run: Run
) -> None:
    """Leave in the codec, gene by gene, what the codes of each population leave out of it.

    One codec learns both, and knows no conditions. What it cannot say of a gene it says of neither population, so the
    ratio of what it expects is nearer to 1 than that of the counts. What is left of each population is the factor
    ``(observed + 1) / (expected + 1)``, learnt from all groups; those that were never seen carried get it too, like the
    mean displacement. Target cells of each category have a factor of their own, beside that of all; conditions follow
    one another, each given those before.

    Parameters
    ----------
    source, target
        Rows of the cells of both populations in groups that have both, in random order.
    condition
        Of the target cells, ``[n_cells, n_conditions]``.
    """
    codec.eval()
    rng = run.generator(11)
    shared = _factor(codec, cells, target, None, rng)
    effects = torch.zeros_like(codec.answer[2:])
    if condition is not None:
        for column, codes, category in categories(condition[target], codec.answers or ()):
            own = condition[target[codes == category]]
            given = shared + design(own, codec.answers or (), len(own), run.device) @ effects
            effects[column] = _factor(codec, cells, target[codes == category], given, rng)
    codec.answer[0], codec.answer[1] = _factor(codec, cells, source, None, rng), shared
    codec.answer[2:] = effects


def _factor(codec: Counts, cells: Cells, rows: Tensor, given: Tensor | None, rng: torch.Generator) -> Tensor:
    """The log of what is observed over what is expected ``[n_genes]``, of cells given logs ``[n, n_genes]`` or none."""
    observed = torch.zeros(codec.n_genes, dtype=torch.float64, device=rng.device)
    expected = torch.zeros_like(observed)
    for place in torch.split(torch.arange(min(len(rows), _MOST), device=rows.device), 256):
        counts = cells.dense(rows[place])
        mean = codec.expected(counts, None, rng=rng)
        observed += counts.sum(0)
        expected += (mean if given is None else mean * given[place].exp()).sum(0)
    return torch.log((observed + _PRIOR) / (expected + _PRIOR)).float()
