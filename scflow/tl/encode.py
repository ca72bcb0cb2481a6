"""Follow cells back to the noise that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scflow import _anndata
from scflow.flow import Flow
from scflow.matching import guidance as guiding
from scflow.matching import solvers
from scflow.tl._following import cells_of, check_noise, codes_of, flow_of, sampling_of
from scflow.tl._options import half_the_cores

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["encode"]

_EVALUATIONS = 64


def encode(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    condition: Mapping[str, Any] | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    layer: str | None = None,
    use_rep: str | None = None,
    solver: str | solvers.Solver = "rk4",
    steps: int | str = "auto",
    batch_size: int | str = "auto",
    device: str = "auto",
    progress: bool = True,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """Follow cells along the flow, from the data to the noise that it would draw them from.

    Each cell has one such code. Drawn from it, under the same conditions, the flow gives the cell's state back, up to
    the solver's error: in an embedding that is the cell. Counts are drawn around a state, and come back in distribution
    only: as many molecules as the cell had, of the genes that it had, and not the same counts. What the flow knows of a
    cell by its conditions is not in the code: cells of all types lie about one normal law. (Not about a masked one,
    ``noise="sparse"`` or ``"dropout"``, whose zeros no continuous way leads to exactly.) Nothing is random, and the
    batch size changes nothing.

    The state of a real cell is its mean one. In count space, where training draws from what a code might be given the
    counts, that is the posterior mean; in quantile space it is the middle of each count's step; elsewhere counts have
    one state. Mean states are less spread than drawn ones, and so is their noise.

    Parameters
    ----------
    adata
        Cells with the raw counts of all genes of the flow, in any order, or with the embedding it was trained on.
    flow
        A flow, or an AnnData that :func:`scflow.tl.train` left one in; `adata` itself unless given.
    condition
        Conditions are read from `.obs` by the flow's names. A mapping takes the place of columns: one value for all
        cells, or one a cell; ``{"cell_type": None}`` follows the flow without that condition.
    guidance
        As in :func:`scflow.tl.generate`, for cells that were drawn with it.
    layer
        Where the counts are; where they were in training unless given.
    use_rep
        States in `.obsm` that are taken as they are, such as ``"X_scflow"`` of generated cells.
    solver, steps
        As in :func:`scflow.tl.generate`; ``"auto"`` takes 64 evaluations of the field, 16 steps of RK4.
    batch_size
        Cells computed at once on a GPU; ``"auto"`` is 4096.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    progress
        Show a progress bar.
    key_added
        The slots' name; and, where it is not given itself, the slot that the flow is in.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obsm["X_scflow"]`, the states (in an embedding the coordinates as they are), and
        `.obsm["X_scflow_noise"]`, their noise; each `[n_cells, n_dimensions]`, float32.

    Raises
    ------
    InputError
        Where the flow starts from cells and not from noise, genes or conditions are missing, or a category is unknown;
        nothing has been changed then.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, condition="cell_type", steps=20, progress=False)
    >>> scflow.tl.encode(adata, progress=False)
    >>> adata.obsm["X_scflow_noise"].shape
    (200, 21)
    """
    _anndata.checked(adata)
    found = flow_of(flow, adata, key_added)
    check_noise(found)
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "progress": progress}
    sampling = sampling_of(found, solver=solver, steps=steps, evaluations=_EVALUATIONS, guidance=guidance, **options)
    codes = codes_of(found, adata, condition)
    cells = cells_of(found, adata, layer, use_rep=use_rep)
    with half_the_cores():
        code = found.encode(cells, codes, sampling)
    adata = adata.copy() if copy else adata
    _anndata.write_code(adata, code.state, code.noise, key_added)
    return adata if copy else None
