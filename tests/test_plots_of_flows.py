"""Pictures of what a flow between populations does: they hold what they say, and leave their input alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.errors import InputError
from scflow.metrics import log_normalised
from scflow.pl._arrows import averaged

Numbers = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def contents(adata: AnnData) -> tuple[object, ...]:
    kept = {name: np.asarray(values).tobytes() for name, values in adata.obsm.items()}
    return (list(adata.obs), list(adata.var), list(adata.uns), list(adata.layers), kept)


def cells(n: int, seed: int = 0, **obsm: Numbers) -> AnnData:
    """Cells without genes, of two types with colours."""
    types = pd.Categorical(np.where(np.arange(n) % 3, "CD14+ Monocyte", "B"))
    obs = pd.DataFrame({"cell_type": types}, index=[f"c{seed}_{i}" for i in range(n)])
    coordinates = {name: values.astype(np.float32) for name, values in obsm.items()}
    return AnnData(obs=obs, obsm=coordinates, uns={"cell_type_colors": ["#112233", "#aa5500"]})


def dots(ax: Axes, i: int) -> Numbers:
    """Where the i-th scatter of the axes put its dots."""
    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    return np.asarray(found[i].get_offsets(), dtype=np.float64)


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def assert_legend_fits(ax: Axes) -> None:
    """Beside the axes, and within the figure."""
    ax.figure.draw_without_rendering()
    box = ax.get_legend().get_window_extent()
    assert not box.overlaps(ax.get_window_extent())
    assert box.x1 <= ax.figure.bbox.x1
    assert ax.yaxis.label.get_window_extent().x0 >= 0


# transport


def carried(n: int = 40) -> AnnData:
    before = np.random.default_rng(0).normal(size=(n, 3))
    adata = cells(n, X_scflow_source=before, X_scflow=before + np.array([5, 0, 1]))
    adata.uns["scflow_transport"] = {"source": "day: '2'", "target": "day: '5'", "use_rep": "X_pca"}
    return adata


def test_transport_draws_before_after_and_real_in_the_space_of_the_flow() -> None:
    adata, real = carried(), cells(25, 1, X_pca=np.random.default_rng(1).normal(size=(25, 3)) + 5)
    before = contents(adata), contents(real)
    axes = scflow.pl.transport(adata, real, color="cell_type", components=(0, 2))
    assert (contents(adata), contents(real)) == before
    expected = (adata.obsm["X_scflow_source"], adata.obsm["X_scflow"], real.obsm["X_pca"])
    for ax, i, points in zip(axes, (0, 1, 0), expected, strict=True):
        np.testing.assert_array_equal(dots(ax, i), points[:, [0, 2]])
    np.testing.assert_array_equal(dots(axes[1], 0), real.obsm["X_pca"][:, [0, 2]])
    assert [to_hex(c) for c in axes[0].collections[0].get_facecolors()[:2]] == ["#112233", "#aa5500"]
    assert axes[0].get_title() == "before: day: '2'\n40 cells"
    assert axes[1].get_title() == "after: day: '5'\n40 cells, on the real ones (grey)"
    assert axes[2].get_xlabel() == "PC 1"
    assert axes[2].get_ylabel() == "PC 3"
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert_legend_fits(axes[2])


def test_transport_without_real_cells_has_those_before_behind() -> None:
    adata = carried()
    axes = scflow.pl.transport(adata)
    assert len(axes) == 2
    np.testing.assert_array_equal(dots(axes[1], 0), dots(axes[0], 0))
    assert "those before" in axes[1].get_title()


def test_transport_of_genes_draws_the_carried_counts(simulated: AnnData) -> None:
    batch = simulated.obs["batch"] == "batch_0"
    adata, real = simulated[batch].copy(), simulated[~batch].copy()
    adata.obsm["X_scflow_source"] = adata.obsm["X_scflow"] = np.zeros((adata.n_obs, 4), dtype=np.float32)
    adata.layers["scflow"] = adata.X.copy()
    axes = scflow.pl.transport(adata, real, basis="pca")
    # Carried to where they were: before and after are the same.
    np.testing.assert_allclose(dots(axes[1], 1), dots(axes[0], 0), atol=1e-5)
    adata.layers["scflow"] = adata.X[::-1].copy()
    axes = scflow.pl.transport(adata, real, basis="pca")
    np.testing.assert_allclose(dots(axes[1], 1)[::-1], dots(axes[0], 0), atol=1e-5)


# trajectory


def ways(n: int = 5, times: tuple[float, ...] = (0.0, 0.5, 1.0)) -> AnnData:
    """Cell i goes from (i, 0) to (i, 2), up; rows in the order of tl.trajectory."""
    xy = np.array([(i, 2 * t) for t in times for i in range(n)])
    rows = cells(n * len(times), X_scflow=xy)
    rows.obs["scflow_cell"] = pd.Categorical([f"a{i}" for _ in times for i in range(n)])
    rows.obs["scflow_time"] = np.repeat(times, n)
    rows.obs["cell_type"] = pd.Categorical([("B", "CD14+ Monocyte")[i % 2] for _ in times for i in range(n)])
    rows.uns["scflow_transport"] = {"use_rep": "X_umap"}
    return rows


def segments(ax: Axes) -> list[Numbers]:
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    return [np.asarray(segment) for segment in lines.get_segments()]


def test_trajectory_draws_a_line_a_cell_in_order_of_time() -> None:
    rows = ways()[np.random.default_rng(0).permutation(15)].copy()
    before = contents(rows)
    ax = scflow.pl.trajectory(rows)
    assert contents(rows) == before
    found = sorted(segments(ax), key=lambda s: s[0, 0])
    np.testing.assert_allclose(found, [[(i, 0), (i, 1), (i, 2)] for i in range(5)])
    (scatter,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(np.asarray(scatter.get_offsets())[:, 1], 2 * np.asarray(scatter.get_array()))
    assert ax.get_title() == "5 cells"
    assert ax.get_xlabel() == "UMAP 1"


def test_trajectory_by_category_rings_the_start_and_takes_colours_of_the_background() -> None:
    rows, every = ways(), cells(30, 1, X_umap=np.random.default_rng(0).normal(size=(30, 2)))
    del rows.uns["cell_type_colors"]
    ax = scflow.pl.trajectory(rows, background=every, color="cell_type")
    np.testing.assert_array_equal(dots(ax, 0), every.obsm["X_umap"])
    np.testing.assert_allclose(dots(ax, 2), [(i, 0) for i in range(5)])
    np.testing.assert_allclose(dots(ax, 3), [(i, 2) for i in range(5)])
    ends = [c for c in ax.collections if isinstance(c, PathCollection)][3]
    assert [to_hex(c) for c in ends.get_facecolors()[:2]] == ["#112233", "#aa5500"]
    assert legend(ax) == ["B", "CD14+ Monocyte", "start", "end"]
    assert_legend_fits(ax)


def test_trajectory_draws_some_of_many_cells_and_keeps_to_the_seed() -> None:
    rows = ways(40)
    one, same, other = (segments(scflow.pl.trajectory(rows, max_cells=7, seed=seed)) for seed in (0, 0, 1))
    assert len(one) == 7
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_trajectory_over_genes_is_what_the_states_let_expect(simulated: AnnData) -> None:
    # Counts that do not depend on the state: all rows are expected in the same place.
    rows = AnnData(sparse.vstack([simulated.X[:60]] * 2, format="csr"), var=simulated.var.copy())
    rows.obs["scflow_cell"] = pd.Categorical([f"a{i}" for _ in (0, 1) for i in range(60)])
    rows.obs["scflow_time"] = np.repeat([0.0, 1.0], 60)
    rows.obsm["X_scflow"] = np.repeat(np.eye(3, dtype=np.float32)[:2], 60, axis=0)
    ax = scflow.pl.trajectory(rows, background=simulated)
    assert np.ptp(np.concatenate(segments(ax)), axis=0).max() < 1e-3
    assert len(dots(ax, 0)) == 200


# velocity


def turning(n: int, dim: int, seed: int = 0) -> tuple[AnnData, Numbers]:
    """Cells in `dim` dimensions that turn in a plane, that plane as embedding, and how they turn in it."""
    rng = np.random.default_rng(seed)
    plane = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :2]
    states = rng.normal(size=(n, dim))
    flat = states @ plane
    turn = np.column_stack([-flat[:, 1], flat[:, 0]])
    return cells(n, X_scflow=states, velocity_scflow=turn @ plane.T, X_plane=flat), turn


def arrows(ax: Axes) -> tuple[Numbers, Numbers]:
    """Where arrows start, and what they are."""
    (quiver,) = [c for c in ax.collections if isinstance(c, Quiver)]
    return np.asarray(quiver.get_offsets(), dtype=np.float64), np.column_stack([quiver.U, quiver.V])


def cosines(a: Numbers, b: Numbers) -> Numbers:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / norms)


@pytest.mark.parametrize("dim", [3, 10])
def test_velocity_projects_a_rotation(dim: int) -> None:
    adata, turn = turning(500, dim)
    before = contents(adata)
    at, found = arrows(scflow.pl.velocity(adata, basis="plane", kind="cells"))
    assert contents(adata) == before
    np.testing.assert_allclose(at, adata.obsm["X_plane"], rtol=1e-6)
    found_cosines = cosines(found, turn)
    assert found_cosines.mean() > 0.95
    assert (found_cosines > 0.9).mean() > 0.9
    lengths = [np.linalg.norm(x, axis=1) for x in (found, turn)]
    assert np.corrcoef(*lengths)[0, 1] > 0.8


@pytest.mark.parametrize("dim", [2, 10])
def test_velocity_on_a_grid_turns_as_the_cells_do(dim: int) -> None:
    adata, _ = turning(1000, dim)
    # Turned by hand: an embedding that is not the flow's space, also where both have two dimensions.
    angle = np.array([[0, 1], [-1, 0]])
    adata.obsm["X_plane"] = adata.obsm["X_plane"] @ angle
    at, found = arrows(scflow.pl.velocity(adata, basis="plane"))
    inner = (np.linalg.norm(at, axis=1) > 0.5) & (np.linalg.norm(at, axis=1) < 2)
    assert inner.sum() > 50
    assert cosines(found, np.column_stack([-at[:, 1], at[:, 0]]))[inner].min() > 0.9


def test_velocity_does_not_follow_the_density() -> None:
    # All cells move right; they lie the denser the higher. Only the mean of the neighbours keeps arrows level.
    rng = np.random.default_rng(0)
    xy = np.column_stack([rng.uniform(0, 4, 1500), 4 * rng.uniform(size=1500) ** (1 / 3)])
    adata = cells(1500, X_scflow=xy, velocity_scflow=np.tile([1.0, 0.0], (1500, 1)), X_plane=-xy)
    _, found = arrows(scflow.pl.velocity(adata, basis="plane", kind="cells"))
    inner = ((xy > 1) & (xy < 3)).all(axis=1)
    mean = found[inner].mean(axis=0)
    assert mean[0] < 0
    assert abs(mean[1]) < 0.05 * abs(mean[0])


def test_velocity_in_the_space_of_the_flow_is_drawn_as_it_is() -> None:
    adata, turn = turning(60, 2)
    moves = adata.obsm["velocity_scflow"]
    for basis, name in (("scflow", "X_scflow"), ("umap", "X_umap"), ("X_umap", "X_umap")):
        adata.obsm["X_umap"] = adata.obsm["X_scflow"].copy()
        at, found = arrows(scflow.pl.velocity(adata, basis=basis, kind="cells"))
        np.testing.assert_allclose(at, adata.obsm[name], rtol=1e-6)
        np.testing.assert_allclose(found, moves, rtol=1e-5)
    assert len(turn) == len(found)


def test_velocity_seeks_neighbours_in_the_background() -> None:
    # Cells at the left move right, where only cells of the background are, at (1, 1) of the embedding.
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(30, 3)) * 0.1, rng.normal(size=(30, 3)) * 0.1 + [1, 0, 0]
    adata = cells(30, X_scflow=left, velocity_scflow=np.tile([1.0, 0, 0], (30, 1)), X_map=left[:, 1:])
    behind = cells(30, 1, X_pca=right, X_map=right[:, 1:] + [1, 1])
    adata.uns["scflow_transport"] = {"use_rep": "X_pca"}
    options = {"basis": "map", "kind": "cells", "n_neighbors": 59}
    ax = scflow.pl.velocity(adata, background=behind, color="cell_type", **options)
    assert cosines(arrows(ax)[1], np.ones((30, 2))).mean() > 0.75
    assert len(dots(ax, 0)) == 30
    assert_legend_fits(ax)
    del behind.obsm["X_pca"]
    # Without a place in the flow's space it is drawn and no more.
    alone = arrows(scflow.pl.velocity(adata, background=behind, **options))[1]
    np.testing.assert_allclose(alone, arrows(scflow.pl.velocity(adata, **options))[1])
    assert abs(cosines(alone, np.ones((30, 2))).mean()) < 0.4


def test_velocity_streams_where_there_are_cells() -> None:
    adata, _ = turning(400, 2)
    ax = scflow.pl.velocity(adata, basis="scflow", kind="stream")
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    found = np.asarray(lines.get_segments())
    middle = found.mean(axis=1)
    # Lines run along the rotation, one way or the other.
    along = np.abs(cosines(found[:, 1] - found[:, 0] + 1e-12, np.column_stack([-middle[:, 1], middle[:, 0]])))
    assert np.median(along) > 0.98


def test_averages_over_a_grid_are_weighted_by_nearness_and_missing_without_cells() -> None:
    marks = np.column_stack([np.arange(4.0), np.arange(4.0) * 2])
    points = np.array([[1, 2], [1, 2], [2, 2]], dtype=np.float32)
    grid = averaged(points, np.array([[1.0, 0], [3.0, 0], [0, 6.0]]), marks, least=0.5)
    bell = np.exp(-2)
    np.testing.assert_allclose(grid.arrows[1, 1], [4 / (2 + bell), 6 * bell / (2 + bell)])
    assert np.isfinite(grid.arrows[..., 0]).sum() == 2
    assert np.isfinite(grid.arrows[1, 2, 1])


# response


def halves(adata: AnnData) -> tuple[AnnData, AnnData, AnnData]:
    batch = (adata.obs["batch"] == "batch_0").to_numpy()
    real = np.flatnonzero(~batch)
    return adata[batch].copy(), adata[real[::2]].copy(), adata[real[1::2]].copy()


def mean(adata: AnnData) -> Numbers:
    return np.asarray(log_normalised(adata.X).toarray(), dtype=np.float64).mean(axis=0)


def test_response_draws_changes_and_tells_slope_and_correlation(simulated: AnnData) -> None:
    source, real, floor = halves(simulated)
    predicted = simulated[::3].copy()
    before = [contents(adata) for adata in (real, predicted, source, floor)]
    ax = scflow.pl.response(real, predicted, source, floor=floor, n_top=10, n_names=4)
    assert [contents(adata) for adata in (real, predicted, source, floor)] == before
    true, fake, other = (mean(adata) - mean(source) for adata in (real, predicted, floor))
    np.testing.assert_allclose(dots(ax, 0), np.column_stack([true, other]), atol=1e-6)
    np.testing.assert_allclose(dots(ax, 1), np.column_stack([true, fake]), atol=1e-6)
    top = np.argsort(-np.abs(true))[:10]
    for text, name, y in zip(legend(ax), ("predicted", "real, other cells"), (fake, other), strict=True):
        pairs = ((y, true), (y[top], true[top]))
        told = [f"{a @ b / (b @ b):.2f}, r {np.corrcoef(a, b)[0, 1]:.2f}" for a, b in pairs]
        assert text == f"{name}: slope {told[0]}; top 10: {told[1]}"
    identity = ax.lines[-1]
    np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
    assert {text.get_text() for text in ax.texts} == set(real.var_names[top[:4]])
    assert {tuple(text.xy) for text in ax.texts} <= {tuple(xy) for xy in dots(ax, 1)}


def test_response_of_real_cells_has_slope_1_and_of_source_cells_0(simulated: AnnData) -> None:
    source, real, _ = halves(simulated)
    (perfect,) = legend(scflow.pl.response(real, real.copy(), source, n_top=50))
    assert perfect == "predicted: slope 1.00, r 1.00"
    (nothing,) = legend(scflow.pl.response(real, source.copy(), source, n_top=50))
    assert nothing.startswith("predicted: slope 0.00")


def test_response_takes_carried_counts_and_holds_them_against_those_before(simulated: AnnData) -> None:
    source, real, _ = halves(simulated)
    moved = source.copy()
    moved.layers["scflow"] = sparse.csr_matrix(source.X[:, ::-1])
    moved.obsm["X_scflow_source"] = np.zeros((moved.n_obs, 2))
    ax = scflow.pl.response(real, moved)
    np.testing.assert_allclose(dots(ax, 0)[:, 1], mean(source)[::-1] - mean(source), atol=1e-6)


def test_response_names_shared_genes_in_any_order_and_names_do_not_overlap(simulated: AnnData) -> None:
    source, real, floor = halves(simulated)
    predicted, real = floor[:, ::-1].copy(), real[:, 5:].copy()
    ax = scflow.pl.response(real, predicted, source, n_names=8)
    shared = source.var_names[5:]
    before, true, fake = (mean(adata[:, shared].copy()) for adata in (source, real, predicted))
    np.testing.assert_allclose(dots(ax, 0), np.column_stack([true, fake]) - before[:, None], atol=1e-6)
    top = np.argsort(-np.abs(true - before))[:8]
    assert {text.get_text() for text in ax.texts} == set(shared[top])
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 8
    for i, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:i]) == 0
        assert ax.get_window_extent().x0 <= box.x0
        assert box.x1 <= ax.get_window_extent().x1


# Errors


def timed(time: Any) -> AnnData:
    rows = ways()
    rows.obs["scflow_time"] = time
    return rows


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: scflow.pl.transport(a), r"no 'X_scflow_source', 'X_scflow': no flow carried.*scflow.tl.transport\("),
        (lambda a: scflow.pl.transport(carried(), basis="tsne"), r"basis='tsne' is not known.* Choose out of 'umap'"),
        (
            lambda a: scflow.pl.transport(carried(), components=(0, 3)),
            r"not two of the 3 dimensions of X_pca.*\(0, 1\)",
        ),
        (
            lambda a: scflow.pl.transport(carried(), cells(9, X_pca=np.zeros((9, 2)))),
            r"real.obsm\['X_pca'\] has 2 dimensions; the flow's space has 3",
        ),
        (lambda a: scflow.pl.transport(carried(), color="type"), r"carried.obs has no column 'type'"),
        (
            lambda a: scflow.pl.trajectory(a),
            r"no obs\['scflow_cell'\] and no .*obsm\['X_scflow'\]: it is no trajectory",
        ),
        (lambda a: scflow.pl.trajectory(ways(4, (0.5,))), r"one time \(0.5\) for all 4 cells; a line needs two"),
        (
            lambda a: scflow.pl.trajectory(timed(["a", "b", "c"] * 5)),
            r"holds categories \('a', 'b', 'c'\).*astype\(float",
        ),
        (lambda a: scflow.pl.trajectory(ways(), max_cells=0), r"max_cells=0 leaves nothing to draw"),
        (lambda a: scflow.pl.trajectory(ways(), basis="umap"), r"basis='umap' is not known"),
        (lambda a: scflow.pl.velocity(a), r"no 'X_scflow', 'velocity_scflow': no flow was asked.*scflow.tl.velocity\("),
        (lambda a: scflow.pl.velocity(turning(9, 3)[0]), r"no 'X_umap'.* Embeddings: 'X_scflow'.*sc.tl.umap"),
        (lambda a: scflow.pl.velocity(turning(9, 3)[0], kind="streams"), r"kind='streams' is not.* mean 'stream'"),
        (lambda a: scflow.pl.velocity(turning(9, 3)[0], n_neighbors=1), r"n_neighbors=1; expected .* at least 2"),
        (lambda a: scflow.pl.velocity(turning(4, 3)[0], basis="plane"), r"has 4 cells; .* at least 5"),
        (
            lambda a: scflow.pl.velocity(turning(9, 3)[0], basis="plane", background=cells(3, X_umap=np.eye(3))),
            r"background.obsm has no 'X_plane'",
        ),
        (
            lambda a: scflow.pl.trajectory(ways(), basis="state", background=cells(3)),
            r"background.obsm has no 'X_\w+': these cells have no coordinates in the space .*use_rep=.*basis='pca'",
        ),
        (
            lambda a: scflow.pl.response(a, a),
            r"no source.* no flow carried these cells.*scflow.pl.response\(real, pred",
        ),
        (lambda a: scflow.pl.response(a, a, a), r"means of all 50 genes are the same in real and source: nothing resp"),
        (lambda a: scflow.pl.response(a, a, a[:1]), r"source has 1 cell"),
        (lambda a: scflow.pl.response(a[:, :1], a, a), r"share 1 of 50 and 1 and 50 genes"),
        (lambda a: scflow.pl.response(a[:90], a, a, n_top=1), r"n_top=1; expected a whole number of at least 2"),
    ],
)
def test_errors_come_before_a_figure_and_say_what_mends_it(simulated: AnnData, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(simulated)
    assert not plt.get_fignums()


# The verbs' own results


def test_what_the_verbs_leave_is_what_the_pictures_take() -> None:
    rng = np.random.default_rng(0)
    adata = cells(300, X_umap=rng.normal(size=(300, 2)))
    adata.obs["day"] = pd.Categorical(np.repeat(["2", "5"], 150))
    adata.obsm["X_umap"][150:] += [6, 2]
    flow = scflow.tl.train(adata, source={"day": "2"}, use_rep="X_umap", steps=30, progress=False)
    early, late = (adata[adata.obs["day"] == day].copy() for day in ("2", "5"))
    scflow.tl.transport(early, flow, progress=False)
    axes = scflow.pl.transport(early, late, color="cell_type")
    np.testing.assert_allclose(dots(axes[0], 0), adata.obsm["X_umap"][:150], atol=1e-4)
    rows = scflow.tl.trajectory(early, flow, times=3, progress=False)
    lines = segments(scflow.pl.trajectory(rows, background=adata, max_cells=500))
    np.testing.assert_allclose([line[-1] for line in lines], early.obsm["X_scflow"], atol=1e-4)
    scflow.tl.velocity(early, flow)
    at, found = arrows(scflow.pl.velocity(early, background=adata, kind="cells"))
    np.testing.assert_allclose(at, adata.obsm["X_umap"][:150], atol=1e-4)
    np.testing.assert_allclose(found, early.obsm["velocity_umap"], rtol=1e-5)
