"""From the time points of a course to a flow that carries cells through all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scflow.codecs import Codec, GeneStatistics
from scflow.conditions import Conditions
from scflow.flow._ancestry import Ancestry, Stages
from scflow.flow._flow import Flow, seen_conditions
from scflow.flow._learning import Recipe, default_lr, described, facts_of, sound
from scflow.flow._sourcing import cells_and_codec, displaced
from scflow.matching import Staged, noises
from scflow.training import Run
from scflow.training.batches import Cells, Coordinates, states_of
from scflow.training.courses import Descended
from scflow.training.fit import fit_pairs

__all__ = ["learn_course"]

_LOOKED_AT = 2048
"""Pairs that the field is scaled by, and cells that the first time point's spread is of."""


def learn_course(
    data: Any,
    statistics: GeneStatistics | None,
    clip: float,
    stages: Stages,
    genes: tuple[str, ...],
    recipe: Recipe,
    run: Run,
    provenance: Mapping[str, Any],
) -> Flow:
    """Learn one field of state and time through all time points of a course.

    Ways are straight lines between cells and ancestors that are drawn from plans between whole populations
    (:class:`scflow.flow._ancestry.Ancestry`), each interval as often as any other. One codec is fitted on all cells,
    and knows no time.

    Parameters
    ----------
    data
        Counts ``[n_cells, n_genes]`` with their `statistics`, or coordinates ``[n_cells, dim]`` without.
    """
    cells, codec = cells_and_codec(data, statistics, clip, recipe, run)
    means = _Means(cells, codec)
    rng = torch.Generator().manual_seed(run.generator(12).initial_seed())
    rows = (run.train, run.validation)
    ancestry = run.workers.once(lambda: Ancestry.of(means, stages, rows, rng=rng, progress=run.progress))
    states, length = states_of(cells, codec, None, run.workers), 1 / (stages.n_points - 1)
    of = run.among(stages.later)  # each brings an ancestor along
    pairs = Descended.of(
        states,
        of.train,
        stages.point[of.train] - 1,
        ancestry.ancestors.to(run.device),
        (1 - stages.point[:, None] * length).float(),
    )
    first = pairs.draw(of.train[:_LOOKED_AT], rng=run.generator(2))
    field = displaced(first.data, first.noise, length, recipe, codec, Conditions(), run)
    lr = recipe.lr or default_lr(codec.dim)
    staged, settings = Staged(field, length), recipe.optimisation
    trained = fit_pairs(staged, pairs, recipe.objective, of, steps=recipe.steps, lr=lr, optimisation=settings)
    start = states.states((stages.point == 0).nonzero()[:_LOOKED_AT, 0], rng=run.generator(7))
    flow = Flow(
        field=field.cpu().requires_grad_(False),
        codec=codec.cpu().requires_grad_(False),
        path=recipe.objective.path,
        noise=noises.Population.of(start),
        conditions=Conditions(),
        seen=seen_conditions(None, len(cells)),
        history=trained.history,
        provenance=facts_of(trained, of, settings, lr),
        raw={name.removeprefix("field."): weight for name, weight in trained.raw.items()},
        growth=ancestry.growth,
    )
    return sound(described(flow, genes, provenance, recipe), trained)


@dataclass(frozen=True, eq=False)
class _Means:
    """The mean states of cells, between which plans are made."""

    cells: Cells | Coordinates
    codec: Codec

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """Of some rows, a thousand at a time."""
        parts = torch.split(rows.to(self.cells.device), 1024)
        return torch.cat([self.codec.mean_state(self.cells.dense(some), None) for some in parts])
