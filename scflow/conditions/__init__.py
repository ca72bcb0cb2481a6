"""What a flow is conditioned on: labels and numbers of cells <-> the tensor that a field reads."""

from __future__ import annotations

from scflow.conditions._columns import Categorical, Column, Continuous, as_column
from scflow.conditions._embedded import Embedded, Parts
from scflow.conditions._schema import Conditions

__all__ = ["Categorical", "Column", "Conditions", "Continuous", "Embedded", "Parts", "as_column"]
