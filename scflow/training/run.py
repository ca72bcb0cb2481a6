"""What all training of one call shares: rows, seeds, device, precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scflow.errors import InputError
from scflow.training.batches import Batches, Order
from scflow.training.checkpoints import Checkpoints, Keeper, Stateful
from scflow.training.history import Callback
from scflow.training.progress import Scaler
from scflow.training.workers import ALONE, Workers

__all__ = ["Run", "autocast", "seeded"]


@dataclass(frozen=True)
class Run:
    """What all training of one call shares.

    Attributes
    ----------
    train, validation
        Row numbers of the cells to learn from and to look at, int64, on the device.
    batch_size, seed, device, precision, progress, callbacks
        As `scflow.tl.train` has them, resolved.
    checkpoints
        Where the state of the run is kept, if anywhere.
    trace
        Where a trace of some steps goes, if anywhere.
    order
        In which order a field is shown its cells, from their rows, the size of a batch and a generator.
    workers
        The processes that share the work; each has `batch_size` cells of a batch.

    Examples
    --------
    >>> rows = torch.arange(100)
    >>> run = Run(rows[:90], rows[90:], batch_size=32, seed=0, device=torch.device("cpu"), progress=False)
    >>> torch.rand(1, generator=run.generator(1)).equal(torch.rand(1, generator=run.generator(1)))
    True
    """

    train: Tensor
    validation: Tensor
    batch_size: int
    seed: int
    device: torch.device
    precision: str = "float32"
    progress: bool = True
    callbacks: Sequence[Callback] = ()
    checkpoints: Checkpoints | None = None
    order: Callable[[Tensor, int, torch.Generator], Batches] = Order
    trace: Path | None = None
    workers: Workers = ALONE

    def generator(self, *stream: int) -> torch.Generator:
        """One of the run's own streams of random numbers."""
        seed = int(np.random.SeedSequence([self.seed, *stream]).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(self.device).manual_seed(seed)

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision, where it was asked for."""
        return autocast(self.device, self.precision)

    def scaler(self) -> Scaler | None:
        """The gradient scaler that float16 needs, and nothing else does: bfloat16 has the range of float32."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "float16" else None

    @contextlib.contextmanager
    def globals(self, stream: int) -> Iterator[list[torch.Generator]]:
        """The generators that layers without one of their own draw from (dropout), seeded here and put back after."""
        cuda = self.device.type == "cuda"
        index = (self.device.index if self.device.index is not None else torch.cuda.current_device()) if cuda else 0
        generators = [torch.default_generator, *([torch.cuda.default_generators[index]] if cuda else [])]
        with torch.random.fork_rng(devices=[index] if cuda else []):
            for i, generator in enumerate(generators):
                own = () if self.workers.first else (self.workers.rank,)  # the layers of each process draw other ones
                generator.manual_seed(self.generator(stream + i, *own).initial_seed())
            yield generators

    def among(self, kept: Callable[[Tensor], Tensor]) -> Run:
        """The run, its rows those that are `kept`; where none is left to look at, one of those to learn from."""
        train, validation = kept(self.train), kept(self.validation)
        return replace(self, train=train, validation=validation if len(validation) else train[:1])

    def alone(self) -> Run:
        """The run of one process that has the batches of all."""
        return replace(self, batch_size=self.batch_size * self.workers.size, workers=ALONE)

    def batches(self, rng: torch.Generator) -> Batches:
        """The rows of the batches of all processes, each as long as the others'.

        Raises
        ------
        InputError
            Where there are fewer rows than processes.
        """
        n, size = len(self.train), self.workers.size
        if n < size:
            raise InputError(f"{n} cells to learn from are shared by {size} processes. Start {max(n, 1)} at most.")
        return self.order(self.train, min(self.batch_size * size, n) // size * size, rng)

    def keeper(
        self, stage: str, order: Batches, generators: Sequence[torch.Generator], probe: Stateful | None = None
    ) -> Keeper | None:
        """What keeps the state of a stage."""
        if self.checkpoints is None:
            return None
        return Keeper(self.checkpoints, stage, order, generators, self.workers, probe)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision: matrices are multiplied in `precision`, unless that is ``"float32"``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def seeded(build: Callable[[], nn.Module], rng: torch.Generator) -> nn.Module:
    """Build a network whose initial weights depend on `rng` alone; the global random state is left as it was."""
    seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()
