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
        0 when done; 1 where something in the input, the files or the memory has to be mended, and one line on standard
        error says what; 130 when stopped by Ctrl-C, where `train`, `reflow` and `distill` save the best flow so far
        first; 143 when stopped by SIGTERM, which a scheduler sends: what is being written is removed, and with
        `--checkpoint` the state is kept after the step that is under way.

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
        with _plain_warnings(), _terminating():
            _runner(options.command)(options)
    except KeyboardInterrupt as stop:
        print(f"scflow: stopped{_how_to_go_on(options) or _said(stop)}", file=sys.stderr)
        return 130
    except _Terminated:
        print(f"scflow: stopped by SIGTERM{_how_to_go_on(options)}", file=sys.stderr)
        return 143
    except (InputError, FileError, OSError, FloatingPointError, MemoryError) as error:
        print(f"scflow: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


class _Terminated(BaseException):
    """SIGTERM was sent: everything on the way out is closed or removed."""


@contextmanager
def _terminating() -> Iterator[None]:
    """Raise where SIGTERM comes, instead of ending at once; a handler of someone else stays."""
    import signal
    import threading

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _how_to_go_on(options: argparse.Namespace) -> str:
    """How the run goes on whose state was kept."""
    folder = getattr(options, "checkpoint", None)
    return "" if folder is None else f". Go on with the same command and --resume: the state is in {str(folder)!r}"


def _said(stop: BaseException) -> str:
    return f". {_one_line(stop)}" if str(stop) else ""


def _runner(command: str) -> Callable[[argparse.Namespace], None]:
    """The function of a command; imported only now, so that a wrong command line costs nothing."""
    from scflow._cli import commands, demo

    if command not in commands.SHARED:
        commands.check_alone(command)
    runner: Callable[[argparse.Namespace], None] = demo.demo if command == "demo" else getattr(commands, command)
    return runner


def _one_line(message: object) -> str:
    """The message of an error with its notes, or another one."""
    return " ".join(" ".join([str(message), *getattr(message, "__notes__", [])]).split())


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
