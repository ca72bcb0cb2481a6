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
    "energy": ("energy", 3),
    "wasserstein": ("W2", 2),
    "zero_fractions": ("zeros", 4),
    "gene_correlation": ("gene r", 4),
    "library_size_ks": ("library KS", 3),
    "copying": ("copying", 2),
    "train_seconds": ("train s", 0),
    "train_cpu_seconds": ("train CPU s", 0),
    "train_mb": ("train MB", 0),
    "generate_seconds": ("draw s", 0),
}
BEATS_TRIVIAL = ("forest_auc_genes", "forest_auc_components", "mmd")
AT_MOST = {"forest_auc_genes": 0.57, "forest_auc_components": 0.60}
AT_MOST_ON = ("pbmc3k", "kang_ctrl_donors")


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
    """Whether the space beats the trivial generator on each data set, and comes near the floor where it should."""
    found = means(table)["mean"]
    result = []
    for name in dict.fromkeys([*DATA, *table["data"]]):
        for metric in BEATS_TRIVIAL:
            ours, theirs = (found.get((name, row, metric)) for row in (space, TRIVIAL))
            result.append(target(f"{name}: {metric} of {space!r}", ours, "below the trivial generator's", theirs))
    for name in AT_MOST_ON:
        for metric, limit in AT_MOST.items():
            ours = found.get((name, space, metric))
            result.append(target(f"{name}: {metric} of {space!r}", ours, "at most", limit))
    return result


def target(what: str, ours: float | None, relation: str, limit: float | None) -> Target:
    """One comparison in words."""
    if ours is None or limit is None:
        return Target(f"{what} {relation}" + (f" {limit:.2f}" if relation == "at most" else ""), None)
    holds = ours <= limit if relation == "at most" else ours < limit
    return Target(f"{what} is {ours:.4f}, {relation} {limit:.4f}", bool(holds))
