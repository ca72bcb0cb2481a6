"""What a stimulus does to a cell type that was never seen stimulated, predicted from its controls.

python tests/benchmarks/perturbation.py --threads 1 --out perturbation.csv --figure perturbation.png

Run again with the same --out, it goes on where it stopped.

The stimulated cells of one type at a time are held out; all other cells, the type's controls among them, are there to
learn from. perturbation_report.py tells what each figure is, predictors.py who predicts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cells import counts_of, data_sets
from numpy.typing import NDArray
from perturbation_report import FLOOR, figure, markdown, targets
from perturbation_task import Task, expression, held_out_types
from predictors import PREDICTORS, available
from resumed import done, read, tell, write

from scflow.metrics import Space, energy_distance, median_distance, mmd

DATA = ("kang_ifnb",)
HALVINGS = 10
"""Halvings of the type's real cells that a figure is averaged over."""
TOP = (50, 500)
"""So many genes of the largest real effects, and all genes, are what fold changes are compared over."""
KEY = ["data", "type", "seed", "genes", "row"]
COLUMNS = [*KEY, "metric", "value", "high"]

Found = tuple[str, float]
Numbers = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the file does not hold yet, and print tables of all that was asked for."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    table = read(options.out, COLUMNS)
    rows = [FLOOR, *filter(available, options.rows)]
    for name in sorted(set(options.rows) - set(rows)):
        print(f"{name}: this scflow cannot learn from one population to another. Skipped.")
    for data, adata in data_sets(options.data):
        for label in options.types or held_out_types(adata, options.least):
            for seed in options.seeds:
                known = done(table, KEY)
                missing = [row for row in rows if (data, label, seed, options.genes, row) not in known]
                if not missing:
                    continue
                task = Task.of(adata, label, seed, options.genes)
                for found in measured(task, missing):
                    found = found.assign(data=data, type=label, seed=seed, genes=options.genes)[COLUMNS]
                    table = pd.concat([table, found], ignore_index=True) if len(table) else found
                    print(line(found), flush=True)
                    if options.out:
                        write(table, options.out)
    table = table[table["row"].isin(rows) & table["seed"].isin(options.seeds) & (table["genes"] == options.genes)]
    if tell(table, markdown, options.out):
        for target in targets(table):
            print(f"{'not measured' if target.holds is None else 'PASS' if target.holds else 'FAIL'}: {target.text}")
        if options.figure:
            figure(table, options.figure)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", default=list(DATA), help=f"data sets with a column 'condition' ({' '.join(DATA)})")
    add("--types", nargs="+", help="types to hold out, one at a time (all of enough cells)")
    add("--least", type=int, default=20, help="cells of each condition that a type must have (%(default)s)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="each changes training, drawing, halves (0 1 2)")
    add("--rows", nargs="+", default=list(PREDICTORS), choices=list(PREDICTORS), metavar="ROW", help="(all)")
    add("--genes", type=int, default=2000, help="variable genes to keep (%(default)s)")
    add("--threads", type=int, help="threads of torch (its own choice)")
    add("--out", type=Path, help="keep every figure in this .csv as soon as it is there, and the tables as .md")
    add("--figure", type=Path, help="draw the energy distance of every row, type by type, into this file")
    return parser.parse_args(arguments)


def measured(task: Task, rows: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The figures of each row, as soon as they are there."""
    judge = Judge(task)
    for row in rows:
        start = time.process_time()
        if row == FLOOR:
            found = judge.figures(None)
        else:
            predicted = PREDICTORS[row](task)
            seconds = time.process_time() - start
            found = judge.figures(predicted)
            found = pd.concat([found, pd.DataFrame({"metric": ["cpu_seconds"], "value": [seconds]})])
        yield found.assign(row=row)


class Judge:
    """The type's real cells in many halvings; predicted cells are compared with one half, the floor is the other.

    Controls are halved too. The effect predicted is that from one half of them, the real one that from the other, so
    that no chance of the controls is in both; an effect is a difference of mean log1p of counts per 10,000. And the
    controls that are carried were not among the cells that principal components were fitted on. Real stimulated cells
    are new to them, and cells that they were fitted on lie further out in them: by an energy distance of up to 1 on
    kang_ifnb, where good predictions score no more.
    """

    def __init__(self, task: Task) -> None:
        self.real, self.controls = expression(task.held_out), expression(task.controls)
        order = np.argsort(-np.abs(self.real.mean(0) - self.controls.mean(0)), kind="stable")
        self.genes = {**{str(n): order[:n] for n in TOP}, "all": order}
        self.halvings = list(halvings(task))

    def figures(self, predicted: Numbers | None) -> pd.DataFrame:
        """Metric, mean over halvings, and the 95th percentile, of an expression for each control ``[n, n_genes]``.

        Without it, of the other half of the real cells.
        """
        found = pd.DataFrame([dict(self._of(predicted, halving)) for halving in self.halvings])
        high = found.quantile(0.95)
        return pd.DataFrame({"metric": found.columns, "value": found.mean().to_numpy(), "high": high.to_numpy()})

    def _of(self, predicted: Numbers | None, halving: Halving) -> Iterator[Found]:
        """The figures of one halving."""
        there, before = self.real[halving.real[0]], self.controls[halving.controls[1]]
        cells = self.real[halving.real[1]] if predicted is None else predicted[halving.controls[1]]
        x_all = cells.mean(0) - before.mean(0)
        y_all = there.mean(0) - self.controls[halving.controls[0]].mean(0)
        for name, genes in self.genes.items():
            x, y = x_all[genes], y_all[genes]
            yield f"r_{name}", float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 else np.nan
            yield f"slope_{name}", float(x @ y / (y @ y))
            yield f"error_{name}", float(np.sqrt(np.mean((x - y) ** 2)))
        n = min(map(len, (there, before)))
        mine, there = (halving.space.project(side[:n, halving.space.chosen]) for side in (cells, there))
        yield "mmd", mmd(mine, there, bandwidth=median_distance(there), interval=False).value
        yield "energy", energy_distance(mine, there, interval=False).value


@dataclass(frozen=True, eq=False)
class Halving:
    """Rows of the type's real stimulated cells and of its controls in halves, and the space without the second half."""

    real: tuple[NDArray[np.int64], NDArray[np.int64]]
    controls: tuple[NDArray[np.int64], NDArray[np.int64]]
    space: Space


def halvings(task: Task) -> Iterator[Halving]:
    """Random halvings; the space is fitted on the training cells but for the controls that are to be carried."""
    rng, counts, rows = np.random.default_rng([task.seed, 1]), counts_of(task.train), np.flatnonzero(task.is_control)
    for _ in range(HALVINGS):
        real, controls = halves(task.held_out.n_obs, rng), halves(len(rows), rng)
        known = np.setdiff1d(np.arange(len(task.is_control)), rows[controls[1]])
        yield Halving(real, controls, Space.fit(counts[known], counts.shape[1]))


def halves(n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of `n` cells in two random halves."""
    order = rng.permutation(n)
    return order[: n // 2], order[n // 2 : 2 * (n // 2)]


def line(found: pd.DataFrame) -> str:
    """What was found of one row."""
    first, values = found.iloc[0], found.set_index("metric")["value"]
    texts = (f"{metric} {values[metric]:.3f}" for metric in ("r_50", "slope_50", "r_all", "mmd", "energy"))
    return f"{first['type']:18} seed {first['seed']}  {first['row']:20} " + "  ".join(texts)


if __name__ == "__main__":
    sys.exit(main())
