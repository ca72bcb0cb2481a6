"""Cells before and after a flow carried them, and the real cells they were to become."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scflow import _keys
from scflow._anndata import checked, read_embedding
from scflow.errors import InputError, check_seed, listed, nearest
from scflow.metrics import Space
from scflow.pl._choices import check_known
from scflow.pl._embedding import (
    Points,
    axis_names,
    column_of,
    frame,
    painted,
    principal,
    same_threads,
    size_of,
    space_told,
    states_of,
    two_of,
    umap_model,
)
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of, of_layer, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["transport"]

_BEFORE, _BEHIND = "#0072b2", "#d0d0d0"
_BASES = ("umap", "pca", "state")


@picture
def transport(
    carried: AnnData,
    real: AnnData | None = None,
    *,
    basis: str | None = None,
    components: tuple[int, int] = (0, 1),
    color: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    key: str = "scflow",
    seed: int = 0,
    ax: Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> list[Axes] | Figure:
    """Cells before they were carried, after, and the real cells they were to become, in one embedding.

    Behind the cells after it the real ones stand in light grey (the cells before, where there are no real ones): where
    the flow did well, they lie on each other. The embedding is fitted on all of them together, so cells that are unlike
    real ones can stand apart. Distances between clusters mean little in a UMAP: take ``basis="pca"`` to see how far
    cells went.

    Parameters
    ----------
    carried
        The cells that :func:`scflow.tl.transport` carried. Left as they are.
    real
        Real cells of the target; None to do without.
    basis
        ``"umap"`` or ``"pca"``: of log1p of counts per 10,000 of the genes that all have, and of the coordinates where
        the flow lives in an embedding; ``"state"``: two dimensions of the flow's own space. None is UMAP for flows of
        genes, and the space itself for flows in an embedding.
    components
        Which two dimensions of the principal components or of the space.
    color
        A column of `.obs` of all: categories in the colours of `.uns["<color>_colors"]` where there are some, or
        numbers.
    use_rep
        Where in `.obsm` of `real` the coordinates of the flow's space are; None for what the flow was trained on, or
        `.obsm["X_scflow"]`. Not needed for UMAP and principal components of genes.
    layer
        Where the counts before, and those of `real`, are; None for `.X`, or `.layers["counts"]` where `.X` holds none.
    key
        The slots' name: `.obsm["X_<key>"]`, `.obsm["X_<key>_source"]`, `.layers["<key>"]`, `.uns["<key>_transport"]`.
    seed
        The same seed gives the same picture.
    ax
        Three axes to draw on, two without `real`; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    list of Axes
        Before, after, and real where it is given. The figure is ``axes[0].figure``; it is not shown.

    Raises
    ------
    InputError
        Where the cells were not carried, values are no counts, spaces do not fit, or `color` is not there.

    Examples
    --------
    >>> controls = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> scflow.tl.transport(controls, carry, progress=False)
    >>> axes = scflow.pl.transport(controls, held_out, basis="pca", color="cell_type")
    """
    slot = _keys.slots(key)
    adatas = [checked(carried, name="carried")]
    adatas += [adatas[0]] if real is None else [adatas[0], checked(real, name="real")]
    _check(adatas[0], slot, basis)
    names = ("carried", "carried", "real")
    columns = [] if color is None else [column_of(adata, color, name) for adata, name in zip(adatas, names)]
    check_seed(seed)
    points, labels = _placed(adatas, slot, basis, components, use_rep, layer, seed)
    axes = axes_of(ax, len(points), 4.4, 4.2)
    size = size_of(max(map(len, points)))
    behind = points[-1] if real is not None else points[0]
    axes[1].scatter(behind[:, 0], behind[:, 1], s=1.6 * size, c=_BEHIND, lw=0, rasterized=True)
    if color is None:
        for one, xy, paint in zip(axes, points, (_BEFORE, GENERATED, REAL), strict=False):
            one.scatter(xy[:, 0], xy[:, 1], s=size, c=paint, lw=0, rasterized=True)
    else:
        painted(axes, points, columns, color, adatas, size)
    for one, title in zip(axes, _titles(adatas, slot.transport, behind is points[0])):
        one.set_title(title, fontsize="medium")
    frame(axes, points, labels)
    return axes


def _check(carried: AnnData, slot: _keys.Slots, basis: str | None) -> None:
    """Raise where the cells were not carried, or the basis is none that there is."""
    missing = [name for name in (slot.source, slot.state) if name not in carried.obsm]
    if missing:
        raise InputError(
            f"carried.obsm has no {listed(missing)}: no flow carried these cells.{nearest(missing[0], carried.obsm)} "
            "Carry them first: scflow.tl.transport(adata, flow)."
        )
    facts = carried.uns.get(slot.flow)
    if isinstance(facts, Mapping) and "at" in facts.get("provenance", {}):
        raise InputError(
            "carried holds cells that scflow.tl.generate drew: several have one ancestor, and what that one expressed "
            "is not kept. Show them beside real ones, scflow.pl.umap(real, generated), or carry cells: "
            "scflow.tl.transport(adata, flow, to=...)."
        )
    if basis is not None:
        check_known(basis, _BASES, "basis")


def _placed(
    adatas: Sequence[AnnData],
    slot: _keys.Slots,
    basis: str | None,
    components: tuple[int, int],
    use_rep: str | None,
    layer: str | None,
    seed: int,
) -> tuple[list[Points], tuple[str, str]]:
    """All cells in two dimensions, and what the axes are called."""
    genes = slot.flow in adatas[0].layers
    basis = basis or ("umap" if genes else "state")
    clouds: list[Points]
    if genes and basis != "state":
        clouds = _components(adatas, slot.flow, layer)
    else:
        clouds, space = _states(adatas, slot, use_rep)
        if basis == "state":
            return [two_of(cloud, components, space) for cloud in clouds], axis_names(space, components)
    joint = np.concatenate(clouds)
    if basis == "pca":
        joint = joint if genes else principal(joint)[0]
        joint, labels = two_of(joint, components, "the principal components"), axis_names("pca", components)
    else:
        joint, labels = _umap(joint, seed), axis_names("umap")
    return np.split(joint, np.cumsum([len(cloud) for cloud in clouds])[:-1]), labels


def _components(adatas: Sequence[AnnData], flow: str, layer: str | None) -> list[Points]:
    """Principal components of the counts before, after and of the real cells, fitted on all."""
    cells = {"carried": adatas[0], f"carried.layers[{flow!r}]": of_layer(adatas[0], flow)}
    cells |= {"real": adatas[2]} if len(adatas) > 2 else {}
    counts = shared_counts(cells, layer)
    joint = sparse.csr_matrix(sparse.vstack(counts, format="csr"))
    space = Space.fit(joint, n_components=min(50, max(5, joint.shape[0] // 50)))
    return [space.components(part) for part in counts]


def _states(adatas: Sequence[AnnData], slot: _keys.Slots, use_rep: str | None) -> tuple[list[Points], str]:
    """Coordinates in the flow's own space, and what that is called."""
    carried = adatas[0]
    found = [read_embedding(carried, name, name="carried") for name in (slot.source, slot.state)]
    told = use_rep or space_told(carried, slot)
    if len(adatas) > 2:
        candidates = (use_rep,) if use_rep else (told, slot.state)
        found.append(states_of(adatas[2], "real", candidates, found[1].shape[1]))
    return found, told or slot.state


def _umap(joint: Points, seed: int) -> Points:
    """Two dimensions of all cells."""
    if len(joint) < 4:
        raise InputError(f"There are {len(joint)} cells; a UMAP needs at least 4, and means something from about 100.")
    with same_threads():
        placed: Points = umap_model(len(joint), seed).fit_transform(joint)
    return placed


def _titles(adatas: Sequence[AnnData], slot: str, before_behind: bool) -> list[str]:
    """What each panel shows, with the populations' names where they are told."""
    facts: Any = adatas[0].uns.get(slot)
    told = facts if isinstance(facts, Mapping) else {}
    source, target = (
        f": {told[name]}" if isinstance(told.get(name), str) and 0 < len(told[name]) < 30 else ""
        for name in ("source", "target")
    )
    n = [f"{adata.n_obs:,} cells" for adata in adatas]
    after = f"after{target}\n{n[1]}, on {'those before' if before_behind else 'the real ones'} (grey)"
    return [f"before{source}\n{n[0]}", after, *([f"real{target}\n{n[2]}"] if len(n) > 2 else [])]
