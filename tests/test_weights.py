"""Loss weights: each against its definition on the data, and their mean under every law of time on every path."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy import integrate
from torch import Tensor

from scflow.errors import InputError
from scflow.matching import FlowMatching, paths, times, weights
from scflow.matching.names import PATHS, TIMES, WEIGHTS

LINEAR = paths.Linear()
OWN = paths.VariancePreservingOwn(lambda t: t * t * (3 - 2 * t), lambda t: 6 * t * (1 - t))
AFFINE = [*(kind() for kind in PATHS.values()), OWN]
LAWS = [*(kind() for kind in TIMES.values()), times.Importance(corrected=True)]
EVERY_AFFINE = pytest.mark.parametrize("path", AFFINE, ids=lambda p: type(p).__name__)
EVERY_LAW = pytest.mark.parametrize("time", LAWS, ids=repr)
EVERY_WEIGHT = pytest.mark.parametrize("weight", [kind() for kind in WEIGHTS.values()], ids=lambda w: type(w).__name__)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@EVERY_AFFINE
@pytest.mark.parametrize("gamma", [0.5, 5.0])
@pytest.mark.parametrize("kind", [weights.InverseSNR, weights.MinSNR])
def test_a_weight_on_the_data_is_the_same_loss_on_the_velocity(
    kind: type[weights.InverseSNR] | type[weights.MinSNR], gamma: float, path: paths.Affine
) -> None:
    """For random predictions of the data, and the velocities that say the same."""
    data, noise, guess = normal(200, 3, seed=0), normal(200, 3, seed=1), normal(200, 3, seed=2)
    t = torch.linspace(0.01, 0.99, 200, dtype=torch.float64)
    x, velocity = path.sample(data, noise, t)
    guessed = path.given_data(x, t, guess).velocity
    at = path.coefficients(t)
    snr = (at.alpha / at.sigma) ** 2
    on_data = (1 / snr if kind is weights.InverseSNR else snr).clamp(max=gamma)
    expected = on_data * (guess - data).square().mean(1)
    torch.testing.assert_close(kind(gamma)(t, path) * (guessed - velocity).square().mean(1), expected)


def test_the_weights_on_the_linear_path() -> None:
    t = torch.linspace(0, 0.999, 100, dtype=torch.float64)
    assert torch.equal(weights.Uniform()(t, LINEAR), torch.ones_like(t))
    torch.testing.assert_close(weights.Endpoint()(t, LINEAR), (1 - t) ** 2)
    torch.testing.assert_close(weights.EndpointNoise()(t, LINEAR), t**2)
    torch.testing.assert_close(weights.MinSNR()(t, LINEAR), torch.minimum((1 - t) ** 2, 5 * t**2))
    torch.testing.assert_close(weights.InverseSNR()(t, LINEAR), t**2 * (t / (1 - t)).square().clamp(max=5))


@EVERY_WEIGHT
@EVERY_AFFINE
def test_weights_are_finite_from_end_to_end(path: paths.Affine, weight: weights.Weight) -> None:
    for dtype in (torch.float32, torch.float64):
        w = weight(torch.linspace(0, path.end, 1001, dtype=dtype), path)
        assert w.dtype == dtype
        assert w.isfinite().all()
        assert (w >= 0).all()


@EVERY_LAW
@EVERY_AFFINE
def test_the_mean_is_one_under_the_law_of_time(time: times.Time, path: paths.Affine) -> None:
    """By quadrature of weight times density, and of a large batch's own times."""
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64) * path.end
    for kind in WEIGHTS.values():
        objective = FlowMatching(path, time, kind())

        def both(t: float, objective: FlowMatching = objective) -> float:
            share = torch.tensor([t], dtype=torch.float64)
            return float(objective.loss_weight(share) * objective.time.density(share / path.end)) / path.end

        mean, _ = integrate.quad(both, 0, path.end, limit=200, epsabs=1e-6, points=[path.end / 100, path.end / 2])
        assert mean == pytest.approx(1, abs=1e-4)
        drawn = objective.draw_times(20_000, rng=torch.Generator().manual_seed(0))
        assert drawn.max() <= path.end
        spread = 1 if isinstance(time, times.Uniform) else 0.01
        w = objective.loss_weight(drawn)
        assert w.mean().item() == pytest.approx(1, abs=float(5 * spread * w.std() / math.sqrt(20_000)) + 1e-4)
        torch.testing.assert_close(
            objective.effective_weight(t), torch.tensor([both(float(s)) for s in t], dtype=torch.float64)
        )


@EVERY_LAW
@EVERY_AFFINE
def test_the_effective_weight_has_the_mean_one(time: times.Time, path: paths.Affine) -> None:
    for kind in WEIGHTS.values():
        objective = FlowMatching(path, time, kind())
        # Squares of evenly spaced roots: the density of `Importance` is infinite at 0.
        u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        assert (objective.effective_weight(u**2) * 2 * u).mean().item() == pytest.approx(1, abs=1e-3)
        beyond = objective.effective_weight(torch.tensor([1.0]))
        assert beyond.isfinite()
        assert path.end == 1 or beyond == 0


@EVERY_AFFINE
@EVERY_WEIGHT
def test_corrected_importance_changes_no_mean(weight: weights.Weight, path: paths.Affine) -> None:
    """The loss that it estimates is that of uniform times; as a weighting it is another."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    uniform, corrected, weighting = (
        FlowMatching(path, time, weight)
        for time in (times.Uniform(), times.Importance(corrected=True), times.Importance())
    )
    torch.testing.assert_close(corrected.effective_weight(t), uniform.effective_weight(t), rtol=1e-6, atol=1e-8)
    assert (weighting.effective_weight(t[1:]) - uniform.effective_weight(t[1:])).abs().max() > 0.1

    def half(x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return x / 2

    x0, x1 = normal(20_000, 2, seed=0).float(), normal(20_000, 2, seed=1).float()
    losses = [
        float(objective.loss(half, x0, x1, None, rng=torch.Generator().manual_seed(0)))
        for objective in (FlowMatching(path, times.Stratified(), weight), corrected)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_default_weight_is_exactly_one() -> None:
    t = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(FlowMatching().loss_weight(t), torch.ones(100))
    assert torch.equal(FlowMatching().effective_weight(t), torch.ones(100))


def test_the_mean_is_computed_once() -> None:
    class Counted(weights.Weight):
        calls = 0

        def __call__(self, t: Tensor, path: paths.Path) -> Tensor:
            Counted.calls += len(t) > 1000
            return 1 + t

    objective = FlowMatching(weight=Counted())
    for _ in range(3):
        objective.loss_weight(torch.rand(10))
        objective.effective_weight(torch.rand(10))
    assert Counted.calls == 1


def test_a_weight_without_a_mean_is_refused() -> None:
    class Own(weights.Weight):
        def __init__(self, value: float) -> None:
            self.value = value

        def __repr__(self) -> str:
            return "Own"

        def __call__(self, t: Tensor, path: paths.Path) -> Tensor:
            return torch.full_like(t, self.value)

    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(
            InputError, match=r"weight=Own has the mean .* under time=Stratified\(\); it must be finite"
        ):
            FlowMatching(weight=Own(value))
    for kind in (weights.InverseSNR, weights.MinSNR):
        with pytest.raises(ValueError, match=r"gamma=0 must be above 0: the ratio is clamped there"):
            kind(gamma=0)


def test_which_end_each_weight_is_for() -> None:
    """t = 0 is the data: the weights are not mirrored."""
    near, far = torch.tensor([0.1]), torch.tensor([0.9])
    for path, (kind, at_data) in product(
        AFFINE, [(weights.Endpoint, True), (weights.EndpointNoise, False), (weights.InverseSNR, False)]
    ):
        assert (kind()(near, path) > kind()(far, path)) == at_data
