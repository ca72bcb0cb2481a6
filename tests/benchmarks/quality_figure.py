"""The picture of quality.py: how well a forest tells the cells of each row from real ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from quality_report import BOOTSTRAP, FLOOR, RIVALS, SHOWN, TRIVIAL, rank

METRICS = ("forest_auc_genes", "forest_auc_components")
# Okabe and Ito's blue and vermilion, and grey; a shape each.
REAL, OURS, RIVAL = ("#4d4d4d", "D"), ("#0072b2", "o"), ("#d55e00", "s")
FLOOR_COLOUR = "#009e73"


def figure(table: pd.DataFrame, out: Path) -> None:
    """Draw both AUC of every row on every data set: a mark a seed, a line at their mean, the floor behind them.

    The columns are data sets, the rows of panels are metrics; all share one axis, on which 0.5 is perfect and 1 is
    cells that are told from real ones without error.
    """
    import matplotlib.pyplot as plt

    overall = table[(table["condition"] == "all") & table["metric"].isin(METRICS)]
    if overall.empty:
        return
    names = list(dict.fromkeys(overall["data"]))
    rows = sorted(set(overall["row"]) - {FLOOR}, key=rank)
    drawn, axes = plt.subplots(
        len(METRICS),
        len(names),
        figsize=(1.9 + 2.1 * len(names), 2 * (0.22 * len(rows) + 0.8)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for line, metric in zip(axes, METRICS):
        for ax, name in zip(line, names):
            _panel(ax, overall[(overall["data"] == name) & (overall["metric"] == metric)], rows)
        line[0].set_yticks(range(len(rows)), rows)
        line[0].set_ylabel(SHOWN[metric][0], fontweight="bold")
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    for ax, name in zip(axes[0], names):
        ax.set_title(name, fontsize="medium")
    drawn.supxlabel(
        "AUC of a forest: 0.5 is perfect. The line is the floor, real cells against real", fontsize="medium"
    )
    drawn.savefig(out, dpi=120)
    plt.close(drawn)


def _panel(ax: Axes, here: pd.DataFrame, rows: list[str]) -> None:
    """One metric on one data set."""
    ax.set_xlim(0.4, 1.03)
    ax.hlines(range(len(rows)), 0.4, 1.03, color="0.92", lw=1, zorder=0)
    floor = here.loc[here["row"] == FLOOR, "value"]
    if len(floor):
        ax.axvline(floor.mean(), color=FLOOR_COLOUR, lw=1.5, zorder=1)
    for y, row in enumerate(rows):
        values = here.loc[here["row"] == row, "value"]
        colour, marker = REAL if row in (BOOTSTRAP, TRIVIAL) else RIVAL if row in RIVALS.values() else OURS
        ax.scatter(values, [y] * len(values), s=24, marker=marker, facecolors="none", edgecolors=colour, zorder=3)
        if len(values) > 1:
            ax.scatter(values.mean(), y, s=90, marker="|", color=colour, linewidths=2, zorder=3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
