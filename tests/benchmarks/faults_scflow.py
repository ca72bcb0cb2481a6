"""scflow, as faults.py uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray

import scflow
from scflow.training import Checkpoint


class Adapter:
    """Small flows in gene space."""

    package = Path(scflow.__file__).parent
    file = "flow.safetensors"

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def train(self, cells: AnnData, steps: int, **options: Any) -> scflow.Flow:
        """A flow."""
        look, folder = options.get("callback"), options.get("folder")
        return scflow.tl.train(
            cells,
            condition="cell_type",
            space="genes",
            steps=steps,
            lr=options.get("lr", "auto"),
            checkpoint=None if folder is None else Checkpoint(folder, minutes=0.01),
            resume=options.get("resume", False),
            callbacks=() if look is None else (lambda row: look(),),
            progress=False,
        )

    def again(self, cells: AnnData, folder: Path) -> scflow.Flow:
        """Go on, and stop at the next look as Ctrl-C does."""

        def stop() -> None:
            raise KeyboardInterrupt

        return self.train(cells, 100_000, folder=folder, resume=True, callback=stop)

    def save(self, model: scflow.Flow, folder: Path) -> None:
        """One file."""
        folder.mkdir(exist_ok=True)
        model.save(folder / self.file, overwrite=True)

    def load(self, folder: Path, cells: AnnData) -> scflow.Flow:
        """That file."""
        return scflow.Flow.load(folder / self.file)

    def use(self, model: scflow.Flow, cells: AnnData) -> NDArray[Any]:
        """The noise that each cell comes from."""
        coded = scflow.tl.encode(cells, model, copy=True)
        return np.asarray(coded.obsm["X_scflow_noise"])
