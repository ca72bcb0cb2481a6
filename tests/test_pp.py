"""Preprocessing: statistics against dense float64 arithmetic, and splits whose shares are counted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scflow
from scflow import _anndata
from scflow.codecs.statistics import gene_statistics, library_sizes, row_chunks, standardized
from scflow.errors import InputError

N_CELLS, N_GENES = 60, 20


def counts_of_all_kinds() -> np.ndarray:
    """Genes that are rare, common, never there, and the same in every cell; library sizes beyond a uint8."""
    generator = np.random.default_rng(0)
    counts = generator.negative_binomial(2, 0.1, (N_CELLS, N_GENES)) * (generator.random((N_CELLS, N_GENES)) > 0.4)
    counts[:, 0], counts[:, 1], counts[:, 2] = 0, 0, 7
    counts[11, 1] = 1
    return np.minimum(counts, 255)


def dense_statistics(counts: np.ndarray, target_sum: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = counts.astype(np.float64).sum(axis=1, keepdims=True)
    logs = np.log1p(counts / np.where(sizes > 0, sizes, 1) * target_sum)
    return logs.mean(axis=0), logs.std(axis=0), (counts == 0).mean(axis=0)


CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": lambda c: sparse.csr_matrix(c.astype(np.float32)),
    "csr_uint8": lambda c: sparse.csr_matrix(c.astype(np.uint8)),
    "csr_int16": lambda c: sparse.csr_matrix(c.astype(np.int16)),
    "csr_array": lambda c: sparse.csr_array(c.astype(np.float64)),
    "csc": lambda c: sparse.csc_matrix(c.astype(np.float32)),
    "csc_array_int": lambda c: sparse.csc_array(c.astype(np.int64)),
    "dense": lambda c: c.astype(np.float32),
    "dense_uint8": lambda c: c.astype(np.uint8),
    "dense_float16": lambda c: c.astype(np.float16),
}


# Statistics.


@pytest.mark.parametrize("kind", CONTAINERS)
def test_statistics_are_those_of_dense_float64(kind: str) -> None:
    counts = counts_of_all_kinds()
    adata = AnnData(CONTAINERS[kind](counts))
    assert scflow.pp.log1p_standardize(adata) is None
    mean, sd, dropout = dense_statistics(counts, 1e4)
    np.testing.assert_allclose(adata.var["scflow_mean"], mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(adata.var["scflow_sd"], sd, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(adata.var["scflow_dropout"], dropout, rtol=1e-10, atol=1e-10)
    assert adata.var["scflow_sd"].dtype == np.float64
    assert adata.uns["scflow_pp"] == {"target_sum": 1e4, "clip": 10.0, "n_cells": N_CELLS, "n_genes": N_GENES}


@pytest.mark.parametrize("chunk", [1, 50, 333, 10**9])
def test_statistics_do_not_depend_on_the_chunks(chunk: int) -> None:
    counts = counts_of_all_kinds()
    counts[13] = 0
    found = gene_statistics(sparse.csr_matrix(counts.astype(np.float32)), 1e4, chunk=chunk)
    for mine, theirs in zip((found.mean, found.sd, found.dropout), dense_statistics(counts, 1e4), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_large_mean_does_not_hide_a_small_variance() -> None:
    """Sums of squares lose all digits here; the merged update keeps them."""
    counts = np.full((1000, 2), 50_000_000, dtype=np.int64)
    counts[::2, 0] += 1
    found = gene_statistics(sparse.csr_matrix(counts.astype(np.float64)), 1e8, chunk=100)
    _, sd, _ = dense_statistics(counts, 1e8)
    np.testing.assert_allclose(found.sd, sd, rtol=1e-5)


def test_stored_zeros_are_zeros() -> None:
    counts = sparse.csr_matrix(np.array([[1.0, 2.0], [3.0, 4.0]]))
    counts.data[1] = 0
    found = gene_statistics(counts, 1e4)
    assert found.dropout.tolist() == [0.0, 0.5]
    assert found.mean[1] == pytest.approx(np.log1p(4 / 7 * 1e4) / 2)


def test_target_sum_median() -> None:
    counts = counts_of_all_kinds()
    adata = AnnData(counts.astype(np.float32))
    scflow.pp.log1p_standardize(adata, target_sum="median")
    median = float(np.median(counts.sum(axis=1)))
    assert adata.uns["scflow_pp"]["target_sum"] == median
    np.testing.assert_allclose(adata.var["scflow_mean"], dense_statistics(counts, median)[0], rtol=1e-10)


def test_library_sizes_do_not_wrap_or_round() -> None:
    wide = sparse.csr_matrix(np.full((3, 100), 200, dtype=np.uint8))
    assert library_sizes(wide).tolist() == [20_000.0] * 3
    large = sparse.csr_matrix(np.array([[2**24, 1, 1], [0, 0, 0]], dtype=np.float32))
    assert library_sizes(large).tolist() == [2**24 + 2, 0]


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_row_chunks_cover_every_row_once(chunk: int) -> None:
    counts = sparse.random(50, 30, density=0.1, format="csr", random_state=0)
    chunks = list(row_chunks(counts, chunk))
    assert [row for start, stop in chunks for row in range(start, stop)] == list(range(50))
    for start, stop in chunks:
        assert stop == start + 1 or counts.indptr[stop] - counts.indptr[start] <= chunk


def test_statistics_are_never_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    n_cells, n_genes = 3000, 4000
    matrix = sparse.random(n_cells, n_genes, density=0.01, format="csr", random_state=0, dtype=np.float32)
    matrix.data = np.ceil(matrix.data * 5)
    adata = AnnData(matrix)
    for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix):
        monkeypatch.setattr(kind, "toarray", lambda *_, **__: pytest.fail("a dense matrix was made"))
    tracemalloc.start()
    scflow.pp.log1p_standardize(adata)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n_cells * n_genes * 4 / 4


# What is written, and what is left alone.


def test_only_the_documented_slots_change() -> None:
    counts = sparse.csr_matrix(counts_of_all_kinds().astype(np.float32))
    adata = AnnData(counts.copy(), layers={"log": counts * 0.5})
    scflow.pp.log1p_standardize(adata)
    assert sorted(adata.var) == ["scflow_dropout", "scflow_mean", "scflow_sd"]
    assert list(adata.uns) == ["scflow_pp"]
    # Newer versions of anndata list X among the layers, as None.
    assert [name for name in adata.layers if name is not None] == ["log"]
    np.testing.assert_array_equal(adata.X.toarray(), counts.toarray())
    assert not len(adata.obs.columns)


def test_copy_leaves_the_original() -> None:
    adata = AnnData(counts_of_all_kinds().astype(np.float32))
    copy = scflow.pp.log1p_standardize(adata, copy=True)
    assert isinstance(copy, AnnData)
    assert "scflow_mean" in copy.var
    assert not len(adata.var.columns)
    assert not adata.uns


@pytest.mark.filterwarnings("error::anndata.ImplicitModificationWarning")
def test_a_view_becomes_a_copy_and_its_parent_stays() -> None:
    counts = counts_of_all_kinds()
    parent = AnnData(counts.astype(np.float32))
    view = parent[:30]
    scflow.pp.log1p_standardize(view)
    np.testing.assert_allclose(view.var["scflow_mean"], dense_statistics(counts[:30], 1e4)[0], rtol=1e-10)
    assert not len(parent.var.columns)
    assert parent.n_obs == N_CELLS


def test_counts_from_a_layer_and_slots_of_another_name(tmp_path: Path) -> None:
    counts = counts_of_all_kinds()
    adata = AnnData(counts * 0.5, layers={"counts": sparse.csr_matrix(counts)})
    scflow.pp.log1p_standardize(adata, clip=np.float32(5), key_added="mine")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    found = _anndata.read_preprocessing(back, "mine")
    assert found is not None
    assert (found.layer, found.clip, found.n_cells, found.statistics.target_sum) == ("counts", 5.0, N_CELLS, 1e4)
    np.testing.assert_array_equal(found.statistics.mean, adata.var["mine_mean"])
    np.testing.assert_allclose(found.statistics.sd, dense_statistics(counts, 1e4)[1], rtol=1e-10, atol=1e-10)
    assert _anndata.read_preprocessing(back) is None


def test_a_subset_does_not_inherit_statistics() -> None:
    adata = AnnData(counts_of_all_kinds().astype(np.float32))
    scflow.pp.log1p_standardize(adata)
    assert _anndata.read_preprocessing(adata) is not None
    assert _anndata.read_preprocessing(adata[:30]) is None
    assert _anndata.read_preprocessing(adata[:, :5]) is None


def test_slots_that_are_half_there() -> None:
    adata = AnnData(counts_of_all_kinds().astype(np.float32))
    scflow.pp.log1p_standardize(adata)
    del adata.var["scflow_sd"]
    with pytest.raises(
        InputError, match=r"adata\.var lacks 1 of its 3 columns: 'scflow_sd'\. Write them anew: scflow\.pp"
    ):
        _anndata.read_preprocessing(adata)


@pytest.mark.parametrize("clip", [10.0, 2.0, float("inf")])
def test_standardised_layer(clip: float) -> None:
    counts = counts_of_all_kinds()
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    scflow.pp.log1p_standardize(adata, write_layer=True, clip=clip)
    layer = adata.layers["scflow_standardized"]
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    mean, sd, _ = dense_statistics(counts, 1e4)
    expected = np.clip((logs - mean) / (sd + 1e-8), -clip, clip)
    assert isinstance(layer, np.ndarray)
    assert layer.dtype == np.float32
    assert np.isfinite(layer).all()
    np.testing.assert_allclose(layer, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer[:, 3:].mean(axis=0), expected[:, 3:].mean(axis=0), atol=1e-6)
    assert (layer[:, 0] == 0).all()
    # A gene in one cell of 60 stands at about sqrt(60) where nothing is cut.
    assert layer[11, 1] == pytest.approx(min(clip, np.sqrt(N_CELLS - 1)), rel=1e-3)


def test_standardised_layer_does_not_depend_on_the_chunks() -> None:
    counts = sparse.csr_matrix(counts_of_all_kinds().astype(np.float32))
    statistics = gene_statistics(counts, 1e4)
    np.testing.assert_array_equal(standardized(counts, statistics), standardized(counts, statistics, chunk=50))


@pytest.mark.parametrize("clip", [0, -1.0, np.nan, None, "10"])
def test_clip_that_cannot_be(clip: Any) -> None:
    with pytest.raises(
        InputError, match=r"clip=.* is no positive number\. Give one, such as clip=10, or float\('inf'\)"
    ):
        scflow.pp.log1p_standardize(AnnData(counts_of_all_kinds().astype(np.float32)), clip=clip)


@pytest.mark.parametrize("target_sum", [0, -1.0, np.inf, np.nan, "mean"])
def test_target_sum_that_cannot_be(target_sum: Any) -> None:
    adata = AnnData(counts_of_all_kinds().astype(np.float32))
    with pytest.raises(
        InputError, match=r"is neither a positive number of counts per cell nor 'median'\. Use target_sum=1e4"
    ):
        scflow.pp.log1p_standardize(adata, target_sum=target_sum)
    assert not len(adata.var.columns)


def test_no_cells_have_no_statistics() -> None:
    with pytest.raises(InputError, match="at least one cell; counts has 0 rows"):
        gene_statistics(sparse.csr_matrix((0, 3)))


def test_values_that_are_no_counts() -> None:
    with pytest.raises(InputError, match="that are not counts"):
        scflow.pp.log1p_standardize(AnnData(counts_of_all_kinds() * 0.5))
    with pytest.raises(InputError, match=r"There is no 'cells\.h5ad'"):
        scflow.pp.log1p_standardize("cells.h5ad")


# Splits.


def labelled(sizes: dict[str, int]) -> AnnData:
    labels = np.repeat(list(sizes), list(sizes.values()))
    labels = np.random.default_rng(1).permutation(labels)
    index = [f"cell{i}" for i in range(len(labels))]
    obs = pd.DataFrame({"label": pd.Categorical(labels), "half": np.resize([1, 2], len(labels))}, index=index)
    return AnnData(np.arange(len(labels), dtype=np.float32)[:, None] + 1, obs=obs)


def check_halves(adata: AnnData, train: AnnData, held_out: AnnData) -> None:
    """Every cell is on one side, with its own row, and in its old order; both are copies."""
    assert not train.is_view
    assert not held_out.is_view
    place = {name: i for i, name in enumerate(adata.obs_names)}
    for side in (train, held_out):
        places = [place[name] for name in side.obs_names]
        assert places == sorted(places)
        assert side.X[:, 0].tolist() == [i + 1 for i in places]
    assert sorted([*train.obs_names, *held_out.obs_names]) == sorted(adata.obs_names)


@pytest.mark.parametrize(
    ("test_size", "expected"), [(0.5, 50), (0.3, 30), (0.004, None), (7, 7), (99, 99), (np.int64(2), 2)]
)
def test_split_sizes(test_size: float, expected: int | None) -> None:
    adata = labelled({"a": 100})
    if expected is None:
        with pytest.raises(InputError, match=r"test_size=0\.004 of 100 cells leaves a side empty"):
            scflow.pp.split(adata, test_size=test_size)
        return
    train, held_out = scflow.pp.split(adata, test_size=test_size)
    assert (train.n_obs, held_out.n_obs) == (100 - expected, expected)
    check_halves(adata, train, held_out)


@pytest.mark.parametrize("test_size", [0, 1.0, 1.5, -0.1, 100, -3, np.nan, np.inf, True, "half", None])
def test_split_sizes_that_cannot_be(test_size: Any) -> None:
    with pytest.raises(
        InputError, match=r"test_size=.* of 100 cells leaves a side empty\. Give a fraction .* from 1 to 99\."
    ):
        scflow.pp.split(labelled({"a": 100}), test_size=test_size)


@pytest.mark.parametrize("test_size", [0.1, 0.35, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_every_category_keeps_its_share(test_size: float, seed: int) -> None:
    sizes = {"a": 101, "b": 37, "c": 10, "d": 3, "e": 2, "f": 1}
    adata = labelled(sizes)
    train, held_out = scflow.pp.split(adata, test_size=test_size, stratify="label", seed=seed)
    check_halves(adata, train, held_out)
    counted = held_out.obs["label"].astype(str).value_counts()
    fraction = round(adata.n_obs * test_size) / adata.n_obs
    for label, size in sizes.items():
        assert abs(counted.get(label, 0) - size * fraction) < 1
        assert counted.get(label, 0) < size
    assert "f" in train.obs["label"].tolist()


def test_stratified_total_is_met_where_categories_allow() -> None:
    adata = labelled({"a": 33, "b": 33, "c": 34})
    for size in (10, 25, 50):
        assert scflow.pp.split(adata, test_size=size, stratify="label")[1].n_obs == size


def test_split_by_several_columns() -> None:
    adata = labelled({"a": 40, "b": 24})
    _, held_out = scflow.pp.split(adata, stratify=["label", "half"])
    expected = adata.obs.groupby(["label", "half"], observed=True).size() / 2
    found = held_out.obs.groupby(["label", "half"], observed=True).size()
    assert ((found - expected).abs() < 1).all()


def test_split_follows_its_seed_and_leaves_the_global_state() -> None:
    adata = labelled({"a": 60, "b": 40})
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = scflow.pp.split(adata, stratify="label", seed=3)[1].obs_names.tolist()
    assert first == scflow.pp.split(adata, stratify="label", seed=3)[1].obs_names.tolist()
    assert first != scflow.pp.split(adata, stratify="label", seed=4)[1].obs_names.tolist()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_every_cell_is_held_out_as_often() -> None:
    adata = labelled({"a": 12, "b": 8})
    times = pd.Series(0, index=adata.obs_names)
    for seed in range(400):
        times[scflow.pp.split(adata, test_size=0.25, stratify="label", seed=seed)[1].obs_names] += 1
    assert (times / 400).between(0.25 - 0.09, 0.25 + 0.09).all()


def test_split_is_a_copy() -> None:
    adata = labelled({"a": 10})
    train, _ = scflow.pp.split(adata)
    train.X[:] = -1
    assert adata.X.min() == 1


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole(seed: int) -> None:
    adata = labelled({"d1": 10, "d2": 12, "d3": 9, "d4": 11, "d5": 8})
    train, held_out = scflow.pp.split(adata, groups="label", test_size=0.4, seed=seed)
    check_halves(adata, train, held_out)
    assert not set(train.obs["label"]) & set(held_out.obs["label"])
    assert abs(held_out.n_obs - 20) <= 6


def test_groups_when_one_is_too_large() -> None:
    adata = labelled({"large": 90, "small": 60})
    for seed in range(5):
        train, held_out = scflow.pp.split(adata, groups="label", test_size=0.05, seed=seed)
        assert (train.n_obs, held_out.n_obs) == (90, 60)
        train, held_out = scflow.pp.split(adata, groups="label", test_size=0.95, seed=seed)
        assert held_out.n_obs in (60, 90)


def test_splits_that_cannot_be() -> None:
    adata = labelled({"a": 20, "b": 10})
    with pytest.raises(InputError, match=r"adata\.obs has no column 'lable'\. Did you mean 'label'\?"):
        scflow.pp.split(adata, stratify="lable")
    with pytest.raises(InputError, match=r"adata\.obs has no column 'donor'\. Columns: 'label', 'half'\."):
        scflow.pp.split(adata, groups="donor")
    with pytest.raises(
        InputError, match=r"both stratify='half' and groups='label', and whole groups cannot.*Give one of them"
    ):
        scflow.pp.split(adata, stratify="half", groups="label")
    adata.obs["donor"] = "d1"
    with pytest.raises(
        InputError, match=r"obs\['donor'\] holds 1 group; at least 2 are needed.*without groups='donor'"
    ):
        scflow.pp.split(adata, groups="donor")
    adata.obs["barcode"] = adata.obs_names
    with pytest.raises(
        InputError, match=r"No cell is left to hold out: with stratify='barcode'.*Stratify by coarser labels"
    ):
        scflow.pp.split(adata, stratify="barcode")
    adata.obs["half"] = adata.obs["half"].astype(float)
    adata.obs.loc["cell29", "half"] = np.nan
    with pytest.raises(InputError, match=r"obs\['half'\] has no value for 1 of 30 cells \(first: 'cell29'\)"):
        scflow.pp.split(adata, stratify="half")
    with pytest.raises(InputError, match=r"adata is a ndarray, not an AnnData"):
        scflow.pp.split(np.ones((3, 3)))  # type: ignore[arg-type]
