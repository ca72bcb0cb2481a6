"""How training went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow.errors import InputError, listed
from scflow.pl._style import GENERATED, REAL, axes_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from scflow.flow import Flow

__all__ = ["history"]

_LOSS = "#0072b2"


def history(flow: Flow | pd.DataFrame | AnnData, *, key: str = "scflow", ax: Axes | None = None) -> Axes:
    """Loss and validation loss against the step, with a mark at the best.

    Parameters
    ----------
    flow
        A flow, its `history`, or the AnnData that it was trained on.
    key
        Where in `.uns` of an AnnData the flow is.
    ax
        The axes to draw on; a new figure where there are none.

    Returns
    -------
    Axes
        The figure is ``ax.figure``; it is not shown.

    Raises
    ------
    InputError
        Where there is no history, or it has no steps.
    """
    table = _table(flow, key)
    step, loss = _numbers(table, "step"), _numbers(table, "loss")
    validation = _numbers(table, "validation_loss") if "validation_loss" in table else np.full(len(loss), np.nan)
    (axes,) = axes_of(ax, 1, 6.0, 3.6)
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return axes


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
