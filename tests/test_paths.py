"""Paths: velocities against numerical derivatives, predictions against each other, one path drawn along another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq
from torch import Tensor

import scflow
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.matching import Bare, Rerouted, guidance, paths, solvers
from scflow.matching.names import PATHS

pytestmark = pytest.mark.usefixtures("small_flows")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).double()


@dataclass(frozen=True)
class Quadratic(paths.Affine):
    """An affine path of our own that preserves no variance and has nothing in closed form but its coefficients."""

    def coefficients(self, t: Tensor) -> paths.Coefficients:
        return paths.Coefficients((1 - t) * (1 + t), t * (2 - t), -2 * t, 2 - 2 * t)


@dataclass(frozen=True)
class Curved(paths.Path):
    """A path that is not affine: the straight line, between the inverse hyperbolic sines of data and noise."""

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> paths.PathSample:
        start, way = x0.asinh(), x1.asinh() - x0.asinh()
        y = start + paths.like(t, x0) * way
        return paths.PathSample(y.sinh(), y.cosh() * way)


SMOOTH = paths.VariancePreservingOwn(lambda t: t * t * (3 - 2 * t), lambda t: 6 * t * (1 - t))
AFFINE = [paths.Linear(), paths.VariancePreserving(), paths.VariancePreservingLinear(), SMOOTH, Quadratic()]


def name(path: paths.Path) -> str:
    return type(path).__name__


EVERY_AFFINE = pytest.mark.parametrize("path", AFFINE, ids=name)
EVERY_PATH = pytest.mark.parametrize("path", [*AFFINE, Curved()], ids=name)


# Points and velocities.


@EVERY_PATH
def test_the_velocity_is_the_numerical_derivative(path: paths.Path) -> None:
    x0, x1 = doubles(64, 3, 2), doubles(64, 3, 2, seed=1)
    t, h = torch.linspace(0.01, 0.98, 64, dtype=torch.float64), 1e-5
    there, back = path.sample(x0, x1, t + h).x, path.sample(x0, x1, t - h).x
    torch.testing.assert_close(path.sample(x0, x1, t).velocity, (there - back) / (2 * h), rtol=1e-6, atol=1e-7)


@EVERY_AFFINE
def test_the_coefficients_derivatives_are_numerical_ones(path: paths.Affine) -> None:
    t, h = torch.linspace(0.01, 0.98, 99, dtype=torch.float64), 1e-5
    here, there, back = (path.coefficients(t + s) for s in (0.0, h, -h))
    close = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(here.d_alpha, (there.alpha - back.alpha) / (2 * h), **close)
    torch.testing.assert_close(here.d_sigma, (there.sigma - back.sigma) / (2 * h), **close)
    turning = here.determinant / here.norm.square()
    torch.testing.assert_close(turning, (path.angle(t + h) - path.angle(t - h)) / (2 * h), **close)


@EVERY_PATH
def test_data_are_at_zero_and_noise_is_at_one(path: paths.Path) -> None:
    x0, x1 = normal(5, 2), normal(5, 2, seed=1)
    torch.testing.assert_close(path.sample(x0, x1, torch.zeros(5)).x, x0)
    torch.testing.assert_close(path.sample(x0, x1, torch.ones(5)).x, x1)


@EVERY_PATH
def test_velocities_are_finite_from_zero_to_the_end(path: paths.Path) -> None:
    x0, x1 = normal(101, 2), normal(101, 2, seed=1)
    velocity = path.sample(x0, x1, torch.linspace(0, path.end, 101)).velocity
    assert velocity.isfinite().all()
    assert path.end == (0.999 if path in (paths.VariancePreservingLinear(), SMOOTH) else 1)


def test_the_linear_path_in_closed_form() -> None:
    """`Linear.sample` has its own way of mixing: it gives what the coefficients give."""
    x0, x1, t = normal(50, 4), normal(50, 4, seed=1), torch.rand(50, generator=generator(2))
    general, own = paths.Affine.sample(paths.Linear(), x0, x1, t), paths.Linear().sample(x0, x1, t)
    torch.testing.assert_close(own.x, (1 - t)[:, None] * x0 + t[:, None] * x1)
    torch.testing.assert_close(own.x, general.x)
    torch.testing.assert_close(own.velocity, x1 - x0)


def test_the_variance_preserving_paths_in_closed_form() -> None:
    t = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    circle = paths.VariancePreserving().coefficients(t)
    torch.testing.assert_close(circle.alpha, (math.pi * t / 2).cos())
    torch.testing.assert_close(circle.sigma, (math.pi * t / 2).sin())
    torch.testing.assert_close(circle.d_alpha.square() + circle.d_sigma.square(), torch.full_like(t, math.pi**2 / 4))
    assert paths.VariancePreserving().coefficients(torch.ones(1)).alpha == 0
    plain = paths.VariancePreservingLinear().coefficients(t)
    torch.testing.assert_close(plain.alpha, (1 - t**2).sqrt())
    # Why the path ends early: the target's norm.
    torch.testing.assert_close(plain.d_alpha.square() + plain.d_sigma.square(), 1 / (1 - t**2))
    for path in AFFINE[1:4]:
        torch.testing.assert_close(path.coefficients(t).norm, torch.ones_like(t))


@pytest.mark.parametrize(
    ("own", "path"),
    [
        (
            paths.VariancePreservingOwn(
                lambda t: (math.pi * t / 2).sin(), lambda t: math.pi / 2 * (math.pi * t / 2).cos()
            ),
            paths.VariancePreserving(),
        ),
        (paths.VariancePreservingOwn(lambda t: t, torch.ones_like), paths.VariancePreservingLinear()),
    ],
    ids=["sine", "identity"],
)
def test_an_s_of_ones_own_is_exact_up_to_the_end(own: paths.Affine, path: paths.Affine) -> None:
    """In float32 too, where 1 - s^2 would keep one digit at the end."""
    t = torch.linspace(0, 0.999, 1000)
    for mine, theirs in zip(own.coefficients(t), path.coefficients(t), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_ends_that_are_refused() -> None:
    for end in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"end=.* must be above 0 and below 1: at 1 the velocity is infinite"):
            paths.VariancePreservingLinear(end=end)
    with pytest.raises(ValueError, match=r"end=1\.5 must be above 0 and at most 1"):
        paths.VariancePreservingOwn(lambda t: t, torch.ones_like, end=1.5)


# Predictions.


@EVERY_AFFINE
def test_each_prediction_gives_the_others(path: paths.Affine) -> None:
    data, noise = doubles(64, 3, 2), doubles(64, 3, 2, seed=1)
    t = torch.linspace(0.02, 0.98, 64, dtype=torch.float64)
    x, velocity = path.sample(data, noise, t)
    for given in (path.given_data(x, t, data), path.given_noise(x, t, noise), path.given_velocity(x, t, velocity)):
        torch.testing.assert_close(given, paths.Predictions(data, noise, velocity))


@EVERY_AFFINE
def test_a_wrong_prediction_is_wrong_in_the_same_way(path: paths.Affine) -> None:
    """The state holds what is predicted, whatever is predicted; and there is a way back."""
    x, guess = doubles(64, 3), doubles(64, 3, seed=1)
    t = torch.linspace(0.02, 0.98, 64, dtype=torch.float64)
    for given in (path.given_data(x, t, guess), path.given_noise(x, t, guess), path.given_velocity(x, t, guess)):
        again, velocity = path.sample(given.data, given.noise, t)
        torch.testing.assert_close(again, x)
        torch.testing.assert_close(velocity, given.velocity)
        torch.testing.assert_close(path.given_velocity(x, t, given.velocity), given)


@EVERY_AFFINE
def test_predictions_at_the_ends(path: paths.Affine) -> None:
    x, guess = normal(5, 2), normal(5, 2, seed=1)
    start, one = torch.zeros(5), torch.ones(5)
    end = torch.full((5,), path.end)
    torch.testing.assert_close(path.given_velocity(x, start, guess).data, x)
    torch.testing.assert_close(path.given_noise(x, start, guess).data, x)
    assert torch.equal(path.given_data(x, start, guess).noise, torch.zeros(5, 2))
    assert path.given_velocity(x, end, guess).data.isfinite().all()
    torch.testing.assert_close(path.given_data(x, one.mul(path.end), 0 * x).noise * path.coefficients(end).sigma[0], x)
    if path.end == 1:
        assert torch.equal(path.given_noise(x, one, guess).data, torch.zeros(5, 2))
        torch.testing.assert_close(path.given_data(x, one, guess).noise, x)


# Along another path.


@EVERY_AFFINE
def test_the_time_of_an_angle(path: paths.Affine) -> None:
    t = torch.linspace(0, path.end, 201, dtype=torch.float64)
    angle = path.angle(t)
    assert angle[0] == 0
    assert (angle.diff() > 0).all()
    torch.testing.assert_close(path.time_at(angle), t, rtol=0, atol=1e-7)
    torch.testing.assert_close(path.time_at(angle), paths.Affine.time_at(path, angle), rtol=0, atol=1e-7)
    torch.testing.assert_close(path.time_at(path.angle(t.float())), t.float(), rtol=0, atol=1e-3)


SHARES, MEANS, SDS = (torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [-2.0, 1.0], [0.3, 0.5]))


@dataclass(frozen=True)
class Exact:
    """The velocity of a mixture of two normals under standard normal noise, in closed form, along any affine path."""

    path: paths.Affine

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        alpha, sigma, d_alpha, d_sigma = self.path.coefficients(t[:, None])
        shift = x - alpha * MEANS.to(x.dtype)
        variance = alpha.square() * SDS.square() + sigma.square()
        log = SHARES.log() - variance.log() / 2 - shift.square() / (2 * variance)
        slope = (alpha * d_alpha * SDS.square() + sigma * d_sigma) / variance
        return (log.softmax(1) * (d_alpha * MEANS + slope * shift)).sum(1, keepdim=True)


def transported(noise: Tensor) -> Tensor:
    """Where noise ends: in one dimension, at the same quantile of the data."""

    def cdf(x: float) -> float:
        return float(SHARES.numpy() @ stats.norm.cdf(x, MEANS.numpy(), SDS.numpy()))

    quantiles = stats.norm.cdf(noise[:, 0].numpy())
    return torch.tensor([brentq(lambda x, q=q: cdf(x) - q, -9, 9, xtol=1e-13) for q in quantiles])[:, None]


@pytest.mark.parametrize(("trained", "path"), list(product(AFFINE, AFFINE)), ids=name)
def test_a_rerouted_field_is_the_one_trained_there(trained: paths.Affine, path: paths.Affine) -> None:
    """The velocity of a known law along one path, made from the one along another."""
    rerouted = Rerouted(Exact(trained), trained, path)
    n = 200
    t = torch.linspace(0, min(rerouted.start, 0.995), n, dtype=torch.float64)
    x = 1.5 * doubles(n, 1)
    torch.testing.assert_close(rerouted(x, t, None), Exact(path)(x, t, None), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "path"),
    [
        (paths.Linear(), paths.VariancePreserving()),
        (paths.VariancePreserving(), paths.Linear()),
        (paths.Linear(), Quadratic()),
    ],
    ids=name,
)
@pytest.mark.parametrize("solver", [solvers.Midpoint(), solvers.Heun()], ids=lambda s: type(s).__name__)
def test_the_cells_are_the_same_within_the_solvers_error(
    trained: paths.Affine, path: paths.Affine, solver: solvers.Solver
) -> None:
    noise = doubles(100, 1)
    exact, field = transported(noise), Rerouted(Exact(trained), trained, path)
    assert (field.start, field.scale) == (1.0, 1.0)
    errors = []
    for steps in (40, 80, 160):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        x = solver.integrate(lambda x, t: field(x, t.expand(len(x)), None), noise, times)
        errors.append(float((x - exact).square().mean().sqrt()))
    assert errors[-1] < 1e-3
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([solver.order] * 2, abs=0.4)


def test_a_path_that_ends_early_is_entered_where_it_ends() -> None:
    linear, early = paths.Linear(), paths.VariancePreservingLinear()
    there = Rerouted(Exact(linear), linear, early)
    assert (there.start, there.scale) == (early.end, 1.0)
    back = Rerouted(Exact(early), early, linear)
    # The time of the straight line at which noise is to data as 0.999 to the root of 1 - 0.999^2.
    ratio = 0.999 / math.sqrt(1 - 0.999**2)
    assert back.start == pytest.approx(ratio / (1 + ratio))
    assert back.scale == pytest.approx(math.hypot(1, ratio) / (1 + ratio))
    noise = doubles(100, 1)
    for field in (there, back):
        times = torch.linspace(field.start, 0, 401, dtype=torch.float64)
        x = solvers.Heun().integrate(
            lambda x, t, field=field: field(x, t.expand(len(x)), None), noise * field.scale, times
        )
        # What is left: the 4.5 % of data that the state at the end is given without.
        assert (x - transported(noise)).square().mean().sqrt() < 0.06


# Flows on other paths.


@pytest.fixture(scope="module")
def cells(small_flows: None):
    adata = scflow.datasets.simulate(n_cells=200, n_genes=30, n_types=3, seed=0)
    adata.obsm["X_own"] = np.random.default_rng(1).normal([3, -1], [2, 0.5], (200, 2))
    return adata


@pytest.fixture(scope="module")
def flows(cells) -> dict[str, Flow]:
    return {
        path: scflow.tl.train(
            cells, use_rep="X_own", condition="cell_type", path=path, steps=60, precision="float32", progress=False
        )
        for path in PATHS
    }


@pytest.mark.parametrize("path", PATHS)
def test_a_flow_on_every_path_draws_the_data_and_is_stored(path: str, cells, flows: dict[str, Flow], tmp_path) -> None:
    flow = flows[path]
    assert flow.path == PATHS[path]()
    drawn = flow.draw(1000)
    own = cells.obsm["X_own"]
    np.testing.assert_allclose(drawn.state.mean(0), own.mean(0), atol=0.4)
    np.testing.assert_allclose(drawn.state.std(0), own.std(0), rtol=0.3)
    flow.save(tmp_path / "flow")
    loaded = Flow.load(tmp_path / "flow")
    assert loaded.path == flow.path
    np.testing.assert_array_equal(loaded.draw(1000).state, drawn.state)


def test_a_paths_settings_are_stored(flows: dict[str, Flow], tmp_path) -> None:
    from dataclasses import replace

    path = paths.VariancePreservingLinear(end=0.9)
    replace(flows["variance_preserving_linear"], path=path).save(tmp_path / "flow")
    assert Flow.load(tmp_path / "flow").path == path


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_trained_flow_along_another_path_draws_the_same_cells(scale: float, flows: dict[str, Flow]) -> None:
    """Guided too; the states come closer as the steps get shorter, in proportion at least."""
    flow, apart = flows["linear"], []
    fine = flow.draw(256, sampling=Sampling(steps=200, guidance=scale)).state
    for steps in (20, 40):
        along = Sampling(steps=steps, path=paths.VariancePreserving(), guidance=scale)
        apart.append(float(np.abs(flow.draw(256, sampling=along).state - fine).mean()))
    assert apart[1] < 2e-3
    assert apart[1] < apart[0] / 2


def test_the_grid_starts_where_the_path_ends(flows: dict[str, Flow]) -> None:
    flow = flows["variance_preserving_linear"]
    drawn = flow.draw(20, sampling=Sampling(steps=2, solver=solvers.Euler()))
    x = torch.from_numpy(drawn.noise)
    for t in (0.999, 0.4995):
        x = x - 0.4995 * flow.field(x, torch.full((20,), t), drawn.condition)
    np.testing.assert_allclose(drawn.state, flow.codec.decode(x, None, rng=generator()), rtol=1e-4, atol=1e-5)


def test_generate_takes_a_path_by_name_or_as_an_object(flows: dict[str, Flow]) -> None:
    flow = flows["linear"]
    settings = {"condition": "type_1", "device": "cpu", "progress": False}
    own = scflow.tl.generate(flow, 40, **settings)
    assert own.uns["scflow"]["provenance"]["path"] == "linear"
    same = scflow.tl.generate(flow, 40, path="linear", **settings)
    np.testing.assert_array_equal(same.obsm["X_scflow"], own.obsm["X_scflow"])
    by_name = scflow.tl.generate(flow, 40, path="variance_preserving", **settings)
    by_object = scflow.tl.generate(flow, 40, path=paths.VariancePreserving(), **settings)
    assert by_name.uns["scflow"]["provenance"]["path"] == "variance_preserving"
    np.testing.assert_array_equal(by_name.obsm["X_scflow"], by_object.obsm["X_scflow"])
    np.testing.assert_allclose(by_name.obsm["X_scflow"], own.obsm["X_scflow"], atol=0.05)
    assert (by_name.obsm["X_scflow"] != own.obsm["X_scflow"]).any()
    with pytest.raises(InputError, match=r"path='liner' is not known\. Did you mean 'linear'\?"):
        scflow.tl.generate(flow, 40, path="liner")
    with pytest.raises(InputError, match=r"or pass a scflow\.matching\.paths\.Affine of your own"):
        scflow.tl.generate(flow, 40, path=Curved())


def test_a_path_that_is_not_affine_trains_draws_and_says_what_it_cannot(cells) -> None:
    with pytest.warns(UserWarning, match=r"The flow is returned, but not kept .* whose path is a Curved of your own"):
        flow = scflow.tl.train(cells.copy(), use_rep="X_own", path=Curved(), steps=300, progress=False)
    assert isinstance(flow.field, Bare)
    drawn, own = flow.draw(1000), cells.obsm["X_own"]
    np.testing.assert_allclose(drawn.state.mean(0), own.mean(0), atol=0.5)
    np.testing.assert_allclose(drawn.state.std(0), own.std(0), rtol=0.4)
    with pytest.raises(InputError, match=r"Drawing along another path needs an affine path.*; Curved is none"):
        flow.draw(10, sampling=Sampling(path=paths.Linear()))
    with pytest.raises(InputError, match=r"weight='min_snr' needs an affine path.*; Curved is none\. Derive it from"):
        scflow.tl.train(cells.copy(), use_rep="X_own", path=Curved(), weight="min_snr", progress=False)


def test_guidance_may_stand_inside_or_outside() -> None:
    """It is linear in velocities whose weights add up to 1, and so is rerouting."""

    def field(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        assert c is not None
        return (x + t[:, None]) * torch.where(c.isnan(), 0.5, c)

    linear, circle = paths.Linear(), paths.VariancePreserving()
    x, t, c = doubles(9, 2), torch.linspace(0.1, 0.9, 9, dtype=torch.float64), torch.arange(9.0)[:, None]
    inside = Rerouted(guidance.Guided(field, 3.0), linear, circle)
    outside = guidance.Guided(Rerouted(field, linear, circle), 3.0)
    torch.testing.assert_close(inside(x, t, c), outside(x, t, c))
