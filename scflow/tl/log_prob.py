"""How likely cells are under a flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.matching import solvers
from scflow.tl._following import cells_of, codes_of, flow_of, sampling_of, solver_facts
from scflow.tl._options import half_the_cores, whole

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["log_prob"]

_EVALUATIONS = 24
_FEW = 64
"""The most coordinates whose divergence is exact unless asked otherwise: one product each."""


def log_prob(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    condition: Mapping[str, Any] | None = None,
    exact: bool | str = "auto",
    probes: int = 16,
    layer: str | None = None,
    use_rep: str | None = None,
    solver: str | solvers.Solver = "midpoint",
    steps: int | str = "auto",
    batch_size: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """Write the log-density that cells have under the flow, given their conditions: low for cells that are odd.

    It is the density of a cell's *state* in the flow's space, in nats, and not the probability of its counts: of the
    mean code in count space, of standardised expression in gene space, of the coordinates, in their own units, in an
    embedding. So figures compare between cells under one flow, and between two conditions of one cell; they say nothing
    between flows of different spaces. In count space mean codes are less spread than codes are drawn, and real cells
    score higher than the states of generated ones: set real cells beside real cells.

    Odd cells are those of the lowest density: sort by it. Give the flow labels for that: an odd cell has a code that
    other cells may have, too, but seldom those of its label. Cells that were trained on are known to the flow, so cells
    that it has not seen are found better. A wrong label is told best by comparing labels: call with
    ``condition={"cell_type": "B"}`` for each type in turn, and look for cells that are likelier under another type than
    under their own.

    Each cell is followed from the data to the noise, where the density is known, and what the flow did to its volume on
    the way is added up (:mod:`scflow.matching.likelihood`). In few dimensions that is exact but for the solver. In many
    it is estimated by random probes, and has a standard error.

    Parameters
    ----------
    adata
        Cells with the raw counts of all genes of the flow, in any order, or with the embedding it was trained on.
    flow
        A flow, or an AnnData that :func:`scflow.tl.train` left one in; `adata` itself unless given. Its noise has to
        have a density: ``"gaussian"`` or ``"matched_variance"``.
    condition
        Conditions are read from `.obs` by the flow's names. A mapping takes the place of columns: one value for all
        cells, or one a cell; ``{"cell_type": None}`` gives the density without that condition.
    exact
        Whether the divergence is exact, by as many products as there are dimensions; ``"auto"`` in up to 64.
    probes
        Random probes a cell where it is not exact, at least 2: the standard error falls as one over their square root.
    layer
        Where the counts are; where they were in training unless given.
    use_rep
        States in `.obsm` that are taken as they are, such as ``"X_scflow"`` of generated cells.
    solver, steps
        As in :func:`scflow.tl.generate`; ``"auto"`` takes 24 evaluations of field and divergence: 12 steps of the
        midpoint rule.
    batch_size
        Cells computed at once on a GPU; ``"auto"`` is 4096.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of the probes. The global random state is not touched.
    progress
        Show a progress bar.
    key_added
        The slots' name; and, where it is not given itself, the slot that the flow is in.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obs["scflow_log_prob"]`, in nats; `.obs["scflow_log_prob_se"]`, its standard error over the
        probes, where it is estimated (where it is exact, the column of an earlier call is dropped); and
        `.uns["scflow_log_prob"]`, how it was computed.

    Raises
    ------
    InputError
        Where the noise has no density, genes or conditions are missing, or a category is unknown; nothing has been
        changed then.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, condition="cell_type", steps=20, progress=False)
    >>> scflow.tl.log_prob(adata, progress=False)
    >>> odd = adata.obs["scflow_log_prob"].nsmallest(10).index
    """
    _anndata.checked(adata)
    found = flow_of(flow, adata, key_added)
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "seed": seed, "progress": progress}
    sampling = sampling_of(found, solver=solver, steps=steps, evaluations=_EVALUATIONS, **options)
    drawn = _probes(found, exact, probes)
    found.noise.log_prob(torch.zeros(1, found.codec.dim))  # raises where there is no density
    codes = codes_of(found, adata, condition)
    cells = cells_of(found, adata, layer, use_rep=use_rep)
    with half_the_cores():
        density = found.log_prob(cells, codes, sampling, probes=drawn)
    facts = _facts(found, sampling, drawn, use_rep, condition)
    adata = adata.copy() if copy else adata
    _anndata.write_log_prob(adata, density.value, density.se, facts, key_added)
    return adata if copy else None


def _probes(flow: Flow, exact: bool | str, probes: int) -> int | None:
    """How many probes, or None for the exact divergence."""
    number = whole(probes, "probes", least=2)
    if exact not in (True, False, "auto"):
        raise InputError(f"exact={exact!r} is not known. Choose 'auto', True or False.")
    few = flow.codec.dim <= _FEW if exact == "auto" else bool(exact)
    return None if few else number


def _facts(
    flow: Flow, sampling: Sampling, probes: int | None, use_rep: str | None, asked: Mapping[str, Any] | None
) -> dict[str, Any]:
    """How the densities were computed, and of what they are."""
    means = {"counts": "mean code", "quantile": "mean state", "embedding": "coordinates"}
    of = f"obsm[{use_rep!r}]" if use_rep else means.get(flow.codec.name, "state")
    random = {} if probes is None else {"probes": probes, "seed": sampling.seed}
    return {
        "method": "exact" if probes is None else "hutchinson",
        **random,
        "of": of,
        "space": flow.codec.name,
        "dimensions": flow.codec.dim,
        "units": "nats",
        "condition": list(flow.conditions.names),
        "condition_given": list(asked or {}),
        **solver_facts(sampling),
    }
