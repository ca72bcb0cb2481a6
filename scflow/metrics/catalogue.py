"""The metrics by name: what each looks at, and what is perfect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError, nearest
from scflow.metrics import genes
from scflow.metrics.classifiers import auc, out_of_fold
from scflow.metrics.estimate import Estimate
from scflow.metrics.kernels import energy_distance, mmd
from scflow.metrics.space import Space, library_sizes
from scflow.metrics.transport import wasserstein

__all__ = ["DEFAULT", "METRICS", "Cells", "Metric", "Setting", "known"]

MIN_CELLS = 20
"""Cells a side below which a condition has no figures of its own."""

# Exact transport of more cells takes minutes, and so do forests: 1,000 cells a side have a standard error of 0.013.
_MOST_TRANSPORT = 2000
_MOST_CLASSIFIER = 1000


@dataclass(frozen=True, eq=False)
class Cells:
    """One side of a comparison, seen in a space.

    Attributes
    ----------
    expression
        Log1p of counts per 10,000 of the variable genes, CSR `[n, n_chosen]`.
    components
        Principal components `[n, k]`.
    library, detected
        Total counts of each cell, and number of genes with a count, over all genes, `[n]`.
    """

    expression: sparse.csr_matrix
    components: NDArray[np.float32]
    library: NDArray[np.float64]
    detected: NDArray[np.int64]

    @classmethod
    def of(cls, counts: sparse.csr_matrix, space: Space) -> Cells:
        """Look at raw counts `[n, n_genes]` in `space`."""
        expression = space.expression(counts)
        detected = np.diff(counts.indptr).astype(np.int64)
        return cls(expression, space.project(expression), library_sizes(counts), detected)

    def among(self, rows: NDArray[np.int64]) -> Cells:
        """Some of the cells."""
        return Cells(self.expression[rows], self.components[rows], self.library[rows], self.detected[rows])


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
    interval
        Whether to add intervals.
    """

    conditions: Mapping[str, NDArray[np.int64]]
    strata: NDArray[Any]
    bandwidths: Mapping[str, float]
    seed: int
    interval: bool = True


@dataclass(frozen=True)
class Options:
    """What a metric may need beside the cells of one condition; fields as in `Setting`."""

    bandwidth: float
    seed: int
    interval: bool


@dataclass(frozen=True)
class Metric:
    """How to compare two sides.

    Attributes
    ----------
    measure
        From the cells judged, the real cells and the setting to an estimate for each condition.
    has_ratio
        Whether value / floor means something: the floor is positive and not chance alone.
    cells
        About how many cells a side the repeats on small sets should add up to.
    most_repeats
        The most of them.
    """

    measure: Callable[[Cells, Cells, Setting], dict[str, Estimate]]
    has_ratio: bool
    cells: int = 3000
    most_repeats: int = 5

    def repeats(self, n_cells: int) -> int:
        """How often cells are halved where a half holds `n_cells`."""
        return min(self.most_repeats, max(1, round(self.cells / n_cells)))


Direct = Callable[[Cells, Cells, Options], Estimate]


def _each(compare: Direct, x: Cells, y: Cells, setting: Setting, *, most: int | None = None) -> dict[str, Estimate]:
    """One comparison for each condition, of at most `most` cells a side."""
    found = {}
    for name, rows in setting.conditions.items():
        options = Options(setting.bandwidths[name], setting.seed, setting.interval)
        found[name] = compare(x.among(rows[:most]), y.among(rows[:most]), options)
    return found


def _classified(classifier: str, view: str, x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """One classifier of all cells, whose out-of-fold scores are then compared within each condition.

    A classifier for each condition would have too few cells to learn from.
    """
    head = np.arange(min(_MOST_CLASSIFIER, len(x.library)))
    sides = [_features(side.among(head), view) for side in (x, y)]
    strata = setting.strata[head]
    scores = out_of_fold(*sides, classifier=classifier, strata_x=strata, strata_y=strata, seed=setting.seed)
    found = {}
    for name, rows in setting.conditions.items():
        keep = np.isin(head, rows)
        found[name] = auc(scores.among(keep, keep)) if keep.sum() >= MIN_CELLS else Estimate(np.nan)
    return found


def _features(cells: Cells, view: str) -> NDArray[np.float32]:
    return cells.components if view == "components" else cells.expression.toarray()


def _wasserstein(x: Cells, y: Cells, options: Options) -> Estimate:
    return wasserstein(x.components, y.components, interval=options.interval)


def _mmd(x: Cells, y: Cells, options: Options) -> Estimate:
    return mmd(x.components, y.components, bandwidth=options.bandwidth, interval=options.interval, seed=options.seed)


def _energy(x: Cells, y: Cells, options: Options) -> Estimate:
    return energy_distance(x.components, y.components, interval=options.interval, seed=options.seed)


def _genes(function: Callable[..., Estimate], x: Cells, y: Cells, options: Options) -> Estimate:
    return function(x.expression, y.expression, interval=options.interval, seed=options.seed)


def _ks(attribute: str, x: Cells, y: Cells, options: Options) -> Estimate:
    return genes.ks(getattr(x, attribute), getattr(y, attribute), interval=options.interval, seed=options.seed)


def _direct(compare: Direct, *, has_ratio: bool = True, most: int | None = None) -> Metric:
    return Metric(partial(_each, compare, most=most), has_ratio)


def _classifier(name: str, view: str) -> Metric:
    return Metric(partial(_classified, name, view), has_ratio=False, cells=1500, most_repeats=3)


def _r(function: Callable[..., Estimate]) -> Metric:
    return _direct(partial(_genes, partial(function, compare="correlation")), has_ratio=False)


METRICS: dict[str, Metric] = {
    "wasserstein": _direct(_wasserstein, most=_MOST_TRANSPORT),
    "mmd": _direct(_mmd, has_ratio=False),
    "energy": _direct(_energy, has_ratio=False),
    "forest_auc_genes": _classifier("forest", "genes"),
    "forest_auc_components": _classifier("forest", "components"),
    "gene_means": _direct(partial(_genes, genes.gene_means)),
    "gene_variances": _direct(partial(_genes, genes.gene_variances)),
    "zero_fractions": _direct(partial(_genes, genes.zero_fractions)),
    "gene_correlation": _direct(partial(_genes, genes.gene_correlation)),
    "library_size_ks": _direct(partial(_ks, "library")),
    "detected_genes_ks": _direct(partial(_ks, "detected")),
    "logistic_auc_genes": _classifier("logistic", "genes"),
    "logistic_auc_components": _classifier("logistic", "components"),
    "gene_means_r": _r(genes.gene_means),
    "gene_variances_r": _r(genes.gene_variances),
    "zero_fractions_r": _r(genes.zero_fractions),
}
"""All metrics by name; :func:`scflow.tl.score` says what each is and what is perfect."""

DEFAULT: tuple[str, ...] = tuple(METRICS)[:11]
"""The metrics that `metrics="default"` stands for."""


def known(metrics: object) -> tuple[str, ...]:
    """The names of metrics: "default", one name, or several.

    Raises
    ------
    InputError
        Where a name is not known, given twice, or there is none.
    """
    if isinstance(metrics, str):
        names: tuple[Any, ...] = DEFAULT if metrics == "default" else (metrics,)
    else:
        names = tuple(metrics) if isinstance(metrics, (list, tuple)) else (metrics,)
    listing = ", ".join(map(repr, METRICS))
    for name in names:
        if name not in METRICS:
            raise InputError(
                f"There is no metric {name!r}.{nearest(name, METRICS)} Choose among {listing}, or metrics='default'."
            )
    if not names or len(set(names)) < len(names):
        raise InputError(f"metrics={metrics!r} names no metric, or one twice. Name each once, out of {listing}.")
    return names
