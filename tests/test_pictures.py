"""What all pictures do alike: one look, room for legends, files, colours that eyes of all kinds can tell apart."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from numpy.typing import NDArray

import scflow
from scflow.errors import FileError, InputError
from scflow.pl._style import palette

BASELINE = Path(__file__).parent / "baseline"
MADE_BY = "3.11"
"""The matplotlib that drew the baselines. Draw them anew with: SCFLOW_DRAW_BASELINE=1 pytest tests/test_pictures.py."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def names(k: int) -> list[str]:
    kinds = ("CD8-positive, alpha-beta memory T cell", "plasmacytoid dendritic cell, human", "B")
    return [f"{kinds[i % 3]} {i + 1}" for i in range(k)]


def moving(k: int, n: int = 200) -> AnnData:
    """Cells of `k` types that turn around the origin, in the flow's own space."""
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    kind = pd.Categorical.from_codes(np.arange(n) % k, names(k))
    obs = pd.DataFrame({"cell_type": kind}, index=[f"c{i}" for i in range(n)])
    obsm = {"X_umap": x, "X_scflow": x, "velocity_scflow": x[:, ::-1] * np.float32([-1, 1])}
    return AnnData(obs=obs, obsm=obsm)


def carried(k: int) -> AnnData:
    adata = moving(k)
    adata.obsm["X_scflow_source"] = adata.obsm["X_scflow"] - 3
    return adata


def scores() -> pd.DataFrame:
    rows = [("wasserstein", 11.6, 11.8, 11.4, 11.5, 11.7), ("mmd", 0.002, 0.0, 0.01, -0.001, 0.004)]
    table = pd.DataFrame(rows, columns=["metric", "value", "floor", "trivial", "low", "high"])
    return table.assign(condition="all", distance=table["value"] - table["floor"], ratio=np.nan)


def history() -> pd.DataFrame:
    step = np.arange(1, 101)
    validation = np.where(step % 20 == 0, 1.7 + np.exp(-step / 25), np.nan)
    return pd.DataFrame({"step": step, "loss": 1.5 + 2 * np.exp(-step / 20), "validation_loss": validation})


# The look


@pytest.mark.parametrize("own", [{}, {"font.size": 30.0, "axes.grid": True, "axes.titlesize": "xx-large"}])
def test_the_look_is_ours_and_settings_stay_the_callers(own: dict[str, Any]) -> None:
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        ax = scflow.pl.history(history())
        assert dict(matplotlib.rcParams) == before
    assert ax.xaxis.label.get_fontsize() == 10
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_settings_are_the_callers_and_no_figure_is_open_where_drawing_failed() -> None:
    before = dict(matplotlib.rcParams)
    with pytest.raises(InputError, match="a UMAP needs at least 4"):
        scflow.pl.umap(scflow.datasets.simulate(3, 20, 1), scflow.datasets.simulate(3, 20, 1))
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("k", [3, 25])
@pytest.mark.parametrize(("draw", "side"), [(scflow.pl.velocity, 3.5), (scflow.pl.transport, 3.0)])
def test_legends_of_many_long_names_overlap_nothing_and_leave_axes_large(
    draw: Callable[..., Any], side: float, k: int
) -> None:
    figure = draw(carried(k), color="cell_type", return_fig=True)
    figure.draw_without_rendering()
    legends = [ax.get_legend().get_window_extent() for ax in figure.axes if ax.get_legend()]
    boxes = [ax.get_tightbbox(for_layout_only=False) for ax in figure.axes if not ax.get_legend()]
    frames = [ax.get_window_extent() for ax in figure.axes]
    assert len(legends) == 1
    assert not any(legends[0].overlaps(box) for box in boxes + frames)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in legends)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in legends)
    assert min(frame.width for frame in frames) / figure.dpi > side


@pytest.mark.parametrize(("width", "told"), [(3.0, False), (8.8, True)])
def test_scores_tell_numbers_where_there_is_room_and_overlap_nowhere(width: float, told: bool) -> None:
    ax = plt.figure(figsize=(width, 3), layout="constrained").subplots()
    scflow.pl.score(scores(), ax=ax)
    ax.figure.draw_without_rendering()
    assert any("11.600" in text.get_text() for text in ax.texts) is told
    rows = [*ax.texts, *ax.get_yticklabels()]
    for one, other in itertools.combinations(rows, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())
    below = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(below, 2))


def test_names_in_legends_are_no_formulas() -> None:
    adata = moving(2)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(["cost $5$", "b"])
    ax = scflow.pl.velocity(adata, color="cell_type")
    assert ax.get_legend().get_texts()[0].get_text() == r"cost \$5\$"


# Colours

_RED_BLIND = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
_GREEN_BLIND = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def seen(colors: list[str], eye: list[list[float]] | None) -> NDArray[np.float64]:
    """Colours in Ottosson's Oklab as an eye sees them, by Machado et al. (2009)."""
    rgb = np.array([to_rgb(color) for color in colors])
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    light = light if eye is None else np.clip(light @ np.array(eye).T, 0, 1)
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.0259040, 0.78277177, -0.80867577],
    ]
    result: NDArray[np.float64] = np.cbrt(light @ np.array(cones).T) @ np.array(lab).T
    return result


@pytest.mark.parametrize(("n", "least"), [(8, 0.075), (15, 0.075), (25, 0.065), (40, 0.045)])
@pytest.mark.parametrize("eye", [None, _RED_BLIND, _GREEN_BLIND], ids=["usual", "red-blind", "green-blind"])
def test_colours_differ_to_every_eye(n: int, least: float, eye: list[list[float]] | None) -> None:
    points = seen(palette(n), eye)
    # A difference of 0.02 is just seen; twenty-five colours of a rainbow come within 0.006.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(points, 2)) > least
    assert points[:, 0].max() < 0.9, "fades on white"


def test_a_type_keeps_its_colour_where_others_join() -> None:
    assert palette(40)[:7] == palette(7)
    assert len(set(palette(60))) == 60


def test_colours_of_the_cells_come_first() -> None:
    adata = moving(3)
    adata.uns["cell_type_colors"] = ["#112233", "#aa5500", "#00aa55"]
    ax = scflow.pl.velocity(adata, color="cell_type")
    assert [to_hex(color) for color in ax.collections[0].get_facecolors()[:3]] == adata.uns["cell_type_colors"]


# Files and figures


def test_text_of_vector_files_is_text_and_cells_are_pixels(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf", "a.svg", "b.svg", "a.PNG"):
        scflow.pl.velocity(moving(3), color="cell_type", save=tmp_path / name)
    pdf, svg = (tmp_path / "a.pdf").read_bytes(), (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf
    assert "plasmacytoid dendritic cell, human 2</text>" in svg
    assert svg.count("<image") == 1
    assert svg.count("<use") < 100
    for ending in ("pdf", "svg"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")


def test_save_takes_home_and_a_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    scflow.pl.score(scores(), save="score.svg")
    scflow.pl.score(scores(), save="~/home.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home.svg", "score.svg"]


def test_the_figure_is_returned_where_it_is_asked_for() -> None:
    made, axes = plt.subplots(1, 2, figsize=(5, 3))
    assert scflow.pl.transport(carried(2), ax=axes, return_fig=True) is made
    assert tuple(made.get_size_inches()) == (5, 3), "the caller's figure keeps its size"
    part = plt.figure().subfigures(1, 2)[0]
    assert isinstance(scflow.pl.score(scores(), ax=part.subplots(), return_fig=True), Figure)


@pytest.mark.parametrize(
    ("save", "error", "message"),
    [
        ("nowhere/a.pdf", FileError, "there is no folder 'nowhere'. Make it first"),
        ("a.docx", FileError, "it ends in '.docx'. Expected one of .*'pdf'.*such as 'a.pdf'"),
        ("a", FileError, "it ends in ''. Expected one of"),
        (True, InputError, "save=True is no path. Give one with an ending, such as save='umap.pdf'"),
        ("", InputError, "save='' is no path"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_is_drawn(
    save: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        scflow.pl.score(scores(), save=save)
    assert plt.get_fignums() == []


def test_axes_of_several_figures_are_no_one_figure() -> None:
    axes = [plt.figure().subplots() for _ in range(2)]
    assert len(scflow.pl.transport(carried(2), ax=axes)) == 2
    with pytest.raises(InputError, match=r"ax lies in 2 figures.*plt.subplots\(1, 2\)"):
        scflow.pl.transport(carried(2), ax=axes, return_fig=True)


# Images

PICTURES: dict[str, Callable[[], Any]] = {
    "score": lambda: scflow.pl.score(scores()),
    "history": lambda: scflow.pl.history(history()),
    "velocity": lambda: scflow.pl.velocity(moving(3), color="cell_type"),
    "velocity_many": lambda: scflow.pl.velocity(moving(25), color="cell_type"),
    "transport": lambda: scflow.pl.transport(carried(3), moving(3), color="cell_type", use_rep="X_umap"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_they_did(name: str, tmp_path: Path) -> None:
    drawing = os.environ.get("SCFLOW_DRAW_BASELINE") == "1"
    if not matplotlib.__version__.startswith(f"{MADE_BY}.") and not drawing:
        pytest.skip(f"matplotlib {matplotlib.__version__} spaces text in its own way; baselines are of {MADE_BY}")
    path = (BASELINE if drawing else tmp_path) / f"{name}.png"
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        axes = PICTURES[name]()
        np.ravel(np.asarray(axes))[0].figure.savefig(path, dpi=50, metadata={"Software": None})
    # Root mean square of 255 grey levels: edges make 1 or 2, a moved legend 10 and more.
    assert compare_images(str(BASELINE / f"{name}.png"), str(path), tol=5) is None
