"""The whole story on 700 real cells: split, train, generate, score, look."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scflow import _file
from scflow._cli.files import check_folder, write_cells, write_whole
from scflow._cli.tables import table_of, tables_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scflow.flow import Flow

__all__ = ["demo"]

_LEFT = {
    "generated.h5ad": "the new cells, counts in .layers['counts']",
    "flow.safetensors": "the flow: scflow.Flow.load",
    "scores.csv": "all scores, for each type too",
    "scores.md": "the same to read",
    "umap.png": "real and generated cells in one embedding",
    "genes.png": "genes' means, variances and zeros",
    "score.png": "the scores as a picture",
    "history.png": "the loss during training",
}
"""What is left in the folder, and what it is."""


def demo(options: argparse.Namespace) -> None:
    """Run the story of the README, and leave cells, flow, scores and pictures in a folder."""
    folder = check_folder(options.out)
    for name in _LEFT:
        _file.check_place(folder / name)
    from scflow import datasets, pp, tl

    say = _Teller()
    adata = datasets.pbmc68k()
    train, held_out = pp.split(adata, stratify="cell_type", test_size=0.5, seed=options.seed)
    types = adata.obs["cell_type"].cat.categories
    say(
        f"1. data: {adata.n_obs} real blood cells of {len(types)} types, {adata.n_vars} genes, raw counts; "
        f"{train.n_obs} to learn from, {held_out.n_obs} held out"
    )
    say("2. train")
    flow = tl.train(train, condition="cell_type", steps=options.steps, seed=options.seed)
    say(f"3. generate {held_out.n_obs} cells, types as in the data")
    new = tl.generate(flow, held_out.n_obs, seed=options.seed)
    say("4. score against the held-out cells")
    scores = tl.score(held_out, new, reference=train, seed=options.seed)
    say("5. plot, and save everything")
    flow.save(folder / "flow.safetensors", overwrite=True)
    write_cells(new, folder / "generated.h5ad")
    write_whole(folder / "scores.csv", lambda path: scores.to_csv(path, index=False))
    write_whole(folder / "scores.md", lambda path: path.write_text(tables_of(scores) + "\n", encoding="utf-8"))
    _plot(folder, held_out, new, flow, scores)
    say("done")
    _report(folder, scores)


class _Teller:
    """Prints a line with the time since the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self, text: str) -> None:
        print(f"[{time.perf_counter() - self._start:3.0f} s] {text}", flush=True)


def _plot(folder: Path, held_out: AnnData, new: AnnData, flow: Flow, scores: pd.DataFrame) -> None:
    """The four pictures, without a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from scflow import pl

    pictures: dict[str, Callable[[], object]] = {
        "umap": lambda: pl.umap(held_out, new, color="cell_type"),
        "genes": lambda: pl.genes(held_out, new),
        "score": lambda: pl.score(scores),
        "history": lambda: pl.history(flow),
    }
    for name, draw in pictures.items():
        draw()
        write_whole(folder / f"{name}.png", lambda path: plt.savefig(path, dpi=100, bbox_inches="tight"))
        plt.close()


def _report(folder: Path, scores: pd.DataFrame) -> None:
    print()
    print(table_of(scores))
    print()
    print("value: generated against held-out cells; floor: other real cells against the same, which is what a perfect")
    print("generator scores; trivial: independent Poisson counts for each type, which has to be beaten.")
    print()
    print(f"in {folder}:")
    for name, text in _LEFT.items():
        print(f"  {name:<18}{text}")
