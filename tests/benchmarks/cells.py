"""Real cells for the benchmarks: the data sets, their halves, and what is read off them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.metrics import Space, library_sizes

CONDITION = "cell_type"
"""The column of obs with the types."""


def data_folder() -> Path:
    """The folder of real data: `SCFLOW_DATA` where it is set, otherwise ../shared/data beside the repository."""
    return Path(os.environ.get("SCFLOW_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def data_sets(names: Sequence[str]) -> Iterator[tuple[str, AnnData]]:
    """Those of the data sets that are there, read one at a time; a line for each that is not."""
    for name in names:
        adata = load(name)
        if adata is None:
            print(f"{name}: not in {data_folder()}; set SCFLOW_DATA to its folder (data/README.md). Skipped.")
        else:
            yield name, adata


def load(name: str) -> AnnData | None:
    """A data set with integer counts in X, or None where its file is not there."""
    if name == "pbmc68k":
        return scflow.datasets.pbmc68k()
    path = data_folder() / f"{name}.h5ad"
    return anndata.read_h5ad(path) if path.is_file() else None


def prepare(adata: AnnData, seed: int, n_genes: int = 2000, rule: str = "variance") -> tuple[AnnData, AnnData]:
    """Half of each type to train on and half held out, both with the variable genes of the training cells.

    Rules as in `on_variable_genes`.
    """
    train, held_out = scflow.pp.split(adata, stratify=CONDITION, test_size=0.5, seed=seed)
    train, held_out = on_variable_genes(train, held_out, n_genes=n_genes, rule=rule)
    return train, held_out


def on_variable_genes(train: AnnData, *others: AnnData, n_genes: int, rule: str = "variance") -> list[AnnData]:
    """Training cells and others, all with the variable genes of the training cells.

    `"variance"` is the judge's own rule: the largest variance of log1p of counts per 10,000; `"seurat"` is scanpy's
    default flavour.
    Genes without a count in the training cells and cells without a count in the genes left are dropped.
    """
    counts = counts_of(train)
    if rule == "variance":
        chosen = Space.fit(counts, n_genes, n_components=1).chosen
    else:
        chosen = seurat_genes(counts, n_genes)
    expressed = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) > 0
    chosen = np.sort(chosen[expressed[chosen]])
    sides = (side[:, chosen] for side in (train, *others))
    return [side[library_sizes(counts_of(side)) > 0].copy() for side in sides]


def seurat_genes(counts: sparse.csr_matrix, n_genes: int) -> NDArray[np.int64]:
    """Columns of the genes that scanpy's default flavour calls highly variable."""
    import scanpy as sc

    expression = AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    found = sc.pp.highly_variable_genes(expression, n_top_genes=min(n_genes, counts.shape[1]), inplace=False)
    return np.flatnonzero(found["highly_variable"].to_numpy())


def counts_of(adata: AnnData) -> sparse.csr_matrix:
    """The counts: in a layer of that name where there is one, as generated cells have it, otherwise in X."""
    return sparse.csr_matrix(adata.layers.get("counts", adata.X))


def types(adata: AnnData) -> NDArray[np.str_]:
    """The type of each cell."""
    labels: NDArray[np.str_] = adata.obs[CONDITION].astype(str).to_numpy(dtype=np.str_)
    return labels


def resampled(cells: AnnData, wanted: NDArray[np.str_], seed: int) -> AnnData:
    """A real cell of each wanted type, drawn at random; no cell comes twice before all of its type have come.

    Two copies of one cell in different folds would give the forest away.
    """
    rng = np.random.default_rng(seed)
    have, rows = types(cells), np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        places, pool = np.flatnonzero(wanted == label), np.flatnonzero(have == label)
        if not len(pool):
            pool = np.arange(len(have))
        turns = -(-len(places) // len(pool))
        rows[places] = np.concatenate([rng.permutation(pool) for _ in range(turns)])[: len(places)]
    return cells_of(counts_of(cells)[rows], cells, wanted)


def cells_of(counts: sparse.csr_matrix, like: AnnData, labels: NDArray[np.str_]) -> AnnData:
    """An AnnData of counts with the genes of `like`."""
    obs = pd.DataFrame({CONDITION: pd.Categorical(labels)}, index=pd.RangeIndex(len(labels)).astype(str))
    return AnnData(counts, obs=obs, var=like.var[[]].copy())
