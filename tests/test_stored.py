"""Cells that are not in memory: what is read, in which order, and that a flow is the same."""

from __future__ import annotations

import functools
import hashlib
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from anndata.experimental import AnnCollection
from scipy import sparse

import scflow
from scflow import _anndata
from scflow.__main__ import main
from scflow._anndata import _matrices, _survey
from scflow._anndata._matrices import Joined, Lazy, Matrix, matrix_of
from scflow.codecs import Counts
from scflow.codecs.statistics import gene_statistics, rechunked, statistics_of
from scflow.errors import InputError
from scflow.flow import Flow, _learning
from scflow.training import Run, stored
from scflow.training.batches import Cells, Order, Summarized
from scflow.training.stored import Pools, Stored, Streamed

N = 240
KINDS = ("backed", "h5ad", "zarr", "packed", "dense", "dask", "lazy", "list", "mixed", "collection")
QUICK: dict[str, Any] = {"condition": "cell_type", "steps": 30, "batch_size": 32, "progress": False}


@pytest.fixture(scope="module")
def cells() -> AnnData:
    adata = scflow.datasets.simulate(n_cells=N, n_genes=30, seed=0)
    adata.uns, adata.obsm = {}, {}
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    return adata


@pytest.fixture(scope="module")
def folder(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zarr")
    made = tmp_path_factory.mktemp("cells")
    cells.write_h5ad(made / "all.h5ad")
    cells.write_h5ad(made / "packed.h5ad", compression="gzip")
    cells.write_zarr(made / "all.zarr")
    cells[:100].copy().write_h5ad(made / "first.h5ad")
    cells[100:].copy().write_h5ad(made / "second.h5ad")
    dense = cells.copy()
    dense.X = cells.X.toarray().astype(np.int16)
    dense.write_h5ad(made / "dense.h5ad")
    return made


def source(kind: str, cells: AnnData, folder: Path) -> Any:
    """The same cells, elsewhere."""
    if kind in ("dask", "lazy"):
        pytest.importorskip("dask")
    if kind == "dask":
        import dask.array

        return AnnData(X=dask.array.from_array(cells.X.toarray(), chunks=(70, 11)), obs=cells.obs, var=cells.var)
    if kind == "lazy":
        pytest.importorskip("xarray")
        return anndata.experimental.read_lazy(folder / "all.zarr")
    halves = [anndata.read_h5ad(folder / "first.h5ad", backed="r"), cells[100:].copy()]
    return {
        "backed": lambda: anndata.read_h5ad(folder / "all.h5ad", backed="r"),
        "h5ad": lambda: folder / "all.h5ad",
        "zarr": lambda: str(folder / "all.zarr"),
        "packed": lambda: folder / "packed.h5ad",
        "dense": lambda: folder / "dense.h5ad",
        "list": lambda: [folder / "first.h5ad", folder / "second.h5ad"],
        "mixed": lambda: halves,
        "collection": lambda: AnnCollection(halves, join_obs="inner"),
    }[kind]()


def opened(kind: str, cells: AnnData, folder: Path) -> Any:
    store = _anndata.opened(source(kind, cells, folder))
    assert store is not None
    return store


def same(found: Any, expected: Any) -> bool:
    """The same matrix, canonical, to the bit."""
    assert found.has_canonical_format
    assert found.shape == expected.shape
    return all(
        np.array_equal(a, b)
        for a, b in (
            (found.indptr, expected.indptr),
            (found.indices, expected.indices),
            (found.data, expected.data),
        )
    )


class Fake:
    """Counts that say how many rows were read at once, and by which thread."""

    def __init__(self, n: int, *, grain: int = 1, fail_after: int | None = None) -> None:
        self.shape, self.grain, self.fail_after = (n, 2), grain, fail_after
        self.sizes: list[int] = []
        self.threads: set[str] = set()

    def read(self, rows: Any) -> sparse.csr_matrix:
        assert (np.diff(rows) > 0).all()
        self.sizes.append(len(rows))
        self.threads.add(threading.current_thread().name)
        if self.fail_after is not None and len(self.sizes) > self.fail_after:
            raise OSError("the disk is gone")
        return sparse.csr_matrix(np.stack([rows + 1, np.ones(len(rows))], axis=1).astype(np.float64))


def streamed(n: int, n_train: int | None = None, **settings: Any) -> Streamed:
    fake = Fake(n, **settings)
    few = torch.arange(min(n, 5))
    return Stored(fake, few, fake.read(few.numpy())).streamed(torch.device("cpu"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "POOL", 64)
    monkeypatch.setattr(stored, "POOL_BATCHES", 1)
    monkeypatch.setattr(stored, "_FEWEST", 2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cells to calibrate on."""
    monkeypatch.setattr(_learning, "_DRAWN", 200)
    monkeypatch.setattr(_learning, "_WIDEST", 1)


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch, small_pools: None, quick: None) -> None:
    """So few cells in memory that the others are streamed."""
    monkeypatch.setattr(stored, "PART", 128)
    monkeypatch.setattr(stored, "_LOOKED_AT", 16)


# What is read


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_blocks_are_those_in_memory(kind: str, cells: AnnData, folder: Path) -> None:
    store = opened(kind, cells, folder)
    matrix = store.matrix
    expected = sparse.csr_matrix(cells.X)
    for size in (1, 7, 130, N):
        rows = np.sort(np.random.default_rng(size).choice(N, size, replace=False))
        assert same(matrix.read(rows), expected[rows])
    assert same(sparse.vstack(list(matrix.blocks()), format="csr"), expected)
    assert list(store.cells.obs_names.astype(str)) == list(cells.obs_names)
    assert store.cells.obs["cell_type"].astype(str).tolist() == cells.obs["cell_type"].astype(str).tolist()


def test_what_a_file_holds_is_put_in_order(tmp_path: Path, cells: AnnData) -> None:
    """Unsorted, twice stored and stored zeros: as when the same matrix is read from memory."""
    values = sparse.csr_matrix((np.array([1, 2, 0, 3], "u1"), [2, 2, 0, 1], [0, 3, 4]), shape=(2, 3))
    AnnData(values).write_h5ad(tmp_path / "odd.h5ad")
    store = _anndata.opened(tmp_path / "odd.h5ad")
    assert store is not None
    found = store.matrix.read(np.arange(2))
    assert next(store.matrix.blocks()).dtype == np.float32
    assert same(found, sparse.csr_matrix([[0, 0, 3], [0, 3, 0]], dtype=np.float32))


def test_a_dask_chunk_is_computed_once_for_all_its_rows(cells: AnnData) -> None:
    dask = pytest.importorskip("dask.array")
    seen: list[int] = []

    def chunk(block: Any) -> Any:
        seen.append(len(block))
        return block

    array = dask.from_array(cells.X.toarray(), chunks=(60, -1)).map_blocks(
        chunk, dtype=np.float32, meta=np.zeros((0, 0))
    )
    matrix = Lazy(array, "X")
    seen.clear()
    found = matrix.read(np.array([0, 5, 59, 60, 61, 239]))
    assert sorted(seen) == [60, 60, 60]
    assert same(found, sparse.csr_matrix(cells.X)[[0, 5, 59, 60, 61, 239]])


def test_counts_by_genes_are_an_error(tmp_path: Path, cells: AnnData) -> None:
    made = cells.copy()
    made.X = cells.X.tocsc()
    made.write_h5ad(tmp_path / "c.h5ad")
    for given in (tmp_path / "c.h5ad", anndata.read_h5ad(tmp_path / "c.h5ad", backed="r")):
        with pytest.raises(InputError, match=r"is stored by genes \(CSC\).*adata\.X = adata\.X\.tocsr\(\)"):
            scflow.tl.train(given, **QUICK)


def test_the_layer_with_counts(tmp_path: Path, cells: AnnData) -> None:
    made = cells.copy()
    made.layers["counts"] = cells.X
    made.write_h5ad(tmp_path / "both.h5ad")
    made.X = cells.X * 0.5
    made.write_h5ad(tmp_path / "halves.h5ad")
    for file, expected in (("both", None), ("halves", "counts")):
        store = _anndata.opened(tmp_path / f"{file}.h5ad")
        assert store is not None
        assert store.layer == expected
        assert same(store.matrix.read(np.arange(N)), cells.X)
    with pytest.raises(InputError, match=r"'both.h5ad' has no layer 'count'.* 'counts'"):
        _anndata.opened(tmp_path / "both.h5ad", "count")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("is_sparse", [True, False])
def test_counts_of_any_type_are_read(dtype: str, is_sparse: bool, tmp_path: Path, cells: AnnData) -> None:
    made = cells.copy()
    made.X = cells.X.astype(dtype) if is_sparse else cells.X.toarray().astype(dtype)
    made.write_h5ad(tmp_path / "t.h5ad")
    assert same(_anndata.opened(tmp_path / "t.h5ad").matrix.read(np.arange(N)), cells.X)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["f2", ">f4"])
@pytest.mark.parametrize("is_sparse", [True, False])
def test_types_that_scipy_does_not_know_are_read(dtype: str, is_sparse: bool, tmp_path: Path, cells: AnnData) -> None:
    """Half precision, and bytes in the other order."""
    made, key = cells.copy(), "X/data" if is_sparse else "X"
    made.X = cells.X if is_sparse else cells.X.toarray()
    made.write_h5ad(tmp_path / "t.h5ad")
    with h5py.File(tmp_path / "t.h5ad", "a") as file:
        values, attributes = file[key][:].astype(dtype), dict(file[key].attrs)
        del file[key]
        file[key] = values
        file[key].attrs.update(attributes)
    assert same(_anndata.opened(tmp_path / "t.h5ad").matrix.read(np.arange(N)), cells.X)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (255, np.uint8),
        (256, np.int16),
        (32_767, np.int16),
        (32_768, np.int32),
        ((1 << 24) + 1, np.int32),
        (1 << 31, np.float64),
        (0.5, np.float64),
        (0.1, np.float64),
        (-3.0, np.int16),
        (np.nan, np.float64),
    ],
)
def test_the_smallest_type_that_is_exact(largest: float, dtype: Any) -> None:
    values = np.array([[1.0, 0.0], [largest, 2.0]])
    found = matrix_of(values, "X").read(np.arange(2))  # type: ignore[union-attr]
    assert found.dtype == dtype
    assert np.array_equal(found.toarray(), values, equal_nan=True)


def test_pieces_of_several_types_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few cells at a time: what is read at once stays near a block, whatever was asked for."""
    monkeypatch.setattr(_matrices, "BLOCK", 64)
    values = np.arange(4000.0).reshape(1000, 4)
    matrix = matrix_of(values, "X")
    assert matrix is not None
    assert matrix.step() == Joined([matrix, matrix], "X").step() == 64 // 3  # by the values that are stored
    sizes: list[int] = []
    spans = matrix.spans
    monkeypatch.setattr(matrix, "spans", lambda some: (sizes.append(sum(b - a for a, b in some)), spans(some))[1])
    rows = np.flatnonzero(np.arange(1000) % 5 < 3)
    found = matrix.read(rows)
    assert found.dtype == np.int16
    assert same(found, sparse.csr_matrix(values[rows]))
    assert max(sizes) <= 2 * 21
    assert sum(sizes) >= 990


def test_a_file_is_open_only_while_it_is_read(tmp_path: Path, cells: AnnData) -> None:
    cells.write_h5ad(tmp_path / "c.h5ad")
    matrix = _anndata.opened(tmp_path / "c.h5ad").matrix  # type: ignore[union-attr]
    matrix.read(np.arange(5))
    with h5py.File(tmp_path / "c.h5ad", "a") as file:  # an error where somebody has it open
        file["X/data"][0] = 7
    with pytest.raises(InputError, match=r"c\.h5ad' was written to while its cells were read"):
        matrix.read(np.arange(5))


@pytest.mark.parametrize(
    ("entry", "place", "value", "said"),
    [
        ("indices", 3, 1000, r"'d.h5ad'.X is damaged: there are genes beyond its 30"),
        ("indices", 3, -1, r"'d.h5ad'.X is damaged: there are genes beyond its 30"),
        ("indptr", 5, 1, r"'d.h5ad'.X is damaged: cells do not begin where one before ends"),
        ("indptr", N, 1 << 30, r"'d.h5ad'.X is damaged: cells do not begin"),
    ],
)
def test_a_damaged_file(entry: str, place: int, value: int, said: str, tmp_path: Path, cells: AnnData) -> None:
    cells.write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "a") as file:
        file["X"][entry][place] = value
    with pytest.raises(InputError, match=said):
        scflow.tl.train(tmp_path / "d.h5ad", **QUICK)


def test_of_uns_only_what_is_of_use(tmp_path: Path, cells: AnnData) -> None:
    made = cells.copy()
    scflow.pp.log1p_standardize(made)
    made.uns["huge"] = np.zeros(1000)
    made.write_h5ad(tmp_path / "u.h5ad")
    with h5py.File(tmp_path / "u.h5ad", "a") as file:
        file["uns"].create_group("odd").attrs["encoding-type"] = "of a later version"
    store = _anndata.opened(tmp_path / "u.h5ad")
    assert store is not None
    assert list(store.cells.uns) == ["scflow_pp"]
    other = _anndata.opened(tmp_path / "u.h5ad", key_added="mine")
    assert other is not None
    assert not other.cells.uns


@pytest.mark.parametrize(
    ("version", "kind"), [(2, "sparse"), (2, "dense"), (3, "sparse"), (3, "dense"), (3, "sharded")]
)
def test_zarr_of_both_versions(version: int, kind: str, tmp_path: Path, cells: AnnData) -> None:
    pytest.importorskip("zarr")
    made = cells.copy()
    made.X = cells.X if kind != "dense" else cells.X.toarray()
    chunks = {"sparse": {}, "dense": {"chunks": (50, 7)}, "sharded": {"chunks": (64,), "shards": (1024,)}}[kind]
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = version
    try:
        made.write_zarr(tmp_path / "z.zarr") if not chunks else _write_chunked(made, tmp_path / "z.zarr", chunks)
    finally:
        anndata.settings.zarr_write_format = before
    matrix = _anndata.opened(tmp_path / "z.zarr").matrix  # type: ignore[union-attr]
    for rows in (np.arange(N), np.array([0, 7, 8, 100, 239]), np.flatnonzero(np.arange(N) % 50 < 20)):
        assert same(matrix.read(rows), cells.X[rows])
    assert kind != "sharded" or matrix.grain < 64  # a chunk within a shard can be read alone


def _write_chunked(adata: AnnData, path: Path, chunks: dict[str, Any]) -> None:
    import zarr

    def write(elem_writer: Any, store: Any, key: str, elem: Any, dataset_kwargs: Any, iospec: Any) -> None:
        own = chunks if key in ("X", "/X") else {}
        elem_writer(store, key, elem, dataset_kwargs={**dataset_kwargs, **own})

    root = zarr.open_group(path, mode="w", zarr_format=anndata.settings.zarr_write_format)
    anndata.experimental.write_dispatched(root, "/", adata, callback=write)


def test_files_whose_columns_differ(tmp_path: Path, cells: AnnData, quick: None) -> None:
    """Categories are those of all files; a column that one lacks is said to be without values there."""
    first, second = cells[:100].copy(), cells[100:].copy()
    second.obs["cell_type"] = second.obs["cell_type"].astype(str).replace({"type_0": "another"})
    for name, part in (("a", first), ("b", second)):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    store = _anndata.opened(files)
    assert store is not None
    expected = [*cells.obs["cell_type"].astype(str)[:100], *second.obs["cell_type"].astype(str)]
    assert store.cells.obs["cell_type"].astype(str).tolist() == expected
    assert len(scflow.tl.train(files, **QUICK).conditions.columns[0].categories) == len(set(expected))  # type: ignore[union-attr]
    del second.obs["cell_type"]
    second.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(InputError, match=rf"no value for 140 of 240 cells \(first: '{cells.obs_names[100]}'"):
        scflow.tl.train(files, **QUICK)


def test_files_without_cells(tmp_path: Path, cells: AnnData) -> None:
    cells[:0].copy().write_h5ad(tmp_path / "none.h5ad")
    cells.write_h5ad(tmp_path / "all.h5ad")
    store = _anndata.opened([tmp_path / "none.h5ad", tmp_path / "all.h5ad", tmp_path / "none.h5ad"])
    assert store is not None
    assert same(store.matrix.read(np.array([0, 5, 239])), cells.X[[0, 5, 239]])
    assert same(sparse.vstack(list(store.matrix.blocks()), format="csr"), cells.X)
    with pytest.raises(InputError, match="adata has 0 cells"):
        scflow.tl.train([tmp_path / "none.h5ad"], **QUICK)


def test_what_is_in_memory_is_no_store(cells: AnnData) -> None:
    assert _anndata.opened(cells) is None
    assert _anndata.opened(cells[:5]) is None
    assert _anndata.opened(np.zeros(3)) is None


# The one pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [1e4, "median"])
def test_statistics_are_those_in_memory(kind: str, target: Any, cells: AnnData, folder: Path) -> None:
    expected = gene_statistics(sparse.csr_matrix(cells.X), target)
    given = source(kind, cells, folder)
    file = folder / "all.h5ad"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    found = scflow.pp.log1p_standardize(given, target_sum=target)
    found = given if found is None else found
    assert np.array_equal(np.asarray(found.var["scflow_mean"]), expected.mean)
    assert np.array_equal(np.asarray(found.var["scflow_sd"]), expected.sd)
    assert np.array_equal(np.asarray(found.var["scflow_dropout"]), expected.dropout)
    assert found.uns["scflow_pp"]["target_sum"] == expected.target_sum
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("step", [1, 17, 100, N])
@pytest.mark.parametrize("chunk", [1, 60, 1 << 20])
def test_cuts_do_not_depend_on_blocks(step: int, chunk: int, cells: AnnData) -> None:
    counts = sparse.csr_matrix(cells.X)
    blocks = (counts[i : i + step] for i in range(0, N, step))
    found = statistics_of(rechunked(blocks, chunk), 1e4)
    expected = gene_statistics(counts, 1e4, chunk=chunk)
    for name in ("mean", "sd", "dropout"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "1 NaN"), (-1, "1 negative"), (0.5, "1 not whole numbers")])
def test_no_count_is_named(
    value: float, kind: str, tmp_path: Path, cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_survey, "rechunked", functools.partial(rechunked, chunk=100))
    made = cells.copy()
    row, place = 201, cells.X.indptr[201]
    made.X.data[place] = value
    made.write_h5ad(tmp_path / "bad.h5ad")
    names = f"{cells.obs_names[row]}', gene '{cells.var_names[cells.X.indices[place]]}'"
    with pytest.raises(InputError, match=rf"'bad.h5ad'.X holds values that are not counts: {kind} in.*{names}"):
        scflow.pp.log1p_standardize(tmp_path / "bad.h5ad")


def test_cells_that_cannot_be_learnt_from(tmp_path: Path, cells: AnnData) -> None:
    made = cells.copy()
    made.X = sparse.csr_matrix(cells.X.toarray() * (np.arange(N) % 50 != 7)[:, None])
    made.write_h5ad(tmp_path / "empty.h5ad")
    first = cells.obs_names[7]
    with pytest.raises(InputError, match=rf"5 of {N} cells have no counts in 'empty.h5ad'.X \(first: '{first}'"):
        scflow.pp.log1p_standardize(tmp_path / "empty.h5ad")
    made.X = sparse.csr_matrix(np.tile(cells.X[0].toarray(), (N, 1)))
    made.write_h5ad(tmp_path / "same.h5ad")
    with pytest.raises(InputError, match=rf"Every gene is constant across the {N} cells of 'same.h5ad'.X"):
        scflow.pp.log1p_standardize(tmp_path / "same.h5ad")


# In which order


def test_every_cell_once_a_pass(small_pools: None) -> None:
    with_holes = torch.arange(1000)[torch.arange(1000) % 7 != 3]
    pools = Pools(streamed(1000), with_holes[torch.randperm(len(with_holes), generator=rng(5))], 16, rng())
    batches = list(islice(pools, 2 * (len(with_holes) // 16)))
    for one in (batches[: len(batches) // 2], batches[len(batches) // 2 :]):
        shown = torch.cat(one)
        assert len(shown.unique()) == len(shown) == len(with_holes) // 16 * 16
        assert torch.isin(shown, with_holes).all()
    assert not torch.equal(batches[0], batches[len(batches) // 2])


def test_a_batch_holds_its_own_cells_counts(small_pools: None) -> None:
    source = streamed(500)
    for rows in islice(Pools(source, torch.arange(500), 20, rng()), 60):
        assert torch.equal(source.dense(rows)[:, 0], rows + 1.0)
        assert source.pool is not None
        assert torch.isin(rows, source.pool.rows).all()
    beyond = torch.tensor([3, 1, 4])  # of the part
    assert torch.equal(source.dense(beyond)[:, 0], beyond + 1.0)
    nowhere = torch.tensor([400, 2, 77, 400])
    assert torch.equal(source.dense(nowhere)[:, 0], nowhere + 1.0)


def test_same_seed_same_order(small_pools: None) -> None:
    before = torch.get_rng_state()

    def first(seed: int) -> torch.Tensor:
        return torch.stack(list(islice(Pools(streamed(300), torch.arange(300), 10, rng(seed)), 70)))

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("done", [0, 1, 7, 29, 30, 31, 64])
def test_an_order_goes_on_where_it_stood(done: int, small_pools: None) -> None:
    rows = torch.arange(305)
    whole = list(islice(Pools(streamed(305), rows, 10, rng()), done + 40))
    broken = Pools(streamed(305), rows, 10, rng())
    for _ in islice(broken, done):
        pass
    again = Pools(streamed(305), rows, 10, rng(99))
    again.restore(*broken.state())
    assert all(torch.equal(a, b) for a, b in zip(islice(again, 40), whole[done:], strict=True))


def test_close_to_a_full_shuffle() -> None:
    """Variance of a batch's mean of what is sorted along the file, over that of a full shuffle."""
    n, size = 200_000, 256

    def variance(order: Any) -> float:
        return float(torch.stack([rows.double().mean() for rows in islice(order, 3 * n // size)]).var())

    full = variance(Order(torch.arange(n), size, rng()))
    fine = variance(Pools(streamed(n), torch.arange(n), size, rng()))
    wide = streamed(n, grain=1000)
    wide.per_cell = stored.POOL_VALUES / stored.POOL  # no room for a larger pool
    coarse = variance(Pools(wide, torch.arange(n), size, rng()))
    roomy = variance(Pools(streamed(n, grain=200), torch.arange(n), size, rng()))
    assert full == pytest.approx(n**2 / 12 / size, rel=0.1)
    assert 1.1 < fine / full < 1.8  # by the formula: 1.5 for blocks of a 512th of a pool
    assert coarse / full > 3.0  # blocks of a thousand in pools of 32: what larger ones cost ...
    assert 1.1 < roomy / full < 1.8  # ... unless pools are larger too


def test_memory_is_of_the_pool_and_not_of_the_cells() -> None:
    largest = []
    for n in (100_000, 400_000):
        source = streamed(n)
        for _ in islice(Pools(source, torch.arange(n), 512, rng()), n // 512):
            pass
        largest.append(max(source.counts.sizes))  # type: ignore[attr-defined]
    assert max(largest) < 1.5 * stored.POOL
    wide = streamed(100_000)
    wide.per_cell = stored.POOL_VALUES / 2000
    assert Pools(wide, torch.arange(100_000), 512, rng()).size <= 2048
    assert Pools(wide, torch.arange(2900), 512, rng()).size <= 2048  # not one pool of nearly half as many more


def test_reading_is_done_by_a_thread_that_ends() -> None:
    def reading() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("scflow-read")]

    source = streamed(100_000)
    order = iter(Pools(source, torch.arange(100_000), 512, rng()))
    next(order)
    assert reading()
    source.close()
    assert not reading()
    assert {name[:11] for name in source.counts.threads} == {"MainThread", "scflow-read"}  # type: ignore[attr-defined]


def test_a_failing_disk_ends_the_training() -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in islice(Pools(streamed(100_000, fail_after=2), torch.arange(100_000), 512, rng()), 500):
            pass


def test_summaries_are_those_in_memory(monkeypatch: pytest.MonkeyPatch, cells: AnnData, folder: Path) -> None:
    monkeypatch.setattr(stored, "PIECE", 100)
    counts, device = sparse.csr_matrix(cells.X), torch.device("cpu")
    codec = Counts.start(counts, None, latent=3).eval()
    expected = Summarized(Cells(counts, device), codec, None).summaries
    matrix = opened("h5ad", cells, folder).matrix
    found = Stored(matrix, torch.arange(1), counts[:1]).streamed(device).states(codec, None)
    assert isinstance(found, Summarized)
    assert torch.equal(found.summaries, expected)


def test_the_part_is_of_both_kinds_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "PART", 100)
    monkeypatch.setattr(stored, "_LOOKED_AT", 20)
    order = torch.randperm(1000, generator=rng())
    run = Run(order[100:], order[:100], 32, 0, torch.device("cpu"))
    rows = stored.part_of(run)
    assert torch.equal(rows, torch.cat([order[:20], order[100:180]]).sort().values)
    own = Stored(Fake(1000), rows, sparse.csr_matrix((100, 2))).within(run)
    assert torch.equal(rows[own.validation], order[:20])
    assert torch.equal(rows[own.train], order[100:180])


# Training


def weights(flow: Flow) -> torch.Tensor:
    return torch.cat([p.flatten() for p in [*flow.field.parameters(), *flow.codec.buffers(), *flow.codec.parameters()]])


@pytest.fixture(scope="module")
def from_memory(cells: AnnData) -> Flow:
    patch = pytest.MonkeyPatch()
    patch.setattr(_learning, "_DRAWN", 200)
    patch.setattr(_learning, "_WIDEST", 1)
    flow = scflow.tl.train(cells.copy(), **QUICK)
    patch.undo()
    return flow


@pytest.mark.parametrize("kind", ["backed", "zarr", "lazy", "list", "collection"])
def test_few_cells_give_the_flow_that_they_give_from_memory(
    kind: str, cells: AnnData, folder: Path, from_memory: Flow, quick: None
) -> None:
    given = source(kind, cells, folder)
    flow = scflow.tl.train(given, **QUICK)
    assert torch.equal(weights(flow), weights(from_memory))
    assert flow.history["loss"].equals(from_memory.history["loss"])
    assert flow.provenance["layer"] == "X"
    if kind in ("backed", "lazy"):
        assert "scflow" in given.uns
        again = scflow.tl.generate(given, 20, progress=False)
        assert same(again.layers["counts"], scflow.tl.generate(from_memory, 20, progress=False).layers["counts"])


def test_many_cells_are_streamed(cells: AnnData, folder: Path, streaming: None) -> None:
    memory = scflow.tl.train(cells.copy(), **QUICK, space="genes")
    one, two = (scflow.tl.train(folder / "all.h5ad", **QUICK, space="genes") for _ in range(2))
    assert torch.equal(weights(one), weights(two))
    assert one.provenance["n_cells"] == N
    assert one.provenance["n_cells_in_memory"] == 128
    near = [float(flow.history["validation_loss"].min()) for flow in (memory, one)]
    assert near[1] == pytest.approx(near[0], rel=0.1)
    assert not [t for t in threading.enumerate() if t.name.startswith("scflow-read")]
    backed = anndata.read_h5ad(folder / "all.h5ad", backed="r")
    flow = scflow.tl.train(backed, **QUICK)
    assert flow.codec.name == "counts"
    assert len(flow.seen) == N
    assert np.array_equal(backed.var["scflow_mean"], gene_statistics(sparse.csr_matrix(cells.X)).mean)
    assert scflow.tl.generate(flow, 10, progress=False).shape == (10, 30)


def test_a_streamed_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path, streaming: None) -> None:
    settings = {**QUICK, "space": "genes", "steps": 24}
    unbroken = scflow.tl.train(folder / "all.h5ad", **settings)
    run = tmp_path / "run"

    def stop(row: Any) -> None:
        if row["step"] == 7:
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        scflow.tl.train(folder / "all.h5ad", **settings, checkpoint=run, callbacks=[stop])
    assert not [t for t in threading.enumerate() if t.name.startswith("scflow-read")]
    again = scflow.tl.train(folder / "all.h5ad", **settings, checkpoint=run, resume=True)
    assert torch.equal(weights(again), weights(unbroken))
    other = [folder / "second.h5ad", folder / "first.h5ad"]
    with pytest.raises(InputError, match="cells or their counts are other ones"):
        scflow.tl.train(other, **settings, checkpoint=run, resume=True)


def test_a_disk_that_fails_in_mid_run(folder: Path, streaming: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong in the thread is raised where the cells are needed, and nobody is left waiting."""
    spans, left = _matrices.Compressed.spans, [4]

    def failing(self: Any, some: Any) -> Any:
        if threading.current_thread().name.startswith("scflow-read"):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("the disk is gone")
        return spans(self, some)

    monkeypatch.setattr(_matrices.Compressed, "spans", failing)
    backed = anndata.read_h5ad(folder / "all.h5ad", backed="r+")
    with pytest.raises(OSError, match="the disk is gone"):
        scflow.tl.train(backed, **{**QUICK, "steps": 200}, space="genes")
    assert not [t for t in threading.enumerate() if t.name.startswith("scflow-read")]
    assert not backed.uns
    assert not [column for column in backed.var if column.startswith("scflow")]
    backed.file.close()


def test_an_interrupt_keeps_the_flow_and_no_thread(
    folder: Path, streaming: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(row: Any) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    settings = {**QUICK, "space": "genes", "progress": True}
    flow = scflow.tl.train(folder / "all.h5ad", **settings, callbacks=[stop])
    assert flow.provenance["interrupted"]
    assert not [t for t in threading.enumerate() if t.name.startswith("scflow-read")]
    assert "240 cells, 128 of them in memory, 30 genes in genes space" in capsys.readouterr().out


def test_from_the_shell(folder: Path, tmp_path: Path, from_memory: Flow, quick: None) -> None:
    out = tmp_path / "flow.safetensors"
    given = ["--condition", "cell_type", "--steps", "30", "--batch-size", "32", "--no-progress"]
    assert main(["train", str(folder / "all.zarr"), "--out", str(out), *given]) == 0
    assert torch.equal(weights(Flow.load(out)), weights(from_memory))
    assert main(["train", str(folder / "all.zarr"), "--out", str(tmp_path / "c.h5ad"), *given]) == 1


def test_an_embedding_of_a_file(cells: AnnData, tmp_path: Path) -> None:
    made = cells.copy()
    made.obsm["X_two"] = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    made.write_h5ad(tmp_path / "e.h5ad")
    flow = scflow.tl.train(tmp_path / "e.h5ad", **QUICK, use_rep="X_two")
    assert torch.equal(weights(flow), weights(scflow.tl.train(made, **QUICK, use_rep="X_two")))
    with pytest.raises(InputError, match=r"'e.h5ad' has no embedding 'X_too'.* 'X_two'"):
        scflow.tl.train(tmp_path / "e.h5ad", **QUICK, use_rep="X_too")


# What cannot be


def test_what_cannot_be_read(cells: AnnData, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.h5ad").write_text("no cells")
    backed = anndata.read_h5ad(folder / "all.h5ad", backed="r")
    fewer = cells[:, :20].copy()
    other = cells[:, ::-1].copy()
    for given, said in (
        (tmp_path / "no.h5ad", r"There is no '.*no\.h5ad'. Check the path"),
        ("cells.csv", r"ends in '\.csv'; expected cells in '\.h5ad', '\.zarr'"),
        (
            "s3://bucket/cells.zarr",
            r"is no path of this machine\. Open it lazily.*read_lazy\('s3://bucket/cells\.zarr'\)",
        ),
        (tmp_path / "broken.h5ad", r"broken\.h5ad' cannot be read as an h5ad file"),
        (backed[:50], r"adata is a view of cells that are not in memory.*adata = adata\.to_memory\(\)"),
        ([], r"adata is an empty list"),
        ([cells, 3], r"adata\[1\] is a int; expected a path, or an AnnData"),
        ([cells, fewer], r"adata\[1\] has other genes than adata\[0\]: it lacks 10 \("),
        ([cells, other], r"in another order \(gene 0 is '.*', not '.*'\).*concat_on_disk"),
        (AnnCollection([cells, cells], index_unique="-")[:50], r"adata is a view of an AnnCollection"),
        (AnnCollection([cells, cells], convert=lambda x: x), r"that converts its values. Make it without convert="),
    ):
        with pytest.raises(InputError, match=said):
            scflow.tl.train(given, **QUICK)


def test_what_takes_cells_in_memory(folder: Path, streaming: None) -> None:
    with pytest.raises(InputError, match=r"source= takes cells in memory; of the 240 of 'all.h5ad'.*to_memory"):
        scflow.tl.train(folder / "all.h5ad", source={"batch": "batch_0"}, progress=False)
    for option in ("copy", "write_layer"):
        with pytest.raises(InputError, match=rf"{option}=True takes cells in memory, and 'all.h5ad' is not"):
            scflow.pp.log1p_standardize(folder / "all.h5ad", **{option: True})


def test_matrices_that_are_none() -> None:
    assert matrix_of(object(), "X") is None
    assert isinstance(Joined([matrix_of(np.ones((2, 3)), "a"), matrix_of(np.ones((1, 3)), "b")], "X"), Matrix)  # type: ignore[list-item]
