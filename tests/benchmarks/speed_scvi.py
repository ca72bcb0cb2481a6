"""How fast scVI trains, by the operations of its matrix products: its network has another shape than a field."""

from __future__ import annotations

import time
from typing import Any

import scvi
from anndata import AnnData
from scvi_rival import quiet
from speed_turns import Setting
from torch.utils.flop_counter import FlopCounterMode

_LAYERS = range(1, 13)


def rate(adata: AnnData, setting: Setting, wanted: float, *, seconds: float) -> float:
    """Operations a second of scVI's own `train`, in the network that is nearest to `wanted` operations a cell.

    Its hidden layers are as wide as the field's, and there are as many as make the cost equal.
    """
    quiet()
    scvi.settings.seed = 0
    cells = AnnData(adata.X.copy(), obs=adata.obs[["cell_type"]].copy())
    scvi.model.SCVI.setup_anndata(cells, batch_key="cell_type")
    costs = {n: cost(cells, setting, n) for n in _LAYERS}
    layers = min(costs, key=lambda n: abs(costs[n] - wanted))
    model = scvi.model.SCVI(cells, n_hidden=setting.width, n_layers=layers)
    epoch = trained(model, setting, 1)
    epoch = trained(model, setting, 1)
    epochs = max(1, round(seconds / epoch))
    took = trained(model, setting, epochs)
    n_train = len(model.train_indices) // setting.batch * setting.batch or len(model.train_indices)
    return costs[layers] * epochs * n_train / took


def trained(model: Any, setting: Setting, epochs: int) -> float:
    """Seconds of so many epochs."""
    start = time.perf_counter()
    model.train(
        epochs,
        accelerator="cpu" if setting.device == "cpu" else "gpu",
        batch_size=setting.batch,
        enable_progress_bar=False,
        logger=False,
        datasplitter_kwargs={"drop_last": True},
    )
    return time.perf_counter() - start


def cost(cells: AnnData, setting: Setting, layers: int) -> float:
    """Operations a cell of a step: forward and backward."""
    model = scvi.model.SCVI(cells, n_hidden=setting.width, n_layers=layers)
    batch = next(iter(model._make_data_loader(cells, batch_size=128)))
    with FlopCounterMode(display=False) as counter:
        _, _, loss = model.module(batch)
        loss.loss.backward()
    return float(counter.get_total_flops()) / len(next(iter(batch.values())))
