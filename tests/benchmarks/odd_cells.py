"""Whether log-densities find odd cells that were planted among real ones; docs/guide.md tells how.

python tests/benchmarks/odd_cells.py --data pbmc68k --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, counts_of, data_sets, prepare, types
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scflow
from scflow.flow import Flow
from scflow.metrics import Space

KINDS = ("counts of random genes", "mean profile", "doublet", "wrong label")
SHARE = 0.02
"""Cells that are made odd, of each kind."""
NEIGHBOURS = 10

Scores = dict[str, NDArray[np.float64]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set, of means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each changes split, odd cells, training (0)")
    parser.add_argument("--steps", type=int, help="training steps (chosen from the data's size)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name, adata in data_sets(options.data):
        rows = [row for seed in options.seeds for row in measured(adata, seed, options.steps)]
        table = pd.DataFrame(rows).drop(columns="seed").groupby(["cells", "by"], sort=False).agg(["mean", "std"])
        print(f"\n{name}, seeds {options.seeds}, AUC of odd cells\n{table.round(2).to_string()}", flush=True)
    return 0


def measured(adata: AnnData, seed: int, steps: int | None) -> Iterator[dict[str, object]]:
    """AUCs of each kind of odd cells against the rest, among the training cells and among new ones."""
    rng = np.random.default_rng(seed)
    halves = [planted(half, rng) for half in prepare(adata, seed)]
    train = halves[0][0]
    flow = scflow.tl.train(train.copy(), condition=CONDITION, space="counts", steps=steps, seed=seed, progress=False)
    for label, (cells, kind) in zip(("trained on", "new"), halves, strict=True):
        for by, values in {**densities(flow, cells), **distances(train, cells)}.items():
            yield {"seed": seed, "cells": label, "by": by} | {k: auc(values, kind, k) for k in KINDS}


def planted(adata: AnnData, rng: np.random.Generator) -> tuple[AnnData, NDArray[np.str_]]:
    """The cells with a few made odd, and of which kind each is; "" for those that are as they were."""
    x, label = counts_of(adata).toarray(), types(adata).astype(object)
    n = max(2, round(SHARE * adata.n_obs))
    rows = rng.choice(adata.n_obs, size=(len(KINDS), n), replace=False)
    known, profile, before = sorted(set(label)), x.sum(0) / x.sum(), (x.copy(), label.copy())
    for shuffled, mean, double, wrong in rows.T:
        x[shuffled] = rng.permutation(x[shuffled])
        x[mean] = rng.multinomial(int(x[mean].sum()), profile)
        partner = rng.choice(np.flatnonzero(before[1] != label[double]))
        x[double] = rng.binomial((x[double] + before[0][partner]).astype(np.int64), 0.5)
        label[wrong] = rng.choice([name for name in known if name != label[wrong]])
    kind = np.full(adata.n_obs, "", dtype=object)
    kind[rows.ravel()] = np.repeat(KINDS, n)
    cells = AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=adata.obs[[CONDITION]].copy(), var=adata.var.copy())
    cells.obs[CONDITION] = label.astype(str)
    return cells, kind.astype(str)


def densities(flow: Flow, cells: AnnData) -> Scores:
    """Log-densities under the cells' own labels, and beside those under the likeliest other label."""
    known = flow.conditions.decode(torch.arange(flow.conditions.cardinalities[0])[:, None].float())[CONDITION]
    table = np.stack([log_prob(flow, cells, {CONDITION: name}) for name in known], axis=1)
    own = np.asarray(known)[None, :] == types(cells)[:, None]
    density = np.where(own, table, -np.inf).max(axis=1)
    return {
        "log-density": density,
        "own label less best other": density - np.where(own, -np.inf, table).max(axis=1),
        "log-density, any label": log_prob(flow, cells, {CONDITION: None}),
    }


def log_prob(flow: Flow, cells: AnnData, condition: dict[str, str | None]) -> NDArray[np.float64]:
    found = scflow.tl.log_prob(cells, flow, condition=condition, progress=False, copy=True)
    assert found is not None
    return found.obs["scflow_log_prob"].to_numpy()


def distances(train: AnnData, cells: AnnData) -> Scores:
    """Minus the mean distance to the nearest training cells in components: the plain way to find odd cells."""
    from sklearn.neighbors import NearestNeighbors

    space = Space.fit(counts_of(train))
    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(space.components(counts_of(train)))
    distance = near.kneighbors(space.components(counts_of(cells)))[0]
    first = 1 if distance[:, 0].max() < 1e-3 else 0  # a training cell is its own nearest
    return {"neighbours in components": -distance[:, first : first + NEIGHBOURS].mean(axis=1)}


def auc(values: NDArray[np.float64], kind: NDArray[np.str_], which: str) -> float:
    """Of one kind against the cells that are as they were; above a half where odd cells are low."""
    rows = (kind == which) | (kind == "")
    return float(roc_auc_score(kind[rows] == which, -values[rows]))


if __name__ == "__main__":
    sys.exit(main())
