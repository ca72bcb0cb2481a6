"""700 real blood cells as integer counts, from the file that scanpy carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scflow.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["pbmc68k"]

# Rounding in the file's float32 logarithms moves a count by up to 0.08.
_MOST_DEVIATION = 0.1


def pbmc68k() -> AnnData:
    """700 peripheral blood mononuclear cells with 765 genes, as raw counts; nothing is downloaded.

    The cells are the sample of the 68k PBMC data (Zheng et al. 2017) that scanpy carries as
    `scanpy.datasets.pbmc68k_reduced`, which holds log1p of counts per 10,000. The counts are exact:
    ``rint(expm1(raw) * n_counts / 1e4)``, or the file's own ``layers["counts"]`` where there is one.

    Returns
    -------
    AnnData
        `[700, 765]`, with

        - ``.X``: counts, CSR float32;
        - ``.obs["cell_type"]``: ten types, categorical;
        - ``.obs["n_counts"]``: the library size of the cell over *all* genes; the 765 genes here hold about a fifth;
        - ``.uns["cell_type_colors"]``: a colour for each type.

    Raises
    ------
    InputError
        If the installed scanpy's file does not give whole counts.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.pbmc68k()
    >>> adata.shape, float(adata.X.max())
    ((700, 765), 259.0)
    """
    import pandas as pd
    import scanpy as sc
    from anndata import AnnData

    source = sc.datasets.pbmc68k_reduced()
    labels = source.obs["bulk_labels"].astype("category")
    library = source.obs["n_counts"].to_numpy(dtype=np.float64)
    adata = AnnData(
        X=_whole(_counts(source, library)),
        obs=pd.DataFrame({"cell_type": labels.array, "n_counts": library}, index=source.obs_names.rename(None)),
        var=pd.DataFrame(index=source.var_names.rename(None)),
    )
    if "bulk_labels_colors" in source.uns:
        adata.uns["cell_type_colors"] = np.asarray(source.uns["bulk_labels_colors"], dtype=str)
    return adata


def _counts(source: AnnData, library: np.ndarray) -> sparse.csr_matrix:
    """Counts in float64, not yet rounded, from the layer where there is one, otherwise from the logarithms."""
    if "counts" in source.layers:
        return sparse.csr_matrix(source.layers["counts"], dtype=np.float64)
    counts = sparse.csr_matrix(source.raw[:, source.var_names].X, dtype=np.float64)
    counts.data = np.expm1(counts.data) * np.repeat(library / 1e4, np.diff(counts.indptr))
    return counts


def _whole(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same counts, rounded, in float32; raises where they were not whole to begin with."""
    rounded = np.rint(counts.data)
    deviation = np.abs(counts.data - rounded)
    if not deviation.max(initial=0.0) < _MOST_DEVIATION:
        n_off = int((~(deviation < _MOST_DEVIATION)).sum())
        raise InputError(
            f"The pbmc68k_reduced of the installed scanpy does not give whole counts: {n_off} of {deviation.size} "
            f"entries are {_MOST_DEVIATION} or more from an integer (the farthest by {deviation.max():.2g}). "
            "The counts are exact with: pip install 'scanpy==1.11.5'"
        )
    whole = sparse.csr_matrix((rounded.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    whole.eliminate_zeros()
    whole.sort_indices()
    return whole
