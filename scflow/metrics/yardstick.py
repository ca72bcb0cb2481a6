"""One set of held-out cells, halved once, that many sets of drawn cells are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.metrics.catalogue import METRICS, meaningful
from scflow.metrics.estimate import Estimate, average
from scflow.metrics.halves import halve
from scflow.metrics.sides import EVERYTHING, Cells, Setting, Training
from scflow.metrics.space import Space

__all__ = ["Yardstick"]


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
        reference_labels: NDArray[np.str_] | None = None,
        seed: int = 0,
    ) -> Yardstick:
        """From raw counts of held-out cells ``[n, n_genes]`` and of training cells, with the same genes.

        Parameters
        ----------
        metrics
            Names out of `METRICS`. Those that compare labels are left out unless both kinds of cells have them.
        labels, reference_labels
            The category of each held-out cell ``[n]`` and of each training cell; every category is halved.
        seed
            Of the halves, and of whatever is random in a metric.

        Raises
        ------
        InputError
            Where fewer than 20 cells a side are left.
        """
        names = meaningful(tuple(metrics), labels is not None and reference_labels is not None)
        rng = np.random.default_rng(seed)
        space = Space.fit(reference)
        training = Training.of(reference, reference_labels, space, seed)
        strata = np.full(real.shape[0], EVERYTHING) if labels is None else labels
        halves: list[_Half] = []
        floors: dict[str, list[Estimate]] = {name: [] for name in names}
        left = 1
        while len(halves) < left:
            rows = halve(strata, None, rng)
            due = {name: METRICS[name].repeats(len(rows.a)) for name in names}
            left = max(due.values())
            now = tuple(name for name in names if len(halves) < due[name])
            side, other = Cells.of(real[rows.a], space), Cells.of(real[rows.b], space)
            rng_seed = int(rng.integers(2**31))
            setting = Setting.of(side, other, rows.labels, training, within=False, seed=rng_seed)
            halves.append(_Half(side, rows.generated, setting, now))
            for name in now:
                floors[name].append(METRICS[name].measure(other, side, setting)[EVERYTHING])
        return cls(space, halves, {name: average(found) for name, found in floors.items()})

    def measure(self, drawn: sparse.csr_matrix) -> dict[str, Estimate]:
        """The metrics of drawn cells ``[n, n_genes]``, one for each held-out cell and under its conditions."""
        found: dict[str, list[Estimate]] = {name: [] for name in self.floor}
        for half in self.halves:
            cells = Cells.of(drawn[half.rows], self.space)
            for name in half.due:
                found[name].append(METRICS[name].measure(cells, half.real, half.setting)[EVERYTHING])
        return {name: average(estimates) for name, estimates in found.items()}
