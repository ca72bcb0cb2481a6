"""Entropic, unbalanced and partial couplings: their plans against POT's, what they recover, and whom they leave out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from scflow.errors import InputError
from scflow.matching import couplings, plans
from scflow.matching.couplings import Entropic, Optimal, Partial, Unbalanced, growth


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def squares(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0[:, None] - x1).square().sum(2)


def uniform(n: int) -> Any:
    return np.full(n, 1 / n)


def frequencies(coupling: couplings.Coupling, x0: Tensor, x1: Tensor, *, draws: int) -> Tensor:
    """How often each cell of `x0` has each of `x1`, ``[n, n]``."""
    rng, count = generator(7), torch.zeros(len(x0), len(x1), dtype=torch.float64)
    for _ in range(draws):
        index = coupling.pair(x0, x1, None, rng=rng)
        assert index is not None
        count[torch.arange(len(x0)), index] += 1 / draws
    return count


def clusters(share: float, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Cells about 0, a `share` of them, and about 20, in random order; and which are about 0."""
    first = torch.randperm(n, generator=generator(seed)) < round(share * n)
    return normal(n, 3, seed=seed) + 20 * (~first).double()[:, None], first


# The entropic plan.


def entropic_plan(x0: Tensor, x1: Tensor, epsilon: float) -> Tensor:
    """POT's, with rows that sum to one."""
    costs, n = squares(x0, x1).numpy(), len(x0)
    plan = ot.sinkhorn(uniform(n), uniform(n), costs, epsilon * costs.mean(), "sinkhorn_log", numItermax=10_000)
    return torch.from_numpy(plan) * n


def test_entropic_pairs_are_as_frequent_as_the_plan_has_them() -> None:
    """In bins of the plan's entries; and a plan of half the epsilon is told apart."""
    x0, x1 = normal(64, 2), normal(64, 2, seed=1) + 1
    found = frequencies(Entropic(0.2), x0, x1, draws=1000)
    plan, other = (entropic_plan(x0, x1, epsilon) for epsilon in (0.2, 0.1))
    edges = torch.tensor([0, 0.001, 0.01, 0.03, 0.06, 0.1, 1.0], dtype=torch.float64)
    bins = torch.bucketize(plan, edges)
    here = [bins == i for i in range(1, len(edges))]
    assert min(int(k.sum()) for k in here) > 40
    means = [float(found[k].mean() / plan[k].mean()) for k in here]
    assert means == pytest.approx([1] * len(here), abs=0.1)
    assert max(abs(float(found[k].mean() / other[k].mean()) - 1) for k in here) > 0.5
    cost = squares(x0, x1)
    assert float((found * cost).sum()) == pytest.approx(float((plan * cost).sum()), rel=0.01)
    assert float((found * cost).sum()) != pytest.approx(float((other * cost).sum()), rel=0.1)


def test_entropic_pairs_go_from_the_optimum_to_independent_ones() -> None:
    x0, x1 = normal(64, 2), normal(64, 2, seed=1) + 1
    cost = squares(x0, x1)
    means = [
        float((frequencies(Entropic(epsilon), x0, x1, draws=100) * cost).sum() / 64)
        for epsilon in (1e-6, 0.01, 0.1, 1, 1e6)
    ]
    assert means == sorted(means)
    assert means[0] == pytest.approx(float(ot.emd2([], [], cost.numpy())), rel=1e-9)
    assert means[-1] == pytest.approx(float(cost.mean()), rel=0.05)
    assert means[0] < 0.5 * means[-1]


def test_an_entropic_pairing_is_a_permutation_and_another_one_each_time() -> None:
    x0, x1, rng = normal(50, 2, 3), normal(50, 2, 3, seed=1), generator()
    first, second = (Entropic(0.1).pair(x0, x1, None, rng=rng) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert torch.equal(first, Entropic(0.1).pair(x0, x1, None, rng=generator()))
    # Nothing but the scale changes.
    assert torch.equal(first, Entropic(0.1).pair(100 * x0, 100 * x1, None, rng=generator()))


# The unbalanced plan.


def unbalanced_plan(x0: Tensor, x1: Tensor, epsilon: float, reach: float) -> Tensor:
    """The plan with rows that sum to one, by the plain iteration in logarithms (Chizat et al. 2018)."""
    costs = squares(x0, x1)
    costs = costs / costs.mean()
    f, g, power = costs.new_zeros(len(x0)), costs.new_zeros(len(x1)), reach / (reach + epsilon)
    for _ in range(3000):
        f = -power * torch.logsumexp(g - costs / epsilon, 1) + power * math.log(len(x1))
        g = -power * torch.logsumexp(f[:, None] - costs / epsilon, 0) + power * math.log(len(x0))
    return torch.softmax(g - costs / epsilon, 1)


@pytest.mark.parametrize(("epsilon", "reach"), [(0.05, 1.0), (0.05, 0.1), (0.5, 3.0)])
def test_the_unbalanced_plan_is_the_known_one(epsilon: float, reach: float) -> None:
    """POT's own plan of the costs as they are, and that of the plain iteration."""
    x0, x1 = normal(40, 3), 1.5 * normal(30, 3, seed=1) + 0.5
    costs = plans.relative_costs(x0, x1)
    found = plans.unbalanced(costs, epsilon, reach)
    known = ot.unbalanced.sinkhorn_unbalanced(
        uniform(40), uniform(30), costs.numpy(), epsilon, reach, numItermax=10_000, stopThr=1e-10
    )
    torch.testing.assert_close(found, torch.from_numpy(known / known.sum(1, keepdims=True)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found, unbalanced_plan(x0, x1, epsilon, reach), atol=1e-4, rtol=1e-3)


def test_a_cell_far_from_all_others_is_no_difficulty() -> None:
    """A target and a source that POT, given the costs as they are, has a kernel of zeros for."""
    x0, x1 = normal(60, 3), normal(60, 3, seed=1)
    x0[0] += 100
    x1[0] -= 100
    costs = plans.relative_costs(x0, x1)
    with pytest.warns(UserWarning, match="Numerical errors"), np.errstate(all="ignore"):
        ot.unbalanced.sinkhorn_unbalanced(uniform(60), uniform(60), costs.numpy(), 0.005, 0.1)
    for reach in (0.03, 0.1, 1.0):
        found = plans.unbalanced(costs, 0.005, reach)
        torch.testing.assert_close(found, unbalanced_plan(x0, x1, 0.005, reach), atol=1e-3, rtol=1e-2)
        assert found[:, 0].sum() < 0.01


def test_the_growth_of_two_types_is_recovered() -> None:
    """Half and half before, four fifths and a fifth afterwards: the one has grown by 1.6, the other shrunk to 0.4."""
    (x1, young), (x0, old) = clusters(0.5, 200, seed=1), clusters(0.8, 200, seed=2)
    found = growth(x1, x0)
    assert float(found[young].mean()) == pytest.approx(1.6, rel=1e-6)
    assert float(found[~young].mean()) == pytest.approx(0.4, rel=1e-6)
    pairs = Unbalanced().pair(x0, x1, None, rng=generator())
    assert torch.equal(young[pairs], old)
    # A balanced plan has to make one type of the other.
    mixed = Optimal().pair(x0, x1, None, rng=generator())
    assert int((young[mixed] != old).sum()) == 60


def test_growth_is_relative_whatever_the_numbers_of_cells() -> None:
    (x1, young), (x0, _) = clusters(0.25, 40, seed=1), clusters(0.5, 300, seed=2)
    found = growth(x1, x0)
    assert found.shape == (40,)
    assert float(found.mean()) == pytest.approx(1)
    assert float(found[young].mean()) == pytest.approx(2, rel=1e-6)
    assert float(found[~young].mean()) == pytest.approx(2 / 3, rel=1e-6)


def test_growth_is_balanced_where_it_is_dear() -> None:
    """As the reach grows; with little, the ways decide."""
    x1, x0 = normal(100, 2, seed=1), normal(100, 2, seed=2) + 1
    spread = [float(growth(x1, x0, reach=reach).std()) for reach in (0.1, 1.0, 10.0, 100.0)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 0.5
    assert spread[-1] < 0.01


def test_masses_are_rounded_by_less_than_one_and_right_on_average() -> None:
    expected = 3 * torch.rand(30, generator=generator(), dtype=torch.float64)
    expected *= 40 / expected.sum()
    rng = generator(1)
    drawn = torch.stack([plans.rounded(expected, rng=rng) for _ in range(4000)])
    assert drawn.sum(1).unique().tolist() == [40]
    assert (drawn - expected).abs().max() < 1
    torch.testing.assert_close(drawn.double().mean(0), expected, atol=0.04, rtol=0)


def test_the_cells_of_a_branch_are_side_by_side() -> None:
    """Four clusters in two pairs; each cluster and each pair is in one piece."""
    code = torch.randperm(80, generator=generator(3)) % 4
    x = normal(80, 3) + 20 * (code % 2).double()[:, None] + 200 * (code // 2).double()[:, None]
    order = plans.tree_order(x)
    assert sorted(order.tolist()) == list(range(80))
    assert int((code[order].diff() != 0).sum()) == 3
    assert int(((code // 2)[order].diff() != 0).sum()) == 1
    assert sorted(plans.tree_order(torch.ones(5, 2)).tolist()) == list(range(5))


def test_no_cell_is_carried_to_another_type_because_masses_are_rounded() -> None:
    """Many masses of one half within each type: in the order of the cells their sum would be off by several."""
    for seed in range(5):
        (x1, young), (x0, old) = clusters(0.5, 200, seed=seed), clusters(0.8, 200, seed=seed + 10)
        assert torch.equal(young[Unbalanced().pair(x0, x1, None, rng=generator(seed))], old)


def test_a_source_cell_is_used_as_often_as_it_has_grown() -> None:
    x0, x1, rng = normal(80, 2) + 0.5, normal(80, 2, seed=1), generator()
    expected = growth(x1, x0)
    assert expected.max() > 1.2 > 0.8 > expected.min()
    uses = [torch.bincount(Unbalanced().pair(x0, x1, None, rng=rng), minlength=80) for _ in range(200)]
    assert max(float((u - expected).abs().max()) for u in uses) < 1
    torch.testing.assert_close(torch.stack(uses).double().mean(0), expected, atol=0.12, rtol=0)


def test_unbalanced_pairs_are_as_frequent_as_the_plan_has_them() -> None:
    x0, x1 = normal(64, 2) + 1, normal(64, 2, seed=1)
    found = frequencies(Unbalanced(0.2, 0.5), x0, x1, draws=1000)
    plan, balanced = unbalanced_plan(x0, x1, 0.2, 0.5), entropic_plan(x0, x1, 0.2)
    near = torch.corrcoef(torch.stack([found.flatten(), plan.flatten()]))[0, 1]
    assert near > 0.98
    cost = squares(x0, x1)
    assert float((found * cost).sum()) == pytest.approx(float((plan * cost).sum()), rel=0.01)
    assert float((balanced * cost).sum()) > 1.1 * float((plan * cost).sum())


def test_a_plan_that_is_not_found_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MOST_ITERATIONS", 3)
    with pytest.raises(
        RuntimeError,
        match=r"transport of 20 to 30 cells did not converge with epsilon=0\.05 and reach=1: 3 steps\. Give",
    ):
        growth(normal(20, 3), normal(30, 3, seed=1))


# Partial transport.


def test_the_outliers_are_left_out_and_nobody_else() -> None:
    """Planted in the target at other places than in the source."""
    x0, x1 = normal(50, 3), normal(50, 3, seed=1)
    x0[[3, 17, 20, 31, 44]] += 30
    x1[[0, 5, 17, 29, 49]] -= 30
    pairs = Partial(0.9).pair(x0, x1, None, rng=generator())
    assert (pairs == -1).nonzero()[:, 0].tolist() == [3, 17, 20, 31, 44]
    assert sorted(pairs[pairs >= 0].tolist()) == sorted(set(range(50)) - {0, 5, 17, 29, 49})


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 1.0])
def test_partial_pairs_cost_the_least_there_is(mass: float) -> None:
    x0, x1 = normal(60, 4), normal(60, 4, seed=1) + 1
    pairs = Partial(mass).pair(x0, x1, None, rng=generator())
    kept = pairs >= 0
    assert int(kept.sum()) == len(set(pairs[kept].tolist())) == round(60 * mass)
    costs = squares(x0, x1)
    known = ot.partial.partial_wasserstein2(np.ones(60), np.ones(60), costs.numpy(), m=round(60 * mass))
    assert float(costs[kept.nonzero()[:, 0], pairs[kept]].sum()) == pytest.approx(float(known), rel=1e-9)


def test_a_share_of_every_group_is_left_out_and_never_all_of_it() -> None:
    group = torch.tensor([0] * 20 + [1] * 10 + [2] * 2 + [3])
    pairs = Partial(0.2).pair(normal(33, 2), normal(33, 2, seed=1), group, rng=generator())
    assert [int((pairs[group == k] >= 0).sum()) for k in range(4)] == [4, 2, 1, 1]


# What they have in common.

SEVERAL = (Optimal(), Entropic(), Unbalanced(), Partial())


@pytest.mark.parametrize("coupling", SEVERAL, ids=lambda coupling: type(coupling).__name__)
def test_groups_are_never_mixed_even_where_it_would_be_cheaper(coupling: couplings.Coupling) -> None:
    """The noise of one group lies upon the cells of the other."""
    group = torch.randint(2, (60,), generator=generator(2))
    x0, x1 = normal(60, 2) + 10 * group[:, None], normal(60, 2, seed=1) - 10 * group[:, None] + 10
    pairs, free = (coupling.pair(x0, x1, codes, rng=generator()) for codes in (group, None))
    assert pairs is not None
    assert free is not None
    kept, chosen = pairs >= 0, free >= 0
    assert kept.any()
    assert torch.equal(group[pairs[kept]], group[kept])
    assert (group[free[chosen]] != group[chosen]).float().mean() > 0.5


@pytest.mark.parametrize("coupling", SEVERAL, ids=lambda coupling: type(coupling).__name__)
def test_a_cell_alone_in_its_group_keeps_its_noise(coupling: couplings.Coupling) -> None:
    pairs = coupling.pair(normal(9, 2), normal(9, 2, seed=1), torch.arange(9), rng=generator())
    assert pairs is not None
    assert pairs.tolist() == list(range(9))


@pytest.mark.parametrize("coupling", SEVERAL, ids=lambda coupling: type(coupling).__name__)
def test_cells_that_are_all_the_same_are_paired(coupling: couplings.Coupling) -> None:
    pairs = coupling.pair(torch.ones(10, 2), torch.ones(10, 2), None, rng=generator())
    assert pairs is not None
    kept = pairs[pairs >= 0].tolist()
    assert len(kept) == len(set(kept)) == (9 if isinstance(coupling, Partial) else 10)


@pytest.mark.parametrize("coupling", SEVERAL, ids=lambda coupling: type(coupling).__name__)
def test_the_global_random_state_is_left_alone(coupling: couplings.Coupling) -> None:
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    coupling.pair(normal(20, 2), normal(20, 2, seed=1), None, rng=generator())
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(numbers, np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_setting_is_refused(bad: float) -> None:
    positive = rf"={bad} must be finite and above 0, in units of the mean squared distance: "
    for make in (Entropic, Unbalanced):
        with pytest.raises(InputError, match=f"epsilon{positive}0.05 blurs a little"):
            make(epsilon=bad)
    with pytest.raises(InputError, match=f"reach{positive}1 is the mean"):
        Unbalanced(reach=bad)
    with pytest.raises(InputError, match=f"reach{positive}"):
        growth(normal(5, 2), normal(5, 2), reach=bad)
    with pytest.raises(InputError, match=rf"mass={bad} is the share of cells that is paired: above 0 and at most 1"):
        Partial(bad)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_what_is_no_price_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match=rf"penalty={bad} is no price.*penalty=None pairs cells whose numbers are the"):
        Optimal(penalty=bad)
