"""Training throughput against a plain PyTorch loop of the same network; docs/benchmarks.md tells how.

python tests/benchmarks/speed.py
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import scflow
from scflow.flow import _learning
from scflow.matching import Preconditioned
from scflow.training import Run, loop
from scflow.training.optim import adamw

LEAST = 0.95
"""The least ratio to the plain loop."""
LOOKS = 40
"""How often a whole run of scflow.tl.train looks at its validation cells, at least every 500 steps."""
Seconds = NDArray[np.float64]
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")


@dataclass
class Clock:
    """What was measured: of each round of steps of either loop, and of each look at validation cells, how many seconds
    it took by the clock on the wall and how many of the CPU's; the share of matrix products."""

    ours: list[Seconds] = field(default_factory=list)
    plain: list[Seconds] = field(default_factory=list)
    looks: list[Seconds] = field(default_factory=list)
    products: float = float("nan")
    batch_size: int = 0
    dim: int = 0


class Done(Exception):
    """Everything was measured: no need to finish the training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for; the exit code is 1 only with --check, where a ratio is too small."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    adata = scflow.datasets.simulate(options.cells, options.genes, library_size=0.1 * options.genes, seed=0)
    print(
        f"{adata.n_obs:,} cells x {adata.n_vars:,} genes, {options.precision}, {options.device}, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds of {options.steps} steps",
        flush=True,
    )
    holds = [report(space, measured(space, adata.copy(), options), options) for space in options.spaces]
    return int(options.check and not all(holds))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["genes", "counts"], help="spaces to train in (genes counts)")
    parser.add_argument("--cells", type=int, default=4000, help="simulated cells (%(default)s)")
    parser.add_argument("--genes", type=int, default=2000, help="simulated genes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of either loop, in turns (%(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="steps of a round (%(default)s)")
    parser.add_argument("--precision", default="float32", help="of the network: float32 or bfloat16 (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 where a ratio is under {LEAST}")
    return parser.parse_args(arguments)


def measured(space: str, adata: Any, options: argparse.Namespace) -> Clock:
    """Let scflow.tl.train come to its loop, and time the loop and a plain one in turns."""
    clock = Clock()
    fit_field = _learning.fit_field

    def in_turns(
        network: nn.Module, states: Any, condition: Tensor, noise: Any, objective: Any, run: Run, *, lr: float, **_: Any
    ) -> None:
        x0 = encoded(states, len(condition), run)
        sd = x0[run.train].std(0, correction=0)
        twin = Preconditioned(copy.deepcopy(network), objective.path, sd, noise.sd(x0.shape[1])).to(run.device)
        steps = plain_loop(twin, x0, condition, noise, run, lr)
        clock.batch_size, clock.dim = run.batch_size, x0.shape[1]
        turn = Turns(clock, steps, options, run.device)
        timed = replace(run, callbacks=(turn.after_round,))
        with mock.patch.object(loop, "_validated", turn.look(loop._validated)):
            fit_field(network, states, condition, noise, objective, timed, steps=LOOKS * options.steps, lr=lr)
        raise Done

    with mock.patch.object(_learning, "fit_field", in_turns):
        try:
            scflow.tl.train(
                adata,
                condition="cell_type",
                space=space,
                steps=LOOKS * options.steps,
                precision=options.precision,
                device=options.device,
                progress=False,
            )
        except Done:
            return clock
    raise AssertionError("scflow.tl.train ended without fitting a field.")


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


class Turns:
    """Called by the loop of scflow after each round of steps; has the plain loop take as many before it goes on.

    The first round of either warms up and does not count; after the last, one more is profiled.
    """

    def __init__(self, clock: Clock, steps: Iterator[None], options: argparse.Namespace, device: torch.device) -> None:
        self.clock, self.steps, self.options = clock, steps, options
        self.cuda, self.done = device.type == "cuda", 0
        self.profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])])
        self.since = self.looked = np.zeros(2)

    def now(self) -> Seconds:
        """The time on the wall and of the CPU, once the device has done what it was told."""
        if self.cuda:
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    def look(self, validated: Callable[..., float]) -> Callable[..., float]:
        """Time the looks at the validation cells, which are no steps."""

        def timed(*arguments: Any) -> float:
            start = self.now()
            if self.done > self.options.rounds:
                self.profiler.stop()
            loss = validated(*arguments)
            self.looked = self.now() - start
            return loss

        return timed

    def after_round(self, _: dict[str, float]) -> None:
        """Take down scflow's round and do a plain one; the last time, stop."""
        start = self.now()
        if self.done > self.options.rounds:
            self.clock.products = products(self.profiler)
            raise KeyboardInterrupt
        for _step in zip(range(self.options.steps), self.steps, strict=False):
            pass
        end = self.now()
        if self.done:
            self.clock.ours.append(start - self.since - self.looked)
            self.clock.looks.append(self.looked)
            self.clock.plain.append(end - start)
        self.done += 1
        if self.done > self.options.rounds:
            self.profiler.start()
        self.since = self.now()


def products(profiler: profile) -> float:
    """The share of matrix products in the time of all operators (on a GPU: in the time of the kernels they started)."""
    # A GPU's kernels are listed a second time, as events of their own.
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    name = "self_device_time_total" if ProfilerActivity.CUDA in profiler.activities else "self_cpu_time_total"
    times = {event.key: float(getattr(event, name)) for event in events}
    return sum(times.get(key, 0.0) for key in PRODUCTS) / sum(times.values())


def report(space: str, clock: Clock, options: argparse.Namespace) -> bool:
    """Print one space's figures, and say whether the ratio is large enough."""
    (ours, ours_cpu), (plain, plain_cpu), (look, _) = (
        np.median(part, axis=0) for part in (clock.ours, clock.plain, clock.looks)
    )
    rounds = np.array(clock.plain)[:, 0] / np.array(clock.ours)[:, 0]
    ratio, cells = float(plain / ours), clock.batch_size * options.steps
    every = min(500, _learning.default_steps(options.cells) // LOOKS)
    with_looks = plain / (ours + look * options.steps / every)
    unprofiled = " (training stopped by itself before the round that is profiled)" if np.isnan(clock.products) else ""
    print(
        f"{'PASS' if ratio >= LEAST else 'FAIL'}: space={space!r} ({clock.dim} coordinates, batches of "
        f"{clock.batch_size}): {cells / ours:,.0f} cells a second, {cells / plain:,.0f} by the plain loop: ratio "
        f"{ratio:.3f}, at least {LEAST}\n"
        f"    single rounds {rounds.min():.3f} to {rounds.max():.3f}; by CPU time {plain_cpu / ours_cpu:.3f}\n"
        f"    {with_looks:.3f} with the looks at validation cells of a whole run ({look:.2f} s every {every} steps)\n"
        f"    matrix products take {clock.products:.1%} of the time of scflow's steps{unprofiled}",
        flush=True,
    )
    return ratio >= LEAST


if __name__ == "__main__":
    sys.exit(main())
