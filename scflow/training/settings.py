"""What a run can be told about its optimiser and its checkpoints."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from scflow.errors import InputError, nearest
from scflow.training.averages import AVERAGES, Average, Ramp

__all__ = ["Checkpoint", "Optimisation"]

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Optimisation:
    """How the field is optimised; the learning rate, steps and batch size are parameters of `scflow.tl.train` itself.

    Attributes
    ----------
    schedule
        Of the learning rate after the warm-up: ``"cosine"`` (half a cosine down to 0) or ``"constant"``.
    warmup
        Steps of linear warm-up; ``None`` is 5 % of the run, at most 1,000.
    weight_decay
        Of AdamW, on matrices alone: norms, biases and embeddings are spared.
    clip
        Largest norm of the gradient.
    accumulate
        Batches whose gradients are averaged for one step: the batch size in effect is `accumulate` times as large, and
        the memory is that of one.
    average
        The weight average that cells are drawn with: ``"ramp"``, ``"constant"``, ``"power"``, ``"none"``, or an object
        of :mod:`scflow.training.averages` with a decay or width of its own.
    compile
        Whether the network is compiled by `torch.compile`; ``"auto"`` on a GPU, where it is measured to pay for itself
        in this run. On a CPU compiling takes longer than most runs gain.

    Examples
    --------
    >>> Optimisation(schedule="constant", average="power").average
    Power(width=0.05)
    """

    schedule: str = "cosine"
    warmup: int | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    average: Average | str = field(default_factory=Ramp)
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule={self.schedule!r} is not known.{nearest(self.schedule, SCHEDULES)} Choose 'cosine' or "
                "'constant'."
            )
        if isinstance(self.average, str):
            if self.average not in AVERAGES:
                names = ", ".join(map(repr, AVERAGES))
                raise InputError(
                    f"average={self.average!r} is not known.{nearest(self.average, AVERAGES)} Choose one of {names}, "
                    "or pass a scflow.training.averages.Average."
                )
            object.__setattr__(self, "average", AVERAGES[self.average]())
        if self.compile not in (True, False, "auto"):
            raise InputError(f"compile={self.compile!r} is not known. Choose True, False or 'auto'.")
        if self.warmup is not None:
            _at_least("warmup", self.warmup, 1)
        _at_least("accumulate", self.accumulate, 1)
        for name, value, zero in (("clip", self.clip, False), ("weight_decay", self.weight_decay, True)):
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                raise InputError(f"{name}={value!r} must be a finite number {'of at least' if zero else 'above'} 0.")

    @property
    def law(self) -> Average:
        """The weight average as an object."""
        assert isinstance(self.average, Average)
        return self.average


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often the state of a run is kept.

    A run looks at its validation cells about 40 times; checkpoints are written at looks. Each holds everything that
    the run needs to go on bit for bit, and with it the best weights so far, so that no pruning loses them.

    Attributes
    ----------
    folder
        Made where it is not there. One run, one folder.
    every
        Looks between two checkpoints.
    minutes
        Write one at the first look after so many minutes, too.
    keep
        How many of the last ones are kept.

    Examples
    --------
    >>> flow = scflow.tl.train(adata, steps=20, checkpoint=Checkpoint("run", keep=1), progress=False)
    >>> same = scflow.tl.train(adata, steps=20, checkpoint="run", resume=True, progress=False)
    >>> same.provenance["best_step"] == flow.provenance["best_step"]
    True
    """

    folder: str | os.PathLike[str]
    every: int = 2
    minutes: float | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        _at_least("keep", self.keep, 1)
        if self.minutes is not None and not self.minutes >= 0:
            raise InputError(f"minutes={self.minutes!r} must be a number of at least 0, or None.")


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}.")
