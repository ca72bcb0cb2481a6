"""One process beside two on the same cells, a thread each: cells a second, and how many times as many two see.

python tests/benchmarks/distributed.py

Each process has `--batch` cells a step, so two see twice as many. Cells a second are medians over the looks after the
first ones, of training alone. It takes as many free cores as processes. On cores that others use the ratio says little,
and what is left to say is what a step costs a process: its CPU seconds, with a look at the validation cells.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

WARM = 3
"""Looks that are left out at the beginning."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the options ask for."""
    options = parse(arguments)
    if options.child:
        found = train(options)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found))
        return
    heads = ("cells a step", "cells/s", "ratio", "CPU s a step", "loss")
    print(f"{'processes':>9} {'space':8} " + " ".join(f"{head:>12}" for head in heads))
    first = None
    for size in (1, *options.processes):
        found = processes(size, options)
        first = first or found["speed"]
        row = (f"{size * options.batch:,}", f"{found['speed']:,.0f}", f"{found['speed'] / first:.2f}")
        row = (*row, f"{found['cpu']:.2f}", f"{found['loss']:.4f}")
        print(f"{size:9} {options.space:8} " + " ".join(f"{text:>12}" for text in row), flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="simulated cells (%(default)s)")
    parser.add_argument("--genes", type=int, default=2000, help="simulated genes (%(default)s)")
    parser.add_argument("--space", default="genes", help="space to train in (%(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="of the network (%(default)s)")
    parser.add_argument("--batch", type=int, default=2048, help="cells a step of each process (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="steps of the field (%(default)s)")
    parser.add_argument("--precision", default="auto", help="of the network (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="*", default=[2], help="beside one (2)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def processes(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """What so many processes find."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [
        f"--{name}={getattr(options, name)}"
        for name in ("cells", "genes", "space", "width", "batch", "steps", "precision")
    ]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", *given],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment(rank, size, port),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"A process of {size} failed.")
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    if size == 1:
        return {}
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train, and say how fast the field was."""
    import time
    import warnings

    import scflow

    warnings.simplefilter("ignore")
    adata = scflow.datasets.simulate(n_cells=options.cells, n_genes=options.genes, seed=0)
    used: list[float] = []
    flow = scflow.tl.train(
        adata,
        space=options.space,
        field=functools.partial(scflow.nn.MLP, width=options.width),
        steps=options.steps,
        batch_size=options.batch,
        callbacks=[lambda row: used.append(time.process_time())],
        precision=options.precision,
        progress=False,
    )
    history = flow.history[WARM:]
    loss, speed = float(history["loss"].iloc[-1]), statistics.median(history["cells_per_second"])
    steps = float(history["step"].iloc[-1] - flow.history["step"].iloc[WARM - 1])
    cpu = (used[-1] - used[WARM - 1]) / steps if used else float("nan")  # callbacks are the first one's
    return {"speed": speed, "loss": loss, "cpu": cpu}


if __name__ == "__main__":
    main()
