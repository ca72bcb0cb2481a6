"""Labels, fold changes and dropout curves, against scikit-learn and dense formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import f1_score

import scflow
from scflow.errors import InputError
from scflow.metrics import (
    Yardstick,
    dropout_curve,
    fold_change_slope,
    judge,
    label_accuracy,
    label_model,
    sides,
    train_on_synthetic,
)
from scflow.metrics.labels import macro_f1


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def typed(rng: np.random.Generator, n: int, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Cells of three types `apart` from each other."""
    labels = rng.permutation(np.arange(n) % 3)
    centres = apart * np.eye(3, 4)
    return rng.normal(size=(n, 4)) + centres[labels], np.array(["a", "b", "c"])[labels]


def test_accuracy_is_a_share_and_its_interval_holds(rng: np.random.Generator) -> None:
    model = label_model(*typed(rng, 600))
    found = [label_accuracy(*typed(rng, 150), model) for _ in range(100)]
    mean = np.mean([e.value for e in found])
    assert 0.7 < mean < 0.95
    assert np.mean([e.low <= mean <= e.high for e in found]) >= 0.88
    x, labels = typed(rng, 90)
    assert label_accuracy(x, rng.permutation(labels), model).value < 0.5


def mislabelled(seed: int) -> tuple[list[sparse.csr_matrix], list[np.ndarray]]:
    """Training, held-out and further real cells of one law, and their labels, one in six of which is wrong."""
    adata, rng = scflow.datasets.simulate(1200, 200, 3, type_effect=1.0, seed=seed), np.random.default_rng(seed)
    true = adata.obs["cell_type"].to_numpy().astype(str)
    labels = np.where(rng.random(1200) < 0.25, rng.permutation(true), true)
    counts = sparse.csr_matrix(adata.X)
    return [counts[i::3] for i in range(3)], [labels[i::3] for i in range(3)]


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_training_cells_drawn_again_are_as_accurate_as_the_floor_and_typical_cells_more(seed: int) -> None:
    (train, real, new), (known, held_out, others) = mislabelled(seed)
    options = {"labels": held_out, "reference_labels": known, "generated_labels": known, "seed": seed}
    yardstick = Yardstick.of(real, train, ["label_accuracy"], **options)
    floor = yardstick.floor["label_accuracy"].value
    again = yardstick.measure(train)["label_accuracy"]
    assert again.low < floor < again.high
    # A classifier of the training cells knows their wrong labels.
    view = yardstick.space.components
    model = label_model(view(train), known)
    assert label_accuracy(view(train), known, model).low > label_accuracy(view(real), held_out, model).value
    # Of each label the third of real cells that is nearest to the middle.
    seen, typical = view(new), np.empty(len(known), dtype=np.int64)
    for label in np.unique(known):
        mine = np.flatnonzero(others == label)
        distance = np.linalg.norm(seen[mine] - np.median(seen[mine], axis=0), axis=1)
        wanted = known == label
        typical[wanted] = np.resize(mine[np.argsort(distance)[: len(mine) // 3]], wanted.sum())
    assert yardstick.measure(new[typical])["label_accuracy"].low > floor


def test_training_cells_are_no_less_accurate_for_a_space_of_their_own(pbmc: AnnData) -> None:
    """In their own principal components they lie further out than cells that a classifier learnt from: 0.06 less."""
    off = []
    for seed in range(4):
        train, real = scflow.pp.split(pbmc, stratify="cell_type", test_size=0.5, seed=seed)
        known, held_out = (cells.obs["cell_type"].to_numpy().astype(str) for cells in (train, real))
        options = {"labels": held_out, "reference_labels": known, "generated_labels": known, "seed": seed}
        yardstick = Yardstick.of(real.X, train.X, ["label_accuracy"], **options)
        off.append(yardstick.measure(train.X)["label_accuracy"].value - yardstick.floor["label_accuracy"].value)
    assert abs(np.mean(off)) < 0.04


def test_labels_are_learnt_once_a_halving_and_from_real_cells_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, real, new), (known, held_out, others) = mislabelled(0)
    learnt: list[np.ndarray] = []
    monkeypatch.setattr(sides, "_MOST_LEARNT", 150)
    monkeypatch.setattr(sides, "label_model", lambda x, labels: learnt.append(labels) or label_model(x, labels))
    # Of the training cells no label is known to a classifier.
    options = {"labels": held_out, "reference_labels": np.char.add("other ", known), "generated_labels": others}
    yardstick = Yardstick.of(real, train, ["label_accuracy"], **options)
    rows = [yardstick.rows(cells)[0] for cells in (new, real)]
    assert rows[0].value > 0.6
    assert [len(labels) for labels in learnt] == [150] * len(yardstick.halves)
    assert len(learnt) > 1
    assert set(np.concatenate(learnt)) == set(held_out)
    # Without training cells half of the real ones makes the space.
    alone = judge(real, new, real_labels=held_out, generated_labels=others, metrics="label_accuracy", seed=0)
    assert alone[0].value == pytest.approx(alone[0].floor, abs=0.15)


def test_accuracy_of_one_label_is_not_defined() -> None:
    (train, real, new), (known, _, others) = mislabelled(0)
    one = np.full(real.shape[0], known[0])
    options = {"real_labels": one, "generated_labels": others, "reference_labels": known}
    for row in judge(real, new, train, metrics=["label_accuracy"], **options):
        assert np.isnan([row.value, row.floor, row.trivial]).all()


def test_macro_f1_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    guessed, labels = rng.choice(["a", "b", "d"], 80), rng.choice(["a", "b", "c"], 80)
    classes = ["a", "b", "c"]
    expected = f1_score(labels, guessed, labels=classes, average="macro", zero_division=0)
    assert macro_f1(guessed, labels).value == pytest.approx(expected)
    alone = f1_score(labels, guessed, labels=["b"], average="macro")
    assert macro_f1(guessed, labels, among=np.array(["b"])).value == pytest.approx(alone)


def test_what_is_learnt_from_wrong_labels_is_worth_less(rng: np.random.Generator) -> None:
    (x, labels), real = typed(rng, 300), typed(rng, 300)
    good = train_on_synthetic(x, labels, *real)
    assert good.low < good.value < good.high
    assert train_on_synthetic(x, rng.permutation(labels), *real).high < good.low


def expression(rng: np.random.Generator, rates: np.ndarray) -> sparse.csr_matrix:
    counts = rng.poisson(rates).astype(np.float64)
    return sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))


def test_slope_is_that_of_dense_fold_changes(rng: np.random.Generator) -> None:
    labels_x, labels_y = np.repeat(["a", "b", "c"], [30, 50, 20]), np.repeat(["a", "b", "c"], [40, 40, 30])
    x, y = (expression(rng, rng.gamma(1, 5, size=(n, 25))) for n in (100, 110))

    def changes(cells: sparse.csr_matrix, labels: np.ndarray) -> np.ndarray:
        rates = np.expm1(cells.toarray())
        own = np.stack([rates[labels == c].mean(axis=0) for c in "abc"])
        rest = np.stack([rates[labels != c].mean(axis=0) for c in "abc"])
        return np.log2((own + 1) / (rest + 1))

    fake, true = changes(x, labels_x), changes(y, labels_y)
    top = np.argsort(-np.abs(true), axis=1)[:, :8]
    fake, true = np.take_along_axis(fake, top, 1), np.take_along_axis(true, top, 1)
    found = fold_change_slope(x, labels_x, y, labels_y, n_genes=8)
    assert found.value == pytest.approx((fake * true).sum() / (true**2).sum())
    one = fold_change_slope(x, labels_x, y, labels_y, n_genes=8, conditions=np.array(["b"]))
    assert one.value == pytest.approx((fake[1] * true[1]).sum() / (true[1] ** 2).sum())
    assert fold_change_slope(y, labels_y, y, labels_y).value == pytest.approx(1)


def test_slope_is_the_factor_by_which_conditions_are_too_alike(rng: np.random.Generator) -> None:
    effect = np.concatenate([rng.normal(size=20), np.zeros(60)])
    labels = np.repeat(["a", "b"], 300)

    def cells(strength: float) -> sparse.csr_matrix:
        return expression(rng, np.repeat(30 * np.exp(np.stack([effect, -effect]) * strength / 2), 300, axis=0))

    for strength in (0.5, 1.0):
        found = fold_change_slope(cells(strength), labels, cells(1.0), labels, n_genes=20)
        assert found.value == pytest.approx(strength, abs=0.08)
        assert found.low < found.value < found.high


def test_dropout_curve_is_zero_for_the_same_law_of_zeros_and_not_for_denoised_cells(rng: np.random.Generator) -> None:
    rates = np.exp(rng.normal(size=200))

    def poisson(scale: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix(np.log1p(rng.poisson(rates * scale, size=(400, 200)).astype(np.float64)))

    real = poisson(np.ones(200))
    same = dropout_curve(poisson(np.ones(200)), real)
    # Means that are off do no harm while zeros follow them.
    off = dropout_curve(poisson(np.exp(0.5 * rng.normal(size=200))), real)
    smooth = sparse.csr_matrix(np.repeat(np.asarray(real.mean(axis=0)), 400, axis=0))
    assert same.value < 0.01
    assert off.value < 0.04
    fake = dropout_curve(smooth, real)
    assert fake.low > 0.3
    assert dropout_curve(real, real).value == pytest.approx(0, abs=1e-12)
    assert np.isnan(dropout_curve(real, sparse.csr_matrix((400, 200))).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: label_model(x, np.array(["a"] * 4)), r"4 cells have labels of shape \(4,\) with 1 different ones"),
        (lambda x: label_model(x, np.array(["a", "b"])), r"4 cells have labels of shape \(2,\)"),
        (
            lambda x: fold_change_slope(sparse.csr_matrix(x), np.array(["a"] * 4), sparse.csr_matrix(x), np.zeros(4)),
            r"There are 1 conditions, of which 1 were asked for",
        ),
    ],
)
def test_errors(call: Callable[[object], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(np.arange(8.0).reshape(4, 2))
