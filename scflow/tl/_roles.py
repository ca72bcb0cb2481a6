"""Which cells are carried to which: the options `source`, `target` and `group` of `scflow.tl.train`, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow import _anndata
from scflow.conditions import as_column
from scflow.errors import InputError, listed, names_of, nearest
from scflow.tl._options import check_enough

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Chosen", "chosen_cells", "grouped", "roles_of"]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The cells of both populations.

    Attributes
    ----------
    source, target
        Which cells of the AnnData belong to each, bool ``[n_obs]``.
    group
        A code for each cell, int64 ``[n_obs]``.
    told
        Columns of `.obs` whose values the field is told of target cells.
    facts
        What was asked for: columns and values, as the provenance keeps it.
    """

    source: NDArray[np.bool_]
    target: NDArray[np.bool_]
    group: NDArray[np.int64]
    told: tuple[str, ...]
    facts: Mapping[str, Any]


def roles_of(
    adata: AnnData,
    source: Mapping[str, Any] | None,
    target: Mapping[str, Any] | None,
    group: str | Sequence[str] | None,
) -> Chosen | None:
    """The cells of both populations; none for a flow from noise.

    Raises
    ------
    InputError
        Where a column or value is not there, a cell is in both populations, one of them has hardly any cells, or a
        group of target cells has no source cells.
    """
    if source is None:
        for name, value in (("target", target), ("group", group)):
            if value is not None:
                raise InputError(
                    f"{name}={value!r} says what cells are carried to, and source= says which. Give it too, such as "
                    "source={'condition': 'ctrl'}; or, for a time course, course='day'."
                )
        return None
    asked = _values(source, "source")
    from_cells = chosen_cells(adata, asked, "source")
    if target is None:
        wanted: dict[str, list[Any]] = {}
        to_cells = ~from_cells
        told = tuple(asked)
    else:
        wanted = _values(target, "target")
        to_cells = chosen_cells(adata, wanted, "target")
        told = tuple(wanted)
    _check_sizes(from_cells, to_cells, source, target)
    told = tuple(column for column in told if adata.obs[column][to_cells].nunique() > 1)
    columns = names_of(group, "group")
    codes, names = grouped(adata, columns)
    _check_groups(codes, names, from_cells, to_cells, columns)
    facts = {"source": _plain(asked), "target": _plain(wanted), "group": columns}
    return Chosen(from_cells, to_cells, codes, told, facts)


def chosen_cells(adata: AnnData, wanted: Mapping[str, Sequence[Any]], name: str) -> NDArray[np.bool_]:
    """Which cells have one of the wanted values in each of the columns.

    Raises
    ------
    InputError
        Where a column is not there, or no cell has one of the values.
    """
    chosen = np.ones(adata.n_obs, dtype=bool)
    for column, values in wanted.items():
        series = as_column(_anndata.obs_column(adata, column), column)
        numeric = not isinstance(series.dtype, pd.CategoricalDtype)
        there = series.to_numpy(np.float64) if numeric else series.astype(str).to_numpy()
        for value in values:
            if not (there == _like(value, numeric, column, name)).any():
                known = pd.unique(series.astype(str)).tolist()
                raise InputError(
                    f"No cell has {value!r} in obs[{column!r}], which {name} asks for.{nearest(str(value), known)} It "
                    f"has {listed(known, most=20)}."
                )
        chosen &= np.isin(there, [_like(value, numeric, column, name) for value in values])
    return chosen


def _like(value: Any, numeric: bool, column: str, name: str) -> Any:
    """A value as the column has it: a number, or text."""
    if not numeric:
        return str(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} asks for {value!r} in obs[{column!r}], which holds numbers. Give numbers, such as "
            f"{name}={{{column!r}: 1.0}}."
        ) from None


def _values(asked: Any, name: str) -> dict[str, list[Any]]:
    """A mapping from columns to lists of values."""
    if not isinstance(asked, Mapping) or not asked:
        raise InputError(
            f"{name}={asked!r} does not say which cells are meant. Give columns of obs with their values: "
            f"{name}={{'condition': 'ctrl'}}, or several: {name}={{'condition': ['IFN', 'LPS']}}."
        )
    return {str(c): list(v) if pd.api.types.is_list_like(v) else [v] for c, v in asked.items()}


def _plain(asked: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Values as JSON knows them."""
    return {c: [v.item() if isinstance(v, np.generic) else v for v in values] for c, values in asked.items()}


def _check_sizes(source: NDArray[np.bool_], target: NDArray[np.bool_], asked: Any, wanted: Any) -> None:
    both = int((source & target).sum())
    if both:
        raise InputError(
            f"{both} cells are in both populations: source={asked!r}, target={wanted!r}. Cells are carried from one to "
            "the other: choose them apart."
        )
    for name, cells in (("source", source), ("target", target)):
        mend = f" Ask for more values: source={asked!r}, target={wanted!r}."
        check_enough(int(cells.sum()), f"The {name} population", mend)


def grouped(adata: AnnData, columns: Sequence[str], *, name: str = "adata") -> tuple[NDArray[np.int64], list[str]]:
    """A code for each combination of the columns' values, and its name."""
    if not columns:
        return np.zeros(adata.n_obs, dtype=np.int64), ["all"]
    values = [_anndata.obs_column(adata, column, name=name).astype(str).tolist() for column in columns]
    joined = np.array([" / ".join(row) for row in zip(*values, strict=True)], dtype=object)
    codes, names = pd.factorize(joined, sort=True)
    return codes.astype(np.int64), [str(name) for name in names]


def _check_groups(
    codes: NDArray[np.int64],
    names: Sequence[str],
    source: NDArray[np.bool_],
    target: NDArray[np.bool_],
    columns: Sequence[str],
) -> None:
    """Raise where target cells have nowhere to come from; source cells of other groups are only carried later."""
    n = len(names)
    there = np.bincount(codes[source], minlength=n)
    wanted = np.bincount(codes[target], minlength=n)
    alone = [i for i in range(n) if wanted[i] and not there[i]]
    if alone:
        found = listed([f"{names[i]}: {wanted[i]} cells" for i in alone])
        raise InputError(
            f"{len(alone)} of {int((wanted > 0).sum())} groups of {listed(columns)} have target cells and no source "
            f"cells ({found}): there is nothing to carry to them. Drop those cells, or group by something coarser."
        )
