"""The faults, made for real on a library that trains, saves, loads and uses models: see faults.py."""

from __future__ import annotations

import argparse
import importlib
import json
import linecache
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

import scflow

OUTCOMES = ("clear", "unclear", "lost")
_LINES = 15
"""An error of more lines does not tell what is wrong."""
End = tuple[str, str]


class Library(Protocol):
    """What a library is asked to do. Where it cannot, it raises what it raises.

    Attributes
    ----------
    package
        The folder of its code.
    file
        The file of a saved model, within the folder given to `save`.
    """

    package: Path
    file: str

    def train(self, cells: AnnData, steps: int, **options: Any) -> Any:
        """Learn cells by their `cell_type`; options: `lr`, `callback` (at each look), `folder` of checkpoints."""

    def again(self, cells: AnnData, folder: Path) -> Any:
        """The model of a run that ended early, from its checkpoints."""

    def save(self, model: Any, folder: Path) -> None:
        """Save over what is there."""

    def load(self, folder: Path, cells: AnnData) -> Any:
        """Read what was saved."""

    def use(self, model: Any, cells: AnnData) -> NDArray[Any]:
        """What the model makes of each cell, `[n_cells, any]`, the same each time."""


def main(arguments: Sequence[str] | None = None) -> None:
    """One round of a fault; prints how its tries ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("fault")
    parser.add_argument("--round", type=int, default=0)
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args(arguments)
    library: Library = importlib.import_module(f"faults_{options.library}").Adapter()
    if options.fault in CHILDREN:
        CHILDREN[options.fault](library, options.folder)
        return
    rng = np.random.default_rng(options.round)
    ends = list(FAULTS[options.fault](library, options.folder, rng, options.tries))
    counts = {outcome: sum(end[0] == outcome for end in ends) for outcome in OUTCOMES}
    worst = max(ends, key=lambda end: OUTCOMES.index(end[0]))
    print(json.dumps({**counts, "said": worst[1].strip().replace("\n", " ")[:300]}))


def cells_of(n_cells: int = 300, n_genes: int = 60) -> AnnData:
    """Simulated cells of three types."""
    return scflow.datasets.simulate(n_cells, n_genes, 3, seed=0)


# -- how a try ended ---------------------------------------------------------------------------------------------------


def told(library: Library, error: BaseException) -> End:
    """Clear where the library itself raised the error, and in a few lines."""
    said = f"{type(error).__name__}: {error}"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return "unclear", said
    file = Path(frame.tb_frame.f_code.co_filename)
    raised = linecache.getline(str(file), frame.tb_lineno).strip().startswith("raise ")
    own = raised and library.package in file.parents and len(said.splitlines()) <= _LINES
    return ("clear" if own else "unclear"), said


def refused(library: Library, work: Callable[[], Any], right: Callable[[Any], bool] = lambda found: False) -> End:
    """How work ended that must be refused, or come out right."""
    with warned(library) as said:
        try:
            found = work()
        except Exception as error:
            return told(library, error)
    if right(found):
        return "clear", "came out right"
    own = [words for words in said if any(word in words.lower() for word in ("count", "gene", "var_names", "label"))]
    return ("unclear", f"a warning alone: {own[0]}") if own else ("lost", "taken without a word")


@contextmanager
def warned(library: Library) -> Iterator[list[str]]:
    """What the library warns of, by warnings or by its logger."""
    said: list[str] = []
    handler, logger = logging.Handler(logging.WARNING), logging.getLogger(library.package.name)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    said += [str(w.message) for w in caught if Path(w.filename).suffix == ".py"]


def equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two results are the same, within rounding."""
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-4, atol=1e-5))


# -- faults of files ---------------------------------------------------------------------------------------------------


def saved(library: Library, folder: Path) -> tuple[AnnData, Any, NDArray[Any], Path]:
    """Cells, a model of them, what it makes of them, and the file it is saved in."""
    cells = cells_of()
    model = library.train(cells, 20)
    library.save(model, folder / "model")
    return cells, model, library.use(model, cells), folder / "model" / library.file


def damaged(
    library: Library, folder: Path, changed: Iterator[bytes] | Callable[[bytes], Iterator[bytes]]
) -> Iterator[End]:
    """Load a model from each of the contents that its file may have."""
    cells, _, before, file = saved(library, folder)
    content = file.read_bytes()
    for other in changed(content) if callable(changed) else changed:
        file.write_bytes(other)
        yield refused(
            library, lambda: library.use(library.load(folder / "model", cells), cells), lambda now: equal(before, now)
        )


def flipped(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Flip a byte anywhere."""

    def changed(content: bytes) -> Iterator[bytes]:
        for _ in range(tries):
            # The first thousand bytes, where headers are, are few of all, and get a third of the tries.
            place = int(rng.integers(len(content) if rng.random() > 1 / 3 else min(1000, len(content))))
            yield content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1 :]

    return damaged(library, folder, changed)


def cut(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """End a file early."""
    return damaged(library, folder, lambda content: (content[: int(rng.integers(len(content)))] for _ in range(tries)))


def other_file(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Put something else in the place of a model."""
    picture = b"\x89PNG\r\n\x1a\n" + rng.bytes(2000)
    return damaged(
        library, folder, iter([picture, b"cell_type,n\nB,12\n", b"", bytes(5000), b"PK\x03\x04" + bytes(60)])
    )


def program(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Give a file that holds a program."""
    mark = folder / "ran"
    for end in damaged(library, folder, iter([pickle.dumps(_Program(str(mark)))])):
        yield ("lost", "the program ran") if mark.exists() else end


class _Program:
    """What runs when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.mark),)


def full_disk(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Fill the disk while another model is saved over the first."""
    cells, model, before, file = saved(library, folder)
    other = library.train(cells, 25)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for _ in range(tries):
        library.save(model, folder / "model")
        with full(int(rng.random() * file.stat().st_size)):
            end = refused(library, lambda: library.save(other, folder / "model"))
        yield whole(library, folder, cells, [before], end)


@contextmanager
def full(size: int) -> Iterator[None]:
    """No file may be larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def whole(library: Library, folder: Path, cells: AnnData, known: Sequence[NDArray[Any]], end: End) -> End:
    """The end of a try after which the saved model must be one that is known."""
    try:
        now = library.use(library.load(folder / "model", cells), cells)
    except Exception as error:
        return "lost", f"the saved model cannot be read: {type(error).__name__}: {error}"
    return end if any(equal(now, one) for one in known) else ("lost", "the saved model is another one")


def interrupted_save(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Kill a process that saves over a model, again and again."""
    cells, model, before, _ = saved(library, folder)
    for _ in range(tries):
        library.save(model, folder / "model")
        child = started(library, "_saving", folder)
        time.sleep(float(rng.random()) * 0.5)
        child.kill()
        child.wait()
        yield whole(library, folder, cells, [before], ("clear", "the saved model is whole"))


def _saving(library: Library, folder: Path) -> None:
    """Save a model over itself without end."""
    model = library.load(folder / "model", cells_of())
    print("ready", flush=True)
    while True:
        library.save(model, folder / "model")


# -- faults of runs ----------------------------------------------------------------------------------------------------


def started(library: Library, what: str, folder: Path) -> subprocess.Popen[str]:
    """A process of this file that has said that it is ready."""
    name = type(library).__module__.removeprefix("faults_")
    command = [sys.executable, "-W", "ignore", __file__, name, what, "--folder", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while child.stdout is not None and child.stdout.readline().strip() != "ready":
        if child.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode} before it was ready.")
    return child


def ctrl_c(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Interrupt a training, and use what was learnt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background is deaf to Ctrl-C
    for _ in range(tries):
        cells, model, ready = cells_of(), None, threading.Event()
        kept = {}

        def strike(ready: threading.Event = ready, after: float = float(rng.random())) -> None:
            ready.wait()
            time.sleep(after)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=strike, daemon=True).start()
        try:
            model = library.train(cells, 100_000, callback=ready.set, kept=kept)
        except (KeyboardInterrupt, SystemExit):
            model = kept.get("model")
        try:
            found = library.use(model, cells)
        except Exception as error:
            yield "lost", f"the model cannot be used: {type(error).__name__}: {error}"
        else:
            yield ("clear", "used") if np.isfinite(found).all() else ("lost", "not finite")


def sigterm(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Ask a process that trains to end."""
    return _ended(library, folder, rng, tries, signal.SIGTERM)


def sigkill(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """End a process that trains."""
    return _ended(library, folder, rng, tries, signal.SIGKILL)


def _ended(library: Library, folder: Path, rng: np.random.Generator, tries: int, by: signal.Signals) -> Iterator[End]:
    for i in range(tries):
        within = folder / f"run_{i}"
        within.mkdir()
        child = started(library, "_training", within)
        time.sleep(float(rng.random()))
        child.send_signal(by)
        child.wait()
        yield recovered(library, within / "checkpoints", cells_of())
        shutil.rmtree(within)


def _training(library: Library, folder: Path) -> None:
    """Train without end, keeping checkpoints; ready once there is one."""
    looks = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            print("ready", flush=True)

    library.train(cells_of(), 100_000, folder=folder / "checkpoints", callback=look)


def recovered(library: Library, folder: Path, cells: AnnData) -> End:
    """Whether a model comes back from the checkpoints of a run that ended early."""
    try:
        found = library.use(library.again(cells, folder), cells)
    except Exception as error:
        return "lost", f"nothing comes back: {type(error).__name__}: {error}"
    return ("clear", "a model came back") if np.isfinite(found).all() else ("lost", "not finite")


def callback(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Raise in a user's callback."""
    cells, looks = cells_of(), []

    def raising() -> None:
        looks.append(1)
        if len(looks) == 4:
            raise ZeroDivisionError("of the user's own making")

    before = pd.util.hash_pandas_object(cells.obs).sum(), cells.X.sum(), sorted(cells.uns)
    try:
        library.train(cells, 100_000, folder=folder / "checkpoints", callback=raising)
    except ZeroDivisionError:
        after = pd.util.hash_pandas_object(cells.obs).sum(), cells.X.sum(), sorted(cells.uns)
        end = recovered(library, folder / "checkpoints", cells_of())
        yield end if before == after else ("unclear", f"the cells were changed; {end[1]}")
    else:
        yield "lost", "the error was swallowed"


def not_finite(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Train at a rate that no training survives."""
    cells = cells_of()
    yield refused(library, lambda: library.use(library.train(cells, 2_000, lr=1e30), cells))


# -- faults of input ---------------------------------------------------------------------------------------------------


def csr_array(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Give counts as a sparse array, which is no matrix."""
    cells = cells_of()
    cells.X = sparse.csr_array(cells.X)
    yield refused(
        library, lambda: library.use(library.train(cells, 20), cells), lambda found: bool(np.isfinite(found).all())
    )


def bad_counts(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Put one value that is no count somewhere."""
    for value in (np.nan, -1.0, 0.5, np.inf):
        cells = cells_of()
        cells.X = cells.X.astype(np.float32)
        cells.X.data[int(rng.integers(cells.X.nnz))] = value
        yield refused(library, lambda cells=cells: library.train(cells, 20))


def repeated_genes(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Give two genes one name."""
    cells = cells_of()
    cells.var_names = [cells.var_names[1], *cells.var_names[1:]]
    yield refused(library, lambda: library.train(cells, 20))


def missing_labels(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Leave some cells without a label."""
    cells = cells_of()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object).where(rng.random(cells.n_obs) > 0.05)
    yield refused(library, lambda: library.train(cells, 20))


def other_order(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Use a model on the same cells with their genes in another order."""
    cells = cells_of()
    model = library.train(cells, 20)
    before = library.use(model, cells)
    other = cells[:, rng.permutation(cells.n_vars)].copy()
    yield refused(library, lambda: library.use(model, other), lambda now: equal(before, now))


def missing_genes(library: Library, folder: Path, rng: np.random.Generator, tries: int) -> Iterator[End]:
    """Use a model on cells without some of its genes."""
    cells = cells_of()
    model = library.train(cells, 20)
    yield refused(library, lambda: library.use(model, cells[:, 5:].copy()))


FAULTS: dict[str, Callable[[Library, Path, np.random.Generator, int], Iterator[End]]] = {
    "flipped byte": flipped,
    "cut file": cut,
    "other file": other_file,
    "pickle": program,
    "full disk": full_disk,
    "interrupted save": interrupted_save,
    "ctrl-c": ctrl_c,
    "sigterm": sigterm,
    "sigkill": sigkill,
    "callback": callback,
    "nan": not_finite,
    "csr_array": csr_array,
    "bad counts": bad_counts,
    "repeated genes": repeated_genes,
    "other order": other_order,
    "missing genes": missing_genes,
    "missing labels": missing_labels,
}
CHILDREN = {"_saving": _saving, "_training": _training}

if __name__ == "__main__":
    main()
