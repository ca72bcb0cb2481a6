"""What is said of a run that an error has ended."""

from __future__ import annotations

import traceback

import torch

from scflow.errors import Diverged, OutOfMemory
from scflow.training.checkpoints import Keeper
from scflow.training.progress import Progress

__all__ = ["note", "of_memory", "out_of_memory"]

_ANYWHERE = "Nothing is kept of it; with checkpoint='run' it could go on."
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""Of RuntimeErrors that PyTorch raises on a CPU, on Apple's GPUs and in CUDA's libraries."""


def note(error: Exception, run: Progress, keeper: Keeper | None) -> None:
    """Add where it came, and how to go on; one that has diverged would do so again."""
    if not isinstance(error, Diverged):
        error.add_note(f"scflow: raised in {_step(run)} of training the {run.monitor.title}. {_kept(keeper)}")


def of_memory(error: Exception) -> bool:
    """Whether it says that there is no room."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


def out_of_memory(error: Exception, run: Progress, keeper: Keeper | None) -> OutOfMemory:
    """What says more in the place of such an error.

    What a step of that has in its variables is freed: the same process may try again.
    """
    traceback.clear_frames(error.__traceback__)
    device, n = run.parameters[0].device.type, run.shown
    said = str(error).split("\n")[0]
    same = f"optimisation=scflow.training.Optimisation(accumulate={2 * run.plan.accumulate})"
    return OutOfMemory(
        f"There is no room on the {device} for {_step(run)} of training the {run.monitor.title}, with batches of {n:,} "
        f"cells ({said}). Take smaller ones: scflow.tl.train(..., batch_size={max(1, n // 2)}), and to learn from as "
        f"many cells a step, {same}; that is another run, for another folder. {_kept(keeper)}"
    )


def _step(run: Progress) -> str:
    return f"step {min(run.step + 1, run.plan.steps):,} of {run.plan.steps:,}"


def _kept(keeper: Keeper | None) -> str:
    return _ANYWHERE if keeper is None else keeper.kept()
