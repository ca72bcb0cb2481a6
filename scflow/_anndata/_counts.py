"""Raw counts out of an AnnData: every value looked at, nothing made dense, the caller's matrix untouched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow import _keys
from scflow._anndata._checks import check_gene_names, checked, is_sparse, named, unmasked
from scflow.errors import InputError, listed, name_of, nearest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["as_csr", "bad_values", "counts_layer", "holds_counts", "kinds_listed", "read_counts"]

CHUNK = 1 << 20
"""Values looked at in one go."""

MOST = 2**30
"""The largest count: no cell has as many molecules, and what is drawn like it fits into 32 bits."""

EXACT: dict[np.dtype[Any], int] = {np.dtype(np.float32): 1 << 24, np.dtype(np.float64): 1 << 53}
"""The largest whole number up to which every whole number has a value of its own."""


def counts_layer(adata: AnnData, layer: str | None = None) -> str | None:
    """Where the counts are: a layer's name, or None for `.X`.

    Parameters
    ----------
    layer
        The layer that the caller asks for. None means `.X` where that holds counts or there is nothing better, and
        `.layers["counts"]` where there is one and `.X` does not hold counts (log-normalised, scaled, absent).

    Raises
    ------
    InputError
        Where `layer` is not there.
    """
    layers = [name for name in adata.layers if name is not None]
    if name_of(layer, "layer") is None:
        return _keys.COUNTS if _keys.COUNTS in layers and not holds_counts(adata.X) else None
    if layer not in layers:
        raise InputError(
            f"adata has no layer {layer!r}.{nearest(layer, layers)} Layers{named(layers)}. "
            "Name one of them, or leave layer=None to read adata.X."
        )
    return layer


def read_counts(
    adata: AnnData, layer: str | None = None, *, name: str = "adata", for_training: bool = True
) -> sparse.csr_matrix:
    """The raw counts, `[n_cells, n_genes]`, as canonical CSR (sorted, no duplicates, no stored zeros).

    The matrix of `adata` itself is returned where it is already such a one: do not write to it. Everything else
    (CSC, COO, sparse arrays, dense arrays, integers, booleans, half precision) is converted in a copy. Floating
    types of 32 and 64 bits stay; others become float32, or float64 where a count exceeds 2**24 and would be rounded.

    Parameters
    ----------
    layer
        Where the counts are; None as in :func:`counts_layer`.
    name
        What the caller calls the object, for the messages.
    for_training
        Whether cells without any count, and cells that are all the same, are errors. They are in what a flow is
        trained on; generated or held-out cells may be so.

    Raises
    ------
    InputError
        Where a value is NaN, infinite, negative, above 2**30 or no whole number; where gene names repeat; where
        there are no cells or genes, cells without counts, or no gene that varies.
    """
    adata = checked(adata, name=name)
    if adata.n_vars == 0:
        raise InputError(f"{name} has 0 genes ({adata.n_obs} cells). Check the filter that made it.")
    check_gene_names(adata, name=name)
    layer = counts_layer(adata, layer)
    where = _where(layer, name)
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise InputError(f"{where} is empty: there are no counts to read. {_advice(adata, layer, name)}")
    counts = as_csr(values, where)
    _check_values(adata, counts, layer, name)
    if for_training:
        _check_cells(adata, counts, layer, name)
    return counts


def _where(layer: str | None, name: str) -> str:
    return f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"


def as_csr(values: Any, where: str) -> sparse.csr_matrix:
    """`values` as canonical CSR in a floating type; by reference where it is one already."""
    if not is_sparse(values) and not isinstance(values, np.ndarray):
        raise InputError(
            f"{where} is a {type(values).__module__}.{type(values).__name__}; expected an array or a sparse matrix in "
            "memory. Load it first: adata = adata.to_memory()."
        )
    values = unmasked(values, where)
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"{where} has the data type {values.dtype}, which holds no counts. Expected whole numbers: convert it with "
            ".astype('float32')."
        )
    return _csr_of_sparse(values, where) if is_sparse(values) else _csr_of_dense(values, where)


def _csr_of_sparse(values: Any, where: str) -> sparse.csr_matrix:
    if values.format not in ("csr", "csc", "coo"):
        values = values.tocsr()
    dtype = _float_type(values.data, where)
    if type(values) is sparse.csr_matrix and values.dtype == dtype and _is_canonical(values):
        return values
    if values.format != "csr":
        # The type first: the conversion adds duplicates up, and a sum of small integers wraps.
        counts = sparse.csr_matrix(values.astype(dtype).tocsr())
    else:
        parts = (values.data.astype(dtype, copy=False), values.indices, values.indptr)
        counts = sparse.csr_matrix(parts, shape=values.shape)
    if not _is_canonical(counts):
        counts = counts.copy()
        counts.sum_duplicates()
        counts.eliminate_zeros()
    return counts


def _is_canonical(counts: sparse.csr_matrix) -> bool:
    """Whether indices are sorted, nothing occurs twice and no zero is stored (the cached flags may be stale)."""
    fresh = sparse.csr_matrix((counts.data, counts.indices, counts.indptr), shape=counts.shape)
    return bool(fresh.has_canonical_format) and np.count_nonzero(counts.data) == counts.data.size


def _csr_of_dense(values: NDArray[Any], where: str) -> sparse.csr_matrix:
    """Chunk by chunk, so that nothing of the size cells x genes is made beside the caller's own array."""
    dtype = _float_type(values, where)
    step = max(1, CHUNK // values.shape[1])
    blocks = [
        sparse.csr_matrix(np.asarray(values[start : start + step]).astype(dtype, copy=False))
        for start in range(0, values.shape[0], step)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")) if len(blocks) > 1 else blocks[0]


def _float_type(values: NDArray[Any], where: str) -> np.dtype[Any]:
    """The floating type in which every one of `values` is exact."""
    if values.dtype.kind == "f":
        return np.dtype({2: np.float32, 4: np.float32}.get(values.dtype.itemsize, np.float64))
    largest = int(values.max()) if values.size else 0
    for dtype, exact in EXACT.items():
        if largest <= exact:
            return dtype
    raise InputError(
        f"{where} holds the count {largest}, above 2**53, which no floating number holds exactly. Expected counts of "
        "molecules: check that the integers did not wrap when the file was read."
    )


def _check_values(adata: AnnData, counts: sparse.csr_matrix, layer: str | None, name: str) -> None:
    """Raise with how many values of each kind are no counts, and where the first is."""
    found = bad_values(counts)
    if found is None:
        return
    kinds, row, gene, value = found
    raise InputError(
        f"{_where(layer, name)} holds {sum(kinds.values())} values that are not counts: {kinds_listed(kinds)} (first: "
        f"{value:g} in cell {str(adata.obs_names[row])!r}, gene {str(adata.var_names[gene])!r}). Expected whole "
        f"numbers from 0 up. {_advice(adata, layer, name)}"
    )


_TOO_LARGE = "above 2**30"


def bad_values(counts: sparse.csr_matrix) -> tuple[dict[str, int], int, int, float] | None:
    """Look at every stored value: how many of each kind are no counts, and the first one's row, column and value."""
    found = {"NaN": 0, "infinite": 0, "negative": 0, "not whole numbers": 0, _TOO_LARGE: 0}
    first = -1
    for start in range(0, counts.data.size, CHUNK):
        values = counts.data[start : start + CHUNK]
        bad = _not_counts(values)
        if not bad.any():
            continue
        first = start + int(bad.argmax()) if first < 0 else first
        nan, infinite, negative = np.isnan(values), np.isinf(values), values < 0
        found["NaN"] += int(nan.sum())
        found["infinite"] += int(infinite.sum())
        found["negative"] += int((negative & ~infinite).sum())
        large = ~infinite & (values > MOST)
        found[_TOO_LARGE] += int(large.sum())
        found["not whole numbers"] += int((bad & ~nan & ~infinite & ~negative & ~large).sum())
    if first < 0:
        return None
    row = int(np.searchsorted(counts.indptr, first, side="right")) - 1
    return found, row, int(counts.indices[first]), float(counts.data[first])


def kinds_listed(kinds: Mapping[str, int]) -> str:
    """What is wrong with how many values."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def _not_counts(values: NDArray[Any]) -> NDArray[np.bool_]:
    """True where a value is NaN, infinite, negative, too large or no whole number."""
    bad: NDArray[np.bool_] = ~((values >= 0) & (values <= MOST) & (np.rint(values) == values))
    return bad


def holds_counts(values: Any) -> bool:
    """Whether every value is a count; stops at the first chunk that says no."""
    if values is None or not hasattr(values, "dtype") or values.dtype.kind not in "biuf":
        return False
    if is_sparse(values):
        flat = values.data if values.format in ("csr", "csc", "coo") else values.tocoo().data
        return not any(_not_counts(flat[i : i + CHUNK]).any() for i in range(0, flat.size, CHUNK))
    values = np.asarray(values)
    step = max(1, CHUNK // max(1, values.shape[1]))
    return not any(_not_counts(values[i : i + step]).any() for i in range(0, values.shape[0], step))


def _advice(adata: AnnData, layer: str | None, name: str) -> str:
    """The line that leads to the counts, if they are anywhere in `adata`."""
    others = [other for other in adata.layers if other is not None and other != layer]
    for other in sorted(others, key=lambda other: "count" not in other):
        if holds_counts(adata.layers[other]):
            return f"{name}.layers[{other!r}] looks like counts: pass layer={other!r}."
    if layer is not None and holds_counts(adata.X):
        return f"{name}.X looks like counts: leave layer={layer!r} out."
    raw = adata.raw
    if raw is not None and adata.var_names.isin(raw.var_names).all() and holds_counts(raw.X):
        return (
            f"{name}.raw looks like counts: {name}.layers['counts'] = {name}.raw[:, {name}.var_names].X, "
            "then pass layer='counts'."
        )
    return (
        f"No other layer and no {name}.raw holds counts: go back to the raw counts, and before normalising them keep a "
        f"copy in {name}.layers['counts'] = {name}.X.copy()."
    )


def _check_cells(adata: AnnData, counts: sparse.csr_matrix, layer: str | None, name: str) -> None:
    """Raise where a cell has no counts, or no gene varies."""
    stored = np.diff(counts.indptr)
    empty = np.flatnonzero(stored == 0)
    where = _where(layer, name)
    if empty.size:
        mend = (
            f"sc.pp.filter_cells({name}, min_counts=1)"
            if layer is None
            else f"{name} = {name}[np.asarray({where}.sum(axis=1)).ravel() > 0].copy()"
        )
        raise InputError(
            f"{empty.size} of {adata.n_obs} cells have no counts in {where} "
            f"(first: {listed(adata.obs_names[empty[:3]])}). Drop them: {mend}."
        )
    if (stored == stored[0]).all():
        width = int(stored[0])
        genes, values = counts.indices.reshape(-1, width), counts.data.reshape(-1, width)
        if (genes == genes[0]).all() and (values == values[0]).all():
            raise InputError(
                f"Every gene is constant across the {adata.n_obs} cells of {where}: there is nothing to learn. "
                "Expected cells that differ: check that this is the matrix you mean."
            )
