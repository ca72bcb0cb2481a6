"""The fields against each other at equal training time; one that stops improving stops before.

python tests/benchmarks/fields.py --data pbmc68k --seconds 120
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from cells import data_sets, prepare
from learner import Learner

from scflow.codecs import Codec
from scflow.flow import Flow
from scflow.nn import FIELDS

SHOWN = {"forest_auc_genes": "AUC genes", "forest_auc_components": "AUC PCs", "mmd": "MMD^2"}
FEWEST = 80


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
        learner = Learner(train, held_out, space, seed)
        codec = learner.codec()
        for field in options.fields:
            yield {"space": space, "field": field, **trained(learner, codec, field, options)}


def trained(learner: Learner, codec: Codec, field: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one field."""
    recipe = replace(learner.default(), field=field, network=options.settings)
    steps = steps_in(options.seconds, lambda n: learner.learn(replace(recipe, steps=n), codec)[1])
    flow, seconds = learner.learn(replace(recipe, steps=steps), codec)
    return {
        "weights": sum(p.numel() for p in flow.field.parameters()),
        "steps": int(flow.provenance["steps"]),
        "best step": int(flow.provenance["best_step"]),
        "seconds": round(seconds, 1),
        "validation loss": float(flow.history["validation_loss"].min()),
        **figures(learner, flow),
    }


def steps_in(seconds: float, measure: Callable[[int], float]) -> int:
    """How many steps take so many seconds, from two short runs: one of 20 steps and looks, one of 80 and 40."""
    short, long = (measure(n) for n in (20, FEWEST))
    step = max(long - 2 * short, 0.05 * long) / 40
    look = max(short / 20 - step, 0.0)
    return max(FEWEST, round((seconds - 40 * look) / step))


def figures(learner: Learner, flow: Flow) -> dict[str, float]:
    """The scores of calibrated cells, and their floors."""
    scores = learner.scores(learner.calibrated(flow), list(SHOWN))
    found = {label: scores[metric][0] for metric, label in SHOWN.items()}
    return found | {f"floor of {label}": scores[metric][1] for metric, label in SHOWN.items()}


if __name__ == "__main__":
    sys.exit(main())
