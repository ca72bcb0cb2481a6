"""The tables of small.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from quality_report import setting

ALL = "all"
REAL, OURS, TRIVIAL, AGAIN = "real, unseen", "scflow", "trivial", "training cells again"
ROWS = (REAL, OURS, TRIVIAL, AGAIN)

# What each table shows, in this order, and to how many decimals.
OVERALL = {
    "copying": ("copying", 2),
    "duplicates": ("duplicates", 3),
    "forest_auc_genes": ("AUC genes", 3),
    "forest_auc_components": ("AUC PCs", 3),
}
OF_RARE = {
    "copying": ("copying", 2),
    "duplicates": ("duplicates", 3),
    "called": ("called so", 3),
    "energy": ("energy", 2),
    "correlation": ("fold changes: r", 3),
    "slope": ("slope", 3),
    "error": ("error", 3),
}
BORROWED = {"energy": "less", "correlation": "more", "error": "less"}
"""Where less or more than the training cells have is nearer to real cells."""
LOST = 0.5
"""A type is called lost where it is recognised less than so often as real cells are."""

LEGEND = """\
- **real, unseen**: real cells that neither the flow nor what judges has seen: what perfect cells score. **training
  cells again**: those that the flow learnt from, resampled. **trivial**: Poisson counts from each type's mean profile.
- **copying**: median distance to the nearest training cell over that to the nearest of as many held-out cells; 0 for
  copies. **duplicates**: share of cells equal to a training cell in every count.
- **called so**: share of a type's cells that a classifier of held-out cells calls that type.
- **energy**: energy distance of the rare type's cells to held-out ones, in principal components. **fold changes**:
  log2 of mean counts of the rare type over the rest of the cells, beside those of held-out cells: correlation and root
  mean square error over all genes, slope over the 100 of largest change."""


def markdown(table: pd.DataFrame) -> str:
    """Tables for each data set: means over seeds and their standard deviations."""
    parts = [setting() + ".", LEGEND]
    for (data, n, few, drawn, rare), here in table.groupby(["data", "n", "few", "drawn", "rare"], sort=False):
        seeds = ", ".join(map(str, sorted(set(here["seed"]))))
        steps = ", ".join(f"{steps:,}" for steps in sorted(set(here["steps"])))
        parts.append(f"### {data}: {n} cells, {few} of {rare}; {steps} steps; seeds {seeds}")
        overall = here[here["type"] == ALL]
        parts.append("\n".join(_figures(overall, OVERALL, "all types")))
        parts.append("\n".join(_figures(here[here["type"] == rare], OF_RARE, f"{drawn} of {rare}")))
        parts.append(" ".join(_borrowed(here[here["type"] == rare])))
        parts.append("\n".join(_types(here[here["type"] != ALL])))
        parts.append(_lost(here))
        seconds = overall.loc[overall["metric"] == "cpu_seconds", "value"].mean()
        parts.append(f"Training and drawing: {seconds:.0f} s of processor time a seed.")
    return "\n\n".join(parts) + "\n"


def _figures(here: pd.DataFrame, shown: dict[str, tuple[str, int]], corner: str) -> Iterator[str]:
    """A line for each source of cells."""
    yield f"| {corner} | " + " | ".join(label for label, _ in shown.values()) + " |"
    yield "|---" * (len(shown) + 1) + "|"
    for row in ROWS:
        cells = (_cell(here, row, metric, digits) for metric, (_, digits) in shown.items())
        yield f"| {row} | " + " | ".join(cells) + " |"


def _types(here: pd.DataFrame) -> Iterator[str]:
    """A line for each type: how many cells were learnt from and asked for, and how often they are recognised."""
    yield "| type | trained on | asked for | called so: " + " | ".join((REAL, OURS, TRIVIAL)) + " |"
    yield "|---" * 6 + "|"
    for label in sorted(set(here["type"])):
        of = here[here["type"] == label]
        numbers = (_cell(of, OURS, metric, 0, deviation=False) for metric in ("trained", "asked"))
        shares = (_cell(of, row, "called", 2) for row in (REAL, OURS, TRIVIAL))
        yield f"| {label} | " + " | ".join([*numbers, *shares]) + " |"


def _cell(here: pd.DataFrame, row: str, metric: str, digits: int, *, deviation: bool = True) -> str:
    """Mean and standard deviation over seeds as text."""
    values = here.loc[(here["row"] == row) & (here["metric"] == metric), "value"]
    if values.empty:
        return ""
    spread = f" ± {values.std():.{digits}f}" if deviation and len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _borrowed(here: pd.DataFrame) -> Iterator[str]:
    """In how many seeds drawn cells are nearer to real ones than the few training cells, and than trivial ones."""
    for metric, better in BORROWED.items():
        of = here[here["metric"] == metric].pivot(index="seed", columns="row", values="value")
        sign = 1 if better == "more" else -1
        won = [int((sign * of[OURS] > sign * of[row]).sum()) for row in (AGAIN, TRIVIAL)]
        yield f"{metric.capitalize()}: nearer to real cells than the training cells in {won[0]} of {len(of)} seeds,"
        yield f"than the trivial generator in {won[1]}."
    none = here.loc[here["metric"] == "error_of_none", "value"].mean()
    yield f"Cells that do not differ from the rest at all have an error of {none:.3f}; only less than that is evidence."


def _lost(here: pd.DataFrame) -> str:
    """The types that scflow's cells are recognised as less than half as often as real cells, in the mean over seeds."""
    called = here[here["metric"] == "called"].groupby(["type", "row"])["value"].mean().unstack("row")
    lost = called.index[np.asarray(called[OURS] < LOST * called[REAL])].tolist()
    return f"Lost, recognised less than {LOST:g} times as often as real cells: {', '.join(lost) or 'no type'}."
