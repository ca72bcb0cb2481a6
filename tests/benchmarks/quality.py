"""How real the cells of each space are, beside real cells, trivial ones and those of rivals; docs/benchmarks.md.

python tests/benchmarks/quality.py --out quality.csv --figure quality.png

Run again with the same --out and --resume, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import cells_of, counts_of, data_sets, prepare, resampled, types
from generators import Request, drawn
from numpy.typing import NDArray
from quality_figure import figure
from quality_report import (
    BOOTSTRAP,
    DATA,
    FLOOR,
    INDEPENDENT,
    RIVALS,
    SMALL,
    SPACES,
    TRIVIAL,
    heading,
    line,
    markdown,
    targets,
)
from resumed import done, read, write
from scipy import sparse

from scflow._anndata import read_counts
from scflow.flow._learning import default_steps
from scflow.metrics import DEFAULT as METRICS
from scflow.metrics import Row, Space, Yardstick, poisson_cells, set_aside
from scflow.metrics import copying as nearness
from scflow.metrics.catalogue import known
from scflow.metrics.yardstick import MOST_CELLS

DEFAULT_SPACE = "counts"
"""What scflow.tl.train(space="auto") stands for."""
BUDGETS = ("default", "small")
SHARE = 4
"""The small budget is a fourth of the steps."""
QUICK_STEPS, QUICK_EPOCHS = 200, 10
KEY = ["data", "seed", "row"]
COLUMNS = [*KEY, "condition", "metric", "value", "floor", "trivial", "low", "high"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for; the exit code is 1 only with --check, where a target is missed or not measured."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    table = before(options)
    for name, adata in () if options.join else data_sets(options.data):
        print(heading(), flush=True)
        for seed in options.seeds:
            for found in measured(adata, name, seed, options, done(table, KEY)):
                table = pd.concat([table, found], ignore_index=True) if len(table) else found
                print(line(found), flush=True)
                save(table, options.out)
    if table.empty:
        print("Nothing was measured.")
        return int(options.check)
    save(table, options.out)
    if options.figure:
        figure(table, options.figure)
    print("\n" + markdown(table))
    judged = targets(table, options.default)
    for target in judged:
        print(f"{'not measured' if target.holds is None else 'PASS' if target.holds else 'FAIL'}: {target.text}")
    return int(options.check and not all(target.holds for target in judged))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; --quick replaces what was left at its default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help=f"data sets ({' '.join(DATA)}; any of data/README.md)")
    parser.add_argument("--spaces", nargs="*", help=f"spaces to train in ({' '.join(SPACES)}); none: real cells only")
    parser.add_argument("--default", default=DEFAULT_SPACE, help="the space the targets are about (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, help="each changes split, training and drawing (0 1 2)")
    parser.add_argument("--steps", type=int, help="training steps of scflow (chosen from the data's size)")
    parser.add_argument(
        "--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS), help=f"all steps, and 1/{SHARE} of them (both)"
    )
    parser.add_argument(
        "--rivals", nargs="+", choices=(*RIVALS, "none"), default=list(RIVALS), help="what else draws cells (all)"
    )
    parser.add_argument("--epochs", type=int, help="training epochs of the rivals (scVI's own choice; 300 of dca)")
    parser.add_argument("--genes", type=int, default=2000, help="variable genes to keep (%(default)s)")
    parser.add_argument(
        "--variable-genes", choices=("variance", "seurat"), default="variance", help="how they are chosen"
    )
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), help="of scflow.tl.score (its default ones)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument("--precision", default="auto", help="of scflow's field: auto, float32, bfloat16 (%(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"pbmc68k, seed 0, {QUICK_STEPS} steps: does it run?")
    parser.add_argument("--out", type=Path, help="write every figure to this .csv, and the table beside it as .md")
    parser.add_argument("--resume", action="store_true", help="keep what --out holds, whatever it was run with")
    parser.add_argument("--figure", type=Path, help="draw both AUC of every row on every data set into this file")
    parser.add_argument("--only-spaces", action="store_true", help="no reference rows, where another run has them")
    parser.add_argument("--join", nargs="+", type=Path, help="run nothing: one table of these .csv files")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed or not measured")
    options = parser.parse_args(arguments)
    if options.resume and options.out is None:
        parser.error("--resume needs the file to go on with: --out quality.csv")
    quick = options.quick
    options.data = options.data or (["pbmc68k"] if quick else list(DATA))
    options.seeds = options.seeds or ([0] if quick else [0, 1, 2])
    options.steps = options.steps or (QUICK_STEPS if quick else None)
    options.epochs = options.epochs or (QUICK_EPOCHS if quick else None)
    options.spaces = list(SPACES) if options.spaces is None else options.spaces
    options.rivals = [] if options.join else available(options.rivals)
    return options


def before(options: argparse.Namespace) -> pd.DataFrame:
    """The figures that other runs have left: those of the files to join, or of the one to go on with."""
    if options.join:
        return pd.concat([pd.read_csv(path) for path in options.join], ignore_index=True)
    return read(options.out if options.resume else None, COLUMNS)


def available(rivals: Sequence[str]) -> list[str]:
    """Those of the rivals that can be trained here; a line where scVI cannot."""
    wanted = [name for name in rivals if name != "none"]
    if importlib.util.find_spec("scvi") is None and any(name.startswith("scvi") for name in wanted):
        print("scVI: not installed; pip install scflow-tools[benchmarks]")
        wanted = [name for name in wanted if not name.startswith("scvi")]
    return wanted


def copying(train: AnnData, held_out: AnnData) -> Callable[[AnnData], float]:
    """From cells to their median distance to the nearest training cell over that to the nearest held-out cell.

    1 where training cells are no nearer than as many unseen ones, 0 for copies. In principal components of both
    together: in those of the training cells alone, training cells lie further out, and 1.4 would be perfect on pbmc68k.
    """
    real = [counts_of(side) for side in (train, held_out)]
    space = Space.fit(sparse.vstack(real, format="csr"))
    sides = [space.components(counts) for counts in real]

    def of(cells: AnnData) -> float:
        return nearness(space.components(counts_of(cells)), *sides, equal=False, interval=False).value

    return of


def requests(options: argparse.Namespace, n_cells: int, seed: int) -> Iterator[Request]:
    """The trainings that the options ask for: scflow in each space and of each budget, then its rivals."""
    common: dict[str, Any] = {"seed": seed, "threads": options.threads}
    for space in options.spaces:
        for budget in options.budgets:
            steps, rows = options.steps, [space]
            if budget == "small":
                steps, rows = (options.steps or default_steps(n_cells)) // SHARE, [f"{space}{SMALL}"]
            elif space == options.default:
                rows.append(f"{space}{INDEPENDENT}")
            yield Request(space, tuple(rows), steps=steps, precision=options.precision, **common)
    for space in ("scvi", "dca"):
        rows = [label for name, label in RIVALS.items() if name in options.rivals and name.startswith(space)]
        if rows:
            yield Request(space, tuple(rows), epochs=options.epochs, **common)


def judged(
    held_out: AnnData, reference: AnnData, wanted: NDArray[np.str_], seed: int, metrics: Sequence[str]
) -> Callable[[AnnData | None], pd.DataFrame]:
    """From cells of the types `wanted` to the table of `scflow.tl.score`; from none to the floor and trivial alone.

    These are figured once for all sets of cells, and most of the work.
    """
    yardstick = Yardstick.of(
        read_counts(held_out, name="held_out", for_training=False),
        read_counts(reference, name="reference", for_training=False),
        known(metrics),
        labels=types(held_out),
        reference_labels=types(reference),
        generated_labels=wanted,
        within=True,
        max_cells=MOST_CELLS,
        seed=seed,
    )

    def score(cells: AnnData | None) -> pd.DataFrame:
        counts = None if cells is None else read_counts(cells, name="cells", for_training=False)
        return pd.DataFrame(yardstick.rows(counts), columns=list(Row._fields))

    return score


@dataclass(frozen=True, eq=False)
class Scorer:
    """What scores cells of the types of the held-out ones; made when the first are scored, and once."""

    train: AnnData
    held_out: AnnData
    seed: int
    metrics: Sequence[str]

    @cached_property
    def score(self) -> Callable[[AnnData | None], pd.DataFrame]:
        """As `judged` returns it, with all training cells as the reference."""
        return judged(self.held_out, self.train, types(self.held_out), self.seed, self.metrics)

    @cached_property
    def nearest(self) -> Callable[[AnnData], float]:
        """As `copying` returns it."""
        return copying(self.train, self.held_out)

    def reference(self, row: str) -> tuple[pd.DataFrame, dict[str, float]]:
        """Scores and copying of a reference row: of real cells or of the trivial generator's."""
        train, seed, wanted = self.train, self.seed, types(self.held_out)
        if row == FLOOR:
            return self.score(None), {}
        if row == TRIVIAL:
            cells = cells_of(poisson_cells(counts_of(train), types(train), wanted, seed=seed), train, wanted)
            return self.score(None), {"copying": self.nearest(cells)}
        # Cells that a space was fitted on lie further out in it: one half makes the space, the other is resampled.
        half, drawn_for = set_aside(types(train), seed), wanted[set_aside(wanted, seed)]
        again = resampled(train[~half].copy(), drawn_for, seed)
        alone = judged(self.held_out, train[half].copy(), drawn_for, seed, self.metrics)
        return alone(again), {"copying": self.nearest(again)}


def measured(
    adata: AnnData, name: str, seed: int, options: argparse.Namespace, known: Set[tuple[Any, ...]]
) -> Iterator[pd.DataFrame]:
    """The figures of each row of one data set and seed that is not known yet, as soon as they are there."""

    def missing(*rows: str) -> tuple[str, ...]:
        return tuple(row for row in rows if (name, seed, row) not in known)

    def figures(row: str, scores: pd.DataFrame, **more: float) -> pd.DataFrame:
        if row in (FLOOR, TRIVIAL):
            scores = scores.assign(value=scores[row], low=np.nan, high=np.nan)
        # Copying is measured against all training cells, also where the reference of the scores is but half of them.
        scores = scores[~scores["metric"].isin(list(more))]
        extra = pd.DataFrame({"condition": "all", "metric": list(more), "value": list(more.values())})
        return pd.concat([scores, extra]).assign(data=name, seed=seed, row=row)[COLUMNS]

    train, held_out = prepare(adata, seed, options.genes, options.variable_genes)
    wanted, scorer = types(held_out), Scorer(train, held_out, seed, options.metrics)
    if not options.only_spaces:
        for row in missing(BOOTSTRAP, FLOOR, TRIVIAL):
            scores, more = scorer.reference(row)
            yield figures(row, scores, **more)
    for request in requests(options, train.n_obs, seed):
        rows = missing(*request.rows)
        for row, counts, costs in drawn(replace(request, rows=rows), train, wanted) if rows else ():
            cells = cells_of(counts, train, wanted)
            yield figures(row, scorer.score(cells), copying=scorer.nearest(cells), **costs)


def save(table: pd.DataFrame, out: Path | None) -> None:
    """Write all figures so far, and the table of their means beside them."""
    if out is not None:
        write(table, out)
        out.with_suffix(".md").write_text(markdown(table), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
