"""Whether something is an AnnData that can be read at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scipy import sparse

from scflow.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["check_gene_names", "checked", "is_sparse", "named"]


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
        Where it is something else (a path, a table, a matrix, a MuData), backed by a file, or has no cells.
    """
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise InputError(f"{name} is a {type(adata).__name__}, not an AnnData. {_mend(adata, name)}")
    if adata.isbacked and not backed:
        raise InputError(
            f"{name} is backed by the file {str(adata.filename)!r}, and its values are not in memory. "
            f"Load it first: {name} = {name}.to_memory()."
        )
    if adata.n_obs == 0:
        raise InputError(f"{name} has 0 cells ({adata.n_vars} genes). Check the filter that made it.")
    return adata


def check_gene_names(adata: AnnData, *, name: str = "adata") -> None:
    """Raise where two genes have one name: a flow finds genes by their names."""
    if adata.var_names.is_unique:
        return
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    raise InputError(
        f"{len(repeated)} gene names of {name} occur more than once ({listed(repeated)}). Expected a name of its own "
        f"for each of the {adata.n_vars} genes: {name}.var_names_make_unique()."
    )


def is_sparse(values: Any) -> bool:
    """Whether `values` is a sparse matrix or array of scipy."""
    return bool(sparse.issparse(values))


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
