"""The table of scores as plain rows."""

from __future__ import annotations

import pandas as pd

from scflow.metrics.rows import Row

__all__ = ["rows_of"]


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The table's rows; columns of other versions are dropped, and those that follow from others are made anew."""
    value, floor = table["value"].astype(float), table["floor"].astype(float)
    full = table.assign(distance=value - floor, ratio=value / floor.where(floor > 0))
    columns = [full[name].tolist() for name in Row._fields]
    return [Row(str(condition), str(metric), *map(float, rest)) for condition, metric, *rest in zip(*columns)]
