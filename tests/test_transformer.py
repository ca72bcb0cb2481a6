"""The transformer: attention and its block against their formulas, patches, and the order of genes in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from scflow import nn
from scflow.codecs import Standardized, coexpression_order, gene_statistics
from scflow.codecs.statistics import library_sizes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _local_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    rng = seeded(7)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) / math.sqrt(p.shape[-1]))
    return module.eval()


def test_attention_is_that_of_torch() -> None:
    x = torch.randn(3, 5, 12, generator=seeded())
    ours, theirs = nn.Attention(12, 4), torch.nn.MultiheadAttention(12, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.inner.weight)
        theirs.in_proj_bias.copy_(ours.inner.bias)
        theirs.out_proj.load_state_dict(ours.outer.state_dict())
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_width_is_shared_out_among_heads() -> None:
    with pytest.raises(ValueError, match=r"width=10 cannot be shared out among heads=4\. Take a multiple of 4\."):
        nn.Attention(10, 4)


def test_a_block_starts_as_the_identity_and_then_is_the_formula() -> None:
    """Peebles and Xie 2023, figure 3: shift and scale before either branch, a gate after it."""
    x, context = torch.randn(3, 5, 8, generator=seeded()), torch.randn(3, 4, generator=seeded(1))
    block = nn.TransformerBlock(8, 4, heads=2)
    assert torch.equal(block(x, context), x)
    assert block.layers[-1].weight.abs().sum() > 0  # beside a gate of zero it would never learn
    assert block.attention.outer.weight.abs().sum() > 0
    stirred(block)
    rows = (context @ block.modulation.weight.T + block.modulation.bias).reshape(3, 6, 1, 8)

    def norm(y: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(y, (8,))

    shift, scale, gate, shift_2, scale_2, gate_2 = rows.unbind(1)
    middle = x + gate * block.attention(norm(x) * (1 + scale) + shift)
    expected = middle + gate_2 * block.layers(norm(middle) * (1 + scale_2) + shift_2)
    torch.testing.assert_close(block(x, context), expected)


def test_gates_open_at_the_first_step_and_branches_at_the_next() -> None:
    x, context = torch.randn(4, 5, 8, generator=seeded()), torch.randn(4, 4, generator=seeded(1))
    block = nn.TransformerBlock(8, 4, heads=2)
    block(x, context).sin().sum().backward()
    gates = block.modulation.weight.grad.reshape(6, 8, 4).abs().sum((1, 2))
    assert (gates[[2, 5]] > 0).all()
    assert gates[[0, 1, 3, 4]].abs().max() == 0


# Patches.


def test_patches_are_stretches_of_the_order_and_zeros_fill_the_last() -> None:
    field = nn.Transformer(10, patch=3)
    x = torch.arange(1.0, 11.0)[None]
    assert field.patches(x).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 0, 0]]]
    field.arrange(torch.arange(10).flip(0))
    assert field.patches(x).tolist() == [[[10, 9, 8], [7, 6, 5], [4, 3, 2], [1, 0, 0]]]


def test_a_cell_has_several_tokens() -> None:
    assert nn.Transformer(2).tokens == 2
    assert (nn.Transformer(16).patch, nn.Transformer(16).tokens) == (1, 16)
    assert (nn.Transformer(2001).patch, nn.Transformer(2001).tokens) == (126, 16)
    with pytest.raises(ValueError, match=r"patch=20 makes 2 tokens of 40 coordinates, .*: 4 at least\. Use patch=2\."):
        nn.Transformer(40, patch=20)


def test_each_coordinate_has_its_velocity_back_in_its_own_place() -> None:
    """In another order the network is the same one, with its input and output in that order."""
    field = stirred(nn.Transformer(10, patch=3, width=16))
    field.bias.data.zero_()
    x, t = torch.randn(4, 10, generator=seeded()), torch.rand(4, generator=seeded(1))
    order = torch.randperm(10, generator=seeded(2))
    plain = field(x[:, order], t)
    field.arrange(order)
    torch.testing.assert_close(field(x, t)[:, order], plain)


@pytest.mark.parametrize("order", [torch.zeros(10).long(), torch.arange(9), torch.arange(1, 11)])
def test_an_order_is_a_permutation(order: Tensor) -> None:
    with pytest.raises(ValueError, match="order is no permutation of 10 coordinates"):
        nn.Transformer(10).arrange(order)


def test_the_order_is_kept_with_the_weights() -> None:
    field, twin = nn.Transformer(10), nn.Transformer(10)
    assert not field.is_arranged
    field.arrange(torch.arange(10).flip(0))
    twin.load_state_dict(field.state_dict())
    assert twin.is_arranged
    assert torch.equal(twin.order, torch.arange(10).flip(0))


# The order of genes.


def programmes(n_cells: int, n_groups: int, size: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts whose genes rise and fall in groups, and each gene's group; the groups are mixed among the columns."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(n_groups), size))
    activity = rng.normal(0, 1, (n_cells, n_groups))
    return sparse.csr_matrix(rng.poisson(2 * np.exp(activity[:, group])).astype(np.float32)), group


def ordered(counts: sparse.csr_matrix, patch: int) -> Tensor:
    genes = Standardized.fit(gene_statistics(counts), library_sizes(counts))
    return coexpression_order(counts, genes, patch=patch)


@pytest.mark.parametrize("n_groups", [4, 7])
def test_a_patch_is_a_group_of_coexpressed_genes(n_groups: int) -> None:
    counts, group = programmes(400, n_groups, 12)
    order = ordered(counts, 12)
    assert order.sort().values.equal(torch.arange(12 * n_groups))
    for patch in group[order.numpy()].reshape(n_groups, 12):
        assert len(set(patch)) == 1, patch


def test_an_order_is_found_again_and_a_rest_is_left_at_the_end() -> None:
    counts, group = programmes(300, 3, 10)
    order = ordered(counts[:, :29], 10)
    assert order.equal(ordered(counts[:, :29], 10))
    assert len(order) == 29
    # The group that lacks a gene may be in any patch, and lends its place to one of another.
    assert all(np.bincount(patch).max() >= 9 for patch in group[order[:20].numpy()].reshape(2, 10))
