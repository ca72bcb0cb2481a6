"""Columns of conditions out of JSON that anybody may have written: what they say is looked at before it is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from scflow.conditions._columns import PARSE, Categorical, Column, Continuous
from scflow.conditions._embedded import Embedded, Parts
from scflow.errors import InputError, listed

__all__ = ["columns_of"]


def columns_of(text: str) -> tuple[Column, ...]:
    """The columns that `Conditions.to_json` wrote.

    Raises
    ------
    InputError
        Where they are of no known type, or names, labels and numbers are none, not unique, or do not fit together.
    """
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError(f"the conditions are a {type(entries).__name__}; expected a list of columns.")
    columns = tuple(_column(entry) for entry in entries)
    _unique([column.name for column in columns], "conditions")
    return columns


def _column(entry: Mapping[str, Any]) -> Column:
    name, kind = entry["name"], entry["type"]
    _texts([name], "names of conditions")
    if kind == "categorical":
        return Categorical(name, _labels(name, entry["categories"], entry["kind"]), entry["kind"])
    if kind == "embedded":
        return _embedded(name, entry)
    if kind != "continuous":
        raise InputError(f"condition {name!r} is {kind!r}; expected 'categorical', 'continuous' or 'embedded'.")
    mean, sd = _numbers([entry["mean"], entry["sd"]], f"mean and deviation of {name!r}")
    if sd <= 0:
        raise InputError(f"the deviation of {name!r} is {sd}; expected a number above 0.")
    return Continuous(name, mean, sd)


def _labels(name: str, labels: Any, kind: Any) -> tuple[str, ...]:
    """Categories that can be read as what they were before they became text."""
    if kind not in PARSE:
        raise InputError(f"the labels of {name!r} are of kind {kind!r}; expected one of {listed(PARSE)}.")
    known = _unique(_texts(labels, f"labels of {name!r}"), f"labels of {name!r}")
    _unique([repr(PARSE[kind](label)) for label in known], f"labels of {name!r}")  # which raises where one is none
    return known


def _embedded(name: str, entry: Mapping[str, Any]) -> Embedded:
    told, what = entry["parts"], f"parts of {name!r}"
    names = _unique(_texts(told["names"], what), what)
    vectors = None if told["vectors"] is None else tuple(_numbers(one, f"vectors of {what}") for one in told["vectors"])
    if vectors is not None and (len(vectors) != len(names) or len({len(one) for one in vectors}) != 1):
        raise InputError(f"{len(names)} {what} have {len(vectors)} vectors; expected one each, all of one length.")
    separator, none = _texts([told["separator"]], "separators")[0], _texts(told["none"], what)
    if not separator or not names:
        raise InputError(f"{len(names)} {what} are separated by {separator!r}; expected both.")
    parts = Parts(names, vectors, separator, none)
    labels = _texts(entry["labels"], f"labels of {name!r}")
    parts.check(labels, name)
    mean, sd = (_numbers(entry[field], f"{field} of {name!r}") for field in ("mean", "sd"))
    if not len(mean) == len(sd) == parts.width or min(sd, default=0) < 0:
        raise InputError(f"mean and sd of {name!r} have {len(mean)} and {len(sd)} numbers; expected {parts.width}.")
    return Embedded(name, parts, labels, mean, sd)


def _texts(values: Any, what: str) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise InputError(f"the {what} are no list of texts.")
    for value in values:
        value.encode()  # which raises for half of a surrogate pair: no file could hold it
    return tuple(values)


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    good = isinstance(values, (list, tuple)) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
    if not good:
        raise InputError(f"{what} are no finite numbers.")
    return tuple(float(value) for value in values)


def _unique(values: Any, what: str) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise InputError(f"the {len(values)} {what} are only {len(set(values))} different ones.")
    return tuple(values)
