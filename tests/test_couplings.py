"""Couplings: their cost against other solvers, the groups they keep to, and the law that a field learns by them.

Entropic, unbalanced and partial ones: test_plans.py.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import scflow
from scflow import nn
from scflow.errors import InputError
from scflow.matching import FlowMatching, couplings, noises, solvers
from scflow.matching.couplings import groups_of
from scflow.matching.objective import Velocity
from scflow.metrics.kernels import energy_distance
from scflow.training import Run, Trained, fit_field, fit_pairs
from scflow.training.pairs import Coupled
from scflow.training.run import seeded

Fields = dict[str, tuple[Velocity, Trained]]


COUPLINGS = (
    couplings.Optimal(),
    couplings.Optimal(penalty=0.0),
    couplings.Entropic(),
    couplings.Unbalanced(),
    couplings.Partial(0.7),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


@dataclass(frozen=True)
class WholeBatch(couplings.Coupling):
    """Optimal transport across conditions: the mistake that groups prevent."""

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
        return couplings.Optimal().pair(x0, x1, None, rng=rng)


def cost(x0: Tensor, x1: Tensor) -> float:
    return float((x0.double() - x1.double()).square().flatten(1).sum(1).mean())


def optimal(x0: Tensor, x1: Tensor, group: Tensor | None = None) -> Tensor:
    return couplings.Optimal().pair(x0, x1, group, rng=generator())


def test_the_independent_coupling_leaves_pairs_alone() -> None:
    assert couplings.Independent().pair(normal(3, 2), normal(3, 2), None, rng=generator()) is None


@pytest.mark.parametrize("shape", [(64, 5), (50, 2, 3), (1, 4)])
def test_the_cost_is_the_least_there_is(shape: tuple[int, ...]) -> None:
    """Against scipy's assignment and POT's linear programme, on the squared distances themselves."""
    x0, x1 = 3 * normal(*shape) + 100, normal(*shape, seed=1)
    order = optimal(x0, x1)
    assert sorted(order.tolist()) == list(range(len(x0)))
    squares = torch.cdist(x0.flatten(1).double(), x1.flatten(1).double()).square().numpy()
    rows, columns = linear_sum_assignment(squares)
    assert cost(x0, x1[order]) == pytest.approx(squares[rows, columns].mean(), rel=1e-9)
    assert cost(x0, x1[order]) == pytest.approx(float(ot.emd2([], [], squares)), rel=1e-9)


def test_pairs_never_leave_their_group_even_where_it_would_be_cheaper() -> None:
    """Two cells at -1 and 1 whose noises lie at 1 and -1: crossing would cost nothing."""
    x0, x1 = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [-1.0]])
    assert optimal(x0, x1, torch.tensor([0, 0])).tolist() == [1, 0]
    assert optimal(x0, x1, torch.tensor([0, 1])).tolist() == [0, 1]


def test_every_group_has_its_own_optimum() -> None:
    x0, x1 = normal(90, 3), normal(90, 3, seed=1)
    group = torch.randint(4, (90,), generator=generator(2))
    order = optimal(x0, x1, group)
    assert sorted(order.tolist()) == list(range(90))
    assert torch.equal(group[order], group)
    for code in range(4):
        here = group == code
        squares = torch.cdist(x0[here].double(), x1[here].double()).square().numpy()
        assert cost(x0[here], x1[order][here]) == pytest.approx(float(ot.emd2([], [], squares)), rel=1e-9)


def test_a_group_is_an_equal_row_and_none_is_a_group_of_its_own() -> None:
    nan = math.nan
    condition = torch.tensor([[0, 0.5], [nan, 0.5], [0, 0.5], [nan, nan], [0, nan], [nan, 0.5], [nan, nan]])
    codes = groups_of(condition)
    assert codes is not None
    same = (codes[:, None] == codes).int()
    assert same.tolist() == [[int(str(a) == str(b)) for b in condition.tolist()] for a in condition.tolist()]
    assert groups_of(None) is None


def test_cells_with_a_number_each_of_their_own_stay_as_they_were_drawn() -> None:
    dose = torch.arange(20.0)[:, None]
    assert optimal(normal(20, 3), normal(20, 3, seed=1), groups_of(dose)).tolist() == list(range(20))


def test_the_noise_stays_independent_of_a_dose() -> None:
    """Cells move with the dose. Paired over all doses, so does their noise, and no cell is drawn from such a noise."""
    dose = torch.randint(5, (2000, 1), generator=generator(2)).float() - 2
    x0, x1 = 0.5 * normal(2000, 1) + dose, normal(2000, 1, seed=1)
    for group, least, most in ((groups_of(dose), -0.05, 0.05), (None, 0.9, 1.0)):
        together = torch.corrcoef(torch.cat([dose, x1[optimal(x0, x1, group)]], 1).T)[0, 1]
        assert least < together < most


def test_the_objective_pairs_within_what_the_field_is_told() -> None:
    """Also within "none": a cell whose condition was dropped has no other group."""
    x0, x1, told = normal(40, 2), normal(40, 2, seed=1), torch.arange(40.0)[:, None] % 2
    told[::4] = math.nan
    objective = FlowMatching(coupling=couplings.Optimal())
    cells, paired, conditions = objective.paired(x0, x1, told, rng=generator())
    assert cells is x0
    assert conditions is told
    for here in (told[:, 0].isnan(), told[:, 0] == 0, told[:, 0] == 1):
        assert sorted(paired[here].tolist()) == sorted(x1[here].tolist())
    assert cost(x0, paired) < cost(x0, x1)
    assert cost(x0, objective.paired(x0, x1, None, rng=generator())[1]) < cost(x0, paired)
    seen: list[Tensor] = []

    def field(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        seen.extend([x, t])
        return torch.zeros_like(x)

    objective.loss(field, x0, x1, told, rng=generator())
    torch.testing.assert_close(seen[0], torch.lerp(x0, paired, seen[1][:, None]))


@pytest.mark.parametrize("coupling", COUPLINGS, ids=repr)
def test_the_objective_pairs_within_conditions_and_groups(coupling: couplings.Coupling) -> None:
    """A small first coordinate says which cell it is; the last condition is a number, with a price in one of them."""
    rng, n = generator(5), 120
    told = torch.stack([torch.randint(2, (n,), generator=rng), torch.randint(3, (n,), generator=rng)], 1).float()
    told[::7] = math.nan
    group = torch.randint(2, (n,), generator=rng)
    x0, x1 = (torch.cat([torch.arange(n)[:, None] / 4096, normal(n, 2, seed=i)], 1) for i in (0, 1))
    cells, partners, conditions = FlowMatching(coupling=coupling, numbers=(1,)).paired(
        x0, x1, told, rng=generator(), group=group
    )
    mine, theirs = ((x[:, 0] * 4096).long() for x in (cells, partners))
    assert conditions is not None
    torch.testing.assert_close(conditions, told[mine], equal_nan=True)
    assert torch.equal(group[mine], group[theirs])
    assert len(mine) == len(theirs) == len(conditions)
    assert (len(mine) < n) == isinstance(coupling, couplings.Partial)
    same = told.nan_to_num(-1)[mine] == told.nan_to_num(-1)[theirs]
    assert same[:, 0].all()
    assert bool(same[:, 1].all()) == (coupling.penalty is None)
    assert not torch.equal(mine, theirs)


def test_groups_are_found_only_for_a_coupling_that_looks_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(condition: Tensor | None) -> Tensor | None:
        raise AssertionError("nobody asked for groups")

    monkeypatch.setattr(couplings, "groups_of", found)
    x0, x1, told = normal(4, 2), normal(4, 2, seed=1), torch.zeros(4, 1)
    paired = FlowMatching().paired(x0, x1, told, rng=generator())
    assert all(a is b for a, b in zip(paired, (x0, x1, told), strict=True))


def test_pairs_of_two_gaussians_come_near_to_the_known_distance() -> None:
    """N(m, s^2) and N(0, 1) in two dimensions: at best |m|^2 + 2 (s - 1)^2, and |m|^2 + 2 s^2 + 2 as drawn."""
    x0, x1 = 0.5 * normal(1024, 2) + torch.tensor([2.0, 0.0]), normal(1024, 2, seed=1)
    assert cost(x0, x1) == pytest.approx(4 + 2 * 0.25 + 2, rel=0.1)
    assert cost(x0, x1[optimal(x0, x1)]) == pytest.approx(4 + 2 * 0.25, rel=0.05)


# Cells that are left out.


@dataclass(frozen=True)
class Fourth(couplings.Coupling):
    """Every fourth cell is left out; the others have the noise of the next one."""

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
        index = (torch.arange(len(x0)) + 1) % len(x0)
        return torch.where(torch.arange(len(x0)) % 4 == 3, -1, index)


def test_cells_that_are_left_out_take_their_condition_and_their_time_with_them() -> None:
    x0, x1, told = normal(40, 2), normal(40, 2, seed=1), torch.arange(40.0)[:, None]
    kept = told[:, 0] % 4 != 3
    seen: list[Tensor] = []

    def field(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        assert c is not None
        seen.extend([x, t, c])
        return torch.zeros_like(x)

    objective = FlowMatching(coupling=Fourth())
    losses, times = objective.terms(field, x0, x1, told, rng=generator())
    x, t, c = seen
    assert torch.equal(c, told[kept])
    assert torch.equal(t, times)
    # Stratified times have one of each of as many parts as there are cells: thirty, not forty.
    assert sorted((t * 30).long().tolist()) == list(range(30))
    noise = x1.roll(-1, 0)[kept]
    torch.testing.assert_close(x, torch.lerp(x0[kept], noise, t[:, None]))
    torch.testing.assert_close(losses, (noise - x0[kept]).square().mean(1))
    loss = objective.loss(field, x0, x1, told, rng=generator())
    torch.testing.assert_close(loss, losses.mean())
    objective.loss(lambda x, t, c: torch.zeros_like(x), x0, x1, None, rng=generator())


def test_a_coupling_that_leaves_out_all_cells_is_refused() -> None:
    class Nobody(couplings.Coupling):
        def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
            return torch.full((len(x0),), -1)

    with pytest.raises(InputError, match="leaves out all 4 cells of a batch"):
        FlowMatching(coupling=Nobody()).paired(normal(4, 2), normal(4, 2), None, rng=generator())


class Still(torch.nn.Module):
    """A field of zeros that notes what it is asked in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.asked: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        if not self.training:
            self.asked.append((x, condition))
        return x * (self.weight - self.weight)


@pytest.mark.parametrize("conditioned", [True, False])
def test_validation_leaves_the_same_cells_out(conditioned: bool) -> None:
    """Outliers among validation cells; and cells of condition 1 stay at 100 on all their way."""
    n = 400
    condition = (torch.arange(n) % 2).float()[:, None] if conditioned else None
    place = 0 if condition is None else 100 * condition
    x0, x1 = normal(n, 2) + place, normal(n, 2, seed=1) + place
    x0[:40] += 1000
    pairs = Coupled(x0, x1, condition)
    run = Run(torch.arange(200, n), torch.arange(200), batch_size=200, seed=0, device=torch.device("cpu"))
    run = replace(run, progress=False)
    field, objective = Still(), FlowMatching(coupling=couplings.Partial(0.8))
    trained = fit_pairs(field, pairs, objective, run, steps=1, lr=1e-3)
    asked = torch.cat([x for x, _ in field.asked])
    assert len(asked) == 0.8 * 2000  # ten times the 200 cells
    assert asked.max() < 200
    if condition is not None:
        told = torch.cat([c for _, c in field.asked if c is not None])
        assert torch.equal(asked[:, 0] > 50, told[:, 0] == 1)
    # Of what is left both are standard normal, and nearer than as drawn: 2.
    assert 0 < trained.history["validation_loss"].iloc[-1] < 2


# A price on numbers.


def priced(penalty: float | None, numbers: tuple[int, ...] = (0,)) -> FlowMatching:
    return FlowMatching(coupling=couplings.Optimal(penalty), numbers=numbers)


def test_no_price_is_plain_transport_and_a_high_one_is_grouping() -> None:
    dose = torch.randint(4, (80, 1), generator=generator(2)).float()
    x0, x1 = normal(80, 3) + dose, normal(80, 3, seed=1)
    found = {p: priced(p).paired(x0, x1, dose, rng=generator())[1] for p in (None, 0.0, 1.0, 1e6)}
    assert torch.equal(found[0.0], x1[optimal(x0, x1)])
    assert torch.equal(found[1e6], x1[optimal(x0, x1, groups_of(dose))])
    assert torch.equal(found[1e6], found[None])
    costs = [cost(x0, found[p]) for p in (0.0, 1.0, 1e6)]
    assert costs == sorted(costs)
    assert costs[0] < costs[1] < costs[2]


def test_the_price_is_that_of_a_squared_difference() -> None:
    """Two cells at 0 and 1, noises the other way round, numbers 2 apart: to change saves 2 and costs 8 prices."""
    x0, x1, dose = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [5.0]])
    assert priced(0.249).paired(x0, x1, dose, rng=generator())[1].flatten().tolist() == [0, 1]
    assert priced(0.251).paired(x0, x1, dose, rng=generator())[1].flatten().tolist() == [1, 0]


def test_categories_and_none_stay_groups_beside_numbers_with_a_price() -> None:
    nan = math.nan
    told = torch.stack([torch.arange(90) % 2, torch.rand(90, generator=generator(3))], 1)
    told[::5, 1] = nan
    told[::9] = nan
    x0, x1 = normal(90, 2) + 5 * told[:, :1].nan_to_num(), normal(90, 2, seed=1)
    paired = priced(0.0, (1,)).paired(x0, x1, told, rng=generator())[1]
    kinds = torch.stack([told[:, 0].nan_to_num(2), told[:, 1].isnan()], 1)
    assert len(kinds.unique(dim=0)) == 5
    for kind in kinds.unique(dim=0):
        here = (kinds == kind).all(1)
        assert sorted(paired[here].tolist()) == sorted(x1[here].tolist())
        assert torch.equal(paired[here], x1[here][optimal(x0[here], x1[here])])


def test_a_price_keeps_the_noise_of_each_number_where_nothing_does_without() -> None:
    """Cells move with a dose, each of its own. At a price their noise stays standard normal about every dose."""
    dose = normal(1000, 1, seed=2)
    x0, x1 = 0.5 * normal(1000, 1) + dose, normal(1000, 1, seed=1)
    found = {p: priced(p).paired(x0, x1, dose, rng=generator())[1] for p in (None, 0.0, 100.0)}
    assert torch.equal(found[None], x1)
    assert cost(x0, found[100.0]) < 0.6 * cost(x0, x1)
    for low, high in ((-9, -0.7), (-0.7, 0), (0, 0.7), (0.7, 9)):
        here = ((dose > low) & (dose <= high))[:, 0]
        kept, plain = found[100.0][here], found[0.0][here]
        assert abs(float(kept.mean())) < 0.15
        assert 0.85 < float(kept.std()) < 1.15
        assert abs(float(plain.mean())) > 0.25
        assert float(plain.std()) < 0.8


def test_training_says_which_conditions_are_numbers() -> None:
    """At no price cells of different doses are paired and the first loss is lower; without one nobody is."""
    adata = scflow.datasets.simulate(100, 10, seed=0)
    adata.obs["dose"] = np.linspace(0, 1, 100)
    adata.obsm["X_own"] = normal(100, 3).numpy()
    losses = []
    for coupling in (couplings.Optimal(), couplings.Optimal(penalty=0.0)):
        flow = scflow.tl.train(
            adata, use_rep="X_own", condition="dose", coupling=coupling, steps=2, device="cpu", progress=False
        )
        losses.append(flow.history["validation_loss"].iloc[-1])
    assert losses[1] < 0.8 * losses[0]
    with pytest.raises(
        InputError, match=r"a price on the difference.*those given have none \('cell_type'\)\. Give one"
    ):
        scflow.tl.train(adata, condition="cell_type", coupling=coupling)
    with pytest.raises(InputError, match=r"penalty=0\.0\) has a price .*; none was given\. Give one, such as"):
        scflow.tl.train(adata, coupling=coupling)


@pytest.mark.parametrize("name", ["unbalanced", "partial"])
def test_a_coupling_that_bends_the_law_of_a_noise_is_warned_of(name: str) -> None:
    adata = scflow.datasets.simulate(100, 10, seed=0)
    adata.obsm["X_own"] = normal(100, 3).numpy()
    options: dict[str, Any] = {"use_rep": "X_own", "steps": 2, "device": "cpu", "progress": False}
    with pytest.warns(
        UserWarning, match=rf"coupling={name.title()}\(.*a source of cells \(source=.*'optimal' or 'entr"
    ):
        scflow.tl.train(adata, coupling=name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for quiet in ("independent", "optimal", "entropic"):
            scflow.tl.train(adata, coupling=quiet, **options)


# What a field learns by them.


class Fixed:
    """States that need no codec."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.x[rows]


def two_types(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cells of type 0 about (-2, 0) and of type 1 about (2, 0), and their types."""
    condition = (torch.arange(n) % 2).float()[:, None]
    return 0.5 * normal(n, 2, seed=seed) + torch.cat([4 * condition - 2, torch.zeros(n, 1)], 1), condition


def trained(coupling: couplings.Coupling) -> tuple[Velocity, Trained]:
    """A small field of the two types."""
    (x, condition), order = two_types(2000, seed=1), torch.randperm(2000, generator=generator(2))
    run = Run(order[200:], order[:200], batch_size=128, seed=0, device=torch.device("cpu"), progress=False)
    network = seeded(lambda: nn.MLP(2, width=32, depth=2, cardinalities=(2,)), generator())
    objective = FlowMatching(coupling=coupling)
    return fit_field(network, Fixed(x), condition, noises.Gaussian(), objective, run, steps=400, lr=5e-3)


def drawn(field: Velocity, condition: Tensor, solver: solvers.Solver, steps: int) -> Tensor:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return field(x, t.expand(len(x)), condition)

    with torch.no_grad():
        return solver.integrate(velocity, normal(len(condition), 2, seed=3), solvers.grid(steps))


@pytest.fixture(scope="module")
def fields() -> Fields:
    made = (couplings.Independent(), couplings.Optimal(), WholeBatch())
    return {type(coupling).__name__: trained(coupling) for coupling in made}


def distances(field: Velocity) -> list[float]:
    """The energy distance of each type to new cells of it."""
    x, condition = two_types(2000, seed=4)
    cells = drawn(field, condition, solvers.Heun(), 20)
    types = [condition[:, 0] == code for code in (0, 1)]
    return [energy_distance(x[k].numpy(), cells[k].numpy(), interval=False).value for k in types]


def test_each_condition_keeps_its_law(fields: Fields) -> None:
    """As it does not where cells are paired across conditions."""
    assert max(distances(fields["Optimal"][0])) < 0.03
    assert min(distances(fields["WholeBatch"][0])) > 0.2


def test_the_field_is_straighter(fields: Fields) -> None:
    """One step of Euler's ends nearer to where many steps do."""
    condition, bend = two_types(2000, seed=4)[1], {}
    for name in ("Independent", "Optimal"):
        field = fields[name][0]
        bend[name] = cost(drawn(field, condition, solvers.Euler(), 1), drawn(field, condition, solvers.Heun(), 20))
    assert bend["Optimal"] < bend["Independent"] / 5


def test_validation_pairs_as_training_does(fields: Fields) -> None:
    """Over pairs as they were drawn, no field of the optimal coupling could go below the best independent one."""
    least = {name: trained.history["validation_loss"].min() for name, (_, trained) in fields.items()}
    assert least["Optimal"] < 0.2 * least["Independent"]
