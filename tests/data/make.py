"""The flows that are kept of a released format, and the cells that they draw: ``python tests/data/make.py``.

A file that is kept is never made anew: it is what people have on their disks. Run this for a new format only; it leaves
files that are there as they are.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import scflow
import scflow.flow._learning
from scflow.flow import Flow, Sampling
from scflow.flow._storage import FORMAT

HERE = Path(__file__).parent
N_CELLS = 6
SEED = 5


def cells() -> AnnData:
    """A few cells of eight genes."""
    adata = scflow.datasets.simulate(80, 8, 2, seed=0)
    adata.obs["dose"] = np.random.default_rng(0).normal(5, 2, 80)
    adata.obs["side"] = pd.Categorical(np.where(np.arange(80) % 2, "treated", "control"))
    adata.obs["day"] = [float(i % 2) for i in range(80)]
    adata.obsm["X_own"] = np.random.default_rng(1).normal([3, -1], [2, 0.5], (80, 2))
    return adata


KINDS: dict[str, dict[str, Any]] = {
    "counts": {"space": "counts", "condition": "cell_type"},
    "genes": {"space": "genes", "condition": ["cell_type", "dose"], "noise": "dropout"},
    "quantile": {"space": "quantile"},
    "pca": {"space": "pca", "condition": "dose"},
    "embedding": {"use_rep": "X_own", "condition": "cell_type"},
    "carrying": {"use_rep": "X_own", "source": {"side": "control"}, "target": {"side": "treated"}},
    "course": {"course": "day", "use_rep": "X_own"},
}
"""What each flow was trained on."""


def trained(name: str) -> Flow:
    """A flow of its kind, hardly trained, with a narrow field."""
    scflow.flow._learning._DRAWN = 400
    given = {"steps": 4, "batch_size": 32, "precision": "float32", "device": "cpu", "progress": False}
    return scflow.tl.train(cells(), field=partial(scflow.nn.MLP, width=8, depth=1), **given, **KINDS[name])


def drawn(flow: Flow) -> dict[str, np.ndarray]:
    """Cells of a seed, or where the flow is of cells to carry, its velocity at some."""
    if flow.noise.is_gaussian or flow.codec.has_counts:
        found = flow.draw(N_CELLS, sampling=Sampling(seed=SEED, steps=2))
        counts = {} if found.counts is None else {"counts": found.counts.toarray()}
        return {"state": found.state, "noise": found.noise, **counts}
    x = torch.linspace(-2, 2, N_CELLS * flow.codec.dim).reshape(N_CELLS, -1)
    code = None if not len(flow.conditions) else flow.seen[:1].expand(N_CELLS, -1)
    with torch.no_grad():
        return {"velocity": flow.field(x, torch.linspace(0, 1, N_CELLS), code).numpy()}


def main() -> int:
    """Write what is not there."""
    torch.set_num_threads(1)
    folder = HERE / f"format-{FORMAT}"
    folder.mkdir(exist_ok=True)
    flows = {name: trained(name) for name in KINDS}
    flows["map"] = scflow.tl.distill(
        flows["embedding"], steps=2, n_trajectories=200, batch_size=32, device="cpu", progress=False
    )
    for name, whole in flows.items():
        flow = whole if name == "embedding" else replace(whole, raw=None)
        path = folder / f"{name}.safetensors"
        if not path.exists():
            flow.save(path)
            np.savez_compressed(folder / f"{name}.npz", **drawn(flow))
            print(path, path.stat().st_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
