"""Training from disk beside training from memory: throughput, peak memory, time to the first step, loss.

python tests/benchmarks/disk.py --cells 10000 100000

Cells are simulated, 5 % of counts are not zero, sorted by type in the file: the hardest order to shuffle. Each line is
a process of its own; `--cells 1000000` takes 0.9 GB of disk. The speed is the median of steps after the first third: by
then a pool that was read beside the training is in use. CPU time a step holds on a busy machine too; it counts the
thread that reads. The peak is of the whole process, Python and PyTorch (0.3 GB) included. `--shuffle` measures the
order alone: the variance of a batch's mean of what is sorted along the file, over that of a full shuffle.
"""

# Only the standard library here: on Linux the peak of a child starts at the size of the process that started it.
from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TYPES, DENSITY, BLOCK = 20, 0.05, 20_000
HEAD = (
    f"{'cells':>9} {'space':8} {'from':7} {'cells/s':>9} {'CPU/step':>10} {'first step':>11} {'peak memory':>12} "
    f"{'loss':>8}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the options ask for."""
    options = parse(arguments)
    if options.child:
        print(json.dumps({"simulate": simulate, "train": train}[options.child](options)))
        return
    if options.shuffle:
        shuffle(max(options.cells))
        return
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for n in options.cells:
            file = (options.folder or Path(folder)) / f"cells_{n}.h5ad"
            if not file.is_file():
                child("simulate", file, n, options)
            for source in options.sources:
                found = child("train", file, n, options, source)
                print(
                    f"{n:9,} {options.space:8} {source:7} {found['speed']:9,.0f} {found['cpu']:8.3f} s "
                    f"{found['first']:9.1f} s {found['peak']:9.2f} GB {found['loss']:8.4f}",
                    flush=True,
                )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="*", default=[10_000, 100_000], help="simulated cells (%(default)s)")
    parser.add_argument("--genes", type=int, default=2000, help="simulated genes (%(default)s)")
    parser.add_argument("--space", default="genes", help="space to train in (%(default)s)")
    parser.add_argument("--sources", nargs="*", default=["memory", "disk"], help="memory, disk (both)")
    parser.add_argument("--steps", type=int, default=40, help="steps of the field (%(default)s)")
    parser.add_argument("--batch", type=int, default=4096, help="cells a step (%(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="of the network (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (%(default)s)")
    parser.add_argument("--part", type=int, help="cells in memory when others are on disk (scflow's own choice)")
    parser.add_argument("--precision", default="float32", help="of the network (%(default)s)")
    parser.add_argument("--device", default="auto", help="of the training (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument("--folder", type=Path, help="keep the files here, or take those that are there")
    parser.add_argument("--shuffle", action="store_true", help="measure how random the order is, and no more")
    parser.add_argument("--child", choices=("simulate", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def child(what: str, file: Path, n: int, options: argparse.Namespace, source: str = "disk") -> dict[str, Any]:
    """What a fresh process found, from the last line that it printed."""
    given: list[Any] = ["--child", what, "--file", file, "--cells", n, "--sources", source]
    for name in ("genes", "space", "steps", "batch", "width", "seed", "part", "device", "precision", "threads"):
        value = getattr(options, name)
        given += [] if value is None else [f"--{name}", value]
    done = subprocess.run([sys.executable, __file__, *map(str, given)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def simulate(options: argparse.Namespace) -> dict[str, Any]:
    """Write the cells block by block: types that differ in which genes are on, sorted."""
    import h5py
    import numpy as np
    import pandas as pd
    from anndata.io import sparse_dataset, write_elem

    n, genes, stored = options.cells[0], options.genes, int(options.genes * DENSITY)
    rng = np.random.default_rng(0)
    odds = np.log(rng.gamma(0.5, size=(TYPES, genes)) + 1e-3)
    kind = np.sort(rng.integers(TYPES, size=n))
    with h5py.File(options.file, "w") as file:
        for start in range(0, n, BLOCK):
            block = counts_of(kind[start : start + BLOCK], odds, stored, rng)
            if start:
                sparse_dataset(file["X"]).append(block)
            else:
                write_elem(file, "X", block)
        obs = pd.DataFrame({"type": pd.Categorical(kind.astype(str))}, index=np.arange(n).astype(str))
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"gene_{i}" for i in range(genes)]))
        for name in ("uns", "obsm", "varm", "layers", "obsp", "varp"):
            write_elem(file, name, {})
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return {"bytes": options.file.stat().st_size}


def counts_of(kind: Any, odds: Any, stored: int, rng: Any) -> Any:
    """Counts of cells of the given types: the `stored` genes with the best odds, by Gumbel's trick."""
    import numpy as np
    from scipy import sparse

    noisy = odds[kind].astype(np.float32) + rng.gumbel(size=(len(kind), odds.shape[1])).astype(np.float32)
    genes = np.sort(np.argpartition(noisy, -stored, axis=1)[:, -stored:], axis=1).astype(np.int32)
    values = (1 + rng.poisson(1.0, size=genes.size)).astype(np.float32)
    return sparse.csr_matrix((values, genes.ravel(), np.arange(len(kind) + 1) * stored), shape=noisy.shape)


def shuffle(n: int) -> None:
    """Print how far the order is from a full shuffle, by batch and by how many neighbours have to be read together."""
    from itertools import islice

    import torch

    from scflow.training.stored import Pools

    print(f"{n:,} cells\n{'batch':>6} {'neighbours':>11} {'block':>6} {'pool':>7} {'variance':>9}")
    for size in (256, 1024, 4096):
        for grain in (1, 100, 1000):  # of a plain HDF5 file; of a compressed one; of Dask chunks
            pools = Pools(Idle(n, grain), torch.arange(n), size, torch.Generator().manual_seed(0))
            means = torch.stack([rows.double().mean() for rows in islice(pools, max(400, 4 * n // size))])
            full = (n**2 - 1) / 12 / size * (n - size) / (n - 1)
            print(f"{size:6} {grain:11} {pools.block:6} {pools.size:7} {float(means.var()) / full:9.2f}")


class Idle:
    """A source of which nothing is read, of 100 stored values a cell."""

    device, per_cell = "cpu", 100.0

    def __init__(self, n: int, grain: int) -> None:
        self.shape, self.grain, self.counts = (n, 1), grain, self

    def ahead(self, pools: Any) -> Any:
        """The pools as they are."""
        return pools


class Done(Exception):
    """Enough steps."""


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train for some steps and stop there: what follows draws cells, which has no part in this."""
    import functools

    import anndata
    import torch

    import scflow
    from scflow.training import loop, stored

    torch.set_num_threads(options.threads or torch.get_num_threads())
    stored.PART = options.part or stored.PART
    cells = anndata.read_h5ad(options.file, backed="r") if options.sources == ["disk"] else None
    begun, rows, started, spent = time.perf_counter(), list[dict[str, float]](), list[float](), list[float]()
    step = loop._stepped

    def stepped(run: Any, *given: Any) -> bool:
        if isinstance(run.module, scflow.codecs.Counts):
            return step(run, *given)
        started.append(time.perf_counter())
        before = time.process_time()
        taken = step(run, *given)
        spent.append(time.process_time() - before)
        return taken

    def look(row: dict[str, float]) -> None:
        rows.append(row)
        if row["step"] >= options.steps:
            raise Done

    loop._stepped = stepped
    with contextlib.suppress(Done):
        scflow.tl.train(
            anndata.read_h5ad(options.file) if cells is None else cells,
            condition="type",
            space=options.space,
            field=functools.partial(scflow.nn.MLP, width=options.width),
            batch_size=options.batch,
            steps=options.steps,
            seed=options.seed,
            callbacks=[look],
            device=options.device,
            precision=options.precision,
            progress=False,
        )
    speeds = sorted(row["cells_per_second"] for row in rows[len(rows) // 3 :])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    warm = spent[len(spent) // 3 :]
    return {
        "speed": speeds[len(speeds) // 2],
        "cpu": sum(warm) / len(warm),
        "first": started[0] - begun,
        "peak": peak / 1e9,
        "loss": rows[-1]["validation_loss"],
    }


if __name__ == "__main__":
    main()
