"""The table of scores as text that reads well in a terminal, and is Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table_of", "tables_of"]

_HEADER = ("metric", "value", "95 % interval", "floor", "trivial", "ratio")


def tables_of(scores: pd.DataFrame) -> str:
    """One table a condition, each under its name."""
    names = list(dict.fromkeys(scores["condition"].astype(str)))
    if len(names) == 1:
        return table_of(scores, names[0])
    return "\n\n".join(f"{_heading(name)}\n\n{table_of(scores, name)}" for name in names)


def table_of(scores: pd.DataFrame, condition: str = "all") -> str:
    """The rows of one condition."""
    rows = scores[scores["condition"].astype(str) == condition]
    columns = [rows[name].tolist() for name in ("metric", "value", "low", "high", "floor", "trivial", "ratio")]
    cells = [
        (str(metric), _number(value), _interval(low, high), _number(floor), _number(trivial), _ratio(ratio))
        for metric, value, low, high, floor, trivial, ratio in zip(*columns, strict=True)
    ]
    return _markdown([_HEADER, *cells])


def _heading(name: str) -> str:
    return "All cells" if name == "all" else name


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as an aligned Markdown table, the first one its header; numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        first, *rest = (
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("| " + " | ".join((first, *rest)) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Three decimals, more where they would say nothing and fewer where they say too much."""
    if not math.isfinite(value):
        return ""
    size = abs(value)
    text = f"{value:.{4 if 0 < size < 0.01 else 3 if size < 1 else 2}f}"
    # Rounded to nothing, a number has lost its sign.
    return text if float(text) else text.removeprefix("-")


def _interval(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}" if math.isfinite(low) and math.isfinite(high) else ""


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""
