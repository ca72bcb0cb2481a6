"""Neighbours and copies: against their definitions, scikit-learn, and sets that are known to be bad."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from scflow.errors import InputError
from scflow.metrics import Estimate, copying, coverage, density, duplicates, precision, recall
from scflow.metrics.copies import fingerprints
from scflow.metrics.estimate import share_interval
from scflow.metrics.neighbours import nearest_distances, nearest_neighbours, radii

Array = NDArray[np.float64]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def naive(x: Array, y: Array, k: int) -> dict[str, float]:
    """The four by their definitions."""
    reach_x, reach_y = (NearestNeighbors(n_neighbors=k).fit(z).kneighbors()[0][:, -1] for z in (x, y))
    in_real, in_fake = cdist(x, y) <= reach_y, cdist(y, x) <= reach_x
    return {
        "precision": float(in_real.any(axis=1).mean()),
        "recall": float(in_fake.any(axis=1).mean()),
        "density": float(in_real.sum(axis=1).mean() / k),
        "coverage": float(in_real.any(axis=0).mean()),
    }


def test_the_four_are_their_definitions(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rng.normal(size=(80, 3)) + 0.5, rng.normal(size=(70, 3))
    monkeypatch.setattr("scflow.metrics.neighbours._CHUNK", 900)
    for k in (1, 5):
        expected = naive(x, y, k)
        for metric in (precision, recall, density, coverage):
            assert metric(x, y, k=k).value == pytest.approx(expected[metric.__name__]), metric.__name__


def test_radii_and_nearest_are_those_of_scikit_learn(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow.metrics.neighbours._CHUNK", 500)
    x, y = rng.normal(size=(90, 4)) + 100, rng.normal(size=(60, 4)) + 100
    np.testing.assert_allclose(radii(x, 5), NearestNeighbors(n_neighbors=5).fit(x).kneighbors()[0][:, -1])
    np.testing.assert_allclose(nearest_distances(x, y)[:, 0], cdist(x, y).min(axis=1))
    groups = np.arange(60) % 3
    by_group = nearest_distances(x, y, groups)
    np.testing.assert_allclose(by_group[:, 1], cdist(x, y[groups == 1]).min(axis=1))
    assert (nearest_distances(x, np.vstack([y, x])) == 0).all()
    squares, near = nearest_neighbours(x, 5)
    theirs = NearestNeighbors(n_neighbors=5).fit(x).kneighbors()[1]
    assert (np.sort(near, axis=1) == np.sort(theirs, axis=1)).all()
    np.testing.assert_allclose(squares.max(axis=1) ** 0.5, radii(x, 5))


def test_coverage_and_density_of_one_law_are_what_theory_says(rng: np.random.Generator) -> None:
    # Naeem et al. 2020: whatever the law, a ball of k real cells is missed by as many others about one time in 2^k.
    x, y = rng.normal(size=(2, 1000, 6))
    assert coverage(x, y, k=5).value == pytest.approx(1 - 2**-5, abs=0.015)
    assert coverage(x, y, k=2).value == pytest.approx(1 - 2**-2, abs=0.03)
    assert density(x, y, k=5).value == pytest.approx(1, abs=0.08)


def test_a_dropped_mode_lowers_recall_and_coverage_and_strays_lower_precision_and_density(
    rng: np.random.Generator,
) -> None:
    modes = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20]])
    y = np.concatenate([rng.normal(size=(100, 3)) + m for m in modes])
    whole = np.concatenate([rng.normal(size=(100, 3)) + m for m in modes])
    dropped = np.concatenate([rng.normal(size=(134, 3)) + m for m in modes[:3]])
    for metric in (recall, coverage):
        assert metric(dropped, y).high < metric(whole, y).low
        assert metric(dropped, y).value < 0.8
    for metric in (precision, density):
        assert metric(dropped, y).value == pytest.approx(metric(whole, y).value, abs=0.15)
    strays = np.vstack([whole[100:], rng.normal(size=(100, 3)) - 30])
    for metric in (precision, density):
        assert metric(strays, y).high < metric(whole, y).low


def test_intervals_hold_at_their_rate_or_better(rng: np.random.Generator) -> None:
    pairs = [(rng.normal(size=(100, 4)) * 1.2, rng.normal(size=(100, 4))) for _ in range(50)]
    for metric in (precision, recall, density, coverage):
        found = [metric(x, y) for x, y in pairs]
        mean = np.mean([e.value for e in found])
        assert np.mean([e.low <= mean <= e.high for e in found]) >= 0.88, metric.__name__
    sides = [rng.normal(size=(3, 120, 4)) for _ in range(50)]
    found = [copying(*three) for three in sides]
    mean = np.mean([e.value for e in found])
    assert np.mean([e.low <= mean <= e.high for e in found]) >= 0.88
    assert mean == pytest.approx(1, abs=0.05)


def test_copying_is_0_for_copies_and_takes_equal_numbers(rng: np.random.Generator) -> None:
    train, held_out, new = rng.normal(size=(3, 400, 5))
    assert copying(train, train, held_out) == Estimate(0.0)
    near = copying(train + 0.05 * rng.normal(size=train.shape), train, held_out)
    assert near.high < 0.5
    # With three times as many training cells the nearest would be nearer: 3 ** (-1 / 5) is 0.8.
    many = np.vstack([train, rng.normal(size=(800, 5))])
    assert copying(new, many, held_out).value == pytest.approx(1, abs=0.07)
    assert copying(held_out, train, held_out).value == np.inf
    assert copying(train, train, train).value == 1


def test_duplicates_are_whole_cells_whatever_is_stored(rng: np.random.Generator) -> None:
    train = sparse.csr_matrix(rng.poisson(1.0, size=(50, 30)).astype(np.float32))
    new = rng.poisson(1.0, size=(40, 30)).astype(np.float32)
    new[:10] = train[20:30].toarray()
    cells = sparse.csr_matrix(new)
    # Stored zeros and another order of the entries are the same cell.
    cells.data[cells.indptr[15]] = 0
    turned = (cells.indptr[-1] - cells.indptr[::-1]).astype(cells.indptr.dtype)
    shuffled = sparse.csr_matrix((cells.data[::-1], cells.indices[::-1], turned), shape=cells.shape)
    for given in (cells, sparse.csr_matrix(cells.toarray()), shuffled):
        assert duplicates(given, train).value == 0.25
        assert duplicates(given, fingerprints(train)).value == 0.25
    found = duplicates(cells, train)
    assert found.low < 0.25 < found.high
    # A count more or less is another cell, also where it is off by a large power of two.
    new[0, 0] += 2**16
    assert duplicates(sparse.csr_matrix(new[:10]), train).value == 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: precision(x, x, k=5), r"k=5 neighbours were asked for among 5 and 5 cells"),
        (lambda x: coverage(x, x[:, :1]), r"shapes \(5, 2\) and \(5, 1\)"),
        (lambda x: copying(x, x, x[:, :1]), r"shapes \(5, 2\) and \(5, 1\)"),
        (lambda x: duplicates(sparse.csr_matrix(x), sparse.csr_matrix(x[:, :1])), r"have 2 genes and .* cells 1"),
    ],
)
def test_errors(call: Callable[[Array], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(np.arange(10.0).reshape(5, 2))


@pytest.mark.slow
def test_pairwise_metrics_of_20000_cells_stay_under_4_gb() -> None:
    code = """
import resource, sys
import numpy as np
from scflow.metrics import copying, coverage, density, energy_distance, mmd, mmd_test, precision, recall
from scflow.metrics import sliced_wasserstein
x, y, z = np.random.default_rng(0).normal(size=(3, 20_000, 50))
for metric in (precision, recall, density, coverage, mmd, mmd_test, energy_distance, sliced_wasserstein):
    value = metric(x, y).value
    print(metric.__name__, value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
print("copying", copying(x, y, z).value, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 4e6, done.stderr


@pytest.mark.parametrize(
    ("share", "n", "expected"), [(0.5, 10, (0.2366, 0.7634)), (0.0, 20, (0.0, 0.1611)), (1.0, 20, (0.8389, 1.0))]
)
def test_the_interval_of_a_share_is_wilsons(share: float, n: int, expected: tuple[float, float]) -> None:
    """Worked out by hand: at a share of 0 the upper end is z^2 / (n + z^2)."""
    assert share_interval(share, n) == (
        share,
        pytest.approx(expected[0], abs=1e-4),
        pytest.approx(expected[1], abs=1e-4),
    )
