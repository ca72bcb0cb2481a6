"""What the verbs that carry cells share: the flow, the cells, and where to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from scflow import _anndata
from scflow.conditions import Categorical, Conditions, Embedded
from scflow.errors import InputError, listed, values_of
from scflow.flow import Flow
from scflow.tl._following import cells_of, flow_of
from scflow.tl._roles import chosen_cells

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["EVALUATIONS", "Journey"]

EVALUATIONS = 24
"""How often the field is evaluated on the whole way unless asked otherwise."""


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
        found = flow_of(flow, adata, key)
        facts = found.provenance
        if "source" not in facts:
            raise InputError(
                "This flow turns noise into cells and carries none. Train one between populations: "
                "scflow.tl.train(adata, source={'condition': 'ctrl'}, target={'condition': 'stim'})."
            )
        _check_source(adata, facts["source"])
        asked = _asked(facts, found.conditions, target)
        return cls(found, cells_of(found, adata, layer), _condition(adata, found, asked), asked)

    def facts(self) -> dict[str, Any]:
        """What carried the cells, for `.uns`."""
        p = self.flow.provenance
        named = {name: p[name] for name in ("space", "use_rep") if name in p}
        return {**named, "source": _in_words(p["source"]), "target": _in_words(self.asked)}


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


def _asked(facts: Mapping[str, Any], conditions: Conditions, target: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where to, by column: what was asked for, or the flow's only target."""
    told = conditions.names
    known: Mapping[str, Any] = facts["target"] or {column: [] for column in facts["source"]}
    asked = values_of(target, "target")
    unknown = [column for column in asked if column not in known and column not in told]
    if unknown:
        raise InputError(f"target names {listed(unknown)}; this flow carries cells to values of {listed(known)}.")
    for column, values in known.items():
        if column in told and column not in asked:
            there = values or _labels(conditions, column)
            raise InputError(
                f"This flow carries cells to several values of {column!r} ({listed(there) or 'all others'}). Say to "
                f"which: target={{{column!r}: {(there or ['...'])[0]!r}}}."
            )
        if column not in told and len(values) == 1 and str(asked.setdefault(column, values[0])) != str(values[0]):
            raise InputError(f"This flow carries cells to {values[0]!r} in {column!r} alone, not to {asked[column]!r}.")
    return asked


def _labels(conditions: Conditions, column: str) -> list[str]:
    """Those of a condition's training cells; none where it holds numbers."""
    schema = conditions.columns[conditions.names.index(column)]
    if isinstance(schema, Embedded):
        return list(schema.labels)
    return list(schema.categories) if isinstance(schema, Categorical) else []


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
        each = list(value) if pd.api.types.is_list_like(value) else [value] * adata.n_obs
        missing = pd.isna(pd.Series(each, dtype=object)).to_numpy()
        if missing.any() and not missing.all():
            raise InputError(
                f"target has no value of {name!r} for {int(missing.sum())} of {adata.n_obs} cells (first: "
                f"{str(adata.obs_names[missing.argmax()])!r}). Say for each where it is carried to."
            )
        frame[name] = each
    return flow.conditions.encode(frame)


def _in_words(chosen: Mapping[str, Any]) -> str:
    """Columns and values on one line."""
    parts = []
    for column, values in chosen.items():
        distinct = pd.unique(pd.Series(values if pd.api.types.is_list_like(values) else [values])).tolist()
        parts.append(f"{column}: {listed(distinct)}")
    return "; ".join(parts)
