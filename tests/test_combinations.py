"""Where cells end whose drugs were never seen together, or not at all: carried, drawn, as counts, and after a file."""

from __future__ import annotations

import functools
import re
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.typing import NDArray

import scflow
from scflow.flow import Flow
from scflow.flow._balance import groups_of
from scflow.matching import Preconditioned, Shift, paths, solvers

MOVES = {"ctrl": (0.0, 0.0), "A": (3.0, 0.0), "B": (0.0, 3.0), "A+B": (3.0, 3.0), "C": (-2.0, 2.0)}
SMALL = functools.partial(scflow.nn.MLP, width=64, depth=2)


def toy(n: int = 150, seed: int = 0) -> AnnData:
    """Cells of deviation 0.5 at where their drug moves them; the moves of A and B add up."""
    rng = np.random.default_rng(seed)
    at = np.repeat(np.array(list(MOVES.values())), n, axis=0)
    obs = pd.DataFrame({"drug": np.repeat(list(MOVES), n)}, index=[f"c{i}" for i in range(len(at))])
    return AnnData(obs=obs, obsm={"X_e": (at + 0.5 * rng.normal(size=at.shape)).astype(np.float32)})


def quietly(flow: Flow, drug: Any, adata: AnnData, **options: Any) -> AnnData:
    """The control cells, carried to a drug that need not have been seen."""
    control = adata[adata.obs["drug"] == "ctrl"].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scflow.tl.transport(control, flow, target={"drug": drug}, progress=False, **options)
    return control


def move(flow: Flow, drug: str, adata: AnnData) -> NDArray[np.float64]:
    """How far cells are carried on average."""
    control = quietly(flow, drug, adata)
    return np.asarray((control.obsm["X_scflow"] - control.obsm["X_e"]).mean(0), dtype=np.float64)


@pytest.fixture(scope="module")
def carried() -> tuple[AnnData, Flow]:
    adata = toy()
    scflow.pp.embed(adata, "drug", none="ctrl")
    return adata, scflow.tl.train(adata, source={"drug": "ctrl"}, use_rep="X_e", field=SMALL, steps=150, progress=False)


@pytest.fixture(scope="module")
def drawn() -> tuple[AnnData, Flow]:
    """From noise, with a table: D was never seen, and lies halfway between A and B."""
    adata = toy()
    table = pd.DataFrame({"x": [1.0, 0.0, 0.0, 0.5], "y": [0, 1, 0, 0.5], "z": [0, 0, 1, 0]}, index=list("ABCD"))
    scflow.pp.embed(adata, "drug", table, none="ctrl")
    return adata, scflow.tl.train(adata, condition="drug", use_rep="X_e", field=SMALL, steps=300, progress=False)


# ---- the law


@pytest.mark.parametrize("drug", ["A", "B", "A+B", "C", "A+C", "B+C", "A+B+C"])
def test_moves_add_up_where_cells_are_carried(drug: str, carried: tuple[AnnData, Flow]) -> None:
    """A field that is told sums, and nothing more, leaves A+C 1.1 short of where it belongs."""
    adata, flow = carried
    expected = np.sum([MOVES[part] for part in drug.split("+")], axis=0)
    np.testing.assert_allclose(move(flow, drug, adata), expected, atol=0.35)
    spread = quietly(flow, drug, adata).obsm["X_scflow"].std(0)
    np.testing.assert_allclose(spread, 0.5, atol=0.12)


@pytest.mark.parametrize("drug", ["B", "A+B", "A+C", "D", "D+D"])
def test_moves_add_up_where_cells_are_drawn(drug: str, drawn: tuple[AnnData, Flow]) -> None:
    """D is (A + B) / 2 by its vector, so it moves by half of both, and D+D as A+B."""
    known = {**MOVES, "D": (1.5, 1.5)}
    expected = np.sum([known[part] for part in drug.split("+")], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        new = scflow.tl.generate(drawn[1], 400, condition=drug, progress=False)
    np.testing.assert_allclose(new.obsm["X_scflow"].mean(0), expected, atol=0.4)
    assert set(new.obs["drug"]) == {drug}


def test_velocity_and_trajectory_take_combinations(carried: tuple[AnnData, Flow]) -> None:
    adata, flow = carried
    control = adata[adata.obs["drug"] == "ctrl"].copy()
    with pytest.warns(UserWarning, match="not among the training cells"):
        scflow.tl.velocity(control, flow, target={"drug": "A+C"})
    np.testing.assert_allclose(control.obsm["velocity_scflow"].mean(0), (1, 2), atol=0.4)
    with pytest.warns(UserWarning, match="not among the training cells"):
        ways = scflow.tl.trajectory(control, flow, target={"drug": "A+C"}, times=2, progress=False)
    ends = ways.obsm["X_scflow"].reshape(2, -1, 2)
    np.testing.assert_allclose((ends[1] - ends[0]).mean(0), (1, 2), atol=0.4)


def test_each_cell_may_have_a_combination_of_its_own(carried: tuple[AnnData, Flow]) -> None:
    adata, flow = carried
    each = np.array(["A+C", "B"] * 75)
    control = quietly(flow, each, adata)
    moved = control.obsm["X_scflow"] - control.obsm["X_e"]
    np.testing.assert_allclose(moved[each == "A+C"].mean(0), (1, 2), atol=0.4)
    np.testing.assert_allclose(moved[each == "B"].mean(0), (0, 3), atol=0.4)


@pytest.fixture(scope="module")
def counted(small_flows: None) -> tuple[AnnData, Flow]:
    """A, B and C raise five genes each fivefold."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["ctrl", "A", "B", "A+B", "C"], 100)
    rate = np.full((500, 20), 4.0)
    for part, first in (("A", 0), ("B", 5), ("C", 10)):
        rate[np.ix_([part in label.split("+") for label in labels], range(first, first + 5))] *= 5
    adata = AnnData(rng.poisson(rate * rng.gamma(20, 0.05, size=(500, 1))).astype(np.float32))
    adata.obs["drug"] = labels
    scflow.pp.embed(adata, "drug", none="ctrl")
    return adata, scflow.tl.train(adata, condition="drug", field=SMALL, steps=300, progress=False)


def log_shares(counts: Any) -> NDArray[np.float64]:
    """Of each five genes, log2 of their share in all counts."""
    total = np.asarray(counts.sum(0), dtype=np.float64).reshape(4, 5).sum(1)
    return np.log2(total / total.sum())


def test_counts_of_an_unseen_combination(counted: tuple[AnnData, Flow]) -> None:
    """In A+C the genes of both are up; neither what A nor what C does is half as near to that."""
    adata, flow = counted
    with pytest.warns(UserWarning, match=re.escape("1 labels of 'drug' were not among the training cells' ('A+C')")):
        new = scflow.tl.generate(flow, 300, condition="A+C", progress=False)
    assert new.layers["counts"].dtype.kind == "i"
    assert new.obs["drug"].tolist() == ["A+C"] * 300
    expected = np.log2(np.array([5, 1, 5, 1]) / 12)

    def error(counts: Any) -> float:
        return float(np.sqrt(np.mean((log_shares(counts) - expected) ** 2)))

    alone = [error(adata.X[(adata.obs["drug"] == drug).to_numpy()]) for drug in ("A", "C")]
    assert error(new.layers["counts"]) < 0.5 * min(alone)


def test_counts_of_seen_labels_are_calibrated_with_their_cells(counted: tuple[AnnData, Flow]) -> None:
    """As many of each gene as the training cells of the label have; of a combination that is new nothing is known."""
    adata, flow = counted
    for drug in ("ctrl", "A", "A+B"):
        mean = np.asarray(scflow.tl.generate(flow, 300, condition=drug, progress=False).layers["counts"].mean(0))
        real = adata.X[(adata.obs["drug"] == drug).to_numpy()].mean(0)
        np.testing.assert_allclose(mean.ravel(), real, rtol=0.12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        told = flow.conditions.encode({"drug": ["B+A", "A+C", None, "ctrl", "C"]})
    names = [flow.conditions.columns[0].labels[int(i)] if i >= 0 else None for i in groups_of(flow.conditions, told, 5)]
    assert names == ["A+B", None, None, "ctrl", "C"]


# ---- what is asked for


def test_drawn_as_seen_come_labels_that_were_seen(drawn: tuple[AnnData, Flow]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = scflow.tl.generate(drawn[1], 500, progress=False)
        again = scflow.tl.generate(drawn[1], 4, condition=["A+B", "ctrl", "B+A", "C"], progress=False)
    assert new.obs["drug"].value_counts().to_dict() == dict.fromkeys(MOVES, 100)
    assert again.obs["drug"].tolist() == ["A+B", "ctrl", "A+B", "C"]


# ---- what is written and kept


@pytest.mark.parametrize("which", ["carried", "drawn"])
def test_saved_and_loaded_it_gives_the_same_bits(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    adata, flow = request.getfixturevalue(which)
    assert flow.field.shift is not None
    flow.save(tmp_path / "flow.safetensors")
    adata.write_h5ad(tmp_path / "a.h5ad")
    for again in (Flow.load(tmp_path / "flow.safetensors"), anndata.read_h5ad(tmp_path / "a.h5ad")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if which == "drawn":
                a, b = (scflow.tl.generate(f, 20, condition="A+D", progress=False) for f in (flow, again))
            else:
                a, b = (quietly(f, "A+C", adata) for f in (flow, again))
        np.testing.assert_array_equal(a.obsm["X_scflow"], b.obsm["X_scflow"])


def test_a_flow_without_such_a_condition_is_as_it_was() -> None:
    """No shift, no word of it in the file, and the same conditions as without `embed` ever called."""
    adata = toy(20)
    plain = scflow.tl.train(adata, condition="drug", use_rep="X_e", steps=5, progress=False)
    adata.obs["other"] = ["x", "y"] * 50
    scflow.pp.embed(adata, "other")
    same = scflow.tl.train(adata, condition="drug", use_rep="X_e", steps=5, progress=False)
    assert plain.field.shift is None
    assert plain.to_content()["config"] == same.to_content()["config"]
    assert "shift" not in plain.to_content()["config"]
    for name, tensor in plain.to_content()["tensors"].items():
        if not name.endswith("cells_per_second"):
            np.testing.assert_array_equal(tensor, same.to_content()["tensors"][name])


# ---- the field


class Silent(torch.nn.Module):
    """A network that has learnt nothing."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("path", [paths.Linear(), paths.VariancePreserving()])
def test_a_shifted_field_carries_noise_to_the_shifted_law(path: paths.Affine) -> None:
    """Normal data of deviation 2 about W c: the best velocity is linear, and ends at W c + 2 z."""
    weight = torch.tensor([[3.0, 0.0], [0.0, -1.0]])
    field = Preconditioned(Silent(), path, torch.tensor(2.0), torch.tensor(1.0), Shift(weight))
    c = torch.tensor([[1.0, 0.0], [1.0, 2.0], [torch.nan, torch.nan]])
    z = torch.tensor([[0.3, -0.2], [1.0, 1.0], [0.5, 0.1]])
    way = solvers.grid(200, start=1.0, end=0.0)
    end = solvers.RK4().integrate(lambda x, t: field(x, t.expand(len(x)), c), z, way)
    torch.testing.assert_close(end, c.nan_to_num(0.0) @ weight + 2 * z, atol=2e-3, rtol=1e-3)


def test_a_field_is_scaled_by_what_its_shift_leaves(drawn: tuple[AnnData, Flow]) -> None:
    """Within a drug the deviation is 0.5, over all cells three times that: so the spread is right from the start."""
    field = drawn[1].field
    assert isinstance(field, Preconditioned)
    overall = drawn[0].obsm["X_e"].std(0)
    assert (overall > 1.4).all()
    np.testing.assert_allclose(field.data_variance.sqrt().numpy() * overall, 0.5, atol=0.08)
    assert drawn[1].provenance["linear_loss"] < 0.6
