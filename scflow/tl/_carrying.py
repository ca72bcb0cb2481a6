"""What the verbs that carry cells share: the flow, the cells, where to, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from scflow import _anndata
from scflow.errors import InputError, listed
from scflow.flow import Flow, Sampling
from scflow.matching import solvers
from scflow.matching.names import SOLVERS, chosen
from scflow.tl._options import device_of, whole
from scflow.tl._roles import chosen_cells

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Journey", "sampling_of"]


@dataclass(frozen=True, eq=False)
class Journey:
    """Cells, and the flow that carries them.

    Attributes
    ----------
    flow
        It starts from cells.
    data
        The cells' counts of its genes, or their coordinates.
    condition
        What the field is told of each cell, ``[n_cells, n_conditions]`` or ``None``.
    asked
        Where they are carried to, by column.
    """

    flow: Flow
    data: Any
    condition: Tensor | None
    asked: Mapping[str, Any]

    @classmethod
    def of(
        cls, adata: AnnData, flow: Flow | AnnData | None, target: Mapping[str, Any] | None, layer: str | None, key: str
    ) -> Journey:
        """Everything that is asked for, checked.

        Raises
        ------
        InputError
            Where the flow starts from noise, cells are not of its source population, genes or conditions are missing,
            or it is not said where to.
        """
        _anndata.checked(adata)
        found = flow if isinstance(flow, Flow) else _left_in(adata if flow is None else flow, key)
        facts = found.provenance
        if "source" not in facts:
            raise InputError(
                "This flow turns noise into cells and carries none. Train one between populations: "
                "scflow.tl.train(adata, source={'condition': 'ctrl'}, target={'condition': 'stim'})."
            )
        _check_source(adata, facts["source"])
        asked = _asked(facts, found.conditions.names, target)
        data = _anndata.read_cells(adata, found.genes, facts.get("use_rep"), layer)
        return cls(found, data, _condition(adata, found, asked), asked)

    def facts(self) -> dict[str, Any]:
        """What carried the cells, for `.uns`."""
        p = self.flow.provenance
        named = {name: p[name] for name in ("space", "use_rep") if name in p}
        return {**named, "source": _in_words(p["source"]), "target": _in_words(self.asked)}


def sampling_of(
    solver: str | solvers.Solver, steps: int | str, guidance: Any, device: str, seed: int, progress: bool
) -> Sampling:
    """How the way is gone: 24 evaluations of the field unless asked otherwise."""
    method = chosen(solver, SOLVERS, solvers.Solver, "solver")
    if method.jumps:
        raise InputError("solver='jump' takes the steps of a flow map, and cells are carried by a velocity.")
    usual = max(1, 24 // max(method.evaluations, 1))
    return Sampling(
        guidance=guidance,
        solver=method,
        steps=usual if steps == "auto" else whole(steps, "steps"),
        device=device_of(device),
        seed=whole(seed, "seed", least=0),
        progress=progress,
    )


def _left_in(adata: AnnData, key: str) -> Flow:
    return Flow.from_content(_anndata.read_flow(adata, key))


def _check_source(adata: AnnData, source: Mapping[str, Any]) -> None:
    """Raise where some cells are known to be of another population; columns that are not there say nothing."""
    for column, values in source.items():
        if column not in adata.obs:
            continue
        present = [value for value in values if (adata.obs[column].astype(str) == str(value)).any()]
        there = chosen_cells(adata, {column: present}, "source") if present else np.zeros(adata.n_obs, dtype=bool)
        others = int((~there).sum())
        if others:
            raise InputError(
                f"{others} of {adata.n_obs} cells are not of the population that this flow carries, which has "
                f"{listed(values)} in obs[{column!r}]. Give those alone: "
                f"adata[adata.obs[{column!r}].isin({list(values)!r})].copy()."
            )


def _asked(facts: Mapping[str, Any], told: tuple[str, ...], target: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where to, by column: what was asked for, or the flow's only target."""
    known: Mapping[str, Any] = facts["target"] or {column: [] for column in facts["source"]}
    asked = dict(target or {})
    unknown = [column for column in asked if column not in known and column not in told]
    if unknown:
        raise InputError(f"target names {listed(unknown)}; this flow carries cells to values of {listed(known)}.")
    for column, values in known.items():
        if column in told and column not in asked:
            raise InputError(
                f"This flow carries cells to several values of {column!r} ({listed(values) or 'all others'}). Say to "
                f"which: target={{{column!r}: {(values or ['...'])[0]!r}}}."
            )
        if column not in told and len(values) == 1 and str(asked.setdefault(column, values[0])) != str(values[0]):
            raise InputError(f"This flow carries cells to {values[0]!r} in {column!r} alone, not to {asked[column]!r}.")
    return asked


def _condition(adata: AnnData, flow: Flow, asked: Mapping[str, Any]) -> Tensor | None:
    """What the field is told: what is asked for, and the cells' own values of other conditions."""
    if not len(flow.conditions):
        return None
    frame = pd.DataFrame(index=adata.obs_names)
    for name in flow.conditions.names:
        if name not in asked:
            frame[name] = _anndata.obs_column(adata, name).array
            continue
        value = asked[name]
        if pd.api.types.is_list_like(value) and len(value) != adata.n_obs:
            raise InputError(
                f"target has {len(value)} values of {name!r} for {adata.n_obs} cells. Give one a cell, or one for all."
            )
        frame[name] = list(value) if pd.api.types.is_list_like(value) else [value] * adata.n_obs
    return flow.conditions.encode(frame)


def _in_words(chosen: Mapping[str, Any]) -> str:
    """Columns and values on one line."""
    parts = []
    for column, values in chosen.items():
        distinct = pd.unique(pd.Series(values if pd.api.types.is_list_like(values) else [values])).tolist()
        parts.append(f"{column}: {listed(distinct)}")
    return "; ".join(parts)
