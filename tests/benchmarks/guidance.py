"""What guidance does to label accuracy, diversity and realism; docs/benchmarks.md tells how.

python tests/benchmarks/guidance.py --data pbmc68k
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, counts_of, data_sets, prepare, types
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.matching.guidance import Guidance
from scflow.metrics import Space, two_sample_auc

SCALES = (1.0, 1.5, 2.0, 3.0)
FEWEST = 5
"""Cells of a type, drawn and held out, for its variance to count."""

Row = dict[str, object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set, of means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each changes split, training, drawing (0)")
    parser.add_argument("--scales", nargs="+", type=float, default=list(SCALES), help="of guidance (1 1.5 2 3)")
    parser.add_argument("--interval", nargs=2, type=float, help="times at which guidance applies as well (none)")
    parser.add_argument("--steps", type=int, help="training steps (chosen from the data's size)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name, adata in data_sets(options.data):
        rows = [row for seed in options.seeds for row in guided(adata, seed, options)]
        table = pd.DataFrame(rows).groupby(["cells", "calibrated"], sort=False)
        print(f"\n{name}, seeds {options.seeds}\n{table.mean().round(3).to_string()}", flush=True)
    return 0


def guided(adata: AnnData, seed: int, options: argparse.Namespace) -> Iterator[Row]:
    """Figures of held-out cells and of cells drawn with each scale, before and after calibration.

    Calibration carries counts to the training cells' marginals, and takes back some of what guidance did.
    """
    train, held_out = prepare(adata, seed)
    judge = judged(train, held_out)
    yield {"cells": "held out", "calibrated": "-"} | judge(counts_of(held_out), types(held_out))
    flow = scflow.tl.train(
        train.copy(), condition=CONDITION, space="counts", steps=options.steps, seed=seed, progress=False
    )
    wanted = held_out.obs[[CONDITION]]
    intervals = [(0.0, 1.0), *([tuple(options.interval)] if options.interval else [])]
    for scale in options.scales:
        for interval in intervals if scale != 1 else intervals[:1]:
            label = f"guidance {scale:g}" + (f" in {interval}" if interval != (0.0, 1.0) else "")
            for calibrated in (False, True):
                asked, how = Guidance(scale, interval=interval), "independent" if calibrated else "none"
                sampling = scflow.flow.Sampling(seed=seed, guidance=asked, calibration=how)
                counts = flow.draw(held_out.n_obs, wanted, sampling).counts
                assert counts is not None
                yield {"cells": label, "calibrated": calibrated} | judge(counts, types(held_out))


def judged(train: AnnData, held_out: AnnData) -> Callable[[sparse.csr_matrix, NDArray[np.str_]], Row]:
    """A function from counts and the types that were asked for to the share recognised, diversity and AUC.

    A logistic regression of the training cells' types in principal components says which type a cell is of. Diversity
    is the trace of the covariance within a type, in the same components, over that of the held-out cells, averaged over
    types by their number of cells.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    space = Space.fit(counts_of(train))
    recognise = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    recognise.fit(space.components(counts_of(train)), types(train))
    real, labels = space.components(counts_of(held_out)), types(held_out)
    known, size = np.unique(labels, return_counts=True)
    known, size = known[size >= FEWEST], size[size >= FEWEST]

    def judge(counts: sparse.csr_matrix, wanted: NDArray[np.str_]) -> Row:
        cells = space.components(counts)
        ratios = [cells[wanted == k].var(0).sum() / real[labels == k].var(0).sum() for k in known]
        return {
            "label accuracy": float((recognise.predict(cells) == wanted).mean()),
            "variance ratio": float(np.average(ratios, weights=size)),
            "AUC genes": two_sample_auc(space.genes(counts_of(held_out)), space.genes(counts)).value,
        }

    return judge


if __name__ == "__main__":
    sys.exit(main())
