"""Cells that are written as they are drawn: the file is what is returned, is there whole, and takes little memory."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import Exact
from scipy import sparse

import scflow
from scflow import _file
from scflow._anndata import growing
from scflow._anndata._growing import Growing
from scflow.errors import FileError, InputError
from scflow.flow import Flow, Sampling, _balance, _riding
from scflow.tl._course import Trip
from scflow.tl._drawn_at import Day

pytestmark = pytest.mark.usefixtures("small_flows")

ENDINGS = ("h5ad", "zarr")
QUICK: dict[str, Any] = {"steps": 2, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def flow(_simulated: AnnData, small_flows: None) -> Flow:
    return scflow.tl.train(_simulated.copy(), condition=["cell_type", "batch"], steps=10, device="cpu", progress=False)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of one tile, and chunks on disk that no block fills evenly."""
    monkeypatch.setattr(_balance, "_FEWEST", 256)
    monkeypatch.setattr(_balance, "_WIDEST", 0)
    monkeypatch.setattr("scflow._anndata._growing._IN_H5AD", 1000)
    monkeypatch.setattr("scflow._anndata._growing._IN_ZARR", 1000)
    return


def read(path: Path) -> AnnData:
    return anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)


def assert_same(a: AnnData, b: AnnData) -> None:
    """The same slots, types and bits."""
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert set(a.layers) == set(b.layers)
    pairs = [(a.layers[name], b.layers[name]) for name in a.layers]
    assert (a.X is None) == (b.X is None)
    for x, y in [*pairs, *([] if a.X is None else [(a.X, b.X)])]:
        assert type(x) is type(y)
        assert x.shape == y.shape
        for part in ("data", "indices", "indptr"):
            assert getattr(x, part).dtype == getattr(y, part).dtype
            np.testing.assert_array_equal(getattr(x, part), getattr(y, part))
    assert set(a.obsm) == set(b.obsm)
    for name in a.obsm:
        assert a.obsm[name].dtype == b.obsm[name].dtype
        np.testing.assert_array_equal(a.obsm[name], b.obsm[name])
    for part in ("obsp", "varm", "varp"):
        assert not len(getattr(a, part))
        assert not len(getattr(b, part))
    assert_same_facts(dict(a.uns), dict(b.uns))


def assert_same_facts(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert set(a) == set(b)
    for name in a:
        if isinstance(a[name], dict):
            assert_same_facts(a[name], b[name])
        else:
            np.testing.assert_array_equal(np.asarray(a[name]).tolist(), np.asarray(b[name]).tolist(), err_msg=name)


# ---- what is in the file


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("calibration", ["balanced", "independent", "none"])
@pytest.mark.usefixtures("small_blocks")
def test_the_file_is_what_is_returned(flow: Flow, tmp_path: Path, calibration: str, ending: str) -> None:
    given = QUICK | {"calibration": calibration, "seed": 3}
    path = scflow.tl.generate(flow, 700, out=str(tmp_path / f"new.{ending}"), **given)
    assert path == tmp_path / f"new.{ending}"
    assert_same(read(path), scflow.tl.generate(flow, 700, **given))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_blocks")
def test_conditions_that_are_asked_for(flow: Flow, tmp_path: Path, ending: str) -> None:
    asked = {"cell_type": ["type_1", "type_0"] * 150}
    path = scflow.tl.generate(flow, 300, condition=asked, out=tmp_path / f"new.{ending}", **QUICK)
    assert_same(read(path), scflow.tl.generate(flow, 300, condition=asked, **QUICK))
    assert read(path).obs["cell_type"].tolist() == asked["cell_type"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_blocks")
def test_a_solver_that_chooses_its_steps_has_the_same_number_of_evaluations(
    flow: Flow, tmp_path: Path, ending: str
) -> None:
    pytest.importorskip("torchdiffeq")
    given = QUICK | {"solver": "dopri5", "steps": "auto"}
    path = scflow.tl.generate(flow, 300, out=tmp_path / f"new.{ending}", **given)
    assert_same(read(path), scflow.tl.generate(flow, 300, **given))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_blocks")
def test_cells_without_counts_or_conditions(clusters: Exact, ring: Exact, tmp_path: Path, ending: str) -> None:
    for name, exact in (("clusters", clusters), ("ring", ring)):
        path = scflow.tl.generate(exact.flow, 600, out=tmp_path / f"{name}.{ending}", **QUICK)
        assert_same(read(path), scflow.tl.generate(exact.flow, 600, **QUICK))
        assert read(path).X is None


@pytest.fixture(scope="module")
def days(_simulated: AnnData, small_flows: None) -> tuple[AnnData, Flow]:
    """A course of three days, and its cells."""
    cells = _simulated.copy()
    cells.obs["day"] = [float(i % 3) for i in range(cells.n_obs)]
    return cells, scflow.tl.train(cells, course="day", steps=10, device="cpu", progress=False)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_blocks")
def test_cells_of_a_day_of_a_course(
    days: tuple[AnnData, Flow], tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks, of which none is there with the next."""
    cells, course = days
    given = QUICK | {"at": 0.5, "adata": cells}
    whole = scflow.tl.generate(course, 600, **given)
    seen: list[weakref.ref[Any]] = []
    there: list[tuple[int, int]] = []
    append = Growing.append

    def noted(self: Any, block: AnnData) -> None:
        append(self, block)
        seen.append(weakref.ref(block.X))
        there.append((block.n_obs, sum(matrix() is not None for matrix in seen)))

    monkeypatch.setattr(Growing, "append", noted)
    path = scflow.tl.generate(course, 600, out=tmp_path / f"new.{ending}", **given)
    assert_same(read(path), whole)
    assert there == [(256, 1), (256, 1), (88, 1)]


def test_masses_of_cells_are_had_without_going_any_way(
    days: tuple[AnnData, Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan is asked where a cell sets off; where days are missing in between, the way to the last of them is gone."""
    cells, course = days
    lengths: list[float] = []
    moved = _riding._Ride._moved

    def seen(self: Any, x: Any, now: Any, until: Any) -> Any:
        lengths.append(round(float((until - now).abs().max()) * 2, 6))
        return moved(self, x, now, until)

    monkeypatch.setattr(_riding._Ride, "_moved", seen)
    first = cells[cells.obs["day"] == 0].copy()
    for at, to_know, to_go in ((0.5, 0.0, 0.5), (1.0, 0.0, 1.0), (1.5, 1.0, 1.5)):
        lengths.clear()
        day = Day.of(course, course.course, 20, at, first, QUICK | {"solver": "midpoint"})
        assert sum(lengths) == pytest.approx(to_know)
        lengths.clear()
        day.cells()
        assert sum(lengths) == pytest.approx(to_go)


def test_masses_alone_are_those_of_cells_that_are_carried(days: tuple[AnnData, Flow]) -> None:
    cells, course = days
    assert course.course is not None
    sampling, place = Sampling(steps=4), course.course.place
    for origin, day in ((0.0, 0.5), (0.0, 1.5), (0.0, 2.0), (1.0, 1.5), (1.0, 0.5)):
        trip = Trip.of(cells[cells.obs["day"] == origin].copy(), course, course.course, None)
        given = (trip.flow, trip.data, trip.departure, trip.course)
        stop = place(np.array([day])).tolist()
        _, masses = _riding.carry_each(*given, stop, sampling)
        np.testing.assert_array_equal(_riding.descendants(*given, stop[0], sampling), masses[0])


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_file_is_read_without_loading_it(flow: Flow, tmp_path: Path, ending: str) -> None:
    """Its layout is AnnData's own, at the root too."""
    path = scflow.tl.generate(flow, 30, out=tmp_path / f"new.{ending}", **QUICK)
    if ending == "h5ad":
        backed = anndata.read_h5ad(path, backed="r")
        np.testing.assert_array_equal(backed[3:5].X.toarray(), read(path)[3:5].X.toarray())
        backed.file.close()
    else:
        import zarr

        assert anndata.io.read_elem(zarr.open_group(path, mode="r")).shape == (30, 50)
    usual = tmp_path / f"usual.{ending}"
    cells = scflow.tl.generate(flow, 30, **QUICK)
    (cells.write_h5ad if ending == "h5ad" else cells.write_zarr)(usual)
    assert layout(path) == layout(usual)


def layout(path: Path) -> dict[str, Any]:
    """Every group and array of a file, with its encoding."""
    import h5py
    import zarr

    found: dict[str, Any] = {}

    def note(name: str, held: Any) -> None:
        # Where rows begin has an encoding of its own here, and zarr has a place for .raw.
        if not name.endswith(("indptr", "raw")):
            found[name] = {k: str(v) for k, v in held.attrs.items() if k.startswith("encoding")}

    if path.suffix == ".zarr":
        for name, held in zarr.open_group(path, mode="r").members(max_depth=None):
            note(name, held)
        note("/", zarr.open_group(path, mode="r"))
    else:
        with h5py.File(path) as file:
            file.visititems(note)
            note("/", file)
    return found


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_may_begin_beyond_32_bits(tmp_path: Path, ending: str) -> None:
    counts = sparse.csr_matrix(np.eye(4, dtype=np.int32))
    cells = AnnData(X=counts.astype(np.float32), layers={"counts": counts})
    with growing(tmp_path / f"new.{ending}") as file:
        file.append(cells)
        file.append(cells)
        assert file._store["layers"]["counts"]["indptr"].dtype == np.int64
        file.finish(anndata.concat([cells, cells], index_unique="-"))
    found = read(tmp_path / f"new.{ending}").layers["counts"]
    assert found.indptr.dtype == np.int32
    np.testing.assert_array_equal(found.toarray(), np.tile(np.eye(4), (2, 1)))


# ---- memory


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_blocks")
def test_a_block_is_gone_before_the_next_is_written(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    append, seen, there = scflow._anndata.Growing.append, [], []

    def noted(self: Any, cells: AnnData) -> None:
        append(self, cells)
        seen.append(weakref.ref(cells.X))
        there.append((cells.n_obs, sum(matrix() is not None for matrix in seen)))

    monkeypatch.setattr(scflow._anndata.Growing, "append", noted)
    scflow.tl.generate(flow, 1000, out=tmp_path / f"new.{ending}", **QUICK)
    assert there == [(256, 1), (256, 1), (256, 1), (232, 1)]


def peak(flow: Flow, n: int, out: Path | None) -> int:
    """The most that numpy and Python held at once, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        scflow.tl.generate(flow, n, out=out, **QUICK)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_blocks")
def test_memory_does_not_grow_with_the_matrices(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("scflow._anndata._growing._IN_ZARR", 50_000)
    few, many = 512, 1792
    peak(flow, 300, tmp_path / f"first.{ending}")  # modules are loaded
    found = [peak(flow, n, tmp_path / f"{n}.{ending}") for n in (few, many)]
    kept = [peak(flow, n, None) for n in (few, many)]
    each, each_kept = ((b - a) / (many - few) for a, b in (found, kept))
    cells = read(tmp_path / f"{many}.{ending}")
    matrices = (cells.X.nnz + cells.layers["counts"].nnz) * 8 + sum(x.nbytes for x in cells.obsm.values())
    assert each_kept > matrices / many
    assert each < 0.5 * matrices / many


# ---- whole or not at all


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.usefixtures("small_blocks")
def test_nothing_is_left_of_a_draw_that_ends_early(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, error: type[BaseException]
) -> None:
    there = scflow.tl.generate(flow, 20, out=tmp_path / f"there.{ending}", **QUICK)
    before = read(there)
    append, pieces = scflow._anndata.Growing.append, []

    def breaks(self: Any, cells: AnnData) -> None:
        append(self, cells)
        pieces.append(cells.n_obs)
        if len(pieces) == 3:
            raise error(28, "no space left on device")

    monkeypatch.setattr(scflow._anndata.Growing, "append", breaks)
    for path in (there, tmp_path / f"new.{ending}"):
        pieces.clear()
        with pytest.raises(FileError if error is OSError else error, match="no space left"):
            scflow.tl.generate(flow, 1000, out=path, overwrite=True, **QUICK)
        assert pieces == [256, 256, 256]
        assert list(tmp_path.iterdir()) == [there]
    assert_same(read(there), before)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_there_is_replaced_only_where_that_is_asked_for(flow: Flow, tmp_path: Path, ending: str) -> None:
    path = scflow.tl.generate(flow, 20, out=tmp_path / f"new.{ending}", **QUICK)
    with pytest.raises(FileError, match=r"exists. Replace it with overwrite=True"):
        scflow.tl.generate(flow, 30, out=path, **QUICK)
    assert read(path).n_obs == 20
    scflow.tl.generate(flow, 30, out=path, overwrite=True, **QUICK)
    assert read(path).n_obs == 30
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_there_stays_where_the_last_step_fails(tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"old.{ending}"
    AnnData(np.eye(2)).write_zarr(target) if ending == "zarr" else target.write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match="No such file or directory"), _file.beside(target) as made:
        shutil.rmtree(made) if ending == "zarr" else made.unlink()  # there is nothing to rename
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_paths_are_refused_before_any_work(flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Flow, "blocks", fails)
    (tmp_path / "photos.zarr").mkdir()
    (tmp_path / "photos.zarr" / "dog.png").touch()
    (tmp_path / "file.zarr").touch()
    given = [
        ("new.csv", r"ends in '.csv'; expected a path that ends in '.h5ad', '.zarr'"),
        ("new", r"ends in ''; expected"),
        ("nowhere/new.zarr", r"there is no folder '.*nowhere'. Make it first"),
        ("photos.zarr", r"it is a folder. Give another"),
        ("file.zarr/new.h5ad", r"there is no folder"),
    ]
    for name, message in given:
        with pytest.raises(FileError, match=message):
            scflow.tl.generate(flow, 10, out=tmp_path / name, overwrite=True, **QUICK)
    monkeypatch.setattr("tempfile.TemporaryFile", _refused)
    with pytest.raises(FileError, match=r"Cannot write to '.*new.zarr': Read-only file system"):
        scflow.tl.generate(flow, 10, out=tmp_path / "new.zarr", **QUICK)
    assert (tmp_path / "photos.zarr" / "dog.png").exists()


def _refused(*_: Any, **__: Any) -> None:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("given", [{"condition": {"cell_type": "no"}}, {"solver": "jump"}])
def test_what_cannot_be_drawn_leaves_no_file(flow: Flow, tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        scflow.tl.generate(flow, 10, out=tmp_path / "new.h5ad", **QUICK | given | {"steps": "auto"})
    assert not list(tmp_path.iterdir())
