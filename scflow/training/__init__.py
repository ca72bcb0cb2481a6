"""The training loop, its batches, its optimiser, its checkpoints, and what it keeps of a run."""

from scflow.training import averages
from scflow.training.autoencoder import fit_counts
from scflow.training.checkpoints import Checkpoints
from scflow.training.fit import fit_field, fit_module, fit_pairs
from scflow.training.loop import Trained, train
from scflow.training.progress import Plan
from scflow.training.run import Run
from scflow.training.settings import Checkpoint, Optimisation

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Optimisation",
    "Plan",
    "Run",
    "Trained",
    "averages",
    "fit_counts",
    "fit_field",
    "fit_module",
    "fit_pairs",
    "train",
]
