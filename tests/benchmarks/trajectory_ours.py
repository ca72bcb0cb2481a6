"""One flow through all time points of a course: what `trajectory.py` measures as scflow, by its public verbs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor, nn

import scflow

__all__ = ["ours"]

WIDTH = 64

Array = NDArray[np.float64]


class Network(nn.Module):
    """Three hidden layers of the state and the number of the time point, as that of the rivals."""

    def __init__(self, dim: int, n_intervals: int, seed: int) -> None:
        super().__init__()
        self.n_intervals = n_intervals
        sizes = [dim + 1, WIDTH, WIDTH, WIDTH]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SELU())]
            self.layers = nn.Sequential(*layers, nn.Linear(WIDTH, dim))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The flow's time runs from 1 at the first time point to 0 at the last."""
        velocity: Tensor = self.layers(torch.cat([x, self.n_intervals * (1 - t[:, None])], 1))
        return velocity


def ours(
    cells: Sequence[Array], times: Sequence[float], start: int, at: float, seed: int, steps: int, *, own: bool = False
) -> tuple[Array, Array]:
    """The cells of time point `start` carried to the time `at`, and how much each counts there.

    Parameters
    ----------
    cells
        Whitened coordinates of the cells of each time point, ``[n_cells, n_coordinates]``, in order.
    times
        The time of each.
    own
        Train the network that scflow has by default, and not that of the rivals.
    """
    when = np.repeat(times, [len(x) for x in cells])
    obs = pd.DataFrame({"time": when}, index=[str(i) for i in range(len(when))])
    adata = AnnData(obs=obs, obsm={"X_white": np.vstack(cells).astype(np.float32)})
    network = "mlp" if own else Network(cells[0].shape[1], len(cells) - 1, seed)
    options = {"use_rep": "X_white", "steps": steps, "seed": seed, "progress": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The flow is returned, but not kept")
        flow = scflow.tl.train(adata, course="time", field=network, **options)
    before = adata[adata.obs["time"] == times[start]].copy()
    scflow.tl.transport(before, flow, to=at, progress=False)
    return before.obsm["X_scflow"].astype(np.float64), before.obs["scflow_growth"].to_numpy()
