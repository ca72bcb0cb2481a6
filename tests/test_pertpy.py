"""Distances against those of pertpy, where it is there: pip install scflow-tools[agreement]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from scflow.metrics import energy_distance, wasserstein
from scflow.metrics.entropic import _entropic
from scflow.metrics.kernels import biased_mmd

Cloud = NDArray[np.float64]


@pytest.fixture
def clouds() -> tuple[Cloud, Cloud]:
    """Two clouds of different sizes, whose cells are about 1 apart: pertpy's kernel has a fixed width."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 4)) / 3, rng.normal(size=(45, 4)) / 3 + 0.3


@pytest.fixture
def theirs() -> Callable[..., Callable[..., float]]:
    """pertpy's distances by name."""
    pertpy = pytest.importorskip("pertpy", reason="pertpy is in the extra 'agreement'", exc_type=ImportError)
    distance: Callable[..., Callable[..., float]] = pertpy.tools.Distance
    return distance


def test_energy_distance_is_that_of_pertpy(
    theirs: Callable[..., Callable[..., float]], clouds: tuple[Cloud, Cloud]
) -> None:
    """Pertpy's "edistance" compares cells with themselves, too: its means within a cloud are too small.

    It takes Euclidean distances (seen in 1.0.3), as ours does. The E-distance of Peidl et al. 2024 takes squared ones,
    which makes it but twice the squared distance of the means.
    """
    x, y = clouds
    found = theirs("edistance")(x, y)
    bias = sum(cdist(side, side).mean() / (len(side) - 1) for side in (x, y))
    assert bias > 0.03
    assert energy_distance(x, y, interval=False).value == pytest.approx(found - bias, rel=1e-5)


def test_mmd_is_that_of_pertpy(theirs: Callable[..., Callable[..., float]], clouds: tuple[Cloud, Cloud]) -> None:
    """Pertpy's "mmd" with an RBF kernel is squared and biased, with the kernel exp(-|a - b|^2); ours is, of width 1.

    Its default kernel is linear: the squared distance of the means, which nothing of ours computes.
    """
    x, y = clouds
    assert biased_mmd(x, y, [1.0]) == pytest.approx(theirs("mmd")(x, y, kernel="rbf"), rel=1e-5)
    means = x.mean(axis=0) - y.mean(axis=0)
    assert theirs("mmd")(x, y) == pytest.approx(means @ means, rel=1e-5)


def test_wasserstein_is_that_of_pertpy_but_for_the_blur(
    theirs: Callable[..., Callable[..., float]], clouds: tuple[Cloud, Cloud]
) -> None:
    """Pertpy's "wasserstein" is the entropic cost of squared distances, with 0.05 of their standard deviation.

    Ours of the same regularisation is the same, before `sinkhorn` frees it of its bias. The exact distance, squared,
    is less, by at most the regularisation times the information that each cell can have of its partner.
    """
    x, y = clouds
    found = theirs("wasserstein")(x, y)
    costs = cdist(x, y, "sqeuclidean")
    epsilon = 0.05 * float(costs.std())
    assert _entropic(costs, epsilon)[0] == pytest.approx(found, rel=2e-3)
    exact = wasserstein(x, y, interval=False).value ** 2
    assert exact < found < exact + epsilon * np.log(min(len(x), len(y)))
