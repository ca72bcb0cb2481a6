"""The tables and the picture of augmentation.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from oversampling import METHODS
from quality_report import setting

FIGURES = {"f1_rare": "F1 of the rare type", "f1_macro": "macro F1"}
OURS = "scflow"
PLACE = ["data", "rare", "classifier", "steps"]
# Okabe and Ito's colours; a shape each.
STYLES = {
    "nothing": ("#000000", "o"),
    "class weights": ("#56b4e9", "s"),
    "duplicates": ("#e69f00", "v"),
    "SMOTE": ("#cc79a7", "^"),
    "noise": ("#f0c000", "P"),
    "scVI": ("#009e73", "X"),
    "scflow": ("#d55e00", "D"),
}


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval by Student's t over seeds; NaN ends for one seed."""
    from scipy.stats import t

    mean, n = float(values.mean()), len(values)
    half = float(t.ppf(0.975, n - 1) * values.std() / np.sqrt(n)) if n > 1 else float("nan")
    return mean, mean - half, mean + half


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Each figure of ours less that of every other method on the same seed: the same split, the same few cells."""
    same = [*PLACE, "n", "seed"]
    ours = table[table["method"] == OURS].set_index(same)[list(FIGURES)]
    rest = table[table["method"] != OURS].set_index(same)
    rest[list(FIGURES)] = ours.reindex(rest.index) - rest[list(FIGURES)]
    return rest.dropna(subset=list(FIGURES)).reset_index()


def markdown(table: pd.DataFrame) -> str:
    """Tables for each type and classifier: means over seeds with 95 % intervals, a column for each number of cells."""
    less, parts = differences(table), [setting() + "."]
    for place, here in table.groupby(PLACE, sort=False):
        data, rare, classifier, steps = place
        seeds, tested = ", ".join(map(str, sorted(set(here["seed"])))), here["tested"]
        title = f"### {data}, {rare}, {classifier}; {steps:,} steps; seeds {seeds}; {tested.min()} cells tested"
        paired = less[(less[PLACE] == list(place)).all(axis=1)]
        for figure, label in FIGURES.items():
            parts.append("\n".join([title, "", *_rows(here, figure, f"{label}, cells left:")]))
            if len(paired):
                parts.append("\n".join(_rows(paired, figure, f"{label}, {OURS} less", "+")))
    return "\n\n".join(parts) + "\n"


def _rows(here: pd.DataFrame, figure: str, corner: str, sign: str = "") -> Iterator[str]:
    """The lines of one table."""
    sizes = sorted(set(here["n"]))
    yield f"| {corner} | " + " | ".join(map(str, sizes)) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for method in (m for m in METHODS if (here["method"] == m).any()):
        rows = here[here["method"] == method]
        yield f"| {method} | " + " | ".join(_cell(rows.loc[rows["n"] == n, figure], sign) for n in sizes) + " |"


def _cell(values: pd.Series, sign: str) -> str:
    """Mean and interval as text."""
    if values.empty:
        return ""
    mean, low, high = interval(values)
    return f"{mean:{sign}.3f}" + ("" if np.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]")


def figure(table: pd.DataFrame, out: Path) -> None:
    """Draw the rare type's F1 by the number of its cells: a panel for each type and classifier."""
    import matplotlib.pyplot as plt

    places = list(table.groupby(PLACE, sort=False))
    drawn, axes = plt.subplots(
        1, len(places), figsize=(3.2 * len(places) + 1.4, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, ((data, rare, classifier, _), here) in zip(axes[0], places):
        _panel(ax, here)
        ax.set_title(f"{rare}, {data}\n{classifier}", fontsize="medium", loc="left")
    axes[0, 0].set_ylabel("F1 of the rare type")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right center", frameon=False)
    drawn.savefig(out, dpi=120)
    plt.close(drawn)


def _panel(ax: Axes, here: pd.DataFrame) -> None:
    """Means over seeds, and their intervals."""
    methods = [m for m in METHODS if (here["method"] == m).any()]
    for place, method in enumerate(methods):
        color, marker = STYLES[method]
        rows = here[here["method"] == method].groupby("n")["f1_rare"]
        sizes = np.array(list(rows.groups))
        means, low, high = np.array([interval(values) for _, values in rows]).T
        # Beside each other: intervals overlap.
        x = sizes * 1.03 ** (place - (len(methods) - 1) / 2)
        bars = np.nan_to_num([means - low, high - means])
        ax.errorbar(x, means, bars, color=color, marker=marker, markersize=5, linewidth=1.2, label=method)
    ticks = sorted(set(here["n"]))
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.set_xlabel("cells of the type in training")
    ax.spines[["top", "right"]].set_visible(False)
