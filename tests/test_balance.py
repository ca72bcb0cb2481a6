"""Balanced draws: the finite population correction, and where it must not be applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse, stats
from torch import Tensor

import scflow
from scflow.codecs import Calibration
from scflow.codecs.calibration import evened
from scflow.errors import InputError
from scflow.flow import Flow, Sampling, _balance

N_CELLS, N_GENES = 300, 20

pytestmark = pytest.mark.usefixtures("small_flows")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(n: int, genes: int, seed: int) -> Tensor:
    return torch.rand(n, genes, generator=generator(seed), dtype=torch.float64)


# Ranks.


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0, 3.0])
def test_evened_ranks_keep_the_order_of_the_cells_and_the_law_of_each(share: float) -> None:
    u = uniform(50, 400, 0)
    spread = evened(u, share, rng=generator(1))
    assert (spread.argsort(0) == u.argsort(0)).all()
    assert spread.min() >= 0
    assert spread.max() < 1
    assert stats.kstest(spread[0], "uniform").pvalue > 0.01  # One cell over many genes.
    assert torch.equal(spread, u) == (share == 0)


def test_the_variance_of_a_mean_falls_by_the_finite_population_correction() -> None:
    """The mean of n cells that are drawn without replacement from N varies as 1 - n / N of independent ones."""
    u = uniform(40, 20_000, 0)
    for share in (0.25, 0.5, 0.75):
        below = [(x < 0.3).double().mean(0).var() for x in (u, evened(u, share, rng=generator(1)))]
        # What is left besides is where a cell lies within its 40th: of the order of 1 / 40 of it.
        assert float(below[1] / below[0]) == pytest.approx(1 - share, abs=0.06)
        means = [x.mean(0).var() for x in (u, evened(u, share, rng=generator(1)))]
        assert float(means[1] / means[0]) == pytest.approx(1 - share, abs=0.04)


def test_as_many_cells_as_were_learnt_from_have_one_rank_each() -> None:
    spread = evened(uniform(64, 5, 0), 1.0, rng=generator(1))
    for gene in range(5):
        assert sorted((spread[:, gene] * 64).long().tolist()) == list(range(64))


# Calibration.


def two_groups(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    codes = np.repeat([3, 8], n // 2)
    rng = np.random.default_rng(0)
    return np.where(codes[:, None] == 3, rng.poisson(2, (n, 6)), rng.poisson(9, (n, 6))), codes


def fitted(counts: NDArray[Any], codes: NDArray[Any]) -> Calibration:
    """Of a model that draws Poisson counts of the wrong mean, with full trust in groups."""
    many = np.random.default_rng(1).poisson(4, (5000, counts.shape[1]))
    of = np.resize(codes, 5000)
    return Calibration.fit(sparse.csr_matrix(many), of, sparse.csr_matrix(counts), codes, shrinkage=0.0)


def test_a_balanced_draw_of_the_training_size_repeats_the_training_marginals() -> None:
    counts, codes = two_groups(400)
    calibration, groups = fitted(counts, codes), torch.from_numpy(codes)
    fresh = torch.from_numpy(np.random.default_rng(2).poisson(4, counts.shape))
    in_all = calibration.counted(groups, 400)
    assert in_all.tolist() == calibration.sizes.tolist() == [400, 200, 200]
    balanced = calibration(fresh, groups, rng=generator(0), in_all=in_all).numpy()
    alone = calibration(fresh, groups, rng=generator(0)).numpy()
    for code in (3, 8):
        rows = codes == code
        np.testing.assert_array_equal(np.sort(balanced[rows], axis=0), np.sort(counts[rows], axis=0))
        assert not np.array_equal(np.sort(alone[rows], axis=0), np.sort(counts[rows], axis=0))


def test_groups_are_balanced_by_their_own_numbers() -> None:
    """Cells of one group alone: the others' cells, and the marginals of the whole, are nothing to them."""
    counts, codes = two_groups(400)
    calibration = fitted(counts, codes)
    groups = torch.full((200,), 8)
    fresh = torch.from_numpy(np.random.default_rng(2).poisson(4, (200, 6)))
    balanced = calibration(fresh, groups, rng=generator(0), in_all=calibration.counted(groups, 200)).numpy()
    np.testing.assert_array_equal(np.sort(balanced, axis=0), np.sort(counts[codes == 8], axis=0))


def test_an_unknown_group_is_not_balanced() -> None:
    counts, codes = two_groups(400)
    calibration, fresh = fitted(counts, codes), torch.from_numpy(two_groups(400)[0])
    for groups in (torch.full((400,), -1), torch.full((400,), 5)):
        in_all = calibration.counted(groups, 400)
        assert in_all.tolist() == [400, 0, 0]
        alone = calibration(fresh, groups, rng=generator(0))
        assert torch.equal(calibration(fresh, groups, rng=generator(0), in_all=in_all), alone)


def test_genes_are_mapped_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, codes = two_groups(400)
    calibration, groups = fitted(counts, codes), torch.from_numpy(codes)
    monkeypatch.setattr("scflow.codecs.calibration._AT_ONCE", 900)  # Two genes of 400 cells.
    in_all = calibration.counted(groups, 400)
    balanced = calibration(torch.from_numpy(counts), groups, rng=generator(0), in_all=in_all).numpy()
    for code in (3, 8):
        np.testing.assert_array_equal(np.sort(balanced[codes == code], axis=0), np.sort(counts[codes == code], axis=0))


# Flows.


@pytest.fixture(scope="module")
def cells() -> Any:
    adata = scflow.datasets.simulate(n_cells=N_CELLS, n_genes=N_GENES, n_types=2, proportions=[0.7, 0.3], seed=0)
    adata.obs["dose"] = np.random.default_rng(0).normal(5, 2, N_CELLS)
    return adata


@pytest.fixture(scope="module")
def flow(small_flows: None, cells: Any) -> Flow:
    return scflow.tl.train(cells.copy(), condition="cell_type", steps=20, progress=False)


def counts_of(flow: Flow, n: int, request: Any = None, **settings: Any) -> NDArray[np.int32]:
    drawn = flow.draw(n, request, Sampling(steps=2, **settings)).counts
    assert drawn is not None
    counts: NDArray[np.int32] = drawn.toarray()
    return counts


def spread_of_means(flow: Flow, request: Any) -> tuple[float, float]:
    """The variance of genes' means over draws, balanced and independent."""
    found = []
    for how in ("balanced", "independent"):
        means = [counts_of(flow, len(request), request, calibration=how, seed=s).mean(0) for s in range(12)]
        found.append(float(np.var(means, axis=0).sum()))
    return found[0], found[1]


def test_means_of_balanced_cells_vary_less(cells: Any, flow: Flow) -> None:
    balanced, independent = spread_of_means(flow, cells.obs[["cell_type"]])
    assert balanced < 0.35 * independent


def test_states_do_not_know_of_calibration(flow: Flow) -> None:
    drawn = [flow.draw(40, sampling=Sampling(calibration=how)) for how in ("balanced", "independent", "none")]
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0].state, other.state)
        assert (drawn[0].counts != other.counts).nnz > 0


@pytest.mark.parametrize("guidance", [2.0, {"cell_type": 1.0}])
def test_guided_cells_are_calibrated_one_by_one(guidance: Any, flow: Flow) -> None:
    """They deviate from the calibrated law because they are meant to."""
    a, b = (counts_of(flow, 300, guidance=guidance, calibration=how) for how in ("balanced", "independent"))
    np.testing.assert_array_equal(a, b)


def test_cells_with_a_dose_are_calibrated_one_by_one(small_flows: None, cells: Any) -> None:
    dosed = scflow.tl.train(cells.copy(), condition=["cell_type", "dose"], steps=10, progress=False)
    a, b = (counts_of(dosed, 300, {"dose": 9.0}, calibration=how) for how in ("balanced", "independent"))
    np.testing.assert_array_equal(a, b)


def test_a_flow_without_conditions_is_balanced_as_a_whole(small_flows: None, cells: Any) -> None:
    plain = scflow.tl.train(cells.copy(), steps=10, progress=False)
    truth = cells.X.toarray()
    np.testing.assert_array_equal(np.sort(counts_of(plain, N_CELLS), axis=0), np.sort(truth, axis=0))


def test_a_flow_whose_groups_have_no_maps_is_not_balanced(flow: Flow, cells: Any) -> None:
    """Cells of one type would be forced to the marginals of all."""
    assert flow.calibration is not None
    whole = Calibration.fit(
        sparse.csr_matrix(cells.X), np.full(N_CELLS, -1), sparse.csr_matrix(cells.X), np.full(N_CELLS, -1)
    )
    bare, request = replace(flow, calibration=whole), {"cell_type": "type_0"}
    a, b = (counts_of(bare, N_CELLS, request, calibration=how) for how in ("balanced", "independent"))
    np.testing.assert_array_equal(a, b)


def test_blocks_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch, flow: Flow) -> None:
    monkeypatch.setattr(_balance, "_FEWEST", 512)
    monkeypatch.setattr(_balance, "_WIDEST", 0)
    whole = counts_of(flow, 700)
    for size in (1, 300, 5000):
        np.testing.assert_array_equal(counts_of(flow, 700, batch_size=size), whole)
    blocks = [len(part) for part in np.split(whole, [512])]
    assert blocks == [512, 188]


def test_a_file_that_does_not_know_how_many_cells_there_were_is_drawn_one_by_one(flow: Flow) -> None:
    content = flow.to_content()
    del content["tensors"]["calibration.sizes"]
    old = Flow.from_content(content)
    a, b = counts_of(old, 300), counts_of(old, 300, calibration="independent")
    assert old.calibration is not None
    assert not old.calibration.sizes.any()
    assert stats.ks_2samp(a.sum(1), b.sum(1)).pvalue > 0.01
    balanced, independent = spread_of_means(old, ["type_0"] * 210 + ["type_1"] * 90)
    assert balanced == pytest.approx(independent, rel=0.6)


def test_an_unknown_way_is_an_error_that_names_the_ways(flow: Flow) -> None:
    with pytest.raises(
        InputError, match=r"calibration='balance' is not known\. Did you mean 'balanced'\? Choose one of"
    ):
        scflow.tl.generate(flow, 3, calibration="balance", progress=False)
    new = scflow.tl.generate(flow, 3, calibration="none", progress=False)
    assert new.uns["scflow"]["provenance"]["calibration"] == "none"


def test_a_flow_under_another_key_is_found(cells: Any, small_flows: None) -> None:
    adata = cells.copy()
    flow = scflow.tl.train(adata, steps=5, progress=False, key_added="mine")
    new, same = (scflow.tl.generate(x, 5, key_added="mine", progress=False) for x in (adata, flow))
    assert (new.layers["counts"] != same.layers["counts"]).nnz == 0
    with pytest.raises(InputError, match=r"adata\.uns has no flow 'scflow'"):
        scflow.tl.generate(adata, 5, progress=False)


def test_refitting_keeps_the_numbers_of_training_cells() -> None:
    """A group that was hardly drawn goes, and its number with it."""
    counts, codes = two_groups(400)
    calibration = fitted(counts, codes)
    drawn = sparse.csr_matrix(np.random.default_rng(3).poisson(6, (600, 6)))
    again = calibration.refitted(drawn, np.repeat([3, 8], 300))
    assert again.sizes.tolist() == [400, 200, 200]
    fewer = calibration.refitted(drawn, np.where(np.arange(600) < 5, 3, 8))
    assert fewer.groups.tolist() == [8]
    assert fewer.sizes.tolist() == [400, 200]
    fresh, groups = torch.from_numpy(np.random.default_rng(4).poisson(6, (400, 6))), torch.from_numpy(codes)
    balanced = again(fresh, groups, rng=generator(0), in_all=again.counted(groups, 400)).numpy()
    for code in (3, 8):
        np.testing.assert_array_equal(np.sort(balanced[codes == code], axis=0), np.sort(counts[codes == code], axis=0))


@pytest.mark.parametrize("verb", ["reflow", "distill"])
def test_what_was_made_with_guidance_is_not_balanced(verb: str, flow: Flow) -> None:
    """What guidance did to marginals was meant: the teacher's tables stay, and cells are calibrated one by one."""
    number = {"reflow": "n_pairs", "distill": "n_trajectories"}[verb]
    new, plain = (
        getattr(scflow.tl, verb)(flow, guidance=w, steps=3, progress=False, **{number: 200}) for w in (2.0, 1.0)
    )
    assert new.calibration is not None
    assert flow.calibration is not None
    assert torch.equal(new.calibration.model.cumulative, flow.calibration.model.cumulative)
    assert not new.calibration.sizes.any()
    assert plain.calibration.sizes.tolist() == flow.calibration.sizes.tolist()
