"""What pictures of an embedding share: their points, the colours of cells, and the frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow import _keys
from scflow._anndata import obs_column, read_embedding
from scflow.conditions import as_column
from scflow.errors import InputError, nearest
from scflow.pl._style import category_colors

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = [
    "Points",
    "axis_names",
    "column_of",
    "frame",
    "legend_beside",
    "painted",
    "principal",
    "same_threads",
    "size_of",
    "space_told",
    "states_of",
    "two_of",
    "umap_model",
]

Points = NDArray[np.float32]

_FAR = 1e15
"""The largest number that is painted."""

_NAMES = {"umap": "UMAP", "pca": "PC", "tsne": "t-SNE", "draw_graph_fa": "FA", "diffmap": "DC", "phate": "PHATE"}


def column_of(adata: AnnData, color: str, name: str) -> pd.Series[Any]:
    """A column of `.obs` to paint cells by: categories or numbers, a value for every cell."""
    column = as_column(obs_column(adata, color, name=name), color)
    if not isinstance(column.dtype, pd.CategoricalDtype):
        far = int((~(np.abs(column.to_numpy()) <= _FAR)).sum())
        if far:
            raise InputError(
                f"{name}.obs[{color!r}] is infinite or beyond 1e15 for {far} of {len(column)} cells, and no scale of "
                "colours holds that. Expected finite numbers: drop those cells, or fill them."
            )
    return column


def two_of(points: Points, components: tuple[int, int], what: str) -> Points:
    """The two dimensions that are drawn, `[n, 2]`.

    Raises
    ------
    InputError
        Where `components` are not two of the dimensions that there are.
    """
    width, pair = points.shape[1], tuple(np.ravel(np.asarray(components, dtype=object)))
    whole = all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) and 0 <= c < width for c in pair)
    if width < 2:
        raise InputError(f"{what} has {width} dimension; a picture needs two of them, or basis='umap' or 'pca'.")
    if len(pair) != 2 or not whole or pair[0] == pair[1]:
        raise InputError(
            f"components={components!r} are not two of the {width} dimensions of {what}. Expected two different whole "
            f"numbers from 0 to {width - 1}, such as components=(0, 1)."
        )
    return np.ascontiguousarray(points[:, list(pair)], dtype=np.float32)


def space_told(adata: AnnData, slot: _keys.Slots) -> str | None:
    """The embedding that the flow was trained on, by what it left in `.uns`; None where that does not say."""
    notes: Any = adata.uns.get(slot.flow)
    for facts in (
        adata.uns.get(slot.transport),
        notes,
        notes.get("provenance") if isinstance(notes, Mapping) else None,
    ):
        if isinstance(facts, Mapping) and isinstance(facts.get("use_rep"), str):
            return str(facts["use_rep"])
    return None


def states_of(real: AnnData, name: str, candidates: Sequence[str | None], width: int) -> Points:
    """Real cells in the flow's own space: the first of `candidates` that there is.

    Raises
    ------
    InputError
        Where there is none, or it has not `width` dimensions.
    """
    names = [candidate for candidate in candidates if candidate is not None]
    known = next((candidate for candidate in names if candidate in real.obsm), names[0])
    if known not in real.obsm:
        raise InputError(
            f"{name}.obsm has no {known!r}: these cells have no coordinates in the space that the flow lives in."
            f"{nearest(known, real.obsm)} Name them where there are some (use_rep=...), take a basis of genes where "
            "there is one (basis='pca'), or leave these cells out."
        )
    found = read_embedding(real, known, name=name)
    if found.shape[1] != width:
        raise InputError(
            f"{name}.obsm[{known!r}] has {found.shape[1]} dimensions; the flow's space has {width}. Name the "
            "coordinates that the flow was trained on, such as use_rep='X_pca'."
        )
    return found


def axis_names(basis: str, components: tuple[int, int] = (0, 1)) -> tuple[str, str]:
    """What stands beside the axes: "UMAP 1" of `X_umap`."""
    name = basis.removeprefix("X_")
    name = _NAMES.get(name.lower(), name)
    return f"{name} {components[0] + 1}", f"{name} {components[1] + 1}"


def principal(fitted: Points, *others: Points, n: int = 50) -> list[Points]:
    """Principal components of the first, and the others in them, centred on the first one's mean."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # shares of no variance, where all points are one
        model = PCA(min(n, *fitted.shape), random_state=0).fit(fitted)
    return [model.transform(points).astype(np.float32) for points in (fitted, *others)]


def umap_model(n: int, seed: int) -> Any:
    """A UMAP for `n` cells, not fitted yet."""
    from umap import UMAP

    # One thread: with several, the same seed gives another picture every time. Few cells have no spectral layout.
    start = "spectral" if n > 20 else "random"
    return UMAP(n_neighbors=min(15, n - 1), min_dist=0.3, init=start, random_state=seed % 2**32, n_jobs=1)


@contextmanager
def same_threads() -> Iterator[None]:
    """Leave torch with the threads it had: numba, which UMAP runs on, shares its OpenMP and asks for every core."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def size_of(n: int) -> float:
    """The size of a dot where there are `n`."""
    return float(np.clip(12_000 / max(n, 1), 1.0, 16.0))


def painted(
    axes: Sequence[Axes],
    points: Sequence[Points],
    columns: Sequence[pd.Series[Any]],
    color: str,
    adatas: Sequence[AnnData],
    size: float,
) -> None:
    """Sets of cells, each on its axes, in the same colours; the legend or the colour bar once, beside the last."""
    kinds = {isinstance(column.dtype, pd.CategoricalDtype) for column in columns}
    if len(kinds) > 1:
        raise InputError(
            f"obs[{color!r}] holds categories on one side and numbers on the other. Make both the same, such as with "
            f"adata.obs[{color!r}].astype(str).astype('category')."
        )
    (_categories if kinds == {True} else _numbers)(axes, points, columns, color, adatas, size)


def _categories(
    axes: Sequence[Axes],
    points: Sequence[Points],
    columns: Sequence[pd.Series[Any]],
    color: str,
    adatas: Sequence[AnnData],
    size: float,
) -> None:
    """One colour a category, and the legend once."""
    names = list(dict.fromkeys(str(name) for column in columns for name in column.cat.categories))
    paints = category_colors(names, *adatas, column=color)
    for one, xy, column in zip(axes, points, columns, strict=True):
        one.scatter(xy[:, 0], xy[:, 1], s=size, c=[paints[str(value)] for value in column], lw=0, rasterized=True)
    legend_beside(axes[-1], paints, color)


def _numbers(
    axes: Sequence[Axes],
    points: Sequence[Points],
    columns: Sequence[pd.Series[Any]],
    color: str,
    _: Sequence[AnnData],
    size: float,
) -> None:
    """One scale, and its bar once."""
    values = [column.to_numpy(dtype=np.float64) for column in columns]
    low, high = (float(end(np.concatenate(values))) for end in (np.min, np.max))
    for one, xy, numbers in zip(axes, points, values, strict=True):
        drawn = one.scatter(
            xy[:, 0], xy[:, 1], s=size, c=numbers, cmap="viridis", vmin=low, vmax=high, lw=0, rasterized=True
        )
    axes[-1].figure.colorbar(drawn, ax=axes[-1], label=color, shrink=0.7)


def legend_beside(ax: Axes, paints: dict[str, str], title: str | None = None, marks: Sequence[Any] = ()) -> None:
    """A dot and a name for each colour, and other marks, to the right of the axes."""
    from matplotlib.lines import Line2D

    # A name with two dollars would be read as a formula.
    names = {name: name.replace("$", r"\$") for name in paints}
    handles = [
        Line2D([], [], ls="", marker="o", ms=6, color=paint, label=names[name]) for name, paint in paints.items()
    ]
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "handletextpad": 0.1}
    handles += marks
    columns = 1 + (len(handles) - 1) // 18
    ax.legend(handles=handles, title=title, ncols=columns, fontsize="small", frameon=False, **place)


def frame(axes: Sequence[Axes], points: Sequence[Points], names: tuple[str, str]) -> None:
    """The same limits everywhere, and no ticks: the units of an embedding mean nothing."""
    every = np.concatenate(points)
    low, high = every.min(axis=0), every.max(axis=0)
    margin = 0.04 * (high - low) + 1e-6
    for one in axes:
        one.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        one.set(xticks=[], yticks=[], xlabel=names[0], ylabel=names[1])
        one.set_box_aspect(1)
        one.spines[["top", "right"]].set_visible(False)
