"""Callbacks that send the history of a training elsewhere, row by row.

A callback is any function of one argument, a row of the history as a dictionary: ``callbacks=[print]`` works.
"""

from __future__ import annotations

import math
import os
from typing import Any

from scflow.errors import InputError

__all__ = ["TensorBoard", "WeightsAndBiases"]


class TensorBoard:
    """Writes each row for TensorBoard: ``scflow.tl.train(adata, callbacks=[TensorBoard("runs/first")])``.

    Parameters
    ----------
    folder
        Where TensorBoard looks: ``tensorboard --logdir runs``.

    Raises
    ------
    InputError
        Where TensorBoard is not installed; it comes with the extra ``scflow-tools[tensorboard]``.

    Examples
    --------
    >>> callback = TensorBoard("runs/first")  # doctest: +SKIP
    >>> flow = scflow.tl.train(adata, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("TensorBoard", "tensorboard") from error
        self.writer: Any = SummaryWriter(str(folder))

    def __call__(self, row: dict[str, float]) -> None:
        """Write a row; values that are NaN are left out."""
        for name, value in _values(row).items():
            self.writer.add_scalar(f"scflow/{name}", value, int(row["step"]))
        self.writer.flush()

    def close(self) -> None:
        """Close the file. Rows are on the disk without that."""
        self.writer.close()


class WeightsAndBiases:
    """Logs each row to Weights & Biases: ``callbacks=[WeightsAndBiases(project="cells")]``.

    Parameters
    ----------
    project, name
        Of the run that is begun.
    run
        A run of your own, from ``wandb.init``, in the place of a new one.

    Raises
    ------
    InputError
        Where wandb is not installed; it comes with the extra ``scflow-tools[wandb]``.

    Examples
    --------
    >>> class Run:
    ...     def log(self, row, step):
    ...         print(step, row)
    >>> WeightsAndBiases(run=Run())({"step": 100, "loss": 1.5, "mmd": float("nan")})
    100 {'loss': 1.5}
    """

    def __init__(self, project: str = "scflow", *, name: str | None = None, run: Any = None) -> None:
        if run is None:
            try:
                import wandb
            except ImportError as error:
                raise _missing("Weights & Biases", "wandb") from error
            run = wandb.init(project=project, name=name)
        self.run = run

    def __call__(self, row: dict[str, float]) -> None:
        """Log a row; values that are NaN are left out."""
        self.run.log(_values(row), step=int(row["step"]))

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def _values(row: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "step" and not math.isnan(value)}


def _missing(what: str, extra: str) -> InputError:
    return InputError(f"{what} is not installed. Install it with: pip install 'scflow-tools[{extra}]'")
