"""One condition: its values <-> numbers that a field reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow.conditions._embedded import Embedded
from scflow.errors import InputError, listed, nearest

__all__ = ["PARSE", "Categorical", "Column", "Continuous", "Kind", "as_column"]

Kind = Literal["string", "boolean", "integer", "number"]
"""What the labels were before they became text."""


def as_column(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """A column as the schema knows it: a pandas Categorical of the values that occur, or float64.

    Categories, strings and booleans become a Categorical (categories keep their order, others are sorted), numbers
    become float64. Missing values stay missing. Nullable and Arrow types are understood.

    Raises
    ------
    InputError
        Where the values are neither categories nor numbers (dates, complex numbers).

    Examples
    --------
    >>> as_column(pd.Series(["T", "B", None]), "cell_type").tolist()
    ['T', 'B', nan]
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.remove_unused_categories()
    if values.dtype == object:
        values = values.infer_objects()
    is_type = pd.api.types
    if is_type.is_bool_dtype(values.dtype):
        flags = [None if pd.isna(v) else bool(v) for v in values]
        return pd.Series(pd.Categorical(flags), index=values.index, name=values.name)
    if is_type.is_numeric_dtype(values.dtype) and not is_type.is_complex_dtype(values.dtype):
        return pd.Series(values.to_numpy(dtype=np.float64, na_value=np.nan), index=values.index, name=values.name)
    if values.dtype == object or is_type.is_string_dtype(values.dtype):
        present = [v for v in values if not pd.isna(v)]
        if _kind(present) in ("integer", "number"):
            return pd.Series(pd.to_numeric(values).astype(np.float64), index=values.index, name=values.name)
        if _kind(present) == "boolean":
            return pd.Series(pd.Categorical(list(values)), index=values.index, name=values.name)
        labels = [None if pd.isna(v) else str(v) for v in values]
        known = pd.Index(sorted({v for v in labels if v is not None}), dtype=object)
        return pd.Series(pd.Categorical(labels, categories=known), index=values.index, name=values.name)
    raise InputError(
        f"Condition {name!r} holds values of type {values.dtype}; expected categories (strings, booleans) or numbers. "
        "Convert it, such as with .astype(str)."
    )


@dataclass(frozen=True)
class Categorical:
    """A condition with labels.

    Attributes
    ----------
    name
        The column of `.obs`.
    categories
        The labels as text; a label's place is its code.
    kind
        What the labels were: they come back as that.

    Examples
    --------
    >>> column = Categorical("cell_type", ("B", "T"))
    >>> column.encode(["T", "B"]).tolist()
    [1.0, 0.0]
    """

    name: str
    categories: tuple[str, ...]
    kind: Kind = "string"

    @property
    def width(self) -> int:
        """Columns in the tensor of conditions."""
        return 1

    @property
    def cardinality(self) -> int:
        """How many labels there are."""
        return len(self.categories)

    @classmethod
    def fit(cls, name: str, values: pd.Series[Any]) -> Categorical:
        """The schema of a column that :func:`as_column` made."""
        known = list(values.cat.categories)
        kind = _kind(known)
        labels = tuple(_label(value, kind) for value in known)
        if len(set(labels)) < len(labels):
            raise InputError(
                f"{len(labels)} categories of condition {name!r} are only {len(set(labels))} when written as text "
                f"({listed(labels)}). Give every category a name of its own: .astype(str).astype('category')."
            )
        return cls(name, labels, kind)

    def encode(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Codes 0, 1, ... `[n]`; NaN where a value is missing, which asks for no condition.

        Raises
        ------
        InputError
            Where a value is none of the categories.
        """
        labels = [None if pd.isna(v) else _label(v, self.kind) for v in values]
        code = {label: float(i) for i, label in enumerate(self.categories)}
        unknown = [label for label in labels if label is not None and label not in code]
        if unknown:
            distinct = list(dict.fromkeys(unknown))
            raise InputError(
                f"Condition {self.name!r} has {len(distinct)} unknown categories, in {len(unknown)} of {len(labels)} "
                f"cells ({listed(distinct)}).{nearest(distinct[0], self.categories)} The flow was trained with "
                f"{listed(self.categories, most=20)}: ask for those."
            )
        return np.array([math.nan if label is None else code[label] for label in labels], dtype=np.float64)

    def decode(self, codes: NDArray[np.float64]) -> pd.Categorical:
        """The inverse of `encode`: every category is kept, in order."""
        whole = np.where(np.isnan(codes), -1, codes).astype(np.int64)
        back = PARSE[self.kind]
        known = [back(label) for label in self.categories]
        return pd.Categorical.from_codes(whole.tolist(), categories=pd.Index(known))


@dataclass(frozen=True)
class Continuous:
    """A condition with numbers, standardised for the field.

    Attributes
    ----------
    name
        The column of `.obs`.
    mean, sd
        Of the training cells.

    Examples
    --------
    >>> column = Continuous.fit("dose", pd.Series([0.0, 2.0]))
    >>> column.encode([1.0, 2.0]).tolist()
    [0.0, 1.0]
    """

    name: str
    mean: float
    sd: float

    @property
    def width(self) -> int:
        """Columns in the tensor of conditions."""
        return 1

    @property
    def cardinality(self) -> int:
        """0: a number is no label."""
        return 0

    @classmethod
    def fit(cls, name: str, values: pd.Series[Any]) -> Continuous:
        """The schema of a column that :func:`as_column` made; a column that never varies gets `sd` 1."""
        numbers = values.to_numpy(dtype=np.float64)
        sd = float(np.nanstd(numbers))
        return cls(name, float(np.nanmean(numbers)), sd if sd > 0 else 1.0)

    def encode(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """`(value - mean) / sd`, `[n]`; NaN where a value is missing, which asks for no condition.

        Raises
        ------
        InputError
            Where a value is infinite or no number.
        """
        try:
            numbers = np.array([math.nan if pd.isna(v) else float(v) for v in values], dtype=np.float64)
        except (TypeError, ValueError):
            wrong = [v for v in values if not _is_number(v)]
            raise InputError(
                f"Condition {self.name!r} is continuous, but {len(wrong)} of {len(values)} values are no numbers "
                f"({listed(wrong)}). Give numbers; the training cells had {self.mean:.6g} +- {self.sd:.6g}."
            ) from None
        if np.isinf(numbers).any():
            raise InputError(
                f"Condition {self.name!r} is infinite in {int(np.isinf(numbers).sum())} of {len(numbers)} cells. Give "
                f"finite numbers; the training cells had {self.mean:.6g} +- {self.sd:.6g}."
            )
        result: NDArray[np.float64] = (numbers - self.mean) / self.sd
        return result

    def decode(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `encode`, rounded to what float32 codes can tell apart: 30 comes back as 30."""
        decimals = 5 - math.floor(math.log10(self.sd))
        # Adding zero makes 0 of -0, which prints as another dose.
        result: NDArray[np.float64] = np.round(codes * self.sd + self.mean, decimals) + 0.0
        return result


Column = Categorical | Continuous | Embedded

PARSE: dict[Kind, Callable[[str], Any]] = {
    "string": str,
    "boolean": lambda label: label == "True",
    "integer": int,
    "number": float,
}


def _kind(categories: Sequence[Any]) -> Kind:
    """What all categories are; text where they are several things."""
    types: dict[Kind, Any] = {
        "boolean": (bool, np.bool_),
        "integer": (int, np.integer),
        "number": (int, np.integer, float, np.floating),
    }
    flags = [isinstance(c, (bool, np.bool_)) for c in categories]
    for kind in get_args(Kind)[1:]:
        fits = all(isinstance(c, types[kind]) for c in categories)
        # A bool is an int to Python, but True among numbers is a label.
        if fits and categories and (kind == "boolean" or not any(flags)):
            return kind  # type: ignore[no-any-return]
    return "string"


def _label(value: Any, kind: Kind) -> str:
    """A category as text: the same for 1, 1.0 and "1" where the categories are whole numbers."""
    if kind == "boolean" and _is_number(value) and float(value) in (0.0, 1.0):
        return str(bool(float(value)))
    if kind == "integer" and _is_number(value) and float(value).is_integer():
        return str(int(float(value)))
    if kind == "number" and _is_number(value):
        return repr(float(value))
    return str(value)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
