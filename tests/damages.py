"""Faults made for real, for tests and for the table of them: each yields what was done, and whether it was survived.

A damaged file has to raise `FileError`, and one that was to be replaced has to be whole.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from scflow.errors import FileError

Tried = Iterator[tuple[str, bool]]

LIMITED = """
import resource, sys
from pathlib import Path
from scflow import _file
from scflow.errors import FileError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    _file.write_bytes(Path(sys.argv[1]), b"n" * 50_000)
except FileError as error:
    print(error)
else:
    sys.exit("written beyond the limit")
"""
LIMITED_CELLS = """
import resource, sys
from pathlib import Path
import anndata, numpy as np
from scipy import sparse
from scflow._anndata import growing
from scflow.errors import FileError
x = sparse.random(400, 200, density=0.5, format="csr", random_state=0, dtype="f4")
cells = anndata.AnnData(X=x, obsm={"X_a": np.random.default_rng(0).normal(size=(400, 20))})
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    with growing(Path(sys.argv[1])) as file:
        file.append(cells)
        file.append(cells)
        file.finish(anndata.concat([cells, cells], index_unique="-"))
except FileError as error:
    print(error)
else:
    sys.exit("written beyond the limit")
"""
WRITER = """
import sys
from pathlib import Path
from scflow import _file
target, letter = Path(sys.argv[1]), sys.argv[2].encode()
for i in range(int(sys.argv[3])):
    _file.write_bytes(target, letter * (300_000 + i))
    print("one", flush=True)
"""


def child(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def header_size(raw: bytes) -> int:
    """Bytes before the tensors."""
    return 8 + int.from_bytes(raw[:8], "little")


def refused(load: Callable[[Path], object], path: Path) -> bool:
    """Whether loading raises the documented error, and nothing else."""
    try:
        load(path)
    except FileError:
        return True
    return False


def truncations(path: Path, load: Callable[[Path], object], n: int = 40) -> Tried:
    """The file cut in its length, in its header, at the end of it, in and between tensors, and one byte short."""
    raw, cut = path.read_bytes(), path.with_name("cut.safetensors")
    size = header_size(raw)
    places = [0, 1, 7, 8, 9, size - 1, size, size + 1, len(raw) - 1]
    places += np.random.default_rng(0).integers(0, len(raw), n).tolist()
    for place in places:
        cut.write_bytes(raw[:place])
        yield f"cut at {place}", refused(load, cut)
    cut.unlink()


def flips(path: Path, load: Callable[[Path], object], n: int = 60) -> Tried:
    """A bit of a byte turned: in the length, in the header, and in the data of every tensor."""
    raw, bad = path.read_bytes(), path.with_name("bad.safetensors")
    size, rng = header_size(raw), np.random.default_rng(1)
    begins = [v["data_offsets"] for k, v in json.loads(raw[8:size]).items() if k != "__metadata__"]
    tensors = [size + int(rng.integers(a, b)) for a, b in begins if b > a]
    for place in [*range(8), *rng.integers(8, size, n).tolist(), *tensors]:
        broken = bytearray(raw)
        broken[place] ^= 1 << int(rng.integers(8))
        bad.write_bytes(broken)
        # White space around JSON means nothing, and has no other to turn into.
        yield f"flip at {place}", refused(load, bad) or raw[place : place + 1].isspace()
    bad.unlink()


def full_disks(folder: Path) -> Tried:
    """A file that may not grow: bytes, an .h5ad, a zarr store; what was there has to stay."""
    for name, script in (("old.bin", LIMITED), ("old.h5ad", LIMITED_CELLS)):
        target = folder / name
        target.write_bytes(b"old")
        done = child(script, target)
        told = done.returncode == 0 and "File too large" in done.stdout and " are needed; " in done.stdout
        left = sorted(one.name for one in folder.iterdir())
        yield (
            f"full disk: {name}: {done.stdout}{done.stderr}",
            told and target.read_bytes() == b"old" and left == [name],
        )
        target.unlink()


def kills(folder: Path, n: int = 8) -> Tried:
    """SIGKILL while a file is replaced again and again: it is one of the whole ones, always."""
    target = folder / "killed.bin"
    target.write_bytes(b"x" * 300_000)
    for i in range(n):
        argv = [sys.executable, "-c", WRITER, str(target), "ab"[i % 2], "100000"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.003 * i)
            process.send_signal(signal.SIGKILL)
        raw = target.read_bytes()
        yield f"SIGKILL {i}", len(raw) >= 300_000 and len(set(raw)) == 1


def writers(folder: Path, rounds: int = 60) -> Tried:
    """Two processes that write one file at the same time: it is of one of them, whole, whenever it is read."""
    target = folder / "both.bin"
    argv = [[sys.executable, "-c", WRITER, str(target), letter, str(rounds)] for letter in "ab"]
    both = [subprocess.Popen(one, stdout=subprocess.DEVNULL) for one in argv]
    reads = 0
    while any(process.poll() is None for process in both):
        if target.exists():
            raw = target.read_bytes()
            reads += 1
            if len(set(raw)) != 1 or len(raw) < 300_000:
                yield "two writers", False
        time.sleep(0.005)
    good = all(process.returncode == 0 for process in both) and os.listdir(folder) == [target.name]
    yield f"two writers of {rounds} files, read {reads} times", good
