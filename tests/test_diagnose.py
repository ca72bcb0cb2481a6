"""Diagnosis: each trouble is made to happen, and is found by its name; a good run has none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import scflow
from scflow import nn
from scflow.errors import Diverged, InputError
from scflow.flow import Flow, Watch
from scflow.matching import FlowMatching, Preconditioned, noises, paths
from scflow.training import Optimisation, Run, fit_field
from scflow.training.probes import linear_loss
from scflow.training.run import seeded

pytestmark = pytest.mark.usefixtures("small_flows")


@pytest.fixture(scope="module")
def moons() -> AnnData:
    """Two clouds in a plane, easily learnt."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 600)
    cells = scflow.datasets.simulate(600, 10, 2, seed=0)
    cells.obsm["X_own"] = (rng.normal(0, 0.3, (600, 2)) + np.where(which, 1.0, -1.0)[:, None]).astype(np.float32)
    cells.obs["side"] = pd.Categorical(np.where(which, "right", "left"))
    return cells


def trained(cells: AnnData, **options: Any) -> Flow:
    return scflow.tl.train(
        cells.copy(), **{"use_rep": "X_own", "steps": 400, "lr": 3e-3, "progress": False, "batch_size": 128, **options}
    )


def troubles(flow: Any) -> list[str]:
    return scflow.tl.diagnose(flow, verbose=False)["trouble"].tolist()


def test_a_good_run_has_no_trouble(moons: AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    flow = trained(moons, validation=0.3, watch=Watch(every=20, n_cells=60))
    table = scflow.tl.diagnose(flow)
    assert set(table["trouble"]) <= {"caution"}, table["seen"].tolist()
    assert list(table.columns) == ["trouble", "seen", "advice"]
    capsys.readouterr()


def test_a_rate_of_ten_is_a_loss_that_does_not_fall(moons: AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    flow = trained(moons, lr=10.0)
    table = scflow.tl.diagnose(flow).set_index("trouble")
    assert "loss not falling" in table.index
    assert "The rate of 10 is high" in table.loc["loss not falling", "advice"]
    loss = flow.history["loss"]
    assert f"The loss was {loss.iloc[0]:.4g} at step" in table.loc["loss not falling", "seen"]
    assert "loss not falling: The loss was" in capsys.readouterr().out


def test_a_rate_of_nothing_is_a_loss_that_does_not_fall(moons: AnnData) -> None:
    table = scflow.tl.diagnose(trained(moons, lr=1e-9, steps=60), verbose=False).set_index("trouble")
    assert "The rate of 1e-09 is low" in table.loc["loss not falling", "advice"]


def test_gradients_that_are_nan_are_found_in_the_history_of_the_error(moons: AnnData) -> None:
    with pytest.raises(Diverged) as caught:
        trained(moons, lr=1e30)
    found = scflow.tl.diagnose(caught.value.history, verbose=False).set_index("trouble")
    assert "5 steps had a gradient that was infinite or NaN" in found.loc["nan", "seen"]
    assert "lr=1e-4" in found.loc["nan", "advice"]


class Fixed:
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.x[rows]


def history(scale: float, lr: float = 1e-3) -> pd.DataFrame:
    x = scale * torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    run = Run(torch.arange(60, 300), torch.arange(60), 64, 0, torch.device("cpu"), progress=False)
    network = seeded(lambda: nn.MLP(4, width=32, depth=2), torch.Generator().manual_seed(0))
    return fit_field(network, Fixed(x), None, noises.Gaussian(), FlowMatching(), run, steps=80, lr=lr)[1].history


def test_data_that_are_not_standardised_are_warned_of_and_found() -> None:
    with pytest.warns(UserWarning, match=r"4 of 4 coordinates have a standard deviation above 5 .*not standardised"):
        table = history(50.0)
    found = scflow.tl.diagnose(table, verbose=False)
    assert any("the states are not standardised" in seen for seen in found["seen"])
    assert any("far above the clip of 1" in seen for seen in found["seen"])
    usual = scflow.tl.diagnose(history(1.0), verbose=False)
    assert not any("standardised" in seen or "clip" in seen for seen in usual["seen"])


@pytest.mark.parametrize("sd", [0.5, 1.0, 3.0])
def test_the_loss_of_the_best_linear_velocity_is_what_training_starts_at(sd: float) -> None:
    """An untrained network gives nothing, so its loss is that of the skip: pi / 2 times the standard deviation."""
    assert history(sd, lr=1e-12)["loss"].mean() == pytest.approx(math.pi / 2 * sd, rel=0.06)
    unit = torch.ones(4)
    field = Preconditioned(torch.nn.Identity(), paths.Linear(), sd * unit, unit)
    assert linear_loss(field, FlowMatching()) == pytest.approx(math.pi / 2 * sd, rel=1e-3)


def test_a_batch_of_eight_is_warned_of_and_found(moons: AnnData) -> None:
    with pytest.warns(UserWarning, match=r"A batch of 8 cells is small.*batch_size='auto'"):
        flow = trained(moons, batch_size=8, steps=40)
    found = scflow.tl.diagnose(flow, verbose=False)
    assert found["seen"].str.contains("The batch had 8 cells").sum() == 1
    assert found["advice"].str.contains(r"accumulate=4").sum() == 1
    # Accumulated to 32 there is nothing to warn of.
    again = trained(moons, batch_size=8, steps=40, optimisation=Optimisation(accumulate=4))
    assert not scflow.tl.diagnose(again, verbose=False)["seen"].str.contains("The batch had").any()


@dataclass(frozen=True)
class Point(noises.Noise):
    """The same noise for every cell."""

    def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
        return torch.ones(n, dim)


@pytest.mark.parametrize("condition", [None, "side"])
def test_a_constant_noise_is_mode_collapse(condition: str | None, moons: AnnData) -> None:
    """Within a condition too: the two points that are drawn then lie as far apart as the data."""
    with pytest.warns(UserWarning, match="The flow is returned, but not kept"):
        flow = trained(moons, noise=Point(), condition=condition)
    table = scflow.tl.diagnose(flow, verbose=False).set_index("trouble")
    assert "mode collapse" in table.index
    assert "Look at the noise" in table.loc["mode collapse", "advice"]


def test_a_field_that_was_hardly_trained_draws_poor_samples(moons: AnnData) -> None:
    flow = trained(moons, steps=12, lr=1e-5, validation=0.3, watch=Watch(every=12, n_cells=60))
    table = scflow.tl.diagnose(flow, verbose=False).set_index("trouble")
    row = flow.history.iloc[-1]
    assert f"drawn cells were {row['wasserstein']:.3g} from" in table.loc["poor samples", "seen"]


def test_no_average_is_found(moons: AnnData) -> None:
    with pytest.warns(UserWarning, match="Without a weight average"):
        flow = trained(moons, steps=20, optimisation=Optimisation(average="none"))
    assert scflow.tl.diagnose(flow, verbose=False)["seen"].str.contains("not averaged").any()


def test_it_reads_a_flow_in_the_cells_and_refuses_what_is_none(simulated: AnnData) -> None:
    flow = scflow.tl.train(simulated, steps=20, lr=1e-9, progress=False)
    pd.testing.assert_frame_equal(scflow.tl.diagnose(simulated, verbose=False), scflow.tl.diagnose(flow, verbose=False))
    with pytest.raises(InputError, match=r"lacks 1 columns \(learning_rate\)"):
        scflow.tl.diagnose(flow.history.drop(columns="learning_rate"))
