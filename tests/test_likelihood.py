"""Log-densities of analytic flows, against the exact ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from scflow.errors import InputError
from scflow.flow._sampling import along
from scflow.matching import noises, paths, solvers
from scflow.matching.likelihood import LogProb, divergence, log_prob, random_signs

Velocity = Callable[[Tensor, Tensor], Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal_velocity(mean: Tensor, covariance: Tensor) -> Velocity:
    """The mean of x1 - x0 given the state, for normal data and standard normal noise on the linear path."""
    one = torch.eye(len(mean), dtype=mean.dtype)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t.to(x.dtype)
        state = (1 - t).square() * covariance + t.square() * one
        slope = (t * one - (1 - t) * covariance) @ torch.linalg.inv(state)
        return (x - (1 - t) * mean) @ slope.T - mean

    return velocity


class Mixture:
    """Normal clusters ``[k, dim]`` of one deviation, and the velocity that leads to them from standard normal noise."""

    def __init__(self, dim: int, sd: float = 0.4, path: paths.Affine | None = None) -> None:
        self.path = path or paths.Linear()
        self.sd = sd
        self.means = torch.stack([torch.linspace(-1.5, 1, dim), torch.linspace(1, 1.5, dim)]).double()
        self.weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
        self.law = MixtureSameFamily(Categorical(self.weights), Independent(Normal(self.means, sd), 1))

    def draw(self, n: int, seed: int = 0) -> Tensor:
        rng = generator(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        return self.means[k] + self.sd * torch.randn(n, self.means.shape[1], generator=rng, dtype=torch.float64)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        at = self.path.coefficients(t.to(x.dtype))
        variance = at.alpha**2 * self.sd**2 + at.sigma**2
        left = x[:, None] - at.alpha * self.means
        share = torch.softmax(self.weights.log() - left.square().sum(2) / (2 * variance), dim=1)
        slope = (at.alpha * at.d_alpha * self.sd**2 + at.sigma * at.d_sigma) / variance
        return (share[:, :, None] * (at.d_alpha * self.means + slope * left)).sum(1)


def of(velocity: Velocity, x: Tensor, steps: int = 64, end: float = 1.0, probes: Tensor | None = None) -> LogProb:
    times = solvers.grid(steps, start=0.0, end=end)
    return log_prob(velocity, x, noises.Gaussian(), times, solver=solvers.RK4(), probes=probes)


# Exact divergence.


def test_a_normal_law_has_its_own_density_and_whitened_noise() -> None:
    root = torch.randn(4, 4, generator=generator(), dtype=torch.float64)
    covariance, mean = root @ root.T + 0.1 * torch.eye(4), torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    law = MultivariateNormal(mean, covariance)
    x = mean + torch.randn(50, 4, generator=generator(1), dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    found = of(normal_velocity(mean, covariance), x)
    assert found.se is None
    torch.testing.assert_close(found.value, law.log_prob(x), atol=2e-4, rtol=0)
    # A linear flow takes the data to the noise of the same standardised place.
    values, vectors = torch.linalg.eigh(covariance)
    white = (x - mean) @ vectors @ torch.diag(values.rsqrt()) @ vectors.T
    torch.testing.assert_close(found.noise, white, atol=1e-3, rtol=0)


@pytest.mark.parametrize("path", [paths.Linear(), paths.VariancePreserving()])
def test_a_mixture_has_its_own_density(path: paths.Affine) -> None:
    mixture = Mixture(6, path=path)
    x = torch.cat([mixture.draw(60), torch.randn(20, 6, generator=generator(3), dtype=torch.float64)])
    torch.testing.assert_close(of(mixture, x).value, mixture.law.log_prob(x), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("solver", "ratio"), [(solvers.Midpoint(), 3.0), (solvers.RK4(), 9.0)])
def test_the_error_falls_with_the_solvers_order(solver: solvers.Solver, ratio: float) -> None:
    mixture = Mixture(3, sd=0.6)
    x, errors = mixture.draw(40), []
    for steps in (16, 32):
        times = solvers.grid(steps, start=0.0, end=1.0).double()
        found = log_prob(mixture, x, noises.Gaussian(), times, solver=solver).value
        errors.append(float((found - mixture.law.log_prob(x)).abs().mean()))
    assert errors[0] / errors[1] > ratio


def test_a_path_that_ends_early_has_the_density_of_what_is_drawn() -> None:
    """What is drawn starts with pure noise at the end: for centred normal data, a normal law of another deviation."""
    path, sd = paths.VariancePreservingLinear(end=0.9), 0.5
    mixture = Mixture(1, sd=sd, path=path)
    mixture.means = torch.zeros(2, 1, dtype=torch.float64)
    at = path.coefficients(torch.tensor(0.9, dtype=torch.float64))
    drawn = sd / float((at.alpha**2 * sd**2 + at.sigma**2).sqrt())
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    expected = Normal(0.0, drawn).log_prob(x[:, 0].double())
    assert abs(drawn - sd) > 0.02
    torch.testing.assert_close(of(mixture, x, end=0.9).value, expected.double(), atol=1e-4, rtol=0)


def test_noise_that_is_scaled_counts_by_its_volume() -> None:
    """The same cells are drawn along another path, from noise times a scale: they have the same density."""
    own, mixture = paths.VariancePreservingLinear(), Mixture(3, sd=0.5, path=paths.VariancePreservingLinear())
    rerouted, end, scale = along(lambda x, t, c: mixture(x, t[0]), own, paths.Linear())
    assert abs(scale - 1) > 0.01
    x, times = mixture.draw(40), solvers.grid(200, start=0.0, end=end)
    there = log_prob(
        lambda x, t: rerouted(x, t.expand(len(x)), None),
        x,
        noises.Gaussian(),
        times,
        solver=solvers.RK4(),
        scale=scale,
    )
    here = of(mixture, x, steps=400, end=own.end)
    torch.testing.assert_close(there.value, here.value, atol=0.01, rtol=0)
    torch.testing.assert_close(there.noise, here.noise, atol=0.01, rtol=0)


def test_the_divergence_is_the_trace_of_the_jacobian() -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5))
    network.requires_grad_(False)
    x = torch.randn(7, 5, generator=generator())
    with torch.no_grad():
        v, found = divergence(lambda x, t: network(x) * t, x, torch.tensor(0.5))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: network(x) * 0.5))(x)
    torch.testing.assert_close(found[:, 0], jacobian.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(v, network(x) * 0.5)
    # All four signs of two coordinates, each once: the mean of the estimates is then the trace itself.
    two = network[:0].append(torch.nn.Linear(2, 2)).requires_grad_(False)
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[:, None].expand(4, 7, 2)
    _, each = divergence(lambda x, t: two(x), x[:, :2], torch.tensor(0.5), signs)
    torch.testing.assert_close(each.mean(1), two[0].weight.trace().expand(7))


@pytest.mark.parametrize("probes", [None, 4])
def test_a_velocity_that_is_the_same_everywhere_moves_and_keeps_the_volume(probes: int | None) -> None:
    x = torch.randn(5, 3, generator=generator())
    signs = None if probes is None else random_signs(probes, x, rng=generator())
    found = of(lambda x, t: torch.ones(5, 3), x, probes=signs)
    torch.testing.assert_close(found.value, noises.Gaussian().log_prob(x + 1), atol=1e-5, rtol=0)
    partly = of(lambda x, t: torch.cat([x[:, :1] * 0, torch.ones(5, 2)], dim=1), x, probes=signs)
    torch.testing.assert_close(partly.noise[:, 0], x[:, 0])


def test_states_may_be_pictures() -> None:
    mixture, x = Mixture(6), Mixture(6).draw(10)

    def picture(x: Tensor, t: Tensor) -> Tensor:
        return mixture(x.flatten(1), t).reshape(x.shape)

    flat, shaped = of(mixture, x), of(picture, x.reshape(10, 1, 2, 3))
    torch.testing.assert_close(shaped.value, flat.value)
    torch.testing.assert_close(shaped.noise.flatten(1), flat.noise)


def test_matched_variance_noise_has_its_own_density() -> None:
    """Data and noise of one law, on the linear path: only a place's own variance shrinks and grows on the way."""
    sd = torch.tensor([0.5, 2.0])
    x = torch.randn(20, 2, generator=generator()) * sd

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return x * (2 * t - 1) / ((1 - t).square() + t.square())

    found = log_prob(
        velocity, x, noises.MatchedVariance(sd), solvers.grid(32, start=0.0, end=1.0), solver=solvers.RK4()
    )
    torch.testing.assert_close(found.value, Independent(Normal(torch.zeros(2), sd), 1).log_prob(x), atol=1e-4, rtol=0)


# Probes.


@pytest.fixture(scope="module")
def many() -> tuple[Mixture, Tensor]:
    mixture = Mixture(24)
    return mixture, mixture.draw(200)


def test_probes_are_within_three_standard_errors(many: tuple[Mixture, Tensor]) -> None:
    mixture, x = many
    signs = random_signs(64, x, rng=generator())
    found, exact = of(mixture, x, steps=24, probes=signs), of(mixture, x, steps=24)
    assert found.se is not None
    z = (found.value - exact.value) / found.se
    # Of 200 cells: a standard error from 64 probes is a little uncertain itself.
    assert (z.abs() < 3).double().mean() > 0.98
    assert abs(float(z.mean())) < 3 / math.sqrt(200)
    assert 0.9 < float(z.std()) < 1.15
    assert float((found.value.mean() - exact.value.mean()).abs()) < 3 * float(found.se.square().sum().sqrt()) / 200
    # And the likelihood of the data is the mixture's own.
    own = mixture.law.log_prob(x)
    assert float((exact.value - own).abs().max()) < 0.02
    assert abs(float((found.value - own).mean())) < 3 * float(found.se.square().sum().sqrt()) / 200 + 0.01
    torch.testing.assert_close(found.noise, exact.noise)


def test_the_standard_error_falls_as_one_over_the_root_of_the_probes(many: tuple[Mixture, Tensor]) -> None:
    mixture, x = many
    few, most = (of(mixture, x, steps=4, probes=random_signs(k, x, rng=generator(k))).se for k in (16, 256))
    assert few is not None
    assert most is not None
    assert float(few.square().mean().sqrt() / most.square().mean().sqrt()) == pytest.approx(4.0, rel=0.08)


def test_signs_are_fair_and_a_matter_of_the_seed() -> None:
    before = torch.get_rng_state()
    x = torch.zeros(100, 20, dtype=torch.float64)
    one, same, other = (random_signs(10, x, rng=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert one.shape == (10, 100, 20)
    assert one.dtype == torch.float64
    assert set(one.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(one.mean())) < 3 / math.sqrt(one.numel())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# What is refused.


@pytest.mark.parametrize("noise", [noises.Sparse(), noises.Dropout(torch.full((3,), 0.5))])
def test_a_noise_without_density_is_refused_before_any_work(noise: noises.Noise) -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    times = solvers.grid(4, start=0.0, end=1.0)
    with pytest.raises(InputError, match=r"noise has no density.*Train with noise='gaussian'"):
        log_prob(never, torch.zeros(2, 3), noise, times, solver=solvers.Euler())
