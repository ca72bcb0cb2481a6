"""Learn, draw and judge: the verbs on AnnData."""

from __future__ import annotations

# Not lazy: a function shares its file's name, and whoever imported the file first would find the module in its place.
from scflow.tl.augment import augment
from scflow.tl.diagnose import diagnose
from scflow.tl.distill import distill
from scflow.tl.encode import encode
from scflow.tl.generate import generate
from scflow.tl.growth import growth
from scflow.tl.interpolate import interpolate
from scflow.tl.log_prob import log_prob
from scflow.tl.reflow import reflow
from scflow.tl.report import report
from scflow.tl.score import score
from scflow.tl.steps import steps
from scflow.tl.train import train
from scflow.tl.trajectory import trajectory
from scflow.tl.transport import transport
from scflow.tl.velocity import velocity
from scflow.tl.verdict import verdict

__all__ = [
    "augment",
    "diagnose",
    "distill",
    "encode",
    "generate",
    "growth",
    "interpolate",
    "log_prob",
    "reflow",
    "report",
    "score",
    "steps",
    "train",
    "trajectory",
    "transport",
    "velocity",
    "verdict",
]
