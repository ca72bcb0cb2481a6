"""What scflow raises when it cannot do what was asked, and how it names the nearest thing that it can."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "Diverged",
    "FileError",
    "InputError",
    "OutOfMemory",
    "check_seed",
    "listed",
    "name_of",
    "names_of",
    "nearest",
    "path_of",
    "values_of",
]


class InputError(ValueError):
    """Input that cannot be worked with: the message says what was found, what was expected, and what mends it.

    Examples
    --------
    >>> try:
    ...     scflow.tl.train(adata, condition="cel_type")
    ... except InputError as error:
    ...     print("Did you mean 'cell_type'?" in str(error))
    True
    """


class FileError(ValueError):
    """A file that cannot be read or written: damaged, of another kind, or of a newer format.

    Examples
    --------
    >>> try:
    ...     scflow.Flow.load("no_such_file.safetensors")
    ... except (FileError, FileNotFoundError) as error:
    ...     print(type(error).__name__)
    FileError
    """


class Diverged(FloatingPointError):
    """A training whose gradient stays infinite or NaN.

    `history` is the table of the run up to there, which :func:`scflow.tl.diagnose` reads. `flow` is the best flow
    before that, not calibrated, where a look at validation cells has found one; else None.

    Examples
    --------
    >>> try:
    ...     raise Diverged("The gradient is infinite.", history=None)
    ... except FloatingPointError as error:
    ...     print(error)
    The gradient is infinite.
    """

    def __init__(self, message: str, history: Any, flow: Any = None) -> None:
        super().__init__(message)
        self.history, self.flow = history, flow
        self.trained: Any = None  # What a flow is made of, on the way to where it is.

    def __reduce__(self) -> tuple[type[Diverged], tuple[str, Any]]:
        return type(self), (str(self), self.history)


class OutOfMemory(MemoryError):
    """A training that found no room for a step: the message says how large a batch was, and what takes less.

    What the device or the system said is its `__cause__`.

    Examples
    --------
    >>> issubclass(OutOfMemory, MemoryError)
    True
    """


def check_seed(seed: Any) -> int:
    """A seed that every generator takes: a whole number from 0 to below 2**63.

    Raises
    ------
    InputError
        Where it is none.

    Examples
    --------
    >>> check_seed(7)
    7
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise InputError(f"seed={seed!r} is no seed. Give a whole number from 0 up, below 2**63, such as seed=0.")
    return number


def names_of(given: Any, option: str) -> list[Any]:
    """One name, several, or none (None), as a list.

    Raises
    ------
    InputError
        Where it is none of these.

    Examples
    --------
    >>> names_of("cell_type", "condition"), names_of(None, "condition")
    (['cell_type'], [])
    """
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(f"{option}={given!r} is neither a name nor a list of names. Give a text, or a list of texts.")
    return list(given)


def name_of(given: Any, option: str) -> str | None:
    """One name, or none (None).

    Raises
    ------
    InputError
        Where it is neither.

    Examples
    --------
    >>> name_of("counts", "layer")
    'counts'
    """
    if given is not None and not isinstance(given, str):
        raise InputError(f"{option}={given!r} is no name. Give a text, or leave it out.")
    return given


def values_of(given: Any, option: str) -> dict[Any, Any]:
    """Values by the names of their columns; without any, none.

    Raises
    ------
    InputError
        Where it is no mapping.

    Examples
    --------
    >>> values_of({"state": "control"}, "source")
    {'state': 'control'}
    """
    if given is not None and not isinstance(given, Mapping):
        such = f"{option}={{'cell_type': 'B'}}"
        raise InputError(f"{option}={given!r} does not say which column has which value. Give a dictionary: {such}.")
    return dict(given or {})


def path_of(given: Any, option: str) -> Path:
    """A path, ``~`` being the home folder.

    Raises
    ------
    InputError
        Where it is neither text nor a path.

    Examples
    --------
    >>> path_of("cells.h5ad", "out").suffix
    '.h5ad'
    """
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(f"{option}={given!r} is no path. Give a text, such as {option}='name'.")
    return Path(given).expanduser()


def nearest(name: object, known: Iterable[object]) -> str:
    """The phrase that names what was probably meant, or nothing.

    Examples
    --------
    >>> nearest("cel_type", ["batch", "cell_type"])
    " Did you mean 'cell_type'?"
    """
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def listed(names: Iterable[object], most: int = 5) -> str:
    """Up to `most` names in quotes, and how many more there are.

    Examples
    --------
    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    every = [repr(str(n)) for n in names]
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")
