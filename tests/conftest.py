"""What all tests share: one thread, no windows, and cells to work with."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
import torch
from anndata import AnnData

import scflow

matplotlib.use("Agg")
torch.set_num_threads(1)  # for fixtures of modules and sessions, too


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums are added in the same order on every machine. Anew for each test: numba, in scanpy, changes the number."""
    torch.set_num_threads(1)


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
