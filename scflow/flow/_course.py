"""From populations of cells at several times to one flow through all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

from scflow.codecs import Codec, Embedding, GeneStatistics
from scflow.conditions import Conditions
from scflow.flow._flow import Flow, seen_conditions
from scflow.flow._learning import Recipe, codec_of, default_lr, described, facts_of, network_of
from scflow.matching import Displaced, noises, paths
from scflow.matching.courses import plan
from scflow.training import Run
from scflow.training.batches import Cells, Coordinates, States, states_of
from scflow.training.chains import Chains, Plan
from scflow.training.fit import fit_module
from scflow.training.pairs import dropped

__all__ = ["Course", "learn_course"]

_LOOKED_AT = 2048


@dataclass(frozen=True, eq=False)
class Course:
    """Which cells are there when.

    Attributes
    ----------
    rows
        The cells of each time, int64.
    times
        From 0, the first, to 1, the last.
    group
        A code for each cell, int64 ``[n_cells]``: a cell and its partners at other times have the same one.
    """

    rows: Sequence[Tensor]
    times: Sequence[float]
    group: Tensor


def learn_course(
    data: Any,
    statistics: GeneStatistics | None,
    clip: float,
    course: Course,
    conditions: Conditions,
    condition: Tensor | None,
    genes: tuple[str, ...],
    recipe: Recipe,
    run: Run,
    provenance: Mapping[str, Any],
) -> Flow:
    """Learn to carry cells through all times of a course: the first is t = 1 of the flow, the last t = 0.

    Each population is paired with the next by optimal transport, all cells at once; ways are curves through the paired
    cells of consecutive times, and the field learns their velocity. One codec is fitted on all cells.

    Parameters
    ----------
    data
        Counts ``[n_cells, n_genes]`` with their `statistics`, or coordinates ``[n_cells, dim]`` without.
    condition
        What the field is told, ``[n_cells, n_conditions]``.
    """
    cells: Cells | Coordinates
    codec: Codec
    if statistics is None:
        cells, codec = Coordinates(np.asarray(data), run.device), Embedding.fit(np.asarray(data))
    else:
        cells = Cells(data, run.device)
        codec = codec_of(data, cells, statistics, clip, Conditions(), None, recipe, run)
    codec = codec.to(run.device).eval()
    states = states_of(cells, codec, None)
    chains = Chains(states, course.rows, course.times, _plans(states, course, run))
    field, noise = _field(recipe, codec, conditions, chains, course, run)
    lr = recipe.lr or default_lr(codec.dim)
    rng = run.generator(1)

    def loss(rows: Tensor) -> Tensor:
        s, x, v, of = chains.draw(len(rows), rng=rng)
        told = dropped(None if condition is None else condition[of], rate=0.1, rng=rng)
        error: Tensor = (field(x, 1.0 - s, told) + v).square().mean()
        return error

    validate = _validation(field, chains, condition, run)
    trained = fit_module(field, loss, validate, run, rng, steps=recipe.steps, lr=lr, optimisation=recipe.optimisation)
    flow = Flow(
        field=field.cpu().requires_grad_(False),
        codec=codec.cpu().requires_grad_(False),
        path=paths.Linear(),
        noise=noise,
        conditions=conditions,
        seen=seen_conditions(condition, len(course.group)),
        history=trained.history,
        provenance=facts_of(trained, run, recipe.optimisation, lr),
        raw=trained.raw,
    )
    return described(flow, genes, provenance, recipe)


def _plans(states: States, course: Course, run: Run) -> list[Plan]:
    """The plan of each time and the next, within groups."""
    rng, draws = np.random.default_rng([run.seed, 6]), run.generator(6)
    found = []
    for k in range(len(course.times) - 1):
        sides = [course.rows[k], course.rows[k + 1]]
        x, y = (states.states(rows, rng=draws).cpu().numpy() for rows in sides)
        a, b = (course.group[rows].cpu().numpy() for rows in sides)
        masses, i, j = [], [], []
        for code in np.intersect1d(a, b):
            mine, yours = np.flatnonzero(a == code), np.flatnonzero(b == code)
            part = plan(x[mine], y[yours], rng=rng).tocoo()
            masses.append(part.data * len(yours))
            i.append(mine[part.row])
            j.append(yours[part.col])
        pairs = (np.concatenate(masses), (np.concatenate(i), np.concatenate(j)))
        found.append(Plan.of(sparse.csr_matrix(pairs, shape=(len(x), len(y))), run.device))
    return found


def _field(
    recipe: Recipe, codec: Codec, conditions: Conditions, chains: Chains, course: Course, run: Run
) -> tuple[Displaced, noises.Population]:
    """The field at its start, scaled by ways as they will be; and the law of what it starts from."""
    rng = run.generator(2)
    _, x, v, _ = chains.draw(_LOOKED_AT, rng=rng)
    network = network_of(recipe, codec, conditions, run)
    field = Displaced(network, x.mean(0), x.std(0, correction=0), -v.mean(0), v.std(0, correction=0))
    first = chains.states.states(course.rows[0][:_LOOKED_AT], rng=rng)
    return field.to(run.device), noises.Population(first.std(0, correction=0).cpu())


def _validation(field: Displaced, chains: Chains, condition: Tensor | None, run: Run) -> Any:
    """The loss of ways that stay the same; they are of the cells that are learnt from, of which plans need all."""
    s, x, v, of = chains.draw(_LOOKED_AT, rng=run.generator(4))
    told = None if condition is None else condition[of]

    def validate() -> float:
        return float((field(x, 1.0 - s, told) + v).square().mean())

    return validate
