"""The recipes' parts, against the formulas of their scripts written out, and other libraries where they are there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist, pdist

from scflow.metrics import PRESETS
from scflow.metrics.kernels import biased_mmd, mean_square
from scflow.metrics.lisi import lisi
from scflow.metrics.presets import preset_named
from scflow.metrics.space import log_normalised


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_biased_mmd_is_the_whole_double_sum(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) + 1

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-cdist(a, b, "sqeuclidean") / w).mean() for w in (0.5, 2.0)]))

    assert biased_mmd(x, y, [0.5, 2.0]) == pytest.approx(k(x, x) + k(y, y) - 2 * k(x, y))
    assert mean_square(x) == pytest.approx((pdist(x) ** 2).mean())


def test_lisi_is_2_for_mixed_and_1_for_separate_clouds(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 300, 4))
    assert 1.85 < lisi(x, y) <= 2
    assert lisi(x, y + 30) == 1
    assert 1 < lisi(x, y + 1.5) < lisi(x, y)


def test_lisi_is_that_of_scib_metrics(rng: np.random.Generator) -> None:
    scib_metrics = pytest.importorskip("scib_metrics", reason="scib-metrics is in the extra 'agreement'")
    from scib_metrics.nearest_neighbors import pynndescent

    x, y = rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 0.5
    neighbours = pynndescent(np.vstack([x, y]), n_neighbors=91)
    theirs = np.median(scib_metrics.lisi_knn(neighbours, np.repeat([0, 1], 300), perplexity=30))
    assert lisi(x, y) == pytest.approx(theirs, abs=0.05)


def test_cfgen_projects_generated_cells_without_centring(rng: np.random.Generator) -> None:
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(1, 3, size=(60, 40))))
    found = PRESETS["cfgen"].measure(counts, counts, {"all": np.arange(60)}, 0)
    # The very same cells: what is left between them is the projection of their mean.
    dense = log_normalised(counts).toarray().astype(np.float64)
    axes = np.linalg.svd(dense - dense.mean(axis=0), full_matrices=False)[2][:30]
    shift = float(np.linalg.norm(axes @ dense.mean(axis=0)))
    assert shift > 1
    assert found["cfgen_wasserstein_2"]["all"].value == pytest.approx(shift, rel=1e-4)


def test_scdiffusion_of_the_same_cells_is_perfect(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow.metrics.presets._TREES", 5)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(1, 3, size=(120, 40))))
    found = PRESETS["scdiffusion"].measure(counts, counts, {"all": np.arange(120)}, 0)
    perfect = {"spearman": 1, "pearson": 1, "mmd": 0, "wasserstein": 0}
    for name, value in perfect.items():
        assert found[f"scdiffusion_{name}"]["all"].value == pytest.approx(value, abs=1e-6)


def test_presets_are_named() -> None:
    assert preset_named("cfgen") is PRESETS["cfgen"]
    for preset in PRESETS.values():
        assert all(figure.about and figure.better in ("less", "more", "floor") for figure in preset.figures.values())
