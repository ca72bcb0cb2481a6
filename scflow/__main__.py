"""`python -m scflow`: the demo, and the verbs on files."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scflow._cli.parser import build_parser
from scflow.errors import FileError, InputError

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; by default that of the process).

    Returns
    -------
    int
        0 when done; 1 where something in the input or the files has to be mended, and one line on standard error says
        what; 130 when stopped by Ctrl-C.

    Raises
    ------
    SystemExit
        With 2 where the command line is not understood; with 0 after `--help` and `--version`.

    Examples
    --------
    >>> main(["score", "nowhere.h5ad", "new.h5ad"])
    1
    """
    options = build_parser().parse_args(argv)
    try:
        with _plain_warnings():
            _runner(options.command)(options)
    except KeyboardInterrupt:
        print("scflow: stopped", file=sys.stderr)
        return 130
    except (InputError, FileError, OSError, FloatingPointError) as error:
        print(f"scflow: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _runner(command: str) -> Callable[[argparse.Namespace], None]:
    """The function of a command; imported only now, so that a wrong command line costs nothing."""
    from scflow._cli import commands, demo

    if command not in commands.SHARED:
        commands.check_alone(command)
    runner: Callable[[argparse.Namespace], None] = demo.demo if command == "demo" else getattr(commands, command)
    return runner


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show what concerns the user as one line, without the place in the code it comes from."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        print(f"scflow: warning: {_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            # For developers; the test suite sees them.
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


if __name__ == "__main__":
    sys.exit(main())
