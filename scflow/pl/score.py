"""The table of scores as a picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scflow._anndata import read_scores
from scflow.errors import InputError, listed, nearest
from scflow.metrics.words import figure, title
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, axes_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["score"]

_FLOOR, _TRIVIAL = "#0072b2", "#4d4d4d"
_WIDE = 4.5
"""Inches below which numbers would lie on each other."""


@picture
def score(
    scores: pd.DataFrame | AnnData,
    *,
    condition: str = "all",
    ax: Axes | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Axes | Figure:
    """Each metric between its floor and the trivial generator.

    The horizontal place of a dot is ``(value - floor) / |trivial - floor|``: 0 is what a perfect generator scores, 1
    what has to be beaten. Where the trivial generator lies *below* the floor (transport, when spread is missing), its
    mark is at -1, and distance from 0 counts in both directions. Where it *is* the floor, any other value is an arrow.
    The numbers themselves stand on the right, where the axes are wide enough for them.

    Parameters
    ----------
    scores
        What :func:`scflow.tl.score` returned, or generated cells with that table in `.uns["scflow_score"]`.
    condition
        Whose rows to draw; "all" for all cells.
    ax
        The axes to draw on; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    Axes
        The figure is ``ax.figure``; it is not shown.

    Raises
    ------
    InputError
        Where there is no table, it lacks columns, or it has no such condition.

    Examples
    --------
    >>> table = scflow.tl.score(held_out, new, reference=adata, metrics=["mmd", "zero_fractions"])
    >>> axes = scflow.pl.score(table)
    """
    table = read_scores(scores)
    conditions = list(dict.fromkeys(table["condition"].astype(str)))
    if condition not in conditions:
        raise InputError(
            f"The scores have no condition {condition!r}.{nearest(condition, conditions)} There are "
            f"{listed(conditions, most=20)}."
        )
    rows = table[table["condition"].astype(str) == condition].reset_index(drop=True)
    scale = (rows["trivial"] - rows["floor"]).abs().to_numpy(dtype=np.float64, copy=True)
    scale[~(scale > 0)] = np.nan
    placed = rows[["value", "low", "high", "trivial"]].sub(rows["floor"], axis=0).div(scale, axis=0)
    # Where nothing sets the scale, as with duplicates that no real set has, any distance is beyond it.
    away = np.sign((rows["value"] - rows["floor"]).to_numpy(dtype=np.float64))
    beyond = np.where(away == 0, 0.0, np.where(away > 0, np.inf, -np.inf))
    placed["value"] = np.where(np.isnan(scale) & np.isfinite(away), beyond, placed["value"])
    (axes,) = axes_of(ax, 1, 8.8, 1.5 + 0.32 * len(rows))
    limits = (-1.3 if (placed["trivial"] < 0).any() else -0.35, 1.35)
    _draw(axes, placed, limits)
    wide = axes.get_window_extent().width / axes.figure.dpi >= _WIDE
    _name(axes, rows, limits, wide)
    if wide:
        _tell(axes, rows, limits)
    if condition != "all":
        axes.set_title(condition, loc="left")
    return axes


def _draw(ax: Axes, placed: pd.DataFrame, limits: tuple[float, float]) -> None:
    """Dots with intervals, the trivial generator's marks, and arrows for what lies outside."""
    rows = np.arange(len(placed))
    ax.vlines(0, -0.5, len(placed) - 0.5, color=_FLOOR, lw=1.5, zorder=1)
    low, high, value = (placed[name].to_numpy(dtype=np.float64) for name in ("low", "high", "value"))
    ax.hlines(rows, *limits, color="0.92", lw=1, zorder=0)
    ax.plot(placed["trivial"], rows, ls="", marker="D", ms=6, mfc="white", mec=_TRIVIAL, zorder=2)
    ax.hlines(rows, np.clip(low, *limits), np.clip(high, *limits), color=GENERATED, lw=2.5, alpha=0.55, zorder=3)
    inside = (value >= limits[0]) & (value <= limits[1])
    ax.plot(value[inside], rows[inside], ls="", marker="o", ms=7, color=GENERATED, zorder=4)
    for beyond, end, marker in ((value < limits[0], limits[0], "<"), (value > limits[1], limits[1], ">")):
        style: dict[str, Any] = {"ls": "", "marker": marker, "ms": 8, "color": GENERATED, "clip_on": False, "zorder": 4}
        if beyond.any():  # An empty unclipped line lies in the corner of the figure, and widens what is saved.
            ax.plot(np.full(beyond.sum(), end), rows[beyond], **style)
    ax.set_xlim(*limits)
    ax.set_ylim(len(placed) - 0.5, -0.6)
    ax.spines["bottom"].set_bounds(*limits)


def _name(ax: Axes, rows: pd.DataFrame, limits: tuple[float, float], wide: bool) -> None:
    """The metrics on the left, what 0 and 1 are below: in short, where there is no room."""
    ax.set_yticks(np.arange(len(rows)), [title(str(name)) for name in rows["metric"]])
    ax.tick_params(axis="y", length=0)
    names = {-1: "trivial,\nbelow the floor", 0: "floor:\nreal against real", 1: "trivial\ngenerator"}
    names = names if wide else {-1: "trivial", 0: "floor", 1: "trivial"}
    ticks = [tick for tick in names if limits[0] <= tick <= limits[1]]
    ax.set_xticks(ticks, [names[tick] for tick in ticks], fontsize="small")
    ax.spines[["top", "right", "left"]].set_visible(False)


def _tell(ax: Axes, rows: pd.DataFrame, limits: tuple[float, float]) -> None:
    """The numbers on the right, under headings that show each mark."""
    start, width = limits[1], limits[1] - limits[0]
    # They stand inside of the axes, so that they fit whatever figure these are in.
    ax.set_xlim(limits[0], start + 0.96 * width)
    ax.set_ylim(len(rows) - 0.5, -1.4)
    columns = (("┃ floor", 0.2, _FLOOR), ("● generated [95 %]", 0.75, GENERATED), ("◇ trivial", 0.95, _TRIVIAL))
    figures = rows[["floor", "value", "low", "high", "trivial"]].to_numpy(dtype=np.float64)
    texts = [tuple(heading for heading, _, _ in columns)] + [
        (figure(floor), f"{figure(value)} [{figure(low)}, {figure(high)}]", figure(trivial))
        for floor, value, low, high, trivial in figures.tolist()
    ]
    for i, line in enumerate(texts):
        for text, (_, x, color) in zip(line, columns, strict=True):
            ax.text(start + x * width, i - 1, text, ha="right", va="center", color=color, fontsize="small")
