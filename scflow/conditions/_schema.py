"""All conditions of a flow, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scflow.conditions._columns import Categorical, Column, Continuous, as_column
from scflow.conditions._request import draw_table
from scflow.errors import InputError, listed, nearest

__all__ = ["Conditions"]


@dataclass(frozen=True)
class Conditions:
    """The columns that a flow is conditioned on, and how they become the tensor that its field reads.

    Attributes
    ----------
    columns
        One a condition, in the order of the tensor's columns; none for a flow without conditions.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"cell_type": ["B", "T", "B"], "age": [30.0, 40.0, 50.0]})
    >>> conditions = Conditions.from_frame(frame)
    >>> conditions.encode(frame)[:, 0]
    tensor([0., 1., 0.])
    >>> conditions.cardinalities
    (2, 0)
    """

    columns: tuple[Column, ...] = ()

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Conditions:
        """The schema of a table with one row a training cell.

        Raises
        ------
        InputError
            Where a column holds neither categories nor numbers.
        """
        columns: list[Column] = []
        for name in frame.columns:
            values = as_column(frame[name], str(name))
            is_labels = isinstance(values.dtype, pd.CategoricalDtype)
            columns.append(Categorical.fit(str(name), values) if is_labels else Continuous.fit(str(name), values))
        return cls(tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many categories each condition has; 0 for a continuous one."""
        return tuple(column.cardinality for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def encode(self, table: pd.DataFrame | Mapping[str, Any]) -> Tensor:
        """Float32 `[n, n_conditions]`: the code of a category (0, 1, ...), the standardised value of a number.

        NaN where a value is missing: no condition, which guidance uses. Columns that are no conditions are ignored.

        Raises
        ------
        InputError
            Where a condition is not there, columns differ in length, or a value is unknown.
        """
        known = [str(name) for name in table]
        for name in self.names:
            if name not in known:
                raise InputError(
                    f"The table has no condition {name!r}.{nearest(name, known)} It has {listed(known) or 'no columns'}"
                    f"; expected {listed(self.names)}."
                )
        lengths = {len(table[name]) for name in self.names}
        if len(lengths) > 1:
            raise InputError(
                f"The conditions differ in length: {sorted(lengths)}. Give one value a cell to each of them."
            )
        n_rows = lengths.pop() if lengths else len(table) if isinstance(table, pd.DataFrame) else 0
        codes = np.empty((n_rows, len(self)), dtype=np.float32)
        for i, column in enumerate(self.columns):
            codes[:, i] = column.encode(list(table[column.name]))
        return torch.from_numpy(codes)

    def decode(self, codes: Tensor) -> pd.DataFrame:
        """The inverse of `encode`: a Categorical with all categories in order, or float64; missing for NaN."""
        values = codes.detach().cpu().numpy().astype(np.float64)
        return pd.DataFrame(
            {column.name: column.decode(values[:, i]) for i, column in enumerate(self.columns)},
            index=pd.RangeIndex(len(values)),
        )

    def table(self, request: Any, n_obs: int, training: Tensor, rng: np.random.Generator) -> Tensor:
        """The encoded conditions of `n_obs` cells that are asked for, float32 `[n_obs, n_conditions]`.

        Parameters
        ----------
        request
            - None: as in the training cells. Whole rows are drawn, so conditions keep their dependence, and every
              combination gets its share, rounded up or down.
            - A mapping such as `{"cell_type": "B"}`: one value for all cells, or a sequence with one value a cell.
              A value of None asks for no condition (unconditional). Conditions that are not named are drawn from the
              training cells that have the named values; where no training cell has all of them, from those that have
              the named categories, and where there are none of these either, from all.
            - A DataFrame: one row a cell, one column a condition; others are drawn as above. Its index is ignored.
            - A value, or a sequence, Series or array with one value a cell, where there is one condition only.
        n_obs
            How many cells.
        training
            The encoded conditions of the training cells, `[n_training, n_conditions]`.
        rng
            Where the draws come from.

        Raises
        ------
        InputError
            Where the flow has no conditions, a condition or category is unknown, a length is not `n_obs`, or a row has
            no value.
        """
        return draw_table(self.columns, request, n_obs, training, rng)

    def to_json(self) -> str:
        """The schema as JSON text."""
        return json.dumps([{"type": type(column).__name__.lower(), **asdict(column)} for column in self.columns])

    @classmethod
    def from_json(cls, text: str) -> Conditions:
        """The inverse of `to_json`."""
        return cls(tuple(_column(entry) for entry in json.loads(text)))


def _column(entry: dict[str, Any]) -> Column:
    if entry["type"] == "categorical":
        return Categorical(entry["name"], tuple(entry["categories"]), entry["kind"])
    return Continuous(entry["name"], entry["mean"], entry["sd"])
