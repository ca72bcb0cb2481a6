"""The mathematics: derivatives against differences, laws against their moments, orders against halved steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from scflow import nn
from scflow.errors import InputError
from scflow.matching import (
    Bare,
    FlowMatching,
    Preconditioned,
    couplings,
    noises,
    paths,
    preconditioned,
    solvers,
    times,
    weights,
)
from scflow.matching.guidance import Guided
from scflow.matching.names import COUPLINGS, PATHS, SOLVERS, TIMES, WEIGHTS, chosen, named


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


@dataclass(frozen=True)
class Trigonometric(paths.Affine):
    """A path of our own, of constant norm: what is written for any affine path must hold for it."""

    def coefficients(self, t: Tensor) -> paths.Coefficients:
        angle = t * math.pi / 2
        half = math.pi / 2
        return paths.Coefficients(angle.cos(), angle.sin(), -half * angle.sin(), half * angle.cos())


EVERY_PATH = pytest.mark.parametrize("path", [paths.Linear(), Trigonometric()], ids=lambda p: type(p).__name__)
VARIANCE_PRESERVING = [
    paths.VariancePreserving(),
    paths.VariancePreservingLinear(),
    paths.VariancePreservingOwn(lambda t: t * t * (3 - 2 * t), lambda t: 6 * t * (1 - t)),
]


# Noises.


def test_gaussian_noise_is_standard_normal() -> None:
    noise = noises.Gaussian()
    x = noise.sample(2000, 3, rng=generator())
    assert x.shape == (2000, 3)
    assert x.dtype == torch.float32
    assert all(stats.kstest(column.numpy(), "norm").pvalue > 1e-3 for column in x.T)
    assert torch.equal(noise.sd(3), torch.ones(3))
    assert noise.is_gaussian
    assert noise.has_density


def test_dropout_noise_has_its_rate_of_near_zeros_and_its_sd() -> None:
    rate, jitter, n = torch.tensor([0.0, 0.25, 0.9, 1.0]), 1e-3, 40_000
    noise = noises.Dropout(rate, jitter=jitter)
    x = noise.sample(n, 4, rng=generator())
    near = (x.abs() < 5 * jitter).float().mean(0)
    # A normal draw that was kept is also that close now and then.
    expected = rate + (1 - rate) * math.erf(5 * jitter / math.sqrt(2))
    assert ((near - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1e-6).all()
    torch.testing.assert_close(noise.sd(4), (1 - rate + jitter**2).sqrt())
    torch.testing.assert_close(x.std(0), noise.sd(4), rtol=0.03, atol=0)
    assert not noise.is_gaussian
    assert not noise.has_density


def test_jitter_spreads_the_atoms() -> None:
    """No two draws of a coordinate that is always dropped are one point, and they are normal with the jitter's sd."""
    x = noises.Dropout(torch.ones(1), jitter=0.1).sample(2000, 1, rng=generator())[:, 0]
    assert len(x.unique()) > 1990
    assert stats.kstest((x / 0.1).numpy(), "norm").pvalue > 1e-3


def test_what_a_dropout_noise_refuses() -> None:
    with pytest.raises(ValueError, match=r"jitter=0 must be above 0: a flow cannot spread the atoms of masked noise"):
        noises.Dropout(torch.zeros(2), jitter=0)
    with pytest.raises(ValueError, match=r"jitter=nan must be above 0"):
        noises.Dropout(torch.zeros(2), jitter=math.nan)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]: it is the share of zeros"):
            noises.Dropout(torch.tensor([0.5, bad]))


# The objective.


def test_the_loss_is_the_mean_squared_error_of_the_velocity() -> None:
    x0, x1, t = normal(30, 2, 3), normal(30, 2, 3, seed=1), torch.rand(30, generator=generator(2))
    objective = FlowMatching()
    losses = objective.losses(lambda x, t, c: 2 * x, x0, x1, t, None)
    mixed = (1 - t)[:, None, None] * x0 + t[:, None, None] * x1
    torch.testing.assert_close(losses, (2 * mixed - (x1 - x0)).square().mean((1, 2)))


def test_weight_time_and_coupling_all_enter_the_loss() -> None:
    class Reversed(couplings.Coupling):
        def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
            return torch.arange(len(x1)).flip(0)

    class Quarters(times.Time):
        def quantile(self, u: Tensor) -> Tensor:
            return torch.where(u < 0.5, 0.25, 0.75)

    class Cubic(weights.Weight):
        def __call__(self, t: Tensor, path: paths.Path) -> Tensor:
            return 5 * t**3

    x0, x1 = normal(20, 4), normal(20, 4, seed=1)
    objective = FlowMatching(time=Quarters(), weight=Cubic(), coupling=Reversed())
    seen: list[tuple[Tensor, Tensor]] = []

    def zero(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        seen.append((x, t))
        return torch.zeros_like(x)

    loss = objective.loss(zero, x0, x1, None, rng=generator())
    x, t = seen[0]
    assert sorted(t.tolist()) == [0.25] * 10 + [0.75] * 10
    torch.testing.assert_close(x, torch.lerp(x0, x1.flip(0), t[:, None]))
    # 1 to 27, and 1 on average.
    weight = torch.where(t < 0.5, 1 / 14, 27 / 14)
    torch.testing.assert_close(loss, (weight[:, None] * (x1.flip(0) - x0).square()).mean())


# Preconditioning.


class Zero(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


class Const(torch.nn.Module):
    """Remembers what it was given, and answers one."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        self.seen = x
        return torch.ones_like(x)


def test_a_zero_network_is_the_guides_best_linear_velocity() -> None:
    t = torch.linspace(0, 1, 21)
    x = normal(21, 5)
    field = Preconditioned(Zero(), paths.Linear(), torch.ones(5), torch.ones(5))
    torch.testing.assert_close(field(x, t, None), ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None] * x)


def test_a_zero_network_reaches_half_pi() -> None:
    """Standard normal data and noise: the mean over t of 1 / ((1-t)^2 + t^2) is pi / 2."""
    field = Preconditioned(Zero(), paths.Linear(), torch.ones(50), torch.ones(50))
    x0, x1, n = normal(4000, 50), normal(4000, 50, seed=1), 4000
    loss = FlowMatching().loss(field, x0, x1, None, rng=generator(2))
    # A cell's loss is its mean times a chi-square over 50, and the mean's square averages 1 + pi / 2 over t.
    assert abs(float(loss) - math.pi / 2) < 4 * math.sqrt((1 + math.pi / 2) * 2 / 50 / n)


@EVERY_PATH
def test_the_skip_is_the_regression_of_velocity_on_state(path: paths.Path) -> None:
    """Slope and residual of a least-squares fit at a few times, with data and noise of different spread."""
    data_sd, noise_sd, n = torch.tensor([0.2, 1.0, 3.0]), torch.tensor([1.0, 0.5, 1.0]), 200_000
    x0, x1 = normal(n, 3).double() * data_sd, normal(n, 3, seed=1).double() * noise_sd
    network = Const()
    for time in (0.1, 0.5, 0.9):
        x, velocity = path.sample(x0, x1, torch.full((n,), time, dtype=torch.float64))
        slope = (x * velocity).mean(0) / x.square().mean(0)
        left = (velocity - slope * x).std(0)
        t = torch.full((1,), time)
        linear = Preconditioned(Zero(), path, data_sd, noise_sd)(torch.ones(1, 3), t, None)[0]
        field = Preconditioned(network, path, data_sd, noise_sd)
        scale = field(torch.ones(1, 3), t, None)[0] - linear
        torch.testing.assert_close(linear.double(), slope, rtol=0.02, atol=0.02)
        torch.testing.assert_close(scale.double(), left, rtol=0.02, atol=1e-3)
        # What the network sees has unit variance.
        field(x[:50_000].float(), torch.full((50_000,), time), None)
        torch.testing.assert_close(network.seen.std(0), torch.ones(3), rtol=0.02, atol=0)


@pytest.mark.parametrize("path", VARIANCE_PRESERVING, ids=lambda p: type(p).__name__)
def test_unit_variances_need_no_skip_on_a_variance_preserving_path(path: paths.Affine) -> None:
    """State and velocity are uncorrelated there, and the state needs no scaling."""
    t, x = torch.linspace(0, path.end, 21), normal(21, 5)
    skip = Preconditioned(Zero(), path, torch.ones(5), torch.ones(5))(x, t, None)
    torch.testing.assert_close(skip, torch.zeros(21, 5), atol=1e-4, rtol=0)
    network = Const()
    out = Preconditioned(network, path, torch.ones(5), torch.ones(5))(x, t, None)
    torch.testing.assert_close(network.seen, x)
    torch.testing.assert_close(out[:, 0], path.coefficients(t).determinant, atol=1e-4, rtol=1e-4)


def test_a_path_that_is_not_affine_has_its_network_for_a_field() -> None:
    class Bent(paths.Path):
        def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> paths.PathSample:
            raise NotImplementedError

    x, t = normal(4, 3).double(), torch.rand(4, generator=generator())
    bare = preconditioned(Const(), Bent(), torch.ones(3), torch.ones(3))
    assert isinstance(bare, Bare)
    assert torch.equal(bare(x, t, None), torch.ones(4, 3))
    assert isinstance(preconditioned(Const(), Trigonometric(), torch.ones(3), torch.ones(3)), Preconditioned)


def test_a_coordinate_that_never_varies_stays_finite() -> None:
    field = Preconditioned(Const(), paths.Linear(), torch.zeros(2), torch.ones(2))
    x1, t = normal(11, 2), torch.linspace(0, 1, 11)
    velocity = field(t[:, None] * x1, t, None)
    assert velocity.isfinite().all()
    torch.testing.assert_close(velocity[1:], x1[1:])


# Solvers.


@pytest.mark.parametrize(
    "solver", [solvers.Euler(), solvers.Midpoint(), solvers.Heun()], ids=lambda s: type(s).__name__
)
def test_the_error_falls_with_the_order(solver: solvers.Solver) -> None:
    """dx/dt = x cos(2t) + t from 1 down to 0, against scipy's solution to twelve digits."""
    from scipy.integrate import solve_ivp

    calls = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * torch.cos(2 * t) + t

    exact = solve_ivp(lambda t, x: x * np.cos(2 * t) + t, (1, 0), [0.5, -2.0], rtol=1e-12, atol=1e-13).y[:, -1]
    start, errors = torch.tensor([0.5, -2.0], dtype=torch.float64), []
    for steps in (16, 32, 64):
        calls = 0
        end = solver.integrate(velocity, start, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        assert calls == steps * solver.evaluations
        errors.append(float((end - torch.from_numpy(exact)).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([solver.order] * 2, abs=0.15)


def test_a_straight_field_is_solved_by_one_step_and_back() -> None:
    x, v = normal(10, 3), normal(10, 3, seed=1)
    for solver in (solvers.Euler(), solvers.Midpoint(), solvers.Heun()):
        there = solver.integrate(lambda x, t: v, x, solvers.grid(1))
        torch.testing.assert_close(there, x - v)
        torch.testing.assert_close(solver.integrate(lambda x, t: v, there, solvers.grid(3, start=0, end=1)), x)


def test_the_grid_of_times() -> None:
    times_ = solvers.grid(4)
    assert times_.dtype == torch.float32
    assert times_.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert solvers.grid(2, start=0.0, end=0.5).tolist() == [0.0, 0.25, 0.5]


# Guidance.


def marked(x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
    """A field that says what it was conditioned on: -1 for none."""
    assert condition is not None
    return torch.where(condition.isnan(), -1.0, condition).expand_as(x) + t[:, None]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_guidance_extrapolates_from_none_to_the_condition(scale: float) -> None:
    x, t, condition = normal(6, 2), torch.rand(6, generator=generator()), torch.arange(6.0)[:, None]
    none, asked = marked(x, t, torch.full_like(condition, math.nan)), marked(x, t, condition)
    torch.testing.assert_close(Guided(marked, scale)(x, t, condition), none + scale * (asked - none))


def test_guidance_of_one_and_zero_are_the_fields_themselves() -> None:
    x, t, condition = normal(6, 2), torch.rand(6, generator=generator()), torch.arange(6.0)[:, None]
    calls: list[int] = []

    def field(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        calls.append(len(x))
        return marked(x, t, c)

    assert torch.equal(Guided(field, 1.0)(x, t, condition), marked(x, t, condition))
    assert calls == [6]  # One evaluation suffices.
    assert torch.equal(Guided(field, 0.0)(x, t, condition), marked(x, t, torch.full_like(condition, math.nan)))


def test_guidance_without_a_condition_changes_nothing() -> None:
    x, t = normal(6, 2), torch.zeros(6)
    assert torch.equal(Guided(lambda x, t, c: 2 * x, 3.0)(x, t, None), 2 * x)


# Names.


def test_the_names_that_there_are() -> None:
    assert list(PATHS) == ["linear", "variance_preserving", "variance_preserving_linear"]
    assert list(TIMES) == ["uniform", "stratified", "importance", "logit_normal", "u_shaped"]
    assert list(WEIGHTS) == ["uniform", "inverse_snr", "min_snr", "endpoint", "endpoint_noise"]


def test_a_choice_by_name_or_by_object() -> None:
    own = Trigonometric()
    assert chosen("linear", PATHS, paths.Path, "path") == paths.Linear()
    assert chosen(own, PATHS, paths.Path, "path") is own
    for table, base in ((TIMES, times.Time), (WEIGHTS, weights.Weight), (COUPLINGS, couplings.Coupling)):
        assert all(isinstance(chosen(name, table, base, "x"), kind) for name, kind in table.items())


def test_an_unknown_choice_lists_what_there_is() -> None:
    with pytest.raises(
        InputError,
        match=r"solver='eular' is not known\. Did you mean 'euler'\? Choose one of 'euler', 'midpoint', 'heun', "
        r"'rk4', 'adams', 'jump', 'dopri5', or pass a scflow\.matching\.solvers\.Solver of your own",
    ):
        chosen("eular", SOLVERS, solvers.Solver, "solver")
    with pytest.raises(InputError, match=r"path=\['linear'\] is not known"):
        chosen(["linear"], PATHS, paths.Path, "path")


def test_a_noun_as_json() -> None:
    assert named(paths.Linear(), PATHS) == {"name": "linear"}
    assert named(paths.VariancePreservingLinear(end=0.99), PATHS) == {"name": "variance_preserving_linear", "end": 0.99}
    assert named(times.LogitNormal(scale=2.0), TIMES) == {"name": "logit_normal", "mean": 0.0, "scale": 2.0}
    assert named(weights.MinSNR(), WEIGHTS) == {"name": "min_snr", "gamma": 5.0}
    assert named(Trigonometric(), PATHS) == {"name": "Trigonometric"}


# All together.


def test_a_gaussian_is_recovered() -> None:
    """A small field learns a normal of known mean and covariance, unlike the noise in both."""
    mean = torch.tensor([1.5, -1.0])
    root = torch.tensor([[1.2, 0.0], [0.8, 0.4]])
    rng, path = generator(), paths.Linear()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = nn.MLP(2, width=32, depth=2)
    sd = (root @ root.T).diagonal().sqrt()
    field = Preconditioned(network, path, (sd**2 + mean**2).sqrt(), torch.ones(2))
    optimizer = torch.optim.AdamW(field.parameters(), lr=3e-3)
    objective, steps = FlowMatching(), 500
    average = [p.detach().clone() for p in field.parameters()]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        x0 = mean + torch.randn(256, 2, generator=rng) @ root.T
        loss = objective.loss(field, x0, torch.randn(256, 2, generator=rng), None, rng=rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, list(field.parameters()), 0.02)
    with torch.no_grad():
        for p, a in zip(field.parameters(), average):
            p.copy_(a)
        noise = torch.randn(8000, 2, generator=rng)
        x = solvers.Heun().integrate(lambda x, t: field(x, t.expand(len(x)), None), noise, solvers.grid(20))
    torch.testing.assert_close(x.mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(x.T.cov(), root @ root.T, atol=0.15, rtol=0)
    # Each coordinate is normal, not only of the right moments.
    assert all(
        stats.kstest(((x[:, i] - x[:, i].mean()) / x[:, i].std()).numpy(), "norm").statistic < 0.03 for i in (0, 1)
    )
