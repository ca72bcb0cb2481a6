"""Everything that draws cells for quality.py, each trained in a fresh process: so its time and its memory are its own.

python tests/benchmarks/generators.py FOLDER does what FOLDER/request.json asks for; quality.py starts it.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from cells import CONDITION, counts_of, types
from numpy.typing import NDArray
from quality_report import INDEPENDENT, RIVALS
from scipy import sparse

Draw = Callable[[NDArray[np.str_]], sparse.csr_matrix]
"""The wanted types `[n]` to counts `[n, n_genes]`."""


@dataclass(frozen=True)
class Request:
    """One training, and the rows of the table that are drawn with it."""

    space: str
    """A space of scflow, "scvi" or "dca"."""
    rows: tuple[str, ...]
    steps: int | None = None
    """Of scflow; None: chosen from the data's size."""
    epochs: int | None = None
    """Of a rival; None: its own default."""
    seed: int = 0
    threads: int | None = None
    precision: str = "auto"
    """Of scflow's field."""


class Drawn(NamedTuple):
    """Cells of one row, and what they cost."""

    row: str
    counts: sparse.csr_matrix
    costs: dict[str, float]


def drawn(request: Request, train: AnnData, wanted: NDArray[np.str_]) -> Iterator[Drawn]:
    """Train in a fresh process and draw a cell of each wanted type, in each way that the request names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = AnnData(counts_of(train), obs=train.obs[[CONDITION]], var=train.var[[]])
        cells.write_h5ad(folder / "train.h5ad")
        np.save(folder / "wanted.npy", wanted)
        (folder / "request.json").write_text(json.dumps(asdict(request)))
        # What a library prints is not part of the table.
        subprocess.run([sys.executable, __file__, name], stdout=subprocess.DEVNULL, check=True)
        costs = json.loads((folder / "costs.json").read_text())
        for i, row in enumerate(request.rows):
            yield Drawn(row, sparse.load_npz(folder / f"{i}.npz"), costs[row])


def main(arguments: Sequence[str]) -> int:
    """Do what the request in a folder asks for, and leave cells and costs there."""
    folder = Path(arguments[0])
    request = Request(**json.loads((folder / "request.json").read_text()))
    if request.threads:
        torch.set_num_threads(request.threads)
    train, wanted = anndata.read_h5ad(folder / "train.h5ad"), np.load(folder / "wanted.npy")
    learn = {"scvi": scvi, "dca": dca}.get(request.space, scflow_space)(request)
    importlib.import_module("torch._dynamo")  # As the first optimiser does: 150 MB and seconds that are no model's.
    before, start, ticks = resident(), time.perf_counter(), time.process_time()
    ways = learn(train)
    shared = {
        "train_seconds": time.perf_counter() - start,
        "train_cpu_seconds": time.process_time() - ticks,
        "train_mb": (peak() - before) / 1e6,
    }
    costs = {}
    for i, row in enumerate(request.rows):
        start = time.perf_counter()
        counts = ways[row](wanted)
        costs[row] = shared | {"generate_seconds": time.perf_counter() - start}
        sparse.save_npz(folder / f"{i}.npz", sparse.csr_matrix(counts))
    (folder / "costs.json").write_text(json.dumps(costs))
    return 0


# Each of these imports what it needs and returns what trains: the import is not part of the cost.


def scflow_space(request: Request) -> Callable[[AnnData], dict[str, Draw]]:
    """scflow in a space, with all else at its default."""
    import scflow

    train, generate = scflow.tl.train, scflow.tl.generate

    def learn(cells: AnnData) -> dict[str, Draw]:
        given = {"condition": CONDITION, "space": request.space, "steps": request.steps, "precision": request.precision}
        flow = train(cells, **given, seed=request.seed, progress=False)

        def draw(way: str, wanted: NDArray[np.str_]) -> sparse.csr_matrix:
            labels = pd.DataFrame({CONDITION: wanted})
            new = generate(flow, len(wanted), condition=labels, calibration=way, seed=request.seed, progress=False)
            return counts_of(new)

        return {row: partial(draw, "independent" if row.endswith(INDEPENDENT) else "balanced") for row in request.rows}

    return learn


def scvi(request: Request) -> Callable[[AnnData], dict[str, Draw]]:
    """scVI: the codes from its prior, or from a Gaussian for each type."""
    from scvi_rival import ScVI

    def learn(cells: AnnData) -> dict[str, Draw]:
        model = ScVI(cells, request.seed, request.epochs)
        return {RIVALS["scvi"]: model.prior, RIVALS["scvi-gaussian"]: model.gaussian}

    return learn


def dca(request: Request) -> Callable[[AnnData], dict[str, Draw]]:
    """The plain latent flow on a deep count autoencoder."""
    from rivals import EPOCHS, latent_flow, sizes_of_type

    def learn(cells: AnnData) -> dict[str, Draw]:
        counts, labels = counts_of(cells), types(cells)
        names = np.unique(labels)
        codes = torch.from_numpy(np.searchsorted(names, labels))
        model = latent_flow(counts, codes, request.seed, request.epochs or EPOCHS)

        def draw(wanted: NDArray[np.str_]) -> sparse.csr_matrix:
            library = sizes_of_type(counts, labels, wanted, request.seed)
            return model.draw(torch.from_numpy(np.searchsorted(names, wanted)), library, request.seed)

        return {RIVALS["dca"]: draw}

    return learn


def resident() -> int:
    """The size of this process now, in bytes."""
    return _size("VmRSS")


def peak() -> int:
    """The largest size of this process so far, in bytes.

    `ru_maxrss` starts at the size of the process that started this one, on Linux; VmHWM does not.
    """
    return _size("VmHWM")


def _size(field: str) -> int:
    """One size of this process as Linux tells it; elsewhere the peak so far, which after imports is close to both."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = (line.split() for line in status.read_text().splitlines())
        return next(1024 * int(words[1]) for words in lines if words[0] == f"{field}:")
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
