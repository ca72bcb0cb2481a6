"""One process that trains, checkpoints, draws, scores, saves and loads again and again: does anything pile up?

python tests/benchmarks/soak.py --minutes 30

Resident memory, open files and threads are looked at after every round. The exit code is 1 where memory rises by 1 MB a
minute or more after the warm-up, or a file or a thread is left that was not there after it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from anndata import AnnData

import scflow
from scflow.flow import _learning
from scflow.training import Checkpoint, stored

MOST = 1.0
"""MB a minute that memory may rise by."""
WARM_UP = 0.2
"""The share of the time that is the warm-up, in which caches fill: those of the allocator, of PyTorch and of numba."""
PAGE = os.sysconf("SC_PAGE_SIZE") / 1e6
METRICS = ("mmd", "wasserstein", "gene_means", "logistic_auc_genes")
PART = 300
"""Cells that are in memory of those on disk ..."""
DRAWN = 2000
"""... and cells that counts are calibrated on: fewer than usual, so that there are many rounds."""


@dataclass(frozen=True)
class Look:
    """What there was after a round: minutes since the start, resident MB, open files by what they are, threads."""

    minutes: float
    memory: float
    files: tuple[str, ...]
    threads: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for so long; the exit code says whether anything was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (%(default)s)")
    parser.add_argument("--cells", type=int, default=800, help="simulated cells (%(default)s)")
    parser.add_argument("--genes", type=int, default=60, help="simulated genes (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="training steps (%(default)s)")
    options = parser.parse_args(arguments)
    looks = soaked(options.minutes, options.cells, options.genes, options.steps)
    return verdict(looks)


def soaked(minutes: float, n_cells: int, n_genes: int, steps: int) -> list[Look]:
    """Rounds for so many minutes, and a look after each."""
    looks, start = [], time.monotonic()
    before, (stored.PART, _learning._DRAWN) = (stored.PART, _learning._DRAWN), (PART, DRAWN)
    try:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = scflow.datasets.simulate(n_cells, n_genes, 3, seed=0)
            held = scflow.datasets.simulate(n_cells // 4, n_genes, 3, seed=1)
            cells.write_h5ad(Path(name) / "cells.h5ad")
            print(f"{'minutes':>8} {'MB':>8} {'files':>6} {'threads':>8}")
            while not looks or time.monotonic() - start < minutes * 60:
                for task in (in_memory, from_disk, interrupted):
                    with tempfile.TemporaryDirectory(dir=name) as run:
                        task(cells, held, Path(name) / "cells.h5ad", Path(run), len(looks), steps)
                looks.append(look((time.monotonic() - start) / 60))
                last = looks[-1]
                row = f"{last.minutes:8.2f} {last.memory:8.1f} {len(last.files):6} {len(last.threads):8}"
                print(row, flush=True)
    finally:
        stored.PART, _learning._DRAWN = before
    return looks


def in_memory(cells: AnnData, held: AnnData, file: Path, run: Path, seed: int, steps: int) -> None:
    """Train in two spaces, checkpoint and go on, draw, score, encode, save and load, in the AnnData and in files."""
    adata = cells.copy()
    options: dict[str, Any] = {"condition": "cell_type", "steps": steps, "seed": seed, "progress": False}
    kept = {"checkpoint": Checkpoint(run / "kept", every=1)}
    scflow.tl.train(adata, **options, **kept)
    flow = scflow.tl.train(adata, **options, **kept, resume=True)
    scflow.tl.train(adata, space="pca", key_added="other", watch=10, **options)
    flow.save(run / "flow.safetensors")
    flow = scflow.Flow.load(run / "flow.safetensors")
    new = scflow.tl.generate(flow, 500, progress=False, seed=seed)
    scflow.tl.generate(adata, 700, progress=False, seed=seed, out=run / "new.h5ad")
    scflow.tl.score(held, new, reference=adata, condition="cell_type", metrics=METRICS)
    scflow.tl.encode(adata[:100].copy(), flow, progress=False)
    adata.write_h5ad(run / "adata.h5ad")
    scflow.tl.generate(anndata.read_h5ad(run / "adata.h5ad"), 100, progress=False)


def from_disk(cells: AnnData, held: AnnData, file: Path, run: Path, seed: int, steps: int) -> None:
    """Train on cells that are read as they are needed, with a checkpoint, and go on with it."""
    options = {"space": "genes", "steps": steps, "seed": seed, "progress": False, "checkpoint": run / "kept"}
    scflow.tl.train(file, **options)
    scflow.tl.train(file, **options, resume=True)


def interrupted(cells: AnnData, held: AnnData, file: Path, run: Path, seed: int, steps: int) -> None:
    """End a training by a callback, and let a shorter flow be made of another."""

    def broken(row: dict[str, float]) -> None:
        if row["step"] > steps / 2:
            raise RuntimeError("a callback of the user's own")

    adata, options = cells[:300].copy(), {"space": "genes", "steps": steps, "seed": seed, "progress": False}
    try:
        scflow.tl.train(adata, **options, callbacks=[broken])
    except RuntimeError:
        flow = scflow.tl.train(adata, **options)
        scflow.tl.distill(flow, n_trajectories=200, steps=20, progress=False)


def look(minutes: float) -> Look:
    """What there is now, as a user would have it: nothing is collected or trimmed first."""
    with open("/proc/self/statm") as file:
        memory = int(file.read().split()[1]) * PAGE
    files = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:  # That of the listing itself.
            continue
    return Look(minutes, memory, tuple(sorted(files)), tuple(sorted(t.name for t in threading.enumerate())))


def slope(looks: Sequence[Look]) -> float:
    """MB a minute after the warm-up, by least squares."""
    warm = [one for one in looks if one.minutes >= WARM_UP * looks[-1].minutes]
    if len(warm) < 3:
        return float("nan")
    return float(np.polyfit([one.minutes for one in warm], [one.memory for one in warm], 1)[0])


def left(looks: Sequence[Look]) -> tuple[list[str], list[str]]:
    """Files and threads of the last look that the first one after the first round did not have."""
    first, last = looks[0], looks[-1]
    return added(first.files, last.files), added(first.threads, last.threads)


def added(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """What there is more of."""
    rest = list(before)
    return [name for name in after if name not in rest or rest.remove(name)]


def verdict(looks: Sequence[Look]) -> int:
    """Say what was found; 1 where something piles up."""
    rise, (files, threads) = slope(looks), left(looks)
    print(f"\n{len(looks)} rounds in {looks[-1].minutes:.1f} minutes")
    print(f"memory rises by {rise:.2f} MB a minute (most {MOST})")
    print(f"left: {len(files)} files {files}, {len(threads)} threads {threads}")
    return int(bool(files or threads or rise >= MOST))


if __name__ == "__main__":
    sys.exit(main())
