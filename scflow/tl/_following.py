"""What the verbs that follow a flow share: the flow, cells and conditions that suit it, and how it is followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow import _anndata, _keys
from scflow.errors import InputError, values_of
from scflow.flow import Flow, Sampling
from scflow.flow._following import check_velocity
from scflow.matching import guidance as guiding
from scflow.matching import noises, solvers
from scflow.matching.names import SOLVERS, chosen, named
from scflow.tl._options import device_of, whole

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["cells_of", "check_noise", "codes_of", "flow_of", "sampling_of", "solver_facts"]


def flow_of(flow: Flow | AnnData | None, adata: AnnData, slot: str) -> Flow:
    """The flow that was given, or that an AnnData carries: `adata` itself, where none was."""
    _keys.slots(slot)
    if isinstance(flow, Flow):
        return flow
    if flow is None:
        return Flow.from_content(_anndata.read_flow(adata, slot))
    return Flow.from_content(_anndata.read_flow(flow, slot, name="flow"))


def check_noise(flow: Flow) -> None:
    """Raise where a flow has no noise that cells could be followed to."""
    if flow.course is not None:
        raise InputError(
            f"This flow carries cells through the times of obs[{flow.course.column!r}], and does not start from noise: "
            "cells have no code under it. Train one from noise, scflow.tl.train(adata) without course=, or carry "
            "cells: scflow.tl.transport(adata, flow, to=...)."
        )
    if isinstance(flow.noise, noises.Population):
        raise InputError(
            "This flow starts from cells of a source population, and not from noise: cells have no code under it. "
            "Train one from noise, scflow.tl.train(adata) without source=, or carry cells: scflow.tl.transport."
        )


def cells_of(
    flow: Flow, adata: AnnData, layer: str | None, *, use_rep: str | None = None, name: str = "adata"
) -> sparse.csr_matrix | NDArray[np.float32]:
    """Counts `[n_cells, n_genes]` of the flow's genes in its order, or dense states `[n_cells, dim]`.

    Counts are read where they were in training, unless `layer` says where. States are those in `.obsm[use_rep]`, and
    for a flow in an embedding the embedding.

    Raises
    ------
    InputError
        Where genes are missing, counts are none, or states have another number of coordinates than the flow.
    """
    _anndata.checked(adata, name=name)
    if use_rep is None and flow.codec.has_counts:
        there = str(flow.provenance.get("layer", "X"))
        source = there if layer is None and there in adata.layers else layer
        columns = _anndata.match_genes(adata, flow.genes, name=name)
        counts = _anndata.read_counts(adata, source, name=name, for_training=False)
        return counts if list(adata.var_names) == list(flow.genes) else sparse.csr_matrix(counts[:, columns])
    rep = str(flow.provenance["use_rep"]) if use_rep is None else use_rep
    states = _anndata.read_embedding(adata, rep, name=name)
    if states.shape[1] != flow.codec.dim:
        raise InputError(
            f"{name}.obsm[{rep!r}] has {states.shape[1]} coordinates, and the flow has {flow.codec.dim}. Give the "
            f"{'states of this flow' if flow.codec.has_counts else 'embedding that it was trained on'}."
        )
    return states


def codes_of(
    flow: Flow, adata: AnnData, asked: Mapping[str, Any] | None = None, *, name: str = "adata"
) -> Tensor | None:
    """The cells' encoded conditions `[n_cells, n_conditions]`: what is asked for, and `.obs` for the rest.

    Raises
    ------
    InputError
        Where a column is missing or lacks values, or a name or category is unknown.
    """
    given = values_of(asked, "condition")
    rng = np.random.default_rng(0)  # nothing is left to be drawn
    own = {one: list(_anndata.obs_column(adata, one, name=name)) for one in flow.conditions.names if one not in given}
    table = flow.conditions.table({**given, **own} or None, adata.n_obs, flow.seen, rng)
    return table if len(flow.conditions) else None


def sampling_of(
    flow: Flow,
    *,
    solver: str | solvers.Solver,
    steps: int | str,
    evaluations: int,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    batch_size: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    precision: str = "float32",
) -> Sampling:
    """How the flow is followed, checked; `evaluations` is how often ``steps="auto"`` evaluates the velocity."""
    method = chosen(solver, SOLVERS, solvers.Solver, "solver")
    if method.adaptive and steps != "auto":
        raise InputError(
            f"solver={type(method).__name__.lower()!r} chooses its own steps: steps={steps!r} means nothing to it. "
            "Leave it out, and say how exact it is to be: "
            "solver=scflow.matching.solvers.Dopri5(rtol=1e-3, atol=1e-3)."
        )
    guided = guiding.Guidance.of(guidance)
    guided.weights(flow.conditions.names)
    sampling = Sampling(
        guidance=guided,
        solver=method,
        steps=-(-evaluations // max(method.evaluations, 1)) if steps == "auto" else whole(steps, "steps"),
        batch_size=4096 if batch_size == "auto" else whole(batch_size, "batch_size"),
        device=device_of(device),
        seed=whole(seed, "seed", least=0),
        progress=progress,
        precision=precision,
    )
    check_velocity(sampling)
    return sampling


def solver_facts(sampling: Sampling) -> dict[str, Any]:
    """The solver's name and settings, and its steps where it does not choose them."""
    method = sampling.solver
    settings = {f"solver_{name}": value for name, value in named(method, SOLVERS).items() if name != "name"}
    steps = {} if method.adaptive else {"solver_steps": sampling.steps, "solver_shift": sampling.shift}
    return {"solver": type(method).__name__.lower(), **settings, **steps}
