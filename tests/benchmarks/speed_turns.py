"""The loop of scflow.tl.train, and others that learn the same cells, in turns in one process."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from speed_limits import Limits, limits
from torch import Tensor, nn

import scflow
from scflow.flow import _learning
from scflow.matching import Preconditioned
from scflow.training import Run, loop
from scflow.training.optim import adamw
from scflow.training.progress import Progress

LOOKS = 40
"""How often a whole run of scflow.tl.train looks at its validation cells, at least every 500 steps."""
Seconds = NDArray[np.float64]
OURS, PLAIN, CFM = "scflow", "plain loop", "TorchCFM"


@dataclass(frozen=True)
class Setting:
    """What is trained."""

    space: str
    batch: int
    width: int
    precision: str
    device: str


@dataclass
class Clock:
    """What was measured: of each round of steps of each loop, and of each look at validation cells, how many seconds
    it took by the clock on the wall and how many of the CPU's; and what the machine allows."""

    rounds: dict[str, list[Seconds]] = field(default_factory=dict)
    looks: list[Seconds] = field(default_factory=list)
    limits: Limits | None = None
    steps: int = 0
    dim: int = 0

    def step(self, name: str) -> float:
        """Seconds of a step, by the clock on the wall: the median of the rounds."""
        return float(np.median([wall for wall, _ in self.rounds[name]])) / self.steps

    def ratio(self, name: str, *, cpu: bool = False) -> float:
        """How many steps scflow takes in the time of one of the other loop."""
        return float(
            np.median([r[int(cpu)] for r in self.rounds[name]]) / np.median([r[int(cpu)] for r in self.rounds[OURS]])
        )

    @property
    def with_looks(self) -> float:
        """The ratio to the plain loop when scflow's looks at validation cells are counted, as many as a run has."""
        every = min(500, _learning.default_steps(4000) // LOOKS)
        look = float(np.median([wall for wall, _ in self.looks])) / every
        return self.step(PLAIN) / (self.step(OURS) + look)


class Done(Exception):
    """Everything was measured: no need to finish the training."""


def measured(adata: Any, setting: Setting, *, rounds: int, seconds: float, rivals: bool) -> Clock:
    """Let scflow.tl.train come to its loop, and time it and the others in turns, each for about `seconds` a round."""
    clock = Clock()
    fit_field = _learning.fit_field

    def in_turns(
        network: nn.Module, states: Any, condition: Tensor, noise: Any, objective: Any, run: Run, *, lr: float, **_: Any
    ) -> None:
        x0 = encoded(states, len(condition), run)
        sd, dim = x0[run.train].std(0, correction=0), x0.shape[1]
        twin = Preconditioned(copy.deepcopy(network), objective.path, sd, noise.sd(dim)).to(run.device)
        others = {PLAIN: plain_loop(twin, x0, condition, noise, run, lr)}
        if rivals:
            others[CFM] = torchcfm_loop(copy.deepcopy(network).to(run.device), x0, condition, run, lr)
        clock.dim, clock.limits = dim, limits(twin, x0[run.train], condition[run.train], run)
        next(others[PLAIN])
        start = time.perf_counter()
        next(others[PLAIN])
        clock.steps = int(min(max(seconds / (time.perf_counter() - start), 2), 200))
        turn = Turns(clock, others, rounds, run.device)
        timed = replace(run, callbacks=(turn.after_round,))
        middle = mock.patch.object(loop, "Progress", in_the_middle)
        with middle, mock.patch.object(loop, "_validated", turn.look(loop._validated)):
            fit_field(network, states, condition, noise, objective, timed, steps=LOOKS * clock.steps, lr=lr)
        raise Done

    with mock.patch.object(_learning, "fit_field", in_turns):
        try:
            scflow.tl.train(
                adata,
                condition="cell_type",
                space=setting.space,
                field=functools.partial(scflow.nn.MLP, width=setting.width) if setting.width else "mlp",
                batch_size=setting.batch,
                steps=100,
                precision=setting.precision,
                device=setting.device,
                progress=False,
            )
        except Done:
            return clock
    raise AssertionError("scflow.tl.train ended without fitting a field.")


def in_the_middle(*given: Any) -> Progress:
    """A run whose average of the weights is a thousand steps old, as it is for most of a run: it moves rarely then."""
    progress = Progress(*given)
    progress.average.step = 1000
    return progress


def encoded(states: Any, n: int, run: Run) -> Tensor:
    """The states of all cells, dense."""
    rng = run.generator(9)
    return torch.cat([states.states(rows, rng=rng) for rows in torch.arange(n, device=run.device).split(1024)])


def plain_loop(field: nn.Module, x0: Tensor, condition: Tensor, noise: Any, run: Run, lr: float) -> Iterator[None]:
    """A step at each `next`: as one would write it for a dense tensor, without clip, average, schedule or records.

    Noise and optimiser (fused AdamW) are those of scflow, because the loops are compared and not the methods.
    """
    rng, n = run.generator(10), len(run.train)
    x0, condition = x0[run.train], condition[run.train]
    optimizer = adamw(field, lr=lr)
    field.train()
    while True:
        for rows in torch.randperm(n, generator=rng, device=run.device).split(run.batch_size):
            if len(rows) < run.batch_size:
                continue
            cells = x0[rows]
            x1 = noise.sample(len(rows), cells.shape[1], rng=rng)
            t = torch.rand(len(rows), generator=rng, device=run.device)
            with run.autocast():
                velocity = field(torch.lerp(cells, x1, t[:, None]), t, condition[rows])
                loss = (velocity - (x1 - cells)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def torchcfm_loop(network: nn.Module, x0: Tensor, condition: Tensor, run: Run, lr: float) -> Iterator[None]:
    """A step at each `next`: TorchCFM with a DataLoader, as its examples of pictures have it, in float32.

    The network is that of scflow, which takes labels too; it is not preconditioned, for TorchCFM knows nothing of that.
    """
    from torch.utils.data import DataLoader, TensorDataset
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    cells = TensorDataset(x0[run.train], condition[run.train])
    loader = DataLoader(cells, batch_size=run.batch_size, shuffle=True, drop_last=True)
    matcher, optimizer = ConditionalFlowMatcher(sigma=0.0), torch.optim.Adam(network.parameters(), lr=lr)
    network.train()
    while True:
        for x1, labels in loader:
            optimizer.zero_grad()
            t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
            loss = torch.mean((network(xt, t, labels) - ut) ** 2)
            loss.backward()
            optimizer.step()
            yield


class Turns:
    """Called by the loop of scflow after each round of steps; has the others take as many before it goes on.

    The first round of each warms up and does not count.
    """

    def __init__(self, clock: Clock, others: dict[str, Iterator[None]], rounds: int, device: torch.device) -> None:
        self.clock, self.others, self.rounds = clock, others, rounds
        self.cuda, self.done = device.type == "cuda", 0
        self.since = self.looked = np.zeros(2)
        clock.rounds = {name: [] for name in (OURS, *others)}

    def now(self) -> Seconds:
        """The time on the wall and of the CPU, once the device has done what it was told."""
        if self.cuda:
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    def look(self, validated: Callable[..., float]) -> Callable[..., float]:
        """Time the looks at the validation cells, which are no steps."""

        def timed(*arguments: Any) -> float:
            start = self.now()
            loss = validated(*arguments)
            self.looked = self.now() - start
            return loss

        return timed

    def after_round(self, _: dict[str, float]) -> None:
        """Take down scflow's round and do one of each other loop; after the last, stop."""
        took = {OURS: self.now() - self.since - self.looked}
        for name, steps in self.others.items():
            start = self.now()
            for _step in zip(range(self.clock.steps), steps, strict=False):
                pass
            took[name] = self.now() - start
        if self.done:
            self.clock.looks.append(self.looked)
            for name, seconds in took.items():
                self.clock.rounds[name].append(seconds)
        self.done += 1
        if self.done > self.rounds:
            raise KeyboardInterrupt
        self.since = self.now()
