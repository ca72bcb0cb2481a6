"""Work in processes of its own, that can be interrupted, killed or starved for real; and what is compared afterwards.

`Child(work, folder, ...)` starts `work(folder, ...)` in a process that is forked from one which has imported
everything, so that it begins at once. What `work` returns, a dictionary, is kept as JSON in the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData

import scflow
from scflow.flow import Flow
from scflow.training import Checkpoint

WRITTEN = (
    "uns.scflow",
    "uns.scflow_pp",
    "var.scflow_dropout",
    "var.scflow_mean",
    "var.scflow_sd",
)
"""What training leaves in an AnnData."""
POSSIBLE = "forkserver" in multiprocessing.get_all_start_methods()
SETTINGS: dict[str, Any] = {
    "condition": "cell_type",
    "steps": 90,
    "batch_size": 32,
    "seed": 3,
    "precision": "float32",
    "device": "cpu",
    "progress": False,
}
"""A training with a look at every second step, in a second or two."""


class Child:
    """A process at some work, which leaves files in a folder."""

    def __init__(self, work: Callable[..., dict[str, Any]], folder: Path, **given: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["children"])
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, where = folder, [str(Path(__file__).parent)]
        self.process = context.Process(target=_working, args=(work.__name__, str(folder), given), daemon=True)
        sys.path[:0] = where  # The server and its children look for modules where this process does.
        try:
            self.process.start()
        finally:
            del sys.path[0]

    def wait(self, name: str, seconds: float = 60) -> None:
        """Until there is a file of that name in the folder."""
        until = time.monotonic() + seconds
        while not (self.folder / name).exists() and self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.002)

    def send(self, number: int) -> None:
        """A signal, if it still lives."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self, seconds: float = 120) -> int:
        """The exit status once it has ended: minus the number of the signal that ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"The child has not ended in {seconds} seconds.")
        return self.process.exitcode

    @property
    def told(self) -> dict[str, Any]:
        """What its work returned; nothing where it was ended before."""
        file = self.folder / "told.json"
        return json.loads(file.read_text()) if file.exists() else {}


def _working(name: str, folder: str, given: Mapping[str, Any]) -> None:
    """What a child does."""
    torch.set_num_threads(1)
    smaller()
    told = globals()[name](Path(folder), **given)
    (Path(folder) / "told.json").write_text(json.dumps(told))


def smaller() -> None:
    """Narrow networks, and few cells to calibrate on."""
    _set("scflow.nn.mlp._width", lambda dim: 16)
    _set("scflow.flow._learning._DRAWN", 256)


@dataclass(frozen=True)
class Fault:
    """What goes wrong at which call of which function.

    `what` is the name of a signal, which the process sends to itself, or of an exception, which the function raises.
    """

    at: str
    call: int
    what: str
    times: int = 1

    def happen(self) -> None:
        """Now."""
        if not self.what.startswith("SIG"):
            raise self.error()
        for _ in range(self.times):
            os.kill(os.getpid(), getattr(signal, self.what))

    def error(self) -> BaseException:
        """The exception of that name."""
        if self.what == "OutOfMemoryError":
            return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 79 GiB.")
        kinds = {kind.__name__: kind for kind in (KeyboardInterrupt, MemoryError, RuntimeError, SystemExit, ValueError)}
        return kinds[self.what]("on purpose")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this lasts the fault will happen."""
        left, function = [self.call], _get(self.at)

        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                self.happen()
            return function(*arguments, **options)

        _set(self.at, counted)
        try:
            yield
        finally:
            _set(self.at, function)


def cells(n_cells: int = 200) -> AnnData:
    """The cells of a child."""
    return scflow.datasets.simulate(n_cells, 50, 3, n_programmes=2, dropout=0.05, seed=1)


def training(folder: Path, *, fault: Fault | None = None, every: int = 2, handler: str = "", **given: Any) -> Any:
    """Train with checkpoints in ``run``, and tell what came of it; then go on in the same process, if there is one.

    ``begun`` is there once there is something to interrupt. `handler` is what the process does on SIGTERM: "return",
    "exit" or nothing.
    """
    adata, heard = cells(), list[int]()
    before, kept = State.now(), None
    if handler:
        before = _handling(heard, handler)
    options = {**SETTINGS, **given}
    if options.pop("checkpoint", True):
        kept = Checkpoint(folder / "run", every=every)
    options.setdefault("resume", kept is not None)

    def work() -> Flow:
        (folder / "begun").touch()
        return scflow.tl.train(adata, checkpoint=kept, **options)

    told = outcome(work, adata, fault, before)
    told["heard"] = heard
    flow = told.pop("result")
    if isinstance(flow, Flow):
        flow.save(folder / "best.safetensors", overwrite=True)
    return told


def outcome(work: Callable[[], Any], adata: AnnData, fault: Fault | None, before: State) -> dict[str, Any]:
    """What came of some work: its result or its error, what is in `adata`, and what is not as it was."""
    slots, result, told = slots_of(adata), None, dict[str, Any]()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with fault.waiting() if fault is not None else warnings.catch_warnings():
                result = work()
            told["outcome"] = "returned"
        except BaseException as error:
            notes = getattr(error, "__notes__", [])
            told |= {"outcome": type(error).__name__, "message": str(error), "notes": notes}
            told["flow"] = getattr(error, "flow", None) is not None
    told["warnings"] = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
    told["changed"] = changed(slots, slots_of(adata))
    told["left"] = before.differences()
    if isinstance(result, Flow):
        told["interrupted"] = bool(result.provenance.get("interrupted"))
    return {**told, "result": result}


def _handling(heard: list[int], how: str) -> State:
    def own(number: int, frame: object) -> None:
        heard.append(number)
        if how == "exit":
            sys.exit(7)

    signal.signal(signal.SIGTERM, own)
    return State.now()


# What is compared.


def slots_of(adata: AnnData) -> dict[str, str]:
    """A digest of everything in an AnnData, by slot."""
    found = {
        "X": _digest(adata.X),
        "obs_names": _digest(list(adata.obs_names)),
        "var_names": _digest(list(adata.var_names)),
    }
    for name in ("obs", "var", "uns", "layers", "obsm", "varm", "obsp"):
        part = getattr(adata, name)
        found |= {f"{name}.{key}": _digest(part[key]) for key in part}
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Slots that are new, gone or other ones."""
    return sorted(key for key in {**before, **after} if before.get(key) != after.get(key))


def _digest(value: Any) -> str:
    sha = hashlib.sha256()
    _update(sha, value)
    return sha.hexdigest()


def _update(sha: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in value:
            sha.update(str(key).encode())
            _update(sha, value[key])
    elif hasattr(value, "indptr"):
        for part in (value.indptr, value.indices, value.data):
            _update(sha, part)
    else:
        array = np.asarray(value)
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())


def same_flow(first: Flow, second: Flow) -> list[str]:
    """What of two flows is not the same, bit for bit; the speed may differ."""
    a, b = (flow.to_content()["tensors"] for flow in (first, second))
    names = (set(a) | set(b)) - {"history.cells_per_second"}
    return sorted(n for n in names if n not in a or n not in b or not np.array_equal(a[n], b[n], equal_nan=True))


@dataclass(frozen=True)
class State:
    """What belongs to the process and not to a call: a call leaves it as it was."""

    parts: Mapping[str, Any]

    @classmethod
    def now(cls) -> State:
        """As it is."""
        import matplotlib as mpl

        numbers = np.random.get_state()  # noqa: NPY002
        cudnn = torch.backends.cudnn
        files, threads = (
            _open_files(),
            sorted(
                # tqdm has one for the whole process, from the first bar on, shown or not.
                thread.name
                for thread in threading.enumerate()
                if type(thread).__name__ != "TMonitor"
            ),
        )
        return cls(
            {
                "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
                "random": random.getstate(),
                "numpy": (numbers[0], numbers[1].tolist(), *numbers[2:]),
                "torch": torch.get_rng_state().tolist(),
                "torch threads": torch.get_num_threads(),
                "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
                "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
                "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
                "dtype": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "warnings": [str(one) for one in warnings.filters],
                "numpy errors": np.geterr(),
                "matplotlib": {key: str(value) for key, value in dict.items(mpl.rcParams)},
                "folder": os.getcwd(),
                "files": files,
                "threads": threads,
            }
        )

    def differences(self) -> list[str]:
        """The parts that are other ones now; files and threads where there are more."""
        now = State.now().parts
        return [name for name, value in self.parts.items() if now[name] != value and not _fewer(now[name], value, name)]


def _fewer(now: Any, before: Any, name: str) -> bool:
    return name in ("files", "threads") and all(now.count(one) <= before.count(one) for one in now)


def _open_files() -> list[str]:
    """What is open, by what it is; nothing where that is not told."""
    folder, found = Path("/proc/self/fd"), []
    for entry in os.listdir(folder) if folder.is_dir() else []:
        try:
            found.append(os.readlink(folder / entry))
        except OSError:  # That of the listing itself.
            continue
    return sorted(found)


def _owner(path: str) -> tuple[Any, str]:
    """The module or class that has something of this dotted path, and its name there."""
    names = path.split(".")
    for n in range(len(names) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(names[:n]))
        except ImportError:
            continue
        for name in names[n:-1]:
            owner = getattr(owner, name)
        return owner, names[-1]
    raise ImportError(path)


def _get(path: str) -> Any:
    return getattr(*_owner(path))


def _set(path: str, value: Any) -> None:
    setattr(*_owner(path), value)
