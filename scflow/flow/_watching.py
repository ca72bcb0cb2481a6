"""Watching a training: a few cells drawn at a look, and scored against validation cells beside a floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow import metrics
from scflow.errors import InputError
from scflow.matching import noises, solvers
from scflow.training import Run
from scflow.training.batches import States

__all__ = ["Watch", "watcher"]

_FEWEST = 20


@dataclass(frozen=True)
class Watch:
    """How often and on how many cells a training is watched.

    The cells are drawn in the flow's own space with the averaged weights, under the conditions of validation cells, and
    compared with those there. The floor is the same figure for as many training cells: other real cells, which is what
    a perfect field would score. Columns of the history, NaN at looks without a draw:

    - ``forest_auc``, ``forest_auc_floor``: out-of-fold AUC of a random forest (two folds), 0.5 is perfect;
    - ``mmd``, ``mmd_floor``: unbiased squared MMD, kernels at the median distance x 1/4 to 4;
    - ``wasserstein``, ``wasserstein_floor``: exact 2-Wasserstein distance;
    - ``spread``: standard deviation of drawn over that of validation cells, median over coordinates.

    These are states, not counts: neither the codec's way back nor calibration has touched them. In gene space a forest
    knows real ones by their steps, one a count, so `forest_auc` stays near 1 there whatever the field does.

    Attributes
    ----------
    every
        Looks between two draws; a run has about 40 looks.
    n_cells
        Cells a side, at most: as many as there are validation cells otherwise.
    steps
        Midpoint steps of a draw.

    Examples
    --------
    >>> Watch(every=5, n_cells=200).columns[:2]
    ('forest_auc', 'forest_auc_floor')
    """

    every: int = 5
    n_cells: int = 300
    steps: int = 12

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("n_cells", _FEWEST), ("steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name}={value!r} must be a whole number of at least {least}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the history that this fills."""
        names = ("forest_auc", "mmd", "wasserstein")
        return (*(name + end for name in names for end in ("", "_floor")), "spread")


def watcher(
    watch: Watch, states: States, condition: Tensor | None, noise: noises.Noise, run: Run
) -> Callable[[Callable[[Tensor, Tensor, Tensor | None], Tensor]], dict[str, float]]:
    """What draws and scores: a field in, the columns of a watch out. Its cells and noises are the same at every look.

    Raises
    ------
    InputError
        Where fewer than 20 cells a side are there.
    """
    n = min(watch.n_cells, len(run.validation), len(run.train))
    if n < _FEWEST:
        raise InputError(
            f"watch needs at least {_FEWEST} validation cells to score against; there are {n}. Hold out more with "
            "validation=0.3, or leave watch=None."
        )
    rng = run.generator(16)
    held, other = run.validation[:n], run.train[:n]
    real, floor = (_array(states.states(rows, rng=rng)) for rows in (held, other))
    c = None if condition is None else condition[held]
    x1 = noise.sample_given(c, n, real.shape[1], rng=rng)
    scale = metrics.median_distance(real)
    floors: dict[str, float] = {}

    def look(field: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> dict[str, float]:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return field(x, t.expand(len(x)), c)

        drawn = _array(solvers.Midpoint().integrate(velocity, x1, solvers.grid(watch.steps).to(x1.device)))
        if not floors:
            floors.update({f"{name}_floor": value for name, value in _scores(real, floor, scale, run.seed).items()})
        if not np.isfinite(drawn).all():
            return dict(floors)
        sd, drawn_sd = real.std(0), drawn.std(0)
        spread = float(np.median(drawn_sd[sd > 0] / sd[sd > 0]))
        return _scores(real, drawn, scale, run.seed) | floors | {"spread": spread}

    return look


def _scores(real: NDArray[np.float64], other: NDArray[np.float64], scale: float, seed: int) -> dict[str, float]:
    """The figures of a watch, for as many cells on either side."""
    return {
        "forest_auc": metrics.two_sample_auc(real, other, folds=2, seed=seed).value,
        "mmd": metrics.mmd(real, other, bandwidth=scale, interval=False).value,
        "wasserstein": metrics.wasserstein(real, other, interval=False).value,
    }


def _array(states: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        return states.cpu().numpy().astype(np.float64)
