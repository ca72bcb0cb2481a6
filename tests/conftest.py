"""What all tests share: one thread, no windows, and cells to work with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import matplotlib
import pytest
import torch
from anndata import AnnData

import scflow

matplotlib.use("Agg")
# One thread, so that sums are added in the same order on every machine.
torch.set_num_threads(1)


def data_folder() -> Path:
    """The folder of real data: `SCFLOW_DATA` where it is set, otherwise ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("SCFLOW_DATA", beside))


@pytest.fixture(scope="session")
def _pbmc() -> AnnData:
    return scflow.datasets.pbmc68k()


@pytest.fixture
def pbmc(_pbmc: AnnData) -> AnnData:
    """700 real cells with counts, the test's own copy."""
    return _pbmc.copy()


@pytest.fixture(scope="session")
def _simulated() -> AnnData:
    return scflow.datasets.simulate(200, 50, 3, n_programmes=2, dropout=0.05, seed=1)


@pytest.fixture
def simulated(_simulated: AnnData) -> AnnData:
    """200 simulated cells of 50 genes, three types and two batches, the test's own copy."""
    return _simulated.copy()


@pytest.fixture(scope="module")
def small_flows() -> Iterator[None]:
    """Narrow networks and few cells to calibrate on, for tests of bookkeeping and not of quality.

    A module asks for it with `pytestmark`. Its own module fixtures that train name it too: so it comes before them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scflow.nn.mlp._width", lambda dim: 32)
        # Bits are promised on a CPU: that is what "auto" is to find here.
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("torch.backends.mps.is_available", lambda: False)
        patch.setattr("scflow.flow._learning._DRAWN", 1024)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], AnnData]:
    """Read a file of the data folder by name, such as ``shared_data("pbmc3k")``, or skip the test and say why."""

    def read(name: str) -> AnnData:
        path = data_folder() / f"{name.removesuffix('.h5ad')}.h5ad"
        if not path.is_file():
            pytest.skip(f"{path.name} is not in the data folder; see data/README.md, and set SCFLOW_DATA to its folder")
        return anndata.read_h5ad(path)

    return read
