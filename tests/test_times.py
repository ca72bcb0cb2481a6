"""Laws of time: densities against integrals and histograms, batches that are stratified and shuffled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scflow.matching import times


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Cubed(times.Time):
    """A law of our own, which leaves its density to the base."""

    def quantile(self, u: torch.Tensor) -> torch.Tensor:
        return (u + u**3) / 2


LAWS = [
    times.Uniform(),
    times.Stratified(),
    times.Importance(),
    times.Importance(corrected=True),
    times.LogitNormal(),
    times.LogitNormal(mean=0.7, scale=0.4),
    times.UShaped(),
    times.UShaped(a=0.5),
    Cubed(),
]
EVERY = pytest.mark.parametrize("time", LAWS, ids=repr)
STRATIFIED = pytest.mark.parametrize("time", LAWS[1:], ids=repr)


def density(time: times.Time, t: float) -> float:
    return float(time.density(torch.tensor([t], dtype=torch.float64)))


def quantile(time: times.Time, u: float) -> float:
    return float(time.quantile(torch.tensor([u], dtype=torch.float64)))


@pytest.mark.parametrize("time", LAWS[:-1], ids=repr)
def test_the_density_integrates_to_its_quantiles(time: times.Time) -> None:
    """Up to one at the end: an inverse distribution function is checked by the integral of the density."""
    for u in (0.03, 0.25, 0.5, 0.9, 1.0):
        mass, _ = integrate.quad(lambda t: density(time, t), 0, quantile(time, u), limit=200, epsabs=1e-8)
        assert mass == pytest.approx(u, abs=1e-6)
    assert quantile(time, 0.0) == pytest.approx(0, abs=1e-12)
    assert quantile(time, 1.0) == pytest.approx(1)


@EVERY
def test_the_histogram_of_draws_follows_the_density(time: times.Time) -> None:
    rng = generator()
    t = torch.cat([time.sample(100, rng=rng) for _ in range(200)])
    assert t.dtype == torch.float32
    assert 0 <= t.min() < t.max() <= 1
    edges = np.linspace(0, 1, 21)
    fine = torch.tensor(np.linspace(0, 1, 20_001)[:-1] + 0.5 / 20_000)
    mass = time.density(fine).numpy().reshape(20, -1).mean(1) / 20
    counts = np.histogram(t, edges)[0]
    assert np.abs(counts - 20_000 * mass).max() < 5 * math.sqrt(20_000 * mass.max()) + 20


def test_the_laws_in_closed_form() -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    torch.testing.assert_close(times.Importance().density(t), 1 / (2 * t.sqrt()))
    normal = stats.norm(0.7, 0.4).pdf(t.logit().numpy()) / (t * (1 - t)).numpy()
    np.testing.assert_allclose(times.LogitNormal(mean=0.7, scale=0.4).density(t), normal)
    u_shaped = (4 * t).exp() + (4 * (1 - t)).exp()
    ratio = times.UShaped().density(t) / u_shaped
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    torch.testing.assert_close(Cubed().density((t + t**3) / 2), 2 / (1 + 3 * t**2), rtol=2e-3, atol=0)


def test_where_each_law_has_more() -> None:
    """t = 0 is the data: the laws are not mirrored."""
    ends = torch.tensor([0.02, 0.5, 0.98])
    near, middle, far = times.Importance().density(ends).tolist()
    assert near > 1 > middle > far
    near, middle, far = times.LogitNormal().density(ends).tolist()
    assert near == pytest.approx(far, rel=1e-3)
    assert middle > 1 > near
    assert times.LogitNormal(mean=1.0).density(torch.tensor([0.3, 0.7])).diff() > 0
    near, middle, far = times.UShaped().density(ends).tolist()
    assert near == pytest.approx(far)
    assert near / middle == pytest.approx(math.cosh(4 * 0.48))


def test_densities_at_the_ends() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(times.LogitNormal().density(ends), torch.zeros(2))
    assert torch.equal(times.Importance().density(ends), torch.tensor([math.inf, 0.5]))
    assert times.UShaped().density(ends).isfinite().all()
    assert Cubed().density(torch.tensor([-0.1, 1.1])).tolist() == [0, 0]


@STRATIFIED
def test_a_batch_has_one_time_in_each_equally_likely_bin(time: times.Time) -> None:
    for n in (1, 7, 256):
        t = time.sample(n, rng=generator(n)).double()
        edges = time.quantile(torch.linspace(0, 1, n + 1, dtype=torch.float64))
        edges[-1] += 1e-6
        assert sorted((torch.searchsorted(edges, t + 1e-9, right=True) - 1).tolist()) == list(range(n))


@STRATIFIED
def test_times_do_not_follow_their_place_in_the_batch(time: times.Time) -> None:
    t = torch.stack([time.sample(64, rng=generator(s)) for s in range(200)])
    place = torch.arange(64.0).expand_as(t)
    correlation = torch.corrcoef(torch.stack([t.flatten(), place.flatten()]))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(t.numel())
    # Nor does a place have times of its own.
    assert (t.mean(0) - t.mean()).abs().max() < 5 * t.std() / math.sqrt(200)


@pytest.mark.parametrize("time", LAWS[:2], ids=repr)
def test_times_are_uniform_within_and_across_bins(time: times.Time) -> None:
    rng = generator()
    t = torch.cat([time.sample(100, rng=rng) for _ in range(50)])
    assert stats.kstest(t.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest((t * 100 % 1).numpy(), "uniform").pvalue > 1e-3
    torch.testing.assert_close(time.density(t), torch.ones_like(t))


def test_a_stratified_mean_varies_less() -> None:
    means = {
        time: torch.stack([time.sample(64, rng=generator(s)).square().mean() for s in range(200)]).std()
        for time in (times.Uniform(), times.Stratified())
    }
    assert means[times.Stratified()] < means[times.Uniform()] / 20


def test_the_default_draws_the_numbers_that_it_always_drew() -> None:
    rng = generator(5)
    order = torch.randperm(9, generator=rng)
    assert torch.equal(times.Stratified().sample(9, rng=generator(5)), (order + torch.rand(9, generator=rng)) / 9)
    assert torch.equal(times.Uniform().sample(9, rng=generator(5)), torch.rand(9, generator=generator(5)))


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scale=0 must be above 0: it is the standard deviation of the logit"):
        times.LogitNormal(scale=0)
    with pytest.raises(ValueError, match=r"a=nan must be above 0: it says how deep the U is"):
        times.UShaped(a=math.nan)
