"""The guide's choices one at a time, each against the default on the same cells and seed.

All share one codec, but for those that are about the codec.

python tests/benchmarks/ablation.py --data pbmc3k cell_line_mixology --out ablation.csv --figure ablation.png

Run again with the same --out, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ablation_report import DEFAULT, METRICS, figure, markdown, summary
from anndata import AnnData
from cells import data_sets, prepare
from learner import Learner
from resumed import done, read, tell, write
from torch import Tensor

from scflow.codecs import Codec
from scflow.errors import Diverged
from scflow.flow._learning import Recipe, default_steps
from scflow.matching import paths, times
from scflow.matching.names import COUPLINGS, PATHS, TIMES, WEIGHTS
from scflow.nn import FIELDS
from scflow.training import Optimisation
from scflow.training.averages import AVERAGES
from scflow.training.settings import SCHEDULES

KEY = ["data", "seed", "space", "choice", "variant", "planned", "codec_steps"]
COLUMNS = [
    *KEY,
    "calibrated",
    "steps",
    "best_step",
    "seconds",
    *(name for metric in METRICS for name in (metric, f"{metric}_floor")),
]

Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Unpreconditioned(paths.Path):
    """The linear path, but not known to be affine: its field is the network alone (`scflow.matching.Bare`)."""

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> paths.PathSample:
        return paths.Linear().sample(x0, x1, t)


def of_recipe(**parts: Any) -> Change:
    """A recipe with other parts."""
    return lambda recipe: replace(recipe, **parts)


def of_objective(**parts: Any) -> Change:
    """A recipe whose objective has other parts."""
    return lambda recipe: replace(recipe, objective=replace(recipe.objective, **parts))


CHOICES: dict[str, dict[str, Change]] = {
    "path": {name: of_objective(path=kind()) for name, kind in PATHS.items()},
    "weight": {name: of_objective(weight=kind()) for name, kind in WEIGHTS.items()},
    "time": {
        **{name: of_objective(time=kind()) for name, kind in TIMES.items()},
        "importance, corrected": of_objective(time=times.Importance(corrected=True)),
    },
    "coupling": {name: of_objective(coupling=kind()) for name, kind in COUPLINGS.items()},
    "noise": {name: of_recipe(noise=name) for name in ("gaussian", "matched_variance", "sparse")},
    "noise_genes": {name: of_recipe(noise=name) for name in ("gaussian", "sparse", "dropout", "dropout_by_condition")},
    "field": {name: of_recipe(field=name) for name in FIELDS},
    "preconditioning": {"on": of_recipe(), "off": of_objective(path=Unpreconditioned())},
    "average": {name: of_recipe(optimisation=Optimisation(average=name)) for name in AVERAGES},
    "schedule": {name: of_recipe(optimisation=Optimisation(schedule=name)) for name in SCHEDULES},
    "effects": {name: of_recipe(effects=name) for name in ("code", "genes")},
}
ALWAYS_IN = {"noise_genes": "genes", "effects": "counts"}
"""Choices that are about one space, whatever --space says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the file does not hold yet, and print tables of all that was asked for."""
    options = parse(arguments)
    torch.set_num_threads(1)  # Processor time is a field's own only where one thread does the work.
    table = (
        pd.concat([read(path, COLUMNS) for path in options.join], ignore_index=True)
        if options.join
        else read(options.out, COLUMNS)
    )
    for name, adata in () if options.join else data_sets(options.data):
        for seed in options.seeds:
            for rows in measured(adata, name, seed, options, done(table, KEY)):
                table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
                if options.out:
                    write(table, options.out)
    table = table[table["data"].isin(options.data) & table["seed"].isin(options.seeds)]
    if tell(table, tables, options.out) and options.figure:
        figure(table, options.figure)
    return 0


def tables(table: pd.DataFrame) -> str:
    """All figures, and the differences from the default in short."""
    return f"{markdown(table)}\n### In short\n\n{summary(table)}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    add("--seeds", nargs="+", type=int, default=[0], help="each changes split, training, drawing (0)")
    add("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES), metavar="CHOICE", help=", ".join(CHOICES))
    add("--space", default="counts", help="where the flow lives, but for noise_genes (%(default)s)")
    add("--steps", type=int, help="training steps of the field, the same for all (chosen from the data's size)")
    add("--codec-steps", type=int, help="training steps of the codec (chosen from the data's size)")
    add("--metrics", nargs="+", default=list(METRICS), choices=list(METRICS), metavar="METRIC", help=", ".join(METRICS))
    add("--out", type=Path, help="add every row to this .csv as soon as it is there, and write the tables as .md")
    add("--figure", type=Path, help="draw the differences from the default")
    add("--join", nargs="+", type=Path, help="measure nothing: tables and figure of these .csv files")
    return parser.parse_args(arguments)


def variants(choices: Sequence[str], space: str, default: Recipe) -> Iterator[tuple[str, str, Recipe]]:
    """Choice, variant and recipe of all that is learnt in a space: first the default, then what differs from it."""
    here = [choice for choice in choices if ALWAYS_IN.get(choice, space) == default.space]
    if here:
        yield DEFAULT, DEFAULT, default
    for choice in here:
        for name, change in CHOICES[choice].items():
            recipe = change(default)
            if recipe != default:
                yield choice, name, recipe


def measured(
    adata: AnnData, name: str, seed: int, options: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[pd.DataFrame]:
    """The rows of each variant that is not known yet: its cells as they are, and calibrated."""
    train, held_out = prepare(adata, seed)
    for space in dict.fromkeys([options.space, *(ALWAYS_IN[c] for c in options.choices if c in ALWAYS_IN)]):
        learner, fitted = Learner(train, held_out, space, seed), dict[str, Codec]()
        codec_steps = options.codec_steps or default_steps(train.n_obs)
        for choice, variant, recipe in variants(options.choices, options.space, learner.default(options.steps)):
            key = (name, seed, space, choice, variant, recipe.steps, codec_steps)
            if key in known:
                continue
            if recipe.effects not in fitted:
                fitted[recipe.effects] = learner.codec(codec_steps, recipe.effects)
            start = time.process_time()  # Other work on the machine does not count.
            rows = pd.DataFrame(scored(learner, fitted[recipe.effects], recipe, options.metrics)).reindex(
                columns=COLUMNS
            )
            rows[KEY] = pd.DataFrame([key] * len(rows))
            print(line(rows, time.process_time() - start), flush=True)
            yield rows


def scored(learner: Learner, codec: Codec, recipe: Recipe, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """A row for cells as they are drawn and one for calibrated ones; without figures where training diverged."""
    try:
        flow, seconds = learner.learn(recipe, codec)
    except Diverged as error:
        print(f"diverged: {error}")
        return [{"calibrated": calibrated} for calibrated in (False, True)]
    facts = {"steps": flow.provenance["steps"], "best_step": flow.provenance["best_step"], "seconds": round(seconds, 1)}
    rows = []
    for calibrated in (False, True):
        scores = learner.scores(learner.calibrated(flow) if calibrated else flow, metrics)
        found = {metric: value for metric, (value, _) in scores.items()}
        floors = {f"{metric}_floor": floor for metric, (_, floor) in scores.items()}
        rows.append({"calibrated": calibrated, **facts, **found, **floors})
    return rows


def line(rows: pd.DataFrame, seconds: float) -> str:
    """What was found of one variant, as drawn and calibrated, and how long the processor took."""
    first = rows.iloc[0]
    what = f"{first['data']:20} {first['seed']:>2} {first['space']:8} {first['choice']}: {first['variant']}"
    pairs = (f"{label} {rows[m].iloc[0]:.4f} {rows[m].iloc[1]:.4f}" for m, (label, _) in METRICS.items())
    return f"{what:70} " + "  ".join(pairs) + f"  {first['seconds']:.0f} s trained, {seconds:.0f} s in all"


if __name__ == "__main__":
    sys.exit(main())
