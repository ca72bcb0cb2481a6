"""How good cells are for how many evaluations, of a flow, reflowed and distilled; docs/benchmarks.md tells how.

python tests/benchmarks/steps.py --data pbmc68k --out steps.csv
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, data_sets, prepare

import scflow
from scflow.flow import Flow

BOUNDS = {4: 0.03, 1: 0.05}
"""By how much the best AUC in so many evaluations may be above that of the original flow in 50."""
MOST = 50
WAYS = {
    "original": ["euler", "midpoint"],
    "reflowed": ["euler"],
    "distilled": ["jump"],
}
AUC = "forest_auc_genes"
COLUMNS = {AUC: "AUC genes", "forest_auc_components": "AUC PCs", "mmd": "MMD^2", "wasserstein": "W2"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each data set and seed, and whether the bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pbmc68k"], help="data sets of quality.py (pbmc68k)")
    parser.add_argument("--seed", type=int, default=0, help="changes split, training and drawing (0)")
    parser.add_argument("--evaluations", nargs="+", type=int, default=[1, 2, 4, 8, 24, MOST], help="(1 2 4 8 24 50)")
    parser.add_argument("--calibrated", choices=("yes", "no", "both"), default="both", help="counts (both)")
    parser.add_argument("--steps", type=int, help="training steps of all three (their own defaults)")
    parser.add_argument("--method", default="trajectory", help="of distilling (trajectory)")
    parser.add_argument("--all-solvers", action="store_true", help="every solver, for the picture")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument("--out", type=Path, help="write every figure to this .csv")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    tables = []
    for name, adata in data_sets(options.data):
        table = measured(adata, options).assign(data=name, seed=options.seed)
        tables.append(table)
        print(f"\n{name}, seed {options.seed}\n{wide(table).to_string()}\n", flush=True)
        print("\n".join(judged(table)), flush=True)
        if options.out:
            pd.concat(tables).to_csv(options.out, index=False)
    return 0


def measured(adata: AnnData, options: argparse.Namespace) -> pd.DataFrame:
    """The table of `scflow.tl.steps` for every flow, with a column that says whether counts were calibrated."""
    train, held_out = prepare(adata, options.seed)
    flows, tables = made(train.copy(), options), []
    for calibrated in (False, True):
        if options.calibrated not in ("both", "yes" if calibrated else "no"):
            continue
        for name, flow in flows.items():
            table = scflow.tl.steps(
                {name: flow},
                held_out,
                reference=train,
                solvers="auto" if options.all_solvers else WAYS[name],
                evaluations=options.evaluations,
                calibration="balanced" if calibrated else "none",
                seed=options.seed,
                progress=False,
            )
            tables.append(table.assign(calibrated=calibrated))
            print(wide(tables[-1]).to_string(), flush=True)
    return pd.concat(tables, ignore_index=True)


def made(train: AnnData, options: argparse.Namespace) -> dict[str, Flow]:
    """The default flow, what reflow makes of it with the training cells at hand, and what distilling makes of it."""
    steps, seed = ({} if options.steps is None else {"steps": options.steps}), options.seed
    original = timed("train", lambda: scflow.tl.train(train, condition=CONDITION, seed=seed, progress=False, **steps))
    return {
        "original": original,
        "reflowed": timed("reflow", lambda: scflow.tl.reflow(train, seed=seed, progress=False, **steps)),
        "distilled": timed(
            "distill",
            lambda: scflow.tl.distill(original, method=options.method, seed=seed, progress=False, **steps),
        ),
    }


def timed(what: str, make: Callable[[], Flow]) -> Flow:
    """A flow, and a line that says how long it took."""
    start = time.perf_counter()
    flow = make()
    print(f"{what}: {time.perf_counter() - start:.0f} s, {flow!r}", flush=True)
    return flow


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """One row a way of drawing, one column a metric, and the floors below."""
    shifted = table["shift"].map(lambda shift: "" if shift == 1 else f", shift {shift:g}")
    rows = table.assign(solver=table["solver"] + shifted, evaluations=table["evaluations"].round().astype(int))
    keys = ["calibrated", "flow", "solver", "evaluations"]
    found = rows.pivot_table(index=keys, columns="metric", values="value", sort=False)[list(COLUMNS)]
    floors = rows.groupby("metric")["floor"].first()[list(COLUMNS)]
    return pd.concat([found, pd.DataFrame(floors).T.set_axis([("", "floor", "", "")])]).rename(columns=COLUMNS).round(4)


def judged(table: pd.DataFrame) -> Iterator[str]:
    """Whether the bounds hold, for flows made for few steps."""
    for calibrated, part in table[table["metric"] == AUC].groupby("calibrated"):
        rows = part.assign(evaluations=part["evaluations"].round())
        original = rows[(rows["flow"] == "original") & (rows["evaluations"] == MOST)]["value"].min()
        for n, bound in BOUNDS.items():
            for name in ("reflowed", "distilled"):
                found = rows[(rows["flow"] == name) & (rows["evaluations"] == n)]["value"].min()
                said = "PASS" if found - original <= bound else "FAIL"
                how = "calibrated" if calibrated else "not calibrated"
                yield f"{said}: {name}, {n} evaluations, {how}: {found:.3f}, at most {original:.3f} + {bound}"


if __name__ == "__main__":
    sys.exit(main())
