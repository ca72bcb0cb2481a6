"""From the options of `scflow.tl.train` to what is learnt and how: each is checked before any work starts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from scflow import matching
from scflow.conditions import Conditions
from scflow.errors import InputError, listed, nearest
from scflow.flow._learning import Recipe
from scflow.matching.names import COUPLINGS, NOISES, PATHS, TIMES, WEIGHTS, chosen
from scflow.tl._options import positive
from scflow.training import Run
from scflow.training.averages import Nothing

__all__ = [
    "batch_size_of",
    "check_groups",
    "noise_of",
    "objective_of",
    "precision_of",
    "share_of",
    "space_of",
    "split",
    "warn_of",
]

SPACES = ("counts", "genes", "quantile", "pca")
_PER_GENE = ("dropout", "dropout_by_condition")
_PRECISIONS = ("float32", "bfloat16", "float16")
_SMALL_BATCH = 32
_FEWEST = 20


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


def warn_of(recipe: Recipe, run: Run) -> None:
    """The guide's don'ts, before any time is spent."""
    size = run.batch_size * recipe.optimisation.accumulate
    if size < _SMALL_BATCH and run.batch_size < len(run.train):
        warnings.warn(
            f"A batch of {size} cells is small: its gradient is mostly noise. Use {_SMALL_BATCH} or more, best "
            "batch_size='auto', or accumulate several: optimisation=scflow.training.Optimisation(accumulate=8).",
            stacklevel=3,
        )
    if isinstance(recipe.optimisation.law, Nothing):
        warnings.warn(
            "Without a weight average cells are drawn with the weights of a single step, which are noisy. Use "
            "average='ramp'.",
            stacklevel=3,
        )


def share_of(validation: float) -> float:
    """The share of cells held out to stop on."""
    share = positive(validation, "validation")
    if share > 0.5:
        raise InputError(
            f"validation={validation} is the share of cells held out to stop on: 0.5 at most, such as 0.1."
        )
    return share


def precision_of(precision: str, device: torch.device) -> str:
    """The precision by its own name, as far as the device has it."""
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if precision not in _PRECISIONS:
        raise InputError(f"precision={precision!r} is not known. Choose 'auto', 'float32', 'bfloat16' or 'float16'.")
    return precision


def split(
    n: int, fraction: float, size: int | None, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to learn from, and rows to look at."""
    if n < _FEWEST:
        raise InputError(f"adata has {n} cells; scflow needs at least {_FEWEST} to learn from, and better hundreds.")
    order = np.random.default_rng([seed, 0]).permutation(n)
    held = max(1, round(n * fraction))
    if size is not None and size > n - held:
        raise InputError(
            f"batch_size={size} is more than the {n - held} cells to learn from ({n} less {held} held out for "
            "validation). Use batch_size='auto'."
        )
    return torch.from_numpy(order[held:]).to(device), torch.from_numpy(order[:held]).to(device)


def batch_size_of(size: int | None, n: int, device: torch.device) -> int:
    """Cells a step, of `n` to learn from."""
    if size is not None:
        return size
    return min(n, 1024 if device.type != "cpu" and n >= 20_000 else 256)
