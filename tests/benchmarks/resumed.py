"""A table that is written as it grows, so that a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd


def read(out: Path | None, columns: Sequence[str]) -> pd.DataFrame:
    """What an earlier run has left; without any an empty table of these columns."""
    if out is None or not out.is_file():
        return pd.DataFrame(columns=list(columns))
    table = pd.read_csv(out, keep_default_na=False, na_values=[""])  # "none" is a variant.
    if list(table.columns) != list(columns):
        raise SystemExit(f"{out} has other columns than this script writes. Name another file: --out new.csv.")
    return table


def done(table: pd.DataFrame, key: Sequence[str]) -> set[tuple[Any, ...]]:
    """The keys of all rows of a table."""
    return set(table[list(key)].itertuples(index=False, name=None))
