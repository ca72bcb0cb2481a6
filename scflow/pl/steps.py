"""Quality of cells against the number of evaluations they took."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scflow import _keys
from scflow._anndata import checked
from scflow.errors import InputError, listed
from scflow.pl._picture import picture
from scflow.pl._style import REAL, axes_of, palette

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["steps"]

_COLUMNS = ("flow", "solver", "shift", "evaluations", "metric", "value", "floor")
_MARKERS = {"euler": "o", "midpoint": "s", "heun": "D", "rk4": "^", "adams": "v", "dopri5": "X", "jump": "*"}
_SIGNED = ("mmd", "energy")
"""Unbiased estimates of squares, which fall below zero by chance."""
_TITLES = {
    "forest_auc_genes": "forest AUC, genes",
    "forest_auc_components": "forest AUC, components",
    "mmd": "MMD²",
    "wasserstein": "2-Wasserstein distance",
}
_FAR = 50.0
"""So many floors (in absolute value) away, a metric is drawn by its logarithm: in a few steps it can be hundreds."""


@picture
def steps(
    table: pd.DataFrame | AnnData,
    *,
    key: str = "scflow",
    ax: Axes | Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Axes | list[Axes] | Figure:
    """Quality against evaluations: a panel a metric, a line a flow and solver, and the floor that real cells reach.

    Where there are several flows each has a colour, and solvers have markers; of a single flow each solver has both.

    Parameters
    ----------
    table
        What :func:`scflow.tl.steps` returned, or the held-out cells that it left the table with.
    key
        The slot's name: the table of an AnnData is in `.uns["scflow_steps"]`.
    ax
        The axes to draw on, one a metric; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    Axes
        One for one metric, else a list. The figure is ``ax.figure``; it is not shown.

    Raises
    ------
    InputError
        Where there is no table, or it lacks columns or rows.

    Examples
    --------
    >>> table = scflow.tl.steps(flow, held_out, reference=adata, evaluations=[2, 4], metrics="mmd", progress=False)
    >>> axes = scflow.pl.steps(table)
    """
    rows = _table(table, key)
    metrics = list(dict.fromkeys(rows["metric"].astype(str)))
    axes = axes_of(ax, len(metrics), 4.0, 3.9)
    styles = _styles(rows)
    for metric, one in zip(metrics, axes, strict=True):
        _draw(one, rows[rows["metric"] == metric], metric, styles)
    _legend(axes[-1], rows, styles)
    return axes[0] if len(axes) == 1 else axes


def _table(table: Any, key: str) -> pd.DataFrame:
    """The table, out of whatever holds it."""
    found = table
    if not isinstance(table, pd.DataFrame):
        adata, slot = checked(table, name="table"), _keys.slots(key).steps
        if slot not in adata.uns:
            raise InputError(
                f"table.uns has no {slot!r}: no flow was scored against these cells by its steps. Do it first: "
                "scflow.tl.steps(flow, held_out, reference=train)."
            )
        found = adata.uns[slot]
    missing = [column for column in _COLUMNS if column not in found]
    if missing or found.empty:
        raise InputError(
            f"The table has {len(found)} rows and lacks {len(missing)} of {len(_COLUMNS)} columns"
            f"{f' ({listed(missing)})' if missing else ''}. Expected what scflow.tl.steps returns."
        )
    return pd.DataFrame(found)


Line = tuple[str, str, float]
"""A flow, a solver and its shift."""


def _styles(rows: pd.DataFrame) -> dict[Line, dict[str, Any]]:
    """How each line is drawn."""
    lines = list(dict.fromkeys(zip(rows["flow"].astype(str), rows["solver"].astype(str), rows["shift"])))
    flows = list(dict.fromkeys(flow for flow, _, _ in lines))
    colors = palette(len(flows) if len(flows) > 1 else len(lines))
    found = {}
    for i, (flow, solver, shift) in enumerate(lines):
        number = flows.index(flow) if len(flows) > 1 else i
        found[flow, solver, shift] = {
            "color": colors[number],
            "marker": _MARKERS.get(solver, "P"),
            "ms": 9 if solver == "jump" else 5.5,
            "ls": "-" if shift == 1 else "--",
            "mfc": None if shift == 1 else "white",
        }
    return found


def _draw(ax: Axes, rows: pd.DataFrame, metric: str, styles: dict[Line, dict[str, Any]]) -> None:
    """The lines of one metric, and the floor."""
    for (flow, solver, shift), style in styles.items():
        mine = (rows["flow"] == flow) & (rows["solver"] == solver) & (rows["shift"] == shift)
        line = rows[mine].sort_values("evaluations")
        ax.plot(line["evaluations"], line["value"], lw=1.3, alpha=0.9, **style)
    floor = float(rows["floor"].iloc[0])
    ax.axhline(floor, color=REAL, lw=1.2, ls=(0, (4, 2)), zorder=0)
    _scales(ax, rows, metric, floor)
    ax.set(xlabel="evaluations of the field", title=_TITLES.get(metric, metric.replace("_", " ")))
    ax.spines[["top", "right"]].set_visible(False)


def _scales(ax: Axes, rows: pd.DataFrame, metric: str, floor: float) -> None:
    """Evaluations by their logarithm; what can be below zero and far above it, by a logarithm that is straight at 0."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_xscale("log", base=2)
    ticks = np.unique(rows["evaluations"].round())
    # Close to each other, such as 48 and 50, they would overlap.
    shown = [t for i, t in enumerate(ticks) if i == 0 or t / ticks[i - 1] > 1.3]
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    values = rows["value"].to_numpy(dtype=np.float64)
    if metric in _SIGNED and values.max() > _FAR * abs(floor):
        ax.set_yscale("symlog", linthresh=max(2 * abs(floor), 1e-4), linscale=0.6)
        ax.set_ylim(bottom=min(floor, values.min()) - abs(floor))


def _legend(ax: Axes, rows: pd.DataFrame, styles: dict[Line, dict[str, Any]]) -> None:
    """What colours and markers mean, beside the last panel."""
    from matplotlib.lines import Line2D

    flows = list(dict.fromkeys(flow for flow, _, _ in styles))
    handles: list[Any] = []
    if len(flows) > 1:
        for flow in flows:
            color = next(style["color"] for (name, _, _), style in styles.items() if name == flow)
            handles.append(Line2D([], [], color=color, lw=3, label=flow))
    seen = set()
    for (_, solver, shift), style in styles.items():
        if (solver, shift) not in seen:
            seen.add((solver, shift))
            label = solver if shift == 1 else f"{solver}, shift {shift:g}"
            drawn = style if len(flows) == 1 else {**style, "color": "0.3"}
            handles.append(Line2D([], [], lw=1.3, label=label, **drawn))
    handles.append(Line2D([], [], color=REAL, lw=1.2, ls=(0, (4, 2)), label="floor: real cells"))
    ax.legend(handles=handles, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1.0))
