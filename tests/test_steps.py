"""Scores by the number of evaluations: the yardstick, the table and the picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from scipy import sparse

import scflow
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.matching import solvers
from scflow.metrics import Yardstick, judge

pytestmark = pytest.mark.usefixtures("small_flows")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def halves() -> tuple[AnnData, AnnData]:
    adata = scflow.datasets.simulate(300, 40, 3, n_programmes=2, seed=1)
    train, held_out = scflow.pp.split(adata, stratify="cell_type", test_size=0.5)
    return train, held_out


@pytest.fixture(scope="module")
def flow(halves: tuple[AnnData, AnnData], small_flows: None) -> Flow:
    return scflow.tl.train(halves[0].copy(), condition="cell_type", steps=60, progress=False)


@pytest.fixture(scope="module")
def a_map(flow: Flow) -> Flow:
    return scflow.tl.distill(flow, n_trajectories=200, steps=10, progress=False)


def counts(adata: AnnData) -> sparse.csr_matrix:
    return sparse.csr_matrix(adata.X)


METRICS = ("mmd", "wasserstein")


# The yardstick.


def test_real_cells_measure_the_floor(halves: tuple[AnnData, AnnData]) -> None:
    """The held-out cells themselves, in the place of drawn ones, are the other half."""
    train, held_out = halves
    labels = held_out.obs["cell_type"].to_numpy(dtype=str)
    yardstick = Yardstick.of(counts(held_out), counts(train), METRICS, labels=labels, seed=3)
    found = yardstick.measure(counts(held_out))
    assert {name: e.value for name, e in found.items()} == {name: e.value for name, e in yardstick.floor.items()}


def test_cells_are_never_compared_with_the_half_they_were_drawn_for(halves: tuple[AnnData, AnnData]) -> None:
    train, held_out = halves
    labels = held_out.obs["cell_type"].to_numpy(dtype=str)
    yardstick = Yardstick.of(counts(held_out), counts(train), ["mmd"], labels=labels)
    for half in yardstick.halves:
        assert half.setting.strata.tolist() == labels[half.rows].tolist(), "row i is of the same type on both sides"
        expected = counts(held_out)[half.rows].sum(1)
        assert not np.array_equal(np.sort(half.real.library), np.sort(np.asarray(expected).ravel()))
        assert len(half.rows) + len(half.real.library) <= held_out.n_obs


def test_it_agrees_with_the_protocol_of_score(halves: tuple[AnnData, AnnData]) -> None:
    """Other halves, the same figures up to chance: cells with shuffled genes are told apart by both."""
    train, held_out = halves
    rng = np.random.default_rng(0)
    dense = counts(held_out).toarray()
    for j in range(dense.shape[1]):
        dense[:, j] = rng.permutation(dense[:, j])
    drawn = sparse.csr_matrix(dense)
    found = Yardstick.of(counts(held_out), counts(train), METRICS).measure(drawn)
    rows = {row.metric: row for row in judge(counts(held_out), drawn, counts(train), metrics=METRICS)}
    for name in METRICS:
        assert found[name].value == pytest.approx(rows[name].value, rel=0.15, abs=2e-3)


def test_too_few_cells_for_two_halves(halves: tuple[AnnData, AnnData]) -> None:
    with pytest.raises(InputError, match=r"30 held-out cells leave 15 a side; expected at least 20"):
        Yardstick.of(counts(halves[1])[:30], counts(halves[0]), ["mmd"])


# The table.


def test_a_row_a_flow_solver_number_and_metric(halves: tuple[AnnData, AnnData], flow: Flow, a_map: Flow) -> None:
    train, held_out = halves[0], halves[1].copy()
    table = scflow.tl.steps(
        {"original": flow, "distilled": a_map},
        held_out,
        reference=train,
        solvers=["euler", "rk4", "heun", ("adams", 3.0), "jump"],
        evaluations=[1, 2, 4],
        metrics=["mmd", "wasserstein"],
        calibration="none",
        progress=False,
    )
    plain = [("euler", 1), ("euler", 2), ("euler", 4), ("rk4", 4), ("heun", 2), ("heun", 4), ("adams", 1), ("adams", 2)]
    plain = [*plain, ("adams", 4)]
    expected = {("original", *way) for way in plain} | {("distilled", *way) for way in plain}
    expected |= {("distilled", "jump", n) for n in (1, 2, 4)}
    found = [
        (*row, metric) for *row, metric in table[["flow", "solver", "evaluations", "metric"]].itertuples(index=False)
    ]
    assert len(found) == len(set(found)) == 2 * len(expected)
    assert {tuple(row[:3]) for row in found} == expected
    assert set(table.loc[table["solver"] == "adams", "shift"]) == {3.0}
    assert table.groupby("metric")["floor"].nunique().tolist() == [1, 1]
    pd.testing.assert_frame_equal(held_out.uns["scflow_steps"], table)


def test_figures_are_those_of_cells_drawn_so(halves: tuple[AnnData, AnnData], flow: Flow) -> None:
    """Under the held-out cells' own conditions, with that many steps, and not calibrated."""
    train, held_out = halves
    options: dict[str, Any] = {"reference": train, "metrics": "mmd", "seed": 4, "progress": False}
    table = scflow.tl.steps(flow, held_out.copy(), solvers="midpoint", evaluations=[6], calibration="none", **options)
    sampling = Sampling(solver=solvers.Midpoint(), steps=3, seed=4, calibration="none")
    drawn = flow.draw(held_out.n_obs, held_out.obs[["cell_type"]], sampling)
    labels = held_out.obs["cell_type"].to_numpy(dtype=str)
    yardstick = Yardstick.of(counts(held_out), counts(train), ["mmd"], labels=labels, seed=4)
    assert table.loc[0, "value"] == pytest.approx(yardstick.measure(drawn.counts)["mmd"].value)
    assert table.loc[0, "evaluations"] == 6
    again = scflow.tl.steps(flow, held_out.copy(), solvers="midpoint", evaluations=[6], **options)
    assert again.loc[0, "value"] != table.loc[0, "value"], "calibrated by default"


@pytest.mark.skipif(importlib.util.find_spec("torchdiffeq") is None, reason="torchdiffeq is not installed")
def test_dopri5_comes_once_with_what_it_took(halves: tuple[AnnData, AnnData], flow: Flow) -> None:
    train, held_out = halves
    options: dict[str, Any] = {"reference": train, "metrics": "mmd", "calibration": "none", "progress": False}
    table = scflow.tl.steps(flow, held_out.copy(), evaluations=[4, 8], **options)
    assert table["solver"].value_counts().to_dict() == {
        "euler": 2, "midpoint": 2, "heun": 2, "rk4": 2, "adams": 4, "dopri5": 1
    }  # fmt: skip
    assert table.loc[table["solver"] == "dopri5", "evaluations"].item() > 8


def test_genes_are_found_by_name_and_conditions_in_obs(halves: tuple[AnnData, AnnData], flow: Flow) -> None:
    train, held_out = halves
    options: dict[str, Any] = {"solvers": "euler", "evaluations": [2], "metrics": "mmd", "progress": False}
    straight = scflow.tl.steps(flow, held_out.copy(), reference=train, **options)
    turned = scflow.tl.steps(flow, held_out[:, ::-1].copy(), reference=train[:, ::-1].copy(), **options)
    pd.testing.assert_frame_equal(straight, turned)


def test_an_embedding_draws_no_counts(halves: tuple[AnnData, AnnData]) -> None:
    train = halves[0].copy()
    train.obsm["X_own"] = np.random.default_rng(0).normal(size=(train.n_obs, 3)).astype(np.float32)
    flow = scflow.tl.train(train, use_rep="X_own", steps=2, progress=False)
    with pytest.raises(InputError, match="The flow 'flow' lives in an embedding and draws no counts"):
        scflow.tl.steps(flow, halves[1], reference=train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solvers": ["eular"]}, "solvers='eular' is not known. Did you mean 'euler'"),
        ({"solvers": [("adams", -1.0)]}, "shift=-1.0 must be a finite number above 0"),
        ({"evaluations": [0]}, "evaluations=0 must be a whole number of at least 1"),
        ({"solvers": ["rk4"], "evaluations": [2]}, r"None of evaluations=\[2\] can be had from solvers=\['rk4'\]"),
        ({"metrics": "mmf"}, "There is no metric 'mmf'"),
    ],
)
def test_options_that_do_not_fit(
    halves: tuple[AnnData, AnnData], flow: Flow, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        scflow.tl.steps(flow, halves[1], reference=halves[0], progress=False, **options)


def test_flows_that_do_not_fit(halves: tuple[AnnData, AnnData], flow: Flow) -> None:
    train, held_out = halves
    with pytest.raises(InputError, match=r"flows has to hold flows by name; 'b' of 2 are none"):
        scflow.tl.steps({"a": flow, "b": held_out}, held_out, reference=train)  # type: ignore[dict-item]
    with pytest.raises(InputError, match="flows has to hold flows by name; there are none"):
        scflow.tl.steps({}, held_out, reference=train)
    other = scflow.tl.train(train[:, :30].copy(), steps=2, progress=False)
    with pytest.raises(InputError, match=r"The flow 'b' has 30 genes, and not those 40 of the first one"):
        scflow.tl.steps({"a": flow, "b": other}, held_out, reference=train)
    with pytest.raises(InputError, match=r"flows.uns has no flow 'scflow'"):
        scflow.tl.steps(held_out[:, :3].copy(), held_out, reference=train)


# The picture.


def a_table(*flows: str) -> pd.DataFrame:
    rows = []
    for flow in flows:
        for solver, shift in (("jump", 1.0),) if flow == "distilled" else (("euler", 1.0), ("adams", 3.0)):
            for n in (1, 2, 4, 48, 50):
                for metric, floor in (("forest_auc_genes", 0.51), ("mmd", -0.0004), ("wasserstein", 9.0)):
                    value = floor + 0.4 / n + (0.1 if shift == 3 else 0)
                    rows.append((flow, solver, shift, float(n), metric, value, floor, value - 0.1, value + 0.1))
    columns = ["flow", "solver", "shift", "evaluations", "metric", "value", "floor", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def test_a_panel_a_metric_and_a_line_a_way() -> None:
    table = a_table("original", "distilled").sample(frac=1, random_state=0)
    axes = scflow.pl.steps(table)
    assert isinstance(axes, list)
    for ax, metric in zip(axes, dict.fromkeys(table["metric"]), strict=True):
        lines = [line for line in ax.lines if len(line.get_xdata()) == 5]
        assert len(lines) == 3
        rows = table[(table["metric"] == metric) & (table["solver"] == "jump")].sort_values("evaluations")
        jump = next(line for line in lines if line.get_marker() == "*")
        np.testing.assert_allclose(jump.get_xdata(), [1, 2, 4, 48, 50])
        np.testing.assert_allclose(jump.get_ydata(), rows["value"])
        floors = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
        assert floors == [rows["floor"].iloc[0]]
        assert ax.get_xscale() == "log"
        assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "48"]
    assert len({line.get_color() for line in axes[0].lines if len(line.get_xdata()) == 5}) == 2, "one a flow"
    texts = [text.get_text() for text in axes[-1].get_legend().get_texts()]
    assert sorted(texts) == ["adams, shift 3", "distilled", "euler", "floor: real cells", "jump", "original"]


def test_solvers_of_a_single_flow_have_colours() -> None:
    axes = scflow.pl.steps(a_table("original"))
    assert isinstance(axes, list)
    assert len({line.get_color() for line in axes[0].lines if len(line.get_xdata()) == 5}) == 2
    texts = [text.get_text() for text in axes[-1].get_legend().get_texts()]
    assert texts == ["euler", "adams, shift 3", "floor: real cells"]


def test_the_table_is_found_in_uns_and_drawn_where_one_says(halves: tuple[AnnData, AnnData]) -> None:
    cells = halves[1].copy()
    cells.uns["mine_steps"] = a_table("original").query("metric == 'mmd'")
    _, ax = plt.subplots()
    drawn = scflow.pl.steps(cells, key="mine", ax=ax)
    assert isinstance(drawn, Axes)
    assert drawn is ax
    with pytest.raises(InputError, match=r"table.uns has no 'scflow_steps'.*scflow.tl.steps\("):
        scflow.pl.steps(cells)


def test_what_is_no_table() -> None:
    with pytest.raises(InputError, match=r"The table has 30 rows and lacks 1 of 7 columns \('floor'\)"):
        scflow.pl.steps(a_table("original").drop(columns="floor"))
    with pytest.raises(InputError, match=r"The table has 0 rows and lacks 0 of 7 columns. Expected"):
        scflow.pl.steps(a_table("original").iloc[:0])
    with pytest.raises(InputError, match="ax holds 1 Axes; this picture draws on 3"):
        scflow.pl.steps(a_table("original"), ax=plt.subplots()[1])
