"""How far conditions that are vectors move cells on average, found before a field is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scflow.codecs.base import design, design_width
from scflow.matching import Shift

__all__ = ["fit_shift"]

_PRIOR = 1.0
"""How many cells' worth of evidence there is beforehand that an entry of a vector moves nothing."""


def fit_shift(
    condition: Tensor, cardinalities: Sequence[int], vectors: Sequence[int], moved: Tensor, origin: Tensor | None = None
) -> Shift:
    """The linear map from vectors to moves, by ridge regression with a constant and beside all other conditions.

    Parameters
    ----------
    condition
        What cells are told, ``[n, n_columns]``; those with a NaN are left out.
    cardinalities
        Number of categories of each column.
    vectors
        The columns that hold vectors.
    moved
        Where cells are, or how far they are from where they came, ``[n, dim]``.
    origin
        The vector of cells that do not move, ``[len(vectors)]``, in the place of the constant and other conditions: of
        the source population, where that is known.
    """
    kept = ~condition.isnan().any(1)
    told, moved = condition[kept].double(), moved[kept].double()
    if origin is not None:
        columns, moved = told[:, list(vectors)] - origin.double(), moved
        places = list(range(len(vectors)))
    else:
        columns = design(told, cardinalities, len(told), told.device).double()
        columns, moved = columns - columns.mean(0), moved - moved.mean(0)
        places = [design_width(cardinalities[:j]) for j in vectors]
    squares = columns.T @ columns + _PRIOR * torch.eye(columns.shape[1], dtype=torch.float64, device=columns.device)
    weight = moved.new_zeros(condition.shape[1], moved.shape[1])
    weight[list(vectors)] = torch.linalg.solve(squares, columns.T @ moved)[places]
    return Shift(weight)
