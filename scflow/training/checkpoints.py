"""Checkpoints: everything that changes while a run goes on, in files that are there whole or not at all."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scflow import _file
from scflow.errors import FileError, InputError
from scflow.training.settings import Checkpoint
from scflow.training.workers import ALONE, Workers, flat

__all__ = ["Checkpoints", "Keeper", "State", "Stateful"]

_FORMAT = 2
"""2: between looks, too, with what had been added up since the last one. 1: at looks."""
_KIND = "scflow.Checkpoint"

State = tuple[dict[str, Any], dict[str, Tensor]]
"""Numbers and texts that JSON holds, and tensors."""


class Stateful(Protocol):
    """What can say how it stands, and be put back to where it stood."""

    def state(self) -> State:
        """How it stands."""
        ...

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put it back."""
        ...


class Checkpoints:
    """The folder of one run.

    ``codec-00001000.safetensors`` is the codec's training after so many steps, ``codec.safetensors`` the finished
    codec, ``flow-00001000.safetensors`` the field's training. Every file says what was trained on what.

    Parameters
    ----------
    settings
        Where, how often, how many.
    identity
        What the run is of: the fingerprint of its data and all settings that its result depends on, as JSON types.
    resume
        Go on with what is in the folder. Without it the folder may hold no checkpoints.

    Raises
    ------
    InputError
        Where the folder holds a run and `resume` is false, or the run in it is of other data or settings.
    FileError
        Where the folder cannot be made, or none of its checkpoints can be read.

    Examples
    --------
    >>> import tempfile
    >>> from scflow.training import Checkpoint
    >>> store = Checkpoints(Checkpoint(tempfile.mkdtemp()), {"data": "mine"}, resume=False)
    >>> store.finish("codec", {"weight": torch.ones(2)})
    >>> store.finished("codec")["weight"].tolist()
    [1.0, 1.0]
    """

    def __init__(self, settings: Checkpoint, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.settings, self.identity = settings, json.loads(json.dumps(dict(identity)))
        self.folder = Path(settings.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"checkpoint='{self.folder}' is a file. Give a folder: checkpoint='{self.folder}.run'.")
        files = self._files()
        if files and not resume:
            raise InputError(
                f"'{self.folder}' holds {len(files)} checkpoints of a run (the last: {files[-1].name}). Go on with it: "
                "resume=True. To start anew, name another folder or empty this one."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"checkpoint='{self.folder}' cannot be made: {error.strerror}. Give another.") from None
        for left in self.folder.glob(".*.safetensors.*"):
            if _file.abandoned(left):
                left.unlink(missing_ok=True)  # Half written when the process was killed.
        self.found = bool(files)
        if files:
            self._compare(files)

    def latest(self, stage: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The newest state of a stage that can be read; a damaged one is passed over with a warning."""
        for file in reversed(self._files(rf"{stage}-\d+")):
            try:
                return self._read(file)
            except FileError as error:
                warnings.warn(f"{error} The checkpoint before it is taken.", stacklevel=2)
        return None

    def finished(self, stage: str) -> dict[str, Tensor] | None:
        """The weights of a stage that is done."""
        file = self.folder / f"{stage}.safetensors"
        return self._read(file)[1] if file.is_file() else None

    def write(self, stage: str, step: int, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep the state of a stage after `step` steps, and no more than the last few."""
        self._write(self.folder / f"{stage}-{step:08d}.safetensors", values, tensors)
        for old in self._files(rf"{stage}-\d+")[: -self.settings.keep]:
            old.unlink()

    def finish(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the weights of a stage that is done, in the place of its checkpoints."""
        self._write(self.folder / f"{stage}.safetensors", {}, tensors)
        for old in self._files(rf"{stage}-\d+"):
            old.unlink()

    def _files(self, pattern: str = r"(codec|flow)(-\d+)?") -> list[Path]:
        """The folder's checkpoints, oldest first."""
        name = re.compile(rf"{pattern}\.safetensors")
        return sorted(file for file in self.folder.glob("*.safetensors") if name.fullmatch(file.name))

    def _write(self, file: Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        config = json.dumps({"format": _FORMAT, "run": self.identity, "values": values})
        arrays = {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in tensors.items()}
        _file.write(file, _KIND, config, arrays)

    def _read(self, file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, arrays = _file.read(file, _KIND, "checkpoint", _parsed)
        content = _parsed(config)
        return content, {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}

    def _compare(self, files: Sequence[Path]) -> None:
        """Refuse to go on with a run of other data or settings."""
        for file in reversed(files):
            try:
                known, now = (flat({"processes": 1, **of}) for of in (self._read(file)[0]["run"], self.identity))
            except (FileError, KeyError, TypeError):
                continue
            differ = [key for key in {**known, **now} if known.get(key) != now.get(key)]
            if differ:
                said = "; ".join(_difference(key, known.get(key), now.get(key)) for key in differ)
                raise InputError(
                    f"Cannot resume from '{self.folder}': {said}. Give what the run was started with, or start anew in "
                    "another folder."
                )
            return
        raise FileError(
            f"None of the {len(files)} checkpoints in '{self.folder}' can be read. Start in another folder."
        )


class Keeper:
    """Keeps one stage of a run: the training's own state, the order of the data, and the generators.

    Parameters
    ----------
    store
        The run's folder.
    stage
        ``"codec"`` or ``"flow"``.
    order
        Where the batches come from.
    generators
        Every generator that a step draws from.
    workers
        The processes of the run, each of which has generators of its own. The first one reads and writes.
    probe
        What else adds up from look to look.

    Attributes
    ----------
    written
        The step of the last state in the folder, if there is one.
    """

    def __init__(
        self,
        store: Checkpoints,
        stage: str,
        order: Stateful,
        generators: Sequence[torch.Generator],
        workers: Workers = ALONE,
        probe: Stateful | None = None,
    ) -> None:
        self.store, self.stage, self.order, self.generators = store, stage, order, generators
        self.workers, self.probe = workers, probe
        self.written: int | None = None
        self.looks, self.since = 0, time.monotonic()

    def resume(self, progress: Stateful) -> None:
        """Put everything back to where the last checkpoint found it, if there is one."""
        found = self.workers.once(lambda: self.store.latest(self.stage))
        if found is None:
            return
        try:
            values, tensors = found[0]["values"], found[1]
            progress.restore(values["progress"], _within("progress", tensors))
            self.order.restore(values["order"], _within("order", tensors))
            if self.probe is not None:
                self.probe.restore({}, _within("probe", tensors))
            for i, generator in enumerate(self.generators):
                generator.set_state(tensors[_of(i, self.workers.rank)])
            self.written = int(values["progress"]["step"])
        except Exception as error:
            # Whole, by its digest, but of another program's making: whatever is wrong with it, the file is at fault.
            raise FileError(
                f"The last checkpoint in '{self.store.folder}' does not fit this run ({type(error).__name__}: "
                f"{str(error)[:300]}). Start anew in another folder."
            ) from error

    def offer(self, progress: Stateful, step: int, *, last: bool) -> None:
        """Write a checkpoint where one is due; where a run ends there is always one."""
        self.looks += 1
        waited = (time.monotonic() - self.since) / 60
        minutes = self.store.settings.minutes
        due = last or self.looks >= self.store.settings.every or (minutes is not None and waited >= minutes)
        if not self.workers.told(due):
            return
        own = {_of(i, self.workers.rank): generator.get_state() for i, generator in enumerate(self.generators)}
        states = {name: state for part in self.workers.collected(own) for name, state in part.items()}
        if self.workers.first:
            self._write(progress, step, states)
        self.looks, self.since, self.written = 0, time.monotonic(), step

    def kept(self) -> str:
        """Which state is in the folder, and how to go on with it."""
        folder, what = str(self.store.folder), "flow" if self.stage == "flow" else self.stage
        if self.written is None:
            return f"No state of the {what} is in '{folder}' yet; resume=True starts it anew."
        return f"The {what} of step {self.written:,} is in '{folder}': go on with resume=True."

    def _write(self, progress: Stateful, step: int, states: Mapping[str, Tensor]) -> None:
        values, tensors = progress.state()
        order, shuffle = self.order.state()
        added = {} if self.probe is None else self.probe.state()[1]
        everything = {**_prefixed("progress", tensors), **_prefixed("order", shuffle), **states}
        everything |= _prefixed("probe", added)
        self.store.write(self.stage, step, {"progress": values, "order": order}, everything)


def _of(generator: int, rank: int) -> str:
    """The name of a generator's state."""
    return f"generator.{generator}" if rank == 0 else f"generator.{generator}.of.{rank}"


def _parsed(config: str) -> dict[str, Any]:
    """The header's JSON, of a format that this version reads."""
    try:
        content: dict[str, Any] = json.loads(config)
        written = int(content["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise FileError(f"This holds no checkpoint: its configuration cannot be read ({str(error)[:300]}).") from error
    if written > _FORMAT:
        raise FileError(f"This checkpoint is of format {written}; this version of scflow reads up to {_FORMAT}.")
    return content


def _difference(key: str, known: Any, now: Any) -> str:
    if key.startswith("data."):
        return f"{key.removeprefix('data.')} are other ones than those the run was started on"
    return f"{key} was {known!r} and is now {now!r}"


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _within(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}
