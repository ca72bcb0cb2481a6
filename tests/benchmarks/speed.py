"""How fast scflow trains and draws, and how fast it could; docs/performance.md tells how this is measured.

python tests/benchmarks/speed.py --threads 1
python tests/benchmarks/speed.py --parts scaling --scaling 10000 100000 1000000   # as cells grow, in memory and on disk
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from speed_turns import CFM, OURS, PLAIN, Clock, Setting, measured

import scflow

LEAST = 0.95
"""The least ratio to the plain loop."""
LOOPS = f"{'space':8} {'genes':>6} {'batch':>6} {'width':>6} {'precision':9} {'cells/s':>9} {'steps/s':>8}"
RATIOS = (
    f"{'plain':>6} {'by CPU':>7} {'looks':>6} {'CFM':>6} {'scVI':>6} {'products':>9} {'+ memory':>9} {'GFLOP/s':>8}"
)
EVALUATIONS = (1, 4, 16, 50)
PARTS = ("loops", "generate", "scaling")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for; the exit code is 1 only with --check, where a ratio is too small."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*compile.*|.*is returned, but not kept.*")
    print(
        f"{options.cells:,} cells, {options.device}, {torch.get_num_threads()} threads; torch {torch.__version__}; "
        f"TorchCFM {'beside' if find_spec('torchcfm') else 'is not installed'}, "
        f"scVI {'beside' if find_spec('scvi') else 'is not installed'}",
        flush=True,
    )
    holds = loops(options) if "loops" in options.parts else True
    if "generate" in options.parts:
        generate(options)
    if "scaling" in options.parts:
        scaling(options)
    if options.profile:
        scflow.tl.train(simulated(2000, options), condition="cell_type", profile=options.profile, steps=40)
    return int(options.check and not holds)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = "loops: training; generate: drawing; scaling: as cells grow, by disk.py (loops generate)"
    add("--parts", nargs="*", choices=PARTS, default=["loops", "generate"], help=what)
    add("--spaces", nargs="+", default=["counts", "genes"], help="counts, genes, quantile, pca (counts genes)")
    add("--cells", type=int, default=10_000, help="simulated cells (%(default)s)")
    add("--genes", type=int, nargs="+", default=[2000], help="simulated genes (%(default)s)")
    add("--batches", type=int, nargs="+", default=[256, 4096], help="cells a step (%(default)s)")
    add("--widths", type=int, nargs="+", default=[256, 1024], help="of the network; 0: its own choice (%(default)s)")
    add("--precisions", nargs="+", default=["float32", "bfloat16"], help="of scflow and the plain loop (%(default)s)")
    add("--rounds", type=int, default=5, help="rounds of each loop, in turns (%(default)s)")
    add("--seconds", type=float, default=2.0, help="of a round, about (%(default)s)")
    add("--drawn", type=int, default=4000, help="cells that are drawn to time drawing (%(default)s)")
    add("--scaling", type=int, nargs="+", default=[10_000, 100_000], help="cells to scale over (%(default)s)")
    add("--steps", type=int, default=24, help="steps of the field while cells grow (%(default)s)")
    add("--device", default="cpu", help="cpu or cuda (%(default)s)")
    add("--threads", type=int, help="threads of torch (its own choice)")
    add("--profile", metavar="TRACE.json", help="write a trace of some steps")
    add("--check", action="store_true", help=f"exit with 1 where a ratio to the plain loop is under {LEAST}")
    return parser.parse_args(arguments)


def simulated(n_genes: int, options: argparse.Namespace) -> Any:
    """Cells of which about 5 % of the counts are not zero."""
    return scflow.datasets.simulate(options.cells, n_genes, library_size=max(0.06 * n_genes, 30), seed=0)


def loops(options: argparse.Namespace) -> bool:
    """Training: a line for each setting; whether all ratios to the plain loop are large enough."""
    print(f"\n{LOOPS} | {RATIOS}", flush=True)
    enough = True
    for n_genes in options.genes:
        adata, scvi = simulated(n_genes, options), None
        print(f"{n_genes:,} genes, {adata.X.nnz / adata.n_obs / n_genes:.1%} of counts stored", flush=True)
        for space, batch, width in itertools.product(options.spaces, options.batches, options.widths):
            for precision in options.precisions:
                setting = Setting(space, batch, width, precision, options.device)
                rivals = find_spec("torchcfm") is not None
                clock = measured(adata.copy(), setting, rounds=options.rounds, seconds=options.seconds, rivals=rivals)
                if find_spec("scvi") and width and precision == options.precisions[0]:
                    scvi = scvi_seconds(adata, setting, clock, options)
                line(n_genes, setting, clock, scvi)
                enough = enough and clock.ratio(PLAIN) >= LEAST
    return enough


def scvi_seconds(adata: Any, setting: Setting, clock: Clock, options: argparse.Namespace) -> float:
    """Seconds of scVI for as many cells and as many operations as a step of ours has."""
    from speed_scvi import rate

    assert clock.limits is not None
    return clock.limits.flops / rate(adata, setting, clock.limits.flops / setting.batch, seconds=3 * options.seconds)


def line(n_genes: int, setting: Setting, clock: Clock, scvi: float | None) -> None:
    """Print one setting's figures."""
    step, limits = clock.step(OURS), clock.limits
    assert limits is not None
    cfm = f"{clock.ratio(CFM):6.2f}" if CFM in clock.rounds else f"{'':6}"
    beside = f"{scvi / step:6.2f}" if scvi else f"{'':6}"
    print(
        f"{setting.space:8} {n_genes:6,} {setting.batch:6,} {setting.width or 'own':>6} {setting.precision:9} "
        f"{setting.batch / step:9,.0f} {1 / step:8.2f} | {clock.ratio(PLAIN):6.3f} {clock.ratio(PLAIN, cpu=True):7.3f} "
        f"{clock.with_looks:6.3f} {cfm} {beside} {limits.products / step:9.0%} "
        f"{(limits.products + limits.memory) / step:9.0%} {limits.flops / step / 1e9:8.0f}",
        flush=True,
    )


def generate(options: argparse.Namespace) -> None:
    """Drawing: cells a second by how often the network is evaluated."""
    print(f"\ncells drawn a second, {options.drawn:,} at once, by evaluations of the network", flush=True)
    print(f"{'space':8} {'genes':>6} {'precision':9} " + " ".join(f"{k:>8}" for k in EVALUATIONS), flush=True)
    for n_genes, space in itertools.product(options.genes, options.spaces):
        adata = simulated(n_genes, options)
        flow = scflow.tl.train(
            adata, condition="cell_type", space=space, steps=40, device=options.device, progress=False
        )
        for precision in options.precisions:
            rates = [options.drawn / drawing(flow, k, precision, options) for k in EVALUATIONS]
            told = " ".join(f"{rate:8,.0f}" for rate in rates)
            print(f"{space:8} {n_genes:6,} {precision:9} {told}", flush=True)


def scaling(options: argparse.Namespace) -> None:
    """Training as cells grow, in memory and on disk: disk.py, with the largest of the batches and widths."""
    given: dict[str, Any] = {"batch": max(options.batches), "width": max(options.widths), "steps": options.steps}
    given |= {"genes": options.genes[0], "device": options.device, "threads": options.threads}
    told = [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
    for precision in options.precisions:
        print(f"\nas cells grow, {precision}", flush=True)
        # A process of its own: on Linux the peak of a child starts at the size of the one that started it.
        script = str(Path(__file__).with_name("disk.py"))
        cells = ["--cells", *map(str, options.scaling), "--precision", precision]
        subprocess.run([sys.executable, script, *cells, *told], check=True)


def drawing(flow: Any, evaluations: int, precision: str, options: argparse.Namespace) -> float:
    """Seconds, the best of three."""
    took = []
    for seed in range(3):
        start = time.perf_counter()
        scflow.tl.generate(
            flow,
            options.drawn,
            solver="euler",
            steps=evaluations,
            seed=seed,
            precision=precision,
            device=options.device,
            progress=False,
        )
        took.append(time.perf_counter() - start)
    return min(took)


if __name__ == "__main__":
    sys.exit(main())
