"""How genes respond: predicted against real changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow import _keys
from scflow._anndata import checked
from scflow.errors import InputError
from scflow.metrics import log_normalised, profile
from scflow.metrics.fold_changes import slope
from scflow.metrics.genes import pearson
from scflow.pl._choices import check_whole
from scflow.pl._labels import name_dots
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of, of_layer, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["response"]

Changes = NDArray[np.float64]


class _Side(NamedTuple):
    """What is drawn of one set of cells: a name, a colour, and a change of each gene."""

    name: str
    color: str
    changes: Changes


@picture
def response(
    real: AnnData,
    predicted: AnnData,
    source: AnnData | None = None,
    *,
    floor: AnnData | None = None,
    n_top: int = 50,
    n_names: int = 12,
    layer: str | None = None,
    key: str = "scflow",
    ax: Axes | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Axes | Figure:
    """How genes change from one population to another: predicted against real, a dot a gene.

    A change is the mean of log1p of counts per 10,000 in the target population less that in the source: a log fold
    change. The dashed line is where both are the same. The legend has the slope of the line through 0 (1 is perfect,
    less is too weak, more too strong) and Pearson's r, over all genes and over the `n_top` that really change most.

    Real cells do not lie on the line either: `floor`, more real cells of the target, shows how near to it is near. All
    sides have the same source cells, whose chance deviations raise r and slope on each of them. As the top genes are
    chosen by `real`, those of `floor` have a slope below 1.

    Parameters
    ----------
    real
        Real cells of the target population. Left as they are, as all others.
    predicted
        Predicted ones: cells with counts of their own, or the cells that :func:`scflow.tl.transport` carried, of which
        `.layers["<key>"]` is taken.
    source
        Cells of the source population; None for the carried cells before they were carried.
    floor
        Other real cells of the target population than `real`, drawn in grey.
    n_top
        How many genes the figures of the largest changes are of.
    n_names
        How many genes of the largest real changes are named.
    layer
        Where the counts are; None for `.X`, or `.layers["counts"]` where `.X` holds no counts.
    key
        The slots' name on carried cells.
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
        Where values are no counts, the sets share fewer than two genes, one of them has fewer than 2 cells, no gene
        changes, or there is no source.

    Examples
    --------
    >>> controls = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> stimulated = held_out[held_out.obs["batch"] == "batch_1"].copy()
    >>> scflow.tl.transport(controls, carry, progress=False)
    >>> ax = scflow.pl.response(stimulated, controls)
    """
    check_whole(n_top, "n_top", least=2)
    check_whole(n_names, "n_names", least=0)
    names, true, sides = _changes(_cells(real, predicted, source, floor, key), layer)
    (axes,) = axes_of(ax, 1, 5.4, 5.2)
    order = np.argsort(-np.abs(true), kind="stable")
    _dots(axes, true, sides)
    _legend(axes, true, sides, order[:n_top])
    dots = [np.column_stack([true, side.changes]) for side in sides]
    named = order[:n_names]
    name_dots(axes, dots[-1][named], [names[i] for i in named], np.concatenate(dots))
    return axes


def _cells(
    real: AnnData, predicted: AnnData, source: AnnData | None, floor: AnnData | None, key: str
) -> dict[str, AnnData]:
    """All sets of cells by their names: the source first, the floor last, where there is one."""
    slot = _keys.slots(key)
    predicted = checked(predicted, name="predicted")
    carried = slot.source in predicted.obsm and slot.flow in predicted.layers
    if source is None and not carried:
        raise InputError(
            f"There is no source to hold real and predicted cells against: predicted has no obsm[{slot.source!r}] and "
            f"layers[{slot.flow!r}], so no flow carried these cells. Give the cells of the source population: "
            "scflow.pl.response(real, predicted, source)."
        )
    after = of_layer(predicted, slot.flow) if carried else predicted
    cells = {"source": predicted if source is None else source, "real": real, "predicted": after}
    cells |= {} if floor is None else {"floor": floor}
    for name, adata in cells.items():
        if checked(adata, name=name).n_obs < 2:
            raise InputError(f"{name} has {adata.n_obs} cell; a mean that says something needs many, at least 2.")
    return cells


def _changes(cells: dict[str, AnnData], layer: str | None) -> tuple[list[str], Changes, list[_Side]]:
    """Names of the shared genes, their real changes, and those of the floor and of the predicted cells."""
    means = [_means(counts) for counts in shared_counts(cells, layer)]
    before, true = means[0], means[1] - means[0]
    if not np.abs(true).max() > 0:
        raise InputError(
            f"The means of all {len(true)} genes are the same in real and source: nothing responds. Are they the same "
            "cells? Choose each by its label, such as adata[adata.obs['condition'] == 'stim'].copy()."
        )
    sides = [_Side("real, other cells", REAL, mean - before) for mean in means[3:]]
    sides.append(_Side("predicted", GENERATED, means[2] - before))
    genes = cells["source"].var_names
    for adata in cells.values():
        genes = genes[genes.isin(adata.var_names)]
    return [str(gene) for gene in genes], true, sides


def _means(counts: sparse.csr_matrix) -> Changes:
    return profile(log_normalised(counts)).mean


def _dots(ax: Axes, true: Changes, sides: list[_Side]) -> None:
    """A dot a gene of each side, the line where both are the same, and lines through no change."""
    size = float(np.clip(8000 / len(true), 4.0, 18.0))
    values = np.concatenate([true, *(side.changes for side in sides)])
    low, high = float(values.min()), float(values.max())
    margin = 0.07 * (high - low)
    ends = (low - margin, high + margin)
    ax.axhline(0, color="0.85", lw=0.8, zorder=0)
    ax.axvline(0, color="0.85", lw=0.8, zorder=0)
    ax.plot(ends, ends, color="black", ls="--", lw=1, zorder=1)
    for side in sides:
        ax.scatter(true, side.changes, s=size, c=side.color, lw=0, alpha=0.7, rasterized=True, zorder=2)
    ax.set(xlim=ends, ylim=ends, xlabel="real change", ylabel="predicted change")
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes, true: Changes, sides: list[_Side], top: NDArray[np.int64]) -> None:
    """Slope and r of each side over all and over the top genes, above the axes."""
    from matplotlib.lines import Line2D

    handles = []
    for side in reversed(sides):
        told = f"{side.name}: slope {_figures(side.changes, true)}"
        if len(top) < len(true):
            told += f"; top {len(top)}: {_figures(side.changes[top], true[top])}"
        handles.append(Line2D([], [], ls="", marker="o", ms=5, color=side.color, label=told))
    style: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "handletextpad": 0.1}
    ax.legend(handles=handles, frameon=False, fontsize="small", **style)


def _figures(fake: Changes, true: Changes) -> str:
    return f"{slope(fake, true):.2f}, r {pearson(fake, true):.2f}"
