"""Few cells, and of one type very few: are they copied, is a type lost, does the type borrow from others?

python tests/benchmarks/small.py --threads 1 --out small.csv

Run again with the same --out, it goes on where it stopped.

Half of the cells are held out. Of the other half the flow learns from 700, of which the rarest type that is left with
30 held-out cells has 8; the rest are spare: real cells that nothing has seen, which show what perfect cells score.
small_report.py tells what each figure is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, cells_of, counts_of, data_sets, on_variable_genes, resampled, types
from numpy.typing import NDArray
from resumed import done, read, tell, write
from scipy import sparse
from small_report import AGAIN, ALL, OURS, REAL, TRIVIAL, markdown

import scflow
from scflow.flow._learning import default_steps
from scflow.metrics import (
    Space,
    Yardstick,
    copying,
    duplicates,
    energy_distance,
    fold_change_slope,
    label_accuracy,
    label_model,
    log_normalised,
    poisson_cells,
    set_aside,
)
from scflow.metrics.fold_changes import log_fold_changes

DATA = ("pbmc3k", "kang_ifnb", "pancreas_e15")
AUC = ("forest_auc_genes", "forest_auc_components")
HALVINGS = 5
"""Halvings of the held-out cells that a figure is averaged over."""
TURNS = 10
"""Draws of equally many training and held-out cells a halving."""
KEY = ["data", "rare", "seed", "n", "few", "drawn", "genes", "steps"]
COLUMNS = [*KEY, "row", "type", "metric", "value"]

Found = tuple[str, str, str, float]
"""Row, type or `ALL`, metric, value."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the file does not hold yet, and print tables of all that was asked for."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    table, keys = read(options.out, COLUMNS), []
    for name, adata in data_sets(options.data):
        for seed in options.seeds:
            task = Task.of(adata, seed, options)
            if task is None:
                print(f"{name}: not {options.cells} cells to learn from and others, or no type to make rare. Skipped.")
                break
            steps = options.steps or default_steps(task.train.n_obs)
            keys.append((name, task.rare, seed, task.train.n_obs, options.few, options.drawn, options.genes, steps))
            if keys[-1] not in done(table, KEY):
                start = time.perf_counter()
                found = pd.DataFrame(measured(task, steps), columns=COLUMNS[-4:])
                found = found.assign(**dict(zip(KEY, keys[-1])))[COLUMNS]
                table = pd.concat([table, found], ignore_index=True) if len(table) else found
                print(f"{name}, seed {seed}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
                if options.out:
                    write(table, options.out)
    table = table[[key in set(keys) for key in table[KEY].itertuples(index=False, name=None)]]
    tell(table, markdown, options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", default=list(DATA), help=f"data sets of quality.py ({' '.join(DATA)})")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="each changes split, training, drawing (0 1 2)")
    add("--cells", type=int, default=700, help="cells to learn from (%(default)s)")
    add("--few", type=int, default=8, help="of these, cells of the rare type (%(default)s)")
    add("--least", type=int, default=30, help="held-out cells that the rare type must have (%(default)s)")
    add("--drawn", type=int, default=200, help="cells of the rare type to draw (%(default)s)")
    add("--steps", type=int, help="training steps (chosen from the number of cells)")
    add("--genes", type=int, default=2000, help="variable genes to keep (%(default)s)")
    add("--threads", type=int, help="threads of torch (its own choice)")
    add("--out", type=Path, help="keep every figure in this .csv as soon as it is there, and the tables as .md")
    return parser.parse_args(arguments)


@dataclass(frozen=True, eq=False)
class Task:
    """Few cells to learn from, all with the same genes as the held-out and the spare ones."""

    train: AnnData
    held_out: AnnData
    spare: AnnData
    rare: str
    drawn: int
    """How many cells of the rare type to draw."""
    seed: int

    @classmethod
    def of(cls, adata: AnnData, seed: int, options: argparse.Namespace) -> Task | None:
        """Genes are chosen among the few cells, as nobody has others; None where no type can be made rare.

        Held-out cells of a type of which chance left no training cell are dropped: nobody could ask for it.
        """
        half, held_out = scflow.pp.split(adata, stratify=CONDITION, test_size=0.5, seed=seed)
        rare = rarest(half, held_out, options)
        if rare is None:
            return None
        labels, rng = types(half), np.random.default_rng(seed)
        few = rng.permutation(np.flatnonzero(labels == rare))[: options.few]
        rest = rng.permutation(np.flatnonzero(labels != rare))[: options.cells - options.few]
        taken = np.isin(np.arange(half.n_obs), np.concatenate([few, rest]))
        held_out = held_out[np.isin(types(held_out), labels[taken])]
        sides = on_variable_genes(half[taken], held_out, half[~taken], n_genes=options.genes)
        return cls(*sides, rare=rare, drawn=options.drawn, seed=seed)

    @property
    def wanted(self) -> NDArray[np.str_]:
        """The types of the held-out cells, and then the rare type."""
        return np.concatenate([types(self.held_out), np.full(self.drawn, self.rare)])


def rarest(half: AnnData, held_out: AnnData, options: argparse.Namespace) -> str | None:
    """The type of fewest held-out cells, but enough of them, where it and the others have cells to spare; or None."""
    names, number = np.unique(types(held_out), return_counts=True)
    there, able = types(half), []
    for name, n in zip(names.tolist(), number.tolist()):
        spare = (there == name).sum() - options.few
        if n >= options.least and spare > 0 and (there != name).sum() > options.cells - options.few:
            able.append((n, name))
    return min(able)[1] if able else None


@dataclass(frozen=True, eq=False)
class Drawn:
    """Cells of the held-out cells' types, and others of the rare type."""

    everything: AnnData
    rare: AnnData

    @classmethod
    def cut(cls, cells: AnnData, task: Task) -> Drawn:
        """From cells of the wanted types, in their order."""
        n = task.held_out.n_obs
        return cls(cells[:n].copy(), cells[n:].copy())

    def of_type(self, label: str, task: Task) -> sparse.csr_matrix:
        """Counts of the cells of one type: of the rare one, those that were drawn for it."""
        cells = self.rare if label == task.rare else self.everything[types(self.everything) == label]
        return counts_of(cells)

    def contrast(self, task: Task) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
        """Log1p of counts per 10,000 of the rare cells and of the rest, and which are rare."""
        rest = counts_of(self.everything)[types(self.everything) != task.rare]
        rare = counts_of(self.rare)
        both = log_normalised(sparse.csr_matrix(sparse.vstack([rest, rare], format="csr")))
        return both, np.arange(both.shape[0]) >= rest.shape[0]


def measured(task: Task, steps: int) -> Iterator[Found]:
    """All figures of one data set and seed."""
    start = time.process_time()
    sets = sources(task, steps)
    yield OURS, ALL, "cpu_seconds", time.process_time() - start
    for label in np.unique(types(task.held_out)):
        yield OURS, label, "trained", float((types(task.train) == label).sum())
        yield OURS, label, "asked", float(sets[OURS].of_type(label, task).shape[0])
        yield REAL, label, "asked", float((types(task.held_out) == label).sum())
    yield from forests(task, sets[OURS].everything)
    for row, drawn in sets.items():
        yield from repeats(task, row, drawn)
        yield from contrasts(task, row, drawn)
    yield from halvings(task, sets)


def sources(task: Task, steps: int) -> dict[str, Drawn]:
    """Cells of scflow, spare real cells, those of the trivial generator, and the training cells once more.

    Of the rare type the spare cells are there once each, however many these are.
    """
    train, wanted, seed = task.train, task.wanted, task.seed
    cut = partial(Drawn.cut, task=task)
    flow = scflow.tl.train(train.copy(), condition=CONDITION, steps=steps, seed=seed, progress=False)
    ask = partial(scflow.tl.generate, flow, progress=False)
    ours = Drawn(
        ask(task.held_out.n_obs, condition=task.held_out.obs[[CONDITION]], seed=seed),
        ask(task.drawn, condition={CONDITION: task.rare}, seed=seed + 1),
    )
    poisson = poisson_cells(counts_of(train), types(train), wanted, seed=seed)
    spare, there = task.spare, np.isin(types(task.held_out), types(task.spare))
    return {
        REAL: Drawn(resampled(spare, types(task.held_out)[there], seed), spare[types(spare) == task.rare].copy()),
        OURS: ours,
        TRIVIAL: cut(cells_of(poisson, train, wanted)),
        AGAIN: cut(resampled(train, wanted, seed)),
    }


def forests(task: Task, cells: AnnData) -> Iterator[Found]:
    """Whether a forest tells cells from held-out ones, beside the floor and the trivial generator."""
    yardstick = Yardstick.of(
        counts_of(task.held_out),
        counts_of(task.train),
        AUC,
        labels=types(task.held_out),
        reference_labels=types(task.train),
        seed=task.seed,
    )
    for found in yardstick.rows(counts_of(cells)):
        yield OURS, ALL, found.metric, found.value
        yield REAL, ALL, found.metric, found.floor
        yield TRIVIAL, ALL, found.metric, found.trivial


def repeats(task: Task, row: str, drawn: Drawn) -> Iterator[Found]:
    """The share of cells that are a training cell to the last count."""
    known = counts_of(task.train)
    few = known[types(task.train) == task.rare]
    yield row, ALL, "duplicates", duplicates(counts_of(drawn.everything), known, interval=False).value
    yield row, task.rare, "duplicates", duplicates(counts_of(drawn.rare), few, interval=False).value


def halvings(task: Task, sets: Mapping[str, Drawn]) -> Iterator[Found]:
    """What needs a space or a classifier, averaged over halvings of the held-out cells.

    Both are fitted on one half, as label_accuracy has them, so that training cells, cells of the other half and drawn
    cells are all new to them.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for half in halves(task):
        for label in np.unique(half.labels):
            share = half.called(half.components[half.labels == label], label)
            found.setdefault((REAL, label, "called"), []).append(share)
        for row, drawn in sets.items():
            for label in np.unique(types(task.held_out)) if row != REAL else ():
                share = half.called(half.space.components(drawn.of_type(label, task)), label)
                found.setdefault((row, label, "called"), []).append(share)
            for about, metric, value in nearness(task, half, drawn):
                found.setdefault((row, about, metric), []).append(value)
    for (row, about, metric), values in found.items():
        yield row, about, metric, float(np.mean(values))


@dataclass(frozen=True, eq=False)
class Half:
    """The space and the classifier of one half of the held-out cells, and the other half in that space."""

    space: Space
    model: Any
    components: NDArray[np.float32]
    labels: NDArray[np.str_]
    seed: int

    def called(self, cells: NDArray[np.float32], label: str) -> float:
        """The share of cells that the classifier calls one type."""
        return label_accuracy(cells, np.full(len(cells), label), self.model, interval=False).value


def halves(task: Task) -> Iterator[Half]:
    """Each halving."""
    counts, labels = counts_of(task.held_out), types(task.held_out)
    for turn in range(HALVINGS):
        seed = 1000 * task.seed + 100 * turn
        one = set_aside(labels, seed)
        space = Space.fit(counts[one])
        model = label_model(space.components(counts[one]), labels[one])
        yield Half(space, model, space.components(counts[~one]), labels[~one], seed)


def nearness(task: Task, half: Half, drawn: Drawn) -> Iterator[tuple[str, str, float]]:
    """Whether training cells are nearer than those of the other half, and how far rare cells are from real ones.

    There are as many training cells as others: of the larger side so many are drawn at random. The rare type's 8 are
    held against 8 of the other half, `TURNS` times, and ratios are averaged: which 8 makes a difference.
    """
    near, mine = half.space.components(counts_of(task.train)), half.space.components(counts_of(drawn.everything))
    yield ALL, "copying", copying(mine, near, half.components, interval=False, seed=half.seed).value
    few, rare = near[types(task.train) == task.rare], half.space.components(counts_of(drawn.rare))
    there = half.components[half.labels == task.rare]
    ratios = [copying(rare, few, there, interval=False, seed=half.seed + turn).value for turn in range(TURNS)]
    yield task.rare, "copying", float(np.mean(ratios))
    yield task.rare, "energy", energy_distance(rare, there, interval=False).value


def contrasts(task: Task, row: str, drawn: Drawn) -> Iterator[Found]:
    """The rare type's log fold changes against the rest of the cells, beside those of all held-out cells.

    The slope is that of the 100 genes of the largest real changes; correlation and error are of all genes.
    """
    x, is_x = drawn.contrast(task)
    y, is_y = log_normalised(counts_of(task.held_out)), types(task.held_out) == task.rare
    slope = fold_change_slope(x, is_x, y, is_y, conditions=np.array([True]), interval=False).value
    mine, real = fold_changes(x, is_x), fold_changes(y, is_y)
    yield row, task.rare, "slope", slope
    yield row, task.rare, "correlation", float(np.corrcoef(mine, real)[0, 1])
    yield row, task.rare, "error", float(np.sqrt(np.mean((mine - real) ** 2)))
    if row == REAL:
        yield row, task.rare, "error_of_none", float(np.sqrt(np.mean(real**2)))


def fold_changes(expression: sparse.csr_matrix, mine: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Log2 of mean counts per 10,000 plus 1, of some cells over the others."""
    _, of_mine = log_fold_changes(expression, mine)
    return of_mine


if __name__ == "__main__":
    sys.exit(main())
