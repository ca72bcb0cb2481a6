"""What is said of a run that an error has ended."""

from __future__ import annotations

import traceback

import torch

from scflow.errors import Diverged, OutOfMemory
from scflow.training.checkpoints import Keeper
from scflow.training.progress import Progress

__all__ = ["explained"]

_ANYWHERE = "Nothing is kept of it; with checkpoint='run' it could go on."
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""Of RuntimeErrors that PyTorch raises on a CPU, on Apple's GPUs and in CUDA's libraries."""


def explained(error: Exception, run: Progress, keeper: Keeper | None) -> Exception:
    """The error, with a note on where it came and how to go on; in the place of one about memory, one that says more.

    What a step of that has in its variables is freed: the same process may try again.
    """
    if isinstance(error, Diverged):
        return error
    kept = _ANYWHERE if keeper is None else keeper.kept()
    at = f"step {min(run.step + 1, run.plan.steps):,} of {run.plan.steps:,}"
    if not _of_memory(error):
        error.add_note(f"scflow: raised in {at} of training the {run.monitor.title}. {kept}")
        return error
    traceback.clear_frames(error.__traceback__)
    device, n = run.parameters[0].device.type, run.shown
    said = str(error).split("\n")[0]
    fewer = f"batch_size={max(1, n // 2)}"
    same = f"optimisation=scflow.training.Optimisation(accumulate={2 * run.plan.accumulate})"
    return OutOfMemory(
        f"There is no room on the {device} for {at}, with batches of {n:,} cells ({said}). Take smaller ones: "
        f"scflow.tl.train(..., {fewer}), and to learn from as many cells a step, {same}; that is another run, for "
        f"another folder. {kept}"
    )


def _of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))
