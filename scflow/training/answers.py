"""What codes leave out of two populations' genes, found after the codec of counts is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from scflow.codecs import Counts
from scflow.codecs.base import design
from scflow.training.batches import Cells
from scflow.training.effects import categories, left_out
from scflow.training.run import Run

__all__ = ["fit_answers"]


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
    shared = left_out(codec, cells, target, None, rng=rng)
    effects = torch.zeros_like(codec.answer[2:])
    if condition is not None:
        for column, codes, category in categories(condition[target], codec.answers or ()):
            own = condition[target[codes == category]]
            given = shared + design(own, codec.answers or (), len(own), run.device) @ effects
            effects[column] = left_out(codec, cells, target[codes == category], None, given, rng=rng)
    codec.answer[0], codec.answer[1] = left_out(codec, cells, source, None, rng=rng), shared
    codec.answer[2:] = effects
