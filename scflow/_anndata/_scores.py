"""The table of scores, out of whatever holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scflow import _keys
from scflow._anndata._checks import checked
from scflow.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["read_scores"]

_COLUMNS = ("condition", "metric", "value", "floor", "trivial", "low", "high")


def read_scores(scores: pd.DataFrame | AnnData | Any) -> pd.DataFrame:
    """The table that :func:`scflow.tl.score` returned, or left in generated cells: not a copy.

    Raises
    ------
    InputError
        Where there is no table, it lacks columns, or it has no rows.
    """
    if isinstance(scores, pd.DataFrame):
        table = scores
    else:
        adata = checked(scores, name="scores")
        if _keys.SCORE not in adata.uns:
            raise InputError(
                f"scores.uns has no {_keys.SCORE!r}: these cells were not scored. Score them first: "
                "scflow.tl.score(real, generated, reference=train)."
            )
        table = adata.uns[_keys.SCORE]
        if not isinstance(table, pd.DataFrame):
            raise InputError(f"scores.uns[{_keys.SCORE!r}] is a {type(table).__name__}; expected a table of scores.")
    missing = [column for column in _COLUMNS if column not in table]
    if missing or table.empty:
        raise InputError(
            f"The table has {len(table)} rows and lacks {len(missing)} of {len(_COLUMNS)} columns"
            f"{f' ({listed(missing)})' if missing else ''}. Expected what scflow.tl.score returns."
        )
    return table
