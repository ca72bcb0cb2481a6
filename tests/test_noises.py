"""Noises: laws against their moments and densities, rates by condition against counting, and the way to disk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import stats
from torch import Tensor

import scflow
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.matching import noises
from scflow.training.pairs import Fresh, dropped

pytestmark = pytest.mark.usefixtures("small_flows")

QUICK: dict[str, Any] = {"steps": 8, "progress": False}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Laws.


def test_matched_variance_is_normal_with_its_deviations() -> None:
    scale = torch.tensor([0.1, 1.0, 7.0])
    noise = noises.MatchedVariance(scale)
    x = noise.sample(4000, 3, rng=generator())
    assert (x.dtype, x.shape) == (torch.float32, (4000, 3))
    assert all(stats.kstest(c.numpy(), "norm", args=(0, float(s))).pvalue > 1e-3 for c, s in zip(x.T, scale))
    assert torch.equal(noise.sd(3), scale)
    assert noise.is_gaussian
    assert noise.has_density


def test_matched_variance_has_the_deviations_of_its_states() -> None:
    states = torch.randn(500, 3, generator=generator()) * torch.tensor([2.0, 0.5, 0.0]) + 3
    scale = noises.MatchedVariance.of(states).scale
    np.testing.assert_allclose(scale[:2], states.numpy().std(0)[:2], rtol=1e-5)
    assert scale[2] == pytest.approx(1e-3)  # A coordinate that never varies has a density all the same.


@pytest.mark.parametrize("scale", [None, [0.5, 3.0, 1.0]])
def test_log_densities_are_scipys(scale: list[float] | None) -> None:
    x = torch.randn(20, 3, generator=generator()).double()
    noise = noises.Gaussian() if scale is None else noises.MatchedVariance(torch.tensor(scale))
    expected = stats.norm.logpdf(x.numpy(), scale=1.0 if scale is None else np.array(scale)).sum(1)
    np.testing.assert_allclose(noise.log_prob(x), expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.7, 1.0])
def test_sparse_noise_has_one_rate_of_near_zeros(rate: float) -> None:
    jitter, n = 1e-3, 40_000
    noise = noises.Sparse(rate, jitter)
    x = noise.sample(n, 2, rng=generator())
    near = (x.abs() < 5 * jitter).float().mean(0)
    expected = rate + (1 - rate) * math.erf(5 * jitter / math.sqrt(2))
    assert ((near - expected).abs() < 5 * math.sqrt(expected * (1 - expected) / n) + 1e-6).all()
    torch.testing.assert_close(noise.sd(2), torch.full((2,), math.sqrt(1 - rate + jitter**2)))
    torch.testing.assert_close(x.std(0), noise.sd(2), rtol=0.03, atol=0)
    assert not noise.is_gaussian
    assert not noise.has_density


def test_sparse_noise_is_the_guides_and_has_no_atoms() -> None:
    noise = noises.Sparse()
    assert noise.rate == 0.1
    assert noise.jitter > 0
    assert len(noise.sample(2000, 1, rng=generator()).unique()) > 1990
    same = noises.Dropout(torch.full((3,), 0.1)).sample(50, 3, rng=generator())
    assert torch.equal(noise.sample(50, 3, rng=generator()), same)


# By condition.


GROUPS = torch.tensor([[0.0, math.nan], [2.0, math.nan]])


def test_a_cell_has_the_rates_of_its_group() -> None:
    """The second condition, a number, does not define a group; who is of none has the rates of the whole."""
    rate, rates = torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.2]])
    noise, n = noises.DropoutByCondition(rate, GROUPS, rates, jitter=1e-3), 20_000
    wanted = {(0.0, 0.3): rates[0], (2.0, math.nan): rates[1], (1.0, 0.3): rate, (math.nan, 0.3): rate}
    condition = torch.tensor([list(c) for c in wanted]).repeat(n, 1)
    x = noise.sample_given(condition, len(condition), 2, rng=generator())
    near = (x.abs() < 5e-3).float().view(n, len(wanted), 2).mean(0)
    expected = torch.stack(list(wanted.values()))
    expected = expected + (1 - expected) * math.erf(5 / math.sqrt(2) * 1e-3)
    torch.testing.assert_close(near, expected, atol=5 * math.sqrt(0.25 / n), rtol=0)
    assert noise.by_condition
    assert not noise.has_density
    torch.testing.assert_close(noise.sd(2), (0.5 + torch.tensor([1e-6, 1e-6])).sqrt())


def test_a_row_depends_on_its_own_condition_only() -> None:
    noise = noises.DropoutByCondition(torch.full((3,), 0.5), GROUPS, torch.tensor([[0.1] * 3, [0.9] * 3]))
    condition = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 0.0]])
    other = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    a, b = (noise.sample_given(c, 3, 3, rng=generator()) for c in (condition, other))
    assert torch.equal(a[0], b[0])
    without = noise.sample_given(None, 3, 3, rng=generator())
    assert torch.equal(without, noise.sample(3, 3, rng=generator()))
    assert torch.equal(without, noises.Dropout(noise.rate).sample(3, 3, rng=generator()))


def test_rates_are_shrunk_to_the_whole_where_cells_are_few() -> None:
    zeros, size = torch.tensor([[90.0, 0.0], [2.0, 1.0]]), torch.tensor([100.0, 2.0])
    noise = noises.DropoutByCondition.of(zeros, size, GROUPS, shrinkage=20.0)
    whole = torch.tensor([92 / 102, 1 / 102])
    torch.testing.assert_close(noise.rate, whole)
    expected = torch.stack([(zeros[i] + 20 * whole) / (size[i] + 20) for i in range(2)])
    torch.testing.assert_close(noise.rates, expected)
    unshrunk = noises.DropoutByCondition.of(zeros, size, GROUPS, shrinkage=0.0)
    torch.testing.assert_close(unshrunk.rates, zeros / size[:, None])


# What is refused.


def test_a_noise_without_density_says_so() -> None:
    for noise in (noises.Sparse(), noises.Dropout(torch.zeros(2))):
        name = type(noise).__name__
        with pytest.raises(InputError, match=rf"A {name} noise has no density.*noise='gaussian' or noise='matched_var"):
            noise.log_prob(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: noises.MatchedVariance(torch.tensor([1.0, 0.0, math.nan])), r"scale must be above 0.* 2 of its 3 val"),
        (lambda: noises.Sparse(rate=1.1), r"rate must lie in \[0, 1\]"),
        (lambda: noises.Sparse(rate=math.nan), r"rate must lie in \[0, 1\]"),
        (lambda: noises.Sparse(jitter=0), r"jitter=0 must be above 0: a flow cannot spread the atoms"),
        (
            lambda: noises.DropoutByCondition(torch.zeros(2), GROUPS, torch.full((2, 2), 2.0)),
            r"rate must lie in \[0, 1\]",
        ),
        (
            lambda: noises.DropoutByCondition(torch.zeros(2), GROUPS, torch.zeros(2, 3)),
            r"rates has the shape \(2, 3\); 2 groups of 2 coordinates need \(2, 2\)",
        ),
    ],
)
def test_what_noises_refuse(make: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()


# In training and drawing.


@pytest.fixture(scope="module")
def _cells() -> AnnData:
    adata = scflow.datasets.simulate(300, 30, 3, proportions=[0.6, 0.35, 0.05], seed=0)
    adata.obs["dose"] = np.random.default_rng(0).normal(5, 2, 300)
    adata.obsm["X_own"] = np.random.default_rng(1).normal([3, -1], [2, 0.5], (300, 2))
    return adata


@pytest.fixture
def cells(_cells: AnnData) -> AnnData:
    return _cells.copy()


@pytest.fixture(scope="module")
def by_condition(small_flows: None, _cells: AnnData) -> Flow:
    return scflow.tl.train(
        _cells.copy(), condition=["cell_type", "dose"], space="genes", noise="dropout_by_condition", **QUICK
    )


def test_dropout_by_condition_has_the_datas_rates(by_condition: Flow, cells: AnnData) -> None:
    noise = by_condition.noise
    assert isinstance(noise, noises.DropoutByCondition)
    zero, types = cells.X.toarray() == 0, cells.obs["cell_type"]
    whole = zero.mean(0)
    np.testing.assert_allclose(noise.rate, [*whole, 0.0], atol=1e-6)
    assert noise.groups[:, 1].isnan().all()
    for row, group in enumerate(noise.groups[:, 0].int().tolist()):
        of = zero[(types == types.cat.categories[group]).to_numpy()]
        expected = (of.sum(0) + 20 * whole) / (len(of) + 20)
        np.testing.assert_allclose(noise.rates[row], [*expected, 0.0], atol=1e-6)


def test_cells_start_from_the_noise_of_their_condition(by_condition: Flow) -> None:
    dim = by_condition.codec.dim
    rates = torch.tensor([0.0, 0.4, 1.0])[:, None].expand(3, dim)
    groups = torch.tensor([[0.0, math.nan], [1.0, math.nan], [2.0, math.nan]])
    flow = replace(by_condition, noise=noises.DropoutByCondition(torch.full((dim,), 0.8), groups, rates))

    def start(n: int, label: str | None) -> Any:
        asked = {"cell_type": label, "dose": 5.0}
        return scflow.tl.generate(flow, n, condition=asked, steps=1, progress=False).obsm["X_scflow_noise"]

    for label, rate in (("type_0", 0.0), ("type_1", 0.4), ("type_2", 1.0), (None, 0.8)):
        assert (start(300, label) ** 2).mean() == pytest.approx(1 - rate + 0.01, rel=0.1)
    np.testing.assert_array_equal(start(300, "type_1")[:20], start(20, "type_1"))


class Nowhere:
    """Cells that are all at zero; nothing is random."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return torch.zeros(len(rows), self.dim)


def test_a_noise_by_condition_is_told_what_the_field_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the condition is dropped, the noise is that of no condition."""
    rates = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    noise = noises.DropoutByCondition(torch.full((2,), 1.0), torch.tensor([[0.0], [1.0]]), rates, jitter=1e-3)
    pairs = Fresh(Nowhere(2), torch.zeros(4000, 1), noise, 0.5)
    _, x1, told, _ = pairs.draw(torch.arange(4000), rng=generator())
    assert told is not None
    gone = told[:, 0].isnan()
    assert 0.4 < gone.float().mean() < 0.6
    assert (x1[gone].abs() < 0.01).all()
    assert x1[~gone].std() == pytest.approx(1, abs=0.05)


def test_other_noises_are_drawn_in_the_order_they_always_were() -> None:
    condition = torch.zeros(50, 2)
    pairs = Fresh(Nowhere(3), condition, noises.Gaussian(), 0.3)
    _, x1, told, _ = pairs.draw(torch.arange(50), rng=generator())
    rng = generator()
    assert torch.equal(x1, noises.Gaussian().sample(50, 3, rng=rng))
    expected = dropped(condition, rate=0.3, rng=rng)
    assert told is not None
    assert expected is not None
    assert torch.equal(told.isnan(), expected.isnan())


@pytest.mark.parametrize("space", ["counts", "genes", "quantile", "pca", "embedding"])
def test_matched_variance_is_that_of_the_states(space: str, cells: AnnData) -> None:
    where = {"use_rep": "X_own"} if space == "embedding" else {"space": space}
    flow = scflow.tl.train(cells, noise="matched_variance", **where, **QUICK)
    noise = flow.noise
    assert isinstance(noise, noises.MatchedVariance)
    # Preconditioning measures the same states.
    torch.testing.assert_close(noise.scale.square(), flow.field.data_variance.clamp_min(1e-6), rtol=1e-4, atol=0)
    torch.testing.assert_close(noise.scale.square(), flow.field.noise_variance, rtol=1e-4, atol=0)
    drawn = flow.draw(2000).noise
    np.testing.assert_allclose(drawn.std(0), noise.scale, rtol=0.1)


def test_sparse_noise_by_name_and_as_an_object(cells: AnnData) -> None:
    flow = scflow.tl.train(cells, noise="sparse", use_rep="X_own", **QUICK)
    assert flow.noise == noises.Sparse()
    own = scflow.tl.train(cells, noise=noises.Sparse(0.5, jitter=0.02), space="counts", **QUICK)
    assert own.noise == noises.Sparse(0.5, 0.02)
    assert float((np.abs(own.draw(500).noise) < 0.1).mean()) == pytest.approx(0.5 + 0.5 * 0.08, abs=0.03)


def test_an_own_noise_needs_only_to_sample(cells: AnnData) -> None:
    class Shifted(noises.Noise):
        def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
            return torch.randn(n, dim, generator=rng) + 9

    with pytest.warns(UserWarning, match="of your own cannot be saved"):
        flow = scflow.tl.train(cells, noise=Shifted(), condition="cell_type", use_rep="X_own", **QUICK)
    assert flow.draw(300).noise.mean() == pytest.approx(9, abs=0.2)


@pytest.mark.parametrize(
    "noise",
    [
        noises.Gaussian(),
        noises.MatchedVariance(torch.linspace(0.5, 2, 31)),
        noises.Sparse(0.25, jitter=0.05),
        noises.Dropout(torch.linspace(0, 1, 31), jitter=0.2),
        noises.DropoutByCondition(torch.linspace(0, 1, 31), GROUPS, torch.rand(2, 31, generator=generator()), 0.3),
    ],
    ids=lambda noise: type(noise).__name__,
)
def test_a_noise_comes_back_from_disk(noise: noises.Noise, by_condition: Flow, tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    replace(by_condition, noise=noise).save(path)
    back = Flow.load(path).noise
    assert type(back) is type(noise)
    for name, value in vars(noise).items():
        assert torch.equal(torch.as_tensor(getattr(back, name)).nan_to_num(), torch.as_tensor(value).nan_to_num())
    condition = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).repeat(3, 1)
    a, b = (n.sample_given(condition, 6, 31, rng=generator()) for n in (noise, back))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"noise": "dropout_by_condition"},
            r"'dropout_by_condition' needs a condition with categories; none was given",
        ),
        (
            {"noise": "dropout_by_condition", "condition": "dose"},
            r"needs a condition with categories; those given have none \('dose'\)\. Give one, such as",
        ),
        (
            {"noise": "dropout_by_condition", "space": "counts", "condition": "cell_type"},
            r"noise='dropout_by_condition' has a rate a gene; space='counts' has other coordinates",
        ),
        ({"noise": "sparce"}, r"noise='sparce' is not known\. Did you mean 'sparse'\?"),
        (
            {"noise": noises.MatchedVariance(torch.ones(3))},
            r"noise has deviations for 3 coordinates; the states have 31 .*Use noise='matched_variance'",
        ),
        ({"noise": noises.Dropout(torch.zeros(3))}, r"noise has rates for 3 coordinates; the states have 31"),
        (
            {"noise": noises.DropoutByCondition(torch.zeros(31), GROUPS, torch.zeros(2, 31)), "condition": "cell_type"},
            r"noise has groups of 2 conditions; the flow has 1 \('cell_type'\)",
        ),
    ],
)
def test_what_training_refuses(options: dict[str, Any], match: str, cells: AnnData) -> None:
    before = set(cells.uns)
    with pytest.raises(InputError, match=match):
        scflow.tl.train(cells, **{"space": "genes", **QUICK, **options})
    assert isinstance(options["noise"], noises.Noise) or set(cells.uns) == before
