"""A condition whose labels are sums of parts, each with a vector: drugs, genes, and combinations of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow.errors import InputError, listed, nearest

__all__ = ["Embedded", "Key", "Parts"]

Key = tuple[int, ...]
"""The parts of a label by their places, in rising order: the same for "A+B" and "B+A"."""


@dataclass(frozen=True)
class Parts:
    """The parts that labels are made of, and how a label is read.

    Attributes
    ----------
    names
        The parts, such as drugs.
    vectors
        A vector for each of them, all of one length; ``None`` for one-hot codes.
    separator
        What stands between the parts of a label.
    none
        Names that stand for no part: a label of these alone is a vector of zeros.

    Examples
    --------
    >>> parts = Parts(("A", "B"), ((1.0, 0.0), (0.0, 2.0)), none=("ctrl",))
    >>> parts.key("B+A"), parts.key("ctrl"), parts.vector(parts.key("B+A")).tolist()
    ((0, 1), (), [1.0, 2.0])
    """

    names: tuple[str, ...]
    vectors: tuple[tuple[float, ...], ...] | None = None
    separator: str = "+"
    none: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return len(self.names) if self.vectors is None else len(self.vectors[0])

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each part stands among the names."""
        return {name: place for place, name in enumerate(self.names)}

    def split(self, label: Any) -> list[str]:
        """The parts that a label names, in its order; spaces around them do not count."""
        return [part.strip() for part in str(label).split(self.separator)]

    def key(self, label: Any) -> Key:
        """The known parts of a label that is known to have no others."""
        return tuple(sorted(self.places[part] for part in self.split(label) if part not in self.none))

    def vector(self, key: Key) -> NDArray[np.float64]:
        """The sum of the parts' vectors, float64 `[width]`: always added up in the same order."""
        if self.vectors is None:
            return np.bincount(np.array(key, dtype=np.int64), minlength=self.width).astype(np.float64)
        total = np.zeros(self.width)
        for place in key:
            total += self.vectors[place]
        return total

    def spelt(self, key: Key) -> str:
        """A label of these parts, in the order of the names."""
        if not key:
            return self.none[0] if self.none else ""
        return self.separator.join(self.names[place] for place in key)

    def check(self, labels: Iterable[Any], name: str) -> None:
        """Raise where a label has parts that are empty or unknown.

        Raises
        ------
        InputError
            It lists the parts that are known.
        """
        distinct = list(dict.fromkeys(str(label) for label in labels))
        hollow = [label for label in distinct if not all(self.split(label))]
        if hollow:
            raise InputError(
                f"{len(hollow)} labels of {name!r} have an empty part between their {self.separator!r} "
                f"({listed(hollow)}). Write each as its parts: {self.separator.join(self.names[:2])!r}."
            )
        parts = list(dict.fromkeys(part for label in distinct for part in self.split(label)))
        unknown = [part for part in parts if part not in self.places and part not in self.none]
        if unknown:
            nothing = f"; {listed(self.none)} is none" if self.none else ""
            raise InputError(
                f"Condition {name!r} has {len(unknown)} unknown parts ({listed(unknown)})."
                f"{nearest(unknown[0], [*self.names, *self.none])} Known are {listed(self.names, most=20)}{nothing}, "
                f"and any combination of them, such as {self.separator.join(self.names[:2])!r}."
            )


@dataclass(frozen=True)
class Embedded:
    """A condition with labels that are sums of parts: a vector of several numbers for the field.

    Attributes
    ----------
    name
        The column of `.obs`.
    parts
        What labels are made of.
    labels
        Those of the training cells.
    mean, sd
        Of the training labels' vectors, each label once; `sd` is 0 where an entry never varied.

    Examples
    --------
    >>> import pandas as pd
    >>> labels = pd.Series(pd.Categorical(["A", "B", "ctrl"]))
    >>> column = Embedded.fit("drug", labels, Parts(("A", "B"), none=("ctrl",)))
    >>> column.encode(["A+B"]).shape
    (1, 2)
    """

    name: str
    parts: Parts
    labels: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @property
    def width(self) -> int:
        """Columns in the tensor of conditions."""
        return self.parts.width

    @property
    def cardinality(self) -> int:
        """Minus the length of the vector."""
        return -self.width

    @classmethod
    def fit(cls, name: str, values: pd.Series[Any], parts: Parts) -> Embedded:
        """The schema of a column that :func:`as_column` made; without a table the parts are those that occur.

        Raises
        ------
        InputError
            Where the column holds numbers, parts that are not known, or one combination alone.
        """
        if not isinstance(values.dtype, pd.CategoricalDtype):
            raise InputError(
                f"Condition {name!r} was embedded by its labels, and holds numbers now. Make them labels and embed "
                f"anew: adata.obs[{name!r}] = adata.obs[{name!r}].astype(str); scflow.pp.embed(adata, {name!r})."
            )
        labels = [str(label) for label in values.cat.categories]
        parts.check(labels, name)
        if parts.vectors is None:
            there = {place for label in labels for place in parts.key(label)}
            names = tuple(part for place, part in enumerate(parts.names) if place in there)
            parts = Parts(names, None, parts.separator, parts.none)
        keys = list(dict.fromkeys(parts.key(label) for label in labels))
        if len(keys) < 2:
            raise InputError(
                f"All labels of {name!r} are the same combination ({listed(labels)}): there is nothing to condition "
                "on. Leave it out of condition."
            )
        vectors = np.stack([parts.vector(key) for key in keys])
        _warn_of_twins(name, [parts.spelt(key) for key in keys], vectors)
        return cls(name, parts, tuple(labels), tuple(vectors.mean(0).tolist()), tuple(vectors.std(0).tolist()))

    def encode(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Standardised sums `[n, width]`; NaN where a value is missing. An entry that never varied is always 0.

        A combination that no training cell had is warned of.

        Raises
        ------
        InputError
            Where a value has parts that are not known.
        """
        distinct = list(dict.fromkeys(str(value) for value in values if not pd.isna(value)))
        self.parts.check(distinct, self.name)
        self._warn_of_unseen(distinct)
        return self.codes(values)

    def codes(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """As `encode`, with NaN for unknown parts too, and without a warning."""
        labels = [None if pd.isna(value) else str(value) for value in values]
        code = {label: self._code(self.parts.key(label)) for label in set(labels) if self._knows(label)}
        none = np.full(self.width, np.nan)
        rows = [code.get(label, none) for label in labels]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.width)

    def _knows(self, label: str | None) -> bool:
        return label is not None and {*self.parts.split(label)} <= {*self.parts.names, *self.parts.none}

    def decode(self, codes: NDArray[np.float64], asked: Iterable[Any] = ()) -> pd.Categorical:
        """The inverse of `encode`: the labels of training cells in order, and those `asked` for that are new."""
        spelling = {self.parts.key(label): label for label in reversed(self.labels)}
        keys = [self.parts.key(label) for label in dict.fromkeys(map(str, asked))]
        new = dict.fromkeys(self.parts.spelt(key) for key in keys if key not in spelling)
        known = [*self.labels, *new]
        place = {label: i for i, label in enumerate(known)}
        found: dict[bytes, int] = {}
        # What was asked for comes first: another combination may have the same sum.
        for key in [*keys, *spelling]:
            found.setdefault(_bits(self._code(key)), place[spelling.get(key, self.parts.spelt(key))])
        whole = [found.get(_bits(row), -1) for row in codes]
        return pd.Categorical.from_codes(whole, categories=pd.Index(known, dtype=object))

    def combinations(self) -> list[Key]:
        """Those of the training cells, each once, in the order of their labels."""
        return list(dict.fromkeys(self.parts.key(label) for label in self.labels))

    def places(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Which of :meth:`combinations` each row of `codes` `[n, width]` is, `[n]`; NaN where it is none of them."""
        return np.array([self._places.get(_bits(row), np.nan) for row in codes], dtype=np.float64)

    @cached_property
    def _places(self) -> dict[bytes, float]:
        """The place of each combination by its code: asked for with every tile of cells that is drawn."""
        places: dict[bytes, float] = {}
        for place, key in enumerate(self.combinations()):
            places.setdefault(_bits(self._code(key)), float(place))
        return places

    def _code(self, key: Key) -> NDArray[np.float64]:
        sd = np.array(self.sd)
        centred = self.parts.vector(key) - np.array(self.mean)
        code: NDArray[np.float64] = np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0)
        return code

    def _warn_of_unseen(self, labels: Sequence[str]) -> None:
        seen = {self.parts.key(label) for label in self.labels}
        new = [label for label in labels if self.parts.key(label) not in seen]
        if not new:
            return
        there = {place for key in seen for place in key}
        absent = sorted({place for label in new for place in self.parts.key(label)} - there)
        alone = f" No training cell had {listed(self.parts.names[p] for p in absent)}: known by vectors alone."
        warnings.warn(
            f"{len(new)} labels of {self.name!r} were not among the training cells' ({listed(new)}): their parts' "
            f"vectors are added, and what that gives is a prediction.{alone if absent else ''}",
            stacklevel=4,
        )


def _warn_of_twins(name: str, labels: Sequence[str], vectors: NDArray[np.float64]) -> None:
    """Warn where several labels have the same vector."""
    _, first, place = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
    twins = [i for i, row in enumerate(first[place.reshape(-1)]) if row != i]
    if twins:
        which = listed(f"{labels[i]} as {labels[first[place.reshape(-1)][i]]}" for i in twins)
        warnings.warn(
            f"{len(twins)} labels of {name!r} have the vector of another ({which}): the flow cannot tell them apart, "
            "and drawn cells are labelled by the first.",
            stacklevel=4,
        )


def _bits(code: NDArray[np.float64]) -> bytes:
    """A code as the tensor of conditions holds it; 0 and -0 are one."""
    return (code.astype(np.float32) + 0.0).tobytes()
