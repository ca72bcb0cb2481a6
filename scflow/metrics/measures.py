"""From two sides and what they share to an estimate for each condition: how each metric is taken by the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.metrics import genes, neighbours
from scflow.metrics.classifiers import auc, out_of_fold
from scflow.metrics.copies import copying, duplicates
from scflow.metrics.dropout import dropout_curve
from scflow.metrics.entropic import sinkhorn
from scflow.metrics.estimate import Estimate
from scflow.metrics.fold_changes import fold_change_slope
from scflow.metrics.kernels import energy_distance, mmd
from scflow.metrics.labels import label_accuracy, label_model, macro_f1
from scflow.metrics.permutation import mmd_test
from scflow.metrics.sides import EVERYTHING, MIN_CELLS, Cells, Setting
from scflow.metrics.sliced import sliced_wasserstein
from scflow.metrics.transport import wasserstein

__all__ = ["Measure"]

Measure = Callable[[Cells, Cells, Setting], dict[str, Estimate]]
"""From the cells judged, the real cells and the setting to an estimate for each condition."""


@dataclass(frozen=True)
class Options:
    """What a metric may need beside the cells of one condition; fields as in `Setting`."""

    bandwidth: float
    seed: int
    interval: bool


Direct = Callable[[Cells, Cells, Options], Estimate]

_UNKNOWN = Estimate(np.nan)


def each(compare: Direct, x: Cells, y: Cells, setting: Setting, *, most: int | None = None) -> dict[str, Estimate]:
    """One comparison for each condition, of at most `most` cells a side."""
    found = {}
    for name, rows in setting.conditions.items():
        options = Options(setting.bandwidths[name], setting.seed, setting.interval)
        found[name] = compare(x.among(rows[:most]), y.among(rows[:most]), options)
    return found


def classified(classifier: str, view: str, most: int, x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """One classifier of all cells, whose out-of-fold scores are then compared within each condition.

    A classifier for each condition would have too few cells to learn from.
    """
    head = np.arange(min(most, len(x.library)))
    sides = [_features(side.among(head), view) for side in (x, y)]
    strata = setting.strata[head]
    scores = out_of_fold(*sides, classifier=classifier, strata_x=strata, strata_y=strata, seed=setting.seed)
    found = {}
    for name, rows in setting.conditions.items():
        keep = np.isin(head, rows)
        found[name] = auc(scores.among(keep, keep)) if keep.sum() >= MIN_CELLS else _UNKNOWN
    return found


def _features(cells: Cells, view: str) -> NDArray[np.float32]:
    return cells.components if view == "components" else cells.expression.toarray()


def labelled(x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """Accuracy, over the cells of each condition, of the classifier that learnt from the real cells of this repeat."""
    model = setting.common.classifier
    if model is None:
        return dict.fromkeys(setting.conditions, _UNKNOWN)
    mine = setting.common.real_space.components(x.counts)
    return {
        name: label_accuracy(mine[rows], setting.strata[rows], model, interval=setting.interval)
        for name, rows in setting.conditions.items()
    }


def synthetic(x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """Macro F1 of a classifier of `x` on `y`; within a condition the F1 of its label."""
    strata = setting.strata
    if len(np.unique(strata)) < 2:
        return dict.fromkeys(setting.conditions, _UNKNOWN)
    guessed = np.asarray(label_model(x.components, strata).predict(y.components))
    return {
        name: macro_f1(
            guessed,
            strata,
            among=None if name == EVERYTHING else np.array([name]),
            interval=setting.interval,
            seed=setting.seed,
        )
        for name in setting.conditions
    }


def changes(x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """The slope of fold changes over all conditions of at least 20 cells, and of each."""
    strata = setting.strata
    names, number = np.unique(strata, return_counts=True)
    large = names[number >= MIN_CELLS]
    if len(names) < 2 or not len(large):
        return dict.fromkeys(setting.conditions, _UNKNOWN)
    options: dict[str, Any] = {"interval": setting.interval, "seed": setting.seed}
    return {
        name: fold_change_slope(
            x.expression,
            strata,
            y.expression,
            strata,
            conditions=large if name == EVERYTHING else np.array([name]),
            **options,
        )
        for name in setting.conditions
    }


def copied(x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """Copying in a space of training and held-out cells together, among the cells of each condition.

    All training cells are looked at, since of a drawn few most copies would be missed: perfect is the floor, not 1.
    """
    common = setting.common
    mine, (train, real) = common.space.components(x.counts), common.sides
    found = {}
    for name, rows in setting.conditions.items():
        same = common.training.sample_labels == name
        near = train if name == EVERYTHING else train[same]
        found[name] = (
            copying(mine[rows], near, real[rows], equal=False, interval=setting.interval, seed=setting.seed)
            if len(near) >= MIN_CELLS
            else _UNKNOWN
        )
    return found


def duplicated(x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
    """The share of cells that are training cells, whatever these are labelled."""
    known = setting.common.training.fingerprints
    return {
        name: duplicates(x.counts[rows], known, interval=setting.interval) for name, rows in setting.conditions.items()
    }


def by_wasserstein(x: Cells, y: Cells, options: Options) -> Estimate:
    """In principal components, as what follows."""
    return wasserstein(x.components, y.components, interval=options.interval)


def by_slices(x: Cells, y: Cells, options: Options) -> Estimate:
    """Sliced transport."""
    return sliced_wasserstein(x.components, y.components, interval=options.interval, seed=options.seed)


def by_sinkhorn(x: Cells, y: Cells, options: Options) -> Estimate:
    """Blurred transport."""
    return sinkhorn(x.components, y.components, interval=options.interval)


def by_mmd(x: Cells, y: Cells, options: Options) -> Estimate:
    """MMD with the setting's bandwidth."""
    return mmd(x.components, y.components, bandwidth=options.bandwidth, interval=options.interval, seed=options.seed)


def by_permutation(x: Cells, y: Cells, options: Options) -> Estimate:
    """The p-value of that MMD."""
    return mmd_test(x.components, y.components, bandwidth=options.bandwidth, seed=options.seed)


def by_energy(x: Cells, y: Cells, options: Options) -> Estimate:
    """Energy distance."""
    return energy_distance(x.components, y.components, interval=options.interval, seed=options.seed)


def by_real_balls(function: Callable[..., Estimate], x: Cells, y: Cells, options: Options) -> Estimate:
    """What needs the real cells' radii, which are found once for all."""
    views = x.components, y.components
    return function(*views, radii_y=y.radii, interval=options.interval, seed=options.seed)


def by_own_balls(x: Cells, y: Cells, options: Options) -> Estimate:
    """Recall: the balls are around the cells judged."""
    views = y.components, x.components
    return neighbours.precision(*views, radii_y=x.radii, interval=options.interval, seed=options.seed)


def by_genes(function: Callable[..., Estimate], x: Cells, y: Cells, options: Options) -> Estimate:
    """What compares genes."""
    return function(x.expression, y.expression, interval=options.interval, seed=options.seed)


def by_dropout(x: Cells, y: Cells, options: Options) -> Estimate:
    """Zeros against means."""
    return dropout_curve(x.expression, y.expression, interval=options.interval, seed=options.seed)


def by_ks(attribute: str, x: Cells, y: Cells, options: Options) -> Estimate:
    """What compares a number of each cell."""
    return genes.ks(getattr(x, attribute), getattr(y, attribute), interval=options.interval, seed=options.seed)
