"""The tables and the figure of perturbation.py, and whether what must hold does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from quality_report import Target, setting

FLOOR, MEAN = "real, other half", "mean shift"

# What the tables show, in this order, and to how many decimals.
SHOWN = {
    "r_50": ("r, top 50", 3),
    "slope_50": ("slope, top 50", 3),
    "r_500": ("r, top 500", 3),
    "slope_500": ("slope, top 500", 3),
    "r_all": ("r, all", 3),
    "slope_all": ("slope, all", 3),
    "error_all": ("error, all", 3),
    "mmd": ("MMD^2", 4),
    "energy": ("energy", 2),
    "cpu_seconds": ("CPU s", 0),
}
DISTANCES, MEANS = ("mmd", "energy"), ("r_50", "r_500")
EQUAL = 0.01
"""Correlations this near to each other are called equal."""

LEGEND = """\
- The stimulated cells of one type are held out, and predicted from its controls, which are among the training cells.
  Genes, their mean and the principal components are those of the training cells.
- **r, slope, error** of effects, differences of mean log1p of counts per 10,000 between stimulated cells and controls:
  predicted beside real ones, over the genes of the largest real effects, and over all. Slope through 0; the error is
  the root of the mean square.
- **MMD^2, energy**: distances between predicted and real cells in 50 principal components; unbiased, so 0 in the mean
  where cells are perfect.
- **real, other half**: what perfect cells score; the other rows are compared with the same half. In brackets the 95th
  percentile over halvings: below it, a figure may be chance.
- **mean shift, nearest type's shift**: controls moved by the effect in other types, gene by gene. **latent
  arithmetic**: an autoencoder's codes moved so, and decoded to expectations, after scGen. **OT-CFM in PCs**: a
  conditional flow from controls to stimulated cells, after CellFlow."""


def markdown(table: pd.DataFrame) -> str:
    """A table of means over types for each data set, then one for each type; deviations are those of seeds."""
    parts = [setting() + ".", LEGEND]
    for (data, genes), here in table.groupby(["data", "genes"], sort=False):
        seeds = ", ".join(map(str, sorted(set(here["seed"]))))
        kinds = list(dict.fromkeys(here["type"]))
        parts.append(f"### {data}: {genes} genes, seeds {seeds}")
        parts.append("\n".join(lines(here, f"mean of {len(kinds)} types")))
        parts.extend("\n".join(lines(here[here["type"] == kind], kind)) for kind in kinds)
    return "\n\n".join(parts) + "\n"


def lines(here: pd.DataFrame, corner: str) -> Iterator[str]:
    """A line for each row of figures."""
    yield f"| {corner} | " + " | ".join(label for label, _ in SHOWN.values()) + " |"
    yield "|---" * (len(SHOWN) + 1) + "|"
    for row in dict.fromkeys(here["row"]):
        of = here[here["row"] == row]
        yield f"| {row} | " + " | ".join(cell(of, metric, digits) for metric, (_, digits) in SHOWN.items()) + " |"


def cell(of: pd.DataFrame, metric: str, digits: int) -> str:
    """Mean over types, then over seeds, and the deviation of seeds; of the floor's distances the upper end."""
    of = of[of["metric"] == metric]
    values = of.groupby("seed")["value"].mean()
    if not values.notna().any():
        return ""
    text = f"{values.mean():.{digits}f}"
    if metric in DISTANCES and (of["row"] == FLOOR).all():
        return f"{text} (to {of['high'].mean():.{digits}f})"
    return text + (f" ± {values.std():.{digits}f}" if len(values) > 1 and digits else "")


def targets(table: pd.DataFrame) -> list[Target]:
    """Whether each row of scflow beats the mean shift on distances, and equals it on means; means over types and seeds.

    In how many types it does is said beside.
    """
    found = table.groupby(["data", "row", "metric", "type"], sort=False)["value"].mean().unstack("type")
    result = []
    for data, row in dict.fromkeys(zip(table["data"], table["row"])):
        for metric in (*DISTANCES, *MEANS) if row.startswith("scflow") else ():
            less = metric in DISTANCES
            what = f"{data}: {metric} of {row!r} {'below' if less else 'no less than'} that of {MEAN!r}"
            if (data, MEAN, metric) not in found.index:
                result.append(Target(what, None))
                continue
            ours, theirs = found.loc[(data, row, metric)], found.loc[(data, MEAN, metric)]
            gain = theirs - ours if less else ours - theirs + EQUAL
            numbers = f"{ours.mean():.4f} beside {theirs.mean():.4f}, in {(gain > 0).sum()} of {len(gain)} types"
            result.append(Target(f"{what}: {numbers}", bool(gain.mean() > 0)))
    return result


def figure(table: pd.DataFrame, path: Path) -> None:
    """The energy distance and the correlation of the top genes of every row, a point a type; a line at their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = list(dict.fromkeys(table["row"]))
    size = (11, 0.4 * len(rows) + 1.4)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("energy", "r_50")):
        found = table[table["metric"] == metric].groupby(["row", "type"], sort=False)["value"].mean().unstack("type")
        found = found.reindex(rows)
        places = np.arange(len(rows))
        for kind in found.columns:
            axis.plot(found[kind], places, "o", markersize=5, alpha=0.8, label=kind)
        axis.plot(found.mean(axis=1), places, "|", markersize=18, markeredgewidth=2.5, color="black", label="mean")
        axis.set_title(SHOWN[metric][0])
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(places, rows)
    axes[0].invert_yaxis()
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
