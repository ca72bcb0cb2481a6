"""`tl.augment`: real cells stay as they are, bit for bit, and synthetic ones are in the same units."""

from __future__ import annotations

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

import scflow
from scflow._anndata._units import Units
from scflow.errors import InputError
from scflow.flow import Flow

SIZES = {"type_0": 60, "type_1": 33, "type_2": 7}
QUICK: dict[str, Any] = {"steps": 8, "progress": False}

pytestmark = pytest.mark.usefixtures("small_flows")


def dense(values: Any) -> np.ndarray:
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


@pytest.fixture(scope="module")
def _cells() -> AnnData:
    """100 cells with something in every slot."""
    adata = scflow.datasets.simulate(n_cells=100, n_genes=30, n_types=3, seed=0)
    rng, n = np.random.default_rng(0), adata.n_obs
    labels = np.repeat(list(SIZES), list(SIZES.values()))
    adata.obs["cell_type"] = pd.Categorical(labels, categories=["unused", *reversed(SIZES)])
    adata.obs["stage"] = pd.Categorical(rng.choice(["late", "early"], n), categories=["early", "late"], ordered=True)
    adata.obs["n_counts"] = np.asarray(adata.X.sum(axis=1)).ravel().astype(np.int32)
    adata.obs["score"] = rng.normal(size=n).astype(np.float32)
    adata.obs["doublet"] = rng.random(n) < 0.1
    adata.obs["barcode"] = [f"ACGT{i}" for i in range(n)]
    adata.obs["day"] = pd.Timestamp("2024-01-01")
    adata.obsm["X_pca"] = rng.normal(size=(n, 4)).astype(np.float32)
    adata.obsm["clusters"] = rng.integers(0, 9, (n, 2))
    adata.obsm["peaks"] = sparse.random(n, 6, density=0.3, format="csr", random_state=rng)
    adata.obsm["table"] = pd.DataFrame({"a": rng.integers(0, 9, n), "b": rng.normal(size=n)}, index=adata.obs_names)
    adata.obsp["distances"] = sparse.random(n, n, density=0.05, format="csr", random_state=rng)
    adata.obsp["kernel"] = rng.random((n, n)).astype(np.float32)
    adata.varm["PCs"] = rng.normal(size=(30, 4))
    adata.varp["r"] = rng.normal(size=(30, 30))
    adata.var["symbol"] = [f"G{i}" for i in range(30)]
    adata.uns["colours"] = {"cell_type": np.array(["#000000", "#ffffff"])}
    adata.layers["scaled"] = rng.normal(size=adata.shape)
    return adata


@pytest.fixture
def cells(_cells: AnnData) -> AnnData:
    return _cells.copy()


@pytest.fixture(scope="module")
def flow(small_flows: None, _cells: AnnData) -> Flow:
    return scflow.tl.train(_cells.copy(), condition="cell_type", **QUICK)


@pytest.fixture(scope="module")
def more(flow: Flow, _cells: AnnData) -> AnnData:
    """The cells and 25 more of the rare type. Tests read it only."""
    return augment(_cells.copy(), flow=flow, n_obs={"type_2": 25})


def augment(adata: AnnData, key: str = "cell_type", **options: Any) -> AnnData:
    return scflow.tl.augment(adata, key, **{"progress": False, **options})


def drawn(flow: Flow, n: int, **options: Any) -> AnnData:
    return scflow.tl.generate(flow, n, condition={"cell_type": "type_2"}, progress=False, **options)


def same(a: AnnData, b: AnnData) -> None:
    """Equal in every slot, bit for bit."""
    assert type(a.X) is type(b.X)
    for slot in ("layers", "obsm", "obsp", "varm", "varp"):
        ours, theirs = getattr(a, slot), getattr(b, slot)
        assert set(ours) == set(theirs)
        for name in theirs:
            if isinstance(theirs[name], pd.DataFrame):
                pd.testing.assert_frame_equal(ours[name], theirs[name], check_dtype=False)
            else:
                assert sparse.issparse(ours[name]) == sparse.issparse(theirs[name])
                np.testing.assert_array_equal(dense(ours[name]), dense(theirs[name]))
    np.testing.assert_array_equal(dense(a.X), dense(b.X))
    assert a.X.dtype == b.X.dtype
    pd.testing.assert_frame_equal(a.var, b.var)
    assert a.obs_names.equals(b.obs_names)


# The real cells.


def test_real_cells_keep_all_that_they_have(cells: AnnData, more: AnnData) -> None:
    real = more[~more.obs["scflow_synthetic"]].copy()
    same(real, cells)
    assert set(more.uns) == {*cells.uns, "scflow_augment"}
    np.testing.assert_array_equal(more.uns["colours"]["cell_type"], cells.uns["colours"]["cell_type"])
    for name in cells.obs:
        assert real.obs[name].tolist() == cells.obs[name].tolist()


def test_columns_keep_their_types_and_categories(cells: AnnData, more: AnnData) -> None:
    kept = ["cell_type", "stage", "batch", "score", "barcode", "day"]
    assert more.obs[kept].dtypes.equals(cells.obs[kept].dtypes)
    assert more.obs["stage"].cat.ordered
    assert str(more.obs["n_counts"].dtype) == "Int32"
    assert str(more.obs["doublet"].dtype) == "boolean"
    assert more.obs["scflow_synthetic"].dtype == bool
    assert list(more.obs) == [*cells.obs, "scflow_synthetic"]


def test_the_callers_cells_are_not_touched_with_a_flow(cells: AnnData, flow: Flow) -> None:
    x, before = cells.X, cells.copy()
    made = augment(cells, flow=flow, n_obs={"type_2": 5})
    assert cells.X is x
    same(cells, before)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert list(cells.uns) == list(before.uns)
    made.X.data[:] = 0
    made.varm["PCs"][:] = 0
    made.uns["colours"]["cell_type"][:] = ""
    same(cells, before)
    assert cells.uns["colours"]["cell_type"][0] == "#000000"


def test_without_a_flow_training_leaves_its_slots(cells: AnnData) -> None:
    before = cells.copy()
    made = augment(cells, target="balance", **QUICK)
    assert set(cells.uns) - set(before.uns) == {"scflow", "scflow_pp"}
    assert set(cells.var) - set(before.var) == {"scflow_mean", "scflow_sd", "scflow_dropout"}
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    again = augment(before, flow=cells, target="balance")
    np.testing.assert_array_equal(dense(made.X), dense(again.X))


def test_a_view_is_augmented_without_touching_its_parent(cells: AnnData, flow: Flow) -> None:
    before = cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", anndata.ImplicitModificationWarning)
        made = augment(cells[50:], flow=flow, n_obs={"type_2": 5})
    assert made.n_obs == 55
    same(cells, before)
    same(made[:50].copy(), cells[50:].copy())


# The synthetic ones.


def test_synthetic_cells_are_those_of_generate(more: AnnData, flow: Flow) -> None:
    new, theirs = more[more.obs["scflow_synthetic"]], drawn(flow, 25)
    np.testing.assert_array_equal(dense(new.X), dense(theirs.layers["counts"]))
    assert (new.obs["cell_type"] == "type_2").all()
    assert new.obs_names.tolist() == [f"scflow-{i}" for i in range(25)]
    assert new.X.sum() > 0


def test_what_they_cannot_have_is_missing(cells: AnnData, more: AnnData) -> None:
    new = more[more.obs["scflow_synthetic"]]
    assert new.obs[[c for c in cells.obs if c != "cell_type"]].isna().all(axis=None)
    assert np.isnan(new.obsm["X_pca"]).all()
    assert np.isnan(new.obsm["clusters"]).all()
    assert np.isnan(dense(new.obsm["peaks"])).all()
    assert new.obsm["table"].isna().all(axis=None)
    assert np.isnan(new.layers["scaled"]).all()
    assert more.obsp["distances"][100:].nnz == more.obsp["distances"][:, 100:].nnz == 0
    assert np.isnan(more.obsp["kernel"][100:]).all()
    assert np.isnan(more.obsp["kernel"][:, 100:]).all()


def test_provenance_says_what_they_were_drawn_from(more: AnnData, flow: Flow) -> None:
    facts = more.uns["scflow_augment"]
    assert (facts["key"], facts["generate_seed"], facts["n_cells"]) == ("cell_type", 0, 100)


def test_key_added_renames_every_slot(cells: AnnData) -> None:
    made = augment(cells, n_obs={"type_2": 2}, key_added="mine", **QUICK)
    assert {"mine", "mine_pp", "mine_augment"} <= set(made.uns)
    assert made.obs["mine_synthetic"].tolist() == [False] * 100 + [True] * 2
    assert made.obs_names[-1] == "mine-1"
    assert not any(name.startswith("scflow") for name in [*made.uns, *made.var, *made.obs])
    cells.uns["mine_pp"].clear()  # Its flow is all that is needed.
    again = augment(cells, flow=cells, n_obs={"type_2": 2}, key_added="mine")
    np.testing.assert_array_equal(dense(again.X), dense(made.X))


def test_names_that_are_taken_are_passed_over(cells: AnnData, flow: Flow) -> None:
    cells.obs_names = ["scflow-1", *cells.obs_names[1:]]
    cells.obsm["table"].index = cells.obs_names
    made = augment(cells, flow=flow, n_obs={"type_2": 3})
    assert made.obs_names[-3:].tolist() == ["scflow-0", "scflow-2", "scflow-3"]
    assert made.obs_names.is_unique


@pytest.mark.parametrize(
    ("asked", "added"),
    [
        ({"target": "balance"}, [53, 27, 0]),
        ({"target": 0.5}, [23, 0, 0]),
        ({"target": 1}, [53, 27, 0]),
        ({"target": 0.551}, [27, 1, 0]),
        ({"n_obs": {"type_1": 4, "type_0": 0}}, [0, 4, 0]),
        ({"n_obs": 100}, [7, 33, 60]),
        ({"n_obs": 10}, [1, 3, 6]),
    ],
)
def test_how_many_are_added(asked: dict[str, Any], added: list[int], cells: AnnData, flow: Flow) -> None:
    made = augment(cells, flow=flow, **asked)
    found = made.obs.loc[made.obs["scflow_synthetic"], "cell_type"].value_counts()
    assert [found[label] for label in ("type_2", "type_1", "type_0")] == added


def test_the_same_seed_gives_the_same_cells(cells: AnnData, more: AnnData, flow: Flow) -> None:
    before, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again, other = (augment(cells, flow=flow, n_obs={"type_2": 25}, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(dense(again.X), dense(more.X))
    assert not np.array_equal(dense(other.X), dense(more.X))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


def test_the_result_survives_a_file(more: AnnData, tmp_path: Path) -> None:
    made = more.copy()
    del made.obs["day"]  # h5ad has no dates.
    made.write_h5ad(tmp_path / "more.h5ad")
    back = anndata.read_h5ad(tmp_path / "more.h5ad")
    same(back, made)
    for name in set(made.obs) - {"barcode"}:
        assert back.obs[name].dtype == made.obs[name].dtype
        assert back.obs[name].isna().equals(made.obs[name].isna())
    assert back.obs["barcode"].isna().sum() == 25
    with pytest.raises(InputError, match="25 of 125 cells are not False"):
        augment(back, n_obs={"type_2": 5})


# Units.


@pytest.mark.parametrize("kind", ["csr", "csc", "csr_array", "dense"])
@pytest.mark.parametrize("target", [1e4, 500.0])
def test_log_normalised_values_stay_so(kind: str, target: float, cells: AnnData, flow: Flow) -> None:
    cells.layers["counts"] = cells.X.astype(np.int64)
    values = cells.X.astype(np.float64)
    values.data *= np.repeat(target / np.asarray(values.sum(axis=1)).ravel(), np.diff(values.indptr))
    cells.layers["normalised"] = values.astype(np.float32)
    logs = values.log1p().astype(np.float32)
    kinds = {"csr": logs, "csc": logs.tocsc(), "csr_array": sparse.csr_array(logs), "dense": logs.toarray()}
    cells.X = kinds[kind]
    made, theirs = augment(cells, flow=flow, n_obs={"type_2": 25}), drawn(flow, 25)
    same(made[:100].copy(), cells)
    new = made[100:]
    assert new.layers["counts"].dtype == np.int64
    np.testing.assert_array_equal(dense(new.layers["counts"]), dense(theirs.layers["counts"]))
    np.testing.assert_allclose(np.expm1(dense(new.X)).sum(axis=1), target, rtol=1e-4)
    np.testing.assert_allclose(dense(new.layers["normalised"]).sum(axis=1), target, rtol=1e-4)
    if target == 1e4:
        np.testing.assert_allclose(dense(new.X), dense(theirs.X), rtol=1e-5)


def test_after_dropping_genes_the_median_total_is_met(cells: AnnData) -> None:
    counts = sparse.csr_matrix(cells.X)
    logs = counts.astype(np.float64)
    logs.data = np.log1p(logs.data * np.repeat(1e4 / np.asarray(counts.sum(axis=1)).ravel(), np.diff(counts.indptr)))
    kept = np.arange(0, 30, 2)
    units = Units.of(sparse.csr_matrix(logs[:, kept]), sparse.csr_matrix(counts[:, kept]))
    assert units is not None
    assert units.name == "log1p"
    assert units.target == pytest.approx(np.median(np.expm1(logs[:, kept].toarray()).sum(axis=1)))


@pytest.mark.parametrize("change", ["scaled", "corrected", "other cells"])
def test_other_values_are_in_no_known_units(change: str, cells: AnnData) -> None:
    counts = sparse.csr_matrix(cells.X)
    values = {
        "scaled": (counts.toarray() - 1.0),
        "corrected": counts.multiply(np.linspace(1, 2, 30)).tocsr(),
        "other cells": counts[::-1],
    }
    assert Units.of(values[change], counts) is None


def test_a_count_too_large_for_the_type_widens_it(cells: AnnData, flow: Flow) -> None:
    cells.X = cells.X.minimum(3).astype(np.int8)
    many = drawn(flow, 25).layers["counts"] * 50
    made = scflow._anndata.joined(
        cells, many, pd.DataFrame(index=range(25)), scflow._anndata.read_units(cells, None), provenance={}
    )
    assert many.max() > 127
    np.testing.assert_array_equal(dense(made.X[100:]), dense(many))


def test_raw_is_kept_where_new_cells_can_have_it(cells: AnnData, flow: Flow) -> None:
    cells.raw = cells[:, 10:].copy()
    made = augment(cells, flow=flow, n_obs={"type_2": 5})
    np.testing.assert_array_equal(dense(made.raw.X), dense(made.X[:, 10:]))
    assert made.raw.var_names.equals(cells.raw.var_names)


def test_raw_of_more_genes_is_left_out_with_a_word(cells: AnnData, flow: Flow) -> None:
    cells.raw = cells
    few = cells[:, :20].copy()
    with pytest.warns(UserWarning, match=r"no \.raw: 10 of its 30 genes \('gene_20'.*stays in adata\.raw"):
        made = augment(few, flow=flow, n_obs={"type_2": 5})
    assert made.raw is None
    assert few.raw is not None
    np.testing.assert_array_equal(dense(made.X[100:]), dense(drawn(flow, 5).layers["counts"][:, :20]))


# Conditions.


@pytest.mark.parametrize("kind", ["int16", "uint8", "Int64", "float32", "object"])
def test_other_conditions_are_drawn_with_the_category(kind: str, cells: AnnData) -> None:
    cells.obs["age"] = pd.Series(np.where(cells.obs["cell_type"] == "type_2", 70, 30), cells.obs_names).astype(kind)
    two = scflow.tl.train(cells, condition=["cell_type", "age"], **QUICK)
    made = augment(cells, flow=two, n_obs={"type_2": 5})
    assert made.obs["age"].tolist()[100:] == [70] * 5
    assert made.obs["age"].dtype == cells.obs["age"].dtype


def test_a_condition_that_is_a_fraction_among_whole_numbers_makes_a_column_of_fractions() -> None:
    from scflow._anndata._joined import _table

    made = _table(pd.DataFrame({"age": [1, 2]}), pd.DataFrame({"age": [2.5]}))
    assert made["age"].tolist() == [1.0, 2.0, 2.5]
    assert made["age"].dtype == np.float64


def test_cells_without_counts_are_no_hindrance_with_a_flow(cells: AnnData, flow: Flow) -> None:
    cells.X.data[cells.X.indptr[3] : cells.X.indptr[4]] = 0
    made = augment(cells, flow=flow, n_obs={"type_2": 5})
    assert made.n_obs == 105
    with pytest.raises(InputError, match="1 of 100 cells have no counts"):
        augment(cells, n_obs={"type_2": 5})


@pytest.mark.parametrize("kind", ["text", "truth", "codes"])
def test_the_column_may_be_text_truth_values_or_categories_of_numbers(kind: str, cells: AnnData) -> None:
    text = cells.obs["cell_type"].astype(str)
    cells.obs["own"] = {
        "text": text.astype(object),
        "truth": text == "type_2",
        "codes": text.str[-1].astype(int).astype("category"),
    }[kind]
    label = {"text": "type_2", "truth": True, "codes": 2}[kind]
    made = augment(cells, "own", n_obs={label: 5}, **QUICK)
    assert made.obs["own"].dtype == cells.obs["own"].dtype
    assert made.obs["own"].tolist()[100:] == [label] * 5
    again = augment(made[:100].copy(), "own", flow=cells, n_obs={str(label): 5})  # As the shell gives it.
    np.testing.assert_array_equal(dense(again.X), dense(made.X))


def test_a_category_that_only_the_flow_knows_is_added(cells: AnnData, flow: Flow) -> None:
    cells = cells[cells.obs["cell_type"] != "type_2"].copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.remove_unused_categories()
    made = augment(cells, flow=flow, n_obs={"type_2": 5})
    assert made.obs["cell_type"].cat.categories.tolist() == ["type_1", "type_0", "type_2"]
    assert (made.obs["cell_type"] == "type_2").sum() == 5


# What is refused, before any work.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"target=None and n_obs=None were given, and exactly one of them"),
        ({"target": "balance", "n_obs": 5}, r"target='balance' and n_obs=5 were given.*n_obs=\{'type_2': 200\}"),
        ({"target": "balanc"}, r"target='balanc' is neither 'balance' nor a share.*Did you mean 'balance'"),
        ({"target": 1.5}, r"target=1\.5 is neither.*above 0 and at most 1"),
        ({"target": True}, r"target=True is neither"),
        ({"target": 0.1}, r"Nothing to add: target=0\.1 asks for no cells.*3 categories.*have 7 to 60"),
        ({"n_obs": {}}, r"Nothing to add: n_obs=\{\}"),
        ({"n_obs": {"type_1": 0}}, r"Nothing to add"),
        ({"n_obs": {"tpye_1": 5}}, r"1 of 1 categories asked for are not in obs\['cell_type'\].*mean 'type_1'"),
        ({"n_obs": {"unused": 5}}, r"not in obs\['cell_type'\] \('unused'\)"),
        ({"n_obs": {"type_1": -1}}, r"n_obs\['type_1'\]=-1 must be a whole number"),
        ({"n_obs": 0}, r"n_obs=0 must be a whole number"),
        ({"key": "cel_type", "n_obs": 5}, r"obs has no column 'cel_type'\. Did you mean 'cell_type'"),
        ({"key": "score", "n_obs": 5}, r"obs\['score'\] holds numbers \(100 different ones in 100 cells\)"),
        ({"n_obs": 5, "calibration": "balance"}, r"calibration='balance' is not known"),
        ({"n_obs": 5, "space": "count"}, r"space='count' is not known"),
        ({"n_obs": 5, "seed": -1}, r"seed=-1 must be"),
        ({"n_obs": 5, "layer": "count"}, r"no layer 'count'"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, Any], message: str, cells: AnnData) -> None:
    before = cells.copy()
    with pytest.raises(InputError, match=message):
        augment(cells, **options)
    same(cells, before)
    assert list(cells.uns) == list(before.uns)


def test_a_category_without_a_value_is_said(cells: AnnData) -> None:
    cells.obs.loc[cells.obs_names[:3], "cell_type"] = np.nan
    with pytest.raises(InputError, match=r"obs\['cell_type'\] has no value for 3 of 100 cells \(first: .*notna"):
        augment(cells, target="balance")


def test_values_that_new_cells_cannot_have_are_refused_in_x(cells: AnnData) -> None:
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.layers["scaled"]
    mends = r"adata\.X \[100 cells, 30 genes\] is no function of the counts in adata\.layers\['counts'\].*adata\.X = "
    with pytest.raises(InputError, match=mends):
        augment(cells, target="balance")


def test_a_flow_that_does_not_fit_is_refused(cells: AnnData, flow: Flow) -> None:
    with pytest.raises(InputError, match=r"no condition 'stage' with categories\..*It has 'cell_type'"):
        augment(cells, "stage", flow=flow, n_obs=5)
    with pytest.raises(InputError, match=r"Condition 'cell_type' has 1 unknown categories.*mean 'type_"):
        augment(cells, flow=flow, n_obs={"tpye_2": 5})
    with pytest.raises(InputError, match=r"steps=5 are about training, and flow=Flow\("):
        augment(cells, flow=flow, n_obs=5, steps=5)
    with pytest.raises(InputError, match=r"flow\.uns has no flow 'scflow'"):
        augment(cells, flow=cells, n_obs=5)
    cells.var_names = ["other", *cells.var_names[1:]]
    with pytest.raises(InputError, match=r"The flow lacks 1 of the 30 genes of adata \('other'\).*isin\(flow\.genes\)"):
        augment(cells, flow=flow, n_obs=5)
    own = scflow.tl.train(cells, use_rep="X_pca", condition="cell_type", **QUICK)
    with pytest.raises(InputError, match="lives in an embedding and draws no counts"):
        augment(cells, flow=own, n_obs=5)
