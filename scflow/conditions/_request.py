"""The conditions that a person asks for, as one row a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow.conditions._columns import Categorical, Column
from scflow.conditions._embedded import Embedded
from scflow.errors import InputError, listed, nearest

__all__ = ["by_name", "draw_table", "spans", "systematic"]


def spans(columns: Sequence[Column]) -> list[slice]:
    """Where each condition stands in the tensor."""
    ends = np.cumsum([column.width for column in columns], dtype=np.int64).tolist()
    return [slice(end - column.width, end) for column, end in zip(columns, ends, strict=True)]


def systematic(codes: NDArray[np.float32], n_draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of `codes` `[n, k]`, drawn so that each distinct row gets its share rounded up or down, in random order.

    Systematic resampling (Kitagawa 1996): equal rows are laid side by side, and one grid with a random start is laid
    over all of them. Sorting also spreads the draws evenly over continuous columns.
    """
    order = rng.permutation(len(codes))
    order = order[np.lexsort(codes[order].T[::-1])]
    grid = (np.arange(n_draws) + rng.random()) * (len(codes) / n_draws)
    picks = order[np.minimum(grid.astype(np.int64), len(codes) - 1)]
    return rng.permutation(picks).astype(np.int64)


def draw_table(
    columns: Sequence[Column], request: Any, n_obs: int, training: Tensor, rng: np.random.Generator
) -> Tensor:
    """See :meth:`scflow.conditions.Conditions.table`."""
    known = training.detach().cpu().numpy().astype(np.float32)
    if not columns:
        _check_unconditional(request)
        return torch.zeros((n_obs, 0))
    named = {} if request is None else _encoded(columns, request, n_obs)
    places = [list(range(span.start, span.stop)) for span in spans(columns)]
    codes = np.full((n_obs, sum(map(len, places))), np.nan, dtype=np.float32)
    for i, values in named.items():
        codes[:, places[i]] = values
    rest = [j for i, own in enumerate(places) if i not in named for j in own]
    if rest:
        matched = [[j for i in agree for j in places[i]] for agree in _matches(columns, list(named))]
        _fill(codes, rest, matched, known, rng)
    return torch.from_numpy(codes)


def _check_unconditional(request: Any) -> None:
    """Raise where conditions are asked of a flow that has none."""
    if request is None or (isinstance(request, (Mapping, pd.DataFrame)) and len(list(request)) == 0):
        return
    asked = f" ({listed(request)})" if isinstance(request, (Mapping, pd.DataFrame)) else ""
    raise InputError(
        f"This flow was trained without conditions, so none can be asked for{asked}. Leave condition=None, or train "
        "with scflow.tl.train(adata, condition='cell_type')."
    )


def _encoded(columns: Sequence[Column], request: Any, n_obs: int) -> dict[int, NDArray[np.float64]]:
    """The codes of the conditions that `request` names, by the condition's place."""
    places = {column.name: i for i, column in enumerate(columns)}
    named = by_name(request, list(places))
    unknown = [str(name) for name in named if name not in places]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(named)} names asked for are no conditions of this flow ({listed(unknown)})."
            f"{nearest(unknown[0], places)} It was trained with {listed(places)}: ask for those, such as "
            f"condition={{{next(iter(places))!r}: ...}}."
        )
    return {places[name]: _values(columns[places[name]], asked, n_obs) for name, asked in named.items()}


def by_name(request: Any, names: list[str]) -> dict[Any, Any]:
    """`request` as a mapping from names to values."""
    if isinstance(request, (Mapping, pd.DataFrame)):
        return {name: request[name] for name in request}
    if len(names) > 1:
        raise InputError(
            f"This flow has {len(names)} conditions ({listed(names)}), and a {type(request).__name__} does not say "
            f"which is meant. Name it: condition={{{names[0]!r}: ...}}, or give a DataFrame with one row a cell."
        )
    return {names[0]: request}


def _values(column: Column, asked: Any, n_obs: int) -> NDArray[np.float64]:
    """The codes of one condition, `[n_obs, width]`."""
    if asked is None:
        return np.full((n_obs, column.width), np.nan)
    is_list = pd.api.types.is_list_like
    values = list(asked) if is_list(asked) else [asked]
    if any(is_list(value) for value in values):
        raise InputError(
            f"Condition {column.name!r} has several values a cell. Give one value a cell, a sequence of n_obs={n_obs} "
            "of them, or one value for all."
        )
    if is_list(asked) and len(values) != n_obs:
        raise InputError(
            f"Condition {column.name!r} has {len(values)} values for n_obs={n_obs} cells. Give one value a cell "
            f"(n_obs={len(values)}), or one value for all."
        )
    missing = [i for i, value in enumerate(values) if pd.isna(value)]
    if missing:
        raise InputError(
            f"Condition {column.name!r} has no value in {len(missing)} of {len(values)} rows (first: {missing[0]}). "
            f"Give every row a value, or condition={{{column.name!r}: None}} to draw all cells without this condition."
        )
    return np.broadcast_to(column.encode(values).reshape(len(values), column.width), (n_obs, column.width))


def _matches(columns: Sequence[Column], named: list[int]) -> list[list[int]]:
    """What training cells must agree on to be drawn from: all that is named, or its labels, or nothing.

    A combination of parts may be one that no cell had, so there is a step without it.
    """
    kinds = ((Categorical, Embedded), (Categorical,))
    return [named, *([i for i in named if isinstance(columns[i], kind)] for kind in kinds), []]


def _fill(
    codes: NDArray[np.float32],
    rest: list[int],
    matched: Sequence[list[int]],
    training: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Draw the columns `rest` of `codes` from training cells that agree on the first of `matched` that any does."""
    # NaN is not equal to itself, and would make a combination of every row.
    keys = np.nan_to_num(codes[:, matched[0]], nan=-np.inf, neginf=-np.inf)
    which = np.zeros(len(codes), dtype=np.int64)
    if matched[0]:
        which = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    for combination in range(int(which.max(initial=-1)) + 1):
        rows = np.flatnonzero(which == combination)
        asked = codes[rows[0]]
        for agree in matched:
            # None asks for no condition, so it rules out no training cell.
            on = [i for i in agree if not np.isnan(asked[i])]
            pool = training[(training[:, on] == asked[on]).all(axis=1)]
            if len(pool):
                break
        pool = pool[:, rest]
        codes[rows[:, None], rest] = pool[systematic(pool, len(rows), rng)]
