"""From the options of `scflow.tl.train` to what is learnt and how: each is checked before any work starts."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scflow import _file, matching
from scflow.conditions import Conditions
from scflow.errors import InputError, listed, nearest, path_of
from scflow.flow._generalising import FEWEST_CELLS, FEWEST_GROUPS, enough_groups
from scflow.flow._learning import Recipe
from scflow.flow._sourcing import Roles
from scflow.matching.names import COUPLINGS, NOISES, PATHS, TIMES, WEIGHTS, chosen
from scflow.tl._options import check_enough, positive
from scflow.training import Optimisation, Run
from scflow.training.averages import Nothing
from scflow.training.workers import ALONE, CALLER, Workers

__all__ = [
    "batch_size_of",
    "check_groups",
    "for_groups",
    "knowing",
    "noise_of",
    "objective_of",
    "precision_of",
    "share_of",
    "space_of",
    "split",
    "trace_of",
    "warn_of",
]

SPACES = ("counts", "genes", "quantile", "pca")
_PER_GENE = ("dropout", "dropout_by_condition")
_PRECISIONS = ("float32", "bfloat16", "float16")
_SMALL_BATCH = 32
_SHARE = 0.1
_OF_AN_INTERVAL = 128
_UNEVEN = (matching.couplings.Unbalanced, matching.couplings.Partial)


def objective_of(path: Any, time: Any, weight: Any, coupling: Any, *, carrying: bool = False) -> matching.FlowMatching:
    """What the field is trained to do, from names or objects; cells are carried by pairs that are alike."""
    if isinstance(coupling, str) and coupling == "auto":
        coupling = "optimal" if carrying else "independent"
    return matching.FlowMatching(
        chosen(path, PATHS, matching.paths.Path, "path"),
        chosen(time, TIMES, matching.times.Time, "time"),
        chosen(weight, WEIGHTS, matching.weights.Weight, "weight"),
        chosen(coupling, COUPLINGS, matching.couplings.Coupling, "coupling"),
    )


def space_of(space: str, use_rep: str | None) -> str:
    """The space by its own name; an embedding has none to choose."""
    if use_rep is not None:
        if space != "auto":
            raise InputError(f"space={space!r} and use_rep={use_rep!r} exclude each other. Leave one of them out.")
        return "embedding"
    if space != "auto" and space not in SPACES:
        names = ", ".join(map(repr, SPACES))
        raise InputError(
            f"space={space!r} is not known.{nearest(space, SPACES)} Choose 'auto' or one of {names}; "
            "use_rep='X_...' takes an embedding."
        )
    return "counts" if space == "auto" else space


def noise_of(noise: str | matching.noises.Noise, space: str, *, carrying: bool = False) -> str | matching.noises.Noise:
    """The noise, by its name or itself, if it suits the space; cells that are carried need none."""
    if carrying and noise != "auto":
        raise InputError(
            f"noise={noise!r} and source= exclude each other: the flow starts from cells. Leave noise out."
        )
    if isinstance(noise, matching.noises.Noise):
        return noise
    if noise == "auto":  # By measurement: docs/guide.md, "What the choices are worth".
        return "sparse" if space == "genes" else "gaussian"
    known = [name for name in NOISES if name != "population"]
    if noise not in known:
        raise InputError(
            f"noise={noise!r} is not known.{nearest(noise, known)} Choose 'auto', {', '.join(map(repr, known))}, or "
            "pass a scflow.matching.noises.Noise of your own."
        )
    if noise in _PER_GENE and space not in ("genes", "quantile"):
        raise InputError(f"noise={noise!r} has a rate a gene; space={space!r} has other coordinates. Use 'auto'.")
    return noise


def check_groups(noise: str | matching.noises.Noise, conditions: Conditions) -> None:
    """Raise where a noise by condition has no categories to go by."""
    if noise == "dropout_by_condition" and not any(conditions.cardinalities):
        found = f"those given have none ({listed(conditions.names)})" if len(conditions) else "none was given"
        raise InputError(
            f"noise='dropout_by_condition' needs a condition with categories; {found}. Give one, such as "
            "condition='cell_type', or use noise='dropout'."
        )


def knowing(recipe: Recipe, conditions: Conditions) -> Recipe:
    """The recipe, whose objective knows which conditions are numbers; raise where a price needs one and none is."""
    coupling = recipe.objective.coupling
    numbers = conditions.numbers
    if coupling.penalty is not None and not numbers:
        found = f"those given have none ({listed(conditions.names)})" if len(conditions) else "none was given"
        raise InputError(
            f"coupling={coupling!r} has a price on the difference of conditions that are numbers; {found}. Give one, "
            "such as condition='dose', or leave penalty out."
        )
    return replace(recipe, objective=replace(recipe.objective, numbers=numbers))


def warn_of(recipe: Recipe, run: Run, *, carrying: bool = False) -> None:
    """The guide's don'ts, before any time is spent."""
    size = run.batch_size * run.workers.size * recipe.optimisation.accumulate
    if size < _SMALL_BATCH and run.batch_size < len(run.train):
        warnings.warn(
            f"A batch of {size} cells is small: its gradient is mostly noise. Use {_SMALL_BATCH} or more, best "
            "batch_size='auto', or accumulate several: optimisation=scflow.training.Optimisation(accumulate=8).",
            stacklevel=CALLER,
        )
    if isinstance(recipe.optimisation.law, Nothing):
        warnings.warn(
            "Without a weight average cells are drawn with the weights of a single step, which are noisy. Use "
            "average='ramp'.",
            stacklevel=CALLER,
        )
    if not carrying and isinstance(recipe.objective.coupling, _UNEVEN):
        warnings.warn(
            f"coupling={recipe.objective.coupling!r} does not use a noise evenly, and cells are drawn from all of it: "
            "another law than the cells' is learnt. It is meant for a source of cells (source=...). Use "
            "coupling='optimal' or 'entropic' with a noise.",
            stacklevel=CALLER,
        )


def share_of(validation: float | str) -> float:
    """The share of cells held out to stop on, or to look at."""
    if isinstance(validation, str):
        if validation not in ("auto", "groups"):
            raise InputError(
                f"validation={validation!r} is not known. Give the share of cells held out to stop on, such as 0.1, or "
                "'groups' to hold out whole groups of cells that are carried."
            )
        return _SHARE
    share = positive(validation, "validation")
    if share > 0.5:
        raise InputError(
            f"validation={validation} is the share of cells held out to stop on: 0.5 at most, such as 0.1."
        )
    return share


def for_groups(recipe: Recipe, validation: float | str, roles: Roles | None, *, usual_steps: bool) -> Recipe:
    """The recipe of a training that is stopped on groups, where that was asked for or some cells have no target.

    Few steps of a small network at a constant rate: what is left to the caller's choice is as it was given.

    Raises
    ------
    InputError
        Where groups were asked for, and fewer than three have enough cells of both populations.
    """
    if isinstance(validation, str):
        n_source, n_target = roles.sizes() if roles is not None else (torch.zeros(0), torch.zeros(0))
        enough, alone = len(enough_groups(n_source, n_target)), int(((n_source > 0) & (n_target == 0)).sum())
        few = (
            f"{enough} groups have at least {FEWEST_CELLS} cells in both populations, and it takes {FEWEST_GROUPS} to "
            "see how well others are carried"
        )
        if validation == "groups" and enough < FEWEST_GROUPS:
            raise InputError(f"validation='groups', but {few}. Give source= and a group= of more values, or a share.")
        if validation == "auto" and alone and enough < FEWEST_GROUPS:
            warnings.warn(
                f"{alone} groups have source cells alone, but {few}. Training is stopped on held-out cells of the "
                "groups that are there, and may be too long for others.",
                stacklevel=CALLER,
            )
        if validation == "groups" or (alone and enough >= FEWEST_GROUPS):
            small = {"width": 128, "depth": 2} if recipe.field == "mlp" and not recipe.network else recipe.network
            steady = recipe.optimisation == Optimisation()
            return replace(
                recipe,
                held_out="groups",
                most_steps=recipe.most_steps if usual_steps else recipe.steps,
                lr=recipe.lr or 1e-3,
                network=small,
                optimisation=Optimisation(schedule="constant", warmup=1) if steady else recipe.optimisation,
            )
    return recipe


def precision_of(precision: str, device: torch.device) -> str:
    """The precision by its own name, as far as the device has it."""
    if precision == "auto":
        return "bfloat16" if _multiplies_bfloat16(device) else "float32"
    if precision not in _PRECISIONS:
        raise InputError(f"precision={precision!r} is not known. Choose 'auto', 'float32', 'bfloat16' or 'float16'.")
    return precision


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has units that multiply matrices of bfloat16: GPUs of today, and CPUs with AMX."""
    if device.type == "cpu":
        known: Any = getattr(torch.cpu, "get_capabilities", dict)  # not in every version of PyTorch
        return bool(known().get("amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def trace_of(profile: bool | str | os.PathLike[str]) -> Path | None:
    """Where the trace of a run goes, if anywhere; the folder has to be there."""
    if profile is False:
        return None
    path = path_of("scflow_trace.json" if profile is True else profile, "profile")
    if not path.parent.is_dir():
        raise InputError(f"profile={str(path)!r} names a file in a folder that is not there. Make it, or name another.")
    if path.is_dir():
        raise InputError(f"profile={str(path)!r} is a folder. Name a file in it.")
    _file.check_place(path)
    return path


def split(
    n: int, fraction: float, size: int | None, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to learn from, and rows to look at."""
    check_enough(n, "adata")
    order = np.random.default_rng([seed, 0]).permutation(n)
    held = max(1, round(n * fraction))
    if size is not None and size > n - held:
        raise InputError(
            f"batch_size={size} is more than the {n - held} cells to learn from ({n} less {held} held out for "
            "validation). Use batch_size='auto'."
        )
    return torch.from_numpy(order[held:]).to(device), torch.from_numpy(order[:held]).to(device)


def batch_size_of(
    size: int | None, n: int, device: torch.device, workers: Workers = ALONE, *, intervals: int = 1
) -> int:
    """Cells a step of each process, of `n` to learn from; of a time course at least 128 an interval.

    Raises
    ------
    InputError
        Where the batches of all processes together have more cells than there are, or there are fewer than processes.
    """
    most = n // workers.size
    if most == 0 or (size is not None and size > most and workers.size > 1):
        what = "" if size is None else f" of batch_size={size} each"
        mend = f"Use batch_size={most} at most, or fewer processes." if most else f"Start {n} at most."
        raise InputError(f"{n} cells to learn from are shared by {workers.size} processes{what}. {mend}")
    if size is not None:
        return size
    return min(most, max(1024 if device.type != "cpu" and n >= 20_000 else 256, _OF_AN_INTERVAL * intervals))
