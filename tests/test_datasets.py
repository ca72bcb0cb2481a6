"""Datasets: real counts are whole and plausible; simulated cells follow the law that they are said to follow."""

from __future__ import annotations

import sys
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats

from scflow.datasets import pbmc68k, simulate
from scflow.errors import InputError

# ---------------------------------------------------------------------------------------------------- pbmc68k


def test_pbmc68k_is_whole_counts_in_csr(pbmc: AnnData) -> None:
    assert pbmc.shape == (700, 765)
    assert isinstance(pbmc.X, sparse.csr_matrix)
    assert pbmc.X.dtype == np.float32
    assert pbmc.X.has_sorted_indices
    np.testing.assert_array_equal(pbmc.X.data, np.rint(pbmc.X.data))
    assert (pbmc.X.data > 0).all()


def test_pbmc68k_smallest_count_is_one_in_every_cell(pbmc: AnnData) -> None:
    smallest = np.minimum.reduceat(pbmc.X.data, pbmc.X.indptr[:-1])
    np.testing.assert_array_equal(smallest, np.ones(700))


def test_pbmc68k_agrees_with_the_logarithms_it_was_made_from(pbmc: AnnData) -> None:
    import scanpy as sc

    source = sc.datasets.pbmc68k_reduced()
    log = pbmc.X.toarray() / pbmc.obs["n_counts"].to_numpy()[:, None] * 1e4
    # The file's logarithms have three decimals.
    np.testing.assert_allclose(np.log1p(log), source.raw.X.toarray(), atol=6e-4)


def test_pbmc68k_genes_hold_about_a_fifth_of_the_library(pbmc: AnnData) -> None:
    share = np.asarray(pbmc.X.sum(axis=1)).ravel() / pbmc.obs["n_counts"].to_numpy()
    assert 0.15 < share.mean() < 0.25
    assert (share < 1).all()
    np.testing.assert_array_equal(pbmc.obs["n_counts"], np.rint(pbmc.obs["n_counts"]))


def test_pbmc68k_has_ten_types_that_their_markers_agree_with(pbmc: AnnData) -> None:
    labels = pbmc.obs["cell_type"]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert labels.nunique() == len(labels.cat.categories) == len(pbmc.uns["cell_type_colors"]) == 10
    assert labels.value_counts()["Dendritic"] == 240
    for gene, cell_type in {"CD79A": "CD19+ B", "GNLY": "CD56+ NK", "S100A8": "CD14+ Monocyte"}.items():
        per_cell = pd.Series(pbmc[:, gene].X.toarray().ravel() / pbmc.obs["n_counts"].to_numpy(), index=pbmc.obs_names)
        assert per_cell.groupby(labels, observed=True).mean().idxmax() == cell_type


def test_pbmc68k_carries_nothing_else(pbmc: AnnData) -> None:
    assert list(pbmc.obs) == ["cell_type", "n_counts"]
    assert list(pbmc.var) == []
    assert list(pbmc.uns) == ["cell_type_colors"]
    assert not any(len(slot) for slot in (pbmc.layers, pbmc.obsm, pbmc.varm, pbmc.obsp))
    assert pbmc.raw is None
    assert pbmc.var_names.is_unique


def test_pbmc68k_takes_the_layer_of_counts_where_there_is_one(pbmc: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    import scanpy as sc

    source = sc.datasets.pbmc68k_reduced()
    source.layers["counts"] = sparse.csc_matrix(pbmc.X, dtype=np.int64)
    source.raw = None
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: source)
    again = pbmc68k()
    assert again.X.dtype == np.float32
    assert abs(again.X - pbmc.X).max() == 0


def test_pbmc68k_refuses_counts_that_are_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source = AnnData(np.zeros((2, 2), dtype=np.float32))
    source.obs["bulk_labels"], source.obs["n_counts"] = "a", 2.0
    source.layers["counts"] = sparse.csr_matrix([[1.0, 2.4], [0.0, np.nan]])
    monkeypatch.setattr("scanpy.datasets.pbmc68k_reduced", lambda: source)
    with pytest.raises(InputError, match=r"does not give whole counts: 2 of 3 entries .* pip install 'scanpy=="):
        pbmc68k()


# --------------------------------------------------------------------------------------------------- simulate

FLAT: dict[str, Any] = {"n_types": 1, "n_batches": 1, "n_programmes": 0, "library_sd": 0.0}


def conditional_mean(adata: AnnData) -> np.ndarray:
    """Mean of each count before dropout given all that the truth says of the cell, by the documented formula."""
    truth = adata.uns["truth"]
    loadings = truth["programme_loadings"]
    exponent = truth["batch_effects"][adata.obs["batch"].cat.codes]
    exponent = exponent + adata.obsm["truth_programmes"] @ loadings - (loadings**2).sum(axis=0) / 2
    profile = truth["profiles"][adata.obs["cell_type"].cat.codes]
    return adata.obs["truth_library_size"].to_numpy()[:, None] * profile * np.exp(exponent)


def test_simulated_marginals_are_negative_binomial() -> None:
    adata = simulate(5000, 20, **FLAT, dispersion=0.4)
    truth, counts = adata.uns["truth"], adata.X.toarray()
    mean = 2 * 20 * truth["profiles"][0]
    for gene in range(20):
        law = stats.nbinom(1 / truth["dispersion"][gene], 1 / (1 + mean[gene] * truth["dispersion"][gene]))
        edges = np.unique(law.ppf([0, 0.2, 0.4, 0.6, 0.8, 0.95, 1])).clip(-1, 1e9)
        seen, _ = np.histogram(counts[:, gene], bins=edges + 0.5)
        # 20 tests: a p-value of 1e-4 comes by chance in one run of 500, and the seed is fixed.
        assert stats.chisquare(seen, 5000 * np.diff(law.cdf(edges))).pvalue > 1e-4


def test_simulated_moments_are_those_of_the_truth() -> None:
    adata = simulate(4000, 100, 3, n_batches=3, dispersion=0.3, dropout=0.2, library_size=500)
    mean, truth, counts = conditional_mean(adata), adata.uns["truth"], adata.X.toarray()
    kept = 1 - truth["dropout"]
    expected = kept * mean
    variance = kept * (mean + truth["dispersion"] * mean**2) + kept * truth["dropout"] * mean**2
    z_mean = (counts - expected).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    assert np.abs(z_mean).max() < 4.5
    # Squared residuals have mean `variance`; pooled over genes their ratio is 1 up to sampling noise.
    assert ((counts - expected) ** 2).sum() / variance.sum() == pytest.approx(1, abs=0.03)


def test_simulated_without_dispersion_is_poisson() -> None:
    adata = simulate(4000, 50, **FLAT, dispersion=0.0)
    counts = adata.X.toarray()
    assert (counts.var(axis=0) / counts.mean(axis=0)).mean() == pytest.approx(1, abs=0.02)


def test_simulated_profiles_are_recovered_by_each_types_mean() -> None:
    adata = simulate(6000, 100, 3, batch_effect=0.0, library_size=1000)
    profiles = adata.uns["truth"]["profiles"]
    np.testing.assert_allclose(profiles.sum(axis=1), 1)
    for code, profile in enumerate(profiles):
        here = (adata.obs["cell_type"].cat.codes == code).to_numpy()
        seen = np.asarray(adata.X[here].sum(axis=0)).ravel() / adata.obs["truth_library_size"][here].sum()
        np.testing.assert_allclose(seen, profile, rtol=0.2)
        assert np.corrcoef(np.log(seen), np.log(profile))[0, 1] > 0.995
    spread = np.log(profiles / profiles.mean(axis=0)).std(axis=0)
    assert 0.02 < (spread > 0.3).mean() < 0.35  # a tenth of the genes marks each of three types


def test_simulated_batch_effect_is_recovered() -> None:
    adata = simulate(6000, 100, 2, n_batches=3, batch_effect=0.3, library_size=1000)
    effects, batch = adata.uns["truth"]["batch_effects"], adata.obs["batch"].cat.codes.to_numpy()
    np.testing.assert_array_equal(effects[0], 0)
    totals = [
        np.asarray(adata.X[here].sum(axis=0)).ravel() / adata.obs["truth_library_size"].to_numpy()[here].sum()
        for here in (batch == 0, batch == 1, batch == 2)
    ]
    for b in (1, 2):
        seen = np.log(totals[b] / totals[0])
        assert np.corrcoef(seen, effects[b])[0, 1] > 0.95
        assert np.polyfit(effects[b], seen, 1)[0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("n_programmes", [0, 3])
def test_programmes_give_genes_of_one_type_their_covariance(n_programmes: int) -> None:
    adata = simulate(20_000, 40, **FLAT | {"n_programmes": n_programmes}, library_size=4000)
    mean, loadings = 4000 * adata.uns["truth"]["profiles"][0], adata.uns["truth"]["programme_loadings"]
    # Of a log-normal: E[x y] / (E[x] E[y]) = exp(w_x . w_y); the counts' own noise is independent and drops out.
    pairs = np.triu_indices(40, 1)
    expected = np.expm1(loadings.T @ loadings)[pairs]
    seen = (np.cov(adata.X.toarray().T) / np.outer(mean, mean))[pairs]
    assert np.sqrt(np.mean((seen - expected) ** 2)) < 0.02
    if n_programmes:
        assert expected.std() > 0.05
        assert np.corrcoef(seen, expected)[0, 1] > 0.97


def test_dropout_is_the_asked_rate_at_the_median_gene_and_higher_below() -> None:
    truth = simulate(10, 501, 1, dropout=0.3).uns["truth"]
    order = np.argsort(truth["profiles"][0])
    assert truth["dropout"][order[250]] == pytest.approx(0.3)
    assert (np.diff(truth["dropout"][order]) < 0).all()


def test_library_sizes_are_log_normal_and_types_have_their_shares() -> None:
    adata = simulate(5000, 10, 3, library_size=700, library_sd=0.4, proportions=[6, 3, 1])
    log = np.log(adata.obs["truth_library_size"])
    assert np.exp(log.median()) == pytest.approx(700, rel=0.03)
    assert log.std() == pytest.approx(0.4, rel=0.05)
    assert stats.kstest((log - np.log(700)) / 0.4, "norm").pvalue > 1e-3
    np.testing.assert_allclose(adata.uns["truth"]["proportions"], [0.6, 0.3, 0.1])
    seen = adata.obs["cell_type"].value_counts(normalize=True, sort=False)
    np.testing.assert_allclose(seen, [0.6, 0.3, 0.1], atol=0.03)
    assert list(adata.obs["cell_type"].cat.categories) == ["type_0", "type_1", "type_2"]


def test_sparse_setting_fills_about_five_percent() -> None:
    adata = simulate(500, 1000, library_size=0.056 * 1000)
    assert 0.035 < adata.X.nnz / (500 * 1000) < 0.065


def test_seed_fixes_the_cells_and_leaves_global_states_alone() -> None:
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    one, two, other = simulate(300, 40, seed=5), simulate(300, 40, seed=5), simulate(300, 40, seed=6)
    assert abs(one.X - two.X).max() == 0
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert abs(one.X - other.X).max() > 0
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())


def test_blocks_of_rows_make_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    # By way of sys.modules: the attribute of that name is the function.
    monkeypatch.setattr(sys.modules["scflow.datasets.simulate"], "_BLOCK", 7 * 30)
    adata = simulate(100, 30, dropout=0.1)
    assert adata.X.shape == (100, 30)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert np.corrcoef(np.asarray(adata.X.sum(axis=1)).ravel(), adata.obs["truth_library_size"])[0, 1] > 0.6


def test_simulated_cells_survive_a_file(simulated: AnnData, tmp_path: Any) -> None:
    simulated.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    for key, value in simulated.uns["truth"].items():
        np.testing.assert_array_equal(again.uns["truth"][key], value)
    assert abs(again.X - simulated.X).max() == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_cells": 0}, r"n_cells is 0; a whole number from 1 up"),
        ({"n_genes": 2.5}, r"n_genes is 2\.5; a whole number from 1 up"),
        ({"n_programmes": -1}, r"n_programmes is -1; a whole number from 0 up"),
        ({"dispersion": -0.1}, r"dispersion is -0\.1; a finite number from 0 up is expected, and dispersion=0"),
        ({"batch_effect": float("nan")}, r"batch_effect is nan; a finite number"),
        ({"dropout": 1.0}, r"dropout is 1\.0; a rate from 0 to below 1 .* dropout=0\.1"),
        ({"library_size": 0}, r"library_size is 0.*; a number above 0"),
        ({"proportions": [1, 2, 3]}, r"proportions has 3 values for 4 types; set n_types=3"),
        ({"proportions": [1, 2, -3, 4]}, r"proportions is \[1\.0, 2\.0, -3\.0, 4\.0\]; finite shares from 0 up"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        simulate(**{"n_cells": 10, "n_genes": 10, **wrong})
