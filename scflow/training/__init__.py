"""The training loop, its batches, its optimiser and what it keeps of a run."""

from scflow.training.fit import Run, fit_counts, fit_field
from scflow.training.loop import Plan, Trained, train

__all__ = ["Plan", "Run", "Trained", "fit_counts", "fit_field", "train"]
