"""Sliced and blurred transport and the permutation test, against closed forms, POT and simulations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import ot
import pytest
from scipy import stats

from scflow.errors import InputError
from scflow.metrics import mmd, mmd_test, sinkhorn, sliced_wasserstein, wasserstein


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_sliced_of_a_permutation_is_zero_and_of_one_dimension_exact(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(45, 1))
    assert sliced_wasserstein(x, rng.permutation(x)).value == 0
    for p in (1, 2, 3):
        exact = wasserstein(x[:, :1], y, p=p).value
        assert sliced_wasserstein(x[:, :1], y, p=p, n_projections=3).value == pytest.approx(exact)
    assert sliced_wasserstein(x[:, :1], y, p=1).value == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]))


def test_sliced_of_a_shift_is_the_closed_form(rng: np.random.Generator) -> None:
    # E <shift, theta>^2 over the sphere is |shift|^2 / d.
    x = rng.normal(size=(100, 4))
    assert sliced_wasserstein(x, x + np.array([3, 0, 4, 0]), n_projections=20_000).value == pytest.approx(2.5, rel=0.02)


def test_sliced_is_that_of_the_library_with_the_same_directions(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(70, 5)), rng.normal(size=(70, 5)) * 1.5
    directions = np.random.default_rng(7).normal(size=(5, 30))
    directions /= np.linalg.norm(directions, axis=0)
    theirs = ot.sliced_wasserstein_distance(x, y, projections=directions)
    assert sliced_wasserstein(x, y, n_projections=30, seed=7).value == pytest.approx(theirs)


def test_sliced_interval_is_that_of_exact_transport_in_one_dimension_and_holds(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(200, 1)) + 1, rng.normal(size=(150, 1))
    assert sliced_wasserstein(x, y, n_projections=2) == pytest.approx(wasserstein(x, y), rel=0.02)
    found = [sliced_wasserstein(rng.normal(size=(60, 3)) + 0.7, rng.normal(size=(60, 3)), seed=1) for _ in range(60)]
    mean = np.mean([e.value for e in found])
    assert 0.88 <= np.mean([e.low <= mean <= e.high for e in found]) <= 1


def test_sinkhorn_is_zero_for_a_permutation_and_exact_for_a_shift(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 4))
    assert sinkhorn(x, rng.permutation(x)).value == pytest.approx(0, abs=1e-6)
    # The blur moves with the cloud: what is left of a shift is its squared length.
    assert sinkhorn(x, x + np.array([3, 0, 4, 0])).value == pytest.approx(25, rel=1e-4)
    assert sinkhorn(x, x + np.array([3, 0, 4, 0]), regularisation=0.5).value == pytest.approx(25, rel=1e-4)


def test_sinkhorn_of_gaussians_is_the_closed_form(rng: np.random.Generator) -> None:
    # Janati et al. 2020, proposition 1, in one dimension, with the entropy relative to the product of the clouds.
    def entropic(a: float, b: float, mean: float, epsilon: float) -> float:
        root = np.sqrt(16 * a**2 * b**2 + epsilon**2)
        log = (epsilon / 2) * (np.log(epsilon + root) - np.log(2 * epsilon))
        return float(mean**2 + a**2 + b**2 - root / 2 + epsilon / 2 + log)

    x, y = rng.normal(size=(700, 1)) * 2 + 3, rng.normal(size=(700, 1))
    epsilon = 2.0
    expected = entropic(2, 1, 3, epsilon) - entropic(2, 2, 0, epsilon) / 2 - entropic(1, 1, 0, epsilon) / 2
    found = sinkhorn(x, y, regularisation=epsilon / float(np.median((x - y.T) ** 2)))
    assert found.value == pytest.approx(expected, rel=0.1)
    assert found.low < expected < found.high


def test_sinkhorn_is_that_of_the_library(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(40, 3)) + 1
    epsilon = float(np.median(ot.dist(x, y)))

    def cost(a: object, b: object) -> float:
        plan = ot.sinkhorn([], [], ot.dist(a, b), epsilon, stopThr=1e-10)
        product = np.full(plan.shape, 1 / plan.size)
        return float((plan * ot.dist(a, b)).sum() + epsilon * (plan * np.log(plan / product)).sum())

    expected = cost(x, y) - cost(x, x) / 2 - cost(y, y) / 2
    assert sinkhorn(x, y, regularisation=1.0).value == pytest.approx(expected, rel=1e-4)


def test_sinkhorn_in_logarithms_is_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 1
    plain = sinkhorn(x, y)
    monkeypatch.setattr("scflow.metrics.entropic._LARGEST_EXPONENT", 0.0)
    assert sinkhorn(x, y) == pytest.approx(plain, rel=1e-4)


def test_sinkhorn_that_does_not_converge_is_an_error(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow.metrics.entropic._MOST_ITERATIONS", 2)
    with pytest.raises(RuntimeError, match=r"30 x 30 cells did not converge: .*Give a larger regularisation"):
        sinkhorn(rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 1)


def test_permutation_test_is_the_naive_one(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(15, 3)) + 0.4, rng.normal(size=(12, 3))
    both, order = np.vstack([x, y]), np.random.default_rng(5)
    values = [mmd(x, y, bandwidth=2.0, interval=False).value]
    for _ in range(50):
        split = order.permutation(27)
        values.append(mmd(both[split[:15]], both[split[15:]], bandwidth=2.0, interval=False).value)
    found = mmd_test(x, y, bandwidth=2.0, n_permutations=50, seed=5)
    assert found.value == pytest.approx(np.mean(np.array(values) >= values[0]))
    assert np.isnan(found.low)


def test_permutation_p_is_uniform_for_one_law_and_small_for_two(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = [mmd_test(*rng.normal(size=(2, 20, 3)), n_permutations=49, seed=i).value for i in range(150)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    x, y = rng.normal(size=(2, 60, 3))
    whole = mmd_test(x, y + 1)
    assert whole.value == 1 / 200
    monkeypatch.setattr("scflow.metrics.kernels._CHUNK", 700)
    assert mmd_test(x, y + 1) == pytest.approx(whole, nan_ok=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: sliced_wasserstein(x, x, p=0), r"p=0 and n_projections=200 give no sliced distance"),
        (lambda x: sliced_wasserstein(x, x, n_projections=0), r"at least one direction"),
        (lambda x: sinkhorn(x, x + 1, regularisation=0), r"regularisation=0 times the median squared distance"),
        (lambda x: mmd_test(x, x + 1, n_permutations=0), r"5 and 5 cells with n_permutations=0 give no p-value"),
    ],
)
def test_errors(call: Callable[[object], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(np.arange(10.0).reshape(5, 2))
