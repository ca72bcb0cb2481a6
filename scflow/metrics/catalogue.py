"""The metrics by name: what each looks at, and what is perfect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from scflow.errors import InputError, names_of, nearest
from scflow.metrics import genes, measures, neighbours
from scflow.metrics.estimate import Estimate
from scflow.metrics.measures import Direct, Measure
from scflow.metrics.sides import MIN_CELLS, Cells, Setting

__all__ = ["DEFAULT", "METRICS", "MIN_CELLS", "Better", "Cells", "Metric", "Setting", "known"]

Better = Literal["less", "more", "floor"]

# Exact transport of more cells takes minutes, and so do forests: 1,000 cells a side have a standard error of 0.013.
_MOST_TRANSPORT = 2000
_MOST_CLASSIFIER = 1000


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
    better
        "less" or "more" where one direction is good as far as the floor and harmless beyond it; "floor" where a value
        on either side of the floor is bad.
    about
        What it tells, in a few words.
    needs_labels
        Whether it means nothing without categories of cells.

    Examples
    --------
    >>> METRICS["forest_auc_genes"].about
    'whether a forest can tell cells by their genes'
    >>> METRICS["mmd"].has_ratio
    False
    """

    measure: Measure
    has_ratio: bool
    cells: int = 3000
    most_repeats: int = 5
    better: Better = "less"
    about: str = ""
    needs_labels: bool = False

    def repeats(self, n_cells: int) -> int:
        """How often cells are halved where a half holds `n_cells`."""
        return min(self.most_repeats, max(1, round(self.cells / n_cells)))


def _direct(
    compare: Direct, about: str, better: Better = "less", *, has_ratio: bool = True, most: int | None = None
) -> Metric:
    return Metric(partial(measures.each, compare, most=most), has_ratio, better=better, about=about)


def _classifier(name: str, view: str, about: str) -> Metric:
    measure = partial(measures.classified, name, view, _MOST_CLASSIFIER)
    return Metric(measure, has_ratio=False, cells=1500, most_repeats=3, about=about)


def _genes(function: Callable[..., Estimate], about: str) -> Metric:
    return _direct(partial(measures.by_genes, function), about)


def _r(function: Callable[..., Estimate], about: str) -> Metric:
    compare = partial(measures.by_genes, partial(function, compare="correlation"))
    return _direct(compare, about, "more", has_ratio=False)


def _balls(function: Callable[..., Estimate], about: str, better: Better) -> Metric:
    return _direct(partial(measures.by_real_balls, function), about, better)


def _labels(measure: Measure, about: str, better: Better) -> Metric:
    return Metric(measure, has_ratio=True, better=better, about=about, needs_labels=True)


METRICS: dict[str, Metric] = {
    "wasserstein": _direct(
        measures.by_wasserstein, "how far cells have to move to become real ones", "floor", most=_MOST_TRANSPORT
    ),
    "mmd": _direct(measures.by_mmd, "how different the densities are", has_ratio=False),
    "energy": _direct(measures.by_energy, "how much farther others are than one's own", has_ratio=False),
    "forest_auc_genes": _classifier("forest", "genes", "whether a forest can tell cells by their genes"),
    "forest_auc_components": _classifier("forest", "components", "whether a forest can tell cells by components"),
    "gene_means": _genes(genes.gene_means, "error of genes' means"),
    "gene_variances": _genes(genes.gene_variances, "error of genes' variances"),
    "zero_fractions": _genes(genes.zero_fractions, "error of genes' shares of zeros"),
    "gene_correlation": _genes(genes.gene_correlation, "error of correlations between genes"),
    "library_size_ks": _direct(partial(measures.by_ks, "library"), "how different cells' depths are"),
    "detected_genes_ks": _direct(partial(measures.by_ks, "detected"), "how different numbers of genes detected are"),
    "logistic_auc_genes": _classifier("logistic", "genes", "whether a linear classifier can tell cells by genes"),
    "logistic_auc_components": _classifier("logistic", "components", "whether one can tell cells by components"),
    "gene_means_r": _r(genes.gene_means, "correlation of genes' means"),
    "gene_variances_r": _r(genes.gene_variances, "correlation of genes' variances"),
    "zero_fractions_r": _r(genes.zero_fractions, "correlation of genes' shares of zeros"),
    "sliced_wasserstein": _direct(measures.by_slices, "how far cells have to move, seen in single directions", "floor"),
    "sinkhorn": _direct(measures.by_sinkhorn, "how far cells have to move, blurred", "floor", most=_MOST_CLASSIFIER),
    "mmd_p": _direct(
        measures.by_permutation,
        "how often chance alone gives such an MMD",
        "more",
        has_ratio=False,
        most=_MOST_TRANSPORT,
    ),
    "precision": _balls(neighbours.precision, "share of cells within reach of real ones", "more"),
    "recall": _direct(measures.by_own_balls, "share of real cells within reach of generated ones", "more"),
    "density": _balls(neighbours.density, "how densely real cells surround generated ones", "floor"),
    "coverage": _balls(neighbours.coverage, "share of real cells with a generated one beside them", "more"),
    "dropout_curve": _direct(measures.by_dropout, "error of shares of zeros at given means"),
    "label_accuracy": _labels(measures.labelled, "whether a classifier of new real cells agrees with labels", "floor"),
    "fold_change_slope": _labels(measures.changes, "whether conditions differ by as much", "floor"),
    "train_on_synthetic": _labels(measures.synthetic, "what a classifier learns from the cells, on real ones", "more"),
    "copying": Metric(
        measures.copied, has_ratio=True, better="floor", about="whether training cells are nearer than unseen ones"
    ),
    "duplicates": Metric(measures.duplicated, has_ratio=False, about="share of cells that are training cells"),
}
"""All metrics by name; :func:`scflow.tl.score` says what each is and what is perfect."""

DEFAULT: tuple[str, ...] = (
    *tuple(METRICS)[:11],
    "precision",
    "recall",
    "density",
    "coverage",
    "dropout_curve",
    "label_accuracy",
    "fold_change_slope",
    "copying",
    "duplicates",
)
"""The metrics that `metrics="default"` stands for; those of labels only where there are labels."""


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
        names = tuple(names_of(metrics, "metrics"))
    listing = ", ".join(map(repr, METRICS))
    for name in names:
        if not isinstance(name, str) or name not in METRICS:
            raise InputError(
                f"There is no metric {name!r}.{nearest(name, METRICS)} Choose among {listing}, or metrics='default'."
            )
    if not names or len(set(names)) < len(names):
        raise InputError(f"metrics={metrics!r} names no metric, or one twice. Name each once, out of {listing}.")
    return names


def meaningful(names: tuple[str, ...], labelled: bool) -> tuple[str, ...]:
    """Those of the metrics that can be taken: without labels, not those that need them.

    Raises
    ------
    InputError
        Where none is left.
    """
    left = tuple(name for name in names if labelled or not METRICS[name].needs_labels)
    if not left:
        raise InputError(
            f"All of the metrics {', '.join(map(repr, names))} compare labels, and the cells have none. Name the "
            "column of .obs that holds them, such as condition='cell_type'."
        )
    return left
