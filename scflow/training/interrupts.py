"""Signals that end a run: heard at any time, obeyed where nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["Ending", "listening", "shielded"]

_Handler = Callable[[int, Any], object]


class Ending:
    """Whether a run has been asked to end, and by which signal.

    The first signal is written down, and the step that is under way comes to its end. A second Ctrl-C does not wait for
    it.
    """

    def __init__(self) -> None:
        self.asked: int | None = None

    def hear(self, number: int, frame: object) -> None:
        """Python calls this for a signal, between two of its instructions."""
        if number == signal.SIGINT and self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number

    def pass_on(self) -> None:
        """Send a SIGTERM on to whoever it was meant for, now that the state is kept: by default it ends the process."""
        if self.asked == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def listening(*, terminate: bool) -> Iterator[Ending]:
    """Hear Ctrl-C while this lasts, and with `terminate` SIGTERM too; afterwards handlers are what they were.

    Only the main thread hears signals. A handler of the caller's own for Ctrl-C stays in place, and so does what
    ignores SIGTERM.
    """
    ending, heard = Ending(), dict[int, _Handler]()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        heard[signal.SIGINT] = ending.hear
    before = signal.getsignal(signal.SIGTERM)
    if terminate and before is not None and before != signal.SIG_IGN:
        heard[signal.SIGTERM] = ending.hear
    with _handled(heard):
        yield ending


@contextmanager
def shielded() -> Iterator[None]:
    """Put off every signal that a handler in Python waits for, Ctrl-C among them, until this is done.

    For what must not be half there: several slots of an AnnData, several weights of the best average.
    """
    late: list[int] = []
    known = [number for number in signal.valid_signals() if callable(signal.getsignal(number))]
    try:
        with _handled(dict.fromkeys(known, lambda number, frame: late.append(number))):
            yield
    finally:
        for number in dict.fromkeys(late):
            signal.raise_signal(number)


@contextmanager
def _handled(handlers: Mapping[int, _Handler]) -> Iterator[None]:
    """Handlers of signals while this lasts, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    try:
        for number, handler in handlers.items():
            before[number] = signal.getsignal(number)
            signal.signal(number, handler)
        yield
    finally:
        _put_back(before)


def _put_back(before: dict[int, Any]) -> None:
    """All of them, even where one that is back already raises at once."""
    if before:
        number, handler = before.popitem()
        try:
            signal.signal(number, handler)
        finally:
            _put_back(before)
