"""The tables and the picture of ablation.py: every variant beside the default of the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from quality_report import setting

# Label and decimals of each metric; less is better, but for the labels, which are best at their floor.
METRICS = {
    "forest_auc_genes": ("AUC genes", 3),
    "forest_auc_components": ("AUC PCs", 3),
    "mmd": ("MMD^2", 4),
    "wasserstein": ("W2", 2),
    "label_accuracy": ("labels", 3),
}
SETTING = ["data", "space", "planned", "codec_steps"]
"""What variants that are compared have in common, beside the seed."""
DEFAULT = "default"
# Okabe and Ito's blue and vermilion, and a shape each: calibrated cells, and cells as they are drawn.
STYLES = {True: ("calibrated", "#0072b2", "o"), False: ("as drawn", "#d55e00", "D")}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its defaults, with each metric less that of the default of the same cells and seed."""
    same = [*SETTING, "seed", "calibrated"]
    is_default = table["choice"] == DEFAULT
    base = table[is_default].drop_duplicates(same).set_index(same)[list(METRICS)]
    found = table[~is_default].set_index(same)
    found[list(METRICS)] = found[list(METRICS)] - base.reindex(found.index)
    return found.reset_index()


def markdown(table: pd.DataFrame) -> str:
    """A table for each data set and space, calibrated and not; means over seeds ± their standard deviation.

    In brackets the difference from the default on the same seed. The floor is in the first row.
    """
    less, parts = differences(table), [setting() + "."]
    for place, group in table.groupby(SETTING, sort=False):
        data, space, steps, _ = place
        for calibrated in (True, False):
            here = group[group["calibrated"] == calibrated]
            seeds = ", ".join(map(str, sorted(set(here["seed"]))))
            title = f"### {data}, {space}, {STYLES[calibrated][0]}; {steps:,} steps; seeds {seeds}"
            change = less[(less[SETTING] == list(place)).all(axis=1) & (less["calibrated"] == calibrated)]
            parts.append("\n".join([title, "", *_rows(here, change)]))
    return "\n\n".join(parts) + "\n"


SUMMARY = (
    ("forest_auc_genes", False),
    ("forest_auc_components", False),
    ("forest_auc_genes", True),
    ("forest_auc_components", True),
)
"""Of the short table: metrics, and whether of calibrated cells. (Calibration hides most of what single genes show.)"""
_T = 4.30
"""The 97.5 % quantile of Student's t with 2 degrees of freedom: three seeds."""


def summary(table: pd.DataFrame) -> str:
    """One short table: the mean difference from the default for each data set; bold where its interval leaves out 0."""
    less = differences(table)
    sets = list(dict.fromkeys(less["data"]))
    heads = [f"{data}: {METRICS[m][0]}, {STYLES[c][0]}" for data in sets for m, c in SUMMARY]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for (space, choice, variant), group in less.groupby(["space", "choice", "variant"], sort=False):
        texts = []
        for data in sets:
            for metric, calibrated in SUMMARY:
                here = group[(group["data"] == data) & (group["calibrated"] == calibrated)][metric]
                texts.append(_difference(here, METRICS[metric][1]))
        lines.append(f"| {choice} ({space}): {variant} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def _difference(values: pd.Series, digits: int) -> str:
    """The mean of differences; bold where it is more than chance, by the rule of three seeds."""
    text = _spread(pd.Series([values.mean()]), digits, "+")
    certain = len(values) > 2 and abs(values.mean()) > _T * values.std() / np.sqrt(len(values))
    return f"**{text}**" if certain else text


def _rows(here: pd.DataFrame, change: pd.DataFrame) -> list[str]:
    """The lines of one table."""
    metrics = [metric for metric in METRICS if here[metric].notna().any()]
    floors = here.drop_duplicates("seed")
    rows = [
        "| | " + " | ".join([*(METRICS[m][0] for m in metrics), "steps", "train s"]) + " |",
        "|---" * (len(metrics) + 3) + "|",
        "| floor | " + " | ".join([*(_spread(floors[f"{m}_floor"], METRICS[m][1]) for m in metrics), "", ""]) + " |",
    ]
    for (choice, variant), group in here.groupby(["choice", "variant"], sort=False):
        less = change[(change["choice"] == choice) & (change["variant"] == variant)]
        texts = [
            _spread(group[m], METRICS[m][1]) + ("" if less.empty else f" ({_spread(less[m], METRICS[m][1], '+')})")
            for m in metrics
        ]
        texts += [_spread(group["steps"], 0), _spread(group["seconds"], 0)]
        rows.append(f"| {DEFAULT if choice == DEFAULT else f'{choice}: {variant}'} | " + " | ".join(texts) + " |")
    return rows


def _spread(values: pd.Series, digits: int, sign: str = "") -> str:
    """Mean and deviation as text; a dash where training diverged."""
    mean, sd = float(values.mean()), float(values.std())
    if np.isnan(mean):
        return "–"
    return f"{mean:{sign}.{digits}f}" + ("" if np.isnan(sd) or not digits else f" ± {sd:.{digits}f}")


def figure(table: pd.DataFrame, out: Path) -> None:
    """Draw the difference of each variant from the default: a dot a seed, a line at their mean.

    The columns are metrics, first of calibrated cells and then of cells as they are drawn, which differ by far more.
    """
    import matplotlib.pyplot as plt

    less = differences(table)
    columns = [(c, metric) for c in STYLES for metric in METRICS if less[metric].notna().any()]
    places = list(less.groupby(SETTING, sort=False))
    names = [list(dict.fromkeys(zip(group["choice"], group["variant"]))) for _, group in places]
    heights = [0.24 * len(rows) + 0.9 for rows in names]
    drawn, axes = plt.subplots(
        len(places),
        len(columns),
        figsize=(2.4 + 1.7 * len(columns), sum(heights) + 0.6),
        sharey="row",
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for row, ((data, space, steps, _), group), rows in zip(axes, places, names):
        for ax, (calibrated, metric) in zip(row, columns):
            _panel(ax, group[group["calibrated"] == calibrated], metric, rows, STYLES[calibrated])
        row[0].set_yticks(range(len(rows)), [f"{choice}: {variant}" for choice, variant in rows])
        row[0].set_ylim(len(rows) - 0.5, -0.5)
        row[0].set_title(f"{data}, {space}, {steps:,} steps", loc="left", fontweight="bold")
    drawn.supxlabel("difference from the default on the same seed; further left is better", fontsize="medium")
    drawn.savefig(out, dpi=75)
    plt.close(drawn)


def _panel(ax: Axes, here: pd.DataFrame, metric: str, rows: list[tuple[str, str]], style: tuple[str, str, str]) -> None:
    """One metric on one data set."""
    (label, color, marker), scale = style, 1000 if metric == "mmd" else 1
    ax.axvline(0, color="#8c8c8c", linewidth=1, zorder=0)
    for i in range(1, len(rows)):
        if rows[i][0] != rows[i - 1][0]:
            ax.axhline(i - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    place = {name: i for i, name in enumerate(rows)}
    y = [place[name] for name in zip(here["choice"], here["variant"])]
    ax.scatter(scale * here[metric], y, s=16, marker=marker, facecolors="none", edgecolors=color, linewidths=0.9)
    means = here.groupby(["choice", "variant"], sort=False)[metric].mean()
    ax.scatter(scale * means, [place[name] for name in means.index], s=90, marker="|", color=color, linewidths=2)
    ax.set_xlabel(f"{f'{scale:g} ' if scale != 1 else ''}{METRICS[metric][0]}\n{label}")
    ax.locator_params(axis="x", nbins=3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
