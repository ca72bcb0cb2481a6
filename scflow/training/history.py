"""What happened in training: a table, and a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

__all__ = ["COLUMNS", "Callback", "Monitor"]

COLUMNS = ("step", "loss", "validation_loss", "gradient_norm", "learning_rate", "cells_per_second")

Callback = Callable[[dict[str, float]], None]


class Monitor:
    """Keeps the history, shows the progress bar (silent where the output is no terminal), calls the callbacks."""

    def __init__(self, steps: int, *, title: str, progress: bool, callbacks: Sequence[Callback] = ()) -> None:
        from tqdm.auto import tqdm

        self.rows: list[dict[str, float]] = []
        self.callbacks = callbacks
        self.bar: Any = tqdm(total=steps, desc=title, unit="step", disable=_silence(progress), leave=True)
        self.since = time.perf_counter()
        self.shown = 0

    def log(self, row: dict[str, float], *, cells: int) -> None:
        """Record a row of the history; `cells` were seen since the last one."""
        now = time.perf_counter()
        row["cells_per_second"] = cells / max(now - self.since, 1e-9)
        self.since = now
        self.rows.append({name: row.get(name, float("nan")) for name in COLUMNS})
        self.bar.update(int(row["step"]) - self.shown)
        self.shown = int(row["step"])
        self.bar.set_postfix_str(
            f"loss {row['loss']:.4g}, validation {row.get('validation_loss', float('nan')):.4g}, "
            f"rate {row['learning_rate']:.1e}",
            refresh=False,
        )
        for callback in self.callbacks:
            callback(dict(self.rows[-1]))
        self.since = time.perf_counter()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()

    def table(self) -> pd.DataFrame:
        """The history, one row an entry."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"step": int})


def _silence(progress: bool) -> bool | None:
    """Whether tqdm stays silent: always without `progress`; in a notebook never; else unless stderr is a terminal."""
    if not progress:
        return True
    in_notebook = "ipykernel" in sys.modules
    return False if in_notebook else None if sys.stderr is not None and sys.stderr.isatty() else True
