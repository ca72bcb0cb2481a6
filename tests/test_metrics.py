"""The judge's mathematics against closed forms, naive formulas, other libraries and simulations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import ot
import pytest
from numpy.typing import NDArray
from scipy import sparse, stats
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score

from scflow.errors import InputError
from scflow.metrics import (
    DEFAULT,
    METRICS,
    Estimate,
    Space,
    Yardstick,
    auc,
    energy_distance,
    gene_correlation,
    gene_means,
    gene_variances,
    judge,
    ks,
    library_sizes,
    log_normalised,
    median_distance,
    mmd,
    out_of_fold,
    poisson_cells,
    profile,
    two_sample_auc,
    wasserstein,
    zero_fractions,
)
from scflow.metrics import classifiers as classifiers_module
from scflow.metrics.sides import Cells, Setting

Array = NDArray[np.float64]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def covered(target: float, estimates: list[Estimate]) -> float:
    return float(np.mean([e.low <= target <= e.high for e in estimates]))


def counts_of(rng: np.random.Generator, n: int, rates: Array) -> sparse.csr_matrix:
    depth = rng.gamma(5.0, 0.2, size=(n, 1))
    return sparse.csr_matrix(rng.poisson(depth * rates).astype(np.float32))


# Optimal transport


@pytest.mark.parametrize("p", [1, 2, 3])
def test_wasserstein_of_a_translation_is_its_length(rng: np.random.Generator, p: float) -> None:
    x = rng.normal(size=(60, 4))
    assert wasserstein(x, x + np.array([3, 0, 4, 0]), p=p).value == pytest.approx(5.0)


def test_wasserstein_of_a_permutation_is_zero(rng: np.random.Generator) -> None:
    x = rng.normal(size=(100, 5)) * 1e3 + 1e6
    assert wasserstein(x, rng.permutation(x)).value == 0


def test_wasserstein_equals_the_library_with_unequal_sizes(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(70, 3)), rng.normal(size=(45, 3)) + 0.5
    assert wasserstein(x, y).value == pytest.approx(ot.emd2([], [], ot.dist(x, y)) ** 0.5, rel=1e-9)
    assert wasserstein(x[:, :1], y[:, :1], p=1).value == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]))


def test_wasserstein_of_gaussians_is_the_closed_form(rng: np.random.Generator) -> None:
    # |m|^2 + (s - 1)^2 for each axis (Dowson and Landau 1982); in one dimension the bias of finite samples is small.
    x, y = rng.normal(size=(1500, 1)) * 2 + 3, rng.normal(size=(1500, 1))
    found = wasserstein(x, y)
    assert found.low < (3**2 + 1) ** 0.5 < found.high
    assert found.value == pytest.approx(10**0.5, rel=0.05)


def test_wasserstein_interval_holds_at_its_rate(rng: np.random.Generator) -> None:
    found = [wasserstein(rng.normal(size=(60, 3)) + 0.7, rng.normal(size=(60, 3))) for _ in range(120)]
    assert 0.88 <= covered(float(np.mean([e.value for e in found])), found) <= 1


def test_wasserstein_that_is_not_solved_is_an_error(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow.metrics.transport._MOST_ITERATIONS", 1)
    x = rng.normal(size=(40, 3))
    with pytest.raises(RuntimeError, match=r"Optimal transport of 40 x 40 cells was not solved: numItermax"):
        wasserstein(x, rng.permutation(x) + rng.normal(size=(40, 3)))


# Kernels


def naive_mmd(x: Array, y: Array, h: float) -> float:
    scales = (0.25, 0.5, 1.0, 2.0, 4.0)

    def k(a: Array, b: Array) -> Array:
        return np.mean([np.exp(-cdist(a, b, "sqeuclidean") / (2 * (s * h) ** 2)) for s in scales], axis=0)

    n, m = len(x), len(y)
    xx, yy = (k(a, a).sum() - len(a) for a in (x, y))
    return float(xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * k(x, y).mean())


def test_mmd_is_the_naive_double_sum(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rng.normal(size=(37, 4)), rng.normal(size=(52, 4)) + 0.4
    h = float(np.median(pdist(np.vstack([x, y]))))
    assert median_distance(x, y) == pytest.approx(h)
    assert mmd(x, y).value == pytest.approx(naive_mmd(x, y, h), abs=1e-12)
    assert mmd(x, y, bandwidth=2.0).value == pytest.approx(naive_mmd(x, y, 2.0), abs=1e-12)
    whole = mmd(x, y, seed=3)
    monkeypatch.setattr("scflow.metrics.kernels._CHUNK", 200)
    assert mmd(x, y, seed=3) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("distance", [lambda x, y: mmd(x, y, bandwidth=2.0, interval=False), energy_distance])
def test_kernel_distances_of_one_law_are_zero_on_average(distance: Callable[..., Estimate]) -> None:
    rng = np.random.default_rng(1)
    values = np.array([distance(*rng.normal(size=(2, 30, 3))).value for _ in range(200)])
    assert abs(values.mean()) < 3 * values.std() / 200**0.5
    assert (values < 0).any()


def test_energy_distance_is_that_of_scipy_without_its_bias(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=60), rng.normal(size=40) * 2 + 1
    bias = pdist(x[:, None]).mean() / 60 + pdist(y[:, None]).mean() / 40
    found = energy_distance(x[:, None], y[:, None])
    assert found.value == pytest.approx(stats.energy_distance(x, y) ** 2 - bias, abs=1e-9)


def test_kernel_intervals_hold_at_their_rate(rng: np.random.Generator) -> None:
    pairs = [(rng.normal(size=(60, 3)) + 0.5, rng.normal(size=(60, 3))) for _ in range(120)]
    for found in ([mmd(*p, bandwidth=2.0) for p in pairs], [energy_distance(*p) for p in pairs]):
        assert 0.88 <= covered(float(np.mean([e.value for e in found])), found) <= 1
    # Of equal clouds they are on the safe side.
    null = [mmd(*rng.normal(size=(2, 60, 3)), bandwidth=2.0) for _ in range(100)]
    assert covered(0.0, null) >= 0.94


def test_kernel_bootstrap_does_not_compare_a_cell_with_itself(rng: np.random.Generator) -> None:
    # With a tiny bandwidth every kernel between different cells is 0, so every bootstrapped value must be as well.
    x, y = rng.normal(size=(2, 30, 3))
    assert mmd(x, y, bandwidth=1e-6) == Estimate(0.0, 0.0, 0.0)


# Classifiers


@pytest.mark.parametrize("classifier", ["forest", "logistic"])
def test_auc_of_two_halves_and_of_separate_clouds(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, classifier: str
) -> None:
    monkeypatch.setattr(classifiers_module, "_TREES", 40)
    x, y = rng.normal(size=(2, 150, 4))
    same = two_sample_auc(x, y, classifier=classifier)
    assert same.low < 0.5 < same.high
    assert two_sample_auc(x, y + 6, classifier=classifier).value > 0.99
    assert two_sample_auc(x, y, classifier=classifier) == same


def test_auc_is_the_mean_of_the_librarys_over_folds(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 2)) + 0.5, rng.normal(size=(50, 2))
    scores = out_of_fold(x, y, classifier="logistic")
    folds = []
    for k in range(5):
        a, b = scores.x[scores.fold_x == k], scores.y[scores.fold_y == k]
        assert len(a) == len(b) == 10
        folds.append(roc_auc_score(np.repeat([1, 0], 10), np.concatenate([a, b])))
    assert auc(scores).value == pytest.approx(np.mean(folds))


def test_auc_of_one_law_is_a_half_on_average_and_its_interval_holds() -> None:
    # Values are not folded up, and scores of different folds are not pooled: either would move the mean.
    rng = np.random.default_rng(2)
    found = [two_sample_auc(*rng.normal(size=(2, 40, 3)), classifier="logistic", seed=10 * i) for i in range(150)]
    values = np.array([e.value for e in found])
    assert abs(values.mean() - 0.5) < 3 * values.std() / 150**0.5
    assert values.min() < 0.45
    assert covered(0.5, found) >= 0.9


def test_folds_share_out_every_stratum(rng: np.random.Generator) -> None:
    strata = rng.permutation(np.repeat(["a", "b"], [40, 15]))
    x, y = rng.normal(size=(2, 55, 2))
    scores = out_of_fold(x, y, classifier="logistic", strata_x=strata, strata_y=strata)
    for fold in (scores.fold_x, scores.fold_y):
        assert np.bincount(fold[strata == "a"]).tolist() == [8] * 5
        assert np.bincount(fold[strata == "b"]).tolist() == [3] * 5
    rare = scores.among(strata == "b", strata == "b")
    assert len(rare.x) == 15
    assert 0 <= auc(rare).value <= 1


# Genes


def test_gene_metrics_are_the_dense_formulas(rng: np.random.Generator) -> None:
    x, y = counts_of(rng, 40, np.linspace(0.1, 3, 12)), counts_of(rng, 50, np.linspace(0.2, 2, 12))
    a, b = x.toarray().astype(np.float64), y.toarray().astype(np.float64)
    assert gene_means(x, y).value == pytest.approx(np.abs(a.mean(0) - b.mean(0)).mean())
    assert gene_variances(x, y).value == pytest.approx(np.abs(a.var(0, ddof=1) - b.var(0, ddof=1)).mean())
    assert zero_fractions(x, y).value == pytest.approx(np.abs((a == 0).mean(0) - (b == 0).mean(0)).mean())
    r = np.corrcoef(a.mean(0), b.mean(0))[0, 1]
    assert gene_means(x, y, compare="correlation").value == pytest.approx(r)
    found = profile(x)
    np.testing.assert_allclose(found.variance, a.var(0, ddof=1))
    np.testing.assert_allclose(found.zeros, (a == 0).mean(0))


def test_gene_correlation_is_numpys_over_the_most_variable_genes(rng: np.random.Generator) -> None:
    x, y = counts_of(rng, 60, np.linspace(0.3, 3, 15)), counts_of(rng, 70, np.linspace(0.3, 3, 15))
    top = np.argsort(-y.toarray().var(0))[:6]
    a, b = (np.corrcoef(m.toarray()[:, top].T)[np.triu_indices(6, 1)] for m in (x, y))
    assert gene_correlation(x, y, n_genes=6).value == pytest.approx(np.abs(a - b).mean(), rel=1e-5)


def test_gene_correlation_with_a_gene_that_never_varies_is_finite(rng: np.random.Generator) -> None:
    x, y = counts_of(rng, 30, np.array([1.0, 2.0, 0.0])), counts_of(rng, 30, np.array([1.0, 2.0, 0.5]))
    assert np.isfinite(gene_correlation(x, y)).all()


def test_gene_intervals_hold_at_their_rate(rng: np.random.Generator) -> None:
    rates = np.linspace(0.2, 2, 25)
    pairs = [(counts_of(rng, 80, rates), counts_of(rng, 80, 1.4 * rates)) for _ in range(120)]
    for metric in (gene_means, gene_variances, zero_fractions):
        found = [metric(x, y) for x, y in pairs]
        assert 0.85 <= covered(float(np.mean([e.value for e in found])), found) <= 1


def test_ks_is_that_of_scipy_and_its_interval_holds(rng: np.random.Generator) -> None:
    x, y = rng.poisson(5, size=80), rng.poisson(6, size=60)
    assert ks(x, y).value == pytest.approx(stats.ks_2samp(x, y).statistic)
    found = [ks(rng.normal(size=80), rng.normal(size=80) + 0.6, seed=i, n_bootstrap=80) for i in range(80)]
    assert 0.88 <= covered(float(np.mean([e.value for e in found])), found) <= 1


# The space and the trivial generator


def test_space_is_the_references_alone_and_centred_on_it(rng: np.random.Generator) -> None:
    reference, other = counts_of(rng, 80, np.linspace(0.1, 5, 30)), counts_of(rng, 40, np.linspace(5, 0.1, 30))
    space = Space.fit(reference, n_genes=20, n_components=5)
    dense = log_normalised(reference).toarray().astype(np.float64)
    chosen = np.argsort(-dense.var(0))[:20]
    assert sorted(space.chosen) == sorted(chosen)
    np.testing.assert_allclose(space.components(reference).mean(axis=0), 0, atol=1e-5)
    # The other cells are projected with the reference's mean, not with their own.
    mean, axes = dense[:, space.chosen].mean(0), space.loadings
    expected = (log_normalised(other).toarray()[:, space.chosen] - mean) @ axes
    np.testing.assert_allclose(space.components(other), expected, atol=1e-4)
    assert np.abs(space.components(other).mean(axis=0)).max() > 1


def test_space_axes_are_those_of_scikit_learn(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.decomposition import PCA

    monkeypatch.setattr("scflow.metrics.space._CHUNK", 250)
    counts = counts_of(rng, 90, np.linspace(0.1, 8, 25))
    space = Space.fit(counts, n_components=4)
    theirs = PCA(4, svd_solver="full").fit_transform(space.genes(counts).astype(np.float64))
    ours = space.components(counts)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-3)
    assert (space.loadings[np.abs(space.loadings).argmax(axis=0), np.arange(4)] > 0).all()


def test_log_normalised_is_the_formula_and_takes_empty_cells() -> None:
    counts = sparse.csr_matrix(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]))
    expected = [np.log1p([2500.0, 7500.0, 0.0]), [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(log_normalised(counts).toarray(), expected, rtol=1e-6)
    assert library_sizes(counts).tolist() == [4.0, 0.0]


def test_poisson_cells_have_profiles_and_library_sizes_and_nothing_else(rng: np.random.Generator) -> None:
    rates = {"a": np.linspace(0.2, 4, 40), "b": np.linspace(6, 0.1, 40)}
    counts = sparse.csr_matrix(sparse.vstack([counts_of(rng, 60, rates["a"]), counts_of(rng, 30, rates["b"])]))
    labels = np.repeat(["a", "b"], [60, 30])
    drawn = poisson_cells(counts, labels, np.repeat(["b", "a"], 3000), seed=1)
    assert drawn.shape == (6000, 40)
    assert drawn.dtype == np.int32
    for label, rows in (("b", slice(0, 3000)), ("a", slice(3000, None))):
        real, new = counts[np.flatnonzero(labels == label)], drawn[rows]
        depth = library_sizes(real)
        total = np.asarray(real.sum(axis=0), dtype=np.float64).ravel()
        # Poisson around resampled depths: the mean's standard error, with the variance of the depths.
        mean = depth.mean() * total / total.sum()
        variance = mean + depth.var() * (total / total.sum()) ** 2
        error = np.asarray(new.mean(axis=0)).ravel() - mean
        assert (np.abs(error) < 4.5 * np.sqrt(variance / 3000)).all()
        sizes = library_sizes(new)
        assert sizes.mean() == pytest.approx(depth.mean(), rel=0.03)
        assert sizes.var() == pytest.approx(depth.var() + depth.mean(), rel=0.15)


# The protocol


def test_protocol_is_seeded_and_compares_equal_compositions(rng: np.random.Generator) -> None:
    rates = np.linspace(0.3, 4, 20)
    counts = {name: counts_of(rng, 150, rates) for name in ("real", "generated", "reference")}
    labels = {f"{name}_labels": rng.permutation(np.repeat(["a", "b", "c"], [90, 50, 10])) for name in counts}
    metrics = ["mmd", "gene_means", "library_size_ks"]
    rows = judge(**counts, **labels, metrics=metrics)
    assert rows == judge(**counts, **labels, metrics=metrics)
    assert rows != judge(**counts, **labels, metrics=metrics, seed=1)
    assert [row.condition for row in rows] == ["all"] * 3 + ["a"] * 3 + ["b"] * 3
    for row in rows:
        assert row.distance == pytest.approx(row.value - row.floor)
        assert row.low <= row.value <= row.high
        assert np.isnan(row.ratio) == (row.metric == "mmd")


def test_protocol_gives_the_floor_to_real_cells_on_average(rng: np.random.Generator) -> None:
    rates = np.linspace(0.3, 4, 30)
    values, floors = [], []
    for seed in range(12):
        real, generated, reference = (counts_of(rng, 120, rates) for _ in range(3))
        for row in judge(real, generated, reference, metrics=["wasserstein", "gene_variances"], seed=seed):
            values.append(row.value)
            floors.append(row.floor)
    ratio = np.array(values) / np.array(floors)
    assert abs(ratio.mean() - 1) < 3 * ratio.std() / len(ratio) ** 0.5


def test_protocol_gives_pooled_cells_for_a_category_that_the_reference_lacks(rng: np.random.Generator) -> None:
    counts = [counts_of(rng, 100, np.linspace(0.3, 4, 20)) for _ in range(3)]
    labels = [np.repeat(["a", "b"], 50), np.repeat(["a", "b"], 50), np.repeat(["a", "c"], 50)]
    keys = ("real_labels", "generated_labels", "reference_labels")
    rows = judge(*counts, **dict(zip(keys, labels, strict=True)), metrics="gene_means")
    assert all(np.isfinite(row.trivial) for row in rows)
    assert {row.condition for row in rows} == {"all", "a", "b"}


def test_a_used_yardstick_gives_the_table_of_a_new_one_and_figures_the_floor_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    metric = METRICS["mmd"]

    def counted(x: Cells, y: Cells, setting: Setting) -> dict[str, Estimate]:
        calls.append(setting.interval)
        return metric.measure(x, y, setting)

    monkeypatch.setitem(METRICS, "mmd", replace(metric, measure=counted))
    rates = np.linspace(0.3, 4, 20)
    real, reference, *several = (counts_of(rng, 300, rates * by) for by in (1.0, 1.0, 1.0, 1.3))
    labels, drawn = np.repeat(["a", "b"], 150), np.repeat(["a", "b", "c"], [200, 60, 40])
    metrics = ["mmd", "recall", "gene_means", "label_accuracy", "copying", "train_on_synthetic"]
    given: dict[str, Any] = {"reference_labels": labels, "generated_labels": drawn, "seed": 5}
    expected = [judge(real, cells, reference, real_labels=labels, metrics=metrics, **given) for cells in several]
    calls.clear()
    yardstick = Yardstick.of(real, reference, metrics, labels=labels, within=True, **given)
    assert not calls
    found = [yardstick.rows(cells) for cells in several]
    assert found == expected
    assert found[0] != found[1]
    n = len(yardstick.halves)
    assert n > 1
    assert (calls.count(False), calls.count(True)) == (2 * n, 2 * n), "floor and trivial once, each set of cells once"
    # In another order, and after other things were asked of it.
    other = Yardstick.of(real, reference, metrics, labels=labels, within=True, **given)
    overall = {row.metric: row for row in expected[1] if row.condition == "all"}
    assert {name: e.value for name, e in other.measure(several[1]).items()} == {n: r.value for n, r in overall.items()}
    # Sums beside the interval's columns round otherwise.
    floors = {name: row.floor for name, row in overall.items()}
    assert {name: e.value for name, e in other.floor.items()} == pytest.approx(floors, rel=1e-9, abs=1e-12)
    assert other.rows(several[0]) == expected[0]
    with pytest.raises(InputError, match="There are 299 generated cells, and this yardstick was made for 300"):
        other.measure(several[0][:-1])


# Errors and imports


def bad_calls() -> list[tuple[Callable[[], object], str]]:
    x, y = np.zeros((5, 2)), np.ones((5, 3))
    counts = sparse.csr_matrix(np.eye(4))
    labels = np.array(["a", "a", "b", "b"])
    nan = np.array([[0.0, 1.0], [np.nan, 0.0]])
    many = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, size=(60, 8)))
    both = {"real_labels": np.repeat("all", 60), "generated_labels": np.repeat("b", 60)}
    return [
        (lambda: wasserstein(x, y), r"shapes \(5, 2\) and \(5, 3\); expected .* the same d"),
        (lambda: mmd(x[:1], x, bandwidth=1.0), r"1 and 5 cells; an unbiased kernel distance needs at least 2"),
        (lambda: energy_distance(nan, x), r"first cloud holds NaN or infinite values in 1 of 2 rows \(first: row 1\)"),
        (lambda: wasserstein(x, x, p=0.5), r"p=0.5 gives no Wasserstein distance"),
        (lambda: mmd(x, x), r"median distance between 10 cells is 0: most of them are the same"),
        (lambda: mmd(x, x + 1, bandwidth=-1), r"bandwidth=-1 is no length"),
        (lambda: two_sample_auc(x, x, classifier="forrest"), r"no classifier 'forrest'. Did you mean 'forest'"),
        (lambda: two_sample_auc(x, x, folds=6), r"5 and 5 cells cannot be cut into folds=6"),
        (lambda: gene_means(counts, counts[:, :2]), r"shapes \(4, 4\) and \(4, 2\); expected .* same genes"),
        (lambda: gene_means(counts, counts, compare="r"), r"compare='r' is not known"),  # type: ignore[arg-type]
        (lambda: ks(np.array([1.0, np.inf]), np.array([1.0])), r"hold 2 and 1 numbers, of which 1 and 1 are finite"),
        (lambda: Space.fit(counts[:1]), r"reference has 1 cells; a space needs at least 2"),
        (lambda: Space.fit(sparse.csr_matrix(np.ones((4, 3)))), r"4 reference cells are all the same"),
        (lambda: Space.fit(counts).genes(counts[:, :3]), r"counts have 3 genes; this space was fitted on 4"),
        (lambda: poisson_cells(counts, labels[:2], labels), r"4 cells have labels of shape \(2,\)"),
        (lambda: poisson_cells(counts, labels, np.array(["bb"])), r"no reference cell with counts \('bb'\)"),
        (
            lambda: judge(counts, counts, counts),
            r"4 held-out real cells .* leave 2 cells a side .* at least 20: hold out and generate more cells\.$",
        ),
        (lambda: judge(many, many, many, metrics="mdm"), r"no metric 'mdm'. Did you mean 'mmd'\? Choose among 'wasser"),
        (lambda: judge(many, many, many, metrics=["mmd", "mmd"]), r"names no metric, or one twice"),
        (lambda: judge(many, many, many, real_labels=np.repeat("a", 60)), r"Labels were given for some"),
        (lambda: judge(many, many, **both), r"60 of 60 cells are in a category called 'all'"),
        (
            lambda: judge(many, many, real_labels=np.repeat("a", 60), generated_labels=np.repeat("b", 60)),
            r"leave 0 cells a side of the same conditions \(real: 'a'; generated: 'b'\)",
        ),
    ]


@pytest.mark.parametrize(("call", "message"), bad_calls())
def test_errors_say_what_was_found_and_what_was_expected(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_importing_metrics_loads_neither_sklearn_nor_ot() -> None:
    code = "import scflow.metrics, sys; print([m for m in ('sklearn', 'ot', 'torch', 'anndata') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_every_metric_runs_within_conditions(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers_module, "_TREES", 5)
    counts = [counts_of(rng, 100, np.linspace(0.3, 4, 20)) for _ in range(3)]
    labels = dict.fromkeys(("real_labels", "generated_labels", "reference_labels"), np.repeat(["a", "b"], 50))
    rows = judge(*counts, **labels, metrics=list(METRICS))
    assert len(rows) == 3 * len(METRICS)
    for row in rows:
        assert np.isfinite([row.value, row.floor, row.trivial]).all(), row
        assert np.isnan(row.low) if row.metric == "mmd_p" else row.low <= row.value <= row.high, row


def test_metrics_say_what_they_are_about_and_which_way_is_better() -> None:
    for name, metric in METRICS.items():
        assert metric.about, name
        assert metric.better in ("less", "more", "floor")
    assert {name for name, m in METRICS.items() if m.better == "floor"} >= {"wasserstein", "density", "copying"}
    assert set(DEFAULT) <= set(METRICS)


def test_metrics_of_labels_are_left_out_where_there_are_none(rng: np.random.Generator) -> None:
    counts = [counts_of(rng, 100, np.linspace(0.3, 4, 20)) for _ in range(3)]
    rows = judge(*counts, metrics=["mmd", "label_accuracy", "fold_change_slope", "train_on_synthetic"])
    assert [row.metric for row in rows] == ["mmd"]
    with pytest.raises(
        InputError, match=r"All of the metrics 'label_accuracy' compare labels, and the cells have none"
    ):
        judge(*counts, metrics="label_accuracy")
