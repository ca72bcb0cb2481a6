"""What became of cells that a flow carries, into an AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scflow import _keys
from scflow._anndata._annotations import match_genes
from scflow._anndata._results import expression, storable, writing

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["cells_at", "rows_in_time", "write_carried", "write_growth", "write_velocity"]


def write_carried(
    adata: AnnData,
    states: tuple[NDArray[np.float32], NDArray[np.float32]],
    counts: sparse.csr_matrix | None,
    genes: Sequence[str],
    facts: Mapping[str, Any],
    key: str,
) -> None:
    """Leave where cells came from and went to in `.obsm`, their counts in `.layers`, and how in `.uns`.

    Genes that the flow does not know have no counts. A velocity was that of other states, and is dropped.
    """
    slot = _keys.slots(key)
    with writing():
        adata.obsm.pop(slot.velocity, None)
        adata.obsm[slot.source], adata.obsm[slot.state] = states
        if counts is not None:
            adata.layers[slot.flow] = _over_all_genes(counts, genes, adata)
        adata.uns[slot.transport] = storable(facts)


def write_velocity(
    adata: AnnData, states: NDArray[np.float32], velocity: NDArray[np.float32], key: str, use_rep: str | None
) -> None:
    """Leave states and velocities in `.obsm`, under the names that plots of scvelo look for: X_name, velocity_name.

    Where cells were carried from is dropped: they are no longer where they were carried to.
    """
    slot = _keys.slots(key)
    with writing():
        adata.obsm.pop(slot.source, None)
        adata.obsm[slot.state], adata.obsm[slot.velocity] = states, velocity
        if use_rep is not None:
            adata.obsm[f"velocity_{use_rep.removeprefix('X_')}"] = velocity.copy()


def write_growth(adata: AnnData, growth: NDArray[np.float64], key: str) -> None:
    """Leave how many descendants cells have in `.obs["scflow_growth"]`, by `key`."""
    with writing():
        adata.obs[_keys.slots(key).growth] = growth


def cells_at(
    obs: pd.DataFrame,
    states: tuple[NDArray[np.float32], NDArray[np.float32]],
    counts: sparse.csr_matrix | None,
    genes: Sequence[str],
    *,
    target_sum: float,
    provenance: Mapping[str, Any],
) -> AnnData:
    """New cells of one day of a course.

    Parameters
    ----------
    obs
        A row for each cell, `[n_cells]`; cells are named anew.
    states
        Those of their ancestors and theirs, each `[n_cells, dim]`.
    counts
        `[n_cells, n_genes]`, or None for a flow in an embedding.
    """
    from anndata import AnnData

    slot = _keys.slots()
    obs = obs.set_axis(pd.Index([f"scflow_{i}" for i in range(len(obs))], dtype="object"), axis=0)
    cells = AnnData(obs=obs) if counts is None else expression(counts, genes, obs, target_sum)
    cells.obsm[slot.source], cells.obsm[slot.state] = states
    cells.uns[slot.flow] = {"provenance": storable(provenance)}
    return cells


def rows_in_time(
    adata: AnnData,
    times: Sequence[float],
    states: NDArray[np.float32],
    counts: Sequence[sparse.csr_matrix],
    genes: Sequence[str],
    *,
    target_sum: float,
    facts: Mapping[str, Any],
    key: str,
    growth: NDArray[np.float64] | None = None,
) -> AnnData:
    """A new AnnData with a row for each cell at each time: all cells at the first time, then at the next.

    Parameters
    ----------
    states
        ``[n_times, n_cells, dim]``.
    counts
        One matrix a time ``[n_cells, n_genes]``, or none.
    growth
        How many descendants each cell has at each time ``[n_times, n_cells]``, or None.
    """
    from anndata import AnnData

    slot, n = _keys.slots(key), adata.n_obs
    names = np.tile(adata.obs_names.to_numpy(dtype=object), len(times))
    obs = pd.concat([adata.obs] * len(times))
    obs[slot.cell] = pd.Categorical(names, categories=adata.obs_names)
    obs[slot.time] = np.repeat(np.asarray(times, dtype=np.float64), n)
    if growth is not None:
        obs[slot.growth] = growth.ravel()
    obs.index = pd.Index([f"{name}@{i}" for i in range(len(times)) for name in adata.obs_names], dtype="object")
    if counts:
        rows = expression(sparse.csr_matrix(sparse.vstack(counts, format="csr")), genes, obs, target_sum)
    else:
        rows = AnnData(obs=obs)
    rows.obsm[slot.state] = states.reshape(-1, states.shape[2])
    rows.uns[slot.transport] = storable(facts)
    return rows


def _over_all_genes(counts: sparse.csr_matrix, genes: Sequence[str], adata: AnnData) -> sparse.csr_matrix:
    """Columns in the order of `.var`."""
    places = match_genes(adata, genes)
    if np.array_equal(places, np.arange(adata.n_vars)):
        return counts
    found = counts.tocoo()
    shape = (adata.n_obs, adata.n_vars)
    return sparse.csr_matrix((found.data, (found.row, places[found.col])), shape=shape)
