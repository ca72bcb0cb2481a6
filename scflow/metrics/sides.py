"""What metrics look at: cells seen in a space, the training cells, and what the comparisons of one repeat share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.metrics.copies import fingerprints
from scflow.metrics.kernels import median_distance
from scflow.metrics.labels import label_model
from scflow.metrics.neighbours import radii
from scflow.metrics.space import Space, library_sizes

__all__ = ["EVERYTHING", "MIN_CELLS", "Cells", "Common", "Setting", "Training", "conditions_of"]

MIN_CELLS = 20
"""Cells a side below which a condition has no figures of its own."""

EVERYTHING = "all"
"""The condition that stands for all cells."""


# Training cells that are looked at one by one, and real cells that a classifier learns labels from.
_MOST_TRAINING = 20_000
_MOST_LEARNT = 5000


@dataclass(frozen=True, eq=False)
class Cells:
    """One side of a comparison, seen in a space.

    Attributes
    ----------
    counts
        Raw counts, CSR ``[n, n_genes]``.
    expression
        Log1p of counts per 10,000 of the variable genes, CSR `[n, n_chosen]`.
    components
        Principal components `[n, k]`.
    library, detected
        Total counts of each cell, and number of genes with a count, over all genes, `[n]`.
    """

    counts: sparse.csr_matrix
    expression: sparse.csr_matrix
    components: NDArray[np.float32]
    library: NDArray[np.float64]
    detected: NDArray[np.int64]

    @classmethod
    def of(cls, counts: sparse.csr_matrix, space: Space) -> Cells:
        """Look at raw counts `[n, n_genes]` in `space`."""
        expression = space.expression(counts)
        detected = np.diff(counts.indptr).astype(np.int64)
        return cls(counts, expression, space.project(expression), library_sizes(counts), detected)

    def among(self, rows: NDArray[np.int64]) -> Cells:
        """Some of the cells; these themselves, with what is known of them, where all are asked for in their order."""
        if len(rows) == len(self.library) and (rows == np.arange(len(rows))).all():
            return self
        sparse_parts = (self.counts[rows], self.expression[rows])
        return Cells(*sparse_parts, self.components[rows], self.library[rows], self.detected[rows])

    @cached_property
    def radii(self) -> NDArray[np.float64]:
        """The distance of each cell to its fifth nearest neighbour among these, in principal components."""
        return radii(self.components)


@dataclass(frozen=True, eq=False)
class Training:
    """The cells that a generator learnt from.

    Attributes
    ----------
    counts
        Raw counts of all of them, CSR `[n, n_genes]`.
    labels
        The category of each, `[n]`; None where there are none.
    sample
        Some of them, drawn at random, seen in the space that was fitted on all.
    sample_labels
        Their categories.
    """

    counts: sparse.csr_matrix
    labels: NDArray[Any] | None
    sample: Cells
    sample_labels: NDArray[Any]

    @classmethod
    def of(cls, counts: sparse.csr_matrix, labels: NDArray[Any] | None, space: Space, seed: int = 0) -> Training:
        """With a sample of at most 20,000 cells."""
        n = counts.shape[0]
        rows = np.random.default_rng([seed, 1]).permutation(n)[:_MOST_TRAINING]
        names = np.full(n, EVERYTHING) if labels is None else np.asarray(labels)
        return cls(counts, labels, Cells.of(counts[rows], space), names[rows])

    @cached_property
    def fingerprints(self) -> NDArray[np.uint64]:
        """Of all training cells."""
        return fingerprints(self.counts)


@dataclass(frozen=True, eq=False)
class Common:
    """What is made once of training and held-out cells, whatever is compared with these.

    Attributes
    ----------
    training
        The cells that a generator learnt from.
    real
        The half of the held-out cells that everything is compared with.
    strata
        The category of each of these, `[n]`.
    """

    training: Training
    real: Cells
    strata: NDArray[Any]

    @cached_property
    def real_space(self) -> Space:
        """Fitted on the half alone: in the training cells' own space their noise lies further out than others'."""
        n_genes, n_components = self.real.expression.shape[1], self.real.components.shape[1]
        return Space.fit(self.real.counts[:_MOST_LEARNT], n_genes, n_components)

    @cached_property
    def classifier(self) -> Any:
        """Learnt from the half's principal components in `real_space` and its labels; None where there is one label.

        Not from training cells: a generator learnt from them too, and would seem typical where it repeats their noise.
        """
        labels = self.strata[:_MOST_LEARNT]
        if len(np.unique(labels)) < 2:
            return None
        return label_model(self.real_space.components(self.real.counts[:_MOST_LEARNT]), labels)

    @property
    def n(self) -> int:
        """How many cells of each."""
        return min(len(self.training.sample.library), len(self.real.library))

    @cached_property
    def space(self) -> Space:
        """Fitted on as many training cells as held-out ones, so that neither lies further out in it."""
        both = [self.training.sample.counts[: self.n], self.real.counts[: self.n]]
        return Space.fit(sparse.csr_matrix(sparse.vstack(both, format="csr")))

    @cached_property
    def sides(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Principal components of the sample of training cells and of the held-out cells."""
        return self.space.components(self.training.sample.counts), self.space.components(self.real.counts)


@dataclass(frozen=True, eq=False)
class Setting:
    """What the comparisons of one repeat share.

    Attributes
    ----------
    conditions
        The rows, the same on all sides, that each condition is about.
    strata
        The category of each row, `[n]`.
    bandwidths
        The length of the kernels in each condition, from real cells alone.
    seed
        Of whatever is random.
    common
        The training cells beside the real ones of this repeat.
    interval
        Whether to add intervals.
    """

    conditions: Mapping[str, NDArray[np.int64]]
    strata: NDArray[Any]
    bandwidths: Mapping[str, float]
    seed: int
    common: Common
    interval: bool = True

    @classmethod
    def of(
        cls, real: Cells, other: Cells, strata: NDArray[Any], training: Training, *, within: bool, seed: int
    ) -> Setting:
        """For comparisons with the half `real`, whose rows have the categories `strata`; `other` is the other half.

        `within` asks for figures of each category of at least 20 cells beside those of all.
        """
        conditions = conditions_of(strata, within=within)
        bandwidths = {
            name: median_distance(real.components[rows], other.components[rows], seed=seed)
            for name, rows in conditions.items()
        }
        return cls(conditions, strata, bandwidths, seed, Common(training, real, strata))


def conditions_of(strata: NDArray[Any], *, within: bool) -> dict[str, NDArray[np.int64]]:
    """The rows of all cells and, with `within`, of each category of at least 20."""
    conditions = {EVERYTHING: np.arange(len(strata))}
    for label in np.unique(strata) if within else ():
        rows = np.flatnonzero(strata == label)
        if len(rows) >= MIN_CELLS:
            conditions[str(label)] = rows
    return conditions
