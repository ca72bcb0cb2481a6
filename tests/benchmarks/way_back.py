"""The ways back from gene space to counts, before and after calibration; docs/benchmarks.md tells how.

python tests/benchmarks/way_back.py --data pbmc68k
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from quality import CONDITION, cells_of, counts_of, data_sets, prepare, types
from torch import Tensor

import scflow
from scflow.codecs import Standardized
from scflow.codecs.base import Codec
from scflow.flow import Flow
from scflow.flow._sampling import Sampling

WAYS = ("round", "stochastic", "poisson", "negative_binomial")
EXPECTED = "expected count"
SHOWN = {"forest_auc_genes": "AUC genes", "forest_auc_components": "AUC PCs", "mmd": "MMD^2", "zero_fractions": "zeros"}


class Drawn(Standardized):
    """Gene space whose calibration ranks the counts it drew, and not the expected counts."""

    def rank(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """The drawn counts."""
        return self.decode(state, condition, rng=rng)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set and seed, and one of the means."""
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
    """The figures of one trained flow's cells, by every way back; each draws the same states."""
    train, held_out = prepare(adata, seed)
    flow = scflow.tl.train(train.copy(), condition=CONDITION, space="genes", steps=steps, seed=seed, progress=False)
    ways = {way: replace(flow, codec=codec_of(flow, train, way), calibration=None) for way in WAYS}
    ways[EXPECTED] = replace(flow, calibration=None)
    for way, plain in ways.items():
        condition = plain.conditions.encode(train.obs[[CONDITION]])
        calibrated = plain.calibrated(counts_of(train), condition, n_drawn=2000, sampling=Sampling(seed=seed + 1))
        # Without calibration the expected count is rounded stochastically: the row is there once already.
        for one in (calibrated,) if way == EXPECTED else (plain, calibrated):
            yield {"way back": way, "calibrated": one is calibrated} | figures(one, train, held_out, seed)


def codec_of(flow: Flow, train: AnnData, way: str) -> Codec:
    """The flow's codec with another way back."""
    assert isinstance(flow.codec, Standardized)
    codec = Drawn(**{**flow.codec.settings(), "counts": way})
    codec.load_state_dict(flow.codec.state_dict())
    codec.dispersion.copy_(torch.from_numpy(dispersions(counts_of(train).toarray(), types(train))))
    return codec.eval()


def dispersions(counts: NDArray[np.float32], labels: NDArray[np.str_]) -> NDArray[np.float64]:
    """Each gene's negative-binomial dispersion around its type's profile, by moments."""
    size, mean = counts.sum(1, keepdims=True), np.zeros(counts.shape)
    for label in np.unique(labels):
        cells = labels == label
        mean[cells] = size[cells] * counts[cells].sum(0) / size[cells].sum()
    excess = ((counts - mean) ** 2 - mean).sum(0) / np.maximum((mean**2).sum(0), 1e-12)
    result: NDArray[np.float64] = excess.clip(1e-3, 10.0)
    return result


def figures(flow: Flow, train: AnnData, held_out: AnnData, seed: int) -> dict[str, float]:
    """The scores of as many cells as are held out, of the same types."""
    drawn = flow.draw(held_out.n_obs, held_out.obs[[CONDITION]], sampling=Sampling(seed=seed))
    assert drawn.counts is not None
    cells = cells_of(drawn.counts, train, types(held_out))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*conditions")
        scores = scflow.tl.score(held_out, cells, reference=train, condition=None, metrics=list(SHOWN), seed=seed)
    value = scores.set_index("metric")["value"]
    return {label: float(value[metric]) for metric, label in SHOWN.items()}


if __name__ == "__main__":
    sys.exit(main())
