"""A time point left out of a time course: how near do cells that are carried there come to those found there?

python tests/benchmarks/trajectory.py --threads 1 --out trajectory.csv --figure trajectory.png

Run again with the same --out, it goes on where it stopped. TorchCFM is needed for two rows: pip install torchcfm.

Each time point between the first and the last is left out in turn. What is learnt, the whitening included, is learnt
from the cells of the other time points; the cells of the one before are carried to the one left out, and held against
all of its cells by the exact 1-Wasserstein distance. All rows count time in the time points that are left, as
TorchCFM's single-cell example does: the published times of these courses were chosen so that cells change about evenly
from one to the next (0, 8 hours, 1, 3 and 7 days), and the point left out lies halfway between its neighbours. No row
is told that there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from resumed import done, read, tell, write
from trajectory_courses import DATA, Task, tasks
from trajectory_ours import ours
from trajectory_report import (
    EQUAL,
    FLOOR,
    FLOW,
    HALVES,
    NOTHING,
    OWN,
    RIVALS,
    STRAIGHT,
    figure,
    markdown,
    target,
)
from trajectory_rivals import installed, rival

KEY = ["data", "course", "time", "seed", "row"]
COLUMNS = [*KEY, "value", "seconds"]
MOST_ITERATIONS = 10_000_000

Array = NDArray[np.float64]
Found = tuple[str, float]
"""Row and distance."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the file does not hold yet; the exit code is 1 only with --check, where the target is missed."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not installed():
        print("TorchCFM: not installed; pip install torchcfm. Its rows are left out.")
    table = read(options.out, COLUMNS)
    for task in tasks(options.data):
        for seed in options.seeds:
            for rows, measure in measures(task, seed, options.steps):
                keys = [(task.data, task.course, task.time, seed, row) for row in rows]
                if set(keys) <= done(table, KEY):
                    continue
                start = time.process_time()
                found = pd.DataFrame(
                    [(*key, value, 0.0) for key, value in zip(keys, measure(), strict=True)], columns=COLUMNS
                ).assign(seconds=time.process_time() - start)
                table = pd.concat([table, found], ignore_index=True) if len(table) else found
                text = ", ".join(f"{row} {value:.3f}" for row, value in zip(rows, found["value"], strict=True))
                print(f"{task.course}, time {task.time:.3g}, seed {seed}: {text}", flush=True)
                if options.out:
                    write(table, options.out)
    table = table[table["data"].isin(options.data) & table["seed"].isin(options.seeds)]
    if not tell(table, markdown, options.out):
        return int(options.check)
    if options.figure:
        figure(table, options.figure)
    text, holds = target(table)
    print(f"{'not measured' if holds is None else 'PASS' if holds else 'FAIL'}: {text}")
    return int(options.check and not holds)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", choices=DATA, default=list(DATA), help="data sets (all)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of training, and of the floor (0 1 2 3 4)")
    add("--steps", type=int, default=2000, help="training steps of all flows (%(default)s)")
    add("--threads", type=int, help="threads of torch (its own choice)")
    add("--out", type=Path, help="keep every figure in this .csv as soon as it is there, and the tables as .md")
    add("--figure", type=Path, help="draw all rows on all data sets into this file")
    add("--check", action="store_true", help="exit with 1 where the target is missed or not measured")
    return parser.parse_args(arguments)


def measures(task: Task, seed: int, steps: int) -> Iterator[tuple[tuple[str, ...], Callable[[], Sequence[float]]]]:
    """Rows, and what finds their distances; those of what no seed changes are the same for all seeds."""
    yield (NOTHING, STRAIGHT), lambda: still(task)
    yield (FLOOR, HALVES), lambda: floor(task, seed)
    for kind in RIVALS if installed() else ():
        yield (kind,), lambda kind=kind: [distance(rival(kind, task, seed, steps), task.held_out)]
    yield (FLOW, EQUAL), lambda: flow(task, seed, steps)
    yield (OWN,), lambda: flow(task, seed, steps, own=True)[:1]


def flow(task: Task, seed: int, steps: int, *, own: bool = False) -> list[float]:
    """The distance with the masses that growth gives the cells, and with every cell counted once."""
    cells, mass = ours(task.train, task.places, task.before, task.at, seed, steps, own=own)
    return [distance(cells, task.held_out, mass), distance(cells, task.held_out)]


_still: dict[tuple[str, float], list[float]] = {}


def still(task: Task) -> list[float]:
    """The distance of the cells before where they are, and halfway along the optimal pairing with those after.

    Neither is trained: they are found once, whatever the seed.
    """
    if (task.course, task.time) not in _still:
        before, after = task.train[task.before], task.train[task.before + 1]
        plan = transport(before, after, "sqeuclidean")[0]
        i, j = np.nonzero(plan)
        middle = (before[i] + after[j]) / 2
        _still[task.course, task.time] = [
            distance(before, task.held_out),
            distance(middle, task.held_out, plan[i, j]),
        ]
    return _still[task.course, task.time]


def floor(task: Task, seed: int) -> list[float]:
    """The distance of one half of the held-out cells to the other, scaled to the sizes of the other rows, and as it is.

    Of samples of n cells from one law it falls about as n^(-1/d) with d > 2 coordinates. The other rows compare the
    cells of the time point before, n, to those left out, m: as two samples of 2 / (1/n + 1/m) cells each.
    """
    cells = np.random.default_rng(seed).permutation(task.held_out)
    half = len(cells) // 2
    value = distance(cells[:half], cells[half : 2 * half])
    size = 2 / (1 / len(task.train[task.before]) + 1 / len(cells))
    return [value * (half / size) ** (1 / max(cells.shape[1], 2)), value]


def distance(cells: Array, others: Array, mass: Array | None = None) -> float:
    """The exact 1-Wasserstein distance, Euclidean; `mass` is that of `cells`, in any unit (equal)."""
    return transport(cells, others, "euclidean", mass)[1]


def transport(cells: Array, others: Array, metric: str, mass: Array | None = None) -> tuple[Array, float]:
    """The optimal plan and its cost.

    Raises
    ------
    RuntimeError
        Where the solver stopped before it was there.
    """
    import ot

    a = np.full(len(cells), 1 / len(cells)) if mass is None else mass / mass.sum()
    b = np.full(len(others), 1 / len(others))
    plan, log = ot.emd(a, b, ot.dist(cells, others, metric=metric), numItermax=MOST_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"The exact plan of {len(cells)} to {len(others)} cells was not found: {log['warning']}")
    return plan, float(log["cost"])


if __name__ == "__main__":
    sys.exit(main())
