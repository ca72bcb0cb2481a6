"""The tables of quality.py, and whether what must hold does."""

from __future__ import annotations

import platform
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import scflow

DATA = (
    "pbmc68k",
    "pbmc3k",
    "pbmc_3chem",
    "kang_ctrl_donors",
    "kang_ifnb",
    "pancreas_e15",
    "cell_line_mixology",
)
SPACES = ("counts", "genes", "quantile", "pca")
FLOOR, BOOTSTRAP, TRIVIAL = "floor", "bootstrap", "trivial"
INDEPENDENT = ", one by one"
"""What is added to a space's name where its cells were calibrated one by one."""
SMALL = ", small"
"""What is added to a space's name where the flow was given a part of the steps."""
RIVALS = {"scvi": "scVI, prior", "scvi-gaussian": "scVI, Gaussian", "dca": "plain latent flow"}
"""The rows of other models, by the names that --rivals takes."""

# What the table shows, in this order, and to how many decimals; the CSV has every metric.
SHOWN = {
    "forest_auc_genes": ("AUC genes", 3),
    "forest_auc_components": ("AUC PCs", 3),
    "mmd": ("MMD^2", 4),
    "wasserstein": ("W2", 2),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "zero_fractions": ("zeros", 4),
    "gene_correlation": ("gene r", 4),
    "label_accuracy": ("labels", 3),
    "library_size_ks": ("library KS", 3),
    "copying": ("copying", 2),
    "train_cpu_seconds": ("train CPU s", 0),
    "train_mb": ("train MB", 0),
    "generate_seconds": ("draw s", 0),
}
BEATS_TRIVIAL = ("forest_auc_genes", "forest_auc_components", "mmd")
AT_MOST = {"forest_auc_genes": 0.53, "forest_auc_components": 0.55}
"""Or as near to the floor as these cells can tell."""
AT_THE_FLOOR = ("mmd", "zero_fractions", "gene_correlation")
NEAR_THE_FLOOR = {"label_accuracy": 0.02}
WITHIN = {"copying": (0.95, 1.05)}


class Target(NamedTuple):
    """One thing that must hold, what was found, and whether it does; None where it was not measured."""

    text: str
    holds: bool | None


def heading() -> str:
    """The names over the lines."""
    return f"\n{'data':20} {'seed':>4} {'row':20}" + "".join(f"{label:>12}" for label, _ in SHOWN.values())


def line(figures: pd.DataFrame) -> str:
    """One row of one data set and seed."""
    found = figures[figures["condition"] == "all"].set_index("metric")["value"]
    texts = (f"{found[m]:.{digits}f}" if m in found else "" for m, (_, digits) in SHOWN.items())
    first = figures.iloc[0]
    return f"{first['data']:20} {first['seed']:>4} {first['row']:20}" + "".join(f"{text:>12}" for text in texts)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of the figures of all cells; index data, row, metric."""
    overall = table[table["condition"] == "all"]
    return overall.groupby(["data", "row", "metric"], sort=False)["value"].agg(["mean", "std"])


def markdown(table: pd.DataFrame) -> str:
    """A table for each data set: mean over seeds, +- standard deviation where there are several."""
    summary = means(table)
    metrics = [m for m in SHOWN if m in summary.index.get_level_values("metric")]
    parts = [f"{setting()}; seeds {', '.join(map(str, sorted(set(table['seed']))))}."]
    for name in dict.fromkeys(table["data"]):
        rows = [
            f"### {name}",
            "",
            "| | " + " | ".join(SHOWN[m][0] for m in metrics) + " |",
            "|---" * (len(metrics) + 1) + "|",
        ]
        for row in sorted(set(table.loc[table["data"] == name, "row"]), key=rank):
            texts = [cell(summary, (name, row, m), SHOWN[m][1]) for m in metrics]
            rows.append(f"| {row} | " + " | ".join(texts) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def cell(summary: pd.DataFrame, key: tuple[str, str, str], digits: int) -> str:
    """Mean and deviation as text; nothing where it was not measured."""
    if key not in summary.index:
        return ""
    mean, sd = (float(number) for number in summary.loc[key, ["mean", "std"]])
    return f"{mean:.{digits}f}" + ("" if np.isnan(sd) or not digits else f" ± {sd:.{digits}f}")


def rank(row: str) -> tuple[int, str]:
    """Reference points first, then the spaces in their order, then rivals."""
    spaces = (space + way for space in SPACES for way in ("", INDEPENDENT, SMALL))
    order = (FLOOR, BOOTSTRAP, TRIVIAL, *spaces, *RIVALS.values())
    return (order.index(row) if row in order else len(order)), row


def setting() -> str:
    """What the figures were measured with."""
    versions = f"scflow {scflow.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return f"{versions}, {torch.get_num_threads()} threads"


def targets(table: pd.DataFrame, space: str) -> list[Target]:
    """Whether the space beats the trivial generator on each data set, is at its floor, and copies nothing.

    Means over seeds. A figure is at the floor where it is no further from it than two standard errors of its own.
    """
    found = means(table)["mean"]
    overall = table[(table["condition"] == "all") & (table["row"] == space)]
    errors = overall.groupby(["data", "metric"])[["value", "low", "high"]].apply(standard_error)
    result = []
    for name in dict.fromkeys([*DATA, *table["data"]]):
        for metric in BEATS_TRIVIAL:
            ours, theirs = (found.get((name, row, metric)) for row in (space, TRIVIAL))
            what = f"{name}: {metric} of {space!r} below the trivial generator's"
            result.append(Target(what + numbers(ours, theirs), None if missing(ours, theirs) else bool(ours < theirs)))
        for metric in (*AT_MOST, *AT_THE_FLOOR, *NEAR_THE_FLOOR):
            ours, floor = (found.get((name, row, metric)) for row in (space, FLOOR))
            limit, near = AT_MOST.get(metric), NEAR_THE_FLOOR.get(metric)
            what = f"{name}: {metric} of {space!r}" + (f" at most {limit:.2f}, or" if limit else "")
            what += f" within {near:.2f} of the floor" if near else " at the floor"
            holds = None
            if not missing(ours, floor):
                away = near or 2 * errors.get((name, metric), np.nan)
                holds = bool(abs(ours - floor) <= away or (limit is not None and ours <= limit))
            result.append(Target(what + numbers(ours, floor), holds))
        for metric, (low, high) in WITHIN.items():
            ours = found.get((name, space, metric))
            what = f"{name}: {metric} of {space!r} between {low} and {high}"
            result.append(Target(what + numbers(ours), None if missing(ours) else bool(low <= ours <= high)))
    return result


def missing(*values: float | None) -> bool:
    """Whether one of them was not measured."""
    return any(value is None for value in values)


def numbers(*values: float | None) -> str:
    """What was found, and what it is compared with."""
    return "" if missing(*values) else ": " + " beside ".join(f"{value:.4f}" for value in values)


def standard_error(figures: pd.DataFrame) -> float:
    """Of a mean over seeds, from the 95 % intervals of its values; seeds are taken as independent, which is strict."""
    half = (figures["high"] - figures["low"]) / 2
    return float(half.mean() / 1.96 / np.sqrt(len(figures)))
