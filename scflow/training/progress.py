"""What a run is planned to be, and everything that changes while it goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scflow.training.averages import Average, Ramp
from scflow.training.checkpoints import State
from scflow.training.history import Monitor
from scflow.training.optim import WeightAverage, load, schedule, warmup_steps
from scflow.training.workers import ALONE, Workers

__all__ = ["Best", "Plan", "Progress", "Running", "Scaler"]


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
    average, moves
        The law of the weight average, and how many steps it may wait for its next move.
    schedule, warmup, accumulate
        See :class:`scflow.training.Optimisation`.

    Examples
    --------
    >>> plan = Plan(steps=1000, warmup=100)
    >>> plan.factor(50), round(plan.factor(1000), 3)
    (0.51, 0.0)
    """

    steps: int
    every: int = 100
    patience: int = 10
    clip: float = 1.0
    average: Average = field(default_factory=Ramp)
    moves: int = 1
    schedule: str = "cosine"
    warmup: int | None = None
    accumulate: int = 1

    def factor(self, step: int) -> float:
        """The factor on the learning rate after `step` steps."""
        warmup = warmup_steps(self.steps) if self.warmup is None else self.warmup
        return schedule(step, steps=self.steps, warmup=warmup, shape=self.schedule)


class Scaler(Protocol):
    """What float16 needs: the loss scaled up, so that small gradients are no zeros (`torch.amp.GradScaler`)."""

    def scale(self, outputs: Any) -> Any:
        """The scaled loss."""
        ...

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the scale out of the gradients."""
        ...

    def step(self, optimizer: torch.optim.Optimizer) -> Any:
        """Step the optimiser."""
        ...

    def update(self) -> None:
        """A larger scale after many good steps, half of it after a bad one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Scale and counters."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put scale and counters back."""
        ...


class Progress:
    """Everything that changes from step to step, but for the data and the generators."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, monitor: Monitor, scaler: Scaler | None
    ) -> None:
        self.module, self.optimizer, self.plan = module, optimizer, plan
        self.monitor, self.scaler = monitor, scaler
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.average = WeightAverage(self.parameters, plan.average, every=plan.moves)
        self.best, self.running = Best(self.average), Running(plan.clip)
        self.step = self.bad = self.shown = 0

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the last better look is too long ago."""
        return self.step >= self.plan.steps or self.best.age > self.plan.patience

    @property
    def rate(self) -> float:
        """The learning rate of the step to come."""
        return self.rates[0] * self.plan.factor(self.step)

    def state(self) -> State:
        """All of it: numbers, and tensors by name."""
        values = {
            "step": self.step,
            "bad": self.bad,
            "average": [self.average.step, self.average.waiting, self.average.kept],
            "best": [self.best.score, self.best.step, self.best.age],
            "history": self.monitor.rows,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        tensors = {f"module.{name}": t for name, t in self.module.state_dict().items()}
        values["cells"], running = self.running.state()
        tensors |= {f"running.{name}": t for name, t in running.items()}
        for name, list_ in self._lists().items():
            tensors |= {f"{name}.{i}": t for i, t in enumerate(list_)}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": t for name, t in moments.items()}
        return values, tensors

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put all of it back."""
        self.step, self.bad = int(values["step"]), int(values.get("bad", 0))
        # Checkpoints of format 1 were written at looks alone, where nothing is outstanding.
        average = values["average"] if isinstance(values["average"], list) else (values["average"], 0, 1.0)
        self.average.step, self.average.waiting, self.average.kept = average
        where, names = self.parameters[0].device, ("running.losses", "running.norms")
        self.running.restore(values.get("cells", 0), *(tensors[n].to(where) if n in tensors else None for n in names))
        self.best.score, self.best.step, self.best.age = values["best"]
        self.monitor.restore(values["history"])
        if self.scaler is not None:
            self.scaler.load_state_dict(values["scaler"])
        start = "module."
        self.module.load_state_dict({n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)})
        for name, list_ in self._lists().items():
            load(list_, [tensors[f"{name}.{i}"] for i in range(len(list_))])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".", 2)
                moments.setdefault(int(i), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def _lists(self) -> dict[str, list[Tensor]]:
        return {"average": self.average.average, "best": self.best.weights, "raw": self.best.raw}


class Best:
    """The best weight average so far, and the weights themselves at that step: room is taken once and written over."""

    def __init__(self, average: WeightAverage) -> None:
        self.weights, self.raw = average.copy(), average.copy()
        self.score, self.step, self.age = math.inf, 0, 0

    def offer(self, score: float, step: int, average: WeightAverage) -> None:
        """Keep the weights if their score is the lowest so far; otherwise the best ones are a look older."""
        self.age += 1
        if score < self.score:
            load(self.weights, average.average)
            load(self.raw, average.source)
            self.score, self.step, self.age = score, step, 0


class Running:
    """Losses and gradient norms since the last report, kept on the device and not looked at."""

    losses: list[Tensor]
    norms: list[Tensor]
    cells: int

    def __init__(self, clip: float) -> None:
        self.clip = clip
        self._clear()

    def _clear(self) -> None:
        self.losses, self.norms, self.cells = [], [], 0

    def add(self, loss: Tensor, norm: Tensor, cells: int) -> None:
        """Keep one step's."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.cells += cells

    def state(self) -> tuple[int, dict[str, Tensor]]:
        """How many cells, and the losses and norms, where there are any."""
        if not self.losses:
            return 0, {}
        return self.cells, {"losses": torch.stack(self.losses).float(), "norms": torch.stack(self.norms).float()}

    def restore(self, cells: int, losses: Tensor | None, norms: Tensor | None) -> None:
        """Go on after these steps."""
        self.cells = cells
        self.losses, self.norms = ([] if some is None else list(some) for some in (losses, norms))

    def report(self, workers: Workers = ALONE) -> tuple[dict[str, float], int]:
        """The means, how many steps at the end were bad, and a new start; only here the host waits for the device."""
        both = torch.stack([torch.stack(self.losses).float(), torch.stack(self.norms).float()]).cpu()
        loss, norm = workers.mean(both)
        good = loss.isfinite() & norm.isfinite()
        bad = len(good) - int(good.nonzero().max()) - 1 if good.any() else len(good)
        row = {
            "loss": float(loss[good].mean()),
            "gradient_norm": float(norm[good].mean()),
            "clipped": float((norm[good] > self.clip).float().mean()),
            "skipped": float(len(good) - int(good.sum())),
            "cells": self.cells,
        }
        self._clear()
        return row, bad
