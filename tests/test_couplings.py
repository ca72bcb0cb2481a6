"""Couplings: their cost against other solvers, the groups they keep to, and the law that a field learns by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scflow import nn
from scflow.matching import FlowMatching, couplings, noises, solvers
from scflow.matching.couplings import groups_of
from scflow.matching.objective import Velocity
from scflow.metrics.kernels import energy_distance
from scflow.training import Run, Trained, fit_field
from scflow.training.run import seeded

Fields = dict[str, tuple[Velocity, Trained]]


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
    paired = objective.paired(x0, x1, told, rng=generator())
    for here in (told[:, 0].isnan(), told[:, 0] == 0, told[:, 0] == 1):
        assert sorted(paired[here].tolist()) == sorted(x1[here].tolist())
    assert cost(x0, paired) < cost(x0, x1)
    assert cost(x0, objective.paired(x0, x1, None, rng=generator())) < cost(x0, paired)
    seen: list[Tensor] = []

    def field(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        seen.extend([x, t])
        return torch.zeros_like(x)

    objective.loss(field, x0, x1, told, rng=generator())
    torch.testing.assert_close(seen[0], torch.lerp(x0, paired, seen[1][:, None]))


def test_groups_are_found_only_for_a_coupling_that_looks_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(condition: Tensor | None) -> Tensor | None:
        raise AssertionError("nobody asked for groups")

    monkeypatch.setattr(couplings, "groups_of", found)
    x1 = normal(4, 2)
    assert FlowMatching().paired(normal(4, 2), x1, torch.zeros(4, 1), rng=generator()) is x1


def test_pairs_of_two_gaussians_come_near_to_the_known_distance() -> None:
    """N(m, s^2) and N(0, 1) in two dimensions: at best |m|^2 + 2 (s - 1)^2, and |m|^2 + 2 s^2 + 2 as drawn."""
    x0, x1 = 0.5 * normal(1024, 2) + torch.tensor([2.0, 0.0]), normal(1024, 2, seed=1)
    assert cost(x0, x1) == pytest.approx(4 + 2 * 0.25 + 2, rel=0.1)
    assert cost(x0, x1[optimal(x0, x1)]) == pytest.approx(4 + 2 * 0.25, rel=0.05)


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
