"""All conditions of a flow, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scflow.conditions._columns import Categorical, Column, Continuous, as_column
from scflow.conditions._embedded import Embedded, Parts
from scflow.conditions._request import by_name, draw_table, spans
from scflow.conditions._stored import columns_of
from scflow.errors import InputError, listed, nearest

__all__ = ["Conditions"]


@dataclass(frozen=True)
class Conditions:
    """The columns that a flow is conditioned on, and how they become the tensor that its field reads.

    Attributes
    ----------
    columns
        One a condition, in the order of the tensor's columns; none for a flow without conditions. One that is embedded
        takes as many columns of the tensor as its vectors are long, others take one.

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
    def from_frame(cls, frame: pd.DataFrame, embedded: Mapping[str, Parts] | None = None) -> Conditions:
        """The schema of a table with one row a training cell, and of what labels in some columns are made of.

        Raises
        ------
        InputError
            Where a column holds neither categories nor numbers, or labels of parts that are not known.
        """
        columns: list[Column] = []
        for name in map(str, frame.columns):
            values = as_column(frame[name], name)
            if embedded and name in embedded:
                columns.append(Embedded.fit(name, values, embedded[name]))
            elif isinstance(values.dtype, pd.CategoricalDtype):
                columns.append(Categorical.fit(name, values))
            else:
                columns.append(Continuous.fit(name, values))
        return cls(tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many categories each column of the tensor has; 0 for a number, and for each entry of a vector."""
        return tuple(max(column.cardinality, 0) for column in self.columns for _ in range(column.width))

    @property
    def inputs(self) -> tuple[int, ...]:
        """What a field is told, one a condition: how many categories, 0 for a number, -m for a vector of m entries."""
        return tuple(column.cardinality for column in self.columns)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many columns of the tensor each condition takes."""
        return tuple(column.width for column in self.columns)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The columns of the tensor that hold numbers; what stands for a label is none."""
        is_number = [isinstance(column, Continuous) for column in self.columns for _ in range(column.width)]
        return tuple(i for i, number in enumerate(is_number) if number)

    @property
    def vectors(self) -> tuple[int, ...]:
        """The columns of the tensor that hold vectors."""
        is_vector = [isinstance(column, Embedded) for column in self.columns for _ in range(column.width)]
        return tuple(i for i, vector in enumerate(is_vector) if vector)

    @property
    def n_labels(self) -> tuple[int, ...]:
        """How many labels the training cells of each condition have; 0 for a number."""
        return tuple(
            len(column.combinations()) if isinstance(column, Embedded) else column.cardinality
            for column in self.columns
        )

    def labels(self, codes: Tensor) -> Tensor:
        """One column a condition, `[n, n_conditions]`: for a vector, which label of training cells it stands for.

        NaN where it is none of theirs. The other conditions are as they were.
        """
        if not self.vectors:
            return codes
        columns = []
        for column, span in zip(self.columns, spans(self.columns), strict=True):
            if isinstance(column, Embedded):
                places = column.places(codes[:, span].detach().cpu().numpy().astype(np.float64))
                columns.append(torch.from_numpy(places).to(codes)[:, None])
            else:
                columns.append(codes[:, span])
        return torch.cat(columns, dim=1)

    def __len__(self) -> int:
        return len(self.columns)

    def whole(self, mask: Tensor) -> Tensor:
        """A mask `[n, n_columns]` that is true of all columns of a condition where it was true of one."""
        found = [mask[:, span].any(1, keepdim=True).expand(-1, span.stop - span.start) for span in spans(self.columns)]
        return torch.cat(found, dim=1) if found else mask

    def encode(self, table: pd.DataFrame | Mapping[str, Any]) -> Tensor:
        """Float32 `[n, n_columns]`: the code of a category (0, 1, ...), the standardised value of a number or vector.

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
        codes = np.empty((n_rows, sum(self.widths)), dtype=np.float32)
        for column, span in zip(self.columns, spans(self.columns), strict=True):
            codes[:, span] = column.encode(list(table[column.name])).reshape(n_rows, column.width)
        return torch.from_numpy(codes)

    def known(self, table: pd.DataFrame) -> Tensor:
        """The vectors of cells that are not learnt from, as far as their labels are known; NaN for all else.

        Nothing is raised or warned of: it is asked of a source population, whose labels may be anything.
        """
        codes = np.full((len(table), sum(self.widths)), np.nan, dtype=np.float32)
        for column, span in zip(self.columns, spans(self.columns), strict=True):
            if isinstance(column, Embedded) and column.name in table:
                codes[:, span] = column.codes(list(table[column.name]))
        return torch.from_numpy(codes)

    def decode(self, codes: Tensor, *requests: Any) -> pd.DataFrame:
        """The inverse of `encode`: a Categorical with all categories in order, or float64; missing for NaN.

        `requests` are those that the codes are of, as `table` takes them: they name combinations of parts that no
        training cell had.
        """
        values = codes.detach().cpu().numpy().astype(np.float64)
        frame: dict[str, Any] = {}
        for column, span in zip(self.columns, spans(self.columns), strict=True):
            if isinstance(column, Embedded):
                frame[column.name] = column.decode(values[:, span], self._asked(column.name, requests))
            else:
                frame[column.name] = column.decode(values[:, span.start])
        return pd.DataFrame(frame, index=pd.RangeIndex(len(values)))

    def _asked(self, name: str, requests: Sequence[Any]) -> list[Any]:
        """The labels of a condition that requests name."""
        asked: list[Any] = []
        for request in requests:
            own = None if request is None else by_name(request, list(self.names)).get(name)
            asked += list(own) if own is not None and pd.api.types.is_list_like(own) else [own]
        return [value for value in asked if not pd.isna(value)]

    def table(self, request: Any, n_obs: int, training: Tensor, rng: np.random.Generator) -> Tensor:
        """The encoded conditions of `n_obs` cells that are asked for, float32 `[n_obs, n_columns]`.

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
            The encoded conditions of the training cells, `[n_training, n_columns]`.
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
        """The inverse of `to_json`.

        Raises
        ------
        InputError
            Where the text says what no conditions are.
        """
        return cls(columns_of(text))
