"""`tl.score` gives good generators the floor and bad ones none, and leaves its table where it says."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.spatial.distance import cdist

import scflow
from scflow.errors import InputError
from scflow.metrics import METRICS, PRESETS, classifiers

COLUMNS = ["condition", "metric", "value", "floor", "trivial", "distance", "ratio", "low", "high"]
DEFAULT = [
    "wasserstein",
    "mmd",
    "energy",
    "forest_auc_genes",
    "forest_auc_components",
    "gene_means",
    "gene_variances",
    "zero_fractions",
    "gene_correlation",
    "library_size_ks",
    "detected_genes_ks",
    "precision",
    "recall",
    "density",
    "coverage",
    "dropout_curve",
    "label_accuracy",
    "fold_change_slope",
    "copying",
    "duplicates",
]
QUICK = ["mmd", "energy", "gene_variances", "zero_fractions", "logistic_auc_genes"]

Triple = tuple[AnnData, AnnData, AnnData]


@pytest.fixture(scope="module")
def _cells() -> Triple:
    """Training, held-out and further real cells of one law."""
    adata = scflow.datasets.simulate(1600, 50, 3, n_batches=2, programme_effect=0.7, dispersion=0.4, seed=3)
    train, rest = scflow.pp.split(adata, stratify="cell_type")
    held_out, new = scflow.pp.split(rest, stratify="cell_type")
    return train, held_out, new


@pytest.fixture
def cells(_cells: Triple) -> Triple:
    train, held_out, new = (adata.copy() for adata in _cells)
    return train, held_out, new


def overall(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["condition"] == "all"].set_index("metric")


def test_signature_is_the_public_one() -> None:
    signature = inspect.signature(scflow.tl.score)
    defaults = {name: p.default for name, p in signature.parameters.items() if p.default is not inspect.Parameter.empty}
    assert list(signature.parameters)[:2] == ["real", "generated"]
    expected = {"reference": None, "condition": "auto", "metrics": "default", "preset": None, "layer": None, "seed": 0}
    assert defaults == expected
    assert all(signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in expected)


def test_new_cells_of_the_same_law_score_the_floor_where_trivial_ones_do_not(
    cells: Triple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "_TREES", 25)
    train, held_out, new = cells
    before = (train.copy(), held_out.copy())
    table = scflow.tl.score(held_out, new, reference=train, condition="cell_type")
    assert list(table.columns) == COLUMNS
    assert table["condition"].unique().tolist() == ["all", "type_0", "type_1", "type_2"]
    found = overall(table)
    assert found.index.tolist() == DEFAULT
    assert found.loc[["forest_auc_genes", "forest_auc_components"], "value"].between(0.42, 0.58).all()
    assert (found.loc[["forest_auc_genes", "forest_auc_components"], "trivial"] > 0.75).all()
    for metric in ("mmd", "energy", "gene_means", "gene_variances", "zero_fractions", "detected_genes_ks"):
        row = found.loc[metric]
        assert row["low"] <= row["floor"] <= row["high"], metric
        assert abs(row["distance"]) < 0.25 * abs(row["trivial"] - row["floor"]), metric
    pd.testing.assert_series_equal(table["distance"], table["value"] - table["floor"], check_names=False)
    no_ratio = table["metric"].isin(["mmd", "energy", "forest_auc_genes", "forest_auc_components", "duplicates"])
    assert found.loc["copying", "low"] < found.loc["copying", "floor"] < found.loc["copying", "high"]
    assert found.loc[["precision", "recall", "coverage"], "distance"].abs().max() < 0.1
    # Of 50 genes all take part, and noise in the real changes flattens both slopes.
    assert abs(found.loc["fold_change_slope", "distance"]) < 0.15
    assert found.loc["duplicates", "value"] == 0
    assert table.loc[no_ratio, "ratio"].isna().all()
    np.testing.assert_allclose(table.loc[~no_ratio, "ratio"], (table["value"] / table["floor"])[~no_ratio])
    for mine, was in zip((train, held_out), before, strict=True):
        assert mine.uns.keys() == was.uns.keys()
        assert (mine.X != was.X).nnz == 0


def test_bootstrapped_training_cells_score_near_the_floor(cells: Triple) -> None:
    train, held_out, _ = cells
    picks = np.random.default_rng(0).choice(train.n_obs, 400)
    copies = AnnData(
        train.X[picks], obs=train.obs.iloc[picks].set_axis([f"copy_{i}" for i in range(400)]), var=train.var
    )
    table = scflow.tl.score(held_out, copies, reference=train, condition="cell_type", metrics=QUICK)
    found = overall(table)
    assert (found["distance"] < 0.25 * (found["trivial"] - found["floor"])).all()


def test_denoised_cells_fail_although_transport_calls_them_nearer_than_real_ones(cells: Triple) -> None:
    train, held_out, new = cells
    real = train.X.toarray()
    nearest = np.argsort(cdist(np.log1p(new.X.toarray()), np.log1p(real)), axis=1)[:, :10]
    fake = AnnData(sparse.csr_matrix(np.rint(real[nearest].mean(axis=1))), obs=new.obs, var=new.var)
    metrics = [*QUICK, "wasserstein"]
    found = overall(scflow.tl.score(held_out, fake, reference=train, condition="cell_type", metrics=metrics))
    for metric in QUICK:
        assert found.loc[metric, "low"] > found.loc[metric, "floor"], metric
        assert found.loc[metric, "value"] > found.loc[metric, "trivial"], metric
    assert found.loc["logistic_auc_genes", "value"] > 0.95
    assert found.loc["wasserstein", "value"] < found.loc["wasserstein", "floor"]
    assert found.loc["wasserstein", "distance"] < 0


def judged(real: AnnData, generated: AnnData, reference: AnnData, metrics: list[str]) -> pd.DataFrame:
    return overall(scflow.tl.score(real, generated, reference=reference, condition="cell_type", metrics=metrics))


def test_copied_training_cells_fail_by_copying_and_duplicates_and_only_by_them(cells: Triple) -> None:
    train, held_out, _ = cells
    copies = train[np.random.default_rng(0).permutation(train.n_obs)[:400]].copy()
    others = ["precision", "recall", "density", "coverage", "dropout_curve", "mmd", "energy"]
    found = judged(held_out, copies, train, [*others, "copying", "duplicates"])
    assert found.loc["copying", "value"] == 0
    assert found.loc["duplicates", "value"] == 1
    assert found.loc["duplicates", "floor"] == 0
    assert found.loc["copying", "floor"] > 0.7
    for metric in others:
        row = found.loc[metric]
        reach = max(row["high"] - row["value"], row["value"] - row["low"])
        assert abs(row["distance"]) < 1.5 * reach + 0.02, metric


def test_dropped_modes_fail_by_recall_and_coverage() -> None:
    adata = scflow.datasets.simulate(1600, 50, 3, type_effect=3.0, seed=3)
    train, rest = scflow.pp.split(adata, stratify="cell_type")
    held_out, new = scflow.pp.split(rest, stratify="cell_type")
    # The labels are kept, so that only a look at the cells tells that types are missing.
    pool = np.flatnonzero(new.obs["cell_type"] == "type_2")
    rows = np.random.default_rng(0).choice(pool, new.n_obs)
    dropped = AnnData(new.X[rows], obs=new.obs, var=new.var)
    found = judged(held_out, dropped, train, ["precision", "recall", "coverage", "label_accuracy"])
    for metric in ("recall", "coverage", "label_accuracy"):
        assert found.loc[metric, "high"] < found.loc[metric, "floor"], metric
    assert found.loc["precision", "distance"] > -0.1


def test_denoised_cells_fail_by_dropout_recall_and_density(cells: Triple) -> None:
    train, held_out, new = cells
    real = train.X.toarray()
    nearest = np.argsort(cdist(np.log1p(new.X.toarray()), np.log1p(real)), axis=1)[:, :10]
    fake = AnnData(sparse.csr_matrix(np.rint(real[nearest].mean(axis=1))), obs=new.obs, var=new.var)
    found = judged(held_out, fake, train, ["precision", "recall", "density", "coverage", "dropout_curve"])
    assert found.loc["precision", "value"] >= found.loc["precision", "floor"]
    assert found.loc["recall", "high"] < found.loc["recall", "floor"]
    assert found.loc["density", "low"] > found.loc["density", "floor"]
    assert found.loc["dropout_curve", "low"] > found.loc["dropout_curve", "floor"]


def test_labels_are_in_the_table_only_where_there_are_labels(cells: Triple) -> None:
    train, held_out, new = cells
    names = ["label_accuracy", "mmd", "train_on_synthetic"]
    with_labels = scflow.tl.score(held_out, new, reference=train, condition="cell_type", metrics=names)
    assert with_labels["metric"].unique().tolist() == names
    without = scflow.tl.score(held_out, new, reference=train, condition=None, metrics=names)
    assert without["metric"].tolist() == ["mmd"]


@pytest.mark.parametrize("preset", ["cfgen", "scdiffusion"])
def test_presets_have_the_same_columns_and_tell_bad_cells(
    cells: Triple, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scflow.metrics.presets._TREES", 50)
    train, held_out, new = cells
    table = scflow.tl.score(held_out, new, reference=train, condition="cell_type", preset=preset)
    assert list(table.columns) == COLUMNS
    assert table["metric"].unique().tolist() == list(PRESETS[preset].figures)
    assert table["condition"].unique().tolist() == ["all", "type_0", "type_1", "type_2"]
    assert np.isfinite(table[["value", "floor", "trivial"]]).all(axis=None)
    assert table[["low", "high"]].isna().all(axis=None)
    found = overall(table)
    for name, figure in PRESETS[preset].figures.items():
        row = found.loc[name]
        assert abs(row["distance"]) < 0.6 * abs(row["trivial"] - row["floor"]) + 0.02, name
        if name in ("cfgen_mmd", "scdiffusion_forest_auc", "scdiffusion_lisi", "scdiffusion_mmd"):
            worse = row["trivial"] - row["floor"]
            assert worse < 0 if figure.better == "more" else worse > 0, name


def test_table_is_left_in_the_slot_and_survives_a_file(cells: Triple, tmp_path: Path) -> None:
    train, held_out, new = cells
    table = scflow.tl.score(held_out, new, reference=train, condition="cell_type", metrics=["mmd", "gene_means"])
    pd.testing.assert_frame_equal(new.uns["scflow_score"], table)
    new.write_h5ad(tmp_path / "new.h5ad")
    back = anndata.read_h5ad(tmp_path / "new.h5ad").uns["scflow_score"]
    pd.testing.assert_frame_equal(back, table, check_dtype=False, check_index_type=False, check_column_type=False)
    # The table returned is the caller's own.
    table["value"] = 0.0
    assert not (new.uns["scflow_score"]["value"] == 0).any()


def test_same_seed_same_table_and_a_view_is_taken(cells: Triple) -> None:
    train, held_out, new = cells
    options = {"reference": train, "condition": None, "metrics": ["mmd", "energy"]}
    first = scflow.tl.score(held_out, new, **options)
    view = new[:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = scflow.tl.score(held_out, view, **options)
    pd.testing.assert_frame_equal(first, again)
    assert "scflow_score" in view.uns
    other = scflow.tl.score(held_out, new, **options, seed=1)
    assert not np.allclose(first["value"], other["value"])


def test_genes_are_matched_by_name_and_further_ones_dropped(cells: Triple) -> None:
    train, held_out, new = cells
    order = np.random.default_rng(0).permutation(new.n_vars)
    real = held_out[:, 5:].copy()
    options = {"condition": None, "metrics": ["gene_means", "library_size_ks"]}
    plain = scflow.tl.score(real, new[:, 5:].copy(), reference=train[:, 5:].copy(), **options)
    mixed = scflow.tl.score(real, new[:, order].copy(), reference=train[:, order[::-1]].copy(), **options)
    pd.testing.assert_frame_equal(plain, mixed)


def test_counts_come_from_the_layer_where_x_holds_logarithms(cells: Triple) -> None:
    train, held_out, new = cells
    options = {"reference": train, "condition": None, "metrics": ["gene_means"]}
    plain = scflow.tl.score(held_out, new, **options)
    drawn = new.copy()
    drawn.layers["counts"] = drawn.X.copy()
    drawn.X = np.log1p(drawn.X)
    pd.testing.assert_frame_equal(scflow.tl.score(held_out, drawn, **options), plain)
    held_out.layers["raw"] = held_out.X.copy()
    held_out.X = np.log1p(held_out.X)
    pd.testing.assert_frame_equal(scflow.tl.score(held_out, drawn, **options, layer="raw"), plain)


def test_auto_compares_within_the_conditions_that_the_cells_were_drawn_with(cells: Triple) -> None:
    train, held_out, new = cells
    options = {"reference": train, "metrics": ["gene_means"]}
    assert scflow.tl.score(held_out, new, **options)["condition"].tolist() == ["all"]
    for adata in cells:
        adata.obs["age"] = np.linspace(0, 1, adata.n_obs)
    names = ["cell_type", "batch", "age"]
    new.uns["scflow"] = {"provenance": {"condition": np.array(names, dtype=object), "seed": 0}}
    found = scflow.tl.score(held_out, new, **options)["condition"].tolist()
    # Numbers are no categories, and several columns are taken in combination.
    assert found == ["all"] + [f"type_{i}, batch_{j}" for i in range(3) for j in range(2)]
    del held_out.obs["batch"]
    with pytest.raises(InputError, match=r"real.obs has no column 'batch', a condition that the generated cells were"):
        scflow.tl.score(held_out, new, **options)
    assert scflow.tl.score(held_out, new, **options, condition=None)["condition"].tolist() == ["all"]


def test_warnings_say_what_the_table_lacks(cells: Triple) -> None:
    train, held_out, new = cells
    with pytest.warns(UserWarning, match=r"No reference was given: half of the 400 real cells are set aside"):
        table = scflow.tl.score(held_out, new, metrics="gene_means", condition=None)
    assert len(table) == 1
    few = new[(new.obs["cell_type"] != "type_0").to_numpy()]
    kept = [np.flatnonzero(few.obs["cell_type"] == name)[:n] for name, n in (("type_1", 100), ("type_2", 15))]
    few = few[np.concatenate(kept)].copy()
    with pytest.warns(UserWarning, match="conditions") as caught:
        table = scflow.tl.score(held_out, few, reference=train, metrics="gene_means", condition="cell_type")
    texts = [str(w.message) for w in caught]
    n = int((held_out.obs["cell_type"] == "type_0").sum())
    assert f"1 of 3 conditions ({n} cells) have no generated cells and are left out: 'type_0'." in texts
    assert any("1 of 2 conditions have fewer than 20 cells a side and no rows" in text for text in texts)
    assert table["condition"].tolist() == ["all", "type_1"]
    # The warning points at the line that called.
    assert {Path(w.filename).name for w in caught} == {"test_score.py"}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("", {"metrics": "wassersteins"}, r"no metric 'wassersteins'. Did you mean 'wasserstein'.*'gene_means'"),
        ("", {"metrics": []}, r"metrics=\[\] names no metric"),
        ("", {"condition": "cel_type"}, r"real.obs has no column 'cel_type'. Did you mean 'cell_type'"),
        ("", {"condition": "truth_library_size"}, r"'truth_library_size' holds numbers in obs.*astype\('category'\)"),
        ("", {"layer": "count"}, r"None of real, generated, reference has a layer 'count'.*leave layer=None"),
        ("", {"metrics": "label_accuracy"}, r"All of the metrics 'label_accuracy' compare labels"),
        ("", {"metrics": "default", "preset": "cfgn"}, r"no preset 'cfgn'. Did you mean 'cfgen'.*preset=None"),
        ("", {"preset": "cfgen"}, r"preset='cfgen' has metrics of its own, and metrics=\['mmd'\] were named"),
        ("genes", {}, r"generated lacks 20 of the 50 genes of real \(.*real\[:, real.var_names.isin\(generated.var_na"),
        ("logs", {}, r"generated.X holds \d+ values that are not counts: \d+ not whole numbers"),
        ("few", {}, r"and 10 generated cells leave 10 cells a side .* Expected at least 20"),
        ("path", {}, r"generated is a str, not an AnnData. Read the file first"),
    ],
)
def test_errors_say_what_was_found_and_what_mends_it(
    cells: Triple, change: str, options: dict[str, object], message: str
) -> None:
    train, held_out, new = cells
    given: object = new
    if change == "genes":
        given = new[:, 20:].copy()
    elif change == "logs":
        new.X = np.log1p(new.X)
    elif change == "few":
        given = new[:10].copy()
    elif change == "path":
        given = "new.h5ad"
    with pytest.raises(InputError, match=message):
        scflow.tl.score(held_out, given, **{"reference": train, "condition": None, "metrics": ["mmd"]} | options)  # type: ignore[arg-type]


def test_docstring_names_every_metric() -> None:
    for preset in PRESETS.values():
        for name in preset.figures:
            assert f"`{name}`" in str(scflow.tl.score.__doc__)
    for metric in METRICS:
        assert f"    {metric} " in str(scflow.tl.score.__doc__)
