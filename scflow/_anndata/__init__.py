"""The only door to AnnData: read and check inputs, write results."""

from __future__ import annotations

from scflow._anndata._annotations import match_genes, obs_column, read_conditions, read_embedding
from scflow._anndata._carried import cells_at, rows_in_time, write_carried, write_growth, write_velocity
from scflow._anndata._checks import check_sliced, checked
from scflow._anndata._counts import counts_layer, read_counts
from scflow._anndata._embedded import read_parts, write_parts
from scflow._anndata._growing import Growing, growing, write_cells
from scflow._anndata._joined import Matrices, joined, read_units
from scflow._anndata._results import (
    Preprocessing,
    new_cells,
    read_flow,
    read_preprocessing,
    write_code,
    write_flow,
    write_log_prob,
    write_preprocessing,
    write_table,
)
from scflow._anndata._scores import read_scores
from scflow._anndata._stores import Store, opened
from scflow._anndata._survey import Survey, survey

__all__ = [
    "Growing",
    "Matrices",
    "Preprocessing",
    "Store",
    "Survey",
    "cells_at",
    "check_sliced",
    "checked",
    "counts_layer",
    "growing",
    "joined",
    "match_genes",
    "new_cells",
    "obs_column",
    "opened",
    "read_conditions",
    "read_counts",
    "read_embedding",
    "read_flow",
    "read_parts",
    "read_preprocessing",
    "read_scores",
    "read_units",
    "rows_in_time",
    "survey",
    "write_carried",
    "write_cells",
    "write_code",
    "write_flow",
    "write_growth",
    "write_log_prob",
    "write_parts",
    "write_preprocessing",
    "write_table",
    "write_velocity",
]
