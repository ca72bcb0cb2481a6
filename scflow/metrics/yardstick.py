"""One set of held-out cells, halved once, that many sets of drawn cells are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.catalogue import METRICS, MIN_CELLS, Cells, Setting
from scflow.metrics.estimate import Estimate, average
from scflow.metrics.kernels import median_distance
from scflow.metrics.space import Space

__all__ = ["Yardstick"]

_ALL = "all"


@dataclass(frozen=True, eq=False)
class _Half:
    """The real cells of one half, and which rows stand against them: row i of either has the same label."""

    real: Cells
    rows: NDArray[np.int64]
    setting: Setting
    due: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Held-out cells in halves: drawn cells are compared with the one half, the other half gives the floor.

    The metrics, the space and the numbers of repeats are those of :func:`scflow.metrics.judge`, without the trivial
    generator; what is computed once there for every table is computed once for all here.

    Attributes
    ----------
    space
        Of the reference cells.
    floor
        What the other half of the real cells scores, by metric.
    """

    space: Space
    halves: Sequence[_Half]
    floor: Mapping[str, Estimate]

    @classmethod
    def of(
        cls,
        real: sparse.csr_matrix,
        reference: sparse.csr_matrix,
        metrics: Sequence[str],
        *,
        labels: NDArray[np.str_] | None = None,
        seed: int = 0,
    ) -> Yardstick:
        """From raw counts of held-out cells ``[n, n_genes]`` and of training cells, with the same genes.

        Parameters
        ----------
        metrics
            Names out of `METRICS`.
        labels
            The category of each held-out cell ``[n]``; every category is halved.
        seed
            Of the halves, and of whatever is random in a metric.

        Raises
        ------
        InputError
            Where fewer than 20 cells a side are left.
        """
        rng = np.random.default_rng(seed)
        space = Space.fit(reference)
        labels = np.full(real.shape[0], _ALL) if labels is None else labels
        halves: list[_Half] = []
        floors: dict[str, list[Estimate]] = {name: [] for name in metrics}
        left = 1
        while len(halves) < left:
            a, b = _halved(labels, rng)
            due = {name: METRICS[name].repeats(len(a)) for name in metrics}
            left = max(due.values())
            names = tuple(name for name in metrics if len(halves) < due[name])
            side, other = Cells.of(real[a], space), Cells.of(real[b], space)
            scale = median_distance(side.components, other.components, seed=seed)
            setting = Setting({_ALL: np.arange(len(a))}, labels[a], {_ALL: scale}, int(rng.integers(2**31)))
            halves.append(_Half(side, b, setting, names))
            for name in names:
                floors[name].append(METRICS[name].measure(other, side, setting)[_ALL])
        return cls(space, halves, {name: average(found) for name, found in floors.items()})

    def measure(self, drawn: sparse.csr_matrix) -> dict[str, Estimate]:
        """The metrics of drawn cells ``[n, n_genes]``, one for each held-out cell and under its conditions."""
        found: dict[str, list[Estimate]] = {name: [] for name in self.floor}
        for half in self.halves:
            cells = Cells.of(drawn[half.rows], self.space)
            for name in half.due:
                found[name].append(METRICS[name].measure(cells, half.real, half.setting)[_ALL])
        return {name: average(estimates) for name, estimates in found.items()}


def _halved(labels: NDArray[np.str_], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of two halves at random, of every label alike and in the same order of labels."""
    a, b = [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        n = len(rows) // 2
        a.append(rows[:n])
        b.append(rows[n : 2 * n])
    n = sum(map(len, a))
    if n < MIN_CELLS:
        raise InputError(
            f"{len(labels)} held-out cells leave {n} a side; expected at least {MIN_CELLS}. Hold out more: "
            "scflow.pp.split(adata, test_size=0.5)."
        )
    order = rng.permutation(n)
    return np.concatenate(a)[order], np.concatenate(b)[order]
