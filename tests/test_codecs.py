"""Codecs: exact inverses, known laws, and scipy's and scikit-learn's answers to the same question."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse, stats
from torch import Tensor

from scflow.codecs import PCA, Calibration, Codec, Counts, Embedding, Quantile, Standardized, gene_statistics
from scflow.codecs.base import LibrarySize, branch, design, design_width
from scflow.codecs.calibration import group_codes
from scflow.codecs.counts import negative_binomial_nll, thinned
from scflow.codecs.pca import dense_chunks
from scflow.codecs.standardized import whole
from scflow.codecs.statistics import library_sizes, standardized
from scflow.codecs.steps import Steps, count_steps, random_ranks
from scflow.errors import InputError
from scflow.training import Run, fit_counts
from scflow.training.batches import Cells
from scflow.training.effects import fit_effects

N_CELLS, N_GENES = 300, 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_counts(n: int = N_CELLS, genes: int = N_GENES) -> NDArray[np.float32]:
    """Genes from rare to common, one that is never there, one that is the same in every cell."""
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1, 1 / (1 + np.geomspace(0.05, 200, genes)), (n, genes))
    counts[:, 2], counts[:, 3] = 0, 7
    return counts.astype(np.float32)


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    return sparse.csr_matrix(some_counts())


@pytest.fixture(scope="module")
def dense(counts: sparse.csr_matrix) -> Tensor:
    return torch.from_numpy(counts.toarray())


# The library size.


def test_the_library_size_comes_back() -> None:
    sizes = np.array([1.0, 50.0, 800.0, 123_456.0])
    library = LibrarySize.of(sizes)
    coordinate = library.encode(torch.from_numpy(sizes).float()[:, None])
    np.testing.assert_allclose(
        coordinate[:, 0], (np.log(sizes) - np.log(sizes).mean()) / np.log(sizes).std(), rtol=1e-5
    )
    np.testing.assert_allclose(library.decode(coordinate)[:, 0], sizes, rtol=1e-4)


def test_a_drawn_library_size_stays_within_twice_the_largest() -> None:
    library = LibrarySize.of(np.array([100.0, 200.0, 400.0]))
    sizes = library.decode(torch.tensor([[-1e3], [1e3]]))[:, 0].tolist()
    assert sizes == pytest.approx([1.0, 800.0], rel=0.01)


# Standardised expression.


def fitted(counts: sparse.csr_matrix, how: str = "round") -> Standardized:
    return Standardized.fit(gene_statistics(counts), library_sizes(counts), counts=how)


def test_standardised_expression_is_numpys(counts: sparse.csr_matrix, dense: Tensor) -> None:
    state = fitted(counts).encode(dense, None, rng=generator())
    assert state.shape == (N_CELLS, N_GENES + 1)
    np.testing.assert_allclose(state[:, :-1], standardized(counts, gene_statistics(counts)), atol=2e-5)
    varies = np.delete(np.arange(N_GENES + 1), 2)  # The gene that is never there has no spread to scale.
    np.testing.assert_allclose(state.mean(0)[varies], 0, atol=0.15)  # Clipping moves the rarest genes' mean a little.
    assert state.isfinite().all()


def test_counts_come_back_exactly_where_the_clip_is_not_reached(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codec = Standardized.fit(gene_statistics(counts), library_sizes(counts), clip=100.0, counts="round")
    state = codec.encode(dense, None, rng=generator())
    expected = codec.expected(state[:, :-1], state[:, -1:])
    torch.testing.assert_close(expected, dense, rtol=1e-4, atol=1e-3)
    assert torch.equal(codec.decode(state, None, rng=generator()), dense)


def test_the_clip_cuts(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codec = Standardized.fit(gene_statistics(counts), library_sizes(counts), clip=1.5)
    assert codec.expression(dense).abs().max() == 1.5


def test_encoding_leaves_the_counts_alone(counts: sparse.csr_matrix, dense: Tensor) -> None:
    before = dense.clone()
    for codec in (fitted(counts), Quantile.fit(counts)):
        codec.encode(dense, None, rng=generator())
        assert torch.equal(dense, before)


def test_ranks_are_fine_steps_of_the_expected_count_below_zero_too(counts: sparse.csr_matrix) -> None:
    codec = fitted(counts)
    state = 2 * torch.randn(200, codec.dim, generator=generator())
    ranks, expected = codec.rank(state, None, rng=generator()), codec.expected(state[:, :-1], state[:, -1:])
    assert torch.equal(ranks, (64 * torch.asinh(16 * expected)).round())
    assert ranks.min() < 0
    assert (codec.decode(state, None, rng=generator()) >= 0).all()


@pytest.mark.parametrize("how", ["round", "stochastic", "poisson", "negative_binomial"])
def test_whole_numbers_around_an_expectation(how: str) -> None:
    mean = torch.tensor([0.0, 0.3, 2.6, 40.0]).expand(40_000, 4)
    dispersion = torch.tensor([0.5, 0.5, 0.5, 0.5])
    x = whole(mean, how, dispersion, rng=generator())
    assert torch.equal(x, x.round())
    assert (x[:, 0] == 0).all()
    m, fraction = mean[0], mean[0] % 1
    variance = {
        "round": 0 * m,
        "stochastic": fraction * (1 - fraction),
        "poisson": m,
        "negative_binomial": m + 0.5 * m**2,
    }[how]
    expected = m.round() if how == "round" else m
    torch.testing.assert_close(x.mean(0), expected, atol=5 * float(variance.max()) ** 0.5 / 200 + 1e-4, rtol=0)
    torch.testing.assert_close(x.var(0), variance, rtol=0.08, atol=1e-2)


# Quantiles.


def test_every_draw_decodes_to_the_same_counts(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codec, rng = Quantile.fit(counts), generator()
    draws = [codec.encode(dense, None, rng=rng) for _ in range(20)]
    assert all(torch.equal(codec.decode(state, None, rng=rng), dense) for state in draws)
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(codec.library.decode(draws[0][:, -1:]), dense.sum(1, keepdim=True), rtol=1e-4, atol=0)


def test_quantile_marginals_are_standard_normal(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codec, rng = Quantile.fit(counts), generator()
    state = torch.cat([codec.encode(dense, None, rng=rng) for _ in range(10)])
    for gene in range(N_GENES):
        assert stats.kstest(state[:, gene].numpy(), "norm").pvalue > 1e-4


def test_gaussian_noise_has_the_datas_marginals(counts: sparse.csr_matrix, dense: Tensor) -> None:
    x = Quantile.fit(counts).decode(torch.randn(20_000, N_GENES + 1, generator=generator()), None, rng=generator())
    zeros = (dense == 0).float().mean(0)
    torch.testing.assert_close((x == 0).float().mean(0), zeros, atol=0.02, rtol=0)
    for gene in range(N_GENES):
        # ks_2samp takes ties as they are; both samples live on the same few values.
        assert stats.ks_2samp(x[:, gene].numpy(), dense[:, gene].numpy()).statistic < 0.02


def test_counts_beyond_those_seen_stay_in_range(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codec, rng = Quantile.fit(counts), generator()
    state = codec.encode(dense[:5] + 10_000, None, rng=rng)
    assert state.isfinite().all()
    assert torch.equal(codec.decode(state, None, rng=rng), dense.max(0).values.expand(5, -1))
    far = codec.decode(torch.tensor([[-50.0], [50.0]]).expand(2, codec.dim), None, rng=rng)
    assert torch.equal(far, torch.stack([dense.min(0).values, dense.max(0).values]))


# Principal components.


def test_axes_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA as Reference

    rng = np.random.default_rng(0)
    factors = rng.standard_normal((400, 4)) * [2.0, 1.4, 1.0, 0.7]  # Well apart, so that each axis is well defined.
    cells = sparse.csr_matrix(rng.poisson(np.exp(3 + 0.3 * factors @ rng.standard_normal((4, 30)))).astype(np.float32))
    genes = Standardized.fit(gene_statistics(cells), library_sizes(cells), clip=100.0)
    codec = PCA.fit(cells, genes, n_components=4)
    x = genes.expression(torch.from_numpy(cells.toarray())).numpy().astype(np.float64)
    reference = Reference(n_components=4, svd_solver="full").fit(x)
    cosines = np.abs((codec.axes.T.numpy() * reference.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(codec.scale, np.sqrt(reference.explained_variance_ * 399 / 400), rtol=1e-4)
    torch.testing.assert_close(codec.axes.T @ codec.axes, torch.eye(4), atol=1e-5, rtol=0)


def test_components_have_unit_variance_and_all_of_them_give_the_expectation_back(
    counts: sparse.csr_matrix, dense: Tensor
) -> None:
    genes = Standardized.fit(gene_statistics(counts), library_sizes(counts), clip=100.0)
    codec = PCA.fit(counts, genes, n_components=N_GENES)
    state = codec.encode(dense, None, rng=generator())
    varies = codec.scale > 1e-3
    assert varies.sum() == N_GENES - 1
    torch.testing.assert_close(state[:, :-1].std(0, correction=0)[varies], torch.ones(N_GENES - 1), rtol=1e-3, atol=0)
    drawn = torch.stack([codec.decode(state, None, rng=generator(s)) for s in range(300)])
    assert torch.equal(drawn, drawn.round())
    # A Poisson mean of 300 draws, in standard errors.
    z = (drawn.mean(0) - dense) / ((dense + 0.05) / 300).sqrt()
    assert z.std() < 1.3


def test_more_components_than_there_are() -> None:
    few = sparse.csr_matrix(some_counts(6))
    codec = PCA.fit(few, fitted(few), n_components=50)
    assert codec.dim == 6  # Five components of six cells, and the library size.
    assert codec.encode(torch.from_numpy(few.toarray()), None, rng=generator()).isfinite().all()


def test_dense_chunks_are_the_rows_in_order(counts: sparse.csr_matrix, dense: Tensor) -> None:
    chunks = list(dense_chunks(counts, 128))
    assert [len(chunk) for chunk in chunks] == [128, 128, 44]
    assert torch.equal(torch.cat(chunks), dense)


# An embedding of the user's own.


def test_an_embedding_comes_back() -> None:
    coordinates = np.random.default_rng(0).normal([5, -3, 0], [2, 0.1, 0], (100, 3)).astype(np.float32)
    codec = Embedding.fit(coordinates)
    state = codec.encode(torch.from_numpy(coordinates), None, rng=generator())
    torch.testing.assert_close(state.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(state.std(0, correction=0)[:2], torch.ones(2))
    np.testing.assert_allclose(codec.decode(state, None, rng=generator()), coordinates, rtol=1e-5, atol=1e-5)
    assert not codec.has_counts


# The negative binomial.


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 1.0, 20.0])
def test_the_likelihood_is_scipys(alpha: float) -> None:
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 5.0, (50, 8)).astype(np.float32)
    counts = rng.poisson(mean * rng.gamma(1 / alpha, alpha, mean.shape)).astype(np.float32)
    found = negative_binomial_nll(torch.from_numpy(counts), torch.from_numpy(mean), torch.full((8,), alpha))
    expected = -stats.nbinom.logpmf(counts, 1 / alpha, 1 / (1 + alpha * mean.astype(np.float64))).sum(1)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-3)


def test_dispersions_of_genes_and_of_cells() -> None:
    counts, mean = torch.tensor([[0.0, 3.0], [1.0, 0.0]]), torch.tensor([[0.5, 2.0], [1.0, 4.0]])
    alpha = torch.tensor([0.1, 2.0])
    by_gene = negative_binomial_nll(counts, mean, alpha)
    torch.testing.assert_close(by_gene, negative_binomial_nll(counts, mean, alpha.expand(2, 2)))
    none = negative_binomial_nll(torch.zeros(2, 2), mean, alpha)
    torch.testing.assert_close(none, (torch.log1p(alpha * mean) / alpha).sum(1))


def test_the_likelihoods_gradient_is_its_numerical_one() -> None:
    counts = torch.tensor([[0.0, 3.0, 40.0]], dtype=torch.float64)
    mean = torch.tensor([[0.5, 2.0, 55.0]], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.1, 2.0, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, a: negative_binomial_nll(counts, m, a), (mean, alpha))


# Count space.


@dataclass(frozen=True)
class Truth:
    """Counts of a linear-softmax model: three types, each with a profile of its own, and what they were drawn from."""

    profiles: NDArray[np.float64]
    counts: sparse.csr_matrix
    types: Tensor

    @property
    def dense(self) -> Tensor:
        return torch.from_numpy(self.counts.toarray())

    def chance(self) -> float:
        """How far the profile of all cells together is from the types' own."""
        overall = np.asarray(self.counts.sum(0)).ravel() / self.counts.sum()
        return divergence(self.profiles, np.broadcast_to(overall, self.profiles.shape))


def divergence(truth: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float((truth * np.log(truth / found)).sum(1).mean())


@pytest.fixture(scope="module")
def simulated() -> Truth:
    rng = np.random.default_rng(0)
    profiles = np.exp(rng.standard_normal(40) + 0.7 * rng.standard_normal((3, 40)))
    profiles /= profiles.sum(1, keepdims=True)
    types = rng.integers(3, size=600)
    mean = profiles[types] * 300 * np.exp(0.3 * rng.standard_normal((600, 1)))
    counts = rng.poisson(mean * rng.gamma(10, 0.1, mean.shape)).astype(np.float32)
    return Truth(profiles, sparse.csr_matrix(counts), torch.from_numpy(types).float()[:, None])


def run_of(n: int) -> Run:
    order = torch.randperm(n, generator=generator())
    return Run(order[n // 10 :], order[: n // 10], 128, seed=0, device=torch.device("cpu"), progress=False)


def learnt(data: Truth, condition: Tensor | None, cards: tuple[int, ...], effects: str = "code") -> Counts:
    cells = Cells(data.counts, torch.device("cpu"))
    sizes: dict[str, Any] = {"latent": 5, "steps": 150, "lr": 1e-2, "effects": effects}
    return fit_counts(data.counts, cells, condition, cards, run_of(600), **sizes)[0]


@pytest.fixture(scope="module")
def conditional(simulated: Truth) -> Counts:
    return learnt(simulated, simulated.types, (3,))


def profiles_by_type(codec: Counts, data: Truth, condition: Tensor | None) -> NDArray[np.float64]:
    """Mean profile of each type's cells, decoded from their posterior means."""
    x = data.dense
    with torch.no_grad():
        code, _ = codec.posterior_of(x, condition)
        mean, _ = codec.likelihood(code, codec.library.encode(x.sum(1, keepdim=True)), condition)
    found = np.stack([mean[data.types[:, 0] == k].double().numpy().mean(0) for k in range(3)])
    return found / found.sum(1, keepdims=True)


def test_profiles_of_a_simulated_linear_softmax_are_recovered(simulated: Truth, conditional: Counts) -> None:
    for codec in (conditional, learnt(simulated, simulated.types, (3,), "genes")):
        found = profiles_by_type(codec, simulated, simulated.types)
        assert divergence(simulated.profiles, found) < simulated.chance() / 10


def test_cells_that_are_unlike_their_label_come_back_as_what_they_are(simulated: Truth) -> None:
    """A tenth of the labels is wrong; effects by gene make those cells more like their label than they are."""
    rng = np.random.default_rng(1)
    wrong = torch.from_numpy(rng.random(600) < 0.1)
    labels = torch.where(wrong[:, None], (simulated.types + 1) % 3, simulated.types)
    like_label = {}
    for effects in ("code", "genes"):
        codec = learnt(simulated, labels, (3,), effects)
        with torch.no_grad():
            state = codec.encode(simulated.dense, labels, rng=generator())
            drawn = codec.decode(state, labels, rng=generator(1)).double().numpy()[wrong.numpy()]
        score = drawn @ np.log(simulated.profiles).T  # Multinomial log-likelihood of each type.
        own, label = (k[wrong, 0].long().numpy() for k in (simulated.types, labels))
        rows = np.arange(len(drawn))
        like_label[effects] = (score[rows, label] > score[rows, own]).mean()
    assert like_label["code"] < 0.05
    assert like_label["code"] < like_label["genes"]


def test_states_are_centred_in_each_category_and_rare_ones_borrow() -> None:
    with torch.random.fork_rng(devices=[]):
        codec = Counts(3, latent=1, cardinalities=(2, 0), effects="code")
    codes = torch.cat([torch.full((95, 1), 0.0), torch.full((5, 1), 2.0)])
    condition = torch.tensor([[0.0, 0.0]] * 95 + [[1.0, 0.0]] * 5)
    codec.standardize(codes, torch.ones(100, 1), condition)
    mean = codes.mean()
    # Five cells, and five more that have no shift.
    torch.testing.assert_close(codec.code_shift, torch.tensor([[-mean * 95 / 100], [(2 - mean) / 2], [0.0]]))
    slope = torch.linspace(-1, 1, 100)[:, None]
    codec.standardize(1e-3 * slope, torch.ones(100, 1), torch.cat([torch.full((100, 1), torch.nan), 50 * slope], dim=1))
    torch.testing.assert_close(codec.code_shift[2, 0], torch.tensor(2e-5), rtol=0.1, atol=0)


def test_effects_are_what_codes_leave_out_and_only_that(simulated: Truth) -> None:
    """Genes 0 and 1 of a type with eight cells differ, and a code that knows no types cannot say so."""
    rng = np.random.default_rng(2)
    told = learnt(simulated, torch.full((600, 3), torch.nan), (3, 0, 2))
    counts = simulated.counts.toarray()
    few = np.arange(600) < 8
    counts[few, 0], counts[few, 1] = rng.poisson(40, 8), 0
    run = replace(run_of(600), train=torch.arange(600))
    condition = torch.zeros(600, 3)
    condition[:, 0] = torch.where(torch.from_numpy(few), 1.0, 0.0)
    condition[5:20, 2] = torch.nan
    fit_effects(told, Cells(sparse.csr_matrix(counts), torch.device("cpu")), condition, run)
    assert 0.5 < told.effects[1, 0] < 3
    assert told.effects[1, 1] < -0.5
    assert told.effects[1, 2:].abs().mean() < 0.3
    assert told.effects[0].abs().mean() < 0.05
    torch.testing.assert_close(told.effects[2:4], torch.zeros(2, 40))  # No cells, and a continuous condition.
    seen = told.effects.clone()
    fit_effects(told, Cells(simulated.counts, torch.device("cpu")), None, run)
    assert told.effects.equal(seen)


def test_codecs_of_0_1_0_have_effects_by_gene(simulated: Truth) -> None:
    """They do not say so; and those that say where effects are come back as they were."""
    old = learnt(simulated, simulated.types, (3,), "genes")
    settings = {name: value for name, value in old.settings().items() if name != "effects"}
    Counts(**settings).load_state_dict(old.state_dict())
    for effects in ("code", "genes"):
        codec = Counts(4, latent=2, cardinalities=(2,), effects=effects)
        assert Counts(**codec.settings()).state_dict().keys() == codec.state_dict().keys()
    with pytest.raises(InputError, match="effects='gene' is not known; use 'code' or 'genes'"):
        Counts(4, effects="gene")


def test_types_are_found_without_being_told(simulated: Truth) -> None:
    found = profiles_by_type(learnt(simulated, None, ()), simulated, None)
    assert divergence(simulated.profiles, found) < simulated.chance() / 5


def test_states_of_the_training_cells_are_standardised(simulated: Truth, conditional: Counts) -> None:
    x, types = simulated.dense, simulated.types
    with torch.no_grad():
        state = torch.cat([conditional.encode(x, types, rng=generator(s)) for s in range(10)])
    assert state.shape[1] == conditional.dim == 6
    torch.testing.assert_close(state.mean(0), torch.zeros(6), atol=0.05, rtol=0)
    torch.testing.assert_close(state.std(0), torch.ones(6), atol=0.05, rtol=0)


def test_decoded_counts_have_the_likelihoods_mean_and_variance(conditional: Counts) -> None:
    state = torch.randn(1, 6, generator=generator()).expand(20_000, 6)
    condition = torch.ones(20_000, 1)
    with torch.no_grad():
        x = conditional.decode(state, condition, rng=generator(1))
        code = state[:1, :-1] * conditional.code_sd + conditional.code_mean + conditional.code_shift[1]
        mean, dispersion = conditional.likelihood(code, state[:1, -1:], condition[:1])
    assert torch.equal(x, x.round())
    variance = mean + dispersion * mean**2
    assert ((x.mean(0) - mean).abs() < 5 * (variance / 20_000).sqrt() + 1e-6).all()
    torch.testing.assert_close(x.var(0), variance[0], rtol=0.25, atol=1e-3)
    torch.testing.assert_close(mean.sum(), conditional.library.decode(state[:1, -1:]).sum())


def test_dispersion_follows_the_code() -> None:
    """Two kinds of cells that nobody names; counts of the one are Poisson, of the other far from it."""
    rng = np.random.default_rng(0)
    noisy = rng.random(600) < 0.5
    profiles = np.repeat([[14.0, 6.0], [6.0, 14.0]], 50, axis=1)
    mean = profiles[noisy.astype(int)]
    counts = np.where(noisy[:, None], rng.poisson(mean * rng.gamma(3, 1 / 3, mean.shape)), rng.poisson(mean))
    data = Truth(profiles / 1000, sparse.csr_matrix(counts.astype(np.float32)), torch.zeros(600, 1))
    cells = Cells(data.counts, torch.device("cpu"))
    codec, _ = fit_counts(data.counts, cells, None, (), run_of(600), latent=2, steps=400, lr=1e-2)
    with torch.no_grad():
        code, _ = codec.posterior_of(data.dense, None)
        _, dispersion = codec.likelihood(code, codec.library.encode(data.dense.sum(1, keepdim=True)), None)
    found = dispersion.mean(1).numpy()
    assert np.median(found[noisy]) == pytest.approx(1 / 3, rel=0.25)
    assert np.median(found[~noisy]) < 0.1


def test_an_untrained_decoder_starts_at_the_mean_profiles_of_the_whole_and_of_each_category() -> None:
    counts = np.array([[4000, 1000, 5000], [1000, 4000, 5000], [1000, 4000, 5000]], dtype=np.float32)
    types = torch.tensor([[0.0], [1.0], [1.0]])
    with torch.random.fork_rng(devices=[]):
        codec = Counts.start(sparse.csr_matrix(counts), types, latent=2, cardinalities=(2,), effects="genes")
    at = torch.zeros(1, 2), torch.zeros(1, 1)
    for c, profile in ((torch.nan, [0.2, 0.3, 0.5]), (0.0, [0.4, 0.1, 0.5]), (1.0, [0.1, 0.4, 0.5])):
        mean, dispersion = codec.likelihood(*at, torch.tensor([[c]]))
        torch.testing.assert_close(mean / mean.sum(), torch.tensor([profile]), rtol=2e-3, atol=1e-4)
    assert mean.sum().item() == pytest.approx(10_000, rel=1e-4)
    assert dispersion.max() < 0.1  # Near Poisson.


def test_training_draws_from_its_own_generator(conditional: Counts, simulated: Truth) -> None:
    """Splitting the molecules and drawing the code: the global random state stays where it was."""
    x, types = simulated.dense[:50], torch.zeros(50, 1)
    before = torch.random.get_rng_state()
    conditional.train()
    try:
        first, again = (conditional.losses(x, types, rng=generator(5))[0] for _ in range(2))
        plain = conditional.eval().losses(x, types, rng=generator(5))[0]
    finally:
        conditional.eval()
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_thinned_counts_are_binomial_and_share_no_noise_with_the_rest() -> None:
    counts = torch.poisson(torch.tensor([0.2, 3.0, 50.0]).expand(20_000, 3), generator=generator())
    seen = thinned(counts, 0.3, rng=generator(1))
    assert torch.equal(seen, seen.round())
    assert ((seen >= 0) & (seen <= counts)).all()
    mean, variance = 0.3 * counts, 0.3 * 0.7 * counts
    z = (seen - mean).sum(0) / variance.sum(0).sqrt()
    assert z.abs().max() < 4
    torch.testing.assert_close((seen - mean).square().mean(0), variance.mean(0), rtol=0.05, atol=0)
    # The parts of a Poisson count are independent.
    for gene in range(3):
        assert abs(torch.corrcoef(torch.stack([seen[:, gene], (counts - seen)[:, gene]]))[0, 1]) < 4 / math.sqrt(20_000)


def test_in_training_the_code_is_scored_on_molecules_it_did_not_see(conditional: Counts, simulated: Truth) -> None:
    x, types = simulated.dense[:50], simulated.types[:50]
    conditional.train()
    try:
        with torch.no_grad():
            nll, _ = conditional.losses(x, types, rng=generator(5))
    finally:
        conditional.eval()
    rng = generator(5)
    seen = thinned(x, conditional.thinning, rng=rng)
    with torch.no_grad():
        mean, sd = conditional.posterior_of(seen, types)
        code = mean + sd * torch.randn(mean.shape, generator=rng)
        expected, dispersion = conditional.likelihood(code, conditional.library.encode(x.sum(1, keepdim=True)), types)
    rest = x - seen
    profile = expected / expected.sum(1, keepdim=True)
    own = negative_binomial_nll(rest, profile * rest.sum(1, keepdim=True), dispersion)
    torch.testing.assert_close(nll, own / (1 - conditional.thinning), rtol=1e-4, atol=1e-3)


def test_a_cells_draw_does_not_depend_on_those_after_it(conditional: Counts) -> None:
    state = torch.randn(20, 6, generator=generator())
    types = torch.zeros(20, 1)
    other, other_types = state.clone(), types.clone()
    other[10:], other_types[10:] = 0, 2
    with torch.no_grad():
        first = conditional.decode(state, types, rng=generator(1))
        second = conditional.decode(other, other_types, rng=generator(1))
    assert torch.equal(first[:10], second[:10])
    assert not torch.equal(first[10:], second[10:])


def test_a_branch_is_seeded_and_moves_its_root() -> None:
    first, second = generator(), generator()
    assert torch.equal(torch.rand(3, generator=branch(first)), torch.rand(3, generator=branch(second)))
    assert not torch.equal(torch.rand(3, generator=branch(first)), torch.rand(3, generator=branch(generator())))


# Conditions as columns.


def test_the_design_is_one_hot_and_none_is_zeros() -> None:
    condition = torch.tensor([[0.0, 0.5], [2.0, math.nan], [math.nan, -1.0]])
    columns = design(condition, (3, 0), 3, torch.device("cpu"))
    assert columns.tolist() == [[1, 0, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, -1]]
    assert design_width((3, 0)) == 4
    assert design(None, (3, 0), 2, torch.device("cpu")).tolist() == [[0] * 4] * 2
    assert design(None, (), 2, torch.device("cpu")).shape == (2, 0)


# Distribution functions as steps.


def table(values: NDArray[np.int64]) -> Steps:
    return Steps(*(torch.from_numpy(part) for part in count_steps(sparse.csr_matrix(values))))


@pytest.fixture(scope="module")
def whole_numbers() -> NDArray[np.int64]:
    """Negative values, ties, many zeros, a gene of zeros, one of a single value, and large ones."""
    rng = np.random.default_rng(0)
    values = rng.integers(-5, 6, (200, 6)) * (rng.random((200, 6)) < 0.5)
    values[:, 1], values[:, 2], values[:, 3] = 0, -7, values[:, 3] * 10**9
    return values


def test_steps_are_the_empirical_distribution_function(whole_numbers: NDArray[np.int64]) -> None:
    steps = table(whole_numbers)
    asked = np.unique(np.concatenate([whole_numbers.ravel(), whole_numbers.ravel() + 1, [-(10**11), 10**11]]))
    for gene in range(whole_numbers.shape[1]):
        row = torch.full((len(asked),), gene)
        below, upto = steps.around(row, torch.from_numpy(asked))
        column = whole_numbers[:, gene]
        np.testing.assert_allclose(below, [(column < v).mean() for v in asked], atol=1e-12)
        np.testing.assert_allclose(upto, [(column <= v).mean() for v in asked], atol=1e-12)


def test_quantiles_are_numpys(whole_numbers: NDArray[np.int64]) -> None:
    steps = table(whole_numbers)
    u = np.concatenate([np.random.default_rng(1).random(300), np.arange(200) / 200, [0.0, 1 - 1e-12]])
    for gene in range(whole_numbers.shape[1]):
        found = steps.quantile(torch.full((len(u),), gene), torch.from_numpy(u))
        # The smallest value whose distribution function exceeds u. Shares of 200 cells are compared as whole numbers.
        ordered = np.sort(whole_numbers[:, gene])
        np.testing.assert_array_equal(found, ordered[np.floor(u * 200 + 1e-9).astype(int).clip(max=199)])


def test_ranks_are_uniform_and_lead_back(whole_numbers: NDArray[np.int64]) -> None:
    steps, rng = table(whole_numbers), generator()
    values = torch.from_numpy(whole_numbers)
    row = torch.arange(values.shape[1]).expand_as(values)
    u = torch.cat([random_ranks(steps, row, values, rng=rng) for _ in range(20)])
    assert 0 <= u.min() < u.max() < 1
    assert all(stats.kstest(u[:, g].numpy(), "uniform").pvalue > 1e-4 for g in range(values.shape[1]))
    assert torch.equal(steps.quantile(row.repeat(20, 1), u), values.repeat(20, 1))


def test_steps_of_some_cells_and_with_stored_zeros(whole_numbers: NDArray[np.int64]) -> None:
    some = np.arange(200) % 3 == 0
    chosen = count_steps(sparse.csr_matrix(whole_numbers), some)
    for mine, theirs in zip(chosen, count_steps(sparse.csr_matrix(whole_numbers[some])), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    stored = sparse.csr_matrix(np.ones((200, 6), dtype=np.int64))
    stored.data[:] = whole_numbers.ravel()
    steps = Steps(*(torch.from_numpy(part) for part in count_steps(stored)))
    zero = torch.zeros(6, dtype=torch.int64)
    below, upto = steps.around(torch.arange(6), zero)
    np.testing.assert_allclose(upto - below, (whole_numbers == 0).mean(0), atol=1e-12)


# Calibration.


def poisson(mean: float, n: int, genes: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).poisson(mean, (n, genes))


def carried(calibration: Calibration, values: NDArray[np.int64], groups: Tensor | None = None) -> NDArray[np.float32]:
    x: Tensor = calibration(torch.from_numpy(values).float(), groups, rng=generator(3))
    return x.numpy()


def fit(drawn: NDArray, groups: NDArray, counts: NDArray, of: NDArray, **settings) -> Calibration:
    return Calibration.fit(sparse.csr_matrix(drawn), groups, sparse.csr_matrix(counts), of, **settings)


def nobody(n: int) -> NDArray[np.int64]:
    return np.full(n, -1, dtype=np.int64)


def test_a_wrong_marginal_is_carried_to_the_right_one() -> None:
    truth = np.random.default_rng(0).negative_binomial(0.5, 0.1, (3000, 3))
    calibration = fit(poisson(4, 3000, 3, 1), nobody(3000), truth, nobody(3000))
    fresh = poisson(4, 3000, 3, 2)  # The model draws anew: these are not the cells it was calibrated on.
    mended = carried(calibration, fresh)
    for gene in range(3):
        assert stats.ks_2samp(fresh[:, gene], truth[:, gene]).statistic > 0.3
        assert stats.ks_2samp(mended[:, gene], truth[:, gene]).statistic < 0.04
    assert mended.dtype == np.float32
    assert set(np.unique(mended)) <= set(np.unique(truth).astype(np.float32))


def test_a_right_model_is_left_alone() -> None:
    values = poisson(2, 500, 4, 0)
    codes = np.arange(500) % 2
    calibration = fit(values, codes, values, codes)
    np.testing.assert_array_equal(carried(calibration, values), values)
    np.testing.assert_array_equal(carried(calibration, values, torch.from_numpy(codes)), values)


def test_the_order_of_cells_is_kept() -> None:
    drawn = np.random.default_rng(0).integers(-40, 41, (2000, 1))  # Ranks may be negative.
    truth = np.random.default_rng(1).negative_binomial(2, 0.1, (2000, 1))
    mended = carried(fit(drawn, nobody(2000), truth, nobody(2000)), drawn)[:, 0]
    order = np.lexsort((mended, drawn[:, 0]))
    assert (np.diff(mended[order]) >= 0).all()


def test_values_that_the_model_never_drew_have_a_place() -> None:
    calibration = fit(np.full((100, 1), 5), nobody(100), np.arange(100)[:, None], nobody(100))
    assert carried(calibration, np.array([[4], [6]])).ravel().tolist() == [0, 99]


def test_groups_have_marginals_of_their_own() -> None:
    """The model draws both groups alike, the cells differ; with many cells the group decides."""
    codes = np.repeat([4, 9], 2000)
    truth = np.concatenate([poisson(1, 2000, 2, 0), poisson(8, 2000, 2, 1)])
    calibration = fit(poisson(4, 4000, 2, 2), codes, truth, codes, shrinkage=0.0)
    assert calibration.groups.tolist() == [4, 9]
    mended = carried(calibration, poisson(4, 4000, 2, 3), torch.from_numpy(codes))
    for code in (4, 9):
        for gene in range(2):
            assert stats.ks_2samp(mended[codes == code, gene], truth[codes == code, gene]).statistic < 0.06


def test_a_group_of_few_cells_keeps_close_to_the_whole() -> None:
    codes = np.where(np.arange(2000) < 5, 1, 0)
    truth = poisson(3, 2000, 200, 0)
    truth[:5] = 50  # Five cells, far out.
    drawn_codes = np.repeat([0, 1], 1000)
    calibration = fit(poisson(3, 2000, 200, 1), drawn_codes, truth, codes, shrinkage=20.0)
    torch.testing.assert_close(calibration.trust, torch.tensor([1995 / 2015, 5 / 25]))
    mended = carried(calibration, poisson(3, 1000, 200, 2), torch.ones(1000, dtype=torch.int64))
    # A value is carried by the five cells' map with the probability 5 / 25, and by the map of the whole otherwise.
    assert (mended == 50).mean() == pytest.approx(0.2 + 0.8 * 5 / 2000, abs=0.01)


def test_an_unknown_group_has_the_map_of_the_whole() -> None:
    codes = np.repeat([0, 2], 500)
    truth = np.concatenate([poisson(1, 500, 3, 0), poisson(8, 500, 3, 1)])
    calibration = fit(poisson(4, 1000, 3, 2), codes, truth, codes)
    fresh = poisson(4, 1000, 3, 3)
    of_the_whole = carried(calibration, fresh)
    for code in (-1, 1, 7):
        np.testing.assert_array_equal(carried(calibration, fresh, torch.full((1000,), code)), of_the_whole)
    assert stats.ks_2samp(of_the_whole[:, 0], truth[:, 0]).statistic < 0.06
    assert not np.array_equal(carried(calibration, fresh, torch.full((1000,), 2)), of_the_whole)


def test_a_group_that_was_hardly_drawn_has_no_map() -> None:
    codes, drawn_codes = np.repeat([0, 1], 100), np.where(np.arange(200) < 3, 1, 0)
    calibration = fit(poisson(2, 200, 2, 0), drawn_codes, poisson(2, 200, 2, 1), codes)
    assert calibration.groups.tolist() == [0]


def test_one_group_is_the_whole() -> None:
    calibration = fit(poisson(2, 50, 2, 0), np.zeros(50, np.int64), poisson(2, 50, 2, 1), np.zeros(50, np.int64))
    assert len(calibration.groups) == 0


@pytest.mark.parametrize("grouped", [False, True])
def test_carrying_a_sparse_matrix_is_the_map_of_its_dense_rows(grouped: bool) -> None:
    """All at once, and in parts that follow one another in the same random numbers."""
    codes = np.repeat([0, 1], 500)
    truth = np.concatenate([poisson(1, 500, 3, 0), poisson(8, 500, 3, 1)])
    calibration = fit(poisson(4, 1000, 3, 2), codes, truth, codes)
    fresh, groups = poisson(4, 100, 3, 3), np.arange(100) % 3 - 1 if grouped else None
    for cells in (100, 30):
        rng, dense = generator(3), []
        for rows in torch.arange(100).split(cells):
            of = None if groups is None else torch.from_numpy(groups)[rows]
            dense.append(calibration(torch.from_numpy(fresh)[rows], of, rng=rng))
        sparsely = calibration.carry(sparse.csr_matrix(fresh), groups, rng=generator(3), cells=cells)
        assert sparsely.dtype == np.int32
        np.testing.assert_array_equal(sparsely.toarray(), torch.cat(dense))


def test_tables_are_loaded_into_empty_ones() -> None:
    codes = np.repeat([0, 1], 200)
    calibration = fit(poisson(2, 400, 3, 0), codes, poisson(3, 400, 3, 1), codes)
    twin = Calibration.empty(**calibration.settings())
    twin.load_state_dict(calibration.state_dict())
    twin.model, twin.data = (Steps(s.start, s.value, s.cumulative) for s in (twin.model, twin.data))
    fresh, groups = poisson(2, 100, 3, 2), torch.arange(100) % 2
    np.testing.assert_array_equal(carried(twin, fresh, groups), carried(calibration, fresh, groups))


def test_calibration_is_seeded() -> None:
    codes = np.repeat([0, 1], 200)
    arguments = poisson(2, 400, 3, 0), codes, poisson(3, 400, 3, 1), codes
    first, second, other = (fit(*arguments, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(first[n].shape == other[n].shape and torch.equal(first[n], other[n]) for n in first)


def test_group_codes_tell_combinations_apart() -> None:
    every = torch.tensor([[a, 0.3, b] for a in range(3) for b in range(2)], dtype=torch.float)
    codes = group_codes(every, (3, 0, 2), 6)
    assert codes.dtype == torch.int64
    assert len(codes.unique()) == 6
    assert (codes >= 0).all()
    torch.testing.assert_close(group_codes(every.flip(0), (3, 0, 2), 6), codes.flip(0))


def test_group_codes_of_none() -> None:
    some = torch.tensor([[math.nan, 1.0], [2.0, math.nan], [2.0, 1.0]])
    assert (group_codes(some, (3, 2), 3) >= 0).tolist() == [False, False, True]
    assert group_codes(None, (), 2).tolist() == [-1, -1]
    assert group_codes(torch.tensor([[0.1], [0.2]]), (0,), 2).tolist() == [-1, -1]


# What all codecs share.


def test_codecs_without_a_summary_say_so(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codec = fitted(counts)
    with pytest.raises(NotImplementedError, match="Standardized encodes counts without a summary"):
        codec.summarize(dense, None)
    with pytest.raises(NotImplementedError, match="Standardized encodes counts without a summary"):
        codec.draw(dense, rng=generator())


def test_a_codec_is_built_anew_from_its_settings(counts: sparse.csr_matrix, dense: Tensor) -> None:
    codecs: list[Codec] = [fitted(counts), PCA.fit(counts, fitted(counts), n_components=3)]
    for codec in codecs:
        twin = type(codec)(**codec.settings())
        twin.load_state_dict(codec.state_dict())
        state = codec.encode(dense, None, rng=generator())
        assert torch.equal(twin.encode(dense, None, rng=generator()), state)
        assert torch.equal(twin.decode(state, None, rng=generator(1)), codec.decode(state, None, rng=generator(1)))
