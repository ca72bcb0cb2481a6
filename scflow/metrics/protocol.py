"""The protocol: every value beside its floor and the trivial generator, on the same cells, at the same size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError, listed
from scflow.metrics.catalogue import DEFAULT, METRICS, MIN_CELLS, Cells, Setting, known
from scflow.metrics.estimate import Estimate, average
from scflow.metrics.kernels import median_distance
from scflow.metrics.space import Space
from scflow.metrics.trivial import poisson_cells

__all__ = ["Row", "judge", "set_aside"]

EVERYTHING = "all"
"""The condition that stands for all cells."""


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
class _Sides:
    """Rows of real (two halves) and of generated cells, aligned: row i has the same category on every side."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    generated: NDArray[np.int64]
    labels: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class _Clouds:
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
        "default", one name, or several.
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
    names = known(list(metrics) if not isinstance(metrics, str) else metrics)
    rng = np.random.default_rng(seed)
    given = (real_labels, generated_labels, reference_labels if reference is not None else real_labels)
    counts = (real, generated, real if reference is None else reference)
    clouds = _Clouds(*counts, *_as_labels(counts, given))
    if reference is None:
        aside = set_aside(clouds.real_labels, seed)
        clouds = replace(
            clouds,
            real=real[~aside],
            reference=real[aside],
            real_labels=clouds.real_labels[~aside],
            reference_labels=clouds.real_labels[aside],
        )
    space = Space.fit(clouds.reference, n_genes, n_components)
    repeats = _repeats(clouds, space, names, max_cells, real_labels is not None, rng)
    return _rows(names, repeats)


def set_aside(labels: NDArray[Any], seed: int = 0) -> NDArray[np.bool_]:
    """True for a random half of the cells, of every category alike."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(np.unique(labels, return_inverse=True)[1][order], kind="stable")]
    aside = np.zeros(len(labels), dtype=np.bool_)
    aside[order[::2]] = True
    return aside


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


def _halve(clouds: _Clouds, max_cells: int, rng: np.random.Generator) -> _Sides:
    """Cut the real cells of each category in two at random, and draw as many generated ones."""
    parts: list[list[NDArray[np.int64]]] = []
    labels: list[NDArray[np.str_]] = []
    for label in np.unique(clouds.real_labels):
        real = rng.permutation(np.flatnonzero(clouds.real_labels == label))
        generated = rng.permutation(np.flatnonzero(clouds.generated_labels == label))
        n = min(len(real) // 2, len(generated))
        parts.append([real[:n], real[n : 2 * n], generated[:n]])
        labels.append(np.full(n, label))
    n = sum(map(len, labels))
    if n < MIN_CELLS:
        raise InputError(
            f"{len(clouds.real_labels)} held-out real cells in two halves and {len(clouds.generated_labels)} generated "
            f"cells leave {n} cells a side of the same conditions (real: {listed(np.unique(clouds.real_labels))}; "
            f"generated: {listed(np.unique(clouds.generated_labels))}). Expected at least {MIN_CELLS}: hold out and "
            "generate more cells, or compare them as one with condition=None."
        )
    # One order for all sides, so that the first cells are a fair sample.
    order = rng.permutation(n)[:max_cells]
    a, b, drawn = (np.concatenate([part[side] for part in parts])[order] for side in range(3))
    return _Sides(a, b, drawn, np.concatenate(labels)[order])


def _repeats(
    clouds: _Clouds, space: Space, names: Sequence[str], max_cells: int, labelled: bool, rng: np.random.Generator
) -> Iterator[dict[str, dict[str, dict[str, Estimate]]]]:
    """For each random halving: metric -> "value", "floor" or "trivial" -> condition -> estimate.

    Small sets are halved several times, so that the luck of one halving averages out.
    """
    repeat, left = 0, 1
    while repeat < left:
        sides = _halve(clouds, max_cells, rng)
        due = {name: METRICS[name].repeats(len(sides.a)) for name in names}
        left = max(due.values())
        yield _compared(clouds, sides, space, [n for n in names if repeat < due[n]], labelled, int(rng.integers(2**31)))
        repeat += 1


def _compared(
    clouds: _Clouds, sides: _Sides, space: Space, names: Sequence[str], labelled: bool, seed: int
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Every metric on generated cells, on the other half and on the trivial generator, all against the one half."""
    real = Cells.of(clouds.real[sides.a], space)
    others = {
        "value": Cells.of(clouds.generated[sides.generated], space),
        "floor": Cells.of(clouds.real[sides.b], space),
        "trivial": Cells.of(_trivial(clouds, sides.labels, seed), space),
    }
    conditions = {EVERYTHING: np.arange(len(sides.labels))}
    for label in np.unique(sides.labels) if labelled else ():
        rows = np.flatnonzero(sides.labels == label)
        if len(rows) >= MIN_CELLS:
            conditions[str(label)] = rows
    bandwidths = {
        name: median_distance(real.components[rows], others["floor"].components[rows], seed=seed)
        for name, rows in conditions.items()
    }
    setting = Setting(conditions, sides.labels, bandwidths, seed)
    plain = replace(setting, interval=False)
    return {
        name: {
            role: METRICS[name].measure(cells, real, setting if role == "value" else plain)
            for role, cells in others.items()
        }
        for name in names
    }


def _trivial(clouds: _Clouds, wanted: NDArray[np.str_], seed: int) -> sparse.csr_matrix:
    """The trivial generator's cells; a category that the reference lacks gets the profile of the whole reference."""
    pooled = ~np.isin(wanted, clouds.reference_labels)
    if not pooled.any():
        return poisson_cells(clouds.reference, clouds.reference_labels, wanted, seed=seed)
    everywhere = np.full(len(clouds.reference_labels), EVERYTHING)
    blocks = [poisson_cells(clouds.reference, everywhere, np.full(int(pooled.sum()), EVERYTHING), seed=seed)]
    if not pooled.all():
        blocks.append(poisson_cells(clouds.reference, clouds.reference_labels, wanted[~pooled], seed=seed + 1))
    order = np.concatenate([np.flatnonzero(pooled), np.flatnonzero(~pooled)])
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")[np.argsort(order)])


def _rows(names: Sequence[str], repeats: Iterator[dict[str, dict[str, dict[str, Estimate]]]]) -> list[Row]:
    """Repeats averaged, condition by condition and metric by metric."""
    found: dict[tuple[str, str, str], list[Estimate]] = {}
    for repeat in repeats:
        for metric, roles in repeat.items():
            for role, conditions in roles.items():
                for condition, estimate in conditions.items():
                    found.setdefault((condition, metric, role), []).append(estimate)
    rows = []
    for condition in dict.fromkeys(key[0] for key in found):
        for metric in names:
            value, floor, trivial = (
                average(found.get((condition, metric, role), [])) for role in ("value", "floor", "trivial")
            )
            ratio = value.value / floor.value if METRICS[metric].has_ratio and floor.value > 0 else np.nan
            distance = value.value - floor.value
            rows.append(Row(condition, metric, value.value, floor.value, trivial.value, distance, ratio, *value[1:]))
    return rows
