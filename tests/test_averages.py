"""Weight averages against their closed forms, schedules at every step, and steps that are passed over."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import scflow
from scflow.errors import Diverged, InputError
from scflow.flow import Flow
from scflow.training import Optimisation, Plan, Trained, train
from scflow.training.averages import AVERAGES, Average, Constant, Nothing, Power, Ramp
from scflow.training.history import Monitor
from scflow.training.optim import WeightAverage, schedule

pytestmark = pytest.mark.usefixtures("small_flows")


def averaged(law: Average, weights: Tensor) -> Tensor:
    """The average after the weights have been each row in turn, the first before any update."""
    p = torch.nn.Parameter(weights[0].clone())
    average = WeightAverage([p], law)
    for w in weights[1:]:
        with torch.no_grad():
            p.copy_(w)
        average.update()
    return average.copy()[0].double()


@pytest.mark.parametrize("law", [Constant(0.9), Ramp(0.999), Power(0.1), Nothing()], ids=lambda law: type(law).__name__)
def test_an_average_that_moves_now_and_then_moves_by_as_much(law: Average) -> None:
    """A move is what the decays since the last one come to: at first of every update, in the end of every sixteenth."""
    weights = torch.randn(1400, generator=torch.Generator().manual_seed(0)).double()
    p = torch.nn.Parameter(weights[:1].clone())
    average = WeightAverage([p], law, every=16)
    expected, kept, moves = float(weights[0]), 1.0, [0]
    for n, w in enumerate(weights[1:].tolist()):
        with torch.no_grad():
            p.fill_(w)
        average.update()
        kept *= law.decay(n)
        if n + 1 - moves[-1] >= min(16, 1 + (n + 1) // 64):
            expected, kept = kept * expected + (1 - kept) * w, 1.0
            moves.append(n + 1)
        assert average.copy()[0].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert moves[:5] == [0, 1, 2, 3, 4]
    assert set(np.diff(moves[-5:])) == {16}
    average.settle()
    assert average.copy()[0].item() == pytest.approx(kept * expected + (1 - kept) * w, rel=1e-4, abs=1e-5)
    settled = average.copy()[0]
    average.settle()
    assert torch.equal(settled, average.copy()[0])


@pytest.mark.parametrize(
    ("law", "shares"),
    [
        (Constant(0.9), lambda i, n: 0.9**n if i == 0 else 0.1 * 0.9 ** (n - i)),
        (Nothing(), lambda i, n: float(i == n)),
        (
            Power(0.1),
            lambda i, n: (i / n) ** (Power(0.1).gamma + 1) - ((max(i - 1, 0)) / n) ** (Power(0.1).gamma + 1),
        ),
        (
            Ramp(0.999),  # (1 + k) / (10 + k) telescopes while it is below the decay: products of factorials
            lambda i, n: (
                math.prod((k + 1) / (k + 10) for k in range(i, n)) * (9 / (i + 9) if i else 1.0)
                if n < 8990
                else math.nan
            ),
        ),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Average) else "",
)
def test_an_average_has_the_weights_of_its_closed_form(law: Average, shares: Callable[[int, int], float]) -> None:
    n = 40
    weights = torch.randn(n + 1, 3, generator=torch.Generator().manual_seed(0))
    expected = [shares(i, n) for i in range(n + 1)]
    assert sum(expected) == pytest.approx(1)
    closed = (torch.tensor(expected, dtype=torch.float64)[:, None] * weights.double()).sum(0)
    torch.testing.assert_close(averaged(law, weights), closed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25])
def test_the_power_law_has_the_width_it_is_asked_for(width: float) -> None:
    """The standard deviation of the profile over a long run, measured, is the share of the run that was asked for."""
    exponent, n = Power(width).gamma + 1, 200_000
    edges = (np.arange(n + 1) / n) ** exponent
    share, place = np.diff(edges), (np.arange(n) + 0.5) / n
    mean = (share * place).sum()
    assert math.sqrt((share * (place - mean) ** 2).sum()) == pytest.approx(width, rel=1e-3)
    # Halfway through a run the profile has the same shape.
    assert mean == pytest.approx((exponent) / (exponent + 1), rel=1e-3)


def test_after_5000_steps_the_guides_average_is_still_the_start() -> None:
    left = {name: math.prod(AVERAGES[name]().decay(n) for n in range(5000)) for name in AVERAGES}
    assert left["constant"] == pytest.approx(0.61, abs=0.005)
    assert left["ramp"] < 1e-2
    assert left["power"] == left["none"] == 0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Constant(1.0), r"decay_rate=1\.0 must be at least 0 and below 1"),
        (lambda: Ramp(-0.1), r"decay_rate=-0\.1 must be"),
        (lambda: Power(0.3), r"width=0\.3 must lie above 0 and below 0\.289"),
        (lambda: Optimisation(average="ramps"), r"average='ramps' is not known\. Did you mean 'ramp'\? Choose one of"),
        (lambda: Optimisation(schedule="linear"), r"schedule='linear' is not known.*Choose 'cosine' or 'constant'"),
        (lambda: Optimisation(accumulate=0), r"accumulate=0 must be a whole number of at least 1"),
        (lambda: Optimisation(warmup=0), r"warmup=0 must be a whole number of at least 1"),
        (lambda: Optimisation(clip=0), r"clip=0 must be a finite number above 0"),
        (lambda: Optimisation(weight_decay=-1), r"weight_decay=-1 must be a finite number of at least 0"),
    ],
)
def test_settings_are_checked(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


# The schedule and the loop, on one weight.


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


def forever() -> Iterator[Tensor]:
    while True:
        yield torch.arange(8)


def looped(loss: Callable[[Line], Tensor], *, scaler: Any = None, lr: float = 0.1, **plan: Any) -> tuple[Line, Trained]:
    line = Line()
    settings = Plan(**{"steps": 20, "every": 1, "patience": 99, "average": Nothing(), **plan})
    optimizer = torch.optim.AdamW(line.parameters(), lr=lr, weight_decay=0.0, fused=True)
    monitor = Monitor(settings.steps, title="test", progress=False)
    trained = train(
        line,
        lambda rows: loss(line),
        forever(),
        lambda: line.weight.item(),
        optimizer,
        settings,
        monitor,
        contextlib.nullcontext,
        scaler=scaler,
    )
    return line, trained


@pytest.mark.parametrize(("warmup", "warm"), [(None, 1), (5, 5), (30, 30)])
@pytest.mark.parametrize("shape", ["cosine", "constant"])
def test_the_schedule_at_every_step(shape: str, warmup: int | None, warm: int) -> None:
    _, trained = looped(lambda line: line.weight.sum(), schedule=shape, warmup=warmup)
    up = [0.1 * (s + 1) / warm for s in range(20)]
    down = [0.05 * (1 + math.cos(math.pi * (s - warm) / max(1, 20 - warm))) for s in range(20)]
    after = down if shape == "cosine" else [0.1] * 20
    expected = [up[s] if s < warm else after[s] for s in range(20)]
    assert trained.history["learning_rate"].tolist() == pytest.approx(expected)


def test_accumulated_batches_are_one_large_batch() -> None:
    """Four batches a step: the step is that of the mean of their gradients."""
    slopes = torch.tensor([[1.0, 3.0, -2.0, 0.4], [0.1, 0.2, 0.3, 5.0], [1.0, 1.0, -9.0, 2.0]])
    taken = iter(slopes.flatten().tolist())
    many, trained = looped(lambda line: next(taken) * line.weight.sum(), steps=3, accumulate=4, clip=99.0)
    means = iter(slopes.mean(1).tolist())
    one, single = looped(lambda line: next(means) * line.weight.sum(), steps=3, clip=99.0)
    assert many.weight.item() == pytest.approx(one.weight.item(), rel=1e-5)
    np.testing.assert_allclose(trained.history["gradient_norm"], single.history["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(trained.history["loss"], single.history["loss"], rtol=1e-4, atol=1e-6)


def test_nothing_advances_on_a_step_that_is_passed_over() -> None:
    """With bad gradients strewn in, the run is that of the good steps alone: weight, average, schedule, history."""
    bad, calls = {1, 4, 5, 6, 7, 13}, iter(range(99))
    slopes = iter(torch.linspace(0.2, 2.0, 20).tolist())

    def strewn(line: Line) -> Tensor:
        return line.weight.sum() * (math.nan if next(calls) in bad else next(slopes))

    line, trained = looped(strewn, average=Power(0.1))
    slopes = iter(torch.linspace(0.2, 2.0, 20).tolist())
    clean, expected = looped(lambda line: line.weight.sum() * next(slopes), average=Power(0.1))
    assert torch.equal(line.weight, clean.weight)
    assert torch.equal(trained.raw["weight"], expected.raw["weight"])
    same = ["step", "loss", "validation_loss", "gradient_norm", "learning_rate"]
    np.testing.assert_array_equal(trained.history[same], expected.history[same])
    assert trained.history["skipped"].sum() == len(bad)
    assert expected.history["skipped"].sum() == 0


def test_the_run_ends_after_five_bad_steps_with_the_last_good_weights() -> None:
    calls = iter(range(99))
    held: list[Line] = []

    def loss(line: Line) -> Tensor:
        held[:] = [line]
        return line.weight.sum() * (math.nan if next(calls) >= 7 else 1.0)

    with pytest.raises(Diverged, match=r"not been finite for 5 steps up to step 12 \(learning rate 0\.0") as caught:
        looped(loss)
    history = caught.value.history
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6, 7, 12]
    assert history["skipped"].tolist() == [0] * 7 + [5]
    assert math.isnan(history["loss"].iloc[-1])
    # Without an average the last good weights are those that the last look saw, and it was the best.
    assert held[0].weight.item() == history["validation_loss"].iloc[6]


def test_how_often_gradients_were_clipped_is_counted() -> None:
    slopes = iter([3.0, 0.5, 0.5, 2.0] * 5)
    _, trained = looped(lambda line: next(slopes) * line.weight.sum(), every=4, clip=1.0)
    assert trained.history["clipped"].tolist() == [0.5] * 5


# float16.


class Scaler:
    """A scale of 8 that writes down what is done in which order."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def scale(self, loss: Tensor) -> Tensor:
        self.did.append("scale")
        return loss * 8

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.did.append("unscale")
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad /= 8

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.did.append("step")
        optimizer.step()

    def update(self) -> None:
        self.did.append("update")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def test_the_order_of_a_step_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler, calls = Scaler(), iter(range(9))
    clip, update = torch.nn.utils.clip_grads_with_norm_, WeightAverage.update
    log = lambda name: scaler.did.append(name)  # noqa: E731
    monkeypatch.setattr("torch.nn.utils.clip_grads_with_norm_", lambda *a, **k: (log("clip"), clip(*a, **k))[1])
    monkeypatch.setattr(WeightAverage, "update", lambda self: (log("average"), update(self))[1])
    loss = lambda line: line.weight.sum() * (math.inf if next(calls) == 1 else 4.0)  # noqa: E731
    line, _ = looped(loss, scaler=scaler, steps=2)
    good = ["scale", "unscale", "clip", "step", "average", "update"]
    # The norm of the bad gradient is no norm to clip by, so nothing is done with it whatever clip did.
    bad = [name for name in scaler.did[6:-6] if name != "clip"]
    assert scaler.did[:6] == scaler.did[-6:] == good
    assert bad == ["scale", "unscale", "update"]
    # A gradient of 4 and not of 32: clipped at 1, Adam moves by the rate.
    assert line.weight.item() == pytest.approx(-0.1 * sum(schedule(s, steps=2, warmup=1) for s in range(2)), rel=1e-4)


def test_a_scale_that_is_too_large_is_halved_and_no_end_of_the_run() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    # A gradient of 1e34 is finite, but not when scaled by more than 2^15.
    _, trained = looped(lambda line: 1e34 * line.weight.sum(), scaler=scaler, steps=3)
    assert trained.history["skipped"].tolist() == [1, 0, 0]
    assert scaler.get_scale() == 2.0**15


def test_float16_is_learnt_in(simulated: AnnData) -> None:
    options: dict[str, Any] = {"space": "genes", "steps": 20, "progress": False}
    half = scflow.tl.train(simulated.copy(), **options, precision="float16")
    full = scflow.tl.train(simulated, **options)
    np.testing.assert_allclose(half.history["loss"], full.history["loss"], rtol=0.02)
    assert not np.array_equal(half.history["loss"], full.history["loss"])
    assert all(p.dtype == torch.float32 for p in half.field.parameters())


# Raw weights.


@pytest.fixture(scope="module")
def flow(small_flows: None, _simulated: AnnData) -> Flow:
    with pytest.warns(UserWarning, match=r"A batch of 16 cells is small"):
        return scflow.tl.train(
            _simulated.copy(), condition="cell_type", steps=60, batch_size=16, lr=1e-2, progress=False
        )


def test_raw_weights_are_kept_and_drawn_with(flow: Flow, tmp_path: Path) -> None:
    assert flow.raw is not None
    assert set(flow.raw) == {name for name, _ in flow.field.named_parameters()}
    average = scflow.tl.generate(flow, 30, progress=False)
    raw = scflow.tl.generate(flow, 30, weights="raw", progress=False)
    assert raw.uns["scflow"]["provenance"]["weights"] == "raw"
    assert not np.array_equal(raw.obsm["X_scflow"], average.obsm["X_scflow"])
    # As drawn from a flow whose field has them, and the flow itself is as it was.
    by_hand = replace(flow, field=flow.weighted("raw").field, raw=None)
    again = scflow.tl.generate(by_hand, 30, progress=False)
    np.testing.assert_array_equal(again.layers["counts"].toarray(), raw.layers["counts"].toarray())
    np.testing.assert_array_equal(
        scflow.tl.generate(flow, 30, progress=False).obsm["X_scflow"], average.obsm["X_scflow"]
    )
    flow.save(tmp_path / "flow")
    loaded = scflow.tl.generate(Flow.load(tmp_path / "flow"), 30, weights="raw", progress=False)
    np.testing.assert_array_equal(loaded.obsm["X_scflow"], raw.obsm["X_scflow"])


def test_a_flow_without_raw_weights_says_so(flow: Flow) -> None:
    content = flow.to_content()
    old = {**content, "tensors": {n: t for n, t in content["tensors"].items() if not n.startswith("raw.")}}
    loaded = Flow.from_content(old)
    assert loaded.raw is None
    with pytest.raises(InputError, match=r"holds its averaged weights alone.*Use weights='average'"):
        scflow.tl.generate(loaded, 5, weights="raw", progress=False)
    with pytest.raises(InputError, match=r"weights='mean' is not known\. Choose 'average' or 'raw'"):
        scflow.tl.generate(flow, 5, weights="mean", progress=False)


def test_without_an_average_cells_are_drawn_with_the_weights_themselves(simulated: AnnData) -> None:
    with pytest.warns(UserWarning, match=r"Without a weight average"):
        flow = scflow.tl.train(
            simulated, space="genes", steps=10, progress=False, optimisation=Optimisation(average="none")
        )
    assert flow.raw is not None
    for name, p in flow.field.named_parameters():
        torch.testing.assert_close(p, flow.raw[name], rtol=0, atol=1e-7)
