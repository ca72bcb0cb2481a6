"""Who predicts the stimulated cells of a type from its controls, for perturbation.py.

Each gives an expression for each of the type's controls, ``[n_controls, n_genes]``: log1p of counts per
10,000.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
from anndata import AnnData
from cells import CONDITION
from numpy.typing import NDArray
from perturbation_rivals import conditional_flow, latent_arithmetic
from perturbation_task import CONTROL, STIMULATED, STIMULUS, Task, expression

import scflow

Numbers = NDArray[np.float64]
Predictor = Callable[[Task], Numbers]


def nothing(task: Task) -> Numbers:
    """The controls as they are."""
    return expression(task.controls)


def mean_shift(task: Task) -> Numbers:
    """Each control moved by the mean effect of the other types, which count alike; nothing falls below 0."""
    return np.maximum(nothing(task) + np.mean(list(shifts(task).values()), axis=0), 0.0)


def nearest_shift(task: Task) -> Numbers:
    """Each control moved by the effect in the type whose controls' mean profile correlates most with its own."""
    controls = nothing(task)
    profiles = {name: before.mean(0) for name, before, _ in task.pairs(expression(task.train))}
    nearest = max(profiles, key=lambda name: float(np.corrcoef(profiles[name], controls.mean(0))[0, 1]))
    return np.maximum(controls + shifts(task)[nearest], 0.0)


def shifts(task: Task) -> dict[str, Numbers]:
    """The difference of mean expression of each other type, ``[n_genes]``."""
    pairs = task.pairs(expression(task.train))
    return {name: after.mean(0) - before.mean(0) for name, before, after in pairs}


def transported(task: Task, space: str) -> Numbers:
    """Counts of the controls carried by a flow from one population to the other, learnt within types."""
    flow = scflow.tl.train(
        task.train.copy(),
        source={STIMULUS: CONTROL},
        target={STIMULUS: STIMULATED},
        group=CONDITION,
        space=space,
        seed=task.seed,
        progress=False,
    )
    controls = task.controls
    scflow.tl.transport(controls, flow, seed=task.seed, progress=False)
    return expression(AnnData(controls.layers["scflow"], obs=controls.obs, var=controls.var))


PREDICTORS: dict[str, Predictor] = {
    "nothing": nothing,
    "mean shift": mean_shift,
    "nearest type's shift": nearest_shift,
    "latent arithmetic": latent_arithmetic,
    "OT-CFM in PCs": conditional_flow,
    "scflow, counts": partial(transported, space="counts"),
    "scflow, pca": partial(transported, space="pca"),
}


def available(row: str) -> bool:
    """Whether this scflow can carry one population to another, for the rows that ask it to."""
    return not row.startswith("scflow") or "source" in inspect.signature(scflow.tl.train).parameters
