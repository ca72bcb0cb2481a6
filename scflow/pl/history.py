"""How training went."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow.errors import InputError, listed, names_of, nearest
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scflow.flow import Flow

__all__ = ["history"]

_LOSS = "#0072b2"
_BINS = 5


@picture
def history(
    flow: Flow | pd.DataFrame | AnnData,
    *,
    panels: str | Sequence[str] = "loss",
    key: str = "scflow",
    ax: Axes | Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Axes | list[Axes] | Figure:
    """How training went: loss and validation loss against the step, and whatever else the history holds.

    Parameters
    ----------
    flow
        A flow, its `history`, or the AnnData that it was trained on.
    panels
        ``"all"`` for everything that the history has, or one or several of: ``"loss"``, with a mark at the best
        validation loss; ``"time"``, the loss in fifths of time; ``"weight"``, how much each fifth counts;
        ``"gradient"``, its norm and how many steps were clipped; ``"rate"``; ``"speed"``; and, where the training was
        watched, ``"forest_auc"``, ``"mmd"``, ``"wasserstein"`` (each beside its floor) and ``"spread"``.
    key
        Where in `.uns` of an AnnData the flow is.
    ax
        The axes to draw on, one a panel; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    Axes
        One for one panel, else a list. The figure is ``ax.figure``; it is not shown.

    Raises
    ------
    InputError
        Where there is no history, it has no steps, or not the columns that a panel draws.

    Examples
    --------
    >>> axes = scflow.pl.history(flow, panels=["loss", "gradient"])
    >>> len(axes)
    2
    """
    table = _table(flow, key)
    names = _panels(panels, table)
    axes = _grid(len(names)) if ax is None and len(names) > 1 else axes_of(ax, len(names), 6.0, 3.6)
    for name, one in zip(names, axes, strict=True):
        _PANELS[name][1](one, table, name)
        one.spines[["top", "right"]].set_visible(False)
    return axes[0] if len(names) == 1 else axes


def _panels(panels: str | Sequence[str], table: pd.DataFrame) -> list[str]:
    """The panels asked for, each with the columns it needs."""
    there = [name for name, (columns, _) in _PANELS.items() if all(_seen(table, c) for c in columns)]
    if isinstance(panels, str) and panels == "all":
        return there
    names = names_of(panels, "panels")
    if not names:
        raise InputError(f"panels={panels!r} names no panel. Choose 'all' or out of {listed(_PANELS, 10)}.")
    for name in names:
        if name not in _PANELS:
            raise InputError(
                f"panels={name!r} is not known.{nearest(name, _PANELS)} Choose 'all' or out of {listed(_PANELS, 10)}."
            )
        if name not in there:
            raise InputError(
                f"The history has nothing for the panel {name!r} (columns {listed(_PANELS[name][0])}). It has "
                f"{listed(there, 10)}; scores are there where training was watched: scflow.tl.train(adata, watch=5)."
            )
    return names


def _seen(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _grid(n: int) -> list[Axes]:
    """Panels in rows of three."""
    import matplotlib.pyplot as plt

    rows = -(-n // 3)
    _, made = plt.subplots(rows, 3, figsize=(13, 3.1 * rows), layout="constrained", squeeze=False)
    every = list(np.ravel(made))
    for left in every[n:]:
        left.remove()
    return every[:n]


def _loss(axes: Axes, table: pd.DataFrame, _: str) -> None:
    """Loss, smoothed where there are many rows, and validation loss."""
    step, loss = _numbers(table, "step"), _numbers(table, "loss")
    validation = _numbers(table, "validation_loss") if "validation_loss" in table else np.full(len(loss), np.nan)
    width = max(1, len(loss) // 50)
    smooth = pd.Series(loss).rolling(width, center=True, min_periods=1).mean()
    if width > 1:
        axes.plot(step, loss, color=REAL, lw=0.8, alpha=0.5)
    axes.plot(step, smooth, color=_LOSS, lw=1.5, label="loss" if width == 1 else f"loss, mean of {width} rows")
    seen = np.isfinite(validation)
    if seen.any():
        _validation(axes, step[seen], validation[seen])
    axes.set(xlabel="step", ylabel="loss")
    settled = np.concatenate([loss[len(loss) // 10 :], validation[seen]])
    settled = settled[np.isfinite(settled)]
    if settled.size:
        # The first steps tower over all that follows.
        axes.set_ylim(top=float(settled.max() + 0.1 * np.ptp(settled)))
    axes.legend(frameon=False, fontsize="small")


def _by_time(ax: Axes, table: pd.DataFrame, _: str) -> None:
    """The loss in each fifth of time, from the data (dark) to the noise (light)."""
    from matplotlib import colormaps

    step = _numbers(table, "step")
    for i in range(_BINS):
        color = colormaps["viridis"](0.9 * i / (_BINS - 1))
        ax.plot(
            step, _numbers(table, f"loss_t{i}"), color=color, lw=1.2, label=f"t in [{i / _BINS:g}, {(i + 1) / _BINS:g})"
        )
    low, high = ax.get_ylim()
    # Room for the legend above the lines.
    ax.set(xlabel="step", ylabel="loss by time (0 is data)", ylim=(low, high + 0.35 * (high - low)))
    ax.legend(frameon=False, fontsize="x-small", ncols=2)


def _weight(ax: Axes, table: pd.DataFrame, _: str) -> None:
    """The effective weight, which does not change while training goes on."""
    weights = [float(_numbers(table, f"weight_t{i}")[-1]) for i in range(_BINS)]
    ax.bar([(i + 0.5) / _BINS for i in range(_BINS)], weights, width=0.9 / _BINS, color=_LOSS)
    ax.set(xlabel="t (0 is data, 1 is noise)", ylabel="effective weight w(t) p(t)", xlim=(0, 1))


def _gradient(ax: Axes, table: pd.DataFrame, _: str) -> None:
    """The norm before clipping, and the share of steps that were clipped."""
    norm = _numbers(table, "gradient_norm")
    ax.plot(_numbers(table, "step"), norm, color=_LOSS, lw=1.5)
    ax.set(xlabel="step", ylabel="gradient norm", yscale="log" if np.nanmax(norm) > 10 * np.nanmin(norm) else "linear")
    if _seen(table, "clipped"):
        skipped = int(np.nansum(_numbers(table, "skipped"))) if "skipped" in table else 0
        clipped = float(np.nanmean(_numbers(table, "clipped")))
        ax.set_title(f"{clipped:.0%} of steps clipped, {skipped} passed over", fontsize="small")


def _line(ax: Axes, table: pd.DataFrame, name: str) -> None:
    """A column against the step."""
    column, label = _LINES[name]
    values = _numbers(table, column)
    seen = np.isfinite(values)
    marker = "." if name == "spread" else ""
    ax.plot(_numbers(table, "step")[seen], values[seen], color=_LOSS, lw=1.5, marker=marker)
    ax.set(xlabel="step", ylabel=label)
    if name == "spread":
        ax.axhline(1.0, color=REAL, lw=1, ls="--")
    else:
        ax.set_ylim(bottom=0)


def _score(ax: Axes, table: pd.DataFrame, name: str) -> None:
    """Drawn cells against validation cells, and the floor: other real cells against them."""
    values, step = _numbers(table, name), _numbers(table, "step")
    seen = np.isfinite(values)
    ax.plot(step[seen], values[seen], color=GENERATED, lw=1.5, marker=".", label="drawn cells")
    ax.plot(step[seen], _numbers(table, f"{name}_floor")[seen], color=REAL, lw=1.2, ls="--", label="floor: real cells")
    ax.set(xlabel="step", ylabel={"forest_auc": "forest AUC", "mmd": "MMD", "wasserstein": "2-Wasserstein"}[name])
    ax.legend(frameon=False, fontsize="small")


def _validation(ax: Axes, step: NDArray[np.float64], loss: NDArray[np.float64]) -> None:
    """The validation loss and its least value."""
    ax.plot(step, loss, color=GENERATED, lw=1.5, marker=".", ms=4, label="validation loss")
    best = int(loss.argmin())
    label = f"best: {loss[best]:.4g} at step {int(step[best]):,}"
    ax.plot(step[best], loss[best], ls="", marker="*", ms=13, mfc=GENERATED, mec="white", label=label)


def _numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    result: NDArray[np.float64] = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return result


def _table(flow: Any, key: str) -> pd.DataFrame:
    """The history, out of whatever holds it."""
    table = flow if isinstance(flow, pd.DataFrame) else getattr(flow, "history", None)
    if table is None and hasattr(flow, "uns"):
        from scflow._anndata import read_flow
        from scflow.flow import Flow

        table = Flow.from_content(read_flow(flow, key)).history
    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"A {type(flow).__name__} has no history to draw. Give the flow that scflow.tl.train returned, its "
            ".history, or the AnnData that it was trained on."
        )
    missing = [column for column in ("step", "loss") if column not in table]
    if missing or table.empty:
        raise InputError(
            f"The history has {len(table)} rows and columns {listed(table.columns, most=10) or 'none'}; expected at "
            "least 'step' and 'loss', one row a step. A flow that was never trained has none: scflow.tl.train(adata)."
        )
    return table


_LINES = {
    "rate": ("learning_rate", "learning rate"),
    "speed": ("cells_per_second", "cells a second"),
    "spread": ("spread", "sd of drawn over real cells"),
}
_PANELS: dict[str, tuple[tuple[str, ...], Callable[[Axes, pd.DataFrame, str], None]]] = {
    "loss": (("step", "loss"), _loss),
    "time": (tuple(f"loss_t{i}" for i in range(_BINS)), _by_time),
    "weight": (tuple(f"weight_t{i}" for i in range(_BINS)), _weight),
    "gradient": (("gradient_norm",), _gradient),
    "rate": (("learning_rate",), _line),
    "speed": (("cells_per_second",), _line),
    **{name: ((name, f"{name}_floor"), _score) for name in ("forest_auc", "mmd", "wasserstein")},
    "spread": (("spread",), _line),
}
