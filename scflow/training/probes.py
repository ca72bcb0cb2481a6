"""More columns for the history: the loss by time, and whatever is measured at a look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scflow.matching import FlowMatching, Preconditioned
from scflow.training.workers import ALONE, Workers

__all__ = ["BINS", "Look", "TimeBins", "Watching", "effective_weights", "linear_loss"]

BINS = 5
"""Bins of equal width in t, from the data (0) to the noise (4)."""

Look = Callable[[Callable[[Tensor, Tensor, Tensor | None], Tensor]], dict[str, float]]
"""What is measured at a look: a field in, values of columns out."""


class TimeBins:
    """The loss by time: ``loss_t0`` (t in [0, 0.2), nearest the data) to ``loss_t4``.

    The weighted losses of all cells since the last look, averaged bin by bin, and beside them ``weight_t0`` to
    ``weight_t4``, the effective weight w(t) p(t) of the objective, which does not change: a time law and a weight are
    one knob, and only their product says what the loss looks at.
    """

    columns = tuple(f"{what}_t{i}" for what in ("loss", "weight") for i in range(BINS))

    def __init__(self, objective: FlowMatching, workers: Workers = ALONE) -> None:
        self.weights, self.workers = effective_weights(objective), workers
        self.times: list[Tensor] = []
        self.losses: list[Tensor] = []

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Keep a batch's times and losses, each ``[n]``, without looking at them."""
        self.times.append(t)
        self.losses.append(losses.detach())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What was kept since the last report."""
        if not self.times:
            return {}, {}
        return {}, {"times": torch.cat(self.times), "losses": torch.cat(self.losses).float()}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on after that; of checkpoints that were written at looks there is nothing."""
        self.times, self.losses = ([tensors[name]] if name in tensors else [] for name in ("times", "losses"))

    def report(self) -> dict[str, float]:
        """Means since the last report; a bin that no cell fell into is NaN."""
        if not self.times:
            return dict(self.weights)
        where = self.times[-1].device  # what was restored is on the CPU
        t, losses = (torch.cat([some.to(where) for some in kept]) for kept in (self.times, self.losses))
        losses = losses.double()
        self.times, self.losses = [], []
        good = losses.isfinite()
        bins = (t[good] * BINS).long().clamp(0, BINS - 1)
        total = torch.zeros(BINS, dtype=torch.float64, device=t.device).index_add_(0, bins, losses[good])
        total, n = self.workers.mean(torch.stack([total, torch.bincount(bins, minlength=BINS)]))
        means = (total / n).tolist()
        return {f"loss_t{i}": mean for i, mean in enumerate(means)} | self.weights


class Watching:
    """The loss by time at every look, and what `look` measures at every so many."""

    def __init__(
        self,
        bins: TimeBins,
        field: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        look: Look | None = None,
        *,
        columns: tuple[str, ...] = (),
        every: int = 1,
    ) -> None:
        self.bins, self.field, self.look, self.every = bins, field, look, every
        self.columns = (*bins.columns, *columns)

    def report(self, number: int) -> dict[str, float]:
        """The columns of look `number`, from 1."""
        row = self.bins.report()
        if self.look is not None and number % self.every == 0:
            row |= self.look(self.field)
        return row


def effective_weights(objective: FlowMatching, *, points: int = 200) -> dict[str, float]:
    """The mean of w(t) p(t) over each bin, by the midpoints of `points` parts of it."""
    t = (torch.arange(BINS * points) + 0.5) / (BINS * points)
    weight = objective.effective_weight(t).view(BINS, points).mean(1)
    return {f"weight_t{i}": float(w) for i, w in enumerate(weight)}


def linear_loss(field: Preconditioned, objective: FlowMatching, *, points: int = 1000) -> float:
    """The loss of the best linear velocity for the field's data and noise: what a network starts at, and has to beat.

    It leaves the variance ``(alpha sigma' - alpha' sigma)^2 s0^2 s1^2 / (alpha^2 s0^2 + sigma^2 s1^2)`` of each
    coordinate; with standard deviations of 1 on the linear path that is pi / 2 under uniform times.
    """
    t = (torch.arange(points) + 0.5) / points
    t = t * field.path.end
    alpha, sigma, d_alpha, d_sigma = (c[:, None] for c in field.path.coefficients(t))
    s0, s1 = (v.detach().cpu().reshape(1, -1) for v in (field.data_variance, field.noise_variance))
    variance = (alpha.square() * s0 + sigma.square() * s1).clamp_min(1e-8)
    left = ((alpha * d_sigma - d_alpha * sigma).square() * s0 * s1 / variance).mean(1)
    return float((objective.effective_weight(t) * left).mean()) * field.path.end
