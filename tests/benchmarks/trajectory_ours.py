"""One flow through all time points of a course: what `trajectory.py` measures as scflow, by its public verbs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

import scflow

__all__ = ["ours"]

WIDTH, DEPTH = 64, 3
"""As wide and deep as the rivals' network."""

Array = NDArray[np.float64]


def ours(
    cells: Sequence[Array], times: Sequence[float], start: int, at: float, seed: int, steps: int
) -> tuple[Array, Array]:
    """The cells of time point `start` carried to the time `at`, and how much each counts there.

    Parameters
    ----------
    cells
        Whitened coordinates of the cells of each time point, ``[n_cells, n_coordinates]``, in order.
    times
        The time of each.
    """
    when = np.repeat(times, [len(x) for x in cells])
    obs = pd.DataFrame({"time": when}, index=[str(i) for i in range(len(when))])
    adata = AnnData(obs=obs, obsm={"X_white": np.vstack(cells).astype(np.float32)})
    field = functools.partial(scflow.nn.MLP, width=WIDTH, depth=DEPTH)
    options = {"use_rep": "X_white", "field": field, "steps": steps, "seed": seed, "progress": False}
    flow = scflow.tl.train(adata, course="time", **options)
    before = adata[adata.obs["time"] == times[start]].copy()
    scflow.tl.transport(before, flow, to=at, progress=False)
    return before.obsm["X_scflow"].astype(np.float64), before.obs["scflow_growth"].to_numpy()
