"""What a training tells: loss by time, effective weight, scores while it goes on, callbacks, pictures."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from torch import Tensor

import scflow
from scflow import metrics
from scflow.callbacks import TensorBoard, WeightsAndBiases
from scflow.errors import InputError
from scflow.flow import Flow, Watch
from scflow.flow._watching import watcher
from scflow.matching import FlowMatching, noises, paths, times, weights
from scflow.training import Run
from scflow.training.probes import TimeBins, Watching

pytestmark = pytest.mark.usefixtures("small_flows")


# Loss by time.


class Square(weights.Weight):
    """Three t squared."""

    def __call__(self, t: Tensor, path: paths.Path) -> Tensor:
        return 3 * t.square()


class Root(times.Time):
    """The square root of a uniform time: density 2 t."""

    def quantile(self, u: Tensor) -> Tensor:
        return u.sqrt()

    def density(self, t: Tensor) -> Tensor:
        return 2 * t


def test_the_loss_of_a_bin_is_the_mean_of_the_cells_in_it() -> None:
    bins = TimeBins(FlowMatching())
    rng = torch.Generator().manual_seed(0)
    parts = [(torch.rand(50, generator=rng), torch.rand(50, generator=rng)) for _ in range(4)]
    for t, losses in parts:
        bins.add(t, losses)
    bins.add(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 2.0, math.nan]))
    t = torch.cat([t for t, _ in parts] + [torch.tensor([0.0, 1.0])]).numpy()
    losses = torch.cat([x for _, x in parts] + [torch.tensor([1.0, 2.0])]).numpy()
    expected = [losses[np.minimum(np.floor(t * 5), 4) == i].mean() for i in range(5)]
    found = bins.report()
    np.testing.assert_allclose([found[f"loss_t{i}"] for i in range(5)], expected, rtol=1e-6)
    # The next report begins anew, and a bin without cells has no mean.
    bins.add(torch.tensor([0.9]), torch.tensor([7.0]))
    again = bins.report()
    assert again["loss_t4"] == 7
    assert math.isnan(again["loss_t0"])


def test_the_effective_weight_is_weight_times_density() -> None:
    """3 t^2 x 2 t, over its mean of 1.5, is 4 t^3, whose mean over [a, b] is (b^4 - a^4) / (b - a)."""
    found = TimeBins(FlowMatching(time=Root(), weight=Square())).report()
    expected = [((i + 1) ** 4 - i**4) / 5**3 for i in range(5)]
    np.testing.assert_allclose([found[f"weight_t{i}"] for i in range(5)], expected, rtol=1e-3)


def test_the_history_of_a_flow_has_it_all(simulated: AnnData) -> None:
    flow = scflow.tl.train(simulated, condition="cell_type", steps=20, progress=False)
    by_time = flow.history[[f"loss_t{i}" for i in range(5)]].to_numpy()
    # One draw in each of as many bins as cells: every fifth has as many.
    np.testing.assert_allclose(by_time.mean(1), flow.history["loss"], rtol=1e-5)
    assert (flow.history[[f"weight_t{i}" for i in range(5)]] == 1).all().all()
    assert (flow.history["skipped"] == 0).all()
    pd.testing.assert_frame_equal(Flow.from_content(flow.to_content()).history, flow.history, check_exact=True)


def test_a_history_from_before_there_were_more_columns_is_read(simulated: AnnData) -> None:
    import json

    content = scflow.tl.train(simulated, steps=5, progress=False).to_content()
    config = json.loads(content["config"])
    del config["history"]
    gone = ("history.loss_t", "history.weight_t", "history.clipped", "history.skipped", "raw.")
    tensors = {n: t for n, t in content["tensors"].items() if not n.startswith(gone)}
    old = Flow.from_content({"config": json.dumps(config), "tensors": tensors})
    assert list(old.history.columns) == [
        "step", "loss", "validation_loss", "gradient_norm", "learning_rate", "cells_per_second",
    ]  # fmt: skip


# Watching.


class Fixed:
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.x[rows]


def watched(sd: float) -> dict[str, float]:
    """The scores of a field that turns unit noise into normal cells of this standard deviation; real ones have 2."""
    x = 2 * torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    run = Run(torch.arange(200, 600), torch.arange(200), 64, 0, torch.device("cpu"))
    look = watcher(Watch(n_cells=150, steps=40), Fixed(x), None, noises.Gaussian(), run)

    def field(x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        t = t[:, None]
        return (t - (1 - t) * sd**2) / ((1 - t).square() * sd**2 + t.square()) * x

    return look(field)


def test_a_perfect_field_scores_like_real_cells_and_another_does_not() -> None:
    good, narrow = watched(2.0), watched(0.4)
    assert set(good) == set(Watch().columns)
    assert good["wasserstein"] == pytest.approx(good["wasserstein_floor"], rel=0.2)
    assert good["forest_auc"] == pytest.approx(0.5, abs=0.1)
    assert abs(good["mmd"]) < 0.02
    assert good["spread"] == pytest.approx(1, abs=0.15)
    assert narrow["spread"] == pytest.approx(0.2, abs=0.04)
    assert narrow["wasserstein"] > 1.5 * narrow["wasserstein_floor"]
    assert narrow["forest_auc"] > 0.8
    assert {k: v for k, v in good.items() if k.endswith("floor")} == {
        k: v for k, v in narrow.items() if k.endswith("floor")
    }


def test_the_floor_is_the_same_metric_between_real_cells() -> None:
    x = 2 * torch.randn(600, 3, generator=torch.Generator().manual_seed(0)).double().numpy()
    expected = metrics.wasserstein(x[:150], x[200:350], interval=False).value
    assert watched(1.0)["wasserstein_floor"] == pytest.approx(expected, rel=1e-5)


def test_watching_changes_nothing_but_the_history(simulated: AnnData) -> None:
    options: dict[str, Any] = {"space": "genes", "steps": 8, "progress": False, "validation": 0.2}
    plain = scflow.tl.train(simulated.copy(), **options)
    flow = scflow.tl.train(simulated, **options, watch=Watch(every=3, n_cells=20, steps=2))
    assert flow.history["wasserstein"].notna().tolist() == [(i + 1) % 3 == 0 for i in range(len(flow.history))]
    same = [c for c in plain.history if c != "cells_per_second"]
    pd.testing.assert_frame_equal(flow.history[same], plain.history[same], check_exact=True)
    for a, b in zip(flow.field.parameters(), plain.field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_look_is_due_by_its_number() -> None:
    """And not by how many there were in this process: a run that goes on keeps its rhythm."""
    probe = Watching(TimeBins(FlowMatching()), lambda x, t, c: x, lambda field: {"mmd": 1.0}, every=4)
    assert ["mmd" in probe.report(n) for n in (3, 4, 7, 8)] == [False, True, False, True]


def test_watching_needs_cells_to_score_against(simulated: AnnData) -> None:
    with pytest.raises(InputError, match=r"watch needs at least 20 validation cells.*there are 10\. Hold out more"):
        scflow.tl.train(simulated, steps=5, validation=0.05, watch=2, space="genes", progress=False)
    for wrong, match in (
        ({"every": 0}, "every=0"),
        ({"n_cells": 5}, "n_cells=5 must be a whole number of at least 20"),
    ):
        with pytest.raises(InputError, match=match):
            Watch(**wrong)


# Callbacks.

ROW = {"step": 40, "loss": 1.5, "validation_loss": math.nan, "clipped": 0.25}


def test_tensorboard_gets_every_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    written: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            written.append(folder)

        def add_scalar(self, *values: Any) -> None:
            written.append(values)

        def flush(self) -> None:
            written.append("flush")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    TensorBoard(tmp_path)(ROW)
    assert written == [str(tmp_path), ("scflow/loss", 1.5, 40), ("scflow/clipped", 0.25, 40), "flush"]


def test_weights_and_biases_gets_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: logged.append("end"))
    module = ModuleType("wandb")
    module.init = lambda **options: (logged.append(options), run)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    callback = WeightsAndBiases("cells", name="first")
    callback(ROW)
    callback.close()
    assert logged == [{"project": "cells", "name": "first"}, ({"loss": 1.5, "clipped": 0.25}, 40), "end"]
    WeightsAndBiases(run=run)(ROW)
    assert len(logged) == 4


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"TensorBoard is not installed.*pip install 'scflow-tools\[tensorboard\]'"):
        TensorBoard(tmp_path)
    with pytest.raises(InputError, match=r"Weights & Biases is not installed.*'scflow-tools\[wandb\]'"):
        WeightsAndBiases()


# Pictures.


@pytest.fixture(scope="module")
def flow(small_flows: None, _simulated: AnnData) -> Flow:
    options = {"space": "genes", "steps": 8, "progress": False, "validation": 0.2}
    return scflow.tl.train(_simulated.copy(), **options, watch=Watch(every=3, n_cells=20, steps=2))


def test_all_panels_draw_what_the_history_has(flow: Flow) -> None:
    axes = scflow.pl.history(flow, panels="all")
    assert isinstance(axes, list)
    assert [ax.get_ylabel() for ax in axes] == [
        "loss", "loss by time (0 is data)", "effective weight w(t) p(t)", "gradient norm", "learning rate",
        "cells a second", "forest AUC", "MMD", "2-Wasserstein", "sd of drawn over real cells",
    ]  # fmt: skip
    table = flow.history
    for i, line in enumerate(axes[1].lines):
        np.testing.assert_array_equal(line.get_ydata(), table[f"loss_t{i}"])
    seen = table["wasserstein"].dropna()
    np.testing.assert_array_equal(axes[8].lines[0].get_ydata(), seen)
    np.testing.assert_array_equal(axes[8].lines[1].get_ydata(), table["wasserstein_floor"].dropna())
    plt.close(axes[0].figure)


def test_panels_can_be_chosen_and_placed(flow: Flow) -> None:
    _, given = plt.subplots(1, 2)
    axes = scflow.pl.history(flow, panels=["rate", "speed"], ax=given)
    assert axes == list(given)
    assert isinstance(scflow.pl.history(flow, panels="gradient"), Axes)
    assert len(scflow.pl.history(flow.history[["step", "loss", "learning_rate"]], panels="all")) == 2
    with pytest.raises(InputError, match=r"panels='rates' is not known\. Did you mean 'rate'\?"):
        scflow.pl.history(flow, panels="rates")
    with pytest.raises(InputError, match=r"nothing for the panel 'mmd'.*tl\.train\(adata, watch=5\)"):
        scflow.pl.history(flow.history[["step", "loss"]], panels="mmd")
    plt.close("all")
