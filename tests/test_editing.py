"""Counts of cells whose expectation changes: molecules come and go, and none is drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from scflow.codecs import PCA, Counts, Standardized
from scflow.codecs.editing import edited
from scflow.codecs.statistics import gene_statistics, library_sizes

N = 60_000


def cells() -> sparse.csr_matrix:
    return sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, size=(80, 6)).astype(np.float32))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def negative_binomial(mean: Tensor, dispersion: Tensor, seed: int = 1) -> Tensor:
    draws = np.random.default_rng(seed)
    rate = draws.gamma(1 / dispersion.numpy(), (dispersion * mean).numpy())
    return torch.from_numpy(draws.poisson(rate)).float()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("a", [0.05, 1.5])
def test_negative_binomial_counts_stay_so_around_another_mean(ratio: float, a: float) -> None:
    before = torch.full((N, 1), 2.0)
    dispersion = torch.full((N, 1), a)
    out = edited(negative_binomial(before, dispersion), before, before * ratio, dispersion, rng=rng())
    mean = 2.0 * ratio
    variance = mean + a * mean**2
    zeros = (1 + a * mean) ** (-1 / a)
    assert out.mean().item() == pytest.approx(mean, abs=4 * (variance / N) ** 0.5 + 1e-9)
    assert out.var().item() == pytest.approx(variance, rel=0.05, abs=1e-9)
    assert (out == 0).float().mean().item() == pytest.approx(zeros, abs=4 * (0.25 / N) ** 0.5)


def test_where_nothing_changes_counts_stay_as_they_are() -> None:
    mean, dispersion = torch.full((200, 7), 1.3), torch.full((200, 7), 0.4)
    counts = negative_binomial(mean, dispersion)
    assert torch.equal(edited(counts, mean, mean, dispersion, rng=rng()), counts)
    assert torch.equal(edited(counts, mean, mean, None, rng=rng()), counts)


def test_a_falling_gene_only_loses_and_a_rising_one_only_gains() -> None:
    mean, dispersion = torch.full((500, 2), 4.0), torch.full((500, 2), 0.4)
    counts = negative_binomial(mean, dispersion)
    out = edited(counts, mean, mean * torch.tensor([0.5, 2.0]), dispersion, rng=rng())
    assert (out[:, 0] <= counts[:, 0]).all()
    assert (out[:, 0] < counts[:, 0]).any()
    assert (out[:, 1] >= counts[:, 1]).all()
    assert (out[:, 1] > counts[:, 1]).any()


def test_a_cell_keeps_what_the_codec_knows_nothing_of() -> None:
    """A cell with many molecules for its expectation has many afterwards: its own rate is what rises."""
    mean, dispersion = torch.full((N, 1), 2.0), torch.full((N, 1), 1.0)
    counts = negative_binomial(mean, dispersion)
    out = edited(counts, mean, 2 * mean, dispersion, rng=rng())
    high = counts[:, 0] >= 6
    assert out[high].mean() > counts[high].mean() + 1.5
    assert np.corrcoef(counts[:, 0], out[:, 0])[0, 1] > 0.8


def test_poisson_counts_stay_poisson() -> None:
    before = torch.full((N, 1), 3.0)
    counts = torch.poisson(before, generator=rng(3))
    out = edited(counts, before, before * 2, None, rng=rng())
    assert out.mean().item() == pytest.approx(6.0, abs=0.05)
    assert out.var().item() == pytest.approx(6.0, rel=0.05)


def test_two_expectations_of_nothing_are_no_change() -> None:
    counts = torch.tensor([[0.0, 3.0]])
    nothing = torch.zeros(1, 2)
    assert torch.equal(edited(counts, nothing, nothing, torch.ones(1, 2), rng=rng()), counts)


def test_codecs_edit_by_the_ratio_of_their_expectations(  # and codecs without expectations decode
    counted: Counts, projected: PCA
) -> None:
    counts = torch.poisson(torch.full((40, counted.n_genes), 1.0), generator=rng(5))
    for codec in (counted, projected):
        state = codec.encode(counts, None, rng=rng(6))
        same = codec.edit(counts, state, state, None, rng=rng(7))
        assert torch.equal(same, counts)
        drawn = codec.decode(state, None, rng=rng(7))
        assert not torch.equal(drawn, counts)


@pytest.mark.parametrize(
    ("shares", "factor"), [((0.0, 1.0), 4.0), ((0.0, 0.5), 2.0), ((1.0, 0.0), 0.25), ((0.5, 0.5), 1.0)]
)
def test_answers_multiply_as_much_of_the_change_as_lies_between(
    counted: Counts, shares: tuple[float, float], factor: float
) -> None:
    """A gene of both populations that the codec expects twice too much of in the one, and half of in the other."""
    counted.answers_to([2])
    counted.answer[0, :2], counted.answer[1, 0], counted.answer[3, 1] = -np.log(2.0), np.log(2.0), np.log(2.0)
    counts = torch.poisson(torch.full((4000, counted.n_genes), 1.0), generator=rng(5))
    state = counted.encode(counts, None, rng=rng(6))
    start = counted._around(state, counted.design(None, state))[0]
    counts = torch.poisson(
        start * torch.lerp(counted.answer[0], counted.answer[1] + counted.answer[3], shares[0]).exp()
    )
    second = torch.ones(len(counts), 1)
    change = counted.edit(counts, state, state, second, shares=shares, rng=rng(7)).mean(0) / counts.mean(0)
    assert change[0].item() == pytest.approx(factor, rel=0.1)
    assert change[1].item() == pytest.approx(factor, rel=0.1)  # of the second category alone
    assert torch.equal(change[2:], torch.ones_like(change[2:]))
    other = counted.edit(counts, state, state, second * 0, shares=shares, rng=rng(7)).mean(0) / counts.mean(0)
    assert other[1].item() == pytest.approx(factor**0.5, rel=0.1)


@pytest.fixture
def counted() -> Counts:
    torch.manual_seed(0)
    codec = Counts.start(cells(), None, latent=2)
    return codec.eval().requires_grad_(False)


@pytest.fixture
def projected() -> PCA:
    genes = Standardized.fit(gene_statistics(cells()), library_sizes(cells()))
    return PCA.fit(cells(), genes, n_components=3)
