"""Every field there is: zero at first, no weight cut off, and nothing about time, condition or place lost."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scflow import nn
from scflow.matching import Preconditioned, paths, solvers

SHAPES = {"mlp": (10,), "unet": (10,), "transformer": (10,), "unet2d": (2, 5, 7)}
BUILD: dict[str, Callable[[tuple[int, ...]], nn.Field]] = {
    "mlp": lambda cards: nn.MLP(10, cardinalities=cards, width=32, depth=2),
    "unet": lambda cards: nn.UNet(10, cardinalities=cards, width=32),
    "transformer": lambda cards: nn.Transformer(10, cardinalities=cards, patch=3, width=16, depth=2),
    "unet2d": lambda cards: nn.UNet2d(2, cardinalities=cards, width=8, multipliers=(1, 2), depth=1, heads=2),
}
every_field = pytest.mark.parametrize("name", list(BUILD))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _local_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def stirred(module: nn.Field) -> nn.Field:
    """All weights at random, also those that start at zero."""
    rng = seeded(7)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) / math.sqrt(p[0].numel() if p.ndim > 1 else 1))
    return module.eval()


def states(name: str, n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *SHAPES[name], generator=seeded(seed))


def apart(out: Tensor) -> float:
    """The smallest distance between two of the rows."""
    return float((torch.cdist(out.flatten(1), out.flatten(1)) + 1e9 * torch.eye(len(out))).min().detach())


@every_field
def test_the_output_starts_at_zero(name: str) -> None:
    x, t = states(name, 6), torch.rand(6, generator=seeded(1))
    assert torch.equal(BUILD[name](())(x, t), torch.zeros_like(x))
    assert torch.equal(BUILD[name]((3,))(x, t, torch.zeros(6, 1)), torch.zeros_like(x))


@every_field
def test_every_weight_moves_within_a_few_steps(name: str) -> None:
    """The last layer moves first, then the gates, then what is behind them: no branch is closed by two zeros."""
    field = BUILD[name]((3, 0))
    start = [p.detach().clone() for p in field.parameters()]
    optimizer = torch.optim.SGD(field.parameters(), lr=0.5)
    rng = seeded()
    for _ in range(4):
        x, t = torch.randn(32, *SHAPES[name], generator=rng), torch.rand(32, generator=rng)
        c = torch.stack([torch.randint(3, (32,), generator=rng).float(), torch.randn(32, generator=rng)], 1)
        c[:4] = math.nan
        optimizer.zero_grad()
        (field(x, t, c) - x.roll(1, 1)).square().mean().backward()
        optimizer.step()
    moved = {n: not torch.equal(a, p) for (n, p), a in zip(field.named_parameters(), start, strict=True)}
    assert all(moved.values()), [n for n, has in moved.items() if not has]


@every_field
def test_time_and_condition_are_felt(name: str) -> None:
    field = stirred(BUILD[name]((3,)))
    x = states(name, 1).expand(4, *SHAPES[name])
    assert apart(field(x, torch.full((4,), 0.5), torch.tensor([[0.0], [1.0], [2.0], [math.nan]]))) > 1e-3
    assert apart(field(x, torch.tensor([0.2, 0.21, 0.5, 0.9]), torch.zeros(4, 1))) > 1e-3


@every_field
def test_no_condition_means_none_for_all_of_them(name: str) -> None:
    field = stirred(BUILD[name]((3, 0)))
    x, t = states(name, 4), torch.rand(4, generator=seeded(1))
    assert torch.equal(field(x, t), field(x, t, torch.full((4, 2), math.nan)))


@every_field
def test_a_cell_does_not_depend_on_its_neighbours(name: str) -> None:
    field = stirred(BUILD[name]((3,)))
    x, t = states(name, 4), torch.rand(4, generator=seeded(1))
    c = torch.tensor([[0.0], [1.0], [2.0], [math.nan]])
    alone = torch.cat([field(x[i : i + 1], t[i : i + 1], c[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, field(x, t, c), rtol=1e-4, atol=1e-5)


@every_field
def test_every_coordinate_is_felt_by_every_other(name: str) -> None:
    """A derivative of zero would be a coordinate that is left out, of a padded patch or beyond an odd edge."""
    field = stirred(BUILD[name](()))
    jacobian = torch.autograd.functional.jacobian(lambda y: field(y, torch.tensor([0.4])).flatten(), states(name, 1))
    assert (jacobian.abs() > 0).float().mean() > 0.99


@every_field
def test_settings_build_the_same_network(name: str) -> None:
    field = stirred(BUILD[name]((3, 0)))
    twin = type(field)(**field.settings)
    twin.load_state_dict(field.state_dict())
    x, t = states(name, 4), torch.rand(4, generator=seeded(1))
    assert torch.equal(twin.eval()(x, t), field(x, t))


def test_the_table_names_the_fields_of_expression_vectors() -> None:
    assert {"mlp": nn.MLP, "transformer": nn.Transformer, "unet": nn.UNet} == nn.FIELDS


def test_the_tensors_of_an_mlp_keep_their_names() -> None:
    """Flows that were saved before hold these."""
    names = set(nn.MLP(4, cardinalities=(2,), width=8, depth=1).state_dict())
    layers = {f"{place}.{kind}" for place in _MLP_LAYERS for kind in ("weight", "bias")}
    assert names == layers | {"condition.columns.0.weight"}


_MLP_LAYERS = [
    *("time.layers.0", "time.layers.2", "first", "last", "norm.modulation"),
    *("blocks.0.norm.modulation", "blocks.0.layers.0", "blocks.0.layers.3"),
]


# Shapes of their own.


def test_a_picture_may_have_any_size() -> None:
    field = stirred(nn.UNet2d(3, width=8, multipliers=(1, 2, 4), depth=1))
    for size in ((8, 8), (7, 9), (1, 5), (3, 3)):
        x = torch.randn(2, 3, *size, generator=seeded())
        assert field(x, torch.rand(2, generator=seeded(1))).shape == x.shape


def test_multipliers_set_the_channels_of_each_level() -> None:
    field = nn.UNet2d(3, width=8)
    assert [blocks[0].skip.weight.shape[0] for blocks in field.up] == [8, 16, 32]
    assert field.attention.outer.out_features == 64
    assert nn.UNet2d(3, width=8, multipliers=(2,)).last.in_channels == 16


def test_a_u_narrows_by_halves() -> None:
    field = nn.UNet(10, width=64, levels=4)
    assert [layer.out_features for layer in field.narrow] == [32, 16, 8]
    with pytest.raises(ValueError, match=r"width=16 cannot be halved over levels=4\. Use 2 or more, the last 4 or"):
        nn.UNet(10, width=16, levels=4)


def test_skips_carry_what_the_narrow_levels_drop() -> None:
    """With the way through the narrow levels cut, the first level is still felt."""
    field = stirred(nn.UNet(10, width=32))
    with torch.no_grad():
        for layer in field.widen:
            layer.weight.zero_()
    x = states("unet", 1)
    jacobian = torch.func.jacrev(lambda y: field(y, torch.tensor([0.4])))(x).flatten(2).reshape(10, 10)
    assert torch.linalg.matrix_rank(jacobian) == 10


# The mathematics on pictures.


def test_a_picture_is_preconditioned_as_its_pixels_are() -> None:
    """Of one spread, shape must not matter: the same numbers as for the flattened picture."""

    class Half(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            return 0.5 * x

    x, t = torch.randn(3, 2, 4, 5, generator=seeded()), torch.tensor([0.1, 0.5, 0.9])
    flat = Preconditioned(Half(), paths.Linear(), torch.tensor(0.7), torch.tensor(1.0))
    tall = Preconditioned(Half(), paths.Linear(), torch.full((2, 1, 1), 0.7), torch.ones(2, 4, 5))
    torch.testing.assert_close(tall(x, t, None).flatten(1), flat(x.flatten(1), t, None))


@pytest.mark.parametrize(
    "solver", [solvers.Euler(), solvers.Midpoint(), solvers.Heun()], ids=lambda s: type(s).__name__
)
def test_solvers_leave_the_shape_alone(solver: solvers.Solver) -> None:
    x = torch.randn(3, 2, 4, 5, generator=seeded())
    times = solvers.grid(4)
    tall = solver.integrate(lambda y, t: t - y, x, times)
    torch.testing.assert_close(tall.flatten(1), solver.integrate(lambda y, t: t - y, x.flatten(1), times))
