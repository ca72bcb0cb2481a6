"""Which way cells move, as arrows on an embedding."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scflow import _keys
from scflow._anndata import checked, read_embedding
from scflow.errors import InputError, listed, nearest
from scflow.pl._arrows import Grid, averaged, projected
from scflow.pl._choices import check_known, check_whole
from scflow.pl._embedding import Points, axis_names, column_of, frame, painted, size_of, space_told, states_of, two_of
from scflow.pl._picture import picture
from scflow.pl._style import axes_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["velocity"]

_CELLS, _BEHIND, _ARROW = "#b3cde3", "#d9d9d9", "0.1"
_KINDS = ("grid", "stream", "cells")
_LEAST = 5
"""Cells below which nobody has neighbours to speak of."""


@picture
def velocity(
    adata: AnnData,
    *,
    basis: str = "umap",
    kind: str = "grid",
    color: str | None = None,
    background: AnnData | None = None,
    components: tuple[int, int] = (0, 1),
    use_rep: str | None = None,
    n_neighbors: int = 30,
    n_grid: int = 24,
    key: str = "scflow",
    ax: Axes | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Axes | Figure:
    """Which way a flow moves cells, as arrows on an embedding of them.

    Where the flow lives in the embedding that is drawn, arrows are the velocities themselves. Else they are projected:
    a cell's arrow points to where those of its neighbours stand that it moves towards, by the cosines between its
    velocity and the ways there in the flow's space (Bergen et al. 2020). Such arrows can only point to where there are
    near cells, and their lengths can be compared within a picture alone. Where a flow leads across a gap, to a
    population that is no neighbour, they tell which of the near cells lie that way, and a UMAP may have put those
    anywhere: there :func:`scflow.pl.trajectory` and :func:`scflow.pl.transport` tell more, or principal components.

    Parameters
    ----------
    adata
        Cells after :func:`scflow.tl.velocity`. Left as they are.
    basis
        The embedding: `.obsm["X_<basis>"]`. ``key`` itself, ``"scflow"``, is the flow's own space.
    kind
        ``"grid"``: means over a grid; ``"stream"``: lines along them; ``"cells"``: an arrow a cell.
    color
        A column of `.obs`: categories in the colours of `.uns["<color>_colors"]` where there are some, or numbers.
    background
        Other cells of the same embedding, drawn in grey; where they have coordinates in the flow's space, neighbours
        are sought among them, too.
    components
        Which two dimensions of the embedding.
    use_rep
        Where in `.obsm` of `background` the coordinates of the flow's space are; None for what the flow was trained
        on, or `.obsm["X_scflow"]`.
    n_neighbors
        How many neighbours a projection goes by.
    n_grid
        Points of the grid along each axis.
    key
        The slots' name: `.obsm["X_<key>"]` and `.obsm["velocity_<key>"]`.
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
        Where there is no velocity or no such embedding, spaces do not fit, there are fewer than 5 cells, or `color` is
        not there.

    Examples
    --------
    >>> controls = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> scflow.tl.velocity(controls, carry)
    >>> ax = scflow.pl.velocity(controls, basis="scflow", color="cell_type")
    """
    adata, slot = checked(adata), _keys.slots(key)
    _check(adata, slot, kind, n_neighbors, n_grid)
    name = _embedding_of(adata, basis)
    column = None if color is None else column_of(adata, color, "adata")
    points = two_of(read_embedding(adata, name), components, name)
    behind = _behind(background, name, components)
    arrows = _arrows(adata, name, points, background, behind, components, slot, use_rep, n_neighbors)
    (axes,) = axes_of(ax, 1, 5.6, 4.4)
    if behind is not None:
        axes.scatter(behind[:, 0], behind[:, 1], s=size_of(len(behind)), c=_BEHIND, lw=0, rasterized=True, zorder=0)
    size = size_of(len(points))
    if column is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, c=_CELLS, lw=0, rasterized=True)
    else:
        painted([axes], [points], [column], str(color), [adata], size)
    every = points if behind is None else np.concatenate([points, behind])
    frame([axes], [every], axis_names(name, components))
    _drawn(axes, points, arrows, kind, _marks(every, n_grid))
    return axes


def _check(adata: AnnData, slot: _keys.Slots, kind: str, n_neighbors: int, n_grid: int) -> None:
    """Raise where there is no velocity, or a choice is none that there is."""
    missing = [name for name in (slot.state, slot.velocity) if name not in adata.obsm]
    if missing:
        raise InputError(
            f"adata.obsm has no {listed(missing)}: no flow was asked which way these cells go."
            f"{nearest(missing[0], adata.obsm)} Ask first: scflow.tl.velocity(adata, flow)."
        )
    check_known(kind, _KINDS, "kind")
    check_whole(n_neighbors, "n_neighbors", least=2)
    check_whole(n_grid, "n_grid", least=2)
    if adata.n_obs < _LEAST:
        raise InputError(f"adata has {adata.n_obs} cells; a picture of their flow needs at least {_LEAST}.")


def _embedding_of(adata: AnnData, basis: str) -> str:
    """The name in `.obsm`, with or without "X_"."""
    known = next((name for name in (f"X_{basis}", str(basis)) if name in adata.obsm), None)
    if known is None:
        raise InputError(
            f"adata.obsm has no 'X_{basis}'.{nearest(f'X_{basis}', adata.obsm)} Embeddings: {listed(adata.obsm)}. "
            f"Compute it first, such as with sc.tl.umap(adata), or choose one: basis={next(iter(adata.obsm))!r}."
        )
    return known


def _behind(background: AnnData | None, name: str, components: tuple[int, int]) -> Points | None:
    """The other cells in the embedding."""
    if background is None:
        return None
    return two_of(read_embedding(background, name, name="background"), components, name)


def _arrows(
    adata: AnnData,
    name: str,
    points: Points,
    background: AnnData | None,
    behind: Points | None,
    components: tuple[int, int],
    slot: _keys.Slots,
    use_rep: str | None,
    n_neighbors: int,
) -> NDArray[np.float64]:
    """An arrow a cell, `[n_cells, 2]`: its velocity where that is of this embedding, or a projection."""
    states, moves = (read_embedding(adata, place) for place in (slot.state, slot.velocity))
    if states.shape != moves.shape:
        raise InputError(
            f"adata.obsm[{slot.state!r}] has shape {states.shape} and [{slot.velocity!r}] {moves.shape}; expected the "
            "same. Write both anew: scflow.tl.velocity(adata, flow)."
        )
    whole = read_embedding(adata, name)
    if whole.shape == states.shape and np.allclose(whole, states, rtol=1e-4, atol=1e-5 * float(np.ptp(states))):
        return two_of(moves, components, name).astype(np.float64)
    among, among_points = [states], [points]
    if background is not None and behind is not None:
        told = use_rep or space_told(adata, slot)
        candidates = [use_rep] if use_rep else [place for place in (told, slot.state) if place in background.obsm]
        if candidates:
            among.append(states_of(background, "background", candidates, states.shape[1]))
            among_points.append(behind)
    return projected(states, moves, points, np.concatenate(among), np.concatenate(among_points), n_neighbors)


def _marks(points: Points, n: int) -> NDArray[np.float64]:
    """Where the lines of a grid over all points are, `[n, 2]`."""
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    return np.linspace(low, np.where(high > low, high, low + 1.0), n)


def _drawn(ax: Axes, points: Points, arrows: NDArray[np.float64], kind: str, marks: NDArray[np.float64]) -> None:
    """Arrows of the cells, their means over a grid with these marks on its axes, or lines along those."""
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "color": _ARROW, "zorder": 3}
    style |= {"headwidth": 4.5, "headlength": 5, "headaxislength": 4.5, "minlength": 0.5}
    mesh = marks[1] - marks[0]
    if kind == "cells":
        ax.quiver(*points.T, *arrows.T, scale=_scale(arrows, mesh), width=0.0025, alpha=0.8, **style)
        return
    # Where there are fewer cells than points of the grid, one nearby is enough.
    grid = averaged(points, arrows, marks, least=min(1.0, len(points) / len(marks) ** 2))
    if kind == "stream":
        _streams(ax, grid)
        return
    x, y = np.meshgrid(grid.x, grid.y)
    there = np.isfinite(grid.arrows[..., 0])
    shown = grid.arrows[there]
    ax.quiver(x[there], y[there], *shown.T, scale=_scale(shown, mesh), width=0.0035, **style)


def _scale(arrows: NDArray[np.float64], mesh: NDArray[np.float64]) -> float:
    """So that a long arrow, longer than nine in ten, spans somewhat more than a mesh of the grid."""
    lengths = np.linalg.norm(arrows / mesh, axis=1)
    return max(float(np.quantile(lengths, 0.9)) / 1.2, 1e-12) if len(lengths) else 1.0


def _streams(ax: Axes, grid: Grid) -> None:
    """Lines along the arrows, the thicker the longer those are."""
    speed = np.linalg.norm(grid.arrows, axis=2)
    most = max(float(np.nanmax(speed, initial=0.0)), 1e-12)
    width = 0.6 + 1.6 * np.nan_to_num(speed) / most
    masked = np.ma.masked_invalid(grid.arrows)
    ax.streamplot(
        grid.x, grid.y, masked[..., 0], masked[..., 1], density=1.3, color=_ARROW, linewidth=width, arrowsize=1.1,
        zorder=3,
    )  # fmt: skip
