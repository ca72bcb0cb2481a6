"""The training loop, for a field and for a codec alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from scflow.training.history import Monitor
from scflow.training.optim import WeightAverage, clipped, load, schedule, warmup_steps

__all__ = ["Plan", "Trained", "train"]

_BAD_STEPS = 5


@dataclass(frozen=True)
class Plan:
    """How long and how carefully to train.

    Attributes
    ----------
    steps
        Optimiser steps, at most.
    every
        Steps between two looks at the validation cells.
    patience
        Looks without improvement after which to stop.
    clip
        Largest norm of the gradient.
    decay
        Of the weight average.
    """

    steps: int
    every: int = 100
    patience: int = 10
    clip: float = 1.0
    decay: float = 0.999


@dataclass(frozen=True)
class Trained:
    """The history of a run, the step with the best validation loss, and whether it was interrupted."""

    history: pd.DataFrame
    best_step: int
    interrupted: bool


def train(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    validate: Callable[[], float],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    monitor: Monitor,
    precision: Callable[[], AbstractContextManager[object]],
) -> Trained:
    """Teach `module`, in place, and leave it with the weight average that was best on the validation cells.

    `loss` takes the rows of a batch; `validate` gives the loss of the validation cells with the weights as they are.
    Ctrl-C ends the run and keeps the best so far. A step whose gradient is not finite is passed over.

    Raises
    ------
    FloatingPointError
        After five steps in a row with a gradient that is not finite; the best weights so far are in place.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    average = WeightAverage(parameters, decay=plan.decay)
    best, running = _Best(average.copy()), _Running()
    rates, warmup, interrupted = [float(g["lr"]) for g in optimizer.param_groups], warmup_steps(plan.steps), False
    module.train()
    try:
        for step, rows in zip(range(plan.steps), batches, strict=False):
            factor = schedule(step, steps=plan.steps, warmup=warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            with precision():
                value = loss(rows)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            norm = clipped(parameters, plan.clip)
            # The optimiser itself passes over such a step, on the device: no step waits for the host to look.
            optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            optimizer.step()
            average.update()
            running.add(value.detach(), norm, len(rows))
            if (step + 1) % plan.every and step + 1 < plan.steps:
                continue
            row = running.report(step + 1, rates[0] * factor)
            row["validation_loss"] = _validated(module, average, validate)
            best.offer(row["validation_loss"], step + 1, average)
            monitor.log(row, cells=int(row["cells"]))
            if best.age > plan.patience:
                break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        monitor.close()
        load(parameters, best.weights)
        module.eval()
    return Trained(monitor.table(), best.step, interrupted)


class _Running:
    """Losses and gradient norms since the last report, kept on the device and not looked at."""

    losses: list[Tensor]
    norms: list[Tensor]
    cells: int

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.losses, self.norms, self.cells = [], [], 0

    def add(self, loss: Tensor, norm: Tensor, cells: int) -> None:
        """Keep one step's."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.cells += cells

    def report(self, step: int, rate: float) -> dict[str, float]:
        """The means, and a new start; the only place where the host waits for the device."""
        loss, norm = torch.stack([torch.stack(self.losses).float(), torch.stack(self.norms).float()]).cpu()
        good = loss.isfinite() & norm.isfinite()
        bad = len(good) - int(good.nonzero().max()) - 1 if good.any() else len(good)
        if bad >= _BAD_STEPS or not good.any():
            raise FloatingPointError(
                f"The gradient has not been finite for {bad} steps up to step {step} (learning rate {rate:.2g}). "
                "Nothing was kept. Try a lower rate, scflow.tl.train(..., lr=1e-4)."
            )
        cells = self.cells
        self._clear()
        mean_loss, mean_norm = float(loss[good].mean()), float(norm[good].mean())
        return {"step": step, "loss": mean_loss, "gradient_norm": mean_norm, "learning_rate": rate, "cells": cells}


class _Best:
    """The best weight average so far."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights, self.score, self.step, self.age = weights, math.inf, 0, 0

    def offer(self, score: float, step: int, average: WeightAverage) -> None:
        self.age += 1
        if score < self.score:
            self.weights, self.score, self.step, self.age = average.copy(), score, step, 0


def _validated(module: nn.Module, average: WeightAverage, validate: Callable[[], float]) -> float:
    """The validation loss of the averaged weights."""
    average.swap()
    module.eval()
    try:
        with torch.no_grad():
            return validate()
    finally:
        module.train()
        average.swap()
