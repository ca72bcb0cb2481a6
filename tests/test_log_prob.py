"""Log-densities of cells: against exact ones, and low for cells that are odd."""

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
from sklearn.metrics import roc_auc_score

import scflow
from scflow.errors import InputError
from scflow.flow import Flow

pytestmark = pytest.mark.usefixtures("small_flows")

COLUMN, SE = "scflow_log_prob", "scflow_log_prob_se"


# The exact density.


def test_the_density_is_the_mixtures_in_the_users_units(clusters: Exact) -> None:
    adata = clusters.draw(200)
    assert scflow.tl.log_prob(adata, clusters.flow, steps=64, progress=False) is None
    np.testing.assert_allclose(adata.obs[COLUMN], clusters.log_prob(adata), atol=0.02)
    assert SE not in adata.obs
    none = {"cluster": None}
    scflow.tl.log_prob(adata, clusters.flow, condition=none, steps=64, progress=False)
    np.testing.assert_allclose(adata.obs[COLUMN], clusters.log_prob(adata, given=False), atol=0.02)
    # The default's 24 evaluations are enough to rank cells.
    scflow.tl.log_prob(adata, clusters.flow, condition=none, progress=False)
    np.testing.assert_allclose(adata.obs[COLUMN], clusters.log_prob(adata, given=False), atol=0.3)


def test_it_integrates_to_one(ring: Exact) -> None:
    line = np.linspace(-3.5, 3.5, 61)
    plane = np.stack(np.meshgrid(line, line), axis=2).reshape(-1, 2)
    adata = ring.cells(plane, np.zeros(len(plane), dtype=int))
    scflow.tl.log_prob(adata, ring.flow, solver="rk4", steps=24, progress=False)
    assert np.exp(adata.obs[COLUMN]).sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_probes_are_within_their_standard_errors(clusters: Exact) -> None:
    adata, none = clusters.draw(300), {"cluster": None}
    # Every third cell between clusters, where a velocity bends and probes differ.
    adata.obsm["X_e"][::3] = (adata.obsm["X_e"][::3] + adata.obsm["X_e"][::-3]) / 2
    options: dict[str, Any] = {"condition": none, "steps": 64, "progress": False}
    scflow.tl.log_prob(adata, clusters.flow, exact=False, probes=32, **options)
    exact = clusters.log_prob(adata, given=False)
    z = ((adata.obs[COLUMN] - exact) / np.maximum(adata.obs[SE], 0.01)).to_numpy()
    assert (np.abs(z) < 3).mean() > 0.97
    assert adata.obs[SE].max() > 0.05
    mean_se = np.sqrt((adata.obs[SE] ** 2).sum()) / len(adata)
    assert abs(adata.obs[COLUMN].mean() - exact.mean()) < 3 * mean_se + 0.01
    first = adata.obs[[COLUMN, SE]].copy()
    scflow.tl.log_prob(adata, clusters.flow, exact=False, probes=32, seed=1, **options)
    assert (adata.obs[COLUMN] != first[COLUMN]).mean() > 0.9
    scflow.tl.log_prob(adata, clusters.flow, exact=False, probes=32, seed=0, **options)
    pd.testing.assert_frame_equal(adata.obs[[COLUMN, SE]], first)
    facts = adata.uns[COLUMN]
    assert (facts["method"], facts["probes"], facts["seed"], facts["units"]) == ("hutchinson", 32, 0, "nats")
    # And an exact call leaves no standard errors of other values behind.
    scflow.tl.log_prob(adata, clusters.flow, **options)
    assert SE not in adata.obs
    assert adata.uns[COLUMN]["method"] == "exact"
    assert "probes" not in adata.uns[COLUMN]


# A flow that was trained.


@pytest.fixture(scope="module")
def trained(small_flows: None, clusters: Exact) -> Flow:
    return scflow.tl.train(clusters.draw(1500, seed=1), use_rep="X_e", steps=500, progress=False)


def test_a_trained_flow_has_nearly_the_true_density(clusters: Exact, trained: Flow) -> None:
    """It can be no better than the truth on new cells, and is little worse: the divergence of the two laws."""
    held_out = clusters.draw(400, seed=2)
    scflow.tl.log_prob(held_out, trained, progress=False)
    found, true = held_out.obs[COLUMN].to_numpy(), clusters.log_prob(held_out, given=False)
    assert -3 * (true - found).std() / 20 < (true - found).mean() < 0.6
    # Over cells and what lies around them the two agree in order.
    rng = np.random.default_rng(0)
    wide = held_out.copy()
    wide.obsm["X_e"] = (wide.obsm["X_e"] + rng.normal(size=(400, 5)) * 2).astype(np.float32)
    scflow.tl.log_prob(wide, trained, progress=False)
    true = clusters.log_prob(wide, given=False)
    assert np.corrcoef(wide.obs[COLUMN], true)[0, 1] > 0.9


# Odd cells.


def planted(adata: AnnData, seed: int = 0) -> NDArray[np.bool_]:
    """Make the first 20 cells odd: their counts belong to genes at random. Which those are."""
    rng, x = np.random.default_rng(seed), adata.X.toarray()
    x[:20] = rng.permuted(x[:20], axis=1)
    adata.X = sparse.csr_matrix(x)
    return np.arange(adata.n_obs) < 20


@pytest.fixture(scope="module")
def typed(small_flows: None) -> tuple[AnnData, Flow]:
    """400 cells, 20 of them odd; and a flow that was trained on all of them."""
    adata = scflow.datasets.simulate(500, 60, 3, n_batches=1, library_size=300, seed=0)
    test = adata[400:].copy()
    train = adata[:400].copy()
    planted(train)
    flow = scflow.tl.train(train, condition="cell_type", steps=300, progress=False)
    scflow.tl.log_prob(train, flow, progress=False)
    test.uns["train"] = train.obs[COLUMN].to_numpy()
    return test, flow


def auc(odd: Any, values: Any) -> float:
    return float(roc_auc_score(odd, -np.asarray(values)))


def test_odd_cells_among_those_trained_on_rank_lowest(typed: tuple[AnnData, Flow]) -> None:
    values = typed[0].uns["train"]
    odd = np.arange(len(values)) < 20
    assert auc(odd, values) > 0.95
    # More than half of the lowest twenty are odd.
    assert odd[np.argsort(values)[:20]].mean() > 0.5


def test_odd_cells_among_new_ones_rank_lowest(typed: tuple[AnnData, Flow]) -> None:
    adata = typed[0].copy()
    odd = planted(adata, seed=1)
    scflow.tl.log_prob(adata, typed[1], progress=False)
    assert auc(odd, adata.obs[COLUMN]) > 0.9


def test_a_wrong_label_is_less_likely_than_the_right_one(typed: tuple[AnnData, Flow]) -> None:
    adata, flow = typed[0].copy(), typed[1]
    types = sorted(adata.obs["cell_type"].unique())
    found = {}
    for name in types:
        scflow.tl.log_prob(adata, flow, condition={"cell_type": name}, progress=False)
        found[name] = adata.obs[COLUMN].to_numpy()
    assert adata.uns[COLUMN]["condition_given"].tolist() == ["cell_type"]
    table = pd.DataFrame(found)
    given = adata.obs["cell_type"].astype(str).to_numpy()
    assert (table.idxmax(axis=1).to_numpy() == given).mean() > 0.75  # a third by chance
    # Twenty cells with the next type's label are the least likely beside their best other label.
    given[:20] = [types[(types.index(name) + 1) % 3] for name in given[:20]]
    own = table.to_numpy()[np.arange(100), [types.index(name) for name in given]]
    best = np.where(np.array(types) == given[:, None], -np.inf, table).max(axis=1)
    assert auc(np.arange(100) < 20, own - best) > 0.9


# Slots, and what a density depends on.


def test_it_writes_its_slots_and_nothing_else(typed: tuple[AnnData, Flow]) -> None:
    adata, before, state = typed[0], typed[0].copy(), torch.get_rng_state()
    found = scflow.tl.log_prob(adata, typed[1], exact=False, probes=2, progress=False, key_added="own", copy=True)
    assert found is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert set(found.obs) - set(before.obs) == {"own_log_prob", "own_log_prob_se"}
    assert set(found.uns) - set(before.uns) == {"own_log_prob"}
    assert set(found.obsm) == set(before.obsm)
    assert set(adata.obs) == set(before.obs)
    facts = found.uns["own_log_prob"]
    assert (facts["of"], facts["space"], facts["dimensions"]) == ("mean code", "counts", 21)
    few = scflow.tl.log_prob(adata[:7].copy(), typed[1], exact=False, probes=2, progress=False, copy=True)
    assert few is not None
    np.testing.assert_array_equal(few.obs[COLUMN], found.obs["own_log_prob"][:7])


def test_states_are_taken_as_they_are(typed: tuple[AnnData, Flow]) -> None:
    adata, flow = typed
    states = scflow.tl.encode(adata, flow, progress=False, copy=True)
    by_state = scflow.tl.log_prob(states, flow, use_rep="X_scflow", progress=False, copy=True)
    by_counts = scflow.tl.log_prob(adata, flow, progress=False, copy=True)
    assert by_state is not None
    assert by_counts is not None
    np.testing.assert_allclose(by_state.obs[COLUMN], by_counts.obs[COLUMN], rtol=1e-5)
    assert by_state.uns[COLUMN]["of"] == "obsm['X_scflow']"


def test_results_survive_a_file(clusters: Exact, tmp_path: Any) -> None:
    import anndata

    adata = clusters.draw(20)
    scflow.tl.log_prob(adata, clusters.flow, exact=False, probes=4, progress=False)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.obs[SE], adata.obs[SE])
    assert again.uns[COLUMN]["probes"] == 4


def test_many_dimensions_have_probes_unless_asked_otherwise(simulated: AnnData) -> None:
    wide = scflow.datasets.simulate(60, 80, 2, seed=0)
    flow = scflow.tl.train(wide, space="genes", noise="gaussian", steps=5, progress=False)
    scflow.tl.log_prob(wide, flow, probes=3, steps=2, progress=False)
    assert (wide.obs[SE] > 0).all()
    assert (wide.uns[COLUMN]["method"], wide.uns[COLUMN]["probes"]) == ("hutchinson", 3)
    by_probes = wide.obs[[COLUMN, SE]].copy()
    scflow.tl.log_prob(wide, flow, exact=True, steps=2, progress=False)
    assert SE not in wide.obs
    assert abs((by_probes[COLUMN] - wide.obs[COLUMN]).mean()) < 3 * np.sqrt((by_probes[SE] ** 2).sum()) / 60


# What is refused, before any work.


@pytest.mark.parametrize("noise", ["sparse", "dropout"])
def test_a_noise_without_density_is_refused(simulated: AnnData, noise: str) -> None:
    flow = scflow.tl.train(simulated, space="genes", noise=noise, steps=5, progress=False)
    before = list(simulated.obs)
    with pytest.raises(InputError, match=r"noise has no density.*Train with noise='gaussian' or noise='matched_var"):
        scflow.tl.log_prob(simulated, flow)
    assert list(simulated.obs) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exact": "yes"}, r"exact='yes' is not known. Choose 'auto', True or False"),
        ({"exact": False, "probes": 1}, "probes=1 must be a whole number of at least 2"),
        ({"probes": 2.5}, "probes=2.5 is not a whole number"),
        ({"solver": "jump"}, "solver='jump' takes the steps of a flow map"),
        ({"solver": "eule"}, "solver='eule' is not known. Did you mean 'euler'"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": "all"}, "batch_size='all'"),
        ({"device": "gpu"}, "device='gpu' cannot be used here"),
        ({"seed": -1}, "seed=-1"),
        ({"condition": {"clusters": "k0"}}, "clusters"),
        ({"condition": {"cluster": "k9"}}, "'k9'"),
        ({"use_rep": "X_f"}, "adata.obsm has no 'X_f'"),
    ],
)
def test_options_that_mean_nothing(clusters: Exact, options: dict[str, Any], message: str) -> None:
    adata = clusters.draw(20)
    with pytest.raises(InputError, match=message):
        scflow.tl.log_prob(adata, clusters.flow, progress=False, **options)
    assert COLUMN not in adata.obs


def test_cells_that_do_not_suit_the_flow(clusters: Exact, typed: tuple[AnnData, Flow], simulated: AnnData) -> None:
    with pytest.raises(InputError, match="adata lacks 5 of 60 genes"):
        scflow.tl.log_prob(typed[0][:, 5:].copy(), typed[1])
    adata = clusters.draw(20)
    with pytest.raises(InputError, match=r"adata\.obs has no column 'cluster'"):
        scflow.tl.log_prob(AnnData(obsm=dict(adata.obsm)), clusters.flow)
    adata.obsm["X_e"][4, 0] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 of 20 cells \(first: 'c4'\)"):
        scflow.tl.log_prob(adata, clusters.flow)
    with pytest.raises(InputError, match=r"adata\.uns has no flow 'scflow'"):
        scflow.tl.log_prob(simulated)
