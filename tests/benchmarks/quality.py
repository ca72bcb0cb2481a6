"""How real the cells of each space are, beside real cells and the trivial generator; docs/benchmarks.md tells how.

python tests/benchmarks/quality.py --out quality.csv
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from quality_report import BOOTSTRAP, DATA, FLOOR, INDEPENDENT, SPACES, TRIVIAL, heading, line, markdown, targets
from scipy import sparse

import scflow
from scflow.metrics import DEFAULT as METRICS
from scflow.metrics import Space, library_sizes, poisson_cells, set_aside

CONDITION = "cell_type"
DEFAULT_SPACE = "counts"
"""What scflow.tl.train(space="auto") stands for."""
QUICK_STEPS = 200
COLUMNS = ["data", "seed", "row", "condition", "metric", "value", "floor", "trivial", "low", "high"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for; the exit code is 1 only with --check, where a target is missed or not measured."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    table = (
        pd.concat([pd.read_csv(path) for path in options.join], ignore_index=True) if options.join else pd.DataFrame()
    )
    for name, adata in () if options.join else data_sets(options.data):
        print(heading(), flush=True)
        for seed in options.seeds:
            for found in measured(adata, name, seed, options):
                table = pd.concat([table, found], ignore_index=True)
                print(line(found), flush=True)
                save(table, options.out)
    if table.empty:
        print("Nothing was measured.")
        return int(options.check)
    print("\n" + markdown(table))
    judged = targets(table, options.default)
    for target in judged:
        print(f"{'not measured' if target.holds is None else 'PASS' if target.holds else 'FAIL'}: {target.text}")
    return int(options.check and not all(target.holds for target in judged))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; --quick replaces what was left at its default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help=f"data sets ({' '.join(DATA)}; any of data/README.md)")
    parser.add_argument("--spaces", nargs="*", help=f"spaces to train in ({' '.join(SPACES)}); none: real cells only")
    parser.add_argument("--default", default=DEFAULT_SPACE, help="the space the targets are about (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, help="each changes split, training and drawing (0 1 2)")
    parser.add_argument("--steps", type=int, help="training steps (chosen from the data's size)")
    parser.add_argument("--genes", type=int, default=2000, help="variable genes to keep (%(default)s)")
    parser.add_argument(
        "--variable-genes", choices=("variance", "seurat"), default="variance", help="how they are chosen"
    )
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), help="of scflow.tl.score (its default ones)")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument("--quick", action="store_true", help=f"pbmc68k, seed 0, {QUICK_STEPS} steps: does it run?")
    parser.add_argument("--out", type=Path, help="write every figure to this .csv, and the table beside it as .md")
    parser.add_argument("--only-spaces", action="store_true", help="no reference rows, where another run has them")
    parser.add_argument("--join", nargs="+", type=Path, help="run nothing: one table of these .csv files")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed or not measured")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.data = options.data or (["pbmc68k"] if quick else list(DATA))
    options.seeds = options.seeds or ([0] if quick else [0, 1, 2])
    options.steps = options.steps or (QUICK_STEPS if quick else None)
    options.spaces = list(SPACES) if options.spaces is None else options.spaces
    return options


def data_folder() -> Path:
    """The folder of real data: `SCFLOW_DATA` where it is set, otherwise ../shared/data beside the repository."""
    return Path(os.environ.get("SCFLOW_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def data_sets(names: Sequence[str]) -> Iterator[tuple[str, AnnData]]:
    """Those of the data sets that are there, read one at a time; a line for each that is not."""
    for name in names:
        adata = load(name)
        if adata is None:
            print(f"{name}: not in {data_folder()}; set SCFLOW_DATA to its folder (data/README.md). Skipped.")
        else:
            yield name, adata


def load(name: str) -> AnnData | None:
    """A data set with integer counts in X, or None where its file is not there."""
    if name == "pbmc68k":
        return scflow.datasets.pbmc68k()
    path = data_folder() / f"{name}.h5ad"
    return anndata.read_h5ad(path) if path.is_file() else None


def prepare(adata: AnnData, seed: int, n_genes: int = 2000, rule: str = "variance") -> tuple[AnnData, AnnData]:
    """Half of each type to train on and half held out, both with the variable genes of the training cells.

    `"variance"` is the judge's own rule: the largest variance of log1p of counts per 10,000; `"seurat"` is scanpy's
    default flavour.
    Genes without a count in the training cells and cells without a count in the genes left are dropped.
    """
    train, held_out = scflow.pp.split(adata, stratify=CONDITION, test_size=0.5, seed=seed)
    counts = counts_of(train)
    if rule == "variance":
        chosen = Space.fit(counts, n_genes, n_components=1).chosen
    else:
        chosen = seurat_genes(counts, n_genes)
    expressed = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) > 0
    chosen = np.sort(chosen[expressed[chosen]])
    halves = (side[:, chosen] for side in (train, held_out))
    train, held_out = (half[library_sizes(counts_of(half)) > 0].copy() for half in halves)
    return train, held_out


def seurat_genes(counts: sparse.csr_matrix, n_genes: int) -> NDArray[np.int64]:
    """Columns of the genes that scanpy's default flavour calls highly variable."""
    import scanpy as sc

    expression = AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    found = sc.pp.highly_variable_genes(expression, n_top_genes=min(n_genes, counts.shape[1]), inplace=False)
    return np.flatnonzero(found["highly_variable"].to_numpy())


def counts_of(adata: AnnData) -> sparse.csr_matrix:
    """The counts: in a layer of that name where there is one, as generated cells have it, otherwise in X."""
    return sparse.csr_matrix(adata.layers.get("counts", adata.X))


def types(adata: AnnData) -> NDArray[np.str_]:
    """The type of each cell."""
    labels: NDArray[np.str_] = adata.obs[CONDITION].astype(str).to_numpy(dtype=np.str_)
    return labels


def resampled(cells: AnnData, wanted: NDArray[np.str_], seed: int) -> AnnData:
    """A real cell of each wanted type, drawn at random; no cell comes twice before all of its type have come.

    Two copies of one cell in different folds would give the forest away.
    """
    rng = np.random.default_rng(seed)
    have, rows = types(cells), np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        places, pool = np.flatnonzero(wanted == label), np.flatnonzero(have == label)
        if not len(pool):
            pool = np.arange(len(have))
        turns = -(-len(places) // len(pool))
        rows[places] = np.concatenate([rng.permutation(pool) for _ in range(turns)])[: len(places)]
    return cells_of(counts_of(cells)[rows], cells, wanted)


def cells_of(counts: sparse.csr_matrix, like: AnnData, labels: NDArray[np.str_]) -> AnnData:
    """An AnnData of counts with the genes of `like`."""
    obs = pd.DataFrame({CONDITION: pd.Categorical(labels)}, index=pd.RangeIndex(len(labels)).astype(str))
    return AnnData(counts, obs=obs, var=like.var[[]].copy())


def copying(cells: AnnData, train: AnnData, held_out: AnnData) -> float:
    """Median distance to the nearest training cell over that to the nearest held-out cell.

    1 where training cells are no nearer than as many unseen ones, 0 for copies. In principal components of both
    together: in those of the training cells alone, training cells lie further out, and 1.4 would be perfect on pbmc68k.
    """
    space = Space.fit(sparse.vstack([counts_of(train), counts_of(held_out)], format="csr"))
    to_train, to_held_out = (nearest_distance(space, cells, side) for side in (train, held_out))
    return float(np.median(to_train) / np.median(to_held_out))


def nearest_distance(space: Space, cells: AnnData, others: AnnData) -> NDArray[Any]:
    """The distance of each cell to the nearest of others, in principal components."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(space.components(counts_of(others)))
    distances: NDArray[Any] = index.kneighbors(space.components(counts_of(cells)))[0]
    return distances[:, 0]


def trained(
    train: AnnData, held_out: AnnData, space: str, seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, AnnData, dict[str, float]]]:
    """Cells of the held-out cells' types, drawn from a flow trained in a space, and how long both took.

    In the default space also cells that are calibrated one by one.
    """
    start = time.perf_counter()
    flow = scflow.tl.train(
        train.copy(), condition=CONDITION, space=space, steps=options.steps, seed=seed, progress=False
    )
    seconds = {"train_seconds": time.perf_counter() - start}
    ways = {space: "balanced"} | ({f"{space}{INDEPENDENT}": "independent"} if space == options.default else {})
    for row, way in ways.items():
        start, wanted = time.perf_counter(), held_out.obs[[CONDITION]]
        cells = scflow.tl.generate(flow, held_out.n_obs, condition=wanted, calibration=way, seed=seed, progress=False)
        yield row, cells, seconds | {"generate_seconds": time.perf_counter() - start}


def scored(real: AnnData, cells: AnnData, reference: AnnData, seed: int, metrics: Sequence[str]) -> pd.DataFrame:
    """The table of `scflow.tl.score`, without its remarks on small types: the CSV shows which have rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*conditions")
        return scflow.tl.score(real, cells, reference=reference, condition=CONDITION, metrics=list(metrics), seed=seed)


def measured(adata: AnnData, name: str, seed: int, options: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """The figures of each row of one data set and seed, as soon as they are there."""
    train, held_out = prepare(adata, seed, options.genes, options.variable_genes)
    wanted, aside = types(held_out), set_aside(types(held_out), seed)

    def figures(row: str, scores: pd.DataFrame, **more: float) -> pd.DataFrame:
        if row in (FLOOR, TRIVIAL):
            scores = scores.assign(value=scores[row], low=np.nan, high=np.nan)
        # Copying is measured against all training cells, also where the reference of the scores is but half of them.
        scores = scores[~scores["metric"].isin(list(more))]
        extra = pd.DataFrame({"condition": "all", "metric": list(more), "value": list(more.values())})
        return pd.concat([scores, extra]).assign(data=name, seed=seed, row=row)[COLUMNS]

    def references() -> Iterator[pd.DataFrame]:
        """Real cells, and the trivial generator's."""
        # Cells that a space was fitted on lie further out in it: one half makes the space, the other is resampled.
        half = set_aside(types(train), seed)
        again = resampled(train[~half].copy(), wanted[aside], seed)
        scores = scored(held_out, again, train[half].copy(), seed, options.metrics)
        yield figures(BOOTSTRAP, scores, copying=copying(again, train, held_out))
        trivial = cells_of(poisson_cells(counts_of(train), types(train), wanted, seed=seed), train, wanted)
        scores = scored(held_out, trivial, train, seed, options.metrics)
        yield figures(FLOOR, scores)
        yield figures(TRIVIAL, scores, copying=copying(trivial, train, held_out))

    if not options.only_spaces:
        yield from references()
    for space in options.spaces:
        for row, cells, seconds in trained(train, held_out, space, seed, options):
            scores = scored(held_out, cells, train, seed, options.metrics)
            yield figures(row, scores, copying=copying(cells, train, held_out), **seconds)


def save(table: pd.DataFrame, out: Path | None) -> None:
    """Write all figures so far, and the table of their means beside them."""
    if out is not None:
        table.to_csv(out, index=False)
        out.with_suffix(".md").write_text(markdown(table), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
