"""Genes' means, variances and zeros, real and generated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scflow.metrics import profile
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["genes"]


@picture
def genes(
    real: AnnData,
    generated: AnnData,
    *,
    layer: str | None = None,
    ax: Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> list[Axes] | Figure:
    """Variance against mean, and fraction of zeros against mean: one dot a gene, real and generated.

    Of raw counts. The dashed lines are those of independent Poisson counts of one rate: ``variance = mean`` and
    ``exp(-mean)``. Cells that were smoothed on the way lie below the real ones on the left, and off them on the right.

    Parameters
    ----------
    real, generated
        The cells; compared on the genes that both have. Left as they are.
    layer
        Where the counts are; None for `.X`, or `.layers["counts"]` where `.X` holds no counts.
    ax
        Two axes to draw on; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    list of Axes
        Mean and variance, mean and zeros. The figure is ``axes[0].figure``; it is not shown.

    Raises
    ------
    InputError
        Where values are no counts, or the two share fewer than two genes.

    Examples
    --------
    >>> axes = scflow.pl.genes(held_out, new)
    >>> axes[0].get_ylabel()
    'variance of counts'
    """
    profiles = [profile(counts) for counts in shared_counts({"real": real, "generated": generated}, layer)]
    left, right = axes = axes_of(ax, 2, 4.8, 4.0)
    mean, variance, zeros = (np.concatenate(parts) for parts in zip(*profiles, strict=True))
    paint = np.repeat(np.array([REAL, GENERATED]), len(mean) // 2)
    # In random order, so that neither lies on top of the other; and without genes that a logarithm cannot show.
    order = np.random.default_rng(0).permutation(len(mean))
    style: dict[str, Any] = {
        "s": float(np.clip(8000 / len(mean), 3.0, 16.0)),
        "lw": 0,
        "alpha": 0.6,
        "rasterized": True,
    }
    for one, height, shown in ((left, variance, (mean > 0) & (variance > 0)), (right, zeros, mean > 0)):
        rows = order[shown[order]]
        one.scatter(mean[rows], height[rows], c=paint[rows], **style)
    _poisson(left, right, mean[mean > 0])
    left.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance of counts")
    right.set(xscale="log", ylim=(-0.03, 1.03), xlabel="mean count", ylabel="fraction of zeros")
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return axes


def _poisson(left: Axes, right: Axes, means: NDArray[np.float64]) -> None:
    """The lines of Poisson counts over the means that occur, and the legend once."""
    from matplotlib.lines import Line2D

    if means.size:
        line = np.geomspace(means.min(), means.max(), 200)
        left.plot(line, line, color="black", ls="--", lw=1)
        right.plot(line, np.exp(-line), color="black", ls="--", lw=1)
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=REAL, label="real"),
        Line2D([], [], ls="", marker="o", ms=5, color=GENERATED, label="generated"),
        Line2D([], [], color="black", ls="--", lw=1, label="Poisson"),
    ]
    left.legend(handles=handles, frameon=False, loc="upper left", fontsize="small")
