"""Compiling a network, where that pays."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["compiled", "pays"]

_TIMED = 5
"""Steps of either kind that are timed."""


@contextmanager
def compiled(network: nn.Module, choice: bool | str, step: Callable[[], object], *, steps: int) -> Iterator[bool]:
    """The network compiled by `torch.compile` while this lasts, and whether it is.

    Parameters
    ----------
    choice
        Whether to; ``"auto"`` where steps are so much faster on a GPU that `steps` of them make up for compiling.
    step
        Takes a step that leaves no trace, to be timed.
    """
    asked = choice is True or (choice == "auto" and _device(network).type == "cuda")
    if asked:
        network.compile()
    try:
        if asked and choice == "auto" and not _found(network, step, steps):
            _uncompile(network)
        yield network._compiled_call_impl is not None
    finally:
        _uncompile(network)


def pays(network: nn.Module, step: Callable[[], object], steps: int) -> bool:
    """Whether the rest of `steps` steps gains what compiling took: all of it is measured."""
    device = _device(network)
    first = _seconds(step, device)
    fast = statistics.median(_seconds(step, device) for _ in range(_TIMED))
    kept, network._compiled_call_impl = network._compiled_call_impl, None
    slow = statistics.median(_seconds(step, device) for _ in range(_TIMED + 1))
    network._compiled_call_impl = kept
    # What it took is spent by now; a look at validation cells, of another shape, takes about as much again.
    return steps * (slow - fast) > first


def _found(network: nn.Module, step: Callable[[], object], steps: int) -> bool:
    """Whether it pays; a machine without a compiler does without."""
    try:
        return pays(network, step, steps)
    except Exception as error:  # torch.compile raises many kinds, of its own and of the compiler's
        warnings.warn(f"The network is trained without torch.compile: {type(error).__name__}: {error}", stacklevel=2)
        return False


def _uncompile(network: nn.Module) -> None:
    network._compiled_call_impl = None


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))
