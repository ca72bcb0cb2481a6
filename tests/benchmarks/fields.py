"""The fields against each other at equal training time; one that stops improving stops before.

python tests/benchmarks/fields.py --data pbmc68k --seconds 120
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from quality import CONDITION, counts_of, data_sets, prepare

import scflow
from scflow.codecs import Codec, GeneStatistics
from scflow.codecs.statistics import gene_statistics
from scflow.conditions import Conditions
from scflow.flow import Flow, Sampling
from scflow.flow._learning import Recipe, default_steps, learn
from scflow.matching import FlowMatching
from scflow.nn import FIELDS
from scflow.training import Run

SHOWN = {"forest_auc_genes": "AUC genes", "forest_auc_components": "AUC PCs", "mmd": "MMD^2"}
FEWEST, DRAWN = 80, 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    parser.add_argument("--spaces", nargs="+", default=["counts", "genes"], help="where the flow lives (counts genes)")
    parser.add_argument("--fields", nargs="+", default=list(FIELDS), choices=list(FIELDS), help="all there are")
    parser.add_argument("--settings", type=json.loads, default={}, help='of the fields, as JSON: {"depth": 6}')
    parser.add_argument("--seconds", type=float, default=120, help="of processor time to train a field (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each changes split, training, drawing (0)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # processor time is a field's own only where one thread does the work
    for name, adata in data_sets(options.data):
        for seed in options.seeds:
            rows = []
            for row in compared(adata, seed, options):
                rows.append(row)
                print(json.dumps(row), flush=True)
            print(f"\n{name}, seed {seed}\n{pd.DataFrame(rows).round(4).to_string(index=False)}", flush=True)
    return 0


def compared(adata: AnnData, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of each field in each space; the fields of one space share its codec."""
    train, held_out = prepare(adata, seed)
    for space in options.spaces:
        codec = None
        for field in options.fields:
            learner = Learner(train, space, field, options.settings, seed)
            codec = codec or learner.codec()
            steps = learner.steps(options.seconds, codec)
            flow, seconds = learner.learn(steps, codec)
            weights = sum(p.numel() for p in flow.field.parameters())
            yield {
                "space": space,
                "field": field,
                "weights": weights,
                "steps": int(flow.provenance["steps"]),
                "best step": int(flow.provenance["best_step"]),
                "seconds": round(seconds, 1),
                "validation loss": float(flow.history["validation_loss"].min()),
                **figures(flow, train, held_out, seed),
            }


class Learner:
    """One field on one data set, trained for as many steps as one asks for."""

    def __init__(self, cells: AnnData, space: str, field: str, settings: dict[str, Any], seed: int) -> None:
        self.counts, self.cells, self.seed = counts_of(cells), cells, seed
        self.space, self.field, self.settings = space, field, settings
        self.statistics: GeneStatistics = gene_statistics(self.counts)
        self.conditions = Conditions.from_frame(cells.obs[[CONDITION]])
        self.condition = self.conditions.encode(cells.obs[[CONDITION]])

    def codec(self) -> Codec:
        """The codec of the space."""
        return self.learn(default_steps(len(self.condition)), None, only_codec=True)[0].codec

    def steps(self, seconds: float, codec: Codec) -> int:
        """How many steps take so many seconds, from two short runs: one of 20 steps and looks, one of 80 and 40."""
        short, long = (self.learn(n, codec)[1] for n in (20, FEWEST))
        step = max(long - 2 * short, 0.05 * long) / 40
        look = max(short / 20 - step, 0.0)
        return max(FEWEST, round((seconds - 40 * look) / step))

    def learn(self, steps: int, codec: Codec | None, *, only_codec: bool = False) -> tuple[Flow, float]:
        """A flow, not yet calibrated, and the seconds of processor time that its field took to train."""
        order = torch.from_numpy(np.random.default_rng([self.seed, 0]).permutation(len(self.condition)))
        held = round(0.1 * len(order))
        ticks: list[float] = []
        run = Run(
            order[held:],
            order[:held],
            batch_size=min(256, len(order) - held),
            seed=self.seed,
            device=torch.device("cpu"),
            progress=False,
            callbacks=[lambda row: ticks.append(time.process_time())],
        )
        recipe = Recipe(
            self.space,
            FlowMatching(),
            "dropout" if self.space == "genes" else "gaussian",
            steps,
            None,
            calibrate=False,
            network={"width": 8, "depth": 1} if only_codec else self.settings,
            field="mlp" if only_codec else self.field,
        )
        names = tuple(map(str, self.cells.var_names))
        given = (self.counts, self.statistics, 10.0, self.conditions, self.condition, names, recipe, run, {})
        flow = learn(*given, codec=codec)
        # The first look comes after a share of the steps: what came before it is as much again as any share.
        looks = len(ticks) - 1
        return flow, (ticks[-1] - ticks[0]) * (looks + 1) / looks if looks else 0.0


def figures(flow: Flow, train: AnnData, held_out: AnnData, seed: int) -> dict[str, float]:
    """The scores of as many calibrated cells as are held out, of the same types, and their floors."""
    condition = flow.conditions.encode(train.obs[[CONDITION]])
    flow = flow.calibrated(counts_of(train), condition, n_drawn=DRAWN, sampling=Sampling(seed=seed + 1))
    cells = scflow.tl.generate(flow, held_out.n_obs, condition=held_out.obs[[CONDITION]], seed=seed, progress=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*conditions")
        scores = scflow.tl.score(held_out, cells, reference=train, condition=None, metrics=list(SHOWN), seed=seed)
    table = scores.set_index("metric")
    found = {label: float(table["value"][metric]) for metric, label in SHOWN.items()}
    return found | {f"floor of {label}": float(table["floor"][metric]) for metric, label in SHOWN.items()}


if __name__ == "__main__":
    sys.exit(main())
