"""Whether synthetic cells of a rare type help a classifier, beside simpler remedies; docs/benchmarks.md tells how.

python tests/benchmarks/augmentation.py --out augmentation.csv --figure augmentation.png

Run again with the same --out, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from augmentation_report import figure, markdown
from cells import CONDITION, counts_of, data_sets, types
from numpy.typing import NDArray
from oversampling import METHODS, Examples, Task, available
from resumed import done, read, tell, write

import scflow
from scflow.errors import listed
from scflow.metrics import Space, library_sizes

RARE = {"pancreas_e15": ["Delta"], "kang_ctrl_8types": ["Dendritic cells"], "pbmc3k": ["DC", "Platelet"]}
SIZES = (5, 10, 20, 50)
KEY = ["data", "rare", "n", "to", "genes", "seed", "steps", "method", "classifier"]
COLUMNS = [*KEY, "added", "tested", "f1_rare", "precision", "recall", "f1_macro", "seconds"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the file does not hold yet, and print tables of all that was asked for."""
    options = parse(arguments)
    torch.set_num_threads(1)
    table = read(options.out, COLUMNS)
    for method in (m for m in options.methods if not available(m)):
        print(f"{method}: not installed. Skipped.")
    for name, adata in data_sets(options.data):
        there = set(types(adata))
        for rare in options.rare or RARE.get(name, []):
            if rare not in there:
                print(f"{name}: no type {rare!r}, but {listed(sorted(there), most=20)}. Skipped.")
                continue
            for rows in measured(adata, name, rare, options, table):
                table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
                if options.out:
                    write(table, options.out)
    wanted = {"data": options.data, "seed": options.seeds, "steps": [options.steps], "method": options.methods}
    table = table[np.logical_and.reduce([table[column].isin(values) for column, values in wanted.items()])]
    if tell(table, markdown, options.out) and options.figure:
        figure(table, options.figure)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", default=list(RARE), help=f"data sets of quality.py ({' '.join(RARE)})")
    add("--rare", nargs="+", help="types to make rare (those of each data set that are rare already)")
    add("--sizes", nargs="+", type=int, default=list(SIZES), help="cells left of the type, or all (5 10 20 50)")
    add("--to", type=int, help="cells to bring the type up to (the median size of a type)")
    add("--seeds", nargs="+", type=int, default=list(range(10)), help="each changes split, training, drawing (0 to 9)")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD", help=", ".join(METHODS))
    add("--classifiers", nargs="+", default=["logistic"], choices=["logistic", "forest"], help="(logistic)")
    add("--steps", type=int, default=1000, help="training steps of the flow (%(default)s)")
    add("--genes", type=int, default=2000, help="variable genes to keep (%(default)s)")
    add("--out", type=Path, help="keep every figure in this .csv as soon as it is there, and the tables as .md")
    add("--figure", type=Path, help="draw F1 by the number of cells")
    return parser.parse_args(arguments)


def measured(
    adata: AnnData, name: str, rare: str, options: argparse.Namespace, known: pd.DataFrame
) -> Iterator[pd.DataFrame]:
    """The rows of each size, seed and method that are not known yet, a method at a time."""
    finished = done(known, KEY)
    for seed in options.seeds:
        halves = scflow.pp.split(adata, stratify=CONDITION, test_size=0.5, seed=seed)
        there = int((types(halves[0]) == rare).sum())
        for n in sorted({min(size, there) for size in options.sizes}):
            task, held_out = diminished(*halves, rare, n, seed, options)
            if not task.more:
                print(f"{name}, {rare}, n {n}, seed {seed}: as many as other types have. Skipped; raise --to.")
                continue
            for method in filter(available, options.methods):
                setting = (name, rare, n, n + task.more, options.genes, seed, options.steps, method)
                keys = [key for key in ((*setting, c) for c in options.classifiers) if key not in finished]
                if keys:
                    rows = pd.DataFrame(scored(task, held_out, method, keys))[COLUMNS]
                    print(line(rows), flush=True)
                    yield rows


def diminished(
    train: AnnData, held_out: AnnData, rare: str, n: int, seed: int, options: argparse.Namespace
) -> tuple[Task, AnnData]:
    """The training cells with `n` of the rare type; genes are chosen among those cells, as nobody has others."""
    labels, rng = types(train), np.random.default_rng(seed)
    few = rng.permutation(np.flatnonzero(labels == rare))[:n]
    train = train[np.sort(np.concatenate([np.flatnonzero(labels != rare), few]))]
    chosen = np.sort(Space.fit(counts_of(train), options.genes, n_components=1).chosen)
    sides = (side[:, chosen] for side in (train, held_out))
    train, held_out = (side[library_sizes(counts_of(side)) > 0].copy() for side in sides)
    expressed = np.asarray(counts_of(train).sum(axis=0)).ravel() > 0
    train, held_out = train[:, expressed].copy(), held_out[:, expressed].copy()
    to = options.to or int(np.median(train.obs[CONDITION].value_counts()))
    more = max(0, to - int((types(train) == rare).sum()))
    return Task(train, Space.fit(counts_of(train), options.genes), rare, more, seed, options.steps), held_out


def scored(task: Task, held_out: AnnData, method: str, keys: Sequence[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """A row a classifier, all of the same examples."""
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    start = time.process_time()
    examples, truth = METHODS[method](task), types(held_out)
    seconds, added = time.process_time() - start, len(examples.labels) - task.train.n_obs
    for key in keys:
        said = predicted(task, examples, held_out, key[-1])
        precision, recall, f1, tested = precision_recall_fscore_support(
            truth, said, labels=[task.rare], zero_division=0.0
        )
        yield dict(zip(KEY, key)) | {
            "added": added,
            "tested": int(tested[0]),
            "f1_rare": f1[0],
            "precision": precision[0],
            "recall": recall[0],
            "f1_macro": f1_score(truth, said, labels=np.unique(truth), average="macro", zero_division=0.0),
            "seconds": round(seconds, 1),
        }


def predicted(task: Task, examples: Examples, held_out: AnnData, classifier: str) -> NDArray[np.str_]:
    """The types of held-out cells, by components or by genes."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    unseen = task.space.expression(counts_of(held_out))
    if classifier == "forest":
        forest = RandomForestClassifier(100, n_jobs=1, random_state=task.seed)
        return forest.fit(examples.expression, examples.labels, examples.weights).predict(unseen)
    known, unseen = task.space.project(examples.expression), task.space.project(unseen)
    model = LogisticRegression(max_iter=2000, random_state=task.seed)
    return model.fit(known, examples.labels, examples.weights).predict(unseen)


def line(rows: pd.DataFrame) -> str:
    """What was found of one method."""
    first = rows.iloc[0]
    what = f"{first['data']:18} {first['rare']:16} n {first['n']:>3}, seed {first['seed']}: {first['method']:14}"
    found = (f"{r['classifier']} F1 {r['f1_rare']:.3f}, macro {r['f1_macro']:.3f}" for _, r in rows.iterrows())
    return f"{what} {first['added']:>4} added  " + "  ".join(found) + f"  {first['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
