"""New cells under real ones, in one AnnData that keeps all that the real ones have."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scflow import _keys
from scflow._anndata._checks import check_sliced, is_sparse
from scflow._anndata._counts import counts_layer, read_counts
from scflow._anndata._results import storable
from scflow._anndata._units import Units
from scflow.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Matrices", "joined", "read_units"]


@dataclass(frozen=True, eq=False)
class Matrices:
    """The units of each matrix of cells by genes; None where they are not known.

    Attributes
    ----------
    x, layers
        Of `.X`, and of each layer by its name.
    raw
        Of `.raw`, where all its genes are genes of the AnnData.
    raw_genes
        The column of the AnnData that holds each gene of `.raw`; -1 where none does.
    """

    x: Units | None
    layers: Mapping[str, Units | None]
    raw: Units | None
    raw_genes: NDArray[np.int64]


def read_units(adata: AnnData, layer: str | None) -> Matrices:
    """The units of all matrices, given the counts in `layer` (None: as in :func:`counts_layer`).

    Warns where `.raw` is of units or genes that new cells cannot have.

    Raises
    ------
    InputError
        Where `.X` is none of counts, normalised counts and their log1p: new cells could have no `.X`.
    """
    check_sliced(adata)
    source, counts = counts_layer(adata, layer), read_counts(adata, layer, for_training=False)
    where = "adata.X" if source is None else f"adata.layers[{source!r}]"
    x = None if adata.X is None else Units.of(adata.X, counts)
    if adata.X is not None and x is None:
        raise InputError(
            f"adata.X [{adata.n_obs} cells, {adata.n_vars} genes] is no function of the counts in {where} that is "
            "known: expected counts, counts per a total, or log1p of those (scaled or corrected values cannot be made "
            f"for new cells). Put counts there: adata.X = {where}.copy()."
        )
    layers = {name: Units.of(adata.layers[name], counts) for name in adata.layers if name is not None}
    if adata.raw is None:
        return Matrices(x, layers, None, np.zeros(0, dtype=np.int64))
    genes = adata.var_names.get_indexer(adata.raw.var_names).astype(np.int64)
    lacking = adata.raw.var_names[genes < 0]
    raw = None if len(lacking) else Units.of(adata.raw.X, sparse.csr_matrix(counts[:, genes]))
    if raw is None:
        why = f"{len(lacking)} of its {len(genes)} genes ({listed(lacking)}) are not in adata" if len(lacking) else ""
        warnings.warn(
            f"The result will have no .raw: {why or 'its values are no function of the counts that is known'}, so new "
            "cells can have no values there. The real cells' stays in adata.raw. Without this warning: del adata.raw.",
            UserWarning,
            stacklevel=3,
        )
    return Matrices(x, layers, raw, genes)


def joined(
    adata: AnnData,
    counts: sparse.csr_matrix,
    obs: pd.DataFrame,
    units: Matrices,
    *,
    provenance: Mapping[str, Any],
    key_added: str = _keys.FLOW,
) -> AnnData:
    """Real cells, and new ones below them.

    Parameters
    ----------
    adata
        The real cells. Only read.
    counts
        The new cells' counts of the genes of `adata`, in its order, `[n_new, n_genes]`.
    obs
        What is known of the new cells, one row each, by columns of `adata.obs`.
    units
        What :func:`read_units` found.
    provenance
        Where the new cells come from: left in `.uns["scflow_augment"]`.

    Returns
    -------
    AnnData
        Everything of `adata`, with `.obs["scflow_synthetic"]`; what new cells lack is NaN or NA, and empty in graphs.
    """
    from anndata import AnnData

    slot, n = _keys.slots(key_added), len(obs)
    names = _names(adata.obs_names, n, key_added)
    table = _table(adata.obs, obs)
    table[slot.synthetic] = np.repeat([False, True], [adata.n_obs, n])
    new = {name: None if of is None else of(counts) for name, of in units.layers.items()}
    made = AnnData(
        X=None if units.x is None else _under(adata.X, units.x(counts), names),
        obs=table.set_axis(names, axis=0),
        var=adata.var.copy(),
        uns=copy.deepcopy(dict(adata.uns)),
        obsm={name: _under(values, None, names) for name, values in adata.obsm.items()},
        varm={name: values.copy() for name, values in adata.varm.items()},
        layers={name: _under(adata.layers[name], values, names) for name, values in new.items()},
        obsp={name: _graph(values, n) for name, values in adata.obsp.items()},
        varp={name: values.copy() for name, values in adata.varp.items()},
    )
    made.uns[slot.augment] = storable(provenance)
    if units.raw is not None:
        below = units.raw(sparse.csr_matrix(counts[:, units.raw_genes]))
        made.raw = AnnData(_under(adata.raw.X, below, names), made.obs[[]], adata.raw.var, varm=dict(adata.raw.varm))
    return made


def _names(real: pd.Index[Any], n: int, prefix: str) -> pd.Index[Any]:
    """The real cells' names and `"scflow-0"`, `"scflow-1"`, ...; numbers that real cells have are passed over."""
    taken = set(real)
    free: Iterator[str] = (name for name in (f"{prefix}-{i}" for i in count()) if name not in taken)
    return pd.Index([*real, *islice(free, n)], dtype=object, name=real.name)


def _table(real: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Rows of new cells below those of real ones, by position; NaN or NA where a column of `real` is not in `new`."""
    columns = {}
    for place, name in enumerate(real.columns):
        given = real.iloc[:, place].reset_index(drop=True)
        column = _longer(given, len(new))
        if name in new:
            column = _filled(column, new[name], len(given))
            # Nothing is missing: the plain type of whole numbers or truth values holds it.
            whole = isinstance(given.dtype, np.dtype) and given.dtype.kind in "iub" and column.dtype.kind in "iub"
            column = column.astype(given.dtype) if whole else column
        columns[name] = column
    return pd.DataFrame(columns, index=pd.RangeIndex(len(real) + len(new)))


def _longer(column: pd.Series[Any], n: int) -> pd.Series[Any]:
    """A column with `n` missing values below it; whole numbers and truth values become pandas' nullable ones."""
    dtype: Any = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iub":
        nullable = "boolean" if dtype.kind == "b" else f"{'U' * (dtype.kind == 'u')}Int{8 * dtype.itemsize}"
        column = column.astype(nullable)  # type: ignore[call-overload]
    return column.reindex(pd.RangeIndex(len(column) + n))


def _filled(column: pd.Series[Any], values: pd.Series[Any], n_real: int) -> pd.Series[Any]:
    """The column with the new cells' values below, in the type of the real ones' where they fit in it."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        more = [value for value in values.unique() if value not in column.cat.categories]
        column = column.cat.add_categories(more) if more else column
    elif pd.api.types.is_integer_dtype(column.dtype) and (values % 1 != 0).any():
        numbers: pd.Series[Any] = column.astype("float64")
        column = numbers
    column.iloc[n_real:] = list(values)
    return column


def _under(values: Any, new: sparse.csr_matrix | None, names: pd.Index[Any]) -> Any:
    """Values of real cells and below them those of new ones (NaN where there are none), in the same container."""
    n_new = len(names) - values.shape[0]
    if isinstance(values, pd.DataFrame):
        return _table(values, pd.DataFrame(index=range(n_new))).set_axis(names, axis=0)
    below: Any
    if new is None:
        kind = values.dtype if values.dtype.kind in "fc" else np.dtype(np.float64)
        below = np.full((n_new, *values.shape[1:]), np.nan, dtype=kind)
    else:
        kind = _holding(values.dtype, new)
        below = new.astype(kind) if is_sparse(values) else new.toarray().astype(kind)
    if is_sparse(values):
        return sparse.vstack([values, type(values)(below)], format=values.format)
    return np.concatenate([np.asarray(values), below])


def _holding(dtype: np.dtype[Any], new: sparse.csr_matrix) -> np.dtype[Any]:
    """The real values' type, unless a new value is too large for it."""
    largest = new.data.max() if new.data.size else 0
    fits = dtype.kind in "fiu" and largest <= (np.finfo if dtype.kind == "f" else np.iinfo)(dtype).max
    return dtype if fits else np.result_type(dtype, np.min_scalar_type(int(largest)))


def _graph(values: Any, n: int) -> Any:
    """A matrix between cells: new ones have no edges in a sparse one, and NaN in a dense one."""
    if not is_sparse(values):
        real = np.asarray(values, dtype=np.result_type(values.dtype, np.float32))
        return np.pad(real, (0, n), constant_values=np.nan)
    longer = values.copy()
    longer.resize(values.shape[0] + n, values.shape[1] + n)
    return longer
