"""What all tests share: one thread, no windows, and cells to work with."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import scflow
from scflow.codecs import Embedding
from scflow.conditions import Conditions
from scflow.flow import Flow
from scflow.matching import Bare, noises, paths

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


class _Velocity(torch.nn.Module):
    """The velocity from standard normal noise to normal clusters ``[k, dim]`` of one deviation, on the linear path.

    The only condition is the cluster; told none, it leads to all of them.
    """

    means: Tensor

    def __init__(self, means: Tensor, sd: float) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.sd = sd

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """At states ``[n, dim]`` and times ``[n]``."""
        alpha, sigma = (1 - t)[:, None], t[:, None]
        variance = alpha**2 * self.sd**2 + sigma**2
        left = x[:, None] - alpha[:, :, None] * self.means
        fit = -left.square().sum(2) / (2 * variance)
        if condition is not None:
            other = torch.arange(len(self.means), device=x.device) != condition
            fit = fit.masked_fill(other & ~condition.isnan(), -torch.inf)
        slope = (sigma - alpha * self.sd**2) / variance
        each = slope[:, :, None] * left - self.means
        return (torch.softmax(fit, dim=1)[:, :, None] * each).sum(1)


@dataclass(frozen=True, eq=False)
class Exact:
    """A flow in the embedding "X_e" whose velocity is known: to equally frequent normal clusters of one deviation.

    The user's coordinates are ``shift + scale`` times those that the flow lives in.
    """

    flow: Flow
    means: Tensor
    sd: float
    shift: float
    scale: float

    def draw(self, n: int, seed: int = 0) -> AnnData:
        """Cells with their cluster in `.obs["cluster"]`."""
        rng = np.random.default_rng(seed)
        k = rng.integers(len(self.means), size=n)
        x = self.means.numpy()[k] + self.sd * rng.normal(size=(n, self.means.shape[1]))
        return self.cells(x, k)

    def cells(self, x: np.ndarray, cluster: np.ndarray) -> AnnData:
        """Cells at ``x`` of the flow's own coordinates."""
        obs = pd.DataFrame({"cluster": [f"k{i}" for i in cluster]}, index=[f"c{i}" for i in range(len(x))])
        return AnnData(obs=obs, obsm={"X_e": (self.shift + self.scale * x).astype(np.float32)})

    def log_prob(self, adata: AnnData, slot: str = "X_e", *, given: bool = True) -> np.ndarray:
        """The exact density of coordinates in `.obsm`, given the cells' clusters or not."""
        x = torch.from_numpy(np.asarray(adata.obsm[slot], dtype=np.float64))
        centre, sd = self.shift + self.scale * self.means.double(), self.scale * self.sd
        if given:
            k = [int(name[1:]) for name in adata.obs["cluster"]]
            return Normal(centre[k], sd).log_prob(x).sum(1).numpy()
        clusters = Independent(Normal(centre, sd), 1)
        return MixtureSameFamily(Categorical(torch.ones(len(centre))), clusters).log_prob(x).numpy()


def exact_flow(means: Tensor, sd: float, *, conditional: bool = True, shift: float = 0.0, scale: float = 1.0) -> Exact:
    """An :class:`Exact` one."""
    codec = Embedding(means.shape[1])
    codec.mean.fill_(shift)
    codec.sd.fill_(scale)
    names = pd.DataFrame({"cluster": pd.Categorical([f"k{i}" for i in range(len(means))])})
    flow = Flow(
        field=Bare(_Velocity(means.float(), sd)).requires_grad_(False),
        codec=codec,
        path=paths.Linear(),
        noise=noises.Gaussian(),
        conditions=Conditions.from_frame(names) if conditional else Conditions(),
        seen=torch.arange(len(means))[:, None].float() if conditional else torch.zeros(len(means), 0),
        provenance={"use_rep": "X_e", "space": "embedding"},
    )
    return Exact(flow, means, sd, shift, scale)


@pytest.fixture(scope="session")
def clusters() -> Exact:
    """Three clusters in five coordinates."""
    means = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 1.5
    return exact_flow(means, 0.5, shift=4.0, scale=3.0)


@pytest.fixture(scope="session")
def ring() -> Exact:
    """A ring of radius 2, without conditions."""
    angle = torch.arange(30) * (2 * torch.pi / 30)
    return exact_flow(2 * torch.stack([angle.cos(), angle.sin()], dim=1), 0.25, conditional=False)


@pytest.fixture
def short_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same story in seconds: few steps, quick metrics, and no UMAP, which takes long to compile."""
    train, score = scflow.tl.train, scflow.tl.score

    def short_train(adata: AnnData, **given: Any) -> scflow.Flow:
        return train(adata, **given | {"steps": given.get("steps") or 10, "progress": False})

    def short_score(real: AnnData, generated: AnnData, **given: Any) -> Any:
        return score(real, generated, **given | {"metrics": ["mmd", "zero_fractions"]})

    monkeypatch.setattr(scflow.tl, "train", short_train)
    monkeypatch.setattr(scflow.tl, "score", short_score)

    def short_umap(real: sparse.csr_matrix, generated: sparse.csr_matrix, seed: int) -> tuple[Any, Any]:
        return real[:, :2].toarray(), generated[:, :2].toarray()

    # By its full name: `scflow.pl.umap` is the function.
    importlib.import_module("scflow.pl.umap")
    monkeypatch.setattr(sys.modules["scflow.pl.umap"], "_embedded", short_umap)
    monkeypatch.setattr("scflow.flow._learning._DRAWN", 200)
