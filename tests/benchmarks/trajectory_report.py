"""The tables, the target and the picture of trajectory.py."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from quality_report import setting

NOTHING, STRAIGHT = "do nothing", "straight line"
FLOW, EQUAL, OWN = "scflow", "scflow, equal masses", "scflow, own network"
FLOOR, HALVES = "floor, scaled", "floor of halves"
INDEPENDENT, OPTIMAL = "I-CFM", "OT-CFM"
RIVALS = (INDEPENDENT, OPTIMAL)
ROWS = (HALVES, FLOOR, NOTHING, STRAIGHT, INDEPENDENT, OPTIMAL, EQUAL, OWN, FLOW)
TARGET = 0.95
SEEDS = 5
"""As many or more are needed for the target to count as measured."""

LEGEND = """\
Exact 1-Wasserstein distance from the cells of the time point before, carried to the one left out, to all of its cells;
whitened coordinates; mean over the time points left out ± standard deviation over seeds.

- **do nothing**: the cells before, where they are. **straight line**: halfway along the optimal pairing of the cells
  before and after. Neither has a seed.
- **I-CFM**, **OT-CFM**: TorchCFM's flow matching, its network of 3 x 64, AdamW 1e-3, batches of 128 a pair, sigma 0.1.
- **scflow**: `train(course=...)` with the same network; carried cells count as often as they have descendants in the
  plan; **equal masses**: once each; **own network**: with the network that scflow has by default.
- **floor of halves**: one half of the held-out cells against the other. These are fewer cells than the other rows
  compare, and fewer cells are further apart; **floor, scaled** is the same times (n of a half / n of the other rows)
  to the power of 1 / number of coordinates, an estimate. Carried cells that vary less than real ones can lie below
  either: the distance to a sample's cells is least from its middle, not from another sample."""


def means(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over time points of each row (index), data set (columns) and seed (second index)."""
    over = table.groupby(["row", "seed", "data"], sort=False)["value"].mean().unstack("data")
    return over[list(dict.fromkeys(table["data"]))]


def ratios(table: pd.DataFrame, row: str, beside: str = OPTIMAL) -> pd.Series:
    """Mean distance of one row over that of another on each data set; empty where one of them was not measured."""
    over = means(table)
    found = over.index.get_level_values("row")
    if row not in found or beside not in found:
        return pd.Series(dtype=float)
    ratio: pd.Series = (over.loc[row].mean() / over.loc[beside].mean()).dropna()
    return ratio


def target(table: pd.DataFrame) -> tuple[str, bool | None]:
    """The target, and whether it holds; None where it was not measured on every data set with enough seeds."""
    ratio = ratios(table, FLOW)
    text = f"scflow's distance over OT-CFM's, mean over data sets, is at most {TARGET}"
    if ratio.empty:
        return text, None
    text += f": {ratio.mean():.3f} ({', '.join(f'{name} {value:.3f}' for name, value in ratio.items())})"
    of = table[table["row"].isin([FLOW, OPTIMAL])].groupby(["row", "data", "course", "time"])["seed"].nunique()
    if len(set(table["data"])) < 5 or of.min() < SEEDS:
        return f"{text}; needs all data sets and {SEEDS} seeds", None
    return text, bool(ratio.mean() <= TARGET)


def markdown(table: pd.DataFrame) -> str:
    """Distances, ratios to OT-CFM, and each time point by itself."""
    seeds = ", ".join(map(str, sorted(set(table["seed"]))))
    parts = [f"{setting()}; seeds {seeds}.", LEGEND, _distances(table)]
    if not ratios(table, FLOW).empty:
        parts += [f"Ratio to {OPTIMAL}, data set by data set, and the mean of these ratios:", _ratios(table)]
    parts += ["Each time point left out, mean over seeds:", _points(table)]
    seconds = table[table["row"].isin([*RIVALS, FLOW])].groupby("row")["seconds"].mean()
    parts.append("Processor seconds a time point: " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()) + ".")
    return "\n\n".join(parts) + "\n"


def _distances(table: pd.DataFrame) -> str:
    """A line a row, a column a data set."""
    over = means(table)
    lines = _head("row", [*over.columns, "mean"])
    for row in _measured(table):
        here = over.loc[row]
        deviations = here.std().fillna(0)
        cells = [f"{here[name].mean():.3f} ± {deviations[name]:.3f}" for name in over.columns]
        lines.append(f"| {row} | {' | '.join(cells)} | {here.mean().mean():.3f} |")
    return "\n".join(lines)


def _ratios(table: pd.DataFrame) -> str:
    """The same as ratios."""
    names = list(means(table).columns)
    lines = _head("row", [*names, "mean"])
    for row in _measured(table):
        ratio = ratios(table, row).reindex(names)
        lines.append(f"| {row} | {' | '.join(f'{ratio[name]:.3f}' for name in names)} | {ratio.mean():.3f} |")
    return "\n".join(lines)


def _points(table: pd.DataFrame) -> str:
    """A line a time point, a column a row."""
    rows = _measured(table)
    lines = _head("course | time left out", rows)
    for (course, time), here in table.groupby(["course", "time"], sort=False):
        mean = here.groupby("row")["value"].mean()
        lines.append(f"| {course} | {time:.3g} | {' | '.join(f'{mean[row]:.3f}' for row in rows)} |")
    return "\n".join(lines)


def _head(corner: str, columns: list[str]) -> list[str]:
    """The first two lines of a table."""
    head = f"| {corner} | {' | '.join(columns)} |"
    return [head, "|---" * (head.count("|") - 1) + "|"]


def _measured(table: pd.DataFrame) -> list[str]:
    """The rows that are there, in order."""
    return [row for row in ROWS if (table["row"] == row).any()]


def figure(table: pd.DataFrame, out: Path) -> None:
    """A panel a data set: a mark a seed of each row, a line at their mean, the scaled floor behind them."""
    import matplotlib.pyplot as plt

    over = means(table)
    rows = [row for row in _measured(table) if row not in (FLOOR, HALVES)]
    size = (2 + 2.1 * len(over.columns), 0.28 * len(rows) + 1)
    drawn, axes = plt.subplots(1, len(over.columns), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], over.columns, strict=True):
        ax.axvline(over.loc[FLOOR, name].mean(), color="#009e73", lw=1.5, zorder=1)
        for y, row in enumerate(rows):
            # Okabe and Ito's blue and vermilion, and grey.
            colour = "#0072b2" if row in (FLOW, EQUAL, OWN) else "#d55e00" if row in RIVALS else "#4d4d4d"
            values = over.loc[row, name]
            ax.scatter(values, [y] * len(values), s=20, facecolors="none", edgecolors=colour, zorder=3)
            ax.scatter(values.mean(), y, s=90, marker="|", color=colour, linewidths=2, zorder=3)
        ax.set_title(name, fontsize="small")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_xlim(left=0)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    drawn.supxlabel("1-Wasserstein distance to the cells left out. The line is the floor, scaled", fontsize="medium")
    drawn.savefig(out, dpi=120)
    plt.close(drawn)
