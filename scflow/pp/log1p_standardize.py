"""What a flow in gene space needs to know about genes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scflow import _keys
from scflow._anndata import Store, checked, counts_layer, opened, read_counts, survey, write_preprocessing
from scflow.codecs.statistics import gene_statistics, standardized
from scflow.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from anndata.experimental import AnnCollection

__all__ = ["log1p_standardize"]


def log1p_standardize(
    adata: AnnData | AnnCollection | str | os.PathLike[str] | Sequence[AnnData | str | os.PathLike[str]],
    *,
    layer: str | None = None,
    target_sum: float | str = 1e4,
    clip: float = 10.0,
    write_layer: bool = False,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """Mean, standard deviation and dropout rate of every gene, over log1p of size-normalised counts.

    A cell's standardised expression is `(log1p(count / library size * target_sum) - mean) / (sd + 1e-8)`, cut at
    +-`clip`: a gene that never varies stays finite, and a gene that occurs in one cell of n would stand at sqrt(n).
    Call it on the training cells: the statistics travel with the flow. The counts stay as they are, and sparse.

    Parameters
    ----------
    adata
        Raw counts, in `.X` or a layer. They need not be in memory: whatever :func:`scflow.tl.train` takes is read in
        one pass, Dask arrays are computed chunk by chunk.
    layer
        Where the counts are; by default `.X`, or `.layers["counts"]` where `.X` does not hold counts.
    target_sum
        Counts per cell after size normalisation, or `"median"` for the median library size.
    clip
        Where standardised values are cut; `float("inf")` for nowhere.
    write_layer
        Whether to write the standardised expression too. It is dense, float32.
    key_added
        Takes the place of "scflow" in the slots' names.
    copy
        Whether to return a copy and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        The copy where `copy=True`; for a path, a collection or a list, which nothing can be written to, their `.obs`
        and `.var`. The file of an AnnData that is backed stays as it is. Written are `.var["scflow_mean"]`,
        `.var["scflow_sd"]` (standard deviation, ddof 0), `.var["scflow_dropout"]` (fraction of cells without the gene),
        `.uns["scflow_pp"]` (target_sum, clip, layer, n_cells, n_genes) and, where asked for,
        `.layers["scflow_standardized"]`.

    Raises
    ------
    InputError
        Where the values are not counts, a cell has none, gene names repeat, or a setting cannot be.

    Examples
    --------
    >>> import anndata, numpy, scflow
    >>> adata = anndata.AnnData(numpy.array([[1.0, 0.0], [3.0, 1.0]], dtype="float32"))
    >>> scflow.pp.log1p_standardize(adata)
    >>> adata.var["scflow_dropout"].tolist()
    [0.0, 0.5]
    """
    _check_clip(clip)
    store = opened(adata, layer, key_added=key_added)
    if store is not None:
        return _streamed(store, target_sum, clip, key_added, unlike_files={"write_layer": write_layer, "copy": copy})
    adata = checked(adata)
    adata = adata.copy() if copy else adata
    counts = read_counts(adata, layer)
    statistics = gene_statistics(counts, target_sum)
    write_preprocessing(adata, statistics, clip=clip, layer=counts_layer(adata, layer), key_added=key_added)
    if write_layer:
        adata.layers[_keys.slots(key_added).standardized] = standardized(counts, statistics, clip)
    return adata if copy else None


def _streamed(
    store: Store, target_sum: float | str, clip: float, key_added: str, *, unlike_files: Mapping[str, bool]
) -> AnnData | None:
    """One pass over cells that are not in memory."""
    for option, wanted in unlike_files.items():
        if wanted:
            raise InputError(
                f"{option}=True takes cells in memory, and {store.name} is not. Leave it out, or load the cells: "
                "adata.to_memory() of an AnnData, anndata.read_h5ad(path) of a file."
            )
    none = np.zeros(0, dtype=np.int64)
    survey(store, none, key_added=key_added, target_sum=target_sum, clip=clip, anew=True)
    store.leave(store.cells, key_added)
    return store.cells if store.kept is None else None


def _check_clip(clip: object) -> None:
    if not isinstance(clip, (int, float, np.integer, np.floating)) or not clip > 0:
        raise InputError(
            f"clip={clip!r} is no positive number. Give one, such as clip=10, or float('inf') to cut nothing."
        )
