"""Cells between cells: the ends, the middle, and what lies between conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import Exact
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._between import slerp

pytestmark = pytest.mark.usefixtures("small_flows")

POSITION, PAIR = "scflow_position", "scflow_pair"


def at(ways: AnnData, position: float) -> NDArray[np.float32]:
    """The states at one position, a way a row."""
    return np.asarray(ways.obsm["X_scflow"][np.isclose(ways.obs[POSITION], position)])


@pytest.fixture(scope="module")
def counted(small_flows: None) -> tuple[AnnData, Flow]:
    adata = scflow.datasets.simulate(200, 40, 2, library_size=200, seed=0)
    adata.obs["dose"] = np.random.default_rng(0).normal(5, 2, 200)
    options: dict[str, Any] = {"condition": ["cell_type", "dose"], "steps": 100, "progress": False}
    return adata, scflow.tl.train(adata.copy(), **options)


# On the sphere.


def test_a_right_angle_is_halved_on_the_circle() -> None:
    a, b = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    half = slerp(a, b, torch.tensor([0.5, 1 / 3]))
    expected = torch.tensor([[2**0.5, 2**0.5], [0.5, 0.75**0.5]])  # at 45 and at 90 - 30 degrees
    torch.testing.assert_close(half, expected)


def test_lengths_change_evenly_and_rows_along_one_line_go_straight() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 4.0]])
    quarter = slerp(a, b, torch.full((3,), 0.25))
    along = 2.5 * torch.tensor([np.pi / 8]).cos(), 2.5 * torch.tensor([np.pi / 8]).sin()
    torch.testing.assert_close(quarter, torch.tensor([[1.5, 0.0], [0.5, 0.0], [float(x) for x in along]]))
    torch.testing.assert_close(slerp(a, b, torch.zeros(3)), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(3)), b)


def test_rows_nearly_against_each_other_go_round_and_not_astray() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[-3.0, 1e-3]])
    torch.testing.assert_close(slerp(a, b, torch.tensor([0.5])), torch.tensor([[0.0, 2.0]]), atol=1e-3, rtol=0)


def test_what_is_between_normal_draws_is_as_long_as_they_are() -> None:
    a, b = torch.randn(2, 500, 50, generator=torch.Generator().manual_seed(0))
    half = torch.full((500,), 0.5)
    assert float(slerp(a, b, half).square().sum(1).mean()) == pytest.approx(50, rel=0.02)
    assert float(((a + b) / 2).square().sum(1).mean()) == pytest.approx(25, rel=0.05)


# Between cells.


def test_both_ends_are_the_cells(clusters: Exact) -> None:
    a, b = clusters.draw(20, seed=1), clusters.draw(20, seed=2)
    ways = scflow.tl.interpolate(clusters.flow, a, b, n=5, steps=64, progress=False)
    assert ways.n_obs == 100
    np.testing.assert_allclose(at(ways, 0), a.obsm["X_e"], atol=3e-3)
    np.testing.assert_allclose(at(ways, 1), b.obsm["X_e"], atol=3e-3)
    assert ways.obs[POSITION].tolist() == [0, 0.25, 0.5, 0.75, 1] * 20
    assert ways.obs[PAIR].tolist() == np.repeat(np.arange(20), 5).tolist()
    for position, cells in ((0.0, a), (1.0, b)):
        there = ways.obs["cluster"][ways.obs[POSITION] == position]
        assert there.tolist() == cells.obs["cluster"].tolist()
    differ = np.repeat(a.obs["cluster"].to_numpy() != b.obs["cluster"].to_numpy(), 5)
    inside = ways.obs[POSITION].between(0.1, 0.9).to_numpy()
    assert ways.obs["cluster"].isna().tolist() == (differ & inside).tolist()
    assert ways.uns["scflow"]["provenance"]["between"] == "cells"


def test_the_middle_is_likelier_than_that_of_a_straight_line(ring: Exact) -> None:
    """On a ring the straight line leaves the cells, and the flow's way stays with them."""
    a, b = ring.draw(100, seed=1), ring.draw(100, seed=2)
    ways = scflow.tl.interpolate(ring.flow, a, b, n=3, steps=64, progress=False)
    straight = AnnData(obsm={"X_e": (a.obsm["X_e"] + b.obsm["X_e"]) / 2})
    middle = AnnData(obsm={"X_e": at(ways, 0.5)})
    by_flow, by_line, real = (ring.log_prob(x, given=False) for x in (middle, straight, a))
    assert by_flow.mean() > by_line.mean() + 3
    assert by_flow.mean() > real.mean() - 1.5
    # Where they differ much, nearly every way is better than its line.
    far = np.linalg.norm(a.obsm["X_e"] - b.obsm["X_e"], axis=1) > 2.5
    assert far.sum() > 30
    assert (by_flow[far] > by_line[far]).mean() > 0.85


def test_within_a_cluster_cells_between_are_spread_as_cells_are(clusters: Exact) -> None:
    """Half way on a straight line they would have half the variance."""
    a, b = (scflow.tl.generate(clusters.flow, 400, condition={"cluster": "k1"}, seed=s, progress=False) for s in (0, 1))
    for cells in (a, b):
        cells.obsm["X_e"] = cells.obsm["X_scflow"]
    ways = scflow.tl.interpolate(clusters.flow, a, b, n=3, steps=32, progress=False)
    whole = (clusters.scale * clusters.sd) ** 2
    assert at(ways, 0.5).var(0).mean() == pytest.approx(whole, rel=0.1)
    assert at(ways, 0.5).mean(0) == pytest.approx(clusters.shift + clusters.scale * clusters.means[1].numpy(), abs=0.3)


def test_one_cell_goes_with_many(clusters: Exact) -> None:
    one, many = clusters.draw(1, seed=1), clusters.draw(4, seed=2)
    ways = scflow.tl.interpolate(clusters.flow, one, many, n=2, steps=64, progress=False)
    np.testing.assert_allclose(at(ways, 0), np.repeat(one.obsm["X_e"], 4, axis=0), atol=3e-3)
    np.testing.assert_allclose(at(ways, 1), many.obsm["X_e"], atol=3e-3)


# Between conditions.


def test_one_noise_goes_from_type_to_type(clusters: Exact) -> None:
    ways = scflow.tl.interpolate(
        clusters.flow, {"cluster": "k0"}, {"cluster": "k2"}, n=5, n_pairs=300, steps=32, progress=False
    )
    for position, k in ((0.0, 0), (1.0, 2)):
        centre = clusters.shift + clusters.scale * clusters.means[k].numpy()
        np.testing.assert_allclose(at(ways, position).mean(0), centre, atol=0.4)
        np.testing.assert_allclose(at(ways, position).std(0), clusters.scale * clusters.sd, rtol=0.15)
    # The mean of two velocities that differ by a shift goes to the mean of both places.
    both = clusters.shift + clusters.scale * clusters.means[[0, 2]].numpy().mean(0)
    np.testing.assert_allclose(at(ways, 0.5).mean(0), both, atol=0.4)
    noise = ways.obsm["X_scflow_noise"].reshape(300, 5, 5)
    np.testing.assert_allclose(noise, np.repeat(noise[:, :1], 5, axis=1), atol=1e-5)


def test_a_cell_keeps_its_noise_and_takes_the_other_type(clusters: Exact) -> None:
    """Between normal clusters of one deviation that is a shift by the difference of their means."""
    a = clusters.draw(30, seed=3)
    a = a[a.obs["cluster"] == "k0"].copy()
    ways = scflow.tl.interpolate(clusters.flow, a, {"cluster": "k1"}, n=3, steps=64, progress=False)
    shift = clusters.scale * (clusters.means[1] - clusters.means[0]).numpy()
    np.testing.assert_allclose(at(ways, 1), a.obsm["X_e"] + shift, atol=5e-3)
    np.testing.assert_allclose(at(ways, 0), a.obsm["X_e"], atol=5e-3)
    back = scflow.tl.interpolate(clusters.flow, {"cluster": "k1"}, a, n=3, steps=64, progress=False)
    np.testing.assert_allclose(at(back, 0), at(ways, 1), atol=1e-5)


def test_the_ends_are_what_the_flow_draws_there(clusters: Exact) -> None:
    ways = scflow.tl.interpolate(clusters.flow, {"cluster": "k0"}, {"cluster": "k2"}, n=2, n_pairs=9, progress=False)
    new = scflow.tl.generate(clusters.flow, 9, condition={"cluster": "k0"}, solver="rk4", steps=16, progress=False)
    np.testing.assert_allclose(at(ways, 0), new.obsm["X_scflow"], atol=1e-4)


# In count space.


def test_counts_numbers_and_calibration(counted: tuple[AnnData, Flow]) -> None:
    adata, flow = counted
    a, b = adata[:6].copy(), adata[6:12].copy()
    ways = scflow.tl.interpolate(flow, a, b, n=3, progress=False)
    assert sparse.issparse(ways.layers["counts"])
    assert ways.layers["counts"].dtype == np.int32
    assert ways.var_names.tolist() == adata.var_names.tolist()
    dose = ways.obs["dose"].to_numpy().reshape(6, 3)
    np.testing.assert_allclose(dose[:, 0], a.obs["dose"], rtol=1e-4)
    np.testing.assert_allclose(dose[:, 1], (a.obs["dose"].to_numpy() + b.obs["dose"].to_numpy()) / 2, rtol=1e-4)
    assert ways.uns["scflow"]["provenance"]["calibration"] == "none"
    kin = adata[adata.obs["cell_type"] == "type_0"][:6].copy()
    within = scflow.tl.interpolate(flow, kin[:3].copy(), kin[3:].copy(), n=3, progress=False)
    assert within.uns["scflow"]["provenance"]["calibration"] == "independent"
    encoded = scflow.tl.encode(kin, flow, progress=False, copy=True)
    assert encoded is not None
    np.testing.assert_allclose(at(within, 0), encoded.obsm["X_scflow"][:3], atol=5e-3)
    np.testing.assert_allclose(at(within, 1), encoded.obsm["X_scflow"][3:], atol=5e-3)


def test_expression_goes_over_from_type_to_type(counted: tuple[AnnData, Flow]) -> None:
    """Each gene's mean rate on the way lies between those at the ends, or near them."""
    ways = scflow.tl.interpolate(
        counted[1], {"cell_type": "type_0", "dose": 5.0}, {"cell_type": "type_1"}, n=3, n_pairs=300, progress=False
    )
    assert (ways.obs["dose"] == 5.0).all()
    rates = []
    for position in (0.0, 0.5, 1.0):
        counts = ways.layers["counts"][(ways.obs[POSITION] == position).to_numpy()]
        total = np.asarray(counts.sum(0), dtype=np.float64).ravel()
        rates.append(np.log((total + 5) / total.sum()))
    start, middle, end = rates
    assert np.abs(start - end).max() > 1
    np.testing.assert_allclose(middle, (start + end) / 2, atol=0.5)
    moving = np.abs(start - end) > 0.7
    share = (middle - start)[moving] / (end - start)[moving]
    assert 0.25 < np.median(share) < 0.75


def test_the_random_state_is_local_and_the_cells_are_left_alone(counted: tuple[AnnData, Flow]) -> None:
    adata, flow = counted
    a, b = adata[:3].copy(), adata[3:6].copy()
    before, state = a.copy(), torch.get_rng_state()
    one, same, other = (scflow.tl.interpolate(flow, a, b, n=3, seed=s, progress=False) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (one.layers["counts"] != same.layers["counts"]).nnz == 0
    assert (one.layers["counts"] != other.layers["counts"]).nnz > 0
    np.testing.assert_array_equal(one.obsm["X_scflow"], other.obsm["X_scflow"])
    pd.testing.assert_frame_equal(a.obs, before.obs)
    assert set(a.obsm) == set(before.obsm)
    assert set(a.uns) == set(before.uns)


def test_the_flow_in_an_anndata(simulated: AnnData) -> None:
    flow = scflow.tl.train(simulated, condition="cell_type", steps=5, progress=False)
    one, other = {"cell_type": "type_0"}, {"cell_type": "type_1"}
    found = [scflow.tl.interpolate(source, one, other, n=2, progress=False) for source in (flow, simulated)]
    np.testing.assert_array_equal(found[0].obsm["X_scflow"], found[1].obsm["X_scflow"])


# What is refused, before any work.

A, B = {"cluster": "k0"}, {"cluster": "k1"}


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ("k0", B, {}, "a is a str; expected an AnnData of cells or a mapping of conditions"),
        (A, None, {}, "b is a NoneType; expected an AnnData of cells"),
        ({}, B, {}, r"a=\{\} names no condition. Name one"),
        ({"clusters": "k0"}, B, {}, "clusters"),
        (A, {"cluster": "k9"}, {}, "'k9'"),
        (A, B, {"n": 1}, "n=1 must be a whole number of at least 2"),
        (A, B, {"n_pairs": 0}, "n_pairs=0 must be a whole number of at least 1"),
        (A, B, {"solver": "jump"}, "solver='jump' takes the steps of a flow map"),
        (A, B, {"solver": "rk5"}, "solver='rk5' is not known. Did you mean 'rk4'"),
        (A, B, {"steps": 0}, "steps=0"),
        (A, B, {"guidance": {"clusters": 2.0}}, "clusters"),
        (A, B, {"guidance": "much"}, "guidance='much' is not a number"),
        (A, B, {"batch_size": 0}, "batch_size=0"),
        (A, B, {"device": "gpu"}, "device='gpu' cannot be used here"),
        (A, B, {"seed": -1}, "seed=-1"),
    ],
)
def test_ends_and_options_that_mean_nothing(
    clusters: Exact, a: Any, b: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        scflow.tl.interpolate(clusters.flow, a, b, progress=False, **options)


def test_cells_that_do_not_go_together(clusters: Exact, counted: tuple[AnnData, Flow], ring: Exact) -> None:
    three, four = clusters.draw(3), clusters.draw(4)
    with pytest.raises(InputError, match=r"a has 3 cells and b has 4: each cell of the one goes with one of the other"):
        scflow.tl.interpolate(clusters.flow, three, four)
    with pytest.raises(InputError, match=r"n_pairs=2, but there are cells for 3 ways. Leave n_pairs out"):
        scflow.tl.interpolate(clusters.flow, three, three, n_pairs=2)
    bare = AnnData(obsm=dict(three.obsm))
    with pytest.raises(InputError, match=r"b\.obs has no column 'cluster'"):
        scflow.tl.interpolate(clusters.flow, three, bare)
    adata, flow = counted
    with pytest.raises(InputError, match="a lacks 5 of 40 genes"):
        scflow.tl.interpolate(flow, adata[:2, 5:].copy(), adata[:2].copy())
    with pytest.raises(InputError, match="This flow was trained without conditions"):
        scflow.tl.interpolate(ring.flow, {"cluster": "k0"}, {"cluster": "k1"})
    with pytest.raises(InputError, match="uns has no flow 'scflow'"):
        scflow.tl.interpolate(three, three, three)
    with pytest.raises(InputError, match="AnnData"):
        scflow.tl.interpolate("flow.safetensors", three, three)  # type: ignore[arg-type]
