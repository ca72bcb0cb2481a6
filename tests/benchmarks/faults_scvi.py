"""scvi-tools, as faults.py uses it; needs the extra `benchmarks`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from scvi.train import SaveCheckpoint
from scvi_rival import quiet


class Looking(Callback):
    """A callback of the user's own."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Look."""
        self.look()


class Adapter:
    """Models with scVI's defaults, the type their batch."""

    package = Path(scvi.__file__).parent
    file = "model.pt"

    def __init__(self) -> None:
        torch.set_num_threads(1)
        quiet()

    def train(self, cells: AnnData, steps: int, **options: Any) -> scvi.model.SCVI:
        """A model; `kept` holds it while it trains, for a run that ends early."""
        scvi.settings.seed = 0
        scvi.model.SCVI.setup_anndata(cells, batch_key="cell_type")
        model = scvi.model.SCVI(cells, n_hidden=32)
        options.get("kept", {})["model"] = model
        look, folder = options.get("callback"), options.get("folder")
        callbacks: list[Callback] = [] if look is None else [Looking(look)]
        if folder is not None:
            scvi.settings.logging_dir = str(folder)
            callbacks.append(SaveCheckpoint(str(folder), monitor="elbo_validation", save_top_k=1))
        model.train(
            max(1, steps // 3),
            accelerator="cpu",
            enable_progress_bar=False,
            logger=False,
            check_val_every_n_epoch=1,
            plan_kwargs={"lr": options["lr"]} if "lr" in options else None,
            callbacks=callbacks,
            **({"enable_checkpointing": True} if folder is not None else {}),
        )
        return model

    def again(self, cells: AnnData, folder: Path) -> scvi.model.SCVI:
        """The newest checkpoint that can be read: scvi-tools has no way to go on with a run."""
        failed: Exception | None = None
        for found in sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                return self.load(found, cells)
            except Exception as error:
                failed = error
        raise failed or FileNotFoundError("no checkpoint")

    def save(self, model: scvi.model.SCVI, folder: Path) -> None:
        """A folder with one file in it."""
        model.save(str(folder), overwrite=True)

    def load(self, folder: Path, cells: AnnData) -> scvi.model.SCVI:
        """That folder."""
        return scvi.model.SCVI.load(str(folder), adata=cells, accelerator="cpu")

    def use(self, model: scvi.model.SCVI, cells: AnnData) -> NDArray[Any]:
        """The mean code of each cell."""
        with contextlib.redirect_stdout(None):
            return np.asarray(model.get_latent_representation(cells))
