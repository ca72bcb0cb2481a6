"""A table that is written as it grows, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd


def read(out: Path | None, columns: Sequence[str]) -> pd.DataFrame:
    """What an earlier run has left; without any an empty table of these columns."""
    if out is None or not out.is_file():
        return pd.DataFrame(columns=list(columns))
    # "none" is a variant; and without "round_trip" a number's last bit would change each time it is read.
    table = pd.read_csv(out, keep_default_na=False, na_values=[""], float_precision="round_trip")
    if list(table.columns) != list(columns):
        raise SystemExit(f"{out} has other columns than this script writes. Name another file: --out new.csv.")
    return table


def write(table: pd.DataFrame, out: Path) -> None:
    """Put a table in the file's place at once, so that a run that is killed leaves the old one or the new one."""
    beside = out.with_name(f"{out.name}.part")
    table.to_csv(beside, index=False)
    os.replace(beside, out)


def tell(table: pd.DataFrame, markdown: Callable[[pd.DataFrame], str], out: Path | None) -> bool:
    """Print what was measured, and write it beside the file as .md; False where nothing was."""
    if table.empty:
        print("Nothing was measured.")
        return False
    text = markdown(table)
    print("\n" + text)
    if out is not None:
        out.with_suffix(".md").write_text(text, encoding="utf-8")
    return True


def done(table: pd.DataFrame, key: Sequence[str]) -> set[tuple[Any, ...]]:
    """The keys of all rows of a table."""
    return set(table[list(key)].itertuples(index=False, name=None))
