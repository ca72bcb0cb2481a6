"""`tl.train` and `tl.generate` as a person calls them: slots, seeds, what is asked for, and what is refused."""

from __future__ import annotations

import math
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

import scflow
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.matching import couplings, noises, paths, solvers, times, weights
from scflow.tl._options import device_of, positive, whole
from scflow.tl._recipe import precision_of

N_CELLS, N_GENES = 200, 30
QUICK: dict[str, Any] = {"steps": 8, "progress": False}

pytestmark = pytest.mark.usefixtures("small_flows")


@pytest.fixture(scope="module")
def _cells() -> AnnData:
    shares = [0.6, 0.3, 0.1]
    adata = scflow.datasets.simulate(n_cells=N_CELLS, n_genes=N_GENES, n_types=3, proportions=shares, seed=0)
    del adata.uns["truth"]
    adata.obs["dose"] = np.random.default_rng(0).normal(5, 2, N_CELLS)
    adata.obsm["X_own"] = np.random.default_rng(1).normal([3, -1], [2, 0.5], (N_CELLS, 2))
    return adata


@pytest.fixture
def cells(_cells: AnnData) -> AnnData:
    """200 cells of three types, the test's own copy."""
    return _cells.copy()


@pytest.fixture(scope="module")
def trained(small_flows: None, _cells: AnnData) -> AnnData:
    """The cells after training: the flow is in `.uns`. Tests read it only."""
    adata = _cells.copy()
    scflow.tl.train(adata, condition="cell_type", **QUICK)
    return adata


@pytest.fixture(scope="module")
def flow(trained: AnnData) -> Flow:
    from scflow import _anndata

    return Flow.from_content(_anndata.read_flow(trained))


@pytest.fixture(scope="module")
def unconditional(small_flows: None, _cells: AnnData) -> Flow:
    return scflow.tl.train(_cells.copy(), space="quantile", **QUICK)


@pytest.fixture(scope="module")
def two(small_flows: None, _cells: AnnData) -> Flow:
    return scflow.tl.train(_cells.copy(), space="genes", condition=["cell_type", "dose"], **QUICK)


def same(a: AnnData, b: AnnData, *, of: slice = slice(None)) -> None:
    """Equal cells, bit for bit."""
    np.testing.assert_array_equal(a.obsm["X_scflow"][of], b.obsm["X_scflow"][of])
    np.testing.assert_array_equal(a.obsm["X_scflow_noise"][of], b.obsm["X_scflow_noise"][of])
    np.testing.assert_array_equal(a.layers["counts"][of].toarray(), b.layers["counts"][of].toarray())
    np.testing.assert_array_equal(a.X[of].toarray(), b.X[of].toarray())


def draw(flow: Flow | AnnData, n_obs: int = 40, **options: Any) -> AnnData:
    return scflow.tl.generate(flow, n_obs, **{"progress": False, "steps": 2, **options})


# What training returns and where it leaves it.


def test_training_writes_its_slots_and_nothing_else(cells: AnnData, trained: AnnData) -> None:
    assert set(trained.uns) - set(cells.uns) == {"scflow", "scflow_pp"}
    assert set(trained.var) - set(cells.var) == {"scflow_mean", "scflow_sd", "scflow_dropout"}
    assert list(trained.layers) == list(cells.layers) == []
    assert list(trained.obsm) == list(cells.obsm)
    pd.testing.assert_frame_equal(trained.obs, cells.obs)
    np.testing.assert_array_equal(trained.X.toarray(), cells.X.toarray())
    np.testing.assert_allclose(trained.var["scflow_dropout"], 1 - np.asarray((cells.X > 0).mean(0)).ravel())


def test_the_callers_matrix_is_the_same_object_afterwards(cells: AnnData) -> None:
    x, before = cells.X, cells.X.copy()
    scflow.tl.train(cells, **QUICK)
    assert cells.X is x
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(x, name), getattr(before, name))


def test_a_view_is_trained_on_without_touching_its_parent(cells: AnnData) -> None:
    before = cells.copy()
    view = cells[cells.obs["cell_type"] != "type_2"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", anndata.ImplicitModificationWarning)
        flow = scflow.tl.train(view, condition="cell_type", **QUICK)
    assert "scflow" in view.uns
    assert flow.conditions.columns[0].cardinality == 2
    assert list(cells.uns) == list(before.uns)
    pd.testing.assert_frame_equal(cells.var, before.var)
    np.testing.assert_array_equal(cells.X.toarray(), before.X.toarray())
    assert draw(flow, 5).n_obs == 5


def test_key_added_renames_every_slot(cells: AnnData) -> None:
    scflow.tl.train(cells, key_added="mine", **QUICK)
    assert {"mine", "mine_pp"} <= set(cells.uns)
    assert {"mine_mean", "mine_sd", "mine_dropout"} <= set(cells.var)
    assert not any(name.startswith("scflow") for name in [*cells.uns, *cells.var])


def test_statistics_that_are_there_are_used(cells: AnnData) -> None:
    scflow.pp.log1p_standardize(cells, target_sum=500.0, clip=4.0)
    flow = scflow.tl.train(cells, space="genes", **QUICK)
    assert cells.uns["scflow_pp"]["target_sum"] == flow.provenance["target_sum"] == 500.0
    assert flow.codec.settings()["clip"] == 4.0


def test_statistics_of_another_layer_are_made_anew(cells: AnnData) -> None:
    scflow.pp.log1p_standardize(cells)
    cells.layers["twice"] = cells.X * 2
    flow = scflow.tl.train(cells, layer="twice", **QUICK)
    assert flow.provenance["layer"] == "twice"
    assert cells.uns["scflow_pp"]["layer"] == "twice"


def test_counts_in_a_layer_are_found(cells: AnnData) -> None:
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X.log1p()
    flow = scflow.tl.train(cells, **QUICK)
    assert flow.provenance["layer"] == "counts"


@pytest.mark.parametrize("kind", ["csc", "dense", "csr_array", "int"])
def test_the_same_counts_in_another_container_give_the_same_flow(kind: str, cells: AnnData, trained: AnnData) -> None:
    x = cells.X
    cells.X = {
        "csc": x.tocsc,
        "dense": x.toarray,
        "csr_array": lambda: sparse.csr_array(x),
        "int": lambda: x.astype(int),
    }[kind]()
    flow = scflow.tl.train(cells, condition="cell_type", **QUICK)
    same(draw(flow), draw(trained))


def test_provenance_says_what_was_learnt_from_what(flow: Flow) -> None:
    facts = dict(flow.provenance)
    best = facts.pop("best_step")
    assert 0 < best <= facts.pop("steps") <= 8
    assert facts == {
        "n_cells": N_CELLS,
        "seed": 0,
        "condition": ["cell_type"],
        "layer": "X",
        "target_sum": 1e4,
        "interrupted": False,
        "space": "counts",
        "steps_planned": 8,
        # What tl.diagnose reads.
        "batch_size": 180,
        "lr": 1e-3,
        "clip": 1.0,
        "average": "ramp",
        "precision": precision_of("auto", torch.device("cpu")),
        "linear_loss": pytest.approx(math.pi / 2, rel=0.1),
    }
    assert flow.genes == tuple(f"gene_{i:02d}" for i in range(N_GENES))
    assert flow.history["validation_loss"].notna().all()


def test_one_line_says_what_is_trained_on_what(cells: AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    scflow.tl.train(cells, steps=5, device="cpu")
    assert capsys.readouterr().out == "scflow: 200 cells, 30 genes in counts space, 5 steps of 180 cells on cpu\n"
    scflow.tl.train(cells, use_rep="X_own", steps=5, device="cpu", batch_size=32)
    assert capsys.readouterr().out == "scflow: 200 cells, obsm['X_own'], 5 steps of 32 cells on cpu\n"
    scflow.tl.train(cells, **QUICK)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_callbacks_see_each_row_of_the_history(cells: AnnData) -> None:
    rows: list[dict[str, float]] = []
    flow = scflow.tl.train(cells, callbacks=[rows.append], **QUICK)
    pd.testing.assert_frame_equal(pd.DataFrame(rows).astype({"step": int}), flow.history)


def test_ctrl_c_gives_the_best_flow_so_far(cells: AnnData) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    flow = scflow.tl.train(cells, callbacks=[stop], **QUICK)
    assert flow.provenance["interrupted"] is True
    assert flow.provenance["steps"] == 3
    assert draw(cells, 5).n_obs == 5  # It was also left in the AnnData.


def test_a_rate_that_blows_up_ends_with_a_word(cells: AnnData) -> None:
    before = set(cells.uns)
    with pytest.raises(FloatingPointError, match=r"The gradient has not been finite for \d+ steps up to step"):
        scflow.tl.train(cells, space="genes", lr=1e38, steps=40, progress=False)
    assert set(cells.uns) - before <= {"scflow_pp"}


def test_objects_serve_as_well_as_names(cells: AnnData) -> None:
    named = scflow.tl.train(cells, space="genes", time="uniform", noise="gaussian", **QUICK)
    made = scflow.tl.train(
        cells,
        space="genes",
        time=times.Uniform(),
        noise=noises.Gaussian(),
        path=paths.Linear(),
        weight=weights.Uniform(),
        coupling=couplings.Independent(),
        **QUICK,
    )
    same(draw(named), draw(made))


def test_a_noise_of_ones_own_is_used_and_not_kept(cells: AnnData) -> None:
    class Wide(noises.Noise):
        def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
            return 50 + torch.randn(n, dim, generator=rng, device=rng.device)

    with pytest.warns(
        UserWarning, match=r"The flow is returned, but not kept in adata\.uns\['scflow'\]\. A flow whose noise"
    ):
        flow = scflow.tl.train(cells, space="quantile", noise=Wide(), **QUICK)
    assert "scflow" not in cells.uns
    assert draw(flow).obsm["X_scflow_noise"].min() > 40


@pytest.mark.parametrize("space", ["counts", "genes", "quantile", "pca"])
def test_every_space_learns_and_draws_counts(space: str, cells: AnnData) -> None:
    flow = scflow.tl.train(cells, condition="cell_type", space=space, **QUICK)
    assert flow.codec.name == space
    new = draw(flow, 60)
    counts = new.layers["counts"]
    assert counts.dtype.kind == "i"
    assert new.shape == (60, N_GENES)
    assert counts.sum() / 60 == pytest.approx(cells.X.sum() / N_CELLS, rel=0.3)


def test_bfloat16_trains(cells: AnnData) -> None:
    for space in ("counts", "quantile"):
        flow = scflow.tl.train(cells, space=space, precision="bfloat16", **QUICK)
        assert np.isfinite(flow.history["validation_loss"]).all()
        assert all(p.dtype == torch.float32 for p in flow.field.parameters())


def test_an_embedding_has_no_counts(cells: AnnData) -> None:
    flow = scflow.tl.train(cells, use_rep="X_own", condition="cell_type", **QUICK)
    assert not [name for name in cells.var if name.startswith("scflow")]
    new = draw(cells, 25, condition="type_1")
    assert new.shape == (25, 0)
    assert new.obsm["X_scflow"].shape == (25, 2)
    assert (new.obs["cell_type"] == "type_1").all()
    np.testing.assert_array_equal(new.obsm["X_scflow"], draw(flow, 25, condition="type_1").obsm["X_scflow"])
    assert new.uns["scflow"]["provenance"]["use_rep"] == "X_own"


def test_counts_are_never_dense_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 cells no call makes more than 4,096 dense, in any space."""
    adata = scflow.datasets.simulate(n_cells=10_000, n_genes=20, library_size=20, seed=0)
    from scflow.training.batches import Cells

    most = 0
    to_array, to_dense = sparse.csr_matrix.toarray, Cells.dense

    def counted(self: Any, *args: Any, **settings: Any) -> Any:
        nonlocal most
        most = max(most, self.shape[0])
        return to_array(self, *args, **settings)

    def gathered(self: Cells, rows: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(rows))
        return to_dense(self, rows)

    monkeypatch.setattr(sparse.csr_matrix, "toarray", counted)
    monkeypatch.setattr(Cells, "dense", gathered)
    for space in ("counts", "genes", "quantile", "pca"):
        scflow.tl.train(adata, condition="cell_type", space=space, steps=2, progress=False)
        assert 0 < most <= 4096, space


def test_memory_follows_the_stored_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 cells x 1,000 genes at 0.5 %: dense they would be 80 MB; numpy and scipy take a tenth of that."""
    monkeypatch.setattr("scflow.flow._learning._DRAWN", 256)
    x = sparse.random(
        20_000, 1000, density=0.005, format="csr", dtype=np.float32, random_state=np.random.default_rng(0)
    )
    x.data[:] = 1 + (x.data > 0.7)
    adata = AnnData(sparse.csr_matrix(x[np.diff(x.indptr) > 0]))
    tracemalloc.start()
    try:
        scflow.tl.train(adata, steps=2, batch_size=32, validation=0.001, progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25e6


# Random numbers.


def test_the_same_seed_gives_the_same_flow_and_cells(cells: AnnData, trained: AnnData) -> None:
    torch.rand(3)
    again = scflow.tl.train(cells, condition="cell_type", **QUICK)
    first, second = trained.uns["scflow"], cells.uns["scflow"]
    assert first["config"] == second["config"]
    for name, array in first["tensors"].items():
        if name != "history.cells_per_second":
            np.testing.assert_array_equal(array, second["tensors"][name])
    same(draw(again), draw(trained))


def test_another_seed_gives_another_flow_and_other_cells(cells: AnnData, trained: AnnData) -> None:
    other = scflow.tl.train(cells, condition="cell_type", seed=1, **QUICK)
    assert not np.array_equal(draw(other).obsm["X_scflow"], draw(trained).obsm["X_scflow"])
    assert not np.array_equal(draw(trained, seed=1).obsm["X_scflow"], draw(trained).obsm["X_scflow"])


@pytest.mark.parametrize("space", ["counts", "genes", "quantile", "pca"])
def test_global_random_states_are_left_alone(space: str, cells: AnnData) -> None:
    before, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    flow = scflow.tl.train(cells, condition="cell_type", space=space, **QUICK)
    draw(flow)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


@pytest.mark.parametrize("batch_size", [1, 100, 256, 300, 10_000])
def test_the_batch_size_does_not_change_the_cells(batch_size: int, flow: Flow) -> None:
    same(draw(flow, 300, batch_size=batch_size), draw(flow, 300))


def test_more_cells_begin_with_the_same_ones(flow: Flow, two: Flow) -> None:
    few, many = (draw(flow, n, condition="type_1", calibration="independent") for n in (100, 300))
    same(few, many, of=slice(100))
    balanced = draw(flow, 300, condition="type_1")[:100]
    for slot in ("X_scflow", "X_scflow_noise"):
        np.testing.assert_array_equal(balanced.obsm[slot], few.obsm[slot])
    rng = np.random.default_rng(0)
    wanted = pd.DataFrame({"cell_type": rng.choice(["type_0", "type_2"], 300), "dose": rng.normal(5, 1, 300)})
    same(draw(two, 100, condition=wanted[:100]), draw(two, 300, condition=wanted), of=slice(100))


# Conditions.


def test_conditions_occur_as_in_the_data(cells: AnnData, flow: Flow) -> None:
    shares = cells.obs["cell_type"].value_counts(normalize=True)
    for n in (7, 50, 200):
        found = draw(flow, n, steps=1).obs["cell_type"].value_counts()
        assert (found - n * shares).abs().max() <= 1


def test_categories_are_the_datas(cells: AnnData, flow: Flow) -> None:
    new = draw(flow, 10, condition="type_2")
    assert list(new.obs["cell_type"].cat.categories) == list(cells.obs["cell_type"].cat.categories)
    assert (new.obs["cell_type"] == "type_2").all()


def test_conditions_as_mapping_list_series_and_table(flow: Flow) -> None:
    wanted = ["type_2", "type_0", "type_0", "type_1"]
    asked = (
        wanted,
        tuple(wanted),
        np.array(wanted),
        pd.Series(wanted, index=[9, 8, 7, 6], name="x"),
        pd.Series(wanted, dtype="category"),
        {"cell_type": wanted},
        {"cell_type": pd.Series(wanted)},
        pd.DataFrame({"cell_type": wanted}, index=list("abcd")),
    )
    first = draw(flow, 4, condition=wanted)
    assert first.obs["cell_type"].tolist() == wanted
    for request in asked:
        same(draw(flow, 4, condition=request), first)
    one = draw(flow, 4, condition="type_1")
    same(draw(flow, 4, condition={"cell_type": "type_1"}), one)
    same(draw(flow, 4, condition=["type_1"] * 4), one)


def test_what_is_not_named_occurs_with_what_is(cells: AnnData, two: Flow) -> None:
    new = draw(two, 30, condition={"cell_type": "type_1"})
    assert (new.obs["cell_type"] == "type_1").all()
    seen = cells.obs.loc[cells.obs["cell_type"] == "type_1", "dose"].to_numpy()
    assert np.abs(new.obs["dose"].to_numpy()[:, None] - seen).min(1).max() < 1e-3
    exact = draw(two, 3, condition={"dose": [1.5, 30, -2]})
    assert exact.obs["dose"].tolist() == pytest.approx([1.5, 30, -2])


def test_the_condition_is_felt(flow: Flow) -> None:
    """Same noise, another type, other states."""
    a, b = (draw(flow, 30, condition=t) for t in ("type_0", "type_1"))
    np.testing.assert_array_equal(a.obsm["X_scflow_noise"], b.obsm["X_scflow_noise"])
    assert np.abs(a.obsm["X_scflow"] - b.obsm["X_scflow"]).max() > 1e-4


def test_guidance_extrapolates(flow: Flow) -> None:
    """One Euler step is linear in the velocity: its states lie on the line from none to the condition."""
    states = [
        draw(flow, 20, condition="type_1", guidance=g, solver="euler", steps=1).obsm["X_scflow"] for g in (0, 1, 3)
    ]
    np.testing.assert_allclose(states[2], states[0] + 3 * (states[1] - states[0]), atol=1e-4)


# New cells.


def test_slots_of_new_cells(cells: AnnData, flow: Flow) -> None:
    new = scflow.tl.generate(flow, 50, seed=4, guidance=1.5, progress=False)
    assert new.shape == (50, N_GENES)
    assert list(new.var_names) == list(cells.var_names)
    counts = new.layers["counts"]
    assert sparse.issparse(counts)
    assert counts.dtype == np.int32
    assert counts.min() >= 0
    sizes = counts.sum(1)
    np.testing.assert_allclose(new.X.toarray(), np.log1p(counts.toarray() / sizes * 1e4), rtol=1e-5)
    assert new.X.dtype == np.float32
    assert new.obsm["X_scflow"].shape == new.obsm["X_scflow_noise"].shape == (50, flow.codec.dim)
    assert new.obs_names.is_unique
    assert list(new.obs) == ["cell_type"]
    facts = new.uns["scflow"]["provenance"]
    assert facts["guidance"] == 1.5
    assert (facts["solver"], facts["solver_steps"], facts["generate_seed"]) == ("midpoint", 12, 4)
    assert (facts["n_cells"], facts["space"], list(facts["condition"])) == (N_CELLS, "counts", ["cell_type"])


def test_new_cells_can_be_written(flow: Flow, unconditional: Flow, tmp_path: Path) -> None:
    for name, source in (("a", flow), ("b", unconditional)):
        new = draw(source, 10)
        new.write_h5ad(tmp_path / name)
        same(anndata.read_h5ad(tmp_path / name), new)


def test_steps_of_the_solvers(flow: Flow) -> None:
    facts = {
        name: scflow.tl.generate(flow, 2, solver=solver, progress=False).uns["scflow"]["provenance"]
        for name, solver in {"auto": "auto", "euler": "euler", "heun": "heun", "own": solvers.Midpoint()}.items()
    }
    found = {name: (f["solver"], f["solver_steps"]) for name, f in facts.items()}
    assert found == {"auto": ("midpoint", 12), "euler": ("euler", 50), "heun": ("heun", 12), "own": ("midpoint", 12)}


def test_solvers_agree_where_steps_are_many(flow: Flow) -> None:
    states = [
        draw(flow, 20, solver=s, steps=n).obsm["X_scflow"] for s, n in (("euler", 400), ("midpoint", 40), ("heun", 40))
    ]
    np.testing.assert_allclose(states[1], states[2], atol=0.01)
    np.testing.assert_allclose(states[0], states[1], atol=0.05)


def test_a_file_of_cells_carries_its_flow(trained: AnnData, flow: Flow, tmp_path: Path) -> None:
    trained.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    same(draw(back), draw(flow))
    same(draw(trained), draw(flow))
    pd.testing.assert_frame_equal(Flow.from_content(scflow._anndata.read_flow(back)).history, flow.history)


@pytest.mark.parametrize("space", ["genes", "quantile", "pca"])
def test_a_file_carries_flows_of_other_spaces(space: str, cells: AnnData, tmp_path: Path) -> None:
    flow = scflow.tl.train(cells, space=space, **QUICK)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    same(draw(anndata.read_h5ad(tmp_path / "cells.h5ad")), draw(flow))


def test_a_copy_carries_its_flow(trained: AnnData) -> None:
    same(draw(trained.copy()), draw(trained))
    same(draw(trained[:10]), draw(trained))


# What training refuses, before any work.


def refused(cells: AnnData, match: str, **options: Any) -> None:
    before = cells.copy()
    with pytest.raises(InputError, match=match):
        scflow.tl.train(cells, **{"progress": False, **options})
    assert set(cells.uns) == set(before.uns)
    pd.testing.assert_frame_equal(cells.var, before.var)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resume": True}, r"resume=True has no run to go on with\. Name its folder: checkpoint='run', resume=True"),
        ({"field": "unett"}, r"field='unett' is not known\. Did you mean 'unet'\? Choose one of 'mlp', 'transformer'"),
        (
            {"space": "gene"},
            r"space='gene' is not known\. Did you mean 'genes'\? Choose 'auto' or one of 'counts', 'genes', "
            r"'quantile', 'pca'; use_rep='X_\.\.\.' takes an embedding",
        ),
        (
            {"space": "pca", "use_rep": "X_own"},
            r"space='pca' and use_rep='X_own' exclude each other\. Leave one of them out",
        ),
        (
            {"path": "liner"},
            r"path='liner' is not known\. Did you mean 'linear'\? Choose one of 'linear', 'variance_preserving', ",
        ),
        ({"time": "logit"}, r"time='logit' is not known\. Choose one of 'uniform', 'stratified', 'importance', "),
        ({"weight": 3}, r"weight=3 is not known\. Choose one of 'uniform', 'inverse_snr', "),
        ({"coupling": "ot"}, r"coupling='ot' is not known\. Choose one of 'independent', 'optimal', 'entropic', 'unb"),
        (
            {"noise": "gausian"},
            r"noise='gausian' is not known\. Did you mean 'gaussian'\? Choose 'auto', 'gaussian', "
            r"'matched_variance', 'sparse', 'dropout', 'dropout_by_condition', or pass a "
            r"scflow\.matching\.noises\.Noise of your own",
        ),
        (
            {"noise": "dropout"},
            r"noise='dropout' has a rate a gene; space='counts' has other coordinates\. Use 'auto'",
        ),
        ({"noise": "dropout", "use_rep": "X_own"}, r"space='embedding' has other coordinates"),
        ({"steps": 0}, r"steps=0 must be a whole number of at least 1"),
        ({"steps": 2.5}, r"steps=2\.5 is not a whole number\. Give one, such as steps=100"),
        ({"steps": True}, r"steps=True must be a whole number of at least 1"),
        ({"lr": 0}, r"lr=0 must be a finite number above 0"),
        ({"lr": "fast"}, r"lr='fast' is not a number"),
        ({"lr": float("nan")}, r"lr=nan must be a finite number above 0"),
        ({"validation": 0}, r"validation=0 must be a finite number above 0"),
        ({"validation": 0.9}, r"validation=0\.9 is the share of cells held out to stop on: 0\.5 at most, such as 0\.1"),
        ({"batch_size": "large"}, r"batch_size='large' is not a whole number"),
        (
            {"batch_size": 181},
            r"batch_size=181 is more than the 180 cells to learn from \(200 less 20 held out for validation\)\. Use "
            r"batch_size='auto'",
        ),
        (
            {"precision": "float8"},
            r"precision='float8' is not known\. Choose 'auto', 'float32', 'bfloat16' or 'float16'",
        ),
        ({"device": "tpu"}, r"device='tpu' cannot be used here \(.*\)\. Use device='auto' or 'cpu'"),
        ({"seed": -1}, r"seed=-1 must be a whole number of at least 0"),
        ({"seed": None}, r"seed=None is not a whole number"),
        ({"condition": "celltype"}, r"adata\.obs has no column 'celltype'\. Did you mean 'cell_type'\?"),
        ({"layer": "raw"}, r"adata has no layer 'raw'"),
        ({"use_rep": "X_pca"}, r"adata\.obsm has no 'X_pca'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_training_refuses(options: dict[str, Any], match: str, cells: AnnData) -> None:
    refused(cells, match, **options)


def test_training_wants_an_anndata_of_enough_cells(cells: AnnData) -> None:
    with pytest.raises(InputError, match=r"There is no 'cells\.h5ad'"):
        scflow.tl.train("cells.h5ad")
    refused(cells[:19].copy(), r"adata has 19 cells; scflow needs at least 20 to learn from, and better hundreds")


def test_training_wants_counts(cells: AnnData) -> None:
    for bad, match in ((np.nan, "1 NaN"), (-1, "1 negative"), (0.5, "1 not whole numbers"), (np.inf, "1 infinite")):
        broken = cells.copy()
        broken.X = broken.X.copy()
        broken.X.data[5] = bad
        refused(broken, rf"adata\.X holds 1 values that are not counts: {match}")
    broken = cells.copy()
    broken.obs["cell_type"] = broken.obs["cell_type"].where(broken.obs_names != broken.obs_names[4])
    refused(broken, r"obs\['cell_type'\] has no value for 1 of 200 cells", condition="cell_type")


def test_twenty_cells_are_enough(cells: AnnData) -> None:
    flow = scflow.tl.train(cells[:20].copy(), **{**QUICK, "steps": 3})
    assert draw(flow, 3).n_obs == 3


# What drawing refuses.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_obs": 0}, r"n_obs=0 must be a whole number of at least 1"),
        ({"n_obs": 1.5}, r"n_obs=1\.5 is not a whole number\. Give one, such as n_obs=100"),
        ({"guidance": -1}, r"guidance=-1 must be a finite number of at least 0"),
        ({"guidance": "much"}, r"guidance='much' is not a number"),
        (
            {"solver": "rk5"},
            r"solver='rk5' is not known\. Did you mean 'rk4'\? Choose one of 'euler', 'midpoint', 'heun'",
        ),
        ({"steps": 0}, r"steps=0 must be a whole number of at least 1"),
        ({"batch_size": 0}, r"batch_size=0 must be a whole number of at least 1"),
        ({"device": "tpu"}, r"device='tpu' cannot be used here"),
        ({"seed": -3}, r"seed=-3 must be a whole number of at least 0"),
        ({"condition": "type_9"}, r"Condition 'cell_type' has 1 unknown categories, in 1 of 1 cells \('type_9'\)"),
        (
            {"condition": {"celltype": "type_0"}},
            r"no conditions of this flow \('celltype'\)\. Did you mean 'cell_type'\?",
        ),
        ({"condition": ["type_0"] * 3}, r"Condition 'cell_type' has 3 values for n_obs=40 cells"),
        (
            {"condition": pd.DataFrame({"cell_type": ["type_0"] * 39 + [None]})},
            r"has no value in 1 of 40 rows \(first: 39\)",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_drawing_refuses(options: dict[str, Any], match: str, flow: Flow) -> None:
    with pytest.raises(InputError, match=match):
        draw(flow, **options)


def test_guidance_wants_a_condition(unconditional: Flow) -> None:
    with pytest.raises(
        InputError,
        match=r"guidance=2 needs a condition, and this flow has none\. Train with scflow\.tl\.train\(adata, "
        r'condition="cell_type"\), or leave guidance=1',
    ):
        draw(unconditional, guidance=2)
    assert draw(unconditional, guidance=1.0).n_obs == 40
    with pytest.raises(InputError, match=r"This flow was trained without conditions, so none can be asked for"):
        draw(unconditional, condition="type_0")


def test_several_conditions_have_to_be_named(two: Flow) -> None:
    with pytest.raises(
        InputError, match=r"This flow has 2 conditions \('cell_type', 'dose'\), and a list does not say"
    ):
        draw(two, condition=["type_0"] * 40)


def test_drawing_wants_a_flow(cells: AnnData, flow: Flow) -> None:
    with pytest.raises(InputError, match=r"adata\.uns has no flow 'scflow'.*Train one first: flow = scflow\.tl\.train"):
        draw(cells)
    with pytest.raises(InputError, match=r"holds the provenance of generated cells, not a flow"):
        draw(draw(flow))
    with pytest.raises(InputError, match=r"adata is a str, not an AnnData"):
        draw("flow.safetensors")  # type: ignore[arg-type]


# Options.


def test_whole_numbers_and_positive_ones() -> None:
    assert whole(np.int64(3), "n") == 3
    assert type(whole(np.int64(3), "n")) is int
    assert whole(0, "n", least=0) == 0
    assert positive("0.5", "x") == 0.5
    assert positive(0, "x", zero=True) == 0.0
    for bad in ("3", 3.0, None, [1]):
        with pytest.raises(InputError, match=r"n=.* is not a whole number\. Give one, such as n=100"):
            whole(bad, "n")
    for number in (-1, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"x=.* must be a finite number of at least 0"):
            positive(number, "x", zero=True)


def test_devices() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of(torch.device("cpu")) == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda", "mps")
    for bad in ("tpu", "cuda:99", 3.5, ""):
        with pytest.raises(InputError, match=r"device=.* cannot be used here \(.*\)\. Use device='auto' or 'cpu'"):
            device_of(bad)  # type: ignore[arg-type]


def test_training_and_drawing_take_half_of_the_cores(monkeypatch: pytest.MonkeyPatch, cells: AnnData) -> None:
    seen: list[int] = []
    monkeypatch.setattr("scflow.tl._options._cores", lambda: 6)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        note = lambda _: seen.append(torch.get_num_threads())  # noqa: E731
        flow = scflow.tl.train(cells, condition="cell_type", callbacks=(note,), **QUICK)
        assert set(seen) == {3}
        drawn = Flow.draw

        def noted(self: Flow, *arguments: Any, **options: Any) -> Any:
            seen.append(torch.get_num_threads())
            return drawn(self, *arguments, **options)

        seen.clear()
        monkeypatch.setattr(Flow, "draw", noted)
        scflow.tl.generate(flow, 5, progress=False)
        assert set(seen) == {3}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_half_of_the_cores_are_taken_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from scflow.tl._options import half_the_cores

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for cores, taken in ((2, 1), (6, 3), (64, 4)):
            monkeypatch.setattr("scflow.tl._options._cores", lambda cores=cores: cores)
            with half_the_cores():
                assert torch.get_num_threads() == taken
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
