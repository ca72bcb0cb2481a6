"""From two populations of cells to a flow that carries one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scflow.codecs import Codec, Embedding, GeneStatistics
from scflow.conditions import Conditions
from scflow.flow._flow import Flow, seen_conditions
from scflow.flow._learning import Recipe, codec_of, default_lr, described, facts_of, network_of
from scflow.matching import Displaced, noises
from scflow.training import Run
from scflow.training.batches import Cells, Coordinates, states_of
from scflow.training.fit import fit_pairs
from scflow.training.pairs import Carried, Sources

__all__ = ["Roles", "learn_carrying"]

_LOOKED_AT = 2048


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
        What the field is told, ``[n_cells, n_conditions]``; rows of source cells are not looked at.
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
    train, validation = (rows[torch.isin(rows, roles.target)] for rows in (run.train, run.validation))
    sources = Sources.of(roles.source, roles.group[roles.source], roles.n_groups)
    pairs = Carried(states, condition, roles.group, sources, dropout=0.1)
    of_targets = replace(run, train=train, validation=validation if len(validation) else train[:1])
    field, noise = _field(recipe, codec, conditions, pairs, of_targets)
    lr = recipe.lr or default_lr(codec.dim)
    trained = fit_pairs(
        field, pairs, recipe.objective, of_targets, steps=recipe.steps, lr=lr, optimisation=recipe.optimisation
    )
    flow = Flow(
        field=field.cpu().requires_grad_(False),
        codec=codec.cpu().requires_grad_(False),
        path=recipe.objective.path,
        noise=noise,
        conditions=conditions,
        seen=seen_conditions(None if condition is None else condition[roles.target], len(roles.target)),
        history=trained.history,
        provenance=facts_of(trained, run, recipe.optimisation, lr),
        raw=trained.raw,
    )
    return described(flow, genes, provenance, recipe)


def _field(
    recipe: Recipe, codec: Codec, conditions: Conditions, pairs: Carried, run: Run
) -> tuple[Displaced, noises.Population]:
    """The field at its start, scaled by pairs as they will be; and the law of what it starts from."""
    rng = run.generator(2)
    found = []
    for rows in torch.split(run.train[:_LOOKED_AT], run.batch_size):
        x0, x1, c, group = pairs.fixed(rows, rng=rng)
        found.append((x0, recipe.objective.paired(x0, x1, c, rng=rng, group=group)))
    x0, x1 = (torch.cat(states) for states in zip(*found, strict=True))
    both, step = torch.cat([x0, x1]), x1 - x0
    network = network_of(recipe, codec, conditions, run)
    spread, step_sd = both.std(0, correction=0), step.std(0, correction=0)
    field = Displaced(network, both.mean(0), spread, step.mean(0), step_sd).to(run.device)
    return field, noises.Population(x1.std(0, correction=0).cpu())
