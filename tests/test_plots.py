"""Pictures hold what they say, leave their input alone and are never shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import scflow
from scflow.errors import InputError
from scflow.metrics import log_normalised, profile


@pytest.fixture(autouse=True)
def _no_show(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a plot was shown")

    monkeypatch.setattr(plt, "show", fail)
    yield
    plt.close("all")


def scores() -> pd.DataFrame:
    rows = [
        ("all", "wasserstein", 11.6, 11.8, 11.4, -0.2, 0.98, 11.5, 11.7),
        ("all", "mmd", 0.002, 0.0, 0.01, 0.002, np.nan, -0.001, 0.004),
        ("all", "forest_auc_genes", 0.99, 0.5, 0.9, 0.49, np.nan, 0.98, 1.0),
        ("B", "mmd", 0.05, 0.01, 0.05, 0.04, np.nan, 0.03, 0.07),
    ]
    names = ["condition", "metric", "value", "floor", "trivial", "distance", "ratio", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def history(n: int = 400) -> pd.DataFrame:
    step = np.arange(1, n + 1)
    validation = np.full(n, np.nan)
    validation[49::50] = [3.0, 2.5, 2.0, 1.8, 1.6, 1.7, 1.75, 1.9]
    return pd.DataFrame({"step": step, "loss": 1.5 + 2 * np.exp(-step / 50), "validation_loss": validation})


def points(ax: Axes) -> np.ndarray[Any, Any]:
    return np.asarray(ax.collections[0].get_offsets())


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def contents(adata: AnnData) -> tuple[object, ...]:
    return (list(adata.obs), list(adata.var), list(adata.uns), list(adata.obsm), list(adata.layers), adata.X.sum())


# umap


@pytest.fixture(scope="module")
def drawn(_pbmc: AnnData) -> tuple[AnnData, AnnData, list[Axes]]:
    real, generated = _pbmc[:350].copy(), _pbmc[350:].copy()
    before = contents(real), contents(generated), torch.get_num_threads()
    axes = scflow.pl.umap(real, generated, color="cell_type")
    assert (contents(real), contents(generated), torch.get_num_threads()) == before
    # Now, because a figure that was closed is no longer laid out.
    axes[0].figure.canvas.draw()
    return real, generated, axes


def test_umap_draws_every_cell_in_the_colour_of_its_type(drawn: tuple[AnnData, AnnData, list[Axes]]) -> None:
    real, generated, axes = drawn
    assert [len(points(ax)) for ax in axes] == [350, 350, 700]
    assert [ax.get_title() for ax in axes] == ["real (350 cells)", "generated (350 cells)", "both"]
    colors = dict(zip(real.obs["cell_type"].cat.categories, real.uns["cell_type_colors"], strict=True))
    for adata, ax in zip((real, generated), axes, strict=False):
        painted = [to_hex(color) for color in ax.collections[0].get_facecolors()]
        assert painted == [to_hex(colors[name]) for name in adata.obs["cell_type"]]
    assert len({ax.get_xlim() for ax in axes}) == 1
    # The overlay holds the very points of the other two.
    both = np.concatenate([points(ax) for ax in axes[:2]])
    np.testing.assert_allclose(np.sort(points(axes[2]), axis=0), np.sort(both, axis=0))


def test_umap_has_one_legend_that_lies_beside_the_axes(drawn: tuple[AnnData, AnnData, list[Axes]]) -> None:
    real, _, axes = drawn
    assert legend(axes[0]) == []
    assert legend(axes[1]) == [str(name) for name in real.obs["cell_type"].cat.categories]
    assert legend(axes[2]) == ["real", "generated"]
    figure = axes[0].figure
    boxes = [ax.get_window_extent() for ax in axes]
    for ax in axes[1:]:
        frame = ax.get_legend().get_window_extent()
        assert not any(frame.overlaps(box) for box in boxes)
        assert frame.x1 <= figure.bbox.x1


def test_umap_is_fitted_on_real_cells_alone(pbmc: AnnData) -> None:
    real = pbmc[:120].copy()
    first = points(scflow.pl.umap(real, pbmc[120:200].copy())[0])
    second = points(scflow.pl.umap(real, pbmc[300:340].copy())[0])
    np.testing.assert_array_equal(first, second)


def test_umap_places_new_real_cells_among_their_kind(drawn: tuple[AnnData, AnnData, list[Axes]]) -> None:
    # A picture in which other real cells look unlike the fitted ones would accuse every generator.
    real, generated, axes = drawn
    for label in ("CD14+ Monocyte", "Dendritic", "CD19+ B"):
        a, b = (
            points(ax)[(adata.obs["cell_type"] == label).to_numpy()]
            for adata, ax in ((real, axes[0]), (generated, axes[1]))
        )
        assert np.linalg.norm(np.median(a, axis=0) - np.median(b, axis=0)) < 0.5 * points(axes[0]).std(axis=0).max()


def test_umap_takes_numbers_axes_and_no_colour(pbmc: AnnData) -> None:
    real, generated = pbmc[:60].copy(), pbmc[60:100].copy()
    figure, ax = plt.subplots(1, 3)
    axes = scflow.pl.umap(real, generated, color="n_counts", ax=ax)
    assert axes == list(ax)
    np.testing.assert_allclose(axes[1].collections[0].get_array(), generated.obs["n_counts"])
    assert axes[0].collections[0].get_clim() == axes[1].collections[0].get_clim()
    assert len(figure.axes) == 4
    assert legend(scflow.pl.umap(real, generated)[1]) == []


def test_umap_gives_colours_to_categories_without_any(pbmc: AnnData) -> None:
    del pbmc.uns["cell_type_colors"]
    pbmc.obs["group"] = pd.Categorical(np.where(np.arange(pbmc.n_obs) % 2, "a", "b"))
    axes = scflow.pl.umap(pbmc[:60].copy(), pbmc[60:100].copy(), color="group")
    assert len({to_hex(c) for c in axes[0].collections[0].get_facecolors()}) == 2


# score


def test_score_places_values_between_floor_and_trivial() -> None:
    ax = scflow.pl.score(scores())
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), [-0.5, 0.2, 1.225])
    diamonds = next(line for line in ax.lines if line.get_marker() == "D")
    # Below its floor the trivial generator stands on the other side.
    np.testing.assert_allclose(diamonds.get_xdata(), [-1, 1, 1])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["wasserstein", "MMD", "forest AUC genes"]
    for number in ("11.600 [11.500, 11.700]", "11.800", "11.400", "0.0020 [−0.0010, 0.0040]"):
        assert number in texts(ax)


def test_score_marks_what_lies_outside_and_takes_a_condition_and_axes() -> None:
    table = scores()
    table.loc[3, ["value", "low", "high"]] = [0.5, 0.4, 0.6]
    _, mine = plt.subplots()
    ax = scflow.pl.score(table, condition="B", ax=mine)
    assert ax is mine
    assert ax.get_title(loc="left") == "B"
    arrow = next(line for line in ax.lines if line.get_marker() == ">")
    assert len(arrow.get_xdata()) == 1
    assert arrow.get_xdata()[0] <= ax.get_xlim()[1]


def test_score_reads_the_slot_and_takes_a_metric_without_scale(simulated: AnnData) -> None:
    table = scores()
    table.loc[1, "trivial"] = table.loc[1, "floor"]
    simulated.uns["scflow_score"] = table
    ax = scflow.pl.score(simulated)
    assert "0.0020 [−0.0010, 0.0040]" in texts(ax)


def test_score_shows_what_is_off_although_nothing_sets_the_scale() -> None:
    table = scores().iloc[[0, 1, 1]].reset_index(drop=True)
    table["metric"] = ["wasserstein", "duplicates", "copies"]
    table.loc[1:, ["floor", "trivial"]] = 0.0
    table["value"] = [11.6, 1.0, 0.0]
    ax = scflow.pl.score(table)
    arrow = next(line for line in ax.lines if line.get_marker() == ">")
    assert arrow.get_ydata().tolist() == [1]
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), [-0.5, 0])


def test_score_fits_into_its_figure() -> None:
    ax = scflow.pl.score(scores())
    ax.figure.canvas.draw()
    for text in ax.texts:
        box = text.get_window_extent()
        assert ax.figure.bbox.x0 <= box.x0
        assert box.x1 <= ax.figure.bbox.x1


# genes


def test_genes_draws_means_variances_and_zeros_of_counts(pbmc: AnnData) -> None:
    real, generated = pbmc[:300].copy(), pbmc[300:].copy()
    before = contents(real), contents(generated)
    left, right = scflow.pl.genes(real, generated)
    assert (contents(real), contents(generated)) == before
    found = [profile(adata.X) for adata in (real, generated)]
    mean, variance, zeros = (np.concatenate(part) for part in zip(*found, strict=True))
    shown = (mean > 0) & (variance > 0)
    expected = np.column_stack([mean, variance])[shown]
    np.testing.assert_allclose(np.sort(points(left), axis=0), np.sort(expected, axis=0))
    np.testing.assert_allclose(np.sort(points(right)[:, 1]), np.sort(zeros[mean > 0]))
    assert (left.get_xscale(), left.get_yscale(), right.get_xscale()) == ("log", "log", "log")
    curve = right.lines[0]
    np.testing.assert_allclose(curve.get_ydata(), np.exp(-np.asarray(curve.get_xdata())))
    assert legend(left) == ["real", "generated", "Poisson"]


def test_genes_compares_on_shared_genes_and_reads_layers(pbmc: AnnData) -> None:
    real, generated = pbmc[:, 100:].copy(), pbmc[:, ::-1].copy()
    generated.layers["counts"] = generated.X.copy()
    generated.X = np.log1p(generated.X)
    _, ax = plt.subplots(1, 2)
    left, _ = scflow.pl.genes(real, generated, ax=ax)
    both = points(left)
    assert left is ax[0]
    # The same cells twice: every dot has its double.
    assert (np.unique(both.round(9), axis=0, return_counts=True)[1] % 2 == 0).all()


# correlation


def test_correlation_draws_real_below_and_generated_above_the_diagonal(pbmc: AnnData) -> None:
    real, generated = pbmc[:400].copy(), pbmc[400:].copy()
    before = contents(real), contents(generated)
    square, drawn_pairs, real_pairs = scflow.pl.correlation(real, generated, n_genes=40)
    assert (contents(real), contents(generated)) == before
    both = np.asarray(square.images[0].get_array(), dtype=float)
    expression = [log_normalised(adata.X).toarray() for adata in (real, generated)]
    top = np.sort(np.argsort(-expression[0].var(axis=0), kind="stable")[:40])
    below, above = np.tril_indices(40, -1), np.triu_indices(40, 1)
    for x, part in zip(expression, (below, above), strict=True):
        # The same pairs, in the order of a clustering.
        expected = np.corrcoef(x[:, top], rowvar=False)[below]
        np.testing.assert_allclose(np.sort(both[part]), np.sort(expected), atol=1e-5)
    # Genes that go together stand beside each other.
    unordered = np.corrcoef(expression[0][:, top], rowvar=False)
    filled = np.where(np.tri(40, k=-1, dtype=bool), both, both.T)
    assert np.diagonal(filled, 1).mean() > np.diagonal(unordered, 1).mean() + 0.1
    assert len(points(drawn_pairs)) == len(points(real_pairs)) == 780
    np.testing.assert_array_equal(points(drawn_pairs)[:, 0], points(real_pairs)[:, 0])
    errors = [float(ax.get_title().split()[-1]) for ax in (drawn_pairs, real_pairs)]
    for ax, error in zip((drawn_pairs, real_pairs), errors, strict=True):
        assert abs(np.abs(points(ax)[:, 0] - points(ax)[:, 1]).mean() - error) < 6e-4


def test_correlation_sees_shuffled_genes_and_keeps_to_the_seed(pbmc: AnnData) -> None:
    real, generated = pbmc[:400].copy(), pbmc[400:].copy()
    dense = generated.X.toarray()
    generated.X = np.random.default_rng(0).permuted(dense, axis=0)
    axes = scflow.pl.correlation(real, generated)
    lost, kept = (float(ax.get_title().split()[-1]) for ax in axes[1:])
    assert lost > 1.15 * kept
    again = scflow.pl.correlation(real, generated, ax=plt.subplots(1, 3)[1])
    np.testing.assert_array_equal(points(axes[1]), points(again[1]))


# neighbours


def ratio(ax: Axes) -> float:
    return float(ax.get_title().split()[-1])


def test_neighbours_tell_copies_from_new_cells(pbmc: AnnData) -> None:
    train, held_out = scflow.pp.split(pbmc, stratify="cell_type", test_size=0.5)
    real, new = scflow.pp.split(held_out, test_size=0.5)
    before = contents(real), contents(train)
    axes = scflow.pl.neighbours(real, new, train)
    assert (contents(real), contents(train)) == before
    assert all(0.9 < ratio(ax) < 1.1 for ax in axes)
    assert [ax.get_title().split(":")[0] for ax in axes] == ["generated cells", "real held-out cells"]
    assert legend(axes[0]) == ["nearest training cell", "nearest held-out cell"]
    copies = scflow.pl.neighbours(held_out, train[:100].copy(), train, ax=plt.subplots(1, 2)[1])
    assert ratio(copies[0]) == 0.0
    # Every copy finds its origin, and itself is no neighbour of a held-out cell.
    assert copies[0].lines[0].get_xdata().max() < 1e-4
    assert copies[1].lines[2].get_xdata().min() > 1.0


def test_neighbours_take_as_many_training_as_held_out_cells(pbmc: AnnData) -> None:
    # From ten times as many cells the nearest would be nearer.
    train, held_out = scflow.pp.split(pbmc, stratify="cell_type", test_size=0.1)
    new, real = held_out[::2].copy(), held_out[1::2].copy()
    assert all(0.85 < ratio(ax) < 1.15 for ax in scflow.pl.neighbours(real, new, train))


# history


def test_history_draws_both_losses_and_marks_the_best() -> None:
    table = history()
    for given in (table, SimpleNamespace(history=table)):
        ax = scflow.pl.history(given)
        assert "best: 1.6 at step 250" in legend(ax)
        star = next(line for line in ax.lines if line.get_marker() == "*")
        assert (float(star.get_xdata()[0]), float(star.get_ydata()[0])) == (250.0, 1.6)
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), table["loss"])


def test_history_is_found_in_the_cells_that_a_flow_was_trained_on(simulated: AnnData) -> None:
    flow = scflow.tl.train(simulated, condition="cell_type", steps=20, progress=False, key_added="mine")
    ax = scflow.pl.history(simulated, key="mine")
    np.testing.assert_allclose(ax.lines[0].get_xdata(), flow.history["step"])
    with pytest.raises(InputError, match=r"uns has no flow 'scflow'"):
        scflow.pl.history(simulated)


def test_history_takes_axes_and_a_run_without_validation() -> None:
    _, mine = plt.subplots()
    ax = scflow.pl.history(history().drop(columns="validation_loss"), ax=mine)
    assert ax is mine
    assert not any("best" in text for text in legend(ax))


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: scflow.pl.umap(a, a, color="cel_type"), r"real.obs has no column 'cel_type'. Did you mean 'cell_ty"),
        (lambda a: scflow.pl.umap(a, a, ax=plt.subplots(1, 2)[1]), r"ax holds 2 Axes; this picture draws on 3.*1, 3"),
        (lambda a: scflow.pl.umap(a[:3], a), r"real has 3 cells; a UMAP needs at least 4"),
        (lambda a: scflow.pl.genes(a[:, :20], a[:, 20:]), r"real and generated share 0 of 20 and 30 genes"),
        (lambda a: scflow.pl.neighbours(a, a, a[:, :1]), r"real and generated and reference share 1 of 50 and 50 and"),
        (
            lambda a: scflow.pl.neighbours(a, a[:3], a),
            r"There are 200 held-out, 3 generated and 200 training cells; ex",
        ),
        (lambda a: scflow.pl.neighbours(a, a, a, layer="raw"), r"has no layer 'raw'"),
        (
            lambda a: scflow.pl.correlation(a[:12], a),
            r"12 real cells in two halves and 200 generated ones leave 6 a si",
        ),
        (lambda a: scflow.pl.correlation(a, a, n_genes=2), r"n_genes=2 makes no picture; expected at least 3"),
        (lambda a: scflow.pl.genes(a, a, layer="raw"), r"has no layer 'raw'"),
        (lambda a: scflow.pl.score(scores(), condition="b"), r"no condition 'b'.* There are 'all', 'B'"),
        (lambda a: scflow.pl.score(a), r"no 'scflow_score': these cells were not scored.*scflow.tl.score\("),
        (lambda a: scflow.pl.score(scores().drop(columns="low")), r"4 rows and lacks 1 of 7 columns \('low'\)"),
        (lambda a: scflow.pl.history(3), r"A int has no history to draw"),
        (lambda a: scflow.pl.history(history()[["step"]]), r"columns 'step'; expected at least 'step' and 'loss'"),
    ],
)
def test_errors_say_what_was_found_and_what_mends_it(simulated: AnnData, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(simulated)


def test_pictures_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "score.pdf"
    scflow.pl.score(scores()).figure.savefig(path)
    assert path.stat().st_size > 1000
