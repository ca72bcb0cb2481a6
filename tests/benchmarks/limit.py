"""What the number of training cells costs by itself, with all else perfect; docs/benchmarks.md tells how.

python tests/benchmarks/limit.py --data pbmc3k
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, data_sets, prepare
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.codecs.calibration import Calibration, group_codes
from scflow.flow import Flow
from scflow.flow._sampling import Sampling
from scflow.metrics import Space, two_sample_auc

Cells = tuple[sparse.csr_matrix, NDArray[np.int64]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    parser.add_argument("--seed", type=int, default=0, help="of split and training (0)")
    parser.add_argument("--repeats", type=int, default=5, help="samples of the truth (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name, adata in data_sets(options.data):
        table = pd.DataFrame(measured(adata, options.seed, options.repeats))
        summary = table.agg(["mean", "std"]).round(3)
        print(f"{name}, {options.repeats} samples of {adata.n_obs // 2:,} cells\n{summary.to_string()}", flush=True)
    return 0


def measured(adata: AnnData, seed: int, repeats: int) -> Iterator[dict[str, float]]:
    """The AUC by genes of cells of the truth itself, and of the truth calibrated on a sample of it.

    The truth is a trained flow. Calibrating it on as many of its own cells as there are training cells changes nothing
    but marginals, which then have those cells' sampling error. As in quality.py, as many cells are drawn as there are
    training cells, and half of them are compared; in the last row, four times as many are drawn.
    """
    train, held_out = prepare(adata, seed)
    truth = scflow.tl.train(train.copy(), condition=CONDITION, space="counts", seed=seed, progress=False)
    many, n = drawn(truth, 10_000, 1), held_out.n_obs // 2
    for r in range(repeats):
        sizes = (train.n_obs, n, train.n_obs, 4 * train.n_obs)
        sample, real, new, more = (drawn(truth, size, 1000 * i + r) for i, size in enumerate(sizes, start=1))
        row = {"the truth": auc(real[0], new[0][:n], sample[0])}
        for label, shrinkage, cells, balanced in (
            ("by gene, one by one", 1e9, new, False),
            ("by gene and type, one by one", 20.0, new, False),
            ("by gene and type, balanced", 20.0, new, True),
            ("by gene and type, balanced, of 4 times as many", 20.0, more, True),
        ):
            calibration = Calibration.fit(*many, *sample, shrinkage=shrinkage)
            counts = carried(calibration, cells, balanced=balanced, seed=r)
            row[f"calibrated {label}"] = auc(real[0], counts[:n], sample[0])
        yield row


def carried(calibration: Calibration, cells: Cells, *, balanced: bool, seed: int) -> sparse.csr_matrix:
    """The cells' counts, calibrated; where `balanced`, against each other too."""
    counts, groups = torch.from_numpy(cells[0].toarray()), torch.from_numpy(cells[1])
    in_all = calibration.counted(groups, len(counts)) if balanced else None
    rng = torch.Generator().manual_seed(seed)
    return sparse.csr_matrix(calibration(counts, groups, rng=rng, in_all=in_all).numpy())


def drawn(flow: Flow, n: int, seed: int) -> Cells:
    """Counts, and the codes of the cells' types."""
    cells = flow.draw(n, sampling=Sampling(seed=seed, calibration="independent"))
    assert cells.counts is not None
    return cells.counts, group_codes(cells.condition, flow.conditions.cardinalities, n).numpy()


def auc(real: sparse.csr_matrix, new: sparse.csr_matrix, reference: sparse.csr_matrix) -> float:
    """Of the judge's forest, by genes."""
    space = Space.fit(reference)
    return two_sample_auc(space.genes(real), space.genes(new)).value


if __name__ == "__main__":
    sys.exit(main())
