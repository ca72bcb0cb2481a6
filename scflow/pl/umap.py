"""Real and generated cells in one embedding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scflow.errors import InputError, check_seed
from scflow.metrics import Space
from scflow.pl._embedding import Points, column_of, frame, legend_beside, painted, same_threads, size_of, umap_model
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["umap"]


@picture
def umap(
    real: AnnData,
    generated: AnnData,
    *,
    color: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    ax: Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> list[Axes] | Figure:
    """Real cells, generated cells, and both, in one UMAP that was fitted on the real cells alone.

    Variable genes, principal components, neighbours and UMAP are those of `real`; generated cells are placed among
    them. So generated cells that are unlike real ones lie off the real ones, or between them, and do not bend the
    picture. Distances between clusters mean little in a UMAP: :func:`scflow.tl.score` is the judge.

    Parameters
    ----------
    real, generated
        The cells; compared on the genes that both have. Left as they are.
    color
        A column of `.obs` of both: categories in the colours of `.uns["<color>_colors"]` where there are some, or
        numbers.
    layer
        Where the counts are; None for `.X`, or `.layers["counts"]` where `.X` holds no counts.
    seed
        The same seed gives the same picture.
    ax
        Three axes to draw on; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    list of Axes
        Real, generated, both. The figure is ``axes[0].figure``; it is not shown.

    Raises
    ------
    InputError
        Where there are fewer than 4 real cells, `color` is not there, or values are no counts.

    Examples
    --------
    >>> axes = scflow.pl.umap(held_out, new, color="cell_type")
    """
    check_seed(seed)
    adatas = {"real": real, "generated": generated}
    counts = shared_counts(adatas, layer)
    columns = [] if color is None else [column_of(adata, color, name) for name, adata in adatas.items()]
    axes = axes_of(ax, 3, 4.6, 4.2)
    points = _embedded(counts[0], counts[1], seed)
    size = size_of(max(map(len, points)))
    if color is None:
        for one, xy, paint in zip(axes, points, (REAL, GENERATED), strict=False):
            one.scatter(xy[:, 0], xy[:, 1], s=size, c=paint, lw=0, rasterized=True)
    else:
        painted(axes[:2], points, columns, color, (real, generated), size)
    _overlay(axes[2], points, size, seed)
    names = (f"real ({len(points[0]):,} cells)", f"generated ({len(points[1]):,} cells)", "both")
    for one, name in zip(axes, names, strict=True):
        one.set_title(name)
    frame(axes, points, ("UMAP 1", "UMAP 2"))
    return axes


def _embedded(real: sparse.csr_matrix, generated: sparse.csr_matrix, seed: int) -> tuple[Points, Points]:
    """Both in two dimensions, `[n, 2]`, by what was fitted on the real cells."""
    n = real.shape[0]
    if n < 4:
        raise InputError(f"real has {n} cells; a UMAP needs at least 4, and means something from about 100.")
    # In components that few cells made of noise, those cells lie farther out than any new ones, real ones included.
    space = Space.fit(real, n_components=min(50, max(5, n // 50)))
    model = umap_model(n, seed)
    with same_threads():
        placed = model.fit_transform(space.components(real))
        return placed, model.transform(space.components(generated))


def _overlay(ax: Axes, points: tuple[Points, Points], size: float, seed: int) -> None:
    """Both sets in random order, so that none lies on top of the other."""
    both = np.concatenate(points)
    paint = np.repeat(np.array([REAL, GENERATED]), [len(xy) for xy in points])
    order = np.random.default_rng(seed).permutation(len(both))
    ax.scatter(both[order, 0], both[order, 1], s=size, c=paint[order], lw=0, alpha=0.7, rasterized=True)
    legend_beside(ax, {"real": REAL, "generated": GENERATED})
