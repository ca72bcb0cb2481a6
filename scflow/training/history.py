"""What happened in training: a table, and a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import pandas as pd

from scflow.training.bars import bar_class

__all__ = ["COLUMNS", "Callback", "Monitor", "Probe"]

COLUMNS = (
    "step",
    "loss",
    "validation_loss",
    "gradient_norm",
    "learning_rate",
    "cells_per_second",
    "clipped",
    "skipped",
)
"""What every history has; a probe adds columns of its own."""

Callback = Callable[[dict[str, float]], None]


class Probe(Protocol):
    """What adds columns to the history."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def report(self, number: int) -> dict[str, float]:
        """Their values at look `number` (from 1), with the averaged weights in place; what is left out is NaN."""
        ...


class Monitor:
    """Keeps the history, shows the progress bar (silent where the output is no terminal), calls the callbacks."""

    def __init__(
        self,
        steps: int,
        *,
        title: str,
        progress: bool,
        callbacks: Sequence[Callback] = (),
        columns: Sequence[str] = (),
    ) -> None:
        self.rows: list[dict[str, float]] = []
        self.title, self.callbacks, self.columns = title, callbacks, (*COLUMNS, *columns)
        self.bar: Any = bar_class()(total=steps, desc=title, unit="step", disable=_silence(progress), leave=True)
        self.since = time.perf_counter()
        self.elapsed: float | None = None
        self.shown = 0

    def lap(self) -> None:
        """Stop the clock: what follows until the next row is a look, and no training."""
        self.elapsed = time.perf_counter() - self.since

    def log(self, row: dict[str, float], *, cells: int) -> None:
        """Record and show a row of the history; `cells` were seen since the last one."""
        elapsed = time.perf_counter() - self.since if self.elapsed is None else self.elapsed
        row["cells_per_second"] = cells / max(elapsed, 1e-9)
        self.rows.append({name: row.get(name, float("nan")) for name in self.columns})
        self.bar.update(int(row["step"]) - self.shown)
        self.shown = int(row["step"])
        self.bar.set_postfix_str(
            f"loss {row['loss']:.4g}, validation {row.get('validation_loss', float('nan')):.4g}, "
            f"rate {row['learning_rate']:.1e}",
            refresh=False,
        )
        self.since, self.elapsed = time.perf_counter(), None

    def tell(self) -> None:
        """Call the callbacks with the last row."""
        for callback in self.callbacks:
            callback(dict(self.rows[-1]))
        self.since = time.perf_counter()

    def give_up(self) -> None:
        """Close what the callbacks write to: nothing more will come."""
        for callback in self.callbacks:
            with suppress(Exception):
                getattr(callback, "close", lambda: None)()

    def restore(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Go on after these rows, of which callbacks have heard already."""
        self.rows = [dict(row) for row in rows]
        self.shown = int(self.rows[-1]["step"]) if self.rows else 0
        self.bar.update(self.shown)
        self.since = time.perf_counter()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()

    def table(self) -> pd.DataFrame:
        """The history, one row an entry."""
        return pd.DataFrame(self.rows, columns=list(self.columns)).astype({"step": int})


def _silence(progress: bool) -> bool | None:
    """Whether tqdm stays silent: always without `progress`; in a notebook never; else unless stderr is a terminal."""
    if not progress:
        return True
    in_notebook = "ipykernel" in sys.modules
    return False if in_notebook else None if sys.stderr is not None and sys.stderr.isatty() else True
