"""Carry cells from one population to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scflow import _anndata
from scflow.flow import Flow
from scflow.flow._carrying import carry
from scflow.matching import guidance as guiding
from scflow.matching import solvers
from scflow.tl._carrying import EVALUATIONS, Journey
from scflow.tl._following import sampling_of
from scflow.tl._options import half_the_cores

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["transport"]


def transport(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    target: Mapping[str, Any] | None = None,
    layer: str | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    solver: str | solvers.Solver = "midpoint",
    steps: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """Carry cells along a flow that :func:`scflow.tl.train` learnt between two populations.

    Each cell keeps its row. Genes are found by name, in any order.

    Parameters
    ----------
    adata
        Cells of the source population: counts of the flow's genes, or the embedding that it lives in.
    flow
        The flow, or an AnnData that was left one in `.uns[key_added]`; by default `adata` itself.
    target
        Where to, where the flow knows several targets: ``{"condition": "IFN"}``, or a list with one value a cell. After
        :func:`scflow.pp.embed` any combination of known parts, with a warning where no training cell had it.
    layer
        Where the counts are; by default `.X`, or `.layers["counts"]` where `.X` holds no counts.
    guidance
        1 carries to the learnt law; above 1 cells are pushed away from the mean of all targets.
    solver, steps
        As in :func:`scflow.tl.generate`; ``"auto"`` takes 24 evaluations of the field.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of the states of cells in count space, and of the counts. The global random state is not touched.
    progress
        Show a progress bar.
    key_added
        The slots' name.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obsm["X_scflow_source"]`, the state that a cell started from, `.obsm["X_scflow"]`, where it ended,
        `.layers["scflow"]`, integer counts of where it ended (not for a flow in an embedding), and
        `.uns["scflow_transport"]`, from where to where.

    Raises
    ------
    InputError
        Where the flow starts from noise, cells are known to be of another population, genes or conditions are missing,
        or it has several targets and none was chosen.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> options = {"source": {"batch": "batch_0"}, "group": "cell_type", "steps": 20, "progress": False}
    >>> flow = scflow.tl.train(adata, **options)
    >>> cells = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> scflow.tl.transport(cells, flow, progress=False)
    >>> cells.layers["scflow"].shape == cells.shape
    True
    """
    journey = Journey.of(adata, flow, target, layer, key_added)
    options: dict[str, Any] = {"guidance": guidance, "device": device, "seed": seed, "progress": progress}
    sampling = sampling_of(journey.flow, solver=solver, steps=steps, evaluations=EVALUATIONS, **options)
    with half_the_cores():
        way = carry(journey.flow, journey.data, journey.condition, (1.0, 0.0), sampling)
    adata = adata.copy() if copy else adata
    counts = way.counts[0] if way.counts else None
    both = (way.states[0], way.states[1])
    _anndata.write_carried(adata, both, counts, journey.flow.genes, journey.facts(), key_added)
    return adata if copy else None
