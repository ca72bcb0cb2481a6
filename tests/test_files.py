"""Files are there whole or not at all, and one that is not what it says raises one error. Old ones load."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import damages
import numpy as np
import pytest
from anndata import AnnData

import scflow
from scflow import _file
from scflow.__main__ import main
from scflow.errors import FileError
from scflow.flow import Flow
from scflow.training import Checkpoint, Checkpoints

DATA = Path(__file__).parent / "data"
FIXTURES = sorted(DATA.glob("format-*/*.safetensors"))
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals, links and devices are those of a POSIX system")

sys.path.insert(0, str(DATA))
from make import drawn  # noqa: E402


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "flow.safetensors"
    path.write_bytes((DATA / "format-1" / "embedding.safetensors").read_bytes())
    return path


# ---- formats


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_flow_of_every_released_format_draws_the_cells_it_drew(path: Path) -> None:
    """Within rounding: 1e-4 of a standard deviation, and of counts no more than one in fifty."""
    found, kept = drawn(Flow.load(path)), np.load(path.with_suffix(".npz"))
    assert set(found) == set(kept.files)
    for name in found:
        if name == "counts":
            assert (found[name] == kept[name]).mean() >= 0.98
        else:
            np.testing.assert_allclose(found[name], kept[name], rtol=1e-4, atol=1e-4)


def test_the_fixtures_are_small_and_of_every_kind() -> None:
    names = {path.stem for path in FIXTURES if path.parent.name == "format-1"}
    assert names == {"counts", "genes", "quantile", "pca", "embedding", "carrying", "course", "map"}
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 300_000


# ---- damage


def test_a_file_cut_anywhere_is_refused(saved: Path) -> None:
    assert [what for what, good in damages.truncations(saved, Flow.load) if not good] == []


def test_a_bit_turned_anywhere_is_found(saved: Path) -> None:
    assert [what for what, good in damages.flips(saved, Flow.load) if not good] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "It is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
        (b"PK\x03\x04" + bytes(100), "may hold a pickle"),
        (b"\x80\x04\x95" + bytes(100), "a pickle, which is never read"),
        (b"cells,genes\n", "or something else"),
        ((10**15).to_bytes(8, "little") + b"{}", "cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=told):
        Flow.load(path)


@POSIX
def test_what_is_no_file_is_neither_read_nor_replaced(saved: Path, tmp_path: Path) -> None:
    flow, special = Flow.load(saved), {"fifo": tmp_path / "fifo.safetensors", "device": Path("/dev/null")}
    os.mkfifo(special["fifo"])
    for kind, path in special.items():
        with pytest.raises(FileError, match=rf"There is no file '.*': it is a {kind}"):
            Flow.load(path)
        with pytest.raises(FileError, match=rf"it is a {kind}, which is not replaced"):
            flow.save(path, overwrite=True)
        with pytest.raises(FileError, match=rf"it is a {kind}, which is not replaced"):
            _file.write_bytes(path, b"new")
        with pytest.raises(FileError, match=rf"it is a {kind}, which is not replaced"):
            scflow.tl.report(AnnData(np.eye(2)), AnnData(np.eye(2)), path=path, overwrite=True)
    os.mkfifo(tmp_path / "new.h5ad")
    with pytest.raises(FileError, match="it is a fifo"):
        scflow.tl.generate(flow, 5, out=tmp_path / "new.h5ad", overwrite=True)
    assert main(["generate", str(saved), "--n-obs", "3", "--out", str(tmp_path / "new.h5ad"), "--overwrite"]) == 1
    assert stat.S_ISFIFO((tmp_path / "new.h5ad").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "s"))
        with pytest.raises(FileError, match="it is a socket"):
            _file.write_bytes(tmp_path / "s", b"new")


# ---- links and permissions


@POSIX
def test_a_link_stays_one_and_what_it_leads_to_is_replaced(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(real)  # to nothing, so far
    Flow.load(saved).save(link)
    assert link.is_symlink()
    assert Flow.load(real).genes == Flow.load(link).genes
    _file.write_bytes(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    round_ = tmp_path / "round"
    round_.symlink_to(round_)
    with pytest.raises(FileError, match="a link that leads to itself"):
        _file.write_bytes(round_, b"new")


@POSIX
def test_a_file_that_is_replaced_keeps_its_permissions(saved: Path) -> None:
    flow = Flow.load(saved)
    for mode in (0o600, 0o640):
        saved.chmod(mode)
        flow.save(saved, overwrite=True)
        assert stat.S_IMODE(saved.stat().st_mode) == mode


def test_the_umask_is_never_touched(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: a thread that makes a file meanwhile would get another mode."""
    monkeypatch.setattr(os, "umask", lambda *_: pytest.fail("the umask was set"))
    Flow.load(saved).save(saved.with_name("new.safetensors"))


# ---- full disks, kills, several writers


@POSIX
def test_a_full_disk_leaves_the_old_file_and_says_what_is_needed(tmp_path: Path) -> None:
    assert [what for what, good in damages.full_disks(tmp_path) if not good] == []


@POSIX
def test_a_full_file_system(tmp_path: Path) -> None:
    """A file system of 256 kB, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(argv, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        old = folder / "old.bin"
        old.write_bytes(b"old")
        with pytest.raises(
            FileError, match=r"No space left on device\. 500,000 bytes are needed; [\d,]+ are free in '"
        ):
            _file.write_bytes(old, b"n" * 500_000)
        assert old.read_bytes() == b"old"
        assert os.listdir(folder) == ["old.bin"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@POSIX
def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    assert [what for what, good in damages.kills(tmp_path, 4) if not good] == []


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    assert [what for what, good in damages.writers(tmp_path, 20) if not good] == []


@POSIX
def test_what_a_kill_left_is_swept_where_nobody_writes_to_it(tmp_path: Path) -> None:
    """Of this very target, a day old, and not locked."""
    target = tmp_path / "x.bin"
    names = [f".x.bin.{i:016x}.part.bin" for i in range(4)]
    for name in [*names, ".other.bin.0000000000000000.part.bin"]:
        (tmp_path / name).write_bytes(b"half")
    day_ago = time.time() - 90_000
    for name in names[:2]:
        os.utime(tmp_path / name, (day_ago, day_ago))
    import fcntl

    with open(tmp_path / names[1]) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not _file.abandoned(tmp_path / names[1])
        assert _file.abandoned(tmp_path / names[2])
        _file.write_bytes(target, b"new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"x.bin", *names[1:], ".other.bin.0000000000000000.part.bin"}


@POSIX
def test_a_run_sweeps_its_folder_at_once_but_not_what_is_being_written(tmp_path: Path) -> None:
    import fcntl

    for name in (".flow-1.safetensors.a", ".flow-2.safetensors.b"):
        (tmp_path / name).write_bytes(b"half")
    with open(tmp_path / ".flow-2.safetensors.b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Checkpoints(Checkpoint(tmp_path), {}, resume=True)
    assert os.listdir(tmp_path) == [".flow-2.safetensors.b"]


def test_names_of_any_length_and_letters_are_written(tmp_path: Path) -> None:
    for name in ("ü" * 120, "x" * 250, "a b'\"$;.bin", "-rf"):
        _file.write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    with pytest.raises(FileError, match="Cannot write to"):
        _file.write_bytes(tmp_path / "a\0b", b"new")


def test_a_zarr_store_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    AnnData(np.eye(2)).write_zarr(target)
    with _file.beside(target) as made:
        (made / "zarr.json").write_text("{}")
        assert (target / "X").exists()
    assert os.listdir(target) == ["zarr.json"]
    assert os.listdir(tmp_path) == ["x.zarr"]
