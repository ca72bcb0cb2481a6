"""One set of held-out cells, halved once, that any number of sets of generated cells are measured by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.catalogue import METRICS, meaningful
from scflow.metrics.estimate import Estimate, average
from scflow.metrics.halves import Halves, halve
from scflow.metrics.rows import Compared, Figures, Row, rows_of
from scflow.metrics.sides import EVERYTHING, Cells, Setting, Training
from scflow.metrics.space import Space
from scflow.metrics.trivial import trivial

__all__ = ["MOST_CELLS", "Deal", "Yardstick"]

Deal = Callable[[Sequence[Callable[[], Any]]], Iterable[Any]]
"""Tasks in, what comes of them out."""

MOST_CELLS = 5000
"""The most cells a side of a score."""


@dataclass(frozen=True, eq=False)
class _Half:
    """The real cells of one half, those of the other, and which generated ones stand against the first.

    Row i of all three has the same label. `due` are the metrics that this halving is for.
    """

    real: Cells
    other: Cells
    rows: NDArray[np.int64]
    setting: Setting
    due: tuple[str, ...]

    def figures(self, cells: Cells, *, interval: bool) -> Figures:
        """Every metric that is due on some cells against those of the half."""
        return {name: self.figure(name, cells, interval=interval) for name in self.due}

    def figure(self, name: str, cells: Cells, *, interval: bool) -> dict[str, Estimate]:
        """One metric, for each condition."""
        return METRICS[name].measure(cells, self.real, replace(self.setting, interval=interval))


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Held-out cells in halves: generated cells are compared with the one half, the other half gives the floor.

    Whatever does not depend on the generated cells is computed once, when it is first asked for: the floor, the trivial
    generator's figures, and what metrics keep of real and training cells. All random numbers are made from `seed` and
    the number of the halving, so a set of cells gets the same figures from a new yardstick as from a used one.
    :func:`scflow.metrics.judge` makes one for one set of cells.

    Attributes
    ----------
    names
        The metrics.
    space
        Of the reference cells.
    training
        The reference cells.
    halves
        The halvings. Small sets are halved several times, so that the luck of one halving averages out.
    n_generated
        How many cells a generated set has.

    Examples
    --------
    >>> import numpy as np
    >>> real, reference, *several = np.random.default_rng(0).poisson(2.0, size=(4, 60, 30))
    >>> yardstick = Yardstick.of(sparse.csr_matrix(real), sparse.csr_matrix(reference), ["gene_means"])
    >>> found = [yardstick.measure(sparse.csr_matrix(cells))["gene_means"] for cells in several]
    >>> bool(found[0].value < 2 * yardstick.floor["gene_means"].value)
    True
    """

    names: tuple[str, ...]
    space: Space
    training: Training
    halves: Sequence[_Half]
    n_generated: int

    @classmethod
    def of(
        cls,
        real: sparse.csr_matrix,
        reference: sparse.csr_matrix,
        metrics: Sequence[str],
        *,
        labels: NDArray[np.str_] | None = None,
        reference_labels: NDArray[np.str_] | None = None,
        generated_labels: NDArray[np.str_] | None = None,
        within: bool = False,
        n_genes: int = 2000,
        n_components: int = 50,
        max_cells: int | None = None,
        seed: int = 0,
    ) -> Yardstick:
        """From raw counts of held-out cells ``[n, n_genes]`` and of training cells, with the same genes.

        Parameters
        ----------
        metrics
            Names out of `METRICS`. Those that compare labels are left out unless both kinds of cells have them.
        labels, reference_labels
            The category of each held-out cell ``[n]`` and of each training cell; every category is halved.
        generated_labels
            The category of each cell of every set that is to be measured. Without them there is one generated cell for
            each held-out one, of its category.
        within
            Whether to compare within each category of at least 20 cells a side as well.
        n_genes, n_components
            Of the space.
        max_cells
            At most so many cells a side.
        seed
            Of the halves, and of whatever is random in a metric.

        Raises
        ------
        InputError
            Where fewer than 20 cells a side are left.
        """
        names = meaningful(tuple(metrics), labels is not None and reference_labels is not None)
        space = Space.fit(reference, n_genes, n_components)
        training = Training.of(reference, reference_labels, space, seed)
        strata = np.full(real.shape[0], EVERYTHING) if labels is None else labels
        halves = []
        for rows, due, of_half in _halvings(strata, generated_labels, names, max_cells, seed):
            side, other = Cells.of(real[rows.a], space), Cells.of(real[rows.b], space)
            setting = Setting.of(side, other, rows.labels, training, within=within, seed=of_half)
            halves.append(_Half(side, other, rows.generated, setting, due))
        n_generated = len(strata if generated_labels is None else generated_labels)
        return cls(names, space, training, halves, n_generated)

    @cached_property
    def floor(self) -> dict[str, Estimate]:
        """What the other half of the real cells scores, by metric; with intervals, as what is measured."""
        return self._overall([half.figures(half.other, interval=True) for half in self.halves])

    def measure(self, generated: sparse.csr_matrix) -> dict[str, Estimate]:
        """The metrics of generated cells ``[n_generated, n_genes]`` over all of them.

        Raises
        ------
        InputError
            Where there are more or fewer of them.
        """
        return self._overall(self._values(generated))

    def rows(self, generated: sparse.csr_matrix | None = None, *, deal: Deal | None = None) -> list[Row]:
        """The table of :func:`scflow.metrics.judge` for generated cells ``[n_generated, n_genes]``.

        Without cells their figures are NaN, and the floor and the trivial generator's stand alone. `deal` has the
        single figures made, each by whoever's turn it is, and gives all of them in order.

        Raises
        ------
        InputError
            Where there are more or fewer of them.
        """
        if deal is not None:
            found = self._dealt(generated, deal)
        else:
            found = {"floor": self._floors, "trivial": self._trivials}
            if generated is not None:
                found["value"] = self._values(generated)
        repeats: list[Compared] = [{role: of[i] for role, of in found.items()} for i in range(len(self.halves))]
        return rows_of(self.names, repeats, [name for name in self.names if METRICS[name].has_ratio])

    def _dealt(self, generated: sparse.csr_matrix | None, deal: Deal) -> dict[str, list[Figures]]:
        """The figures of each side, for each halving; those of one metric, which cost alike, follow one another."""
        sides = {"floor": [half.other for half in self.halves], "trivial": self._trivial_cells()}
        if generated is not None:
            sides["value"] = self._generated_cells(generated)
        asked = [
            (role, i, name)
            for name in self.names
            for role in sides
            for i, half in enumerate(self.halves)
            if name in half.due
        ]
        tasks = [
            partial(self.halves[i].figure, name, sides[role][i], interval=role == "value") for role, i, name in asked
        ]
        found: dict[str, list[Figures]] = {role: [{} for _ in self.halves] for role in sides}
        for (role, i, name), figure in zip(asked, deal(tasks), strict=True):
            found[role][i][name] = figure
        return found

    def _values(self, generated: sparse.csr_matrix) -> list[Figures]:
        """Of generated cells, for each halving."""
        cells = self._generated_cells(generated)
        return [half.figures(own, interval=True) for half, own in zip(self.halves, cells, strict=True)]

    def _generated_cells(self, generated: sparse.csr_matrix) -> list[Cells]:
        """Those that are compared, for each halving."""
        if generated.shape[0] != self.n_generated:
            raise InputError(
                f"There are {generated.shape[0]} generated cells, and this yardstick was made for {self.n_generated}: "
                "row i stands for one category. Draw one cell for each of them, in their order."
            )
        return [Cells.of(generated[half.rows], self.space) for half in self.halves]

    @cached_property
    def _floors(self) -> list[Figures]:
        """Of the other halves, for each halving; a table has no intervals of them."""
        return [half.figures(half.other, interval=False) for half in self.halves]

    @cached_property
    def _trivials(self) -> list[Figures]:
        """Of the trivial generator's cells, for each halving."""
        cells = self._trivial_cells()
        return [half.figures(own, interval=False) for half, own in zip(self.halves, cells, strict=True)]

    def _trivial_cells(self) -> list[Cells]:
        """As many as the others, of the same categories, for each halving."""
        counts, labels = self.training.counts, self.training.labels
        known = np.full(counts.shape[0], EVERYTHING) if labels is None else labels
        settings = [half.setting for half in self.halves]
        return [Cells.of(trivial(counts, known, s.strata, s.seed), self.space) for s in settings]

    def _overall(self, repeats: Iterable[Figures]) -> dict[str, Estimate]:
        """The figures of all cells, averaged over the halvings."""
        repeats = list(repeats)
        return {name: average([found[name][EVERYTHING] for found in repeats if name in found]) for name in self.names}


def _halvings(
    real: NDArray[np.str_],
    generated: NDArray[np.str_] | None,
    names: Sequence[str],
    max_cells: int | None,
    seed: int,
) -> Iterator[tuple[Halves, tuple[str, ...], int]]:
    """Random halvings, the metrics that are due on each, and its seed: as many as the metric that asks for most."""
    rng = np.random.default_rng(seed)
    repeat, left = 0, 1
    while repeat < left:
        halves = halve(real, generated, rng, max_cells)
        repeats = {name: METRICS[name].repeats(len(halves.a)) for name in names}
        left = max(repeats.values())
        yield halves, tuple(name for name in names if repeat < repeats[name]), int(rng.integers(2**31))
        repeat += 1
