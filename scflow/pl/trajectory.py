"""The way of each cell through time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow import _keys
from scflow._anndata import checked, obs_column, read_embedding
from scflow.errors import InputError, check_seed, listed
from scflow.metrics import Space
from scflow.pl._choices import check_known, check_whole
from scflow.pl._embedding import (
    Points,
    axis_names,
    column_of,
    frame,
    legend_beside,
    principal,
    size_of,
    space_told,
    states_of,
    two_of,
)
from scflow.pl._picture import picture
from scflow.pl._style import axes_of, category_colors, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["trajectory"]

_BEHIND, _LINE = "#d0d0d0", "#8c8c8c"
_BASES = ("pca", "state")
_MARKS = (("white", 6, "start"), ("0.3", 6, "end"))


class _Lines(NamedTuple):
    """Rows of the cells that are drawn, cell by cell and in order of time, and where each cell's rows start."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    n_cells: int
    backwards: bool

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Values of all rows, a part a cell."""
        return np.split(values[self.rows], self.starts[1:])


@picture
def trajectory(
    paths: AnnData,
    *,
    basis: str | None = None,
    components: tuple[int, int] = (0, 1),
    background: AnnData | None = None,
    color: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    key: str = "scflow",
    max_cells: int = 100,
    seed: int = 0,
    ax: Axes | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Axes | Figure:
    """A line for the way of each cell, with a dot at each time, before the real cells in grey.

    Parameters
    ----------
    paths
        What :func:`scflow.tl.trajectory` returned: a row for each cell at each time. Left as it is.
    basis
        ``"state"``: two dimensions of the flow's own space; ``"pca"``: its principal components, fitted on `background`
        where that is given. Where `background` has no coordinates in the flow's space, they are those of log1p of
        counts per 10,000, and of the paths what a linear regression on their states expects: counts by chance would
        make a zigzag of each. So they spread less than the cells behind them. None is the space itself for flows in an
        embedding and where it has two dimensions.
    components
        Which two dimensions of the space, or which two principal components.
    background
        Real cells, drawn in grey.
    color
        A column of `.obs` of `paths`; None for the time, ``"scflow_time"``. By a column of categories the lines have
        colours too, those of `.uns["<color>_colors"]` of `paths` or `background`; a ring marks where a cell starts and
        a larger dot where it ends.
    use_rep
        Where in `.obsm` of `background` the coordinates of the flow's space are; None for what the flow was trained
        on, or `.obsm["X_scflow"]`.
    layer
        Where the counts are, where they are needed; None for `.X`, or `.layers["counts"]` where `.X` holds none.
    key
        The slots' name: `.obsm["X_<key>"]`, `.obs["<key>_cell"]`, `.obs["<key>_time"]`.
    max_cells
        Of more cells so many are drawn at random: beyond some hundred lines none can be followed.
    seed
        Of that choice.
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
        Where `paths` is no trajectory or has one time only, spaces do not fit, or `color` is not there.

    Examples
    --------
    >>> controls = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> paths = scflow.tl.trajectory(controls, carry, times=3, progress=False)
    >>> ax = scflow.pl.trajectory(paths, background=adata, color="cell_type")
    """
    slot = _keys.slots(key)
    paths = checked(paths, name="paths")
    _check(paths, slot, basis, max_cells)
    lines = _lines(paths, slot, max_cells, seed)
    column = column_of(paths, color or slot.time, "paths")
    points, behind, labels = _placed(paths, background, slot, basis, components, use_rep, layer)
    (axes,) = axes_of(ax, 1, 5.6, 4.4)
    if behind is not None:
        size = size_of(len(behind))
        axes.scatter(behind[:, 0], behind[:, 1], s=size, c=_BEHIND, lw=0, rasterized=True, zorder=0, label="background")
    if isinstance(column.dtype, pd.CategoricalDtype):
        _by_category(axes, points, lines, column, str(color), _colored(paths, background, str(color)))
    else:
        _by_number(axes, points, lines, column, "time" if color in (None, slot.time) else str(color))
    drawn, every = len(lines.starts), lines.n_cells
    axes.set_title(f"{every:,} cells" if drawn == every else f"{drawn:,} of {every:,} cells", fontsize="medium")
    frame([axes], [points[lines.rows], *([] if behind is None else [behind])], labels)
    return axes


def _check(paths: AnnData, slot: _keys.Slots, basis: str | None, max_cells: int) -> None:
    """Raise where there is no trajectory, or a choice is none that there is."""
    missing = [f"obs[{name!r}]" for name in (slot.cell, slot.time) if name not in paths.obs]
    missing += [] if slot.state in paths.obsm else [f"obsm[{slot.state!r}]"]
    if missing:
        raise InputError(
            f"paths has no {' and no '.join(missing)}: it is no trajectory. Expected what "
            "scflow.tl.trajectory(adata, flow) returns."
        )
    if basis is not None:
        check_known(basis, _BASES, "basis")
    check_whole(max_cells, "max_cells", least=0)
    if max_cells < 1:
        raise InputError(f"max_cells={max_cells!r} leaves nothing to draw; expected at least 1, such as max_cells=100.")


def _lines(paths: AnnData, slot: _keys.Slots, max_cells: int, seed: int) -> _Lines:
    """Which rows are drawn, and in which order."""
    cell, names = pd.factorize(obs_column(paths, slot.cell, name="paths"))
    column = column_of(paths, slot.time, "paths")
    if isinstance(column.dtype, pd.CategoricalDtype):
        raise InputError(
            f"paths.obs[{slot.time!r}] holds categories ({listed(column.cat.categories, 3)}), and times are numbers: "
            f"paths.obs[{slot.time!r}] = paths.obs[{slot.time!r}].astype(float)."
        )
    time = column.to_numpy(dtype=np.float64)
    if len(np.unique(time)) < 2:
        raise InputError(
            f"paths.obs[{slot.time!r}] has one time ({time[0]:g}) for all {len(names)} cells; a line needs two. Ask "
            "scflow.tl.trajectory for more of them."
        )
    chosen = np.sort(np.random.default_rng(check_seed(seed)).permutation(len(names))[:max_cells])
    rows = np.flatnonzero(np.isin(cell, chosen))
    rows = rows[np.lexsort((time[rows], cell[rows]))]
    starts = np.flatnonzero(np.diff(cell[rows], prepend=-1))
    # The order of a cell's rows says which way it went: a flow may count its time down.
    stored = np.argsort(cell, kind="stable")
    same = np.diff(cell[stored]) == 0
    return _Lines(rows, starts, len(names), bool(np.diff(time[stored])[same].sum() < 0))


def _placed(
    paths: AnnData,
    background: AnnData | None,
    slot: _keys.Slots,
    basis: str | None,
    components: tuple[int, int],
    use_rep: str | None,
    layer: str | None,
) -> tuple[Points, Points | None, tuple[str, str]]:
    """All rows and the background in two dimensions, and what the axes are called."""
    states = read_embedding(paths, slot.state, name="paths")
    told = use_rep or space_told(paths, slot)
    basis = basis or ("pca" if states.shape[1] > 2 and paths.n_vars else "state")
    what, space = told or slot.state, told or slot.state
    clouds = [states]
    if background is not None:
        candidates = (use_rep,) if use_rep else (told, slot.state)
        there = [name for name in candidates if name in checked(background, name="background").obsm]
        if basis == "pca" and not there and not use_rep and paths.n_vars:
            clouds = _components(background, paths, states, layer)
        else:
            clouds = [states_of(background, "background", candidates, states.shape[1]), states]
    if basis == "pca":
        clouds = principal(*clouds)
        what, space = "the principal components", "pca"
    placed = [two_of(cloud, components, what) for cloud in clouds]
    return placed[-1], None if background is None else placed[0], axis_names(space, components)


def _components(background: AnnData, paths: AnnData, states: Points, layer: str | None) -> list[Points]:
    """Principal components of the counts of the background, and those that the paths are expected to have in them.

    By a linear regression on the states: with the counts' own chance a line would be a zigzag.
    """
    counts = shared_counts({"background": background, "paths": paths}, layer)
    space = Space.fit(counts[0])
    behind, own = (space.components(part) for part in counts)
    terms = np.column_stack([np.ones(len(states)), states]).astype(np.float64)
    smooth = terms @ np.linalg.lstsq(terms, own.astype(np.float64), rcond=None)[0]
    return [behind, smooth.astype(np.float32)]


def _by_number(ax: Axes, points: Points, lines: _Lines, column: pd.Series[Any], label: str) -> None:
    """Grey lines, and dots in the colours of a scale, with its bar."""
    from matplotlib.collections import LineCollection

    ax.add_collection(LineCollection(lines.split(points), colors=_LINE, lw=0.7, alpha=0.6, zorder=1))
    rows = lines.rows
    values = column.to_numpy(dtype=np.float64)[rows]
    # In random order, so that the last time does not lie on all others.
    order = np.random.default_rng(0).permutation(len(rows))
    xy, size = points[rows[order]], size_of(len(rows))
    dots = ax.scatter(xy[:, 0], xy[:, 1], s=size, c=values[order], cmap="viridis", lw=0, zorder=2, rasterized=True)
    ax.figure.colorbar(dots, ax=ax, label=label, shrink=0.7)


def _colored(paths: AnnData, background: AnnData | None, color: str) -> list[AnnData]:
    """Who may know the colours of the categories: what carried the cells leaves those of the cells behind."""
    return [paths] if background is None or color not in background.obs else [paths, background]


def _by_category(
    ax: Axes, points: Points, lines: _Lines, column: pd.Series[Any], color: str, adatas: list[AnnData]
) -> None:
    """Lines and dots in the colours of categories, a ring at the start and a larger dot at the end."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    names = [str(name) for name in column.cat.categories]
    paints = category_colors(names, *adatas, column=color)
    paint = np.array([paints[str(value)] for value in column])
    first, last = lines.rows[lines.starts], lines.rows[np.append(lines.starts[1:], len(lines.rows)) - 1]
    ends = (last, first) if lines.backwards else (first, last)
    ax.add_collection(LineCollection(lines.split(points), colors=paint[first], lw=0.8, alpha=0.5, zorder=1))
    rows, size = lines.rows, size_of(len(lines.rows))
    ax.scatter(points[rows, 0], points[rows, 1], s=0.5 * size, c=paint[rows], lw=0, zorder=2, rasterized=True)
    for end, face in zip(ends, ("white", None), strict=True):
        xy, edge = points[end], paint[end].tolist()
        ax.scatter(xy[:, 0], xy[:, 1], s=2.5 * size, c=face or edge, edgecolors=edge, lw=0.9, zorder=3, rasterized=True)
    style: dict[str, Any] = {"ls": "", "marker": "o", "mec": "0.3"}
    marks = [Line2D([], [], mfc=face, ms=ms, label=name, **style) for face, ms, name in _MARKS]
    legend_beside(ax, paints, color, marks)
