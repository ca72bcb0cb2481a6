"""The door to AnnData: what is read is exact, what cannot be read is said, and the caller's object is left alone."""

from __future__ import annotations

import pickle
import re
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scflow import _anndata, _keys
from scflow._anndata._counts import as_csr
from scflow.errors import InputError

N_CELLS, N_GENES = 30, 12


def dense_counts() -> np.ndarray:
    """Counts in which the last cell and the last gene are not zero, so that a bad value fits in the last entry."""
    counts = np.random.default_rng(0).poisson(1.0, (N_CELLS, N_GENES))
    counts[:, 0] += 1
    counts[-1, -1] = 3
    return counts


def cells(values: Any, **parts: Any) -> AnnData:
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(values.shape[0])])
    var = pd.DataFrame(index=[f"gene{i}" for i in range(values.shape[1])])
    return AnnData(values, obs=obs, var=var, **parts)


def csr(values: Any, dtype: Any = np.float32) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.asarray(values, dtype=dtype))


def same_bytes(adata: AnnData, before: bytes) -> bool:
    return pickle.dumps(state(adata)) == before


def state(adata: AnnData) -> dict[str, Any]:
    """Everything that the caller could see changed."""
    x = adata.X
    parts = (
        (x.data.copy(), x.indices.copy(), x.indptr.copy(), x.dtype) if sparse.issparse(x) else (np.array(x), x.dtype)
    )
    keys = [sorted(map(str, part)) for part in (adata.obs, adata.var, adata.uns, adata.obsm, adata.layers)]
    return {"x": parts, "keys": keys, "type": str(type(x))}


# Reading counts: exact, whatever they come as.

CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr_float32": lambda c: csr(c),
    "csr_float64": lambda c: csr(c, np.float64),
    "csr_int64": lambda c: csr(c, np.int64),
    "csr_uint8": lambda c: csr(c, np.uint8),
    "dense_big_endian": lambda c: c.astype(">f4"),
    "csr_array": lambda c: sparse.csr_array(c.astype(np.float32)),
    "csc_matrix": lambda c: sparse.csc_matrix(c.astype(np.float32)),
    "csc_array_int": lambda c: sparse.csc_array(c.astype(np.int32)),
    "dense_float32": lambda c: c.astype(np.float32),
    "dense_float16": lambda c: c.astype(np.float16),
    "dense_fortran": lambda c: np.asfortranarray(c.astype(np.float64)),
    "dense_uint16": lambda c: c.astype(np.uint16),
    "dense_int64": lambda c: c.astype(np.int64),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_counts_are_the_same_whatever_they_come_as(kind: str) -> None:
    counts = dense_counts()
    adata = cells(CONTAINERS[kind](counts))
    before = pickle.dumps(state(adata))
    read = _anndata.read_counts(adata)
    assert type(read) is sparse.csr_matrix
    assert read.dtype in (np.float32, np.float64)
    assert read.has_canonical_format
    assert read.nnz == np.count_nonzero(counts)
    np.testing.assert_array_equal(read.toarray(), counts)
    assert same_bytes(adata, before)


@pytest.mark.parametrize("kind", ["coo", "matrix", "bool", "lil"])
@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_counts_of_rarer_kinds(kind: str) -> None:
    """Some of these AnnData refuses today, and let in before."""
    counts = dense_counts()
    as_kind = {
        "coo": lambda c: sparse.coo_matrix(c.astype(np.int16)),
        "matrix": lambda c: np.matrix(c.astype(np.float32)),
        "bool": lambda c: c > 0,
        "lil": lambda c: sparse.lil_matrix(c.astype(np.float32)),
    }[kind]
    expected = counts > 0 if kind == "bool" else counts
    np.testing.assert_array_equal(as_csr(as_kind(counts), "adata.X").toarray(), expected)


def test_canonical_csr_comes_by_reference() -> None:
    adata = cells(csr(dense_counts()))
    assert _anndata.read_counts(adata) is adata.X


def test_csr_array_shares_its_memory() -> None:
    adata = cells(sparse.csr_array(dense_counts().astype(np.float32)))
    assert np.shares_memory(_anndata.read_counts(adata).data, adata.X.data)


def messy(dtype: Any) -> sparse.csr_matrix:
    """2 x 3: unsorted, duplicated (200 + 100 in one place) and with a stored zero."""
    data = np.array([200, 1, 100, 0, 5], dtype=dtype)
    return sparse.csr_matrix((data, np.array([2, 0, 2, 1, 0]), np.array([0, 3, 5])), shape=(2, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
@pytest.mark.parametrize("as_format", ["csr", "coo"])
def test_messy_csr_is_put_in_order_in_a_copy(dtype: Any, as_format: str) -> None:
    matrix = messy(dtype)
    if as_format == "coo":
        matrix = sparse.coo_matrix((matrix.data, ([0, 0, 0, 1, 1], matrix.indices)), shape=(2, 3))
    data = matrix.data.copy()
    read = as_csr(matrix, "adata.X")
    np.testing.assert_array_equal(read.toarray(), [[1, 0, 300], [5, 0, 0]])
    assert read.nnz == 3
    assert read.has_canonical_format
    np.testing.assert_array_equal(matrix.data, data)


def test_stale_flags_are_not_believed() -> None:
    matrix = messy(np.float32)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    assert _anndata.read_counts(cells(matrix)).nnz == 3


def test_integers_above_2_to_24_are_read_as_float64() -> None:
    counts = dense_counts()
    counts[-1, -1] = 2**24 + 1
    read = _anndata.read_counts(cells(csr(counts, np.int64)))
    assert read.dtype == np.float64
    assert read[-1, -1] == 2**24 + 1
    counts[-1, -1] = 2**24
    assert _anndata.read_counts(cells(csr(counts, np.int64))).dtype == np.float32


def test_integers_above_2_to_53_are_refused() -> None:
    counts = dense_counts().astype(np.int64)
    counts[-1, -1] = 2**53 + 1
    with pytest.raises(InputError, match=r"adata\.X holds the count 9007199254740993, above 2\*\*53.*check that"):
        _anndata.read_counts(cells(csr(counts, np.int64)))


def test_chunks_of_dense_values_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow._anndata._counts.CHUNK", 5 * N_GENES)
    counts = dense_counts()
    np.testing.assert_array_equal(_anndata.read_counts(cells(counts.astype(np.int32))).toarray(), counts)


def test_a_view_is_read_without_becoming_a_copy() -> None:
    adata = cells(csr(dense_counts()), layers={"other": csr(dense_counts())})
    view = adata[5:20, ::2]
    with warnings.catch_warnings():
        warnings.simplefilter("error", anndata.ImplicitModificationWarning)
        np.testing.assert_array_equal(_anndata.read_counts(view).toarray(), dense_counts()[5:20, ::2])
        np.testing.assert_array_equal(_anndata.read_counts(view, "other").toarray(), dense_counts()[5:20, ::2])
        assert type(_anndata.read_counts(view)) is sparse.csr_matrix
    assert view.is_view


def test_reading_is_never_dense() -> None:
    n_cells, n_genes = 2000, 5000
    matrix = sparse.random(n_cells, n_genes, density=0.01, format="csc", random_state=0, dtype=np.float32)
    matrix.data = np.ceil(matrix.data * 5)
    # An explicit layer is refused at its very last value, so every value was looked at.
    matrix.data[-1] = 0.5
    adata = cells(sparse.csr_matrix(matrix), layers={"wrong": matrix})
    adata.X.data = np.maximum(np.ceil(adata.X.data), 1)
    tracemalloc.start()
    _anndata.read_counts(adata)
    with pytest.raises(InputError, match="holds 1 values that are not counts"):
        _anndata.read_counts(adata, "wrong")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n_cells * n_genes * 4 / 4, "a dense matrix was made"


# Where the counts are.


def test_counts_layer_prefers_x_where_it_holds_counts() -> None:
    counts = csr(dense_counts())
    assert _anndata.counts_layer(cells(counts)) is None
    assert _anndata.counts_layer(cells(counts, layers={"counts": counts})) is None
    assert _anndata.counts_layer(cells(counts * 0.5, layers={"counts": counts})) == "counts"
    assert _anndata.counts_layer(cells(counts * 0.5, layers={"raw": counts})) is None
    assert _anndata.counts_layer(cells(counts, layers={"raw": counts}), "raw") == "raw"


def test_counts_layer_where_x_is_missing() -> None:
    adata = cells(csr(dense_counts()), layers={"counts": csr(dense_counts())})
    adata.X = None
    assert _anndata.counts_layer(adata) == "counts"
    assert _anndata.read_counts(adata).nnz == np.count_nonzero(dense_counts())
    del adata.layers["counts"]
    with pytest.raises(InputError, match=r"adata\.X is empty: there are no counts to read\. No other layer"):
        _anndata.read_counts(adata)


def test_misspelt_layer() -> None:
    adata = cells(csr(dense_counts()), layers={"counts": csr(dense_counts())})
    message = (
        r"adata has no layer 'count'\. Did you mean 'counts'\? Layers: 'counts'\. Name one of them, or leave layer=None"
    )
    with pytest.raises(InputError, match=message):
        _anndata.read_counts(adata, "count")
    with pytest.raises(InputError, match=r"adata has no layer 'spliced'\. Layers: none"):
        _anndata.counts_layer(cells(csr(dense_counts())), "spliced")


# Values that are not counts.


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (np.nan, "1 NaN"),
        (np.inf, "1 infinite"),
        (-np.inf, "1 infinite"),
        (-1, "1 negative"),
        (0.5, "1 not whole numbers"),
    ],
)
@pytest.mark.parametrize("container", [csr, np.asarray, sparse.csc_matrix])
def test_one_bad_value_in_the_last_entry_is_found(
    bad: float, kind: str, container: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scflow._anndata._counts.CHUNK", 64)
    values = dense_counts().astype(np.float32)
    values[-1, -1] = bad
    message = (
        rf"adata\.X holds 1 values that are not counts: {kind} \(first: {bad:g} in cell 'cell29', gene 'gene11'\)\. "
        r"Expected whole numbers from 0 up\."
    )
    with pytest.raises(InputError, match=message):
        _anndata.read_counts(cells(container(values)))


def test_bad_values_of_several_kinds_are_counted() -> None:
    values = dense_counts().astype(np.float64)
    values[3, 4], values[5, 1], values[5, 2], values[-1, -1] = np.nan, -2, -0.5, 0.25
    message = r"holds 4 values that are not counts: 1 NaN, 2 negative, 1 not whole numbers \(first: nan in cell 'cell3'"
    with pytest.raises(InputError, match=message):
        _anndata.read_counts(cells(csr(values, np.float64)))


def test_negative_integers_are_found() -> None:
    values = dense_counts()
    values[-1, -1] = -1
    with pytest.raises(InputError, match="1 negative"):
        _anndata.read_counts(cells(csr(values, np.int32)))


def test_the_layer_that_looks_like_counts_is_named() -> None:
    counts = csr(dense_counts())
    adata = cells(counts * 0.5, layers={"scaled": counts * 0.1, "umi": counts})
    with pytest.raises(InputError, match=r"adata\.layers\['umi'\] looks like counts: pass layer='umi'\."):
        _anndata.read_counts(adata)
    adata = cells(counts, layers={"scaled": counts * 0.1})
    with pytest.raises(InputError, match=r"adata\.X looks like counts: leave layer='scaled' out\."):
        _anndata.read_counts(adata, "scaled")


def test_raw_that_looks_like_counts_is_named_and_the_line_mends_it() -> None:
    adata = cells(csr(dense_counts()))
    adata.raw = adata
    adata.X = adata.X * 0.5
    adata = adata[:, ::2].copy()
    message = (
        r"adata\.raw looks like counts: adata\.layers\['counts'\] = adata\.raw\[:, adata\.var_names\]\.X, then pass"
    )
    with pytest.raises(InputError, match=message):
        _anndata.read_counts(adata)
    adata.layers["counts"] = adata.raw[:, adata.var_names].X
    np.testing.assert_array_equal(_anndata.read_counts(adata, "counts").toarray(), dense_counts()[:, ::2])


def test_where_nothing_looks_like_counts() -> None:
    with pytest.raises(
        InputError, match=r"No other layer and no adata\.raw holds counts.*adata\.layers\['counts'\] = adata\.X"
    ):
        _anndata.read_counts(cells(csr(dense_counts()) * 0.5))


def test_values_that_are_no_numbers() -> None:
    adata = cells(csr(dense_counts()))
    adata.layers["text"] = dense_counts().astype(str)
    with pytest.raises(InputError, match=r"adata\.layers\['text'\] has the data type <U\d+, which holds no counts"):
        _anndata.read_counts(adata, "text")
    adata.layers["complex"] = dense_counts().astype(np.complex64)
    with pytest.raises(InputError, match="has the data type complex64"):
        _anndata.read_counts(adata, "complex")
    with pytest.raises(
        InputError, match=r"is a pandas.*DataFrame; expected an array or a sparse matrix in memory.*to_memory"
    ):
        as_csr(pd.DataFrame(dense_counts()), "adata.X")


# Cells and genes that cannot be worked with.


def test_repeated_gene_names() -> None:
    adata = cells(csr(dense_counts()))
    adata.var_names = ["a", "a", "b", "b", *adata.var_names[4:]]
    message = r"2 gene names of adata occur more than once \('a', 'b'\).*the 12 genes: adata\.var_names_make_unique\(\)"
    with pytest.raises(InputError, match=message):
        _anndata.read_counts(adata)
    adata.var_names_make_unique()
    _anndata.read_counts(adata)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_repeated_cell_names_are_fine() -> None:
    adata = cells(csr(dense_counts()))
    adata.obs_names = ["same"] * N_CELLS
    assert _anndata.read_counts(adata).shape == (N_CELLS, N_GENES)


def test_empty_cells() -> None:
    counts = dense_counts()
    counts[[4, 7, 29]] = 0
    adata = cells(csr(counts))
    message = r"3 of 30 cells have no counts in adata\.X \(first: 'cell4', 'cell7', 'cell29'\)\. Drop them: "
    with pytest.raises(InputError, match=message + r"sc\.pp\.filter_cells\(adata, min_counts=1\)\."):
        _anndata.read_counts(adata)
    assert _anndata.read_counts(adata, for_training=False).shape == (30, 12)


def test_empty_cells_of_a_layer_and_the_line_that_drops_them() -> None:
    counts = dense_counts()
    counts[[4, 7]] = 0
    adata = cells(csr(dense_counts()), layers={"umi": csr(counts)})
    with pytest.raises(InputError, match="2 of 30 cells have no counts") as error:
        _anndata.read_counts(adata, "umi")
    line = re.search(r"Drop them: adata = (.*)\.$", str(error.value))
    assert line is not None
    mended = eval(line[1], {"adata": adata, "np": np})
    assert _anndata.read_counts(mended, "umi").shape == (28, 12)


def test_a_zero_that_is_stored_is_no_count() -> None:
    matrix = csr(dense_counts())
    matrix.data[matrix.indptr[2] : matrix.indptr[3]] = 0
    with pytest.raises(InputError, match=r"1 of 30 cells have no counts in adata\.X \(first: 'cell2'\)"):
        _anndata.read_counts(cells(matrix))


def test_genes_that_never_vary() -> None:
    alike = np.tile(dense_counts()[:1], (N_CELLS, 1))
    with pytest.raises(
        InputError, match=r"Every gene is constant across the 30 cells of adata\.X: there is nothing to learn"
    ):
        _anndata.read_counts(cells(csr(alike)))
    assert _anndata.read_counts(cells(csr(alike)), for_training=False).shape == (30, 12)
    alike[-1, 0] += 1
    _anndata.read_counts(cells(csr(alike)))


def test_no_cells_and_no_genes() -> None:
    adata = cells(csr(dense_counts()))
    with pytest.raises(InputError, match=r"adata has 0 cells \(12 genes\)"):
        _anndata.read_counts(adata[:0])
    with pytest.raises(InputError, match=r"adata has 0 genes \(30 cells\)"):
        _anndata.read_counts(adata[:, :0])


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (
            "cells.h5ad",
            r"held_out is a str, not an AnnData\. Read the file first: held_out = anndata\.read_h5ad\('cells\.h5ad'\)",
        ),
        (Path("cells.h5ad"), r"held_out is a Posix?\w+Path, not an AnnData\. Read the file first"),
        (pd.DataFrame({"a": [1]}), r"is a DataFrame, not an AnnData\. Make one, cells in rows and genes in columns"),
        (np.ones((2, 2)), r"is a ndarray, not an AnnData\. Make one"),
        (None, r"is a NoneType, not an AnnData\. Read one with held_out = anndata\.read_h5ad\(path\)"),
        (
            type("MuData", (), {"mod": {"prot": None, "rna": None}})(),
            r"is a MuData, not an AnnData\. It has 2 modalities: 'prot', 'rna'\. Give the one .*: held_out\['rna'\]",
        ),
    ],
)
def test_what_is_no_anndata(thing: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _anndata.read_counts(thing, name="held_out")


def test_backed_cells(tmp_path: Path) -> None:
    cells(csr(dense_counts())).write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match=r"adata is backed by the file '.*cells\.h5ad'.*adata = adata\.to_memory\(\)"):
        _anndata.read_counts(adata)
    assert _anndata.read_counts(adata.to_memory()).shape == (30, 12)
    adata.file.close()


# Conditions.


def labelled() -> AnnData:
    adata = cells(csr(dense_counts()))
    adata.obs["cell_type"] = pd.Categorical(np.resize(["T", "B", "NK"], N_CELLS), categories=["T", "NK", "gone", "B"])
    adata.obs["batch"] = np.resize(["two", "one"], N_CELLS)
    adata.obs["treated"] = np.resize([True, False, False], N_CELLS)
    adata.obs["age"] = np.arange(N_CELLS)
    return adata


def test_conditions_in_the_order_asked_for() -> None:
    adata = labelled()
    frame = _anndata.read_conditions(adata, ["age", "cell_type", "treated", "batch"])
    assert list(frame) == ["age", "cell_type", "treated", "batch"]
    assert frame.index.equals(adata.obs_names)
    assert frame["age"].dtype == np.float64
    assert list(frame["cell_type"].cat.categories) == ["T", "NK", "B"]
    assert list(frame["batch"].cat.categories) == ["one", "two"]
    assert list(frame["treated"].cat.categories) == [False, True]
    assert list(adata.obs["cell_type"].cat.categories) == ["T", "NK", "gone", "B"]
    for column in ("cell_type", "batch", "treated", "age"):
        assert frame[column].tolist() == adata.obs[column].tolist()


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "Int32", "float32", "uint8", "int8"])
def test_numbers_of_every_type_are_float64(dtype: str) -> None:
    adata = labelled()
    adata.obs["age"] = adata.obs["age"].astype(dtype)
    frame = _anndata.read_conditions(adata, "age")
    assert frame["age"].dtype == np.float64
    assert frame["age"].tolist() == list(range(N_CELLS))


@pytest.mark.parametrize(
    ("column", "dtype"), [("batch", "string"), ("batch", object), ("treated", "boolean"), ("treated", object)]
)
def test_labels_of_every_type_are_categories(column: str, dtype: Any) -> None:
    adata = labelled()
    adata.obs[column] = adata.obs[column].astype(dtype)
    frame = _anndata.read_conditions(adata, column)
    assert isinstance(frame[column].dtype, pd.CategoricalDtype)
    assert frame[column].tolist() == adata.obs[column].tolist()


def test_no_condition_is_a_table_without_columns() -> None:
    assert _anndata.read_conditions(labelled(), None).shape == (N_CELLS, 0)
    assert _anndata.read_conditions(labelled(), []).shape == (N_CELLS, 0)


def test_misspelt_condition() -> None:
    message = r"adata\.obs has no column 'cell_typ'\. Did you mean 'cell_type'\? Columns: 'cell_type', 'batch', 'tr"
    with pytest.raises(InputError, match=message):
        _anndata.read_conditions(labelled(), ["batch", "cell_typ"])


@pytest.mark.parametrize("column", ["cell_type", "batch", "age"])
def test_condition_without_values(column: str) -> None:
    adata = labelled()
    values = adata.obs[column].astype("category" if column == "cell_type" else object)
    adata.obs[column] = values.where(~adata.obs_names.isin(["cell3", "cell29"]))
    with pytest.raises(
        InputError, match=rf"obs\['{column}'\] has no value for 2 of 30 cells \(first: 'cell3'\)\. Drop them with"
    ) as error:
        _anndata.read_conditions(adata, column)
    line = re.search(r"Drop them with (.*), or fill them\.", str(error.value))
    assert line is not None
    mended = eval(line[1], {"adata": adata})
    assert _anndata.read_conditions(mended, column).shape == (28, 1)


@pytest.mark.parametrize(("value", "shown"), [("blood", "blood"), (3, "3.0"), (True, "True")])
def test_condition_with_one_value(value: Any, shown: str) -> None:
    adata = labelled()
    adata.obs["tissue"] = value
    message = rf"obs\['tissue'\] has the same value, '{shown}', in all 30 cells: there is nothing to .* Leave it out"
    with pytest.raises(InputError, match=message):
        _anndata.read_conditions(adata, "tissue")


def test_unused_categories_do_not_hide_a_constant() -> None:
    adata = labelled()
    with pytest.raises(InputError, match="has the same value, 'B', in all 10 cells"):
        _anndata.read_conditions(adata[adata.obs["cell_type"] == "B"], "cell_type")


def test_condition_like_a_barcode() -> None:
    adata = labelled()
    adata.obs["barcode"] = adata.obs_names
    with pytest.raises(
        InputError, match=r"obs\['barcode'\] has another label for every one of the 30 cells.*leave it out"
    ):
        _anndata.read_conditions(adata, "barcode")


def test_infinite_condition() -> None:
    adata = labelled()
    adata.obs["age"] = adata.obs["age"].astype(float)
    adata.obs.loc["cell29", "age"] = np.inf
    with pytest.raises(InputError, match=r"obs\['age'\] is infinite for 1 of 30 cells \(first: 'cell29'\)"):
        _anndata.read_conditions(adata, "age")


def test_condition_of_dates() -> None:
    adata = labelled()
    adata.obs["day"] = pd.date_range("2024-01-01", periods=N_CELLS)
    with pytest.raises(
        InputError, match=r"Condition 'day' holds values of type datetime64.*expected categories.*astype\(str\)"
    ):
        _anndata.read_conditions(adata, "day")


def test_conditions_named_wrongly() -> None:
    with pytest.raises(InputError, match="condition names 'batch' twice"):
        _anndata.read_conditions(labelled(), ["batch", "age", "batch"])
    with pytest.raises(InputError, match="condition holds 3, a int; expected names of columns of obs"):
        _anndata.read_conditions(labelled(), ["batch", 3])  # type: ignore[list-item]
    adata = labelled()
    adata.obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)
    with pytest.raises(InputError, match=r"adata\.obs has 2 columns named 'batch'\. Keep one"):
        _anndata.read_conditions(adata, "batch")


# Embeddings and genes.


@pytest.mark.parametrize("as_kind", [np.asarray, sparse.csr_matrix, pd.DataFrame])
def test_embedding(as_kind: Callable[..., Any]) -> None:
    adata = labelled()
    values = np.random.default_rng(0).normal(size=(N_CELLS, 3))
    table = as_kind(values)
    adata.obsm["X_pca"] = table.set_index(adata.obs_names).add_prefix("pc") if as_kind is pd.DataFrame else table
    read = _anndata.read_embedding(adata, "X_pca")
    assert read.dtype == np.float32
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, values.astype(np.float32))


def test_embedding_errors() -> None:
    adata = labelled()
    adata.obsm["X_pca"] = np.ones((N_CELLS, 2))
    with pytest.raises(
        InputError, match=r"adata\.obsm has no 'X_pac'\. Did you mean 'X_pca'\? Embeddings: 'X_pca'\. Compute"
    ):
        _anndata.read_embedding(adata, "X_pac")
    adata.obsm["X_pca"][-1, -1] = np.nan
    with pytest.raises(
        InputError, match=r"obsm\['X_pca'\] holds NaN or infinite values in 1 of 30 cells \(first: 'cell29'\)"
    ):
        _anndata.read_embedding(adata, "X_pca")
    adata.obsm["text"] = np.full((N_CELLS, 2), "a")
    with pytest.raises(InputError, match=r"obsm\['text'\] has shape \(30, 2\) and data type <U1; expected numbers"):
        _anndata.read_embedding(adata, "text")


def test_genes_are_matched_in_the_order_asked_for() -> None:
    adata = cells(csr(dense_counts()))
    columns = _anndata.match_genes(adata, ["gene7", "gene0", "gene3"])
    assert columns.tolist() == [7, 0, 3]
    assert columns.dtype == np.int64


def test_genes_that_are_not_there() -> None:
    adata = cells(csr(dense_counts()))
    message = r"held_out lacks 2 of 3 genes \('gene_7', 'XIST'\)\. Did you mean 'gene7'.*among held_out\.var_names"
    with pytest.raises(InputError, match=message):
        _anndata.match_genes(adata, ["gene_7", "gene0", "XIST"], name="held_out")
    adata.var_names = ["a", "a", *adata.var_names[2:]]
    with pytest.raises(InputError, match="1 gene names of adata occur more than once"):
        _anndata.match_genes(adata, ["gene7"])


# Writing.


CONTENT: dict[str, Any] = {
    "config": '{"format": 1}' * 10_000,
    "tensors": {
        "field.blocks.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "codec/mean%2F": np.arange(3, dtype=np.float64),
        "steps": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "mask": np.array([True, False]),
    },
}


def test_flow_survives_a_file(tmp_path: Path) -> None:
    adata = labelled()
    _anndata.write_flow(adata, CONTENT, "mine")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for held in (adata, anndata.read_h5ad(tmp_path / "cells.h5ad"), adata[:5]):
        content = _anndata.read_flow(held, "mine")
        assert type(content) is dict
        assert content["config"] == CONTENT["config"]
        assert set(content["tensors"]) == set(CONTENT["tensors"])
        for name, tensor in CONTENT["tensors"].items():
            assert content["tensors"][name].dtype == tensor.dtype
            np.testing.assert_array_equal(content["tensors"][name], tensor)


def test_flow_is_a_copy() -> None:
    adata, weight = labelled(), np.zeros(3, dtype=np.float32)
    _anndata.write_flow(adata, {"config": "{}", "tensors": {"weight": weight}})
    weight[:] = 1
    read = _anndata.read_flow(adata)["tensors"]["weight"]
    assert read.tolist() == [0, 0, 0]
    read[:] = 2
    assert _anndata.read_flow(adata)["tensors"]["weight"].tolist() == [0, 0, 0]


def test_flow_that_is_not_there() -> None:
    adata = labelled()
    with pytest.raises(
        InputError, match=r"adata\.uns has no flow 'scflow'\. Train one first: flow = scflow\.tl\.train\(adata\)"
    ):
        _anndata.read_flow(adata)
    _anndata.write_flow(adata, CONTENT)
    with pytest.raises(InputError, match=r"adata\.uns has no flow 'scflw'\. Did you mean 'scflow'\?"):
        _anndata.read_flow(adata, "scflw")
    adata.uns["scflow"] = {"provenance": {}}
    with pytest.raises(InputError, match=r"adata\.uns\['scflow'\] holds the provenance of generated cells, not a flow"):
        _anndata.read_flow(adata)
    adata.uns["scflow"] = np.ones(3)
    with pytest.raises(InputError, match=r"adata\.uns\['scflow'\] holds a ndarray, not a flow"):
        _anndata.read_flow(adata)


def generated(counts: sparse.csr_matrix | None, n_cells: int = 4) -> AnnData:
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(["B"] * n_cells, categories=["T", "B"]), "treated": [True] * n_cells}
    )
    obs["treated"] = pd.Categorical(obs["treated"], categories=[False, True])
    return _anndata.new_cells(
        counts,
        genes=["a", "b", "c"],
        obs=obs,
        state=np.ones((n_cells, 2)),
        noise=np.zeros((n_cells, 2)),
        target_sum=1e4,
        provenance={
            "condition": ["cell_type", "treated"],
            "seed": 3,
            "solver": "heun",
            "guidance": 1.5,
            "note": None,
            "none": [],
        },
    )


def test_new_cells() -> None:
    counts = np.array([[1, 0, 3], [0, 0, 0], [0, 2, 0], [5, 5, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        new = generated(csr(counts, np.int64))
    assert new.obs_names.tolist() == ["scflow_0", "scflow_1", "scflow_2", "scflow_3"]
    assert new.var_names.tolist() == ["a", "b", "c"]
    assert isinstance(new.X, sparse.csr_matrix)
    assert new.X.dtype == np.float32
    assert new.layers["counts"].dtype == np.int32
    np.testing.assert_array_equal(new.layers["counts"].toarray(), counts)
    sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(new.X.toarray(), np.log1p(counts / sizes * 1e4), rtol=1e-6)
    assert new.obsm[_keys.STATE].dtype == new.obsm[_keys.NOISE].dtype == np.float32
    assert _anndata.counts_layer(new) == "counts"
    assert not np.shares_memory(new.X.indices, new.layers["counts"].indices)


@pytest.mark.parametrize("with_counts", [True, False])
def test_new_cells_survive_a_file(tmp_path: Path, with_counts: bool) -> None:
    new = generated(csr([[1, 0, 3], [0, 0, 0], [0, 2, 0], [5, 5, 0]], np.int32) if with_counts else None)
    new.write_h5ad(tmp_path / "new.h5ad")
    back = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert back.shape == ((4, 3) if with_counts else (4, 0))
    if with_counts:
        assert (back.X != new.X).nnz == 0
        assert back.layers["counts"].dtype == np.int32
        assert (back.layers["counts"] != new.layers["counts"]).nnz == 0
    else:
        assert back.X is None or 0 in back.X.shape
    assert back.obs["cell_type"].cat.categories.tolist() == ["T", "B"]
    assert back.obs["treated"].tolist() == [True] * 4
    provenance = back.uns["scflow"]["provenance"]
    assert provenance["condition"].tolist() == ["cell_type", "treated"]
    assert (provenance["seed"], provenance["solver"], provenance["guidance"]) == (3, "heun", 1.5)
    assert len(provenance["none"]) == 0
    assert "note" not in provenance
    np.testing.assert_array_equal(back.obsm["X_scflow"], np.ones((4, 2)))


def test_new_cells_with_huge_counts() -> None:
    new = generated(csr([[2**31, 0, 0]] * 4, np.int64))
    assert new.layers["counts"].dtype == np.int64
    assert new.layers["counts"][0, 0] == 2**31


def test_slots_follow_key_added() -> None:
    assert vars(_keys.slots("b")) == {
        "flow": "b",
        "mean": "b_mean",
        "sd": "b_sd",
        "dropout": "b_dropout",
        "pp": "b_pp",
        "standardized": "b_standardized",
        "state": "X_b",
        "noise": "X_b_noise",
        "log_prob": "b_log_prob",
        "log_prob_se": "b_log_prob_se",
        "position": "b_position",
        "pair": "b_pair",
        "score": "b_score",
        "steps": "b_steps",
        "embed": "b_embed",
        "augment": "b_augment",
        "synthetic": "b_synthetic",
        "source": "X_b_source",
        "transport": "b_transport",
        "velocity": "velocity_b",
        "cell": "b_cell",
        "time": "b_time",
        "growth": "b_growth",
    }
    assert (_keys.MEAN, _keys.STATE, _keys.NOISE, _keys.PP) == (
        "scflow_mean",
        "X_scflow",
        "X_scflow_noise",
        "scflow_pp",
    )
