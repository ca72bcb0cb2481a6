"""Real and generated cells in one embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scflow._anndata import obs_column
from scflow.conditions import as_column
from scflow.errors import InputError
from scflow.metrics import Space
from scflow.pl._style import GENERATED, REAL, axes_of, category_colors, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["umap"]

Points = NDArray[np.float32]


def umap(
    real: AnnData,
    generated: AnnData,
    *,
    color: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
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
    >>> import scflow
    >>> adata = scflow.datasets.pbmc68k()
    >>> axes = scflow.pl.umap(adata[:400], adata[400:], color="cell_type")  # doctest: +SKIP
    """
    counts = shared_counts({"real": real, "generated": generated}, layer)
    columns = [] if color is None else [_column(real, color, "real"), _column(generated, color, "generated")]
    axes = axes_of(ax, 3, 4.6, 4.2)
    points = _embedded(counts[0], counts[1], seed)
    size = float(np.clip(12_000 / max(map(len, points)), 1.0, 16.0))
    if color is None:
        for one, xy, paint in zip(axes, points, (REAL, GENERATED), strict=False):
            one.scatter(xy[:, 0], xy[:, 1], s=size, c=paint, lw=0, rasterized=True)
    elif all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        _categories(axes, points, columns, color, (real, generated), size)
    else:
        _numbers(axes, points, columns, color, size)
    _overlay(axes[2], points, size, seed)
    names = (f"real ({len(points[0]):,} cells)", f"generated ({len(points[1]):,} cells)", "both")
    for one, name in zip(axes, names, strict=True):
        one.set_title(name)
    _frame(axes, points)
    return axes


def _column(adata: AnnData, color: str, name: str) -> pd.Series[Any]:
    return as_column(obs_column(adata, color, name=name), color)


def _embedded(real: sparse.csr_matrix, generated: sparse.csr_matrix, seed: int) -> tuple[Points, Points]:
    """Both in two dimensions, `[n, 2]`, by what was fitted on the real cells."""
    n = real.shape[0]
    if n < 4:
        raise InputError(f"real has {n} cells; a UMAP needs at least 4, and means something from about 100.")
    from umap import UMAP

    # In components that few cells made of noise, those cells lie farther out than any new ones, real ones included.
    space = Space.fit(real, n_components=min(50, max(5, n // 50)))
    # One thread: with several, the same seed gives another picture every time. Few cells have no spectral layout.
    start = "spectral" if n > 20 else "random"
    model = UMAP(n_neighbors=min(15, n - 1), min_dist=0.3, init=start, random_state=seed, n_jobs=1)
    with _same_threads():
        placed = model.fit_transform(space.components(real))
        return placed, model.transform(space.components(generated))


@contextmanager
def _same_threads() -> Iterator[None]:
    """Leave torch with the threads it had: numba, which UMAP runs on, shares its OpenMP and asks for every core."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _categories(
    axes: Sequence[Axes],
    points: tuple[Points, Points],
    columns: Sequence[pd.Series[Any]],
    color: str,
    adatas: tuple[AnnData, AnnData],
    size: float,
) -> None:
    """Real and generated cells in the same colours, and the legend once."""
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(str(name) for column in columns for name in column.cat.categories))
    paints = category_colors(names, *adatas, column=color)
    for one, xy, column in zip(axes, points, columns, strict=False):
        one.scatter(xy[:, 0], xy[:, 1], s=size, c=[paints[str(value)] for value in column], lw=0, rasterized=True)
    handles = [Line2D([], [], ls="", marker="o", ms=6, color=paints[name], label=name) for name in names]
    axes[1].legend(
        handles=handles,
        title=color,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        ncols=1 + (len(names) - 1) // 16,
        fontsize="small",
        frameon=False,
        handletextpad=0.1,
    )


def _numbers(
    axes: Sequence[Axes],
    points: tuple[Points, Points],
    columns: Sequence[pd.Series[Any]],
    color: str,
    size: float,
) -> None:
    """Real and generated cells on one scale, and its bar once."""
    if any(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        raise InputError(
            f"obs[{color!r}] holds categories on one side and numbers on the other. Make both the same, such as with "
            f"adata.obs[{color!r}].astype(str).astype('category')."
        )
    values = [column.to_numpy(dtype=np.float64) for column in columns]
    low, high = (float(end(np.concatenate(values))) for end in (np.min, np.max))
    for one, xy, numbers in zip(axes, points, values, strict=False):
        drawn = one.scatter(
            xy[:, 0], xy[:, 1], s=size, c=numbers, cmap="viridis", vmin=low, vmax=high, lw=0, rasterized=True
        )
    axes[1].figure.colorbar(drawn, ax=axes[1], label=color, shrink=0.7)


def _overlay(ax: Axes, points: tuple[Points, Points], size: float, seed: int) -> None:
    """Both sets in random order, so that none lies on top of the other."""
    from matplotlib.lines import Line2D

    both = np.concatenate(points)
    paint = np.repeat(np.array([REAL, GENERATED]), [len(xy) for xy in points])
    order = np.random.default_rng(seed).permutation(len(both))
    ax.scatter(both[order, 0], both[order, 1], s=size, c=paint[order], lw=0, alpha=0.7, rasterized=True)
    handles = [
        Line2D([], [], ls="", marker="o", ms=6, color=color, label=name)
        for name, color in (("real", REAL), ("generated", GENERATED))
    ]
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "handletextpad": 0.1}
    ax.legend(handles=handles, fontsize="small", frameon=False, **place)


def _frame(axes: Sequence[Axes], points: tuple[Points, Points]) -> None:
    """The same limits everywhere, no ticks: the units of a UMAP mean nothing."""
    both = np.concatenate(points)
    low, high = both.min(axis=0), both.max(axis=0)
    margin = 0.04 * (high - low) + 1e-6
    for one in axes:
        one.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        one.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        one.set_box_aspect(1)
        one.spines[["top", "right"]].set_visible(False)
