"""Labels as sums of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scflow._anndata import checked, obs_column, write_parts
from scflow.conditions import Parts, as_column
from scflow.errors import InputError, listed, names_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["embed"]


def embed(
    adata: AnnData,
    key: str,
    table: pd.DataFrame | Mapping[str, Sequence[float]] | None = None,
    *,
    separator: str = "+",
    none: str | Sequence[str] | None = None,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """Say that the labels of a column are combinations of parts, such as drugs or genes, each with a vector.

    A label is the sum of its parts' vectors: "A+B" is the one of A and the one of B, in any order, and "A+A" is twice
    A. :func:`scflow.tl.train` with the column as a condition (or as what target cells are told apart by) then tells the
    field those sums, through one linear layer. So the flow can be asked for any combination of known parts, and with a
    `table` for parts that no training cell had. Such an answer is a prediction, and a warning says so.

    Parameters
    ----------
    adata
        The cells; only `.uns` is written to.
    key
        The column of `.obs` with the labels, such as "A", "B" and "A+B".
    table
        The vectors: a DataFrame with one row a part, or a mapping from parts to vectors of one length. Parts that are
        alike should have vectors that are near: a fingerprint's principal components, an embedding of the target gene.
        A row of zeros is a part that does nothing. Each cell gets a vector in training, so tens of entries are better
        than thousands. None: the parts that occur, one-hot, which knows combinations but no new part.
    separator
        What stands between the parts of a label. Spaces around them do not count.
    none
        Names that stand for no part at all, such as "ctrl": alone a vector of zeros, and "A+ctrl" is "A".
    key_added
        Takes the place of "scflow" in the slot's name; give :func:`scflow.tl.train` the same.
    copy
        Whether to return a copy and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        The copy where `copy=True`. Written is `.uns["scflow_embed"][key]`: parts, vectors (where there is a table),
        separator and none. ``del adata.uns["scflow_embed"][key]`` makes the column a plain category again.

    Raises
    ------
    InputError
        Where the column holds no labels or has cells without one, a label has an empty part or one that is not in the
        table, or vectors differ in length or hold NaN; nothing has been changed then.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> adata.obs["drug"] = ["ctrl", "A", "B", "A+B", "C"] * 40
    >>> scflow.pp.embed(adata, "drug", none="ctrl")
    >>> adata.uns["scflow_embed"]["drug"]["parts"].tolist()
    ['A', 'B', 'C']
    >>> flow = scflow.tl.train(adata, condition="drug", steps=20, progress=False)
    >>> scflow.tl.generate(flow, 5, condition="A+B", progress=False).obs["drug"].tolist()
    ['A+B', 'A+B', 'A+B', 'A+B', 'A+B']
    """
    checked(adata)
    if not isinstance(separator, str) or not separator.strip():
        raise InputError(f"separator={separator!r} separates nothing. Give text such as '+' or '_'.")
    nothing = tuple(map(str, names_of(none, "none")))
    labels = _labels(adata, key)
    if table is None:
        parts = _that_occur(labels, key, separator, nothing)
    else:
        parts = Parts(*_vectors(table), separator, nothing)
        _check_names(parts)
        parts.check(labels, key)
    adata = adata.copy() if copy else adata
    write_parts(adata, key, parts, key_added)
    return adata if copy else None


def _labels(adata: AnnData, key: str) -> list[str]:
    """The distinct labels of a column."""
    values = as_column(obs_column(adata, key), key)
    if not isinstance(values.dtype, pd.CategoricalDtype):
        raise InputError(
            f"obs[{key!r}] holds numbers, which need no embedding: condition={key!r} tells the field them as they are. "
            f"If they are labels, say so: adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)."
        )
    return [str(label) for label in values.cat.categories]


def _that_occur(labels: Sequence[str], key: str, separator: str, none: tuple[str, ...]) -> Parts:
    """The parts of all labels, in alphabetical order."""
    reader = Parts((), None, separator, none)
    names = sorted({part for label in labels for part in reader.split(label) if part and part not in none})
    if not names:
        raise InputError(
            f"none={listed(none)} leaves no part of the labels of obs[{key!r}] ({listed(labels)}). Leave it "
            "out, or embed a column whose labels have parts."
        )
    parts = Parts(tuple(names), None, separator, none)
    parts.check(labels, key)
    return parts


def _vectors(table: Any) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """The parts of a table, and their vectors."""
    if not isinstance(table, (Mapping, pd.DataFrame)) or not len(table):
        what = f"an empty {type(table).__name__}" if isinstance(table, (Mapping, pd.DataFrame)) else repr(table)[:60]
        raise InputError(
            f"table is {what}; expected a DataFrame with a row of numbers for each part, or a mapping such as "
            "{'A': [0.1, 0.7], 'B': [0.4, 0.2]}."
        )
    pairs = zip(table.index, table.to_numpy(), strict=True) if isinstance(table, pd.DataFrame) else table.items()
    rows = [(str(name), _row(name, vector)) for name, vector in pairs]
    names = tuple(name for name, _ in rows)
    lengths = {len(row) for _, row in rows}
    if len(lengths) > 1 or 0 in lengths:
        name, row = next((name, row) for name, row in rows if len(row) != len(rows[0][1]) or not len(row))
        raise InputError(
            f"The vectors of table differ in length or are empty: {sorted(lengths)} entries (first: {name!r} has "
            f"{len(row)}). Give every part a vector of one length."
        )
    bad = [name for name, row in rows if not np.isfinite(row).all()]
    if bad:
        raise InputError(
            f"table holds NaN or infinite values in the vectors of {len(bad)} of {len(names)} parts ({listed(bad)}). "
            "Fill them, or drop those parts and their cells."
        )
    return names, tuple(tuple(row.tolist()) for _, row in rows)


def _row(name: object, vector: Any) -> NDArray[np.float64]:
    """A part's vector as numbers."""
    try:
        row = np.asarray(vector, dtype=np.float64)
    except (TypeError, ValueError):
        row = np.zeros((0, 0))
    if row.ndim != 1:
        raise InputError(
            f"table has no vector of numbers for {str(name)!r} ({repr(vector)[:60]}). Give each part a list of "
            "numbers, such as {'A': [0.1, 0.7]}."
        )
    return row


def _check_names(parts: Parts) -> None:
    """Raise where a name of the table cannot be a part of a label."""
    twice = list(dict.fromkeys(name for name in parts.names if parts.names.count(name) > 1))
    if twice:
        raise InputError(f"table names {len(twice)} parts more than once ({listed(twice)}). Give each part one row.")
    both = [name for name in parts.names if name in parts.none]
    if both:
        raise InputError(f"{listed(both)} is named by none= and has a row in table. Leave it out of one of them.")
    torn = [name for name in parts.names if parts.split(name) != [name] or not name]
    if torn:
        raise InputError(
            f"{len(torn)} names of table are no single part, with {parts.separator!r} between parts and spaces around "
            f"them left out ({listed(torn)}). Give another separator=, such as '_', or other names."
        )
