"""The sections of a report that hold scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scflow.metrics.rows import Row
from scflow.metrics.sides import EVERYTHING
from scflow.metrics.verdict import findings
from scflow.metrics.words import figure, title
from scflow.tl._page import Markup, details, paragraph, pictures, section, table
from scflow.tl._pictures import drawn

__all__ = ["score_sections"]

_SCALE = (
    "A dot is a figure of the generated cells: at 0 it is what other real cells score (the floor), at 1 what the "
    "trivial generator scores, which draws independent Poisson counts from each condition's mean profile."
)


def score_sections(rows: Sequence[Row]) -> list[Markup]:
    """The scores of all cells, as a picture and a table; and a table a condition, folded."""
    from scflow import pl

    found = pd.DataFrame(rows, columns=list(Row._fields))
    shown = found[found["condition"] == EVERYTHING]
    parts = []
    if len(shown):
        size, alts = (8.8, 1.5 + 0.32 * len(shown)), ["Each figure between its floor and the trivial generator"]
        picture = drawn(lambda ax: pl.score(found, ax=ax), [size], alts)
        parts.append(section("Scores", paragraph(_SCALE, "soft"), pictures(picture), _table(rows, EVERYTHING)))
    names = [name for name in dict.fromkeys(row.condition for row in rows) if name != EVERYTHING]
    if names:
        parts.append(section("Scores by condition", *(details(_off(rows, n), _table(rows, n)) for n in names)))
    return parts


def _off(rows: Sequence[Row], condition: str) -> str:
    mine = findings([row for row in rows if row.condition == condition])
    off = sum(one.symptom is not None and not one.slight for one in mine)
    return f"{condition}: {off} of {len(mine)} figures off the floor"


def _table(rows: Sequence[Row], condition: str) -> Markup:
    """The figures of one condition, each with what is to be thought of it."""
    mine = [row for row in rows if row.condition == condition]
    judged = {one.row.metric: one for one in findings(mine)}
    lines, kinds = [], []
    for row in mine:
        one = judged.get(row.metric)
        if one is None:  # A p-value, or no number.
            word, kind = "–", "close"
        elif one.symptom is None:
            word, kind = "at the floor", "good"
        else:
            word, kind = ("close", "close") if one.slight else ("off", "bad")
        interval = f"{figure(row.low)} to {figure(row.high)}" if np.isfinite([row.low, row.high]).all() else "–"
        lines.append([title(row.metric), word, *map(figure, (row.value, row.floor, row.trivial)), interval])
        kinds.append(kind)
    return table(("metric", "", "value", "floor", "trivial", "95 % interval"), lines, kinds)
