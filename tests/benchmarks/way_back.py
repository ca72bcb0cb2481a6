"""The ways back from gene space to counts, before and after calibration; docs/benchmarks.md tells how.

python tests/benchmarks/way_back.py --data pbmc68k
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, cells_of, counts_of, data_sets, prepare, types
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

import scflow
from scflow.codecs import Standardized
from scflow.codecs.calibration import Calibration, group_codes
from scflow.flow import Flow
from scflow.flow._sampling import Sampling

WAYS = ("round", "stochastic", "poisson", "negative_binomial")
EXPECTED = "expected count"
SHOWN = {"forest_auc_genes": "AUC genes", "forest_auc_components": "AUC PCs", "mmd": "MMD^2", "zero_fractions": "zeros"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set, of means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each changes split, training, drawing (0)")
    parser.add_argument("--steps", type=int, help="training steps (chosen from the data's size)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name, adata in data_sets(options.data):
        rows = [row for seed in options.seeds for row in compared(adata, seed, options.steps)]
        table = pd.DataFrame(rows).groupby(["way back", "calibrated"], sort=False).mean()
        print(f"\n{name}, seeds {options.seeds}\n{table.round(4).to_string()}", flush=True)
    return 0


def compared(adata: AnnData, seed: int, steps: int | None) -> Iterator[dict[str, object]]:
    """The figures of one trained flow's cells, by every way back from the same states."""
    train, held_out = prepare(adata, seed)
    flow = scflow.tl.train(train.copy(), condition=CONDITION, space="genes", steps=steps, seed=seed, progress=False)
    codec, counts = flow.codec, counts_of(train)
    assert isinstance(codec, Standardized)
    codec.dispersion.copy_(torch.from_numpy(dispersions(counts.toarray(), types(train))))
    groups = codes(flow, flow.conditions.encode(train.obs[[CONDITION]]), train.n_obs)
    many, many_groups = states(flow, 2000, None, seed + 1)
    few, few_groups = states(flow, held_out.n_obs, held_out.obs[[CONDITION]], seed)
    for way in (*WAYS, EXPECTED):
        plain = values(codec, few, way, seed)
        # Without calibration the expected count is rounded stochastically: the row is there once already.
        if way != EXPECTED:
            yield {"way back": way, "calibrated": False} | figures(plain, train, held_out, seed)
        model = values(codec, many, way, seed + 1)
        calibration = Calibration.fit(model, many_groups, counts, groups, seed=seed + 1)
        carried = calibration.carry(plain, few_groups, rng=torch.Generator().manual_seed(seed + 2))
        yield {"way back": way, "calibrated": True} | figures(carried, train, held_out, seed)


def states(flow: Flow, n: int, request: pd.DataFrame | None, seed: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Where the flow ends, and the codes of the cells' types."""
    drawn = flow.draw(n, request, Sampling(seed=seed, calibration="none"))
    return torch.from_numpy(drawn.state), codes(flow, drawn.condition, n)


def codes(flow: Flow, condition: Tensor | None, n: int) -> NDArray[np.int64]:
    """A code for each cell's type."""
    return group_codes(condition, flow.conditions.cardinalities, n).numpy()


def values(codec: Standardized, state: Tensor, way: str, seed: int) -> sparse.csr_matrix:
    """Counts by a way back, or the fine steps of the expected count, by which a calibrated flow ranks cells."""
    rng = torch.Generator().manual_seed(seed)
    if way == EXPECTED:
        found = codec.rank(state, None, rng=rng)
    else:
        codec.counts = way
        found = codec.decode(state, None, rng=rng)
    return sparse.csr_matrix(found.numpy().astype(np.int32))


def dispersions(counts: NDArray[np.float32], labels: NDArray[np.str_]) -> NDArray[np.float64]:
    """Each gene's negative-binomial dispersion around its type's profile, by moments."""
    size, mean = counts.sum(1, keepdims=True), np.zeros(counts.shape)
    for label in np.unique(labels):
        cells = labels == label
        mean[cells] = size[cells] * counts[cells].sum(0) / size[cells].sum()
    excess = ((counts - mean) ** 2 - mean).sum(0) / np.maximum((mean**2).sum(0), 1e-12)
    result: NDArray[np.float64] = excess.clip(1e-3, 10.0)
    return result


def figures(counts: sparse.csr_matrix, train: AnnData, held_out: AnnData, seed: int) -> dict[str, float]:
    """The scores of as many cells as are held out, of the same types."""
    cells = cells_of(counts, train, types(held_out))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*conditions")
        scores = scflow.tl.score(held_out, cells, reference=train, condition=None, metrics=list(SHOWN), seed=seed)
    value = scores.set_index("metric")["value"]
    return {label: float(value[metric]) for metric, label in SHOWN.items()}


if __name__ == "__main__":
    sys.exit(main())
