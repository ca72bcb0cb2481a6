"""The time courses of trajectory.py, and each with one time point left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from cells import counts_of, data_sets
from numpy.typing import NDArray
from scipy import sparse

from scflow.metrics import Space

DATA = ("latent_emt", "latent_larry", "latent_ipsc_cm", "fibroblast_reprogramming", "bmdc_stimulation")
GENES, COMPONENTS = 2000, 5
UNSTIMULATED = "Unstimulated"

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Task:
    """A course without one of its time points, in coordinates that are white over the cells that are left."""

    data: str
    course: str
    time: float
    """Which is left out, in the unit of the data."""
    place: int
    """Which that is, counted from 0."""
    train: list[Array]
    held_out: Array

    @property
    def before(self) -> int:
        """Which of the time points left comes just before the one left out."""
        return self.place - 1

    @property
    def places(self) -> list[float]:
        """The times of those left, counted in time points."""
        return [float(k) for k in range(len(self.train) + 1) if k != self.place]

    @property
    def at(self) -> float:
        """The time of the one left out, in the same unit."""
        return float(self.place)


def tasks(names: Sequence[str]) -> Iterator[Task]:
    """All of them, data set by data set."""
    for name, adata in data_sets(names):
        for course, cells in courses(name, adata):
            times = cells.obs["time"].to_numpy(dtype=float)
            known = np.unique(times)
            for place in range(1, len(known) - 1):
                x = coordinates(cells, times != known[place])
                at = [x[times == t] for t in known]
                yield Task(name, course, float(known[place]), place, at[:place] + at[place + 1 :], at[place])


def courses(name: str, adata: AnnData) -> Iterator[tuple[str, AnnData]]:
    """The courses of a data set: one, or one of each stimulus, which all start from the unstimulated cells.

    All three stimuli are taken, and not one: nine time points of some 75 cells say more than three.
    """
    if "condition" not in adata.obs:
        yield name, adata
        return
    condition = adata.obs["condition"].astype(str).to_numpy()
    for stimulus in np.unique(condition[condition != UNSTIMULATED]):
        yield f"{name}, {stimulus}", adata[np.isin(condition, [stimulus, UNSTIMULATED])].copy()


def coordinates(cells: AnnData, train: NDArray[np.bool_]) -> Array:
    """Coordinates that have mean 0 and the identity as covariance over the training cells.

    Those of the source where there are any; otherwise principal components of log1p of counts per 10,000 in the most
    variable genes, chosen and fitted on the training cells.
    """
    if "X_pca" in cells.obsm:
        x = np.asarray(cells.obsm["X_pca"], dtype=float)
    else:
        counts = counts_of(cells)
        space = Space.fit(sparse.csr_matrix(counts[train]), GENES, n_components=COMPONENTS)
        x = space.components(counts).astype(float)
    values, vectors = np.linalg.eigh(np.cov(x[train].T))
    white: Array = (x - x[train].mean(0)) @ (vectors / np.sqrt(values))
    return white
