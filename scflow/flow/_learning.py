"""From counts to a flow: the codec, the field, the calibration."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from scflow.codecs import PCA, Codec, Embedding, GeneStatistics, Quantile, Standardized
from scflow.codecs.statistics import library_sizes
from scflow.conditions import Conditions
from scflow.errors import Diverged, InputError, listed
from scflow.flow._fields import Choice, arranged, built
from scflow.flow._flow import Flow, seen_conditions
from scflow.flow._sampling import Sampling
from scflow.flow._watching import Watch, watcher
from scflow.matching import FlowMatching, Preconditioned, Shift, couplings, noises
from scflow.training import Optimisation, Run, Trained, fit_counts, fit_field
from scflow.training.batches import Cells, Coordinates, States, states_of
from scflow.training.probes import linear_loss
from scflow.training.run import seeded
from scflow.training.shifts import fit_shift
from scflow.training.stored import Stored

__all__ = [
    "Recipe",
    "codec_of",
    "default_lr",
    "default_steps",
    "described",
    "drawn_to_calibrate",
    "facts_of",
    "learn",
    "learn_embedding",
    "network_of",
    "sound",
    "uncalibrated",
]

MOVED = 20_000
"""Cells that are looked at to see how far conditions move them."""
_DRAWN = 10_000
_WIDEST = 8_000_000
"""Most numbers, cells x coordinates, that calibration draws."""


@dataclass(frozen=True)
class Recipe:
    """What is learnt, and how.

    Attributes
    ----------
    space
        ``"counts"``, ``"genes"``, ``"quantile"`` or ``"pca"``.
    objective
        Path, time, weight and coupling.
    noise
        A noise, or the name of one: what it has to know of the training cells is found there.
    steps, lr
        Of the field's training.
    latent
        Coordinates of the code in count space.
    effects
        Where conditions act in count space: on the ``"code"``, or on ``"genes"`` one by one.
    components
        Of PCA space.
    calibrate
        Whether counts are calibrated after training.
    network
        Settings that the field is built with, such as its width and depth.
    optimisation
        Schedule, clip, accumulation and weight average of the field's training.
    watch
        Whether a few cells are drawn and scored while it goes on.
    field
        The field: its name, a function that builds it, or a network that is copied.
    held_out
        What training is stopped on: ``"cells"``, or ``"groups"`` of cells that are carried.
    most_steps
        Of the field, where it is stopped on groups; the codec is trained as if it were not.
    """

    space: str
    objective: FlowMatching
    noise: noises.Noise | str
    steps: int
    lr: float | None
    latent: int = 20
    effects: str = "code"
    components: int = 50
    calibrate: bool = True
    network: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Optimisation = field(default_factory=Optimisation)
    watch: Watch | None = None
    field: Choice = "mlp"
    held_out: str = "cells"
    most_steps: int = 480


def default_steps(n_cells: int) -> int:
    """Steps for a data set of `n_cells`: 2,000 for a few hundred cells, about 4,000 for 4,000, 20,000 for an atlas."""
    return int(min(max(1500 + 40 * math.sqrt(n_cells), 2000), 20_000))


def default_lr(dim: int) -> float:
    """The learning rate for a state of `dim` coordinates."""
    return 1e-3 if dim <= 512 else 5e-4


def drawn_to_calibrate(dim: int) -> int:
    """How many cells a flow of `dim` coordinates draws to be calibrated."""
    return min(_DRAWN, max(_WIDEST // dim, 1000))


def facts_of(trained: Trained, run: Run, settings: Optimisation, lr: float) -> dict[str, Any]:
    """What the provenance says of a field's training."""
    return {
        "best_step": trained.best_step,
        "interrupted": trained.interrupted,
        "batch_size": run.batch_size * run.workers.size * settings.accumulate,
        "lr": lr,
        "clip": settings.clip,
        "average": type(settings.law).__name__.lower(),
        "precision": run.precision,
    }


def learn(
    counts: sparse.csr_matrix | Stored,
    statistics: GeneStatistics,
    clip: float,
    conditions: Conditions,
    condition: Tensor | None,
    genes: tuple[str, ...],
    recipe: Recipe,
    run: Run,
    provenance: Mapping[str, Any],
    *,
    codec: Codec | None = None,
) -> Flow:
    """Learn counts ``[n_cells, n_genes]`` under their conditions ``[n_cells, n_conditions]``.

    Of counts that are elsewhere the field sees all, and all else is fitted on the part that is in memory. A `codec`
    that is fitted already saves fitting one.
    """
    part, own, few = _in_memory(counts, condition, run)
    cells = Cells(part, run.device)
    if codec is None:
        of = (part, cells, statistics, clip, conditions, own, recipe, few.alone())
        codec = run.workers.once(lambda: codec_of(*of).cpu())
    codec = codec.to(run.device).eval()
    noise = _noise(recipe.noise, codec, conditions, statistics=statistics, counts=part, condition=own)
    network = arranged(network_of(recipe, codec, conditions, run), codec, part, statistics, seed=run.seed)
    with _shown(counts, cells, codec, condition, run) as (states, run):
        flow, trained = _flow(states, codec, network, noise, conditions, condition, recipe, run)
    flow = sound(described(flow, genes, provenance, recipe), trained)
    if not recipe.calibrate:
        return flow
    n_drawn = drawn_to_calibrate(codec.dim)
    sampling = Sampling(device=run.device, seed=run.seed + 1, progress=run.progress)
    try:
        done = run.workers.once(lambda: flow.calibrated(part, own, n_drawn=n_drawn, sampling=sampling).calibration)
        return replace(flow, calibration=done)
    except KeyboardInterrupt:
        return uncalibrated(flow)


def uncalibrated(flow: Flow) -> Flow:
    """The flow as it is where calibrating it was interrupted, with a warning."""
    warnings.warn("Interrupted while calibrating: the flow is kept, its counts are not calibrated.", stacklevel=3)
    return replace(flow, calibration=None)


def _in_memory(
    counts: sparse.csr_matrix | Stored, condition: Tensor | None, run: Run
) -> tuple[sparse.csr_matrix, Tensor | None, Run]:
    """The counts that are in memory, with the conditions of these cells and the run as it is on them."""
    if not isinstance(counts, Stored):
        return counts, condition, run
    own = None if condition is None else condition[counts.rows.to(condition.device)]
    return counts.part, own, counts.within(run)


@contextlib.contextmanager
def _shown(
    counts: sparse.csr_matrix | Stored, cells: Cells, codec: Codec, condition: Tensor | None, run: Run
) -> Iterator[tuple[States, Run]]:
    """What the field is shown, and the run in the order that this can be read in; no thread is left behind."""
    if not isinstance(counts, Stored):
        yield states_of(cells, codec, condition, run.workers), run
        return
    with contextlib.closing(counts.streamed(run.device, run.workers)) as streamed:
        states = streamed.states(codec, condition)
        yield states, run if codec.summarizes else replace(run, order=streamed.order)


def learn_embedding(
    coordinates: NDArray[np.float32],
    conditions: Conditions,
    condition: Tensor | None,
    recipe: Recipe,
    run: Run,
    provenance: Mapping[str, Any],
) -> Flow:
    """Learn coordinates ``[n_cells, dim]`` of the user's own."""
    codec = Embedding.fit(coordinates).to(run.device).eval()
    noise = _noise(recipe.noise, codec, conditions)
    network = network_of(recipe, codec, conditions, run)
    states = states_of(Coordinates(coordinates, run.device), codec, condition)
    flow, trained = _flow(states, codec, network, noise, conditions, condition, recipe, run)
    return sound(described(flow, (), provenance, recipe), trained)


def codec_of(
    counts: sparse.csr_matrix,
    cells: Cells,
    statistics: GeneStatistics,
    clip: float,
    conditions: Conditions,
    condition: Tensor | None,
    recipe: Recipe,
    run: Run,
) -> Codec:
    """The codec of the space, fitted on the training cells."""
    if recipe.space == "counts":
        latent = min(recipe.latent, counts.shape[1])
        steps = max(1, min(2500, recipe.steps))
        exact = replace(run, precision="float32")
        settings: dict[str, Any] = {"latent": latent, "steps": steps, "effects": recipe.effects}
        codec, trained = fit_counts(counts, cells, condition, conditions.cardinalities, exact, **settings)
        if trained.interrupted:
            kept = "" if run.checkpoints is None else f" Its state is in '{run.checkpoints.folder}': resume=True."
            raise KeyboardInterrupt(
                f"The codec was still being trained: there is no flow yet that could be kept.{kept}"
            )
        return codec
    if recipe.space == "quantile":
        return Quantile.fit(counts)
    genes = Standardized.fit(statistics, library_sizes(counts), clip=clip)
    if recipe.space == "genes":
        return genes
    return PCA.fit(counts, genes, n_components=recipe.components, seed=run.seed)


def _noise(
    choice: noises.Noise | str,
    codec: Codec,
    conditions: Conditions,
    *,
    statistics: GeneStatistics | None = None,
    counts: sparse.csr_matrix | None = None,
    condition: Tensor | None = None,
) -> noises.Noise | None:
    """The noise itself, or None for one of the states' variance, which are not there yet.

    Dropout-matched noise leaves the library size Gaussian.
    """
    if isinstance(choice, noises.Noise):
        return _fitting(choice, codec, conditions)
    if choice == "dropout":
        assert statistics is not None
        rate = torch.from_numpy(statistics.dropout).float().clamp(0, 1)
        return noises.Dropout(torch.cat([rate, rate.new_zeros(codec.dim - len(rate))]))
    if choice == "dropout_by_condition":
        assert counts is not None
        assert condition is not None
        return _dropout_by_condition(counts, condition.cpu(), conditions.cardinalities, codec.dim)
    if choice == "matched_variance":
        return None
    return noises.Sparse() if choice == "sparse" else noises.Gaussian()


def _fitting(noise: noises.Noise, codec: Codec, conditions: Conditions) -> noises.Noise:
    """A noise that was passed as an object, if its tensors have the states' width."""
    sized = (noises.MatchedVariance, noises.Dropout, noises.DropoutByCondition)
    width = len(noise.sd(codec.dim)) if isinstance(noise, sized) else codec.dim
    if width != codec.dim:
        what, name = ("deviations", "matched_variance") if noise.is_gaussian else ("rates", "dropout")
        raise InputError(
            f"noise has {what} for {width} coordinates; the states have {codec.dim} (one a gene, then the "
            f"library size). Use noise={name!r} to have them from the data."
        )
    if isinstance(noise, noises.DropoutByCondition) and noise.groups.shape[1] != sum(conditions.widths):
        raise InputError(
            f"noise has groups of {noise.groups.shape[1]} conditions; the flow has {sum(conditions.widths)} "
            f"({listed(conditions.names)}). Use noise='dropout_by_condition' to have them from the data."
        )
    return noise


def _dropout_by_condition(
    counts: sparse.csr_matrix, condition: Tensor, cardinalities: Sequence[int], dim: int
) -> noises.DropoutByCondition:
    """Zeros of each gene in each combination of categorical conditions; coordinates beyond the genes have none."""
    labels = [j for j, k in enumerate(cardinalities) if k]
    known, place, size = np.unique(condition.numpy()[:, labels], axis=0, return_inverse=True, return_counts=True)
    groups = torch.full((len(known), condition.shape[1]), torch.nan)
    groups[:, labels] = torch.from_numpy(known)
    n_cells, n_genes = counts.shape
    belongs = sparse.csr_matrix((np.ones(n_cells), (place.reshape(-1), np.arange(n_cells))), (len(known), n_cells))
    zeros = torch.zeros(len(known), dim, dtype=torch.float64)
    zeros[:, :n_genes] = torch.from_numpy(size[:, None] - (belongs @ (counts > 0)).toarray())
    return noises.DropoutByCondition.of(zeros, torch.from_numpy(size), groups)


def network_of(recipe: Recipe, codec: Codec, conditions: Conditions, run: Run) -> nn.Module:
    """The network at its start."""
    inputs = conditions.inputs
    return seeded(lambda: built(recipe.field, recipe.network, codec.dim, inputs), run.generator(0))


def _flow(
    states: States,
    codec: Codec,
    network: nn.Module,
    noise: noises.Noise | None,
    conditions: Conditions,
    condition: Tensor | None,
    recipe: Recipe,
    run: Run,
) -> tuple[Flow, Trained]:
    """Train the field, and put everything together on the CPU; without a noise, it is of the states' variance."""
    if noise is None:
        noise = noises.MatchedVariance.of(states.states(run.train[:1024], rng=run.generator(2)))
    lr = recipe.lr or default_lr(codec.dim)
    watch = recipe.watch
    shift = _shift(states, conditions, condition, run)
    velocity, trained = fit_field(
        network,
        states,
        condition,
        noise,
        recipe.objective,
        run,
        steps=recipe.steps,
        lr=lr,
        widths=conditions.widths,
        shift=shift,
        optimisation=recipe.optimisation,
        look=None if watch is None else watcher(watch, states, condition, noise, run),
        look_columns=() if watch is None else watch.columns,
        look_every=1 if watch is None else watch.every,
    )
    facts = facts_of(trained, run, recipe.optimisation, lr)
    if isinstance(velocity, Preconditioned) and isinstance(recipe.objective.coupling, couplings.Independent):
        # Of data and noise that are paired otherwise, even a field that has learnt nothing stays below it.
        facts["linear_loss"] = linear_loss(velocity, recipe.objective)
    flow = Flow(
        field=velocity.cpu().requires_grad_(False),
        codec=codec.cpu().requires_grad_(False),
        path=recipe.objective.path,
        noise=noise,
        conditions=conditions,
        seen=seen_conditions(condition, len(run.train) + len(run.validation)),
        history=trained.history,
        provenance=facts,
        raw=trained.raw,
    )
    return flow, trained


def _shift(states: States, conditions: Conditions, condition: Tensor | None, run: Run) -> Shift | None:
    """How far the vectors of conditions move cells on average; none where no condition is a vector."""
    if condition is None or not conditions.vectors:
        return None
    rng, rows = run.generator(17), run.train[:MOVED]
    moved = torch.cat([states.states(some, rng=rng) for some in torch.split(rows, 1024)])
    return fit_shift(condition[rows], conditions.cardinalities, conditions.vectors, moved)


def described(flow: Flow, genes: tuple[str, ...], provenance: Mapping[str, Any], recipe: Recipe) -> Flow:
    """The flow, with its genes and all that is known of how it was made."""
    history: pd.DataFrame = flow.history
    done = int(history["step"].iloc[-1]) if len(history) else 0
    facts = {**provenance, **flow.provenance, "space": flow.codec.name, "steps": done, "steps_planned": recipe.steps}
    return replace(flow, genes=genes, provenance=facts)


def sound(flow: Flow, trained: Trained) -> Flow:
    """The flow of a training; one that has diverged raises its error, which has the flow of the best step before.

    Raises
    ------
    Diverged
        After a look at the validation cells.
    """
    if not trained.diverged:
        return flow
    best = f"The best flow before that, of step {trained.best_step:,}, is the error's `flow`."
    raise Diverged(f"{trained.diverged} {best}", trained.history, flow)
