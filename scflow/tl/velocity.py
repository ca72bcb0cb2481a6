"""How fast a flow moves cells, and where to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._carrying import velocity_of
from scflow.matching import guidance as guiding
from scflow.tl._carrying import Journey, sampling_of
from scflow.tl._options import half_the_cores, positive

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["velocity"]


def velocity(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    target: Mapping[str, Any] | None = None,
    time: float = 0.0,
    layer: str | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    device: str = "auto",
    seed: int = 0,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """The velocity at which a flow between two populations moves cells, at the states where they are.

    Parameters
    ----------
    adata
        Cells of the source population: counts of the flow's genes, or the embedding that it lives in.
    flow
        The flow, or an AnnData that was left one in `.uns[key_added]`; by default `adata` itself.
    target
        Where to, as in :func:`scflow.tl.transport`.
    time
        When: 0 at the source, 1 at the target.
    layer
        Where the counts are.
    guidance
        As in :func:`scflow.tl.transport`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of the states of cells in count space.
    key_added
        The slots' name.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obsm["X_scflow"]`, the state of each cell, and `.obsm["velocity_scflow"]`, its change from source to
        target in a unit of that way, in the same coordinates: the names that ``scvelo.pl.velocity_embedding(adata,
        basis="scflow")`` looks for. For a flow in `.obsm["X_umap"]`, also `.obsm["velocity_umap"]`.

    Raises
    ------
    InputError
        As in :func:`scflow.tl.transport`, and for a time outside of 0 to 1.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, source={"batch": "batch_0"}, steps=20, progress=False)
    >>> cells = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> scflow.tl.velocity(cells, flow)
    >>> cells.obsm["velocity_scflow"].shape == cells.obsm["X_scflow"].shape
    True
    """
    when = positive(time, "time", zero=True)
    if when > 1:
        raise InputError(f"time={time!r} is after the target: it runs from 0, the source, to 1.")
    sampling = sampling_of("midpoint", "auto", guidance, device, seed, progress=False)
    journey = Journey.of(adata, flow, target, layer, key_added)
    sampling.guided.weights(journey.flow.conditions.names)
    with half_the_cores():
        states, moves = velocity_of(journey.flow, journey.data, journey.condition, 1.0 - when, sampling).states
    adata = adata.copy() if copy else adata
    _anndata.write_velocity(adata, states, moves, key_added, journey.flow.provenance.get("use_rep"))
    return adata if copy else None
