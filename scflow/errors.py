"""What scflow raises when it cannot do what was asked, and how it names the nearest thing that it can."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["Diverged", "FileError", "InputError", "OutOfMemory", "check_seed", "listed", "nearest"]


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
