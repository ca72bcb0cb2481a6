"""Conditions, embeddings and genes out of an AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow._anndata._checks import check_gene_names, checked, is_sparse, named, unmasked
from scflow.conditions import as_column
from scflow.errors import InputError, listed, names_of, nearest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["match_genes", "obs_column", "read_conditions", "read_embedding"]


_FAR = 1e15
"""The largest coordinate or condition: squares of larger ones do not add up in single precision."""


def obs_column(adata: AnnData, column: str, *, name: str = "adata") -> pd.Series[Any]:
    """`.obs[column]`, with a value for every cell.

    Raises
    ------
    InputError
        Where the column is not there, has no value for some cells, or holds lists or other containers.
    """
    columns = [str(c) for c in adata.obs.columns]
    if column not in columns:
        raise InputError(f"{name}.obs has no column {column!r}.{nearest(column, columns)} Columns{named(columns)}.")
    values: Any = adata.obs[column]
    if isinstance(values, pd.DataFrame):
        raise InputError(
            f"{name}.obs has {values.shape[1]} columns named {column!r}. Keep one: "
            f"{name}.obs = {name}.obs.loc[:, ~{name}.obs.columns.duplicated()]."
        )
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        here = f"{name}.obs[{column!r}]"
        raise InputError(
            f"obs[{column!r}] has no value for {missing.size} of {adata.n_obs} cells (first: "
            f"{str(adata.obs_names[missing[0]])!r}). Drop them with {name}[{here}.notna()], or fill them."
        )
    series: pd.Series[Any] = values
    _check_scalars(series, column, name)
    return series


def _check_scalars(values: pd.Series[Any], column: str, name: str) -> None:
    """Raise where a cell has several values, in a list or another container."""
    if values.dtype != object:
        return
    several = [i for i, value in enumerate(values) if not pd.api.types.is_scalar(value)]
    if several:
        first = values.iloc[several[0]]
        raise InputError(
            f"obs[{column!r}] holds a {type(first).__name__} for {len(several)} of {len(values)} cells (first: "
            f"{str(values.index[several[0]])!r}). Expected one value a cell, a label or a number: "
            f"{name}.obs[{column!r}] = {name}.obs[{column!r}].astype(str)."
        )


def read_conditions(adata: AnnData, condition: str | Sequence[str] | None, *, name: str = "adata") -> pd.DataFrame:
    """The columns of `.obs` that a flow is conditioned on: index `obs_names`, columns in the order asked for.

    Parameters
    ----------
    condition
        One or several columns of `.obs`; None for none. Strings, booleans and categories become a pandas
        Categorical of the values that occur; numbers become float64, a continuous condition.

    Raises
    ------
    InputError
        Where a column is not there, is asked for twice, has no value for some cells, holds one value only, an infinite
        number, something that is neither category nor number, or another label for every cell.
    """
    adata = checked(adata, name=name)
    frame = pd.DataFrame(index=adata.obs_names)
    for column in _columns(condition):
        if column in frame:
            raise InputError(f"condition names {column!r} twice. Name each column of obs once.")
        frame[column] = _condition(obs_column(adata, column, name=name), column).array
    return frame


def _columns(condition: str | Sequence[str] | None) -> list[str]:
    columns = names_of(condition, "condition")
    for column in columns:
        if not isinstance(column, str):
            raise InputError(
                f"condition holds {column!r}, a {type(column).__name__}; expected names of columns of obs: "
                "condition='cell_type' or condition=['cell_type', 'batch']."
            )
    return columns


def _condition(values: pd.Series[Any], column: str) -> pd.Series[Any]:
    """One column as Categorical or float64, fit to be learnt from."""
    series = as_column(values, column)
    n_cells, n_values = len(series), int(series.nunique())
    if n_values == 1:
        raise InputError(
            f"obs[{column!r}] has the same value, {str(series.iloc[0])!r}, in all {n_cells} cells: there is nothing to "
            "condition on. Leave it out of condition."
        )
    if isinstance(series.dtype, pd.CategoricalDtype):
        if n_values == n_cells:
            raise InputError(
                f"obs[{column!r}] has another label for every one of the {n_cells} cells, as a barcode has: nothing "
                "can be learnt from it. Expected labels that cells share: leave it out of condition."
            )
    elif not (np.abs(series.to_numpy()) <= _FAR).all():
        infinite = np.flatnonzero(~(np.abs(series.to_numpy()) <= _FAR))
        how = "beyond 1e15" if np.isfinite(series.to_numpy()[infinite]).all() else "infinite"
        raise InputError(
            f"obs[{column!r}] is {how} for {infinite.size} of {n_cells} cells (first: "
            f"{str(series.index[infinite[0]])!r}). Expected finite numbers: drop those cells, or fill them."
        )
    return series


def read_embedding(adata: AnnData, use_rep: str, *, name: str = "adata") -> NDArray[np.float32]:
    """`.obsm[use_rep]` as a float32 array `[n_cells, n_dimensions]`.

    Raises
    ------
    InputError
        Where it is not there, is not a table of numbers, or holds NaN, infinite values or some beyond 1e15.
    """
    adata = checked(adata, name=name)
    if not isinstance(use_rep, str) or use_rep not in adata.obsm:
        keys = list(adata.obsm)
        raise InputError(
            f"{name}.obsm has no {use_rep!r}.{nearest(use_rep, keys)} Embeddings{named(keys)}. "
            f"Compute one first, such as sc.pp.pca({name}) for use_rep='X_pca'."
        )
    values = unmasked(adata.obsm[use_rep], f"{name}.obsm[{use_rep!r}]")
    dense = values.toarray() if is_sparse(values) else np.asarray(values)
    if dense.ndim != 2 or dense.shape[1] == 0 or dense.dtype.kind not in "biuf":
        raise InputError(
            f"{name}.obsm[{use_rep!r}] has shape {dense.shape} and data type {dense.dtype}; expected numbers "
            "[n_cells, n_dimensions]."
        )
    with np.errstate(over="ignore"):
        result: NDArray[np.float32] = np.ascontiguousarray(dense, dtype=np.float32)
    for what, fine in (("NaN or infinite values", np.isfinite(dense)), ("values beyond 1e15", np.abs(result) <= _FAR)):
        bad = np.flatnonzero(~fine.all(axis=1))
        if bad.size:
            raise InputError(
                f"{name}.obsm[{use_rep!r}] holds {what} in {bad.size} of {adata.n_obs} cells (first: "
                f"{str(adata.obs_names[bad[0]])!r}). Expected finite numbers: compute it anew, or drop those cells."
            )
    return result


def match_genes(adata: AnnData, genes: Sequence[str], *, name: str = "adata") -> NDArray[np.int64]:
    """The column of `adata` that holds each of `genes`, in their order, int64 `[len(genes)]`.

    Raises
    ------
    InputError
        Where some of them are not there, or gene names of `adata` repeat.
    """
    adata = checked(adata, name=name)
    check_gene_names(adata, name=name)
    columns = adata.var_names.get_indexer(pd.Index(genes))
    missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
    if missing:
        raise InputError(
            f"{name} lacks {len(missing)} of {len(genes)} genes ({listed(missing)})."
            f"{nearest(missing[0], adata.var_names)} Expected every gene that the flow knows among {name}.var_names: "
            "give cells with all genes, unfiltered."
        )
    result: NDArray[np.int64] = columns.astype(np.int64)
    return result
