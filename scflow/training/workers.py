"""Several processes that work on one call: who does what, and what they tell each other.

Every process makes the same call with the same arguments, goes the same way and comes to the same result. A process
that is alone is told nothing and tells nothing.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scflow.errors import InputError

__all__ = ["ALONE", "CALLER", "Workers", "flat", "together"]

T = TypeVar("T")

CALLER = 4
"""The `stacklevel` of a warning about a verb's arguments, in a function that the verb calls: past `together`."""

_PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, of which one may fit a codec alone. One that ends is noticed at once."""


@dataclass(frozen=True)
class Workers:
    """The processes of a call.

    Attributes
    ----------
    rank
        The number of this one, from 0.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def now(cls) -> Workers:
        """Those of the process group, where there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return ALONE

    @classmethod
    def launched(cls) -> Workers:
        """Those that torchrun has started, whether or not they are a group yet."""
        size = os.environ.get("WORLD_SIZE", "1")
        if not size.isdecimal() or int(size) < 2 or not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return ALONE
        return cls(int(os.environ["RANK"]), int(size))

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """What this process has of something with a row for each cell of a batch of all."""
        if self.size == 1:
            return batch
        n = len(batch) // self.size
        return batch[self.rank * n : (self.rank + 1) * n]

    def span(self, n: int) -> tuple[int, int]:
        """Where the part of `n` things in a row begins and ends that this process has."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    def own(self, rng: torch.Generator) -> torch.Generator:
        """A generator that no other process has, for numbers of which not all know how many are drawn.

        It takes one number of `rng`, which stays at the same place in all processes.
        """
        if self.size == 1:
            return rng
        seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device)) + self.rank
        return torch.Generator(rng.device).manual_seed(seed)

    def told(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        held = [value if self.first else None]
        dist.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]

    def once(self, work: Callable[[], T]) -> T:
        """What the first process finds, while the others wait; an error of its is one of all."""
        if self.size == 1:
            return work()
        found, error = None, None
        if self.first:
            try:
                found = work()
            except Exception as raised:
                error = raised
        found, error = self.told((found, error))
        if error is not None:
            raise error
        return found  # type: ignore[return-value]

    def collected(self, value: T) -> list[T]:
        """The values of all processes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes of something small."""
        if self.size == 1:
            return value
        return torch.stack(self.collected(value.cpu())).mean(0)

    def joined(self, part: Tensor) -> Tensor:
        """The rows of all processes, in order."""
        if self.size == 1:
            return part
        sizes = self.collected(len(part))
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([one[:n] for one, n in zip(parts, sizes, strict=True)])

    def dealt(self, tasks: Sequence[Callable[[], T]], *, everywhere: bool = True) -> Iterator[T]:
        """What comes of the tasks, in order; each process does every so many of them.

        Take all that comes: the processes wait for each other. Unless it is wanted `everywhere`, it comes to the first
        process alone.
        """
        for start in range(0, len(tasks), self.size):
            turn = tasks[start : start + self.size]
            found: Any = turn[self.rank]() if self.rank < len(turn) else None
            if everywhere or self.size == 1:
                yield from self.collected(found)[: len(turn)]
                continue
            brought: list[Any] | None = [None] * self.size if self.first else None
            dist.gather_object(found, brought, dst=0)
            yield from (brought or [])[: len(turn)]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raise where the processes were not given the same.

        Raises
        ------
        InputError
            In all of them, with the first thing that differs.
        """
        if self.size == 1:
            return
        first, *others = self.collected(flat(dict(facts)))
        for rank, other in enumerate(others, start=1):
            differ = [key for key in {**first, **other} if first.get(key) != other.get(key)]
            if differ:
                said = "; ".join(_difference(key, first.get(key), other.get(key)) for key in differ[:3])
                raise InputError(
                    f"The {self.size} processes were not given the same: those 0 and {rank} have {said}. Give all of "
                    "them the same cells, in the same order, and the same options."
                )

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients are averaged over the processes while they are being computed."""
        if self.size == 1:
            return module
        # A network of the user's own may leave weights out of a step, and keep buffers that change.
        own = any(not type(part).__module__.startswith(("scflow.", "torch.")) for part in module.modules())
        kind: Any = nn.parallel.DistributedDataParallel
        newer = "forward_sync_buffers" in inspect.signature(kind).parameters  # torch 2.13
        buffers = {"forward_sync_buffers" if newer else "broadcast_buffers": own}
        wrapped: nn.Module = kind(module, find_unused_parameters=own, **buffers)
        return wrapped

    def waiting(self, module: nn.Module, *, more: bool) -> AbstractContextManager[object]:
        """While `module`, which is wrapped, is called: whether its gradients are averaged once `more` are there."""
        if self.size == 1 or not more:
            return nullcontext()
        return module.no_sync()  # type: ignore[operator,no-any-return]


ALONE = Workers()


@contextmanager
def together() -> Iterator[Workers]:
    """The process group of what torchrun has started, while this lasts; one that is there already stays.

    Only the first process warns.

    Raises
    ------
    ConnectionError
        Where another process has ended.
    """
    launched = Workers.launched()
    begun, hook = launched.size > 1 and Workers.now() == ALONE, sys.excepthook
    if begun:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        from torch.distributed.distributed_c10d import PrefixStore

        # A group has keys of its own: those of one before, and of processes that are lost, may still be in the store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"scflow/{attempt}/{next(_groups)}", _store())
        dist.init_process_group(store=store, rank=launched.rank, world_size=launched.size, timeout=_PATIENCE)
    workers = Workers.now()
    try:
        with _silent() if not workers.first else nullcontext():
            yield workers
    except BaseException as error:
        if begun:
            # What holds the group still, in frames of the error, would wait for ever once it is freed after the group.
            traceback.clear_frames(error.__traceback__)
        if workers.size == 1 or not _ended(error):
            raise
        raise ConnectionError(
            f"Another of the {workers.size} processes has ended, and so does this one. With checkpoint= the last state "
            "was kept: start all of them again with resume=True, or let torchrun do it (--max-restarts)."
        ) from error
    finally:
        if begun:
            dist.destroy_process_group()
            sys.excepthook = hook  # which PyTorch has wrapped


_groups = itertools.count()


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def _store() -> Any:
    """Where the processes find each other: one for all groups of this process."""
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://")))[0]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, ``{"objective.time.name": ...}``."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{prefix}.{name}".strip(".")).items()}


def _difference(key: str, one: Any, other: Any) -> str:
    """In words; of data the shape, where that is it, and no fingerprints."""
    if not key.startswith("data."):
        said = f"{key}={one!r} and {other!r}"
        return said if len(said) < 80 else f"other {key}"
    name = key.removeprefix("data.")
    shapes = [value[:2] if isinstance(value, list) else value for value in (one, other)]
    if name.startswith("cells") and shapes[0] != shapes[1]:
        return " and ".join(f"{n:,} cells of {width:,} coordinates" for n, width in shapes)
    return f"other {name}"


def _ended(error: BaseException) -> bool:
    """Whether it says that another process is gone."""
    signs = ("closed by peer", "reset by peer", "Broken pipe")
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    return said or isinstance(error, dist.DistError)
