"""The only door to AnnData: read and check inputs, write results."""

from __future__ import annotations

from scflow._anndata._annotations import match_genes, obs_column, read_conditions, read_embedding
from scflow._anndata._checks import checked
from scflow._anndata._counts import counts_layer, read_counts
from scflow._anndata._results import (
    Preprocessing,
    new_cells,
    read_flow,
    read_preprocessing,
    write_flow,
    write_preprocessing,
    write_table,
)
from scflow._anndata._scores import read_scores

__all__ = [
    "Preprocessing",
    "checked",
    "counts_layer",
    "match_genes",
    "new_cells",
    "obs_column",
    "read_conditions",
    "read_counts",
    "read_embedding",
    "read_flow",
    "read_preprocessing",
    "read_scores",
    "write_flow",
    "write_preprocessing",
    "write_table",
]
