"""Options that several verbs share, checked before any work starts."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from scflow.errors import InputError, nearest
from scflow.training.workers import Workers

__all__ = ["check_enough", "device_of", "half_the_cores", "one_of", "positive", "whole"]

_FEWEST = 20
"""Cells that are learnt from."""


def whole(value: Any, name: str, *, least: int = 1) -> int:
    """A whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        such = f"{name}={max(least, 100)}"
        raise InputError(f"{name}={value!r} is not a whole number. Give one, such as {such}.") from None
    if isinstance(value, bool) or number < least or number >= 2**63:
        most = " and below 2**63" if number >= 2**63 else ""
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}{most}.")
    return number


def positive(value: Any, name: str, *, zero: bool = False) -> float:
    """A finite number above 0 (or 0, where `zero`)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}={value!r} is not a number.") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise InputError(f"{name}={value!r} must be a finite number {'of at least' if zero else 'above'} 0.")
    return number


def check_enough(n: int, what: str, mend: str = "") -> None:
    """Raise where there are too few cells to learn from."""
    if n < _FEWEST:
        need = f"scflow needs at least {_FEWEST} to learn from, and better hundreds."
        raise InputError(f"{what} has {n} cells; {need}{mend}")


def one_of(value: Any, names: Sequence[str], name: str) -> str:
    """One of the known names."""
    if value not in names:
        known = ", ".join(map(repr, names))
        raise InputError(f"{name}={value!r} is not known.{nearest(value, names)} Choose one of {known}.")
    return str(value)


def device_of(device: str | torch.device) -> torch.device:
    """The device of a name; ``"auto"`` is a GPU where there is one."""
    workers = Workers.launched()
    if device in ("auto", "cuda") and torch.cuda.is_available() and workers.size > 1:
        return _of_this_process()
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if workers.size > 1:
            return torch.device("cpu")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"device={device!r} cannot be used here ({first}). Use device='auto' or 'cpu'.") from None
    if workers.size > 1 and found.type != "cpu":
        raise InputError(f"device={device!r} cannot be that of {workers.size} processes. Use device='auto' or 'cpu'.")
    return found


def _of_this_process() -> torch.device:
    """The GPU of one of several processes of a machine."""
    here, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if here >= there:
        raise InputError(
            f"Process {here} of this machine has no GPU to itself: there are {there}. Start as many processes as GPUs, "
            f"torchrun --nproc-per-node={there}, or use device='cpu'."
        )
    return torch.device("cuda", here)


@contextmanager
def half_the_cores() -> Iterator[None]:
    """At most half of the cores that this process may use for torch while this lasts; afterwards what it had before.

    Steps are short, and every one waits for its slowest thread: on cores that others use too, as many threads as cores
    make a step ten times slower than half of them do. Processes of one machine share that half.
    """
    before, processes = torch.get_num_threads(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(min(before, max(1, _cores() // 2 // processes)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    """Cores that this process may run on: fewer than the machine has where a scheduler or `taskset` says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 2
