"""Seconds that scflow.tl.score takes, and its peak memory, on simulated cells.

python tests/benchmarks/score.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from memory import mb, peak, verdict

MOST_SECONDS = 90
"""The bound: 5,000 against 5,000 cells of 2,000 genes on two free cores."""
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Time it; the exit code is 1 only with --check, where the bound is broken."""
    options = parse(arguments)
    if options.child:
        return scored(options)
    # A fresh process: its peak is its own, and imports are not counted twice.
    command = [sys.executable, __file__, "--child", *(arguments if arguments is not None else sys.argv[1:])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    holds = found["seconds"] < MOST_SECONDS
    print(
        f"{verdict(holds)}: scflow.tl.score of {found['n']:,} against {found['n']:,} cells x {options.genes:,} genes "
        f"takes {found['seconds']:.0f} s ({found['cpu']:.0f} CPU-seconds), under {MOST_SECONDS}; "
        f"{found['rows']} rows, peak {mb(found['peak'])}, load {found['load']:.1f} on {os.cpu_count()} cores"
    )
    return int(options.check and not holds)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5_000, help="cells a side (%(default)s)")
    parser.add_argument("--genes", type=int, default=2_000, help="simulated genes (%(default)s)")
    parser.add_argument("--metrics", nargs="+", help="of scflow.tl.score (its default ones)")
    parser.add_argument("--each", action="store_true", help="also the seconds of each metric alone")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the bound is broken")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def scored(options: argparse.Namespace) -> int:
    """Simulate held-out cells in two halves, generated and training ones, score, and print what it took."""
    import numpy as np

    import scflow
    from scflow.metrics import DEFAULT

    n = options.cells
    adata = scflow.datasets.simulate(4 * n, options.genes, seed=SEED)
    rows = np.random.default_rng(SEED).permutation(4 * n)
    real, generated, train = (adata[rows[a * n : b * n]].copy() for a, b in ((0, 2), (2, 3), (3, 4)))

    def timed(metrics: str | list[str]) -> tuple[float, float, int]:
        start, cpu = time.perf_counter(), time.process_time()
        table = scflow.tl.score(real, generated, reference=train, condition="cell_type", metrics=metrics)
        return time.perf_counter() - start, time.process_time() - cpu, len(table)

    seconds, cpu, length = timed(options.metrics or "default")
    for name in (options.metrics or DEFAULT) if options.each else ():
        print(f"{name}: {timed([name])[0]:.1f} s", file=sys.stderr)
    found = {"n": n, "seconds": seconds, "cpu": cpu, "rows": length, "peak": peak(), "load": os.getloadavg()[0]}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
