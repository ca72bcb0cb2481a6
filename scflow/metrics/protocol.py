"""The protocol: every value beside its floor and the trivial generator, on the same cells, at the same size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.catalogue import DEFAULT, known, meaningful
from scflow.metrics.halves import set_aside
from scflow.metrics.rows import Row
from scflow.metrics.sides import EVERYTHING
from scflow.metrics.yardstick import MOST_CELLS, Deal, Yardstick

__all__ = ["Clouds", "clouds_of", "judge"]


@dataclass(frozen=True, eq=False)
class Clouds:
    """Counts of the three clouds and the category of each of their cells."""

    real: sparse.csr_matrix
    generated: sparse.csr_matrix
    reference: sparse.csr_matrix
    real_labels: NDArray[np.str_]
    generated_labels: NDArray[np.str_]
    reference_labels: NDArray[np.str_]


def judge(
    real: sparse.csr_matrix,
    generated: sparse.csr_matrix,
    reference: sparse.csr_matrix | None = None,
    *,
    real_labels: NDArray[Any] | None = None,
    generated_labels: NDArray[Any] | None = None,
    reference_labels: NDArray[Any] | None = None,
    metrics: str | Sequence[str] = DEFAULT,
    n_genes: int = 2000,
    n_components: int = 50,
    max_cells: int = MOST_CELLS,
    seed: int = 0,
    deal: Deal | None = None,
) -> list[Row]:
    """Score generated against held-out real cells by the protocol of :func:`scflow.tl.score`, on arrays.

    Parameters
    ----------
    real, generated, reference
        Raw counts of held-out, generated and training cells, CSR with the same genes in the same order. Without
        `reference`, half of `real` takes its place.
    real_labels, generated_labels, reference_labels
        The category of each cell, for all three or for none. Categories that real and generated cells do not share
        are left out.
    metrics
        "default", one name, or several. Those that compare labels are left out where there are none.
    n_genes, n_components
        Of the space.
    max_cells
        At most so many cells a side.
    seed
        The same seed gives the same rows.
    deal
        What shares the figures among several processes: tasks in, all their results out.

    Returns
    -------
    list of Row
        For all cells, and for each category with at least 20 cells a side.

    Raises
    ------
    InputError
        Where shapes do not fit, a metric is not known, or fewer than 20 cells a side are left.

    Examples
    --------
    >>> import numpy as np
    >>> real, new = (sparse.csr_matrix(x) for x in np.random.default_rng(0).poisson(2.0, size=(2, 100, 30)))
    >>> [row.metric for row in judge(real, new, metrics=["gene_means", "zero_fractions"])]
    ['gene_means', 'zero_fractions']
    """
    labelled = real_labels is not None
    names = meaningful(known(list(metrics) if not isinstance(metrics, str) else metrics), labelled)
    clouds = clouds_of(real, generated, reference, (real_labels, generated_labels, reference_labels), seed)
    yardstick = Yardstick.of(
        clouds.real,
        clouds.reference,
        names,
        labels=clouds.real_labels,
        reference_labels=clouds.reference_labels if labelled else None,
        generated_labels=clouds.generated_labels,
        within=labelled,
        n_genes=n_genes,
        n_components=n_components,
        max_cells=max_cells,
        seed=seed,
    )
    return yardstick.rows(clouds.generated, deal=deal)


def clouds_of(
    real: sparse.csr_matrix,
    generated: sparse.csr_matrix,
    reference: sparse.csr_matrix | None,
    labels: Sequence[NDArray[Any] | None],
    seed: int,
) -> Clouds:
    """The three clouds with their labels; without a reference half of the real cells take its place."""
    counts = (real, generated, real if reference is None else reference)
    given = (*labels[:2], labels[0] if reference is None else labels[2])
    clouds = Clouds(*counts, *_as_labels(counts, given))
    if reference is not None:
        return clouds
    aside = set_aside(clouds.real_labels, seed)
    return replace(
        clouds,
        real=real[~aside],
        reference=real[aside],
        real_labels=clouds.real_labels[~aside],
        reference_labels=clouds.real_labels[aside],
    )


def _as_labels(counts: Sequence[sparse.csr_matrix], given: Sequence[NDArray[Any] | None]) -> list[NDArray[np.str_]]:
    """Labels as text, or one category for all."""
    without = [labels is None for labels in given]
    if any(without) and not all(without):
        raise InputError("Labels were given for some of the clouds only. Give them for all of them, or for none.")
    found = []
    for matrix, labels in zip(counts, given, strict=True):
        n = matrix.shape[0]
        text = np.full(n, EVERYTHING) if labels is None else np.asarray(labels).astype(np.str_)
        if text.shape != (n,):
            raise InputError(f"{n} cells have labels of shape {text.shape}; expected one label a cell.")
        if labels is not None and EVERYTHING in text:
            raise InputError(
                f"{int((text == EVERYTHING).sum())} of {n} cells are in a category called {EVERYTHING!r}, which stands "
                "for all cells in the table. Rename it: .cat.rename_categories({'all': 'other'})."
            )
        found.append(text)
    return found
