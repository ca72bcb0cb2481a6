"""The benchmark of unseen stimulated types measures what it says, and runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scflow

FOLDER = Path(__file__).with_name("benchmarks")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script of the benchmarks as Python does when it runs one: with its folder on the path."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def stimulated() -> AnnData:
    """Three types of cells of which every other one is stimulated: ten genes go up, alike in all types."""
    adata = scflow.datasets.simulate(n_cells=360, n_genes=60, seed=0)
    rng, stim = np.random.default_rng(0), np.arange(360) % 2 == 1
    counts = np.asarray(adata.X.todense())
    counts[np.ix_(stim, np.arange(10))] += rng.poisson(8.0, size=(stim.sum(), 10)).astype(counts.dtype)
    adata = AnnData(counts, obs=adata.obs[["cell_type"]].copy(), var=adata.var[[]].copy())
    adata.obs["condition"] = pd.Categorical(np.where(stim, "stim", "ctrl"))
    return adata


def test_the_stimulated_cells_of_the_type_are_nowhere_in_training(
    script: Callable[[str], ModuleType], stimulated: AnnData
) -> None:
    label = str(stimulated.obs["cell_type"].iloc[0])
    task = script("perturbation_task").Task.of(stimulated, label, seed=0)
    hidden = stimulated.obs_names[(stimulated.obs["cell_type"] == label) & (stimulated.obs["condition"] == "stim")]
    assert set(task.held_out.obs_names) == set(hidden)
    assert not set(task.train.obs_names) & set(hidden)
    assert label not in task.others
    assert len(task.others) == stimulated.obs["cell_type"].nunique() - 1
    assert set(task.controls.obs["condition"]) == {"ctrl"}


def test_components_have_not_seen_the_controls_that_are_carried(
    script: Callable[[str], ModuleType], stimulated: AnnData
) -> None:
    """Whatever such a control holds, the space is the same."""
    label = str(stimulated.obs["cell_type"].iloc[0])
    task = script("perturbation_task").Task.of(stimulated, label, seed=0)
    halving = next(script("perturbation").halvings(task))
    kept, carried = halving.controls
    assert not set(kept) & set(carried)
    assert not set(halving.real[0]) & set(halving.real[1])
    for rows, same in ((carried, True), (kept, False)):
        changed = task.train.copy()
        changed.X[np.flatnonzero(task.is_control)[rows[0]], :5] = 50.0
        again = next(script("perturbation").halvings(replace(task, train=changed)))
        assert np.array_equal(again.space.mean, halving.space.mean) is same


def test_the_floor_is_nothing_and_a_shift_common_to_all_types_is_found(
    script: Callable[[str], ModuleType], stimulated: AnnData
) -> None:
    label = str(stimulated.obs["cell_type"].iloc[0])
    task, predictors = script("perturbation_task").Task.of(stimulated, label, seed=0), script("predictors")
    judge = script("perturbation").Judge(task)
    floor, none, shift = (
        judge.figures(cells).set_index("metric")["value"]
        for cells in (None, predictors.nothing(task), predictors.mean_shift(task))
    )
    assert abs(floor["mmd"]) < 0.02 < none["mmd"]
    assert floor["energy"] < shift["energy"] < none["energy"] / 3
    assert np.isnan(none["r_50"])
    assert none["slope_50"] == 0
    assert shift["r_all"] > 0.9
    assert 0.8 < shift["slope_50"] < 1.2


def test_it_goes_on_where_it_stopped_and_skips_what_is_not_there_yet(
    script: Callable[[str], ModuleType],
    stimulated: AnnData,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, rivals = script("perturbation"), script("perturbation_rivals")
    monkeypatch.setattr(rivals, "EPOCHS", 2)
    monkeypatch.setattr(rivals, "FLOW_STEPS", 5)
    monkeypatch.setattr(module, "HALVINGS", 2)
    monkeypatch.setattr(module, "data_sets", lambda names: [("made", stimulated)])
    monkeypatch.setattr(module, "available", lambda row: not row.startswith("scflow"))
    label, out = str(stimulated.obs["cell_type"].iloc[0]), tmp_path / "perturbation.csv"
    asked = ["--types", label, "--seeds", "0", "--out", str(out), "--figure", str(tmp_path / "figure.png")]
    assert module.main(asked) == 0
    first = out.read_text()
    assert "scflow, counts: this scflow cannot" in capsys.readouterr().out
    rows = pd.read_csv(out)["row"].unique()
    assert set(rows) == {"real, other half", *list(script("predictors").PREDICTORS)[:5]}
    assert module.main(asked) == 0
    assert out.read_text() == first
    assert (tmp_path / "figure.png").stat().st_size > 0
    assert out.with_suffix(".md").read_text().count("| mean shift |")


def test_targets_compare_with_the_mean_shift_over_types(script: Callable[[str], ModuleType]) -> None:
    report = script("perturbation_report")
    figures = [("mean shift", 1.0, 0.8), ("scflow, counts", 0.5, 0.795)]
    rows = [
        {"data": "d", "type": kind, "seed": 0, "genes": 10, "row": row, "metric": metric, "value": value, "high": 0.0}
        for row, far, near in figures
        for kind in "ab"
        for metric, value in {"mmd": far, "energy": far, "r_50": near, "r_500": near - 0.1 * far}.items()
    ]
    held = {target.text.split(" of ")[0]: target.holds for target in report.targets(pd.DataFrame(rows))}
    assert held == {"d: mmd": True, "d: energy": True, "d: r_50": True, "d: r_500": True}
    worse = pd.DataFrame(rows).assign(value=lambda t: t["value"] + 2.0 * (t["row"] == "scflow, counts"))
    assert not any(t.holds for t in report.targets(worse) if "mmd" in t.text or "energy" in t.text)
