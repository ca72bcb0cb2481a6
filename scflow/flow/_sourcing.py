"""From two populations of cells to a flow that carries one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scflow.codecs import Codec, Counts, Embedding, GeneStatistics
from scflow.conditions import Conditions
from scflow.flow._flow import Flow, seen_conditions
from scflow.flow._generalising import enough_groups, generalised
from scflow.flow._learning import MOVED, Recipe, codec_of, default_lr, described, facts_of, network_of, sound
from scflow.matching import Displaced, Shift, noises
from scflow.training import Run, Trained
from scflow.training.answers import fit_answers
from scflow.training.batches import Cells, Coordinates, states_of
from scflow.training.fit import fit_pairs
from scflow.training.groups import ByTurns
from scflow.training.pairs import Carried, Pair, Pairs, Sources
from scflow.training.shifts import fit_shift

__all__ = ["Roles", "cells_and_codec", "displaced", "learn_carrying"]

_Learnt = tuple[Displaced, noises.Population, Trained, dict[str, Any]]

_LOOKED_AT, _OF_A_GROUP = 2048, 256
"""Pairs that a field is scaled by: of all cells, or of each group."""


@dataclass(frozen=True, eq=False)
class Roles:
    """Which cells are carried to which.

    Attributes
    ----------
    source, target
        Row numbers, int64.
    group
        A code for each cell, int64 ``[n_cells]``: partners have the same one.
    n_groups
        How many codes there are.
    """

    source: Tensor
    target: Tensor
    group: Tensor
    n_groups: int

    def sizes(self) -> tuple[Tensor, Tensor]:
        """How many source and target cells each group has, each ``[n_groups]``."""
        source, target = (self.group[rows] for rows in (self.source, self.target))
        return torch.bincount(source, minlength=self.n_groups), torch.bincount(target, minlength=self.n_groups)

    def compared(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Those of `rows` that are source and that are target cells, of groups that have both."""
        n_source, n_target = self.sizes()
        both = ((n_source > 0) & (n_target > 0))[self.group[rows]]
        source, target = (rows[both & torch.isin(rows, of)] for of in (self.source, self.target))
        return source, target


def learn_carrying(
    data: Any,
    statistics: GeneStatistics | None,
    clip: float,
    roles: Roles,
    conditions: Conditions,
    condition: Tensor | None,
    genes: tuple[str, ...],
    recipe: Recipe,
    run: Run,
    provenance: Mapping[str, Any],
) -> Flow:
    """Learn to carry the source cells of `data` to the target cells, under the conditions of the latter.

    One codec is fitted on both populations, and knows no conditions: what sets them apart is the flow's to learn.

    Parameters
    ----------
    data
        Counts ``[n_cells, n_genes]`` with their `statistics`, or coordinates ``[n_cells, dim]`` without.
    condition
        What the field is told, ``[n_cells, n_columns]``; of source cells only vectors are looked at: where all are
        known, what has the vector of the source population does not move.
    """
    cells, codec = cells_and_codec(data, statistics, clip, recipe, run)
    if isinstance(codec, Counts) and isinstance(cells, Cells):
        codec.answers_to(conditions.cardinalities)
        fit_answers(codec, cells, *roles.compared(run.train), condition, run)
    carried = Carried(
        states_of(cells, codec, None, run.workers),
        condition,
        roles.group,
        Sources.of(roles.source, roles.group[roles.source], roles.n_groups),
        dropout=0.1,
        widths=conditions.widths,
    )
    lr = recipe.lr or default_lr(codec.dim)
    origin = None if condition is None else _origin(condition[roles.source], conditions)
    of_targets = run.among(lambda rows: rows[torch.isin(rows, roles.target)])  # each brings its partner along
    learner = _Learner(recipe, codec, conditions, of_targets, lr, origin)
    if recipe.held_out == "groups":
        field, noise, trained, facts = learner.by_groups(carried, roles)
    else:
        field, noise, trained, facts = learner.by_cells(carried)
    flow = Flow(
        field=field.cpu().requires_grad_(False),
        codec=codec.cpu().requires_grad_(False),
        path=recipe.objective.path,
        noise=noise,
        conditions=conditions,
        seen=seen_conditions(None if condition is None else condition[roles.target], len(roles.target)),
        history=trained.history,
        provenance=facts_of(trained, run, recipe.optimisation, lr) | facts,
        raw=trained.raw,
    )
    return sound(described(flow, genes, provenance, recipe), trained)


def cells_and_codec(
    data: Any, statistics: GeneStatistics | None, clip: float, recipe: Recipe, run: Run
) -> tuple[Cells | Coordinates, Codec]:
    """The cells of all populations on the device, and one codec of them that knows no conditions."""
    cells: Cells | Coordinates
    codec: Codec
    if statistics is None:
        cells, codec = Coordinates(np.asarray(data), run.device), Embedding.fit(np.asarray(data))
    else:
        cells = Cells(data, run.device)
        of = (data, cells, statistics, clip, Conditions(), None, recipe, run.alone())
        codec = run.workers.once(lambda: codec_of(*of).cpu())
    return cells, codec.to(run.device).eval()


def displaced(
    x0: Tensor,
    x1: Tensor,
    length: float,
    recipe: Recipe,
    codec: Codec,
    conditions: Conditions,
    run: Run,
    shift: Shift | None = None,
) -> Displaced:
    """The field at its start, scaled by pairs as they will be, which are a `length` of the flow's time apart."""
    both, step = torch.cat([x0, x1]), (x1 - x0) / length
    network = network_of(recipe, codec, conditions, run)
    spread, step_sd = both.std(0, correction=0), step.std(0, correction=0)
    return Displaced(network, both.mean(0), spread, step.mean(0), step_sd, shift).to(run.device)


def _origin(source: Tensor, conditions: Conditions) -> Tensor | None:
    """The mean vector of the source cells; none where conditions are no vectors, or not all are known."""
    told = source[:, list(conditions.vectors)]
    return told.double().mean(0) if told.shape[1] and not bool(told.isnan().any()) else None


@dataclass(frozen=True, eq=False)
class _Learner:
    """What both ways of training a field share."""

    recipe: Recipe
    codec: Codec
    conditions: Conditions
    run: Run
    lr: float
    origin: Tensor | None

    def by_cells(self, pairs: Carried) -> _Learnt:
        """Stopped by the loss of cells that were held out of every group."""
        rng = self.run.generator(2)
        rows = torch.split(self.run.train[:_LOOKED_AT], self.run.alone().batch_size)
        shift = None
        if self.conditions.vectors:
            some = self.run.generator(17)
            shift = self.shift([pairs.fixed(r, rng=some) for r in torch.split(self.run.train[:MOVED], 1024)])
        field = self.field([pairs.fixed(some, rng=rng) for some in rows], shift)
        return field, self.noise(pairs), self.fit(field, pairs, self.recipe.steps), {}

    def by_groups(self, pairs: Carried, roles: Roles) -> _Learnt:
        """For as many steps as carry groups best that were held out."""
        n_source, n_target = roles.sizes()
        targets = Sources.of(roles.target, roles.group[roles.target], roles.n_groups)
        turns = ByTurns(pairs, targets, (n_target > 0).nonzero()[:, 0])
        found = generalised(
            self.start,
            turns,
            enough_groups(n_source, n_target),
            self.recipe.objective,
            self.run,
            steps=self.recipe.most_steps,
            lr=self.lr,
            optimisation=self.recipe.optimisation,
        )
        field = self.start(turns)
        facts = {"held_out": {"groups": found.n_groups, "steps": found.steps.tolist(), "energy": found.energy.tolist()}}
        return field, self.noise(pairs), self.fit(field, turns, found.best), facts

    def start(self, turns: ByTurns) -> Displaced:
        """The field at its start: all cells move as groups do on average, each of which counts alike."""
        rng = self.run.generator(2)
        found = [turns.of(code, _OF_A_GROUP, rng=rng) for code in turns.codes.tolist()]
        return self.field(found, self.shift(found) if self.conditions.vectors else None)

    def shift(self, found: Sequence[Pair]) -> Shift:
        """How far the vectors of conditions move cells on average."""
        told = torch.cat([p.condition for p in found if p.condition is not None])
        moved = torch.cat([p.data - p.noise for p in found])
        return fit_shift(told, self.conditions.cardinalities, self.conditions.vectors, moved, self.origin)

    def field(self, found: Sequence[Pair], shift: Shift | None) -> Displaced:
        """The field at its start, scaled by pairs as they will be, without their shift."""
        rng, objective = self.run.generator(6), self.recipe.objective
        taken = []
        for p in found:
            x0, x1, told = objective.paired(p.data, p.noise, p.condition, rng=rng, group=p.group)
            taken.append((x0 if shift is None else x0 - shift(told), x1))
        x0, x1 = (torch.cat(states) for states in zip(*taken, strict=True))
        return displaced(x0, x1, 1.0, self.recipe, self.codec, self.conditions, self.run, shift)

    def noise(self, pairs: Carried) -> noises.Population:
        """The law of what the flow starts from, which nothing can be drawn of."""
        rows = pairs.sources.rows[:_LOOKED_AT]
        return noises.Population.of(pairs.states.states(rows, rng=self.run.generator(7)))

    def fit(self, field: Displaced, pairs: Pairs, steps: int) -> Trained:
        """Train the field, in place."""
        optimisation = self.recipe.optimisation
        return fit_pairs(
            field, pairs, self.recipe.objective, self.run, steps=steps, lr=self.lr, optimisation=optimisation
        )
