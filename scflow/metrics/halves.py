"""Real cells in two halves of the same composition, and as many generated cells beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scflow.errors import InputError, listed
from scflow.metrics.sides import MIN_CELLS

__all__ = ["Halves", "halve", "set_aside"]


class Halves(NamedTuple):
    """Rows of real and of generated cells, aligned: row i has the same category on every side.

    Attributes
    ----------
    a, b
        Rows of the real cells: the half that everything is compared with, and the one that gives the floor.
    generated
        Rows of the generated cells.
    labels
        The category of each row.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    generated: NDArray[np.int64]
    labels: NDArray[np.str_]


def halve(
    real: NDArray[np.str_],
    generated: NDArray[np.str_] | None,
    rng: np.random.Generator,
    max_cells: int | None = None,
) -> Halves:
    """Cut the real cells of each category in two at random, and draw as many generated ones.

    Parameters
    ----------
    real, generated
        The category of each cell. Without `generated` there is to be one generated cell for each real one, and those
        that stand for the second half are taken.
    max_cells
        The most cells a side.

    Raises
    ------
    InputError
        Where fewer than 20 cells a side are left.
    """
    parts: list[list[NDArray[np.int64]]] = []
    labels: list[NDArray[np.str_]] = []
    for label in np.unique(real):
        rows = rng.permutation(np.flatnonzero(real == label))
        n = len(rows) // 2
        drawn = rows[n : 2 * n]
        if generated is not None:
            found = rng.permutation(np.flatnonzero(generated == label))
            n = min(n, len(found))
            drawn = found[:n]
        parts.append([rows[:n], rows[n : 2 * n], drawn])
        labels.append(np.full(n, label))
    n = sum(map(len, labels))
    if n < MIN_CELLS:
        raise InputError(_too_few(n, real, generated))
    # One order for all sides, so that the first cells are a fair sample.
    order = rng.permutation(n)[:max_cells]
    a, b, drawn = (np.concatenate([part[side] for part in parts])[order] for side in range(3))
    return Halves(a, b, drawn, np.concatenate(labels)[order])


def set_aside(labels: NDArray[Any], seed: int = 0) -> NDArray[np.bool_]:
    """True for a random half of the cells, of every category alike.

    Examples
    --------
    >>> import numpy as np
    >>> half = set_aside(np.repeat(["a", "b"], 10))
    >>> int(half[:10].sum()), int(half[10:].sum())
    (5, 5)
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(np.unique(labels, return_inverse=True)[1][order], kind="stable")]
    aside = np.zeros(len(labels), dtype=np.bool_)
    aside[order[::2]] = True
    return aside


def _too_few(n: int, real: NDArray[np.str_], generated: NDArray[np.str_] | None) -> str:
    """What is wrong with `n` cells a side, and what mends it."""
    if generated is None:
        return (
            f"{len(real)} held-out cells leave {n} a side; expected at least {MIN_CELLS}. Hold out more: "
            "scflow.pp.split(adata, test_size=0.5)."
        )
    labelled = len(np.unique(real)) > 1 or len(np.unique(generated)) > 1
    mended = "hold out and generate more cells" + ", or compare them as one with condition=None" * labelled
    return (
        f"{len(real)} held-out real cells in two halves and {len(generated)} generated cells leave {n} cells a side of "
        f"the same conditions (real: {listed(np.unique(real))}; generated: {listed(np.unique(generated))}). Expected "
        f"at least {MIN_CELLS}: {mended}."
    )
