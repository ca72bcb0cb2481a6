"""Networks: what they must be at the start, and what they must be able to tell apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scflow import nn
from scflow.nn.mlp import _width


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _local_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """All weights at random, also those that start at zero."""
    rng = seeded(7)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) / math.sqrt(p.shape[-1]))
    return module.eval()


# Time.


def test_sinusoids_are_the_formula() -> None:
    t = torch.tensor([0.0, 0.3, 1.0])
    out = nn.sinusoids(t, 6)
    rates = [10_000 ** (-i / 3) for i in range(3)]
    for row, time in zip(out, t.tolist(), strict=True):
        angles = [1000 * time * rate for rate in rates]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)


def test_sinusoids_are_computed_in_float32() -> None:
    """In bfloat16 an angle near 1000 would be off by whole turns."""
    t = torch.tensor([0.7], dtype=torch.bfloat16)
    assert nn.sinusoids(t, 128).dtype == torch.float32
    torch.testing.assert_close(nn.sinusoids(t, 128), nn.sinusoids(t.float(), 128))


def explained(embedding: Tensor) -> float:
    """Share of the leading direction in an embedding of a grid of times."""
    values = torch.linalg.svdvals(embedding - embedding.mean(0)).square()
    return float(values[0] / values.sum())


def test_the_time_embedding_is_not_degenerate() -> None:
    """On raw t in [0, 1] nearly all of the variance is in one direction; scaled by 1000 it is in many."""
    t = torch.linspace(0, 1, 513)
    assert explained(nn.sinusoids(t, 128, scale=1.0)) > 0.95
    assert explained(nn.sinusoids(t, 128)) < 0.3
    near = torch.cdist(nn.sinusoids(t, 128), nn.sinusoids(t, 128)) + 1e9 * torch.eye(513)
    assert near.min() > 0.5  # Neighbouring times, 1/512 apart, can be told apart.


# Conditions.


def test_none_is_an_embedding_of_its_own() -> None:
    embedding = nn.ConditionEmbedding((3,), 16)
    known, none = embedding(torch.tensor([[0.0], [1.0], [2.0]])), embedding(torch.tensor([[math.nan]]))
    table = embedding.columns[0].weight
    assert torch.equal(known, table[:3])
    assert torch.equal(none[0], table[3])
    assert torch.cdist(none, known).min() > 0.1


def test_a_missing_number_is_not_zero() -> None:
    embedding = nn.ConditionEmbedding((0,), 16)
    numbers, none = embedding(torch.tensor([[-1.0], [0.0], [1.0]])), embedding(torch.tensor([[math.nan]]))
    assert none.isfinite().all()
    assert torch.cdist(none, numbers).min() > 0.01
    assert torch.cdist(numbers, numbers).add(torch.eye(3)).min() > 0.01


def test_conditions_are_summed_column_by_column() -> None:
    embedding = nn.ConditionEmbedding((2, 0, 4), 8)
    both = torch.tensor([[1.0, 0.3, 2.0], [math.nan, 0.3, 2.0]])
    first, second = embedding(both)
    table = embedding.columns[0].weight
    torch.testing.assert_close(first - second, table[1] - table[2])


def test_missing_values_leave_gradients_finite() -> None:
    """NaN must not leak into gradients through the branch that was not taken."""
    embedding = nn.ConditionEmbedding((2, 0), 8)
    embedding(torch.tensor([[0.0, math.nan], [math.nan, 1.0]])).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in embedding.parameters())
    assert embedding.columns[0].weight.grad[1].abs().sum() == 0


# Blocks.


def test_adaln_starts_as_a_plain_layer_norm_and_then_is_modulated() -> None:
    x, context = torch.randn(5, 12, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    block = nn.AdaLN(12, 4)
    plain = torch.nn.functional.layer_norm(x, (12,))
    torch.testing.assert_close(block(x, context), plain)
    stirred(block)
    scale, shift = (context @ block.modulation.weight.T + block.modulation.bias).chunk(2, dim=1)
    torch.testing.assert_close(block(x, context), plain * (1 + scale) + shift)


@pytest.mark.parametrize("shape", [(5, 12), (5, 12, 3, 4)])
def test_film_starts_as_the_identity_and_then_is_the_formula(shape: tuple[int, ...]) -> None:
    """A scale and a shift for each channel, wherever in the picture."""
    x, context = torch.randn(shape, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    block = nn.FiLM(12, 4)
    assert torch.equal(block(x, context), x)
    stirred(block)
    scale, shift = (context @ block.modulation.weight.T + block.modulation.bias).chunk(2, dim=1)
    for channel in range(12):
        rest = (5,) + (1,) * (x.ndim - 2)
        expected = x[:, channel] * (1 + scale[:, channel].view(rest)) + shift[:, channel].view(rest)
        torch.testing.assert_close(block(x, context)[:, channel], expected)


def test_adaln_modulates_every_token_alike() -> None:
    x, context = torch.randn(5, 7, 12, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    block = stirred(nn.AdaLN(12, 4))
    tokens = torch.stack([block(x[:, i], context) for i in range(7)], dim=1)
    torch.testing.assert_close(block(x, context), tokens)


@pytest.mark.parametrize("kind", [nn.DenseBlock, nn.ConvBlock])
@pytest.mark.parametrize("out", [8, 12])
def test_a_resnet_block_is_its_skip_and_its_branch(kind: type, out: int) -> None:
    """The context reaches the branch between its two layers, and the skip not at all."""
    shape = (3, 8) if kind is nn.DenseBlock else (3, 8, 4, 5)
    x, context = torch.randn(shape, generator=seeded()), torch.randn(2, 3, 4, generator=seeded(1))
    block = kind(8, out, 4)
    torch.nn.init.normal_(block.film.modulation.weight, generator=seeded(2))
    assert not torch.allclose(block(x, context[0]), block(x, context[1]))
    torch.nn.init.zeros_(block.outer[-1].weight)
    torch.nn.init.zeros_(block.outer[-1].bias)
    torch.testing.assert_close(block(x, context[0]), block.skip(x))
    assert block.skip(x).shape[1] == out
    assert isinstance(block.skip, torch.nn.Identity) == (out == 8)


def test_a_block_adds_to_its_input() -> None:
    x, context = torch.randn(5, 12, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    block = nn.ResidualBlock(12, 4)
    with torch.no_grad():
        block.layers[-1].weight.zero_()
        block.layers[-1].bias.zero_()
    torch.testing.assert_close(block(x, context), x)


# The field.


def test_the_output_starts_at_zero() -> None:
    x, t = torch.randn(6, 10, generator=seeded()), torch.rand(6, generator=seeded(1))
    assert torch.equal(nn.MLP(10)(x, t), torch.zeros(6, 10))
    assert torch.equal(nn.MLP(10, cardinalities=(3,))(x, t, torch.zeros(6, 1)), torch.zeros(6, 10))


def test_every_weight_moves_within_three_steps() -> None:
    """The output layer moves first, then what is behind it: no branch is closed by two zeros in a row."""
    field = nn.MLP(10, cardinalities=(3, 0), width=32, depth=2)
    start = [p.detach().clone() for p in field.parameters()]
    optimizer = torch.optim.SGD(field.parameters(), lr=1.0)
    rng = seeded()
    for _ in range(3):
        x, t = torch.randn(64, 10, generator=rng), torch.rand(64, generator=rng)
        c = torch.stack([torch.randint(3, (64,), generator=rng).float(), torch.randn(64, generator=rng)], 1)
        optimizer.zero_grad()
        (field(x, t, c) - x.roll(1, 1)).square().mean().backward()
        optimizer.step()
    moved = {name: not torch.equal(a, p) for (name, p), a in zip(field.named_parameters(), start, strict=True)}
    assert all(moved.values()), [name for name, has in moved.items() if not has]


def test_time_and_condition_are_felt() -> None:
    field = stirred(nn.MLP(10, cardinalities=(3,), width=32, depth=2))
    x = torch.randn(1, 10, generator=seeded()).expand(4, 10)
    t = torch.full((4,), 0.5)
    by_condition = field(x, t, torch.tensor([[0.0], [1.0], [2.0], [math.nan]]))
    assert torch.cdist(by_condition, by_condition).add(torch.eye(4)).min() > 1e-3
    by_time = field(x, torch.tensor([0.2, 0.21, 0.5, 0.9]), torch.zeros(4, 1))
    assert torch.cdist(by_time, by_time).add(torch.eye(4)).min() > 1e-3


def test_no_condition_means_none_for_all_of_them() -> None:
    field = stirred(nn.MLP(10, cardinalities=(3, 0), width=32, depth=1))
    x, t = torch.randn(4, 10, generator=seeded()), torch.rand(4, generator=seeded(1))
    assert torch.equal(field(x, t), field(x, t, torch.full((4, 2), math.nan)))


def test_a_cell_does_not_depend_on_its_neighbours() -> None:
    field = stirred(nn.MLP(10, cardinalities=(3,), width=32, depth=2))
    x, t = torch.randn(8, 10, generator=seeded()), torch.rand(8, generator=seeded(1))
    c = torch.tensor([[0.0], [1.0], [2.0], [math.nan]] * 2)
    whole = field(x, t, c)
    torch.testing.assert_close(torch.cat([field(x[i : i + 1], t[i : i + 1], c[i : i + 1]) for i in range(8)]), whole)


def test_settings_build_the_same_network() -> None:
    field = nn.MLP(10, cardinalities=(3, 0), dropout=0.1)
    twin = nn.MLP(**field.settings)
    twin.load_state_dict(field.state_dict())
    assert [p.shape for p in twin.parameters()] == [p.shape for p in field.parameters()]
    assert field.settings["width"] == 256
    assert field.settings["depth"] == 3


def test_width_and_depth_grow_with_the_state() -> None:
    widths = [_width(dim) for dim in (2, 50, 400, 1000, 2000, 5000, 30_000)]
    assert widths == sorted(widths)
    assert widths[0] == 256
    assert widths[-1] == 1024
    assert nn.MLP(512, width=8).settings["depth"] < nn.MLP(513, width=8).settings["depth"]
