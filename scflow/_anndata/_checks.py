"""Whether something is an AnnData that can be read at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scflow.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["check_gene_names", "check_names", "check_sliced", "checked", "is_sparse", "named", "unmasked"]


def checked(adata: Any, *, name: str = "adata", backed: bool = False) -> AnnData:
    """`adata` itself, once it is known to be an in-memory AnnData with cells.

    Parameters
    ----------
    name
        What the caller calls the object, for the message.
    backed
        Whether one that is backed will do: its annotations are in memory all the same.

    Raises
    ------
    InputError
        Where it is something else (a path, a table, a matrix, a MuData), backed by a file or read lazily, has no cells,
        or names of cells or genes are no text.
    """
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise InputError(f"{name} is a {type(adata).__name__}, not an AnnData. {_mend(adata, name)}")
    if adata.isbacked and not backed:
        raise InputError(
            f"{name} is backed by the file {str(adata.filename)!r}, and its values are not in memory. "
            f"Load it first: {name} = {name}.to_memory()."
        )
    if hasattr(adata.obs, "to_memory") and not backed:
        raise InputError(
            f"{name} is read lazily, and its values are not in memory. Load it first: {name} = {name}.to_memory()."
        )
    if adata.n_obs == 0:
        raise InputError(f"{name} has 0 cells ({adata.n_vars} genes). Check the filter that made it.")
    check_names(adata, name=name)
    return adata


def check_names(adata: AnnData, *, name: str = "adata") -> None:
    """Raise where names of cells or genes are no text: AnnData lets them be, and slices and writes them wrongly."""
    for axis, what in (("obs", "cells"), ("var", "genes")):
        names = getattr(adata, f"{axis}_names")
        if names.nlevels == 1 and names.inferred_type in ("string", "empty", "categorical"):
            continue
        wrong = names if names.nlevels > 1 else [one for one in names if not isinstance(one, str)]
        raise InputError(
            f"{len(wrong)} of {len(names)} names of {what} in {name}.{axis}_names are no text (first: {wrong[0]!r}, a "
            f"{type(wrong[0]).__name__}). Expected a string each: "
            f"{name}.{axis}_names = [str(one) for one in {name}.{axis}_names]."
        )


def check_gene_names(adata: AnnData, *, name: str = "adata") -> None:
    """Raise where two genes have one name: a flow finds genes by their names."""
    if adata.var_names.is_unique:
        return
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    raise InputError(
        f"{len(repeated)} gene names of {name} occur more than once ({listed(repeated)}). Expected a name of its own "
        f"for each of the {adata.n_vars} genes: {name}.var_names_make_unique()."
    )


def check_sliced(adata: AnnData, *, name: str = "adata") -> None:
    """Raise where cells cannot be taken out one by one: pandas and scipy slice no bytes in another machine's order."""
    matrices = {"X": adata.X, **{f"layers[{key!r}]": kept for key, kept in adata.layers.items()}}
    odd = [where for where, kept in matrices.items() if is_sparse(kept) and not kept.dtype.isnative]
    odd += [
        f"obs[{column!r}]"
        for column, dtype in zip(adata.obs.columns, adata.obs.dtypes, strict=True)
        if isinstance(dtype, np.dtype) and not dtype.isnative
    ]
    if odd:
        raise InputError(
            f"{len(odd)} parts of {name} have their bytes in another machine's order, and cells cannot be taken out of "
            f"them ({listed(odd, most=10)}). Turn them: {name}.{odd[0]} = "
            f"{name}.{odd[0]}.astype({name}.{odd[0]}.dtype.newbyteorder('='))."
        )


def is_sparse(values: Any) -> bool:
    """Whether `values` is a sparse matrix or array of scipy."""
    return bool(sparse.issparse(values))


def unmasked(values: Any, where: str) -> Any:
    """The values themselves, of an array with a mask that hides none of them.

    Raises
    ------
    InputError
        Where some are hidden: what is under a mask is no value.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    hidden = int(np.ma.getmaskarray(values).sum())
    if hidden:
        raise InputError(
            f"{where} is a masked array, and {hidden} of its {values.size} values are masked. Expected a value for "
            f"every cell: fill them, {where} = {where}.filled(0), or drop those cells."
        )
    return values.data


def named(names: Any) -> str:
    """`": 'a', 'b'"` or `" none"`, for the end of a sentence that lists what there is."""
    names = [n for n in names if n is not None]
    return f": {listed(names, most=10)}" if names else ": none"


def _mend(thing: Any, name: str) -> str:
    """The line that makes an AnnData of what was given."""
    if isinstance(thing, str) or hasattr(thing, "__fspath__"):
        return f"Read the file first: {name} = anndata.read_h5ad({str(thing)!r})."
    modalities = getattr(thing, "mod", None)
    if isinstance(modalities, Mapping):
        names = list(modalities)
        one = "rna" if "rna" in names or not names else names[0]
        return f"It has {len(names)} modalities{named(names)}. Give the one with the counts of genes: {name}[{one!r}]."
    if hasattr(thing, "shape"):
        return f"Make one, cells in rows and genes in columns: {name} = anndata.AnnData({name})."
    return f"Read one with {name} = anndata.read_h5ad(path)."
