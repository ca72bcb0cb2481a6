"""Look: real and generated cells, scores and training, as figures that are never shown for you."""

from __future__ import annotations

# Not lazy: a function shares its file's name, and whoever imported the file first would find the module in its place.
# matplotlib and umap are imported inside the functions.
from scflow.pl.correlation import correlation
from scflow.pl.genes import genes
from scflow.pl.history import history
from scflow.pl.neighbours import neighbours
from scflow.pl.response import response
from scflow.pl.score import score
from scflow.pl.steps import steps
from scflow.pl.trajectory import trajectory
from scflow.pl.transport import transport
from scflow.pl.umap import umap
from scflow.pl.velocity import velocity

__all__ = [
    "correlation",
    "genes",
    "history",
    "neighbours",
    "response",
    "score",
    "steps",
    "trajectory",
    "transport",
    "umap",
    "velocity",
]
