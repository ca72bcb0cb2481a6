"""The protocol: every value beside its floor and the trivial generator, on the same cells, at the same size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError
from scflow.metrics.catalogue import DEFAULT, METRICS, known, meaningful
from scflow.metrics.estimate import Estimate, average
from scflow.metrics.halves import Halves, halve, set_aside
from scflow.metrics.sides import EVERYTHING, Cells, Setting, Training
from scflow.metrics.space import Space
from scflow.metrics.trivial import poisson_cells

__all__ = ["Clouds", "Row", "clouds_of", "judge", "rows_of", "trivial"]

Compared = dict[str, dict[str, dict[str, Estimate]]]
"""Metric -> "value", "floor" or "trivial" -> condition -> estimate."""


class Row(NamedTuple):
    """One metric in one condition.

    Attributes
    ----------
    condition
        A category, or "all".
    metric
        A name out of `METRICS`.
    value
        Generated cells against held-out real ones.
    floor
        Other held-out real cells against the same ones: what a perfect generator scores.
    trivial
        The trivial generator against the same ones: what has to be beaten.
    distance
        ``value - floor``.
    ratio
        ``value / floor``; NaN where that means nothing.
    low, high
        95 % interval of the value.
    """

    condition: str
    metric: str
    value: float
    floor: float
    trivial: float
    distance: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Clouds:
    """Counts of the three clouds and the category of each of their cells."""

    real: sparse.csr_matrix
    generated: sparse.csr_matrix
    reference: sparse.csr_matrix
    real_labels: NDArray[np.str_]
    generated_labels: NDArray[np.str_]
    reference_labels: NDArray[np.str_]


def judge(
    real: sparse.csr_matrix,
    generated: sparse.csr_matrix,
    reference: sparse.csr_matrix | None = None,
    *,
    real_labels: NDArray[Any] | None = None,
    generated_labels: NDArray[Any] | None = None,
    reference_labels: NDArray[Any] | None = None,
    metrics: str | Sequence[str] = DEFAULT,
    n_genes: int = 2000,
    n_components: int = 50,
    max_cells: int = 5000,
    seed: int = 0,
) -> list[Row]:
    """Score generated against held-out real cells by the protocol of :func:`scflow.tl.score`, on arrays.

    Parameters
    ----------
    real, generated, reference
        Raw counts of held-out, generated and training cells, CSR with the same genes in the same order. Without
        `reference`, half of `real` takes its place.
    real_labels, generated_labels, reference_labels
        The category of each cell, for all three or for none. Categories that real and generated cells do not share
        are left out.
    metrics
        "default", one name, or several. Those that compare labels are left out where there are none.
    n_genes, n_components
        Of the space.
    max_cells
        At most so many cells a side.
    seed
        The same seed gives the same rows.

    Returns
    -------
    list of Row
        For all cells, and for each category with at least 20 cells a side.

    Raises
    ------
    InputError
        Where shapes do not fit, a metric is not known, or fewer than 20 cells a side are left.
    """
    labelled = real_labels is not None
    names = meaningful(known(list(metrics) if not isinstance(metrics, str) else metrics), labelled)
    clouds = clouds_of(real, generated, reference, (real_labels, generated_labels, reference_labels), seed)
    space = Space.fit(clouds.reference, n_genes, n_components)
    repeats = _repeats(clouds, space, names, max_cells, labelled, seed)
    return rows_of(names, repeats, [name for name in names if METRICS[name].has_ratio])


def clouds_of(
    real: sparse.csr_matrix,
    generated: sparse.csr_matrix,
    reference: sparse.csr_matrix | None,
    labels: Sequence[NDArray[Any] | None],
    seed: int,
) -> Clouds:
    """The three clouds with their labels; without a reference half of the real cells take its place."""
    counts = (real, generated, real if reference is None else reference)
    given = (*labels[:2], labels[0] if reference is None else labels[2])
    clouds = Clouds(*counts, *_as_labels(counts, given))
    if reference is not None:
        return clouds
    aside = set_aside(clouds.real_labels, seed)
    return replace(
        clouds,
        real=real[~aside],
        reference=real[aside],
        real_labels=clouds.real_labels[~aside],
        reference_labels=clouds.real_labels[aside],
    )


def _as_labels(counts: Sequence[sparse.csr_matrix], given: Sequence[NDArray[Any] | None]) -> list[NDArray[np.str_]]:
    """Labels as text, or one category for all."""
    without = [labels is None for labels in given]
    if any(without) and not all(without):
        raise InputError("Labels were given for some of the clouds only. Give them for all of them, or for none.")
    found = []
    for matrix, labels in zip(counts, given, strict=True):
        n = matrix.shape[0]
        text = np.full(n, EVERYTHING) if labels is None else np.asarray(labels).astype(np.str_)
        if text.shape != (n,):
            raise InputError(f"{n} cells have labels of shape {text.shape}; expected one label a cell.")
        if labels is not None and EVERYTHING in text:
            raise InputError(
                f"{int((text == EVERYTHING).sum())} of {n} cells are in a category called {EVERYTHING!r}, which stands "
                "for all cells in the table. Rename it: .cat.rename_categories({'all': 'other'})."
            )
        found.append(text)
    return found


def _repeats(
    clouds: Clouds, space: Space, names: Sequence[str], max_cells: int, labelled: bool, seed: int
) -> Iterator[Compared]:
    """For each random halving: metric -> "value", "floor" or "trivial" -> condition -> estimate.

    Small sets are halved several times, so that the luck of one halving averages out.
    """
    rng = np.random.default_rng(seed)
    labels = clouds.reference_labels if labelled else None
    training = Training.of(clouds.reference, labels, space, seed)
    repeat, left = 0, 1
    while repeat < left:
        halves = halve(clouds.real_labels, clouds.generated_labels, rng, max_cells)
        due = {name: METRICS[name].repeats(len(halves.a)) for name in names}
        left = max(due.values())
        now = [name for name in names if repeat < due[name]]
        yield _compared(clouds, halves, space, training, now, int(rng.integers(2**31)))
        repeat += 1


def _compared(
    clouds: Clouds, halves: Halves, space: Space, training: Training, names: Sequence[str], seed: int
) -> Compared:
    """Every metric on generated cells, on the other half and on the trivial generator, all against the one half."""
    real = Cells.of(clouds.real[halves.a], space)
    others = {
        "value": Cells.of(clouds.generated[halves.generated], space),
        "floor": Cells.of(clouds.real[halves.b], space),
        "trivial": Cells.of(trivial(clouds.reference, clouds.reference_labels, halves.labels, seed), space),
    }
    within = training.labels is not None
    setting = Setting.of(real, others["floor"], halves.labels, training, within=within, seed=seed)
    plain = replace(setting, interval=False)
    return {
        name: {
            role: METRICS[name].measure(cells, real, setting if role == "value" else plain)
            for role, cells in others.items()
        }
        for name in names
    }


def trivial(
    reference: sparse.csr_matrix, labels: NDArray[np.str_], wanted: NDArray[np.str_], seed: int
) -> sparse.csr_matrix:
    """The trivial generator's cells; a category that the reference lacks gets the profile of the whole reference."""
    pooled = ~np.isin(wanted, labels)
    if not pooled.any():
        return poisson_cells(reference, labels, wanted, seed=seed)
    everywhere = np.full(len(labels), EVERYTHING)
    blocks = [poisson_cells(reference, everywhere, np.full(int(pooled.sum()), EVERYTHING), seed=seed)]
    if not pooled.all():
        blocks.append(poisson_cells(reference, labels, wanted[~pooled], seed=seed + 1))
    order = np.concatenate([np.flatnonzero(pooled), np.flatnonzero(~pooled)])
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")[np.argsort(order)])


def rows_of(names: Sequence[str], repeats: Iterable[Compared], has_ratio: Collection[str]) -> list[Row]:
    """Repeats averaged, condition by condition and metric by metric; `has_ratio` names metrics with a ratio."""
    found: dict[tuple[str, str, str], list[Estimate]] = {}
    for repeat in repeats:
        for metric, roles in repeat.items():
            for role, conditions in roles.items():
                for condition, estimate in conditions.items():
                    found.setdefault((condition, metric, role), []).append(estimate)
    rows = []
    for condition in dict.fromkeys(key[0] for key in found):
        for metric in names:
            value, floor, bad = (
                average(found.get((condition, metric, role), [])) for role in ("value", "floor", "trivial")
            )
            ratio = value.value / floor.value if metric in has_ratio and floor.value > 0 else np.nan
            distance = value.value - floor.value
            rows.append(Row(condition, metric, value.value, floor.value, bad.value, distance, ratio, *value[1:]))
    return rows
