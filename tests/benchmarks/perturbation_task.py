"""One cell type whose stimulated cells are held out, for perturbation.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from cells import CONDITION, counts_of, on_variable_genes, types
from numpy.typing import NDArray

from scflow.metrics import log_normalised

STIMULUS = "condition"
"""The column of obs with the stimulus."""
CONTROL, STIMULATED = "ctrl", "stim"

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Task:
    """What there is to learn from, and what is to be predicted; the genes are those that vary in the training cells."""

    train: AnnData
    """All cells but the type's stimulated ones."""
    held_out: AnnData
    """The type's stimulated cells."""
    label: str
    seed: int

    @classmethod
    def of(cls, adata: AnnData, label: str, seed: int, n_genes: int = 2000) -> Task:
        """The stimulated cells of the type `label` held out."""
        hidden = (types(adata) == label) & stimulated(adata)
        train, held_out = on_variable_genes(adata[~hidden], adata[hidden], n_genes=n_genes)
        return cls(train, held_out, label, seed)

    @property
    def controls(self) -> AnnData:
        """The type's controls, in their order in the training cells."""
        return self.train[self.is_control].copy()

    @property
    def is_control(self) -> NDArray[np.bool_]:
        """Which training cells are controls of the type."""
        result: NDArray[np.bool_] = types(self.train) == self.label
        return result

    @property
    def others(self) -> list[str]:
        """The types that have both controls and stimulated cells among the training cells."""
        pairs = pd.crosstab(types(self.train), stimulated(self.train))
        return [str(name) for name in pairs.index[np.asarray(pairs > 0).all(axis=1)]]

    def pairs(self, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Each other type with the rows of its controls and of its stimulated cells among those of all training cells.

        Some `values` ``[n_train, ...]``, so that shifts of whatever they are can be taken.
        """
        labels, stim = types(self.train), stimulated(self.train)
        for name in self.others:
            yield name, values[(labels == name) & ~stim], values[(labels == name) & stim]


def expression(adata: AnnData) -> Numbers:
    """Log1p of counts per 10,000, ``[n_cells, n_genes]``."""
    return np.asarray(log_normalised(counts_of(adata)).toarray(), dtype=np.float64)


def stimulated(adata: AnnData) -> NDArray[np.bool_]:
    """Which cells are stimulated."""
    return (adata.obs[STIMULUS] == STIMULATED).to_numpy()


def held_out_types(adata: AnnData, least: int) -> list[str]:
    """The types of at least so many cells in each condition."""
    number = pd.crosstab(adata.obs[CONDITION].astype(str), adata.obs[STIMULUS])
    return [str(name) for name in number.index[number.min(axis=1) >= least]]
