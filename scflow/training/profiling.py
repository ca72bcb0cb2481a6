"""A trace of some steps: what they did, and how long each operator took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from scflow import _file

__all__ = ["traced"]

_BEFORE, _WARMUP, _TRACED = 10, 2, 5
"""Steps that are left out, that the profiler warms up in, and that are in the trace."""


@contextmanager
def traced(path: Path | None, device: torch.device, steps: int) -> Iterator[Callable[[], None]]:
    """What to call after each of `steps` steps, so that a trace of five of them, or of as many as there are, is left.

    It is JSON, for https://ui.perfetto.dev or chrome://tracing. Without a path nothing is traced.
    """
    if path is None:
        yield lambda: None
        return
    cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    few = steps < _BEFORE + _WARMUP + _TRACED
    with profile(
        activities=[ProfilerActivity.CPU, *cuda],
        schedule=None if few else schedule(wait=_BEFORE, warmup=_WARMUP, active=_TRACED, repeat=1),
        on_trace_ready=lambda found: _exported(found, path),
    ) as profiler:
        yield profiler.step


def _exported(found: profile, path: Path) -> None:
    """Write the trace, whole or not at all."""
    with _file.beside(path) as made:
        found.export_chrome_trace(str(made))
