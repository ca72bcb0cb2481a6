"""What went wrong in a training, in words: rules over its history and over a few drawn cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow.flow._flow import Flow
from scflow.flow._sampling import Sampling
from scflow.matching import Preconditioned

__all__ = ["Finding", "of_cells", "of_history"]

_FALL = 0.01
"""A loss that has fallen by less than this share has not fallen."""
_ABOVE = 1.1
"""So many times the loss of the best linear velocity is no learning."""
_HIGH_RATE, _LOW_RATE = 5e-3, 1e-5
_STANDARDISED = 4.0
"""Standardised data and unit noise start at a loss of at most 2 (pi / 2 for the best linear field)."""
_FAR_ABOVE = 10.0
"""Gradient norms so many times the clip: every step has the same length, whatever the gradient."""
_NARROW, _WIDE = 0.5, 1.5
_COPIES = 1e-3
_SMALL_BATCH = 32
_SCALER_SKIPS = 16
"""So many steps a gradient scaler may pass over until it has found its scale."""


class Finding(NamedTuple):
    """One trouble.

    Attributes
    ----------
    trouble
        ``"loss not falling"``, ``"nan"``, ``"poor samples"``, ``"mode collapse"``, or ``"caution"`` for what may lead
        to one of them.
    seen
        The figures that show it.
    advice
        What to do.
    """

    trouble: str
    seen: str
    advice: str


def of_history(history: pd.DataFrame, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    """Troubles that the history shows."""
    if history.empty:
        return
    yield from _nan(history, provenance)
    yield from _not_falling(history, provenance)
    yield from _poor_scores(history)
    yield from _cautions(history, provenance)


def of_cells(flow: Flow, n: int, seed: int) -> Iterator[Finding]:
    """Troubles that `n` drawn cells show, beside the spread of the training data that a preconditioned field knows."""
    if not isinstance(flow.field, Preconditioned):
        return
    plain = replace(flow, calibration=None)
    drawn = plain.draw(n, sampling=Sampling(seed=seed, ranks=flow.codec.has_counts))
    state = drawn.state.astype(np.float64)
    sd = flow.field.data_variance.sqrt().double().cpu().numpy()
    if not flow.codec.has_counts:  # States come back in the user's units.
        state = state / flow.codec.state_dict()["sd"].double().numpy()
    finite = np.isfinite(state).all(1)
    if not finite.all():
        yield Finding(
            "poor samples",
            f"{int((~finite).sum())} of {n} drawn cells have coordinates that are infinite or NaN.",
            "Train again with a lower rate, lr=1e-4; draw with more solver steps.",
        )
        return
    there = sd > 1e-6
    ratio = float(np.median(state.std(0)[there] / sd[there])) if there.any() else 1.0
    near, typical = _nearest(state), float(np.sqrt(2 * (sd**2).sum()))
    if ratio < _NARROW or near < _COPIES * typical:
        yield Finding(
            "mode collapse",
            f"{n} drawn cells spread {ratio:.2f} times as far as the training cells (median over coordinates), and the "
            f"nearest other one of a cell is {near / typical:.2g} of the distance between two training cells away.",
            "Look at the noise: it has to vary in every coordinate (noise='gaussian'). Use a larger batch, guidance=1, "
            "and check that the data have the variety that you expect.",
        )
    elif ratio > _WIDE:
        yield Finding(
            "poor samples",
            f"{n} drawn cells spread {ratio:.2f} times as far as the training cells (median over coordinates).",
            _BETTER,
        )


_BETTER = (
    "Train longer (steps), draw with the weight average and more solver steps, give the field more capacity, or "
    "another noise; lower the rate where the loss jumps."
)


def _nan(history: pd.DataFrame, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    skipped = int(history["skipped"].sum()) if "skipped" in history else 0
    lost = int(history["loss"].isna().sum())
    if provenance.get("precision") == "float16" and skipped <= _SCALER_SKIPS and not lost:
        return
    if skipped or lost:
        first = history[history["loss"].isna() | (history["skipped"] > 0 if "skipped" in history else False)].iloc[0]
        yield Finding(
            "nan",
            f"{skipped} steps had a gradient that was infinite or NaN, the first before step {int(first['step'])} at a "
            f"learning rate of {first['learning_rate']:.2g}.",
            "Lower the rate (lr=1e-4) and the clip; look for infinite values in the data; use precision='float32'.",
        )


def _not_falling(history: pd.DataFrame, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    loss = history["loss"].dropna().to_numpy(dtype=float)
    if len(loss) < 4 or "held_out" in provenance:  # as many steps as groups that were held out are carried best by
        return
    first, last = float(loss[0]), float(np.median(loss[-max(1, len(loss) // 4) :]))
    linear = float(provenance.get("linear_loss", np.inf))
    linear = linear if np.isfinite(linear) else np.inf
    if last < first - _FALL * abs(first) and last < _ABOVE * linear:
        return
    rate = float(provenance.get("lr", history["learning_rate"].max()))
    rated = (
        f"The rate of {rate:g} is high: lr=1e-3 or less."
        if rate > _HIGH_RATE
        else f"The rate of {rate:g} is low: lr=1e-3."
        if rate < _LOW_RATE
        else f"Try another rate than {rate:g}: a third of it, three times it."
    )
    yield Finding(
        "loss not falling",
        f"The loss was {first:.4g} at step {int(history['step'].iloc[0])} and is {last:.4g} at the end (median of the "
        f"last {max(1, len(loss) // 4)} looks)"
        + (f"; the best linear velocity has {linear:.4g}." if np.isfinite(linear) else "."),
        f"{rated} Check that the data are standardised, use a larger batch, and more steps.",
    )


def _poor_scores(history: pd.DataFrame) -> Iterator[Finding]:
    if "wasserstein" not in history:
        return
    seen = history.dropna(subset=["wasserstein"])
    if seen.empty:
        return
    row = seen.iloc[-1]
    if row["wasserstein"] > 1.15 * row["wasserstein_floor"]:
        yield Finding(
            "poor samples",
            f"At step {int(row['step'])} drawn cells were {row['wasserstein']:.3g} from the validation cells "
            f"(2-Wasserstein), where other real cells are {row['wasserstein_floor']:.3g}; MMD {row['mmd']:.2g} (floor "
            f"{row['mmd_floor']:.2g}), forest AUC {row['forest_auc']:.2f} (floor {row['forest_auc_floor']:.2f}).",
            _BETTER,
        )


def _cautions(history: pd.DataFrame, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    size = int(provenance.get("batch_size", _SMALL_BATCH))
    if size < _SMALL_BATCH and 2 * size < provenance.get("n_cells", np.inf):
        yield Finding(
            "caution",
            f"The batch had {size} cells: the gradient is mostly noise.",
            f"batch_size={_SMALL_BATCH} or more, best 'auto', or Optimisation(accumulate={-(-_SMALL_BATCH // size)}).",
        )
    if provenance.get("average") == "nothing":
        yield Finding("caution", "The weights were not averaged.", "Optimisation(average='ramp').")
    norms, clip = history["gradient_norm"].dropna(), float(provenance.get("clip", 1.0))
    if len(norms) and norms.median() > _FAR_ABOVE * clip:
        yield Finding(
            "caution",
            f"Gradient norms ({norms.median():.3g}, the median of all looks) are far above the clip of {clip:g}.",
            "Standardise the data, lower the rate, or raise the clip: Optimisation(clip=...).",
        )
    losses = history["loss"].dropna()
    start = float(provenance.get("linear_loss", losses.iloc[0] if len(losses) else 0.0))
    if start > _STANDARDISED:
        yield Finding(
            "caution",
            f"The loss began at {start:.3g}; standardised data begin at 2 or less: the states are not standardised, or "
            "the loss weight is not of mean 1.",
            "Standardise each coordinate of the data: mean 0, standard deviation 1.",
        )
    yield from _past_the_best(history)


def _past_the_best(history: pd.DataFrame) -> Iterator[Finding]:
    history = history[history["validation_loss"].notna()] if "validation_loss" in history else history[:0]
    scores = history["validation_loss"] if len(history) >= 8 else None
    if scores is None:
        return
    best, last = float(history["step"].to_numpy()[int(scores.to_numpy().argmin())]), float(history["step"].iloc[-1])
    if best < last / 3 and scores.iloc[-1] > scores.min() + _FALL * abs(scores.min()):
        yield Finding(
            "caution",
            f"The best validation loss, {scores.min():.4g}, was at step {best:.0f} of {last:.0f}; at the end it is "
            f"{scores.iloc[-1]:.4g}. The weights of the best step were kept.",
            "More training does not help here: more cells do, or a smaller field.",
        )


def _nearest(state: NDArray[np.float64]) -> float:
    """The median distance of a cell to the nearest other one."""
    from scipy.spatial.distance import cdist

    distance = cdist(state, state)
    np.fill_diagonal(distance, np.inf)
    return float(np.median(distance.min(1)))
