"""Guidance against a field in closed form, and as a person asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import scflow
from scflow.__main__ import main
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.matching.guidance import Guidance, Guided

pytestmark = pytest.mark.usefixtures("small_flows")

EFFECT = torch.tensor([1.0, -2.0, 0.5])


def linear(x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
    """x + t + what the conditions that are given add, and a term of the first two together."""
    assert condition is not None
    given = torch.where(condition.isnan(), 0.0, condition)
    joint = given[:, :1] * given[:, 1:2] if condition.shape[1] > 1 else 0.0
    return x + t[:, None] + (given * EFFECT[: condition.shape[1]]).sum(1, keepdim=True) + joint


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=rng), torch.rand(7, generator=rng), torch.randn(7, 3, generator=rng)


def base(x: Tensor, t: Tensor) -> Tensor:
    return x + t[:, None]


# The formula.


@pytest.mark.parametrize("weights", [(2.0, 0.5, 3.0), (0.0, 1.5, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_each_condition_adds_its_own_effect(weights: tuple[float, ...], batch: tuple[Tensor, ...]) -> None:
    """v_none + sum of w_c (v_c - v_none): the term of two conditions together is in none of the v_c."""
    x, t, c = batch
    expected = base(x, t) + (torch.tensor(weights) * EFFECT * c).sum(1, keepdim=True)
    torch.testing.assert_close(Guided(linear, weights)(x, t, c), expected)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.5])
def test_one_weight_extrapolates_all_conditions_together(scale: float, batch: tuple[Tensor, ...]) -> None:
    x, t, c = batch
    effect = (EFFECT * c).sum(1, keepdim=True) + c[:, :1] * c[:, 1:2]
    torch.testing.assert_close(Guided(linear, scale)(x, t, c), base(x, t) + scale * effect)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 4.0])
def test_one_condition_by_name_is_the_scale(scale: float, batch: tuple[Tensor, ...]) -> None:
    x, t, c = batch
    by_name = Guidance({"type": scale}).around(linear, ["type"])
    assert torch.equal(by_name(x, t, c[:, :1]), Guided(linear, scale)(x, t, c[:, :1]))


def test_a_cell_without_a_condition_feels_no_weight(batch: tuple[Tensor, ...]) -> None:
    x, t, c = batch
    c[2:5, 1] = math.nan
    expected = base(x, t) + 2 * c[:, :1] * EFFECT[0] + 3 * torch.where(c.isnan(), 0.0, c)[:, 1:2] * EFFECT[1]
    torch.testing.assert_close(Guided(linear, (2.0, 3.0, 0.0))(x, t, c), expected)


def test_the_field_is_called_once_and_only_for_what_is_needed(batch: tuple[Tensor, ...]) -> None:
    x, t, c = batch
    calls: list[int] = []

    def counted(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        calls.append(len(x))
        return linear(x, t, c)

    for scale in (1.0, 2.0, (2.0, 2.0, 2.0), (2.0, 0.0, 0.0), (0.0, 0.0, 0.0)):
        Guided(counted, scale)(x, t, c)
    Guided(counted, 2.0, (0.2, 0.8))(x, torch.full((7,), 0.9), c)
    assert calls == [7, 14, 28, 14, 7, 7]


# The interval.


@pytest.mark.parametrize("scale", [3.0, (3.0, 0.5, 0.0)], ids=["together", "each"])
def test_outside_the_interval_the_scale_is_one(scale: Any, batch: tuple[Tensor, ...]) -> None:
    x, _, c = batch
    t = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 0.8, 1.0])
    found = Guided(linear, scale, (0.25, 0.75))(x, t, c)
    within = torch.tensor([False, False, True, True, True, False, False])
    torch.testing.assert_close(found[within], Guided(linear, scale)(x, t, c)[within])
    assert torch.equal(found[~within], linear(x, t, c)[~within])
    for time in t:  # As a solver asks: one time for all.
        whole = Guided(linear, scale, (0.25, 0.75))(x, time.expand(7), c)
        expected = Guided(linear, scale)(x, time.expand(7), c) if 0.25 <= time <= 0.75 else linear(x, time.expand(7), c)
        assert torch.equal(whole, expected)


def test_the_interval_of_all_times_is_none(batch: tuple[Tensor, ...]) -> None:
    x, t, c = batch
    assert torch.equal(Guidance(2.0, (0, 1)).around(linear, "abc")(x, t, c), Guided(linear, 2.0)(x, t, c))


# Names and numbers.


def test_weights_by_name_are_in_the_flows_order_and_one_where_left_out() -> None:
    assert Guidance({"b": 2, "c": 0.5}).weights(["a", "b", "c"]) == (1.0, 2.0, 0.5)
    assert Guidance(2).weights(["a", "b"]) == 2.0
    assert Guidance().weights([]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-1,), r"guidance=-1 must be a finite number of at least 0"),
        ((math.nan,), r"guidance=nan must be a finite number of at least 0"),
        (("much",), r"guidance='much' is not a number"),
        (({"a": -0.5},), r"guidance\['a'\]=-0\.5 must be a finite number of at least 0"),
        (({"a": None},), r"guidance\['a'\]=None is not a number"),
        ((2.0, (0.8, 0.2)), r"interval=\(0\.8, 0\.2\) must be two times in \[0, 1\] that rise"),
        ((2.0, (0.0, 1.5)), r"interval=\(0\.0, 1\.5\) must be two times"),
        ((2.0, (0.0, math.nan)), r"interval=\(0\.0, nan\) must be two times"),
        ((2.0, 0.5), r"interval=0\.5 is no pair of times, such as \(0\.2, 0\.8\)"),
        ((2.0, (0.1, 0.2, 0.3)), r"is no pair of times"),
    ],
)
def test_what_guidance_refuses(arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Guidance(*arguments)


# As a person asks for it.


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return scflow.datasets.simulate(200, 30, 3, seed=0)


@pytest.fixture(scope="module")
def two(small_flows: None, cells: AnnData) -> Flow:
    chosen = ["cell_type", "batch"]
    return scflow.tl.train(cells.copy(), condition=chosen, space="genes", steps=200, progress=False)


Generate = Callable[..., AnnData]


@pytest.fixture
def generate(two: Flow) -> Generate:
    return lambda **options: scflow.tl.generate(two, 40, **{"steps": 2, "progress": False, **options})


def test_one_euler_step_is_the_formula(generate: Generate, two: Flow) -> None:
    new = generate(guidance={"cell_type": 3.0, "batch": 0.5}, solver="euler", steps=1)
    x, c = torch.from_numpy(new.obsm["X_scflow_noise"]), two.conditions.encode(new.obs)
    at = torch.ones(len(x))

    def field(*columns: int) -> Tensor:
        told = torch.full_like(c, math.nan)
        told[:, list(columns)] = c[:, list(columns)]
        with torch.no_grad():
            return two.field(x, at, told)

    velocity = field() + 3 * (field(0) - field()) + 0.5 * (field(1) - field())
    np.testing.assert_allclose(new.obsm["X_scflow"], x - velocity, atol=1e-4)
    assert float((velocity - field(0, 1)).abs().max()) > 1e-3


def test_a_flow_draws_with_a_number_a_mapping_or_an_object(two: Flow) -> None:
    def state(guidance: Any) -> np.ndarray:
        return two.draw(10, sampling=Sampling(steps=2, guidance=guidance)).state

    np.testing.assert_array_equal(state(2.0), state(Guidance(2.0)))
    np.testing.assert_array_equal(state({"batch": 2.0}), state(Guidance({"batch": 2.0, "cell_type": 1.0})))
    assert np.abs(state(2.0) - state({"batch": 2.0})).max() > 1e-4


def test_weights_and_interval_are_written_down(generate: Generate, tmp_path: Path) -> None:
    new = generate(guidance=Guidance({"batch": 2}, interval=(0.25, 0.75)))
    new.write_h5ad(tmp_path / "new.h5ad")
    for found in (new, anndata.read_h5ad(tmp_path / "new.h5ad")):
        facts = found.uns["scflow"]["provenance"]
        assert dict(facts["guidance"]) == {"cell_type": 1.0, "batch": 2.0}
        assert list(facts["guidance_interval"]) == [0.25, 0.75]
    assert generate(guidance=2).uns["scflow"]["provenance"]["guidance"] == 2.0


def test_an_interval_that_no_step_enters_changes_nothing(generate: Generate) -> None:
    """Euler's two steps look at t = 1 and t = 0.5."""
    plain, missed, met = (
        generate(guidance=g, solver="euler").obsm["X_scflow"]
        for g in (1.0, Guidance(4.0, (0.6, 0.9)), Guidance(4.0, (0.4, 0.6)))
    )
    np.testing.assert_array_equal(missed, plain)
    assert np.abs(met - plain).max() > 1e-4


@pytest.mark.parametrize(
    ("guidance", "match"),
    [
        (
            {"cell_typ": 2.0},
            r"guidance names 1 of 1 conditions that this flow does not have \('cell_typ'\)\. Did you mean "
            r"'cell_type'\? It was trained with 'cell_type', 'batch'",
        ),
        ({"cell_type": "much"}, r"guidance\['cell_type'\]='much' is not a number"),
        ([2.0, 1.0], r"guidance=\[2\.0, 1\.0\] is not a number"),
    ],
)
def test_what_generate_refuses(guidance: Any, match: str, generate: Generate) -> None:
    with pytest.raises(InputError, match=match):
        generate(guidance=guidance)


def test_a_flow_without_conditions_takes_no_weights(cells: AnnData) -> None:
    flow = scflow.tl.train(cells.copy(), space="genes", steps=5, progress=False)
    with pytest.raises(InputError, match=r"guidance=\{'cell_type': 1\.0\} needs a condition, and this flow has none"):
        scflow.tl.generate(flow, 5, guidance={"cell_type": 1.0}, progress=False)


def test_the_command_line_takes_a_number_or_pairs(two: Flow, tmp_path: Path, capsys: Any) -> None:
    flow, out = tmp_path / "flow.safetensors", tmp_path / "new.h5ad"
    two.save(flow)
    run = ["generate", str(flow), "--n-obs", "3", "--steps", "2", "--no-progress", "--overwrite", "--out", str(out)]
    for words, expected in ((["2.5"], 2.5), (["cell_type=3", "batch=0.5"], {"cell_type": 3.0, "batch": 0.5})):
        assert main([*run, "--shift", "2", "--guidance", *words]) == 0
        facts = anndata.read_h5ad(out).uns["scflow"]["provenance"]
        assert facts["guidance"] == expected
        assert facts["solver_shift"] == 2
    for words, message in (
        (["2", "3"], "expected one number, or one COLUMN=WEIGHT for each condition"),
        (["batch=2", "batch=3"], "--guidance was given 'batch=2', 'batch=3'"),
        (["batch=x"], "guidance['batch']='x' is not a number"),
        (["much"], "guidance='much' is not a number"),
    ):
        capsys.readouterr()
        assert main([*run, "--guidance", *words]) == 1
        assert message in capsys.readouterr().err
