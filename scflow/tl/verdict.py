"""What the scores mean, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scflow._anndata import read_scores
from scflow.metrics.verdict import verdict as in_words
from scflow.tl._rows import rows_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["verdict"]


def verdict(scores: pd.DataFrame | AnnData) -> str:
    """Say in a few sentences what a table of scores means.

    In this order, one a line:

    - how many figures are **at the floor**: the floor lies in the value's 95 % interval, or the value is on the side
      that is no fault (an AUC below 0.5 is, a transport distance below its floor is not: that is too little spread);
    - whether the **trivial generator** is beaten, in the figures that it fails itself;
    - **what is wrong**, with the figures that show it, the gravest first. Gravity is the distance from the floor in
      units of the trivial generator's distance; figures below a tenth of that are called close, and no more is made
      of them;
    - the **worst conditions** by name. One in twenty intervals misses its floor by chance, so that a condition with
      one figure off is no cause for worry.

    The rules are data: ``scflow.metrics.symptoms.READINGS`` says what it usually means where a metric is above or
    below its floor. They tell what to look at, not what is the case.

    Parameters
    ----------
    scores
        What :func:`scflow.tl.score` returned, or generated cells with that table in `.uns["scflow_score"]`.

    Returns
    -------
    str
        Lines of plain text, without markup.

    Raises
    ------
    InputError
        Where there is no table, or it lacks columns or rows.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.pbmc68k()
    >>> train, held_out = scflow.pp.split(adata, stratify="cell_type", test_size=0.5)
    >>> scores = scflow.tl.score(
    ...     held_out, train, reference=train, condition=None, metrics=["library_size_ks", "gene_means"]
    ... )
    >>> print(scflow.tl.verdict(scores).splitlines()[0])
    All 2 figures are at the floor: none of them tells these cells from real ones.
    """
    return in_words(rows_of(read_scores(scores)))
