"""Cells to their noise: against the exact code, and back again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import Exact
from numpy.typing import NDArray
from scipy import sparse, stats

import scflow
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.flow._between import End
from scflow.matching import solvers

pytestmark = pytest.mark.usefixtures("small_flows")

SPACES = ["counts", "genes", "pca", "quantile"]


def back(flow: Flow, adata: AnnData, codes: Any, steps: int = 16) -> NDArray[np.float32]:
    """The states that a flow takes the cells' codes to."""
    end = End(torch.from_numpy(adata.obsm["X_scflow_noise"]), codes)
    return flow.between(end, end, np.array([0.0]), Sampling(solver=solvers.RK4(), steps=steps)).state


@pytest.fixture(scope="module")
def flows(small_flows: None) -> tuple[AnnData, Callable[[str], Flow]]:
    adata = scflow.datasets.simulate(200, 40, 2, library_size=200, seed=0)
    made: dict[str, Flow] = {}

    def flow(space: str) -> Flow:
        if space not in made:
            options: dict[str, Any] = {"condition": "cell_type", "steps": 60, "progress": False}
            made[space] = scflow.tl.train(adata.copy(), space=space, **options)
        return made[space]

    return adata, flow


# The exact code.


def test_within_a_cluster_the_code_is_the_standardised_place(clusters: Exact) -> None:
    adata = clusters.draw(300)
    assert scflow.tl.encode(adata, clusters.flow, steps=64, progress=False) is None
    k = [int(name[1:]) for name in adata.obs["cluster"]]
    centre = clusters.shift + clusters.scale * clusters.means.numpy()[k]
    exact = (adata.obsm["X_e"] - centre) / (clusters.scale * clusters.sd)
    np.testing.assert_allclose(adata.obsm["X_scflow_noise"], exact, atol=2e-3)
    np.testing.assert_array_equal(adata.obsm["X_scflow"], adata.obsm["X_e"])


def test_codes_of_all_clusters_together_are_normal(clusters: Exact) -> None:
    adata = clusters.draw(1500)
    scflow.tl.encode(adata, clusters.flow, condition={"cluster": None}, progress=False)
    for coordinate in adata.obsm["X_scflow_noise"].T:
        assert stats.kstest(coordinate, "norm").pvalue > 0.01 / 5
    correlation = np.corrcoef(adata.obsm["X_scflow_noise"].T) - np.eye(5)
    assert np.abs(correlation).max() < 0.1


def test_the_flow_takes_the_code_back_to_the_cell(clusters: Exact) -> None:
    adata = clusters.draw(300)
    scflow.tl.encode(adata, clusters.flow, steps=64, progress=False)
    codes = clusters.flow.conditions.encode(adata.obs[["cluster"]])
    np.testing.assert_allclose(back(clusters.flow, adata, codes, steps=64), adata.obsm["X_e"], atol=2e-3)
    # Not by chance: under another cluster's condition it is another cell.
    other = (codes + 1) % 3
    assert np.abs(back(clusters.flow, adata, other) - adata.obsm["X_e"]).mean() > 1


@pytest.mark.parametrize("space", SPACES)
def test_what_was_drawn_has_the_noise_that_it_was_drawn_from(
    flows: tuple[AnnData, Callable[[str], Flow]], space: str
) -> None:
    flow = flows[1](space)
    new = scflow.tl.generate(flow, 100, solver="rk4", steps=32, progress=False)
    drawn = {slot: new.obsm[slot].copy() for slot in ("X_scflow", "X_scflow_noise")}
    scflow.tl.encode(new, flow, use_rep="X_scflow", steps=32, progress=False)
    np.testing.assert_array_equal(new.obsm["X_scflow"], drawn["X_scflow"])
    error = new.obsm["X_scflow_noise"] - drawn["X_scflow_noise"]
    # A masked noise has a narrow law, in which the way back is stiff.
    assert np.sqrt(np.mean(error**2)) < (0.05 if space == "genes" else 0.005)


@pytest.mark.parametrize("space", SPACES)
def test_real_cells_come_back_as_states_and_as_counts_in_distribution(
    flows: tuple[AnnData, Callable[[str], Flow]], space: str
) -> None:
    adata, flow = flows[0].copy(), flows[1](space)
    scflow.tl.encode(adata, flow, steps=32, progress=False)
    codes = flow.conditions.encode(adata.obs[["cell_type"]])
    found = back(flow, adata, codes, steps=32)
    assert np.sqrt(np.mean((found - adata.obsm["X_scflow"]) ** 2)) < (0.05 if space == "genes" else 0.005)
    end = End(torch.from_numpy(adata.obsm["X_scflow_noise"]), codes)
    counts = flow.between(end, end, np.array([0.0])).counts
    assert counts is not None
    assert counts.dtype == np.int32
    mean, real = (np.log1p(np.asarray(x.mean(0)).ravel()) for x in (counts, adata.X))
    assert np.corrcoef(mean, real)[0, 1] > 0.95
    sizes = [np.log(np.asarray(x.sum(1)).ravel()) for x in (counts, adata.X)]
    assert np.corrcoef(*sizes)[0, 1] > 0.8  # of the same cells


# What it does not depend on, and what it leaves alone.


def test_a_cell_has_its_code_whatever_stands_beside_it(flows: tuple[AnnData, Callable[[str], Flow]]) -> None:
    adata, flow = flows[0], flows[1]("counts")
    before, state = adata.copy(), torch.get_rng_state()
    every = scflow.tl.encode(adata, flow, progress=False, copy=True)
    few = scflow.tl.encode(adata[:7, ::-1].copy(), flow, progress=False, copy=True)
    assert every is not None
    assert few is not None
    np.testing.assert_array_equal(few.obsm["X_scflow_noise"], every.obsm["X_scflow_noise"][:7])
    assert torch.equal(torch.get_rng_state(), state)
    # The copy has two slots more, and the caller's cells have none.
    assert set(every.obsm) - set(before.obsm) == {"X_scflow", "X_scflow_noise"}
    assert set(adata.obsm) == set(before.obsm)
    pd.testing.assert_frame_equal(every.obs, before.obs)
    assert (every.X != before.X).nnz == 0
    assert set(every.uns) == set(before.uns)


def test_the_flow_in_the_cells_and_slots_of_another_name(clusters: Exact, simulated: AnnData) -> None:
    scflow.tl.train(simulated, steps=5, progress=False, key_added="own")
    scflow.tl.encode(simulated, progress=False, key_added="own")
    assert simulated.obsm["X_own_noise"].shape == simulated.obsm["X_own"].shape == (200, 21)
    other = simulated.copy()
    scflow.tl.encode(other, scflow.Flow.from_content(simulated.uns["own"]), progress=False)
    np.testing.assert_array_equal(other.obsm["X_scflow_noise"], simulated.obsm["X_own_noise"])


def test_the_layer_of_training_is_found(simulated: AnnData) -> None:
    simulated.layers["raw"] = simulated.X.copy()
    simulated.X = sparse.csr_matrix(simulated.X.log1p())
    flow = scflow.tl.train(simulated, layer="raw", steps=5, progress=False)
    found = scflow.tl.encode(simulated, flow, progress=False, copy=True)
    asked = scflow.tl.encode(simulated, flow, layer="raw", progress=False, copy=True)
    assert found is not None
    assert asked is not None
    np.testing.assert_array_equal(found.obsm["X_scflow_noise"], asked.obsm["X_scflow_noise"])


# What is refused, before any work.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "jump"}, r"solver='jump' takes the steps of a flow map.*Use solver='rk4'"),
        ({"solver": "rk5"}, r"solver='rk5' is not known. Did you mean 'rk4'"),
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"solver": "dopri5", "steps": 3}, r"solver='dopri5' chooses its own steps: steps=3"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": {"clusters": 2.0}}, "clusters"),
        ({"device": "gpu"}, r"device='gpu' cannot be used here"),
        ({"condition": {"clusters": "k0"}}, "clusters"),
        ({"condition": {"cluster": "k9"}}, "'k9'"),
        ({"condition": {"cluster": ["k0", "k1"]}}, "2"),
        ({"use_rep": "X_f"}, r"adata.obsm has no 'X_f'"),
    ],
)
def test_options_that_mean_nothing(clusters: Exact, options: dict[str, Any], message: str) -> None:
    adata = clusters.draw(20)
    with pytest.raises(InputError, match=message):
        scflow.tl.encode(adata, clusters.flow, progress=False, **options)
    assert set(adata.obsm) == {"X_e"}


def test_cells_that_do_not_suit_the_flow(
    clusters: Exact, flows: tuple[AnnData, Callable[[str], Flow]], simulated: AnnData
) -> None:
    counted = flows[1]("counts")
    with pytest.raises(InputError, match="adata lacks 5 of 40 genes"):
        scflow.tl.encode(flows[0][:, 5:].copy(), counted)
    logs = flows[0].copy()
    logs.X = sparse.csr_matrix(logs.X.log1p())
    with pytest.raises(InputError, match="counts"):
        scflow.tl.encode(logs, counted)
    adata = clusters.draw(20)
    with pytest.raises(InputError, match=r"adata.obs has no column 'cluster'"):
        scflow.tl.encode(AnnData(obsm=dict(adata.obsm)), clusters.flow)
    adata.obs.loc["c3", "cluster"] = None
    with pytest.raises(InputError, match=r"obs\['cluster'\] has no value for 1 of 20 cells \(first: 'c3'\)"):
        scflow.tl.encode(adata, clusters.flow)
    narrow = clusters.draw(20)
    narrow.obsm["X_e"] = narrow.obsm["X_e"][:, :3]
    with pytest.raises(InputError, match=r"adata.obsm\['X_e'\] has 3 coordinates, and the flow has 5"):
        scflow.tl.encode(narrow, clusters.flow)
    with pytest.raises(InputError, match=r"adata.uns has no flow 'scflow'"):
        scflow.tl.encode(simulated)
    with pytest.raises(InputError, match="AnnData"):
        scflow.tl.encode(simulated.X, counted)


def test_a_flow_between_populations_has_no_codes(clusters: Exact) -> None:
    adata = clusters.draw(100)
    flow = scflow.tl.train(adata, source={"cluster": "k0"}, use_rep="X_e", steps=5, progress=False)
    message = "starts from cells of a source population, and not from noise: cells have no code"
    with pytest.raises(InputError, match=message):
        scflow.tl.encode(adata, flow)
    with pytest.raises(InputError, match=message):
        scflow.tl.interpolate(flow, adata, adata)
    with pytest.raises(InputError, match=r"density is not known.*scflow.tl.train\(adata, noise='gaussian'\)"):
        scflow.tl.log_prob(adata, flow)


@pytest.mark.parametrize("space", SPACES)
def test_the_mean_state_is_the_mean_of_what_is_drawn(flows: tuple[AnnData, Callable[[str], Flow]], space: str) -> None:
    codec, rng = flows[1](space).codec, torch.Generator().manual_seed(0)
    counts = torch.from_numpy(flows[0].X[:5].toarray()).float()
    condition = torch.tensor([[0.0], [1], [0], [1], [torch.nan]])
    drawn = torch.stack([codec.encode(counts, condition, rng=rng) for _ in range(2000)])
    error = drawn.std(0) / 2000**0.5
    z = (codec.mean_state(counts, condition) - drawn.mean(0)) / error.clamp_min(1e-5)
    assert float(z.abs().max()) < 5
