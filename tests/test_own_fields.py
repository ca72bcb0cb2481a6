"""`tl.train(field=...)`: names, classes with settings, and networks of one's own; what is kept and what is refused."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import scflow
from scflow import nn
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._fields import state_dim

QUICK: dict[str, Any] = {"steps": 6, "progress": False, "device": "cpu"}

pytestmark = pytest.mark.usefixtures("small_flows")


class Linear(torch.nn.Module):
    """A linear field that reads its condition."""

    def __init__(self, dim: int, n_conditions: int = 0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(dim + 1 + n_conditions, dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        known = [] if condition is None else [condition.nan_to_num()]
        return self.layer(torch.cat([x, t[:, None], *known], dim=1))


def drawn(flow: Flow) -> AnnData:
    return scflow.tl.generate(flow, 40, solver="euler", steps=2, device="cpu", progress=False)


SMALL = {
    "unet": functools.partial(nn.UNet, width=16),
    "transformer": functools.partial(nn.Transformer, width=16, depth=1),
}


@pytest.mark.parametrize("field", list(SMALL))
@pytest.mark.parametrize("space", ["counts", "genes"])
def test_a_field_is_saved_loaded_and_draws_the_same_bits(
    field: str, space: str, simulated: AnnData, tmp_path: Path
) -> None:
    flow = scflow.tl.train(simulated, condition="cell_type", space=space, field=SMALL[field], **QUICK)
    assert type(flow.field.network) is nn.FIELDS[field]
    flow.save(tmp_path / "flow.safetensors")
    cells = drawn(flow)
    for twin in (Flow.load(tmp_path / "flow.safetensors"), simulated):
        again = drawn(twin)
        np.testing.assert_array_equal(cells.obsm["X_scflow"], again.obsm["X_scflow"])
        np.testing.assert_array_equal(cells.layers["counts"].toarray(), again.layers["counts"].toarray())


@pytest.mark.parametrize("space", ["genes", "quantile", "pca", "counts"])
def test_genes_are_cut_in_the_order_of_their_coexpression(space: str, simulated: AnnData, tmp_path: Path) -> None:
    """Where coordinates are genes; the library size stays last, and the order goes to the file."""
    build = functools.partial(nn.Transformer, patch=4, width=16, depth=1)
    flow = scflow.tl.train(simulated, space=space, field=build, **QUICK)
    flow.save(tmp_path / "flow.safetensors")
    network = Flow.load(tmp_path / "flow.safetensors").field.network
    assert network.is_arranged == (space in ("genes", "quantile"))
    assert network.order[-1] == flow.codec.dim - 1
    assert network.order.equal(flow.field.network.order)
    assert (network.patch, len(network.blocks)) == (4, 1)


@pytest.mark.parametrize("space", ["genes", "quantile", "pca", "counts", "embedding"])
def test_the_length_of_a_state_is_known_beforehand(space: str, simulated: AnnData) -> None:
    simulated.obsm["X_own"] = np.random.default_rng(0).normal(size=(200, 7))
    where: dict[str, Any] = {"use_rep": "X_own"} if space == "embedding" else {"space": space}
    few = simulated[:30, :25].copy()
    for cells in (simulated, few):
        dim = scflow.tl.train(cells, **where, **QUICK).codec.dim
        shape = (cells.n_obs, 7 if space == "embedding" else cells.n_vars)
        assert dim == state_dim(space, shape, latent=20, components=50)


def test_a_class_and_its_name_are_the_same_field(simulated: AnnData) -> None:
    simulated.obsm["X_own"] = np.random.default_rng(0).normal(size=(200, 7))
    flows = [scflow.tl.train(simulated, use_rep="X_own", field=field, **QUICK) for field in ("unet", nn.UNet)]
    narrow = scflow.tl.train(simulated, use_rep="X_own", field=functools.partial(nn.UNet, width=16), **QUICK)
    np.testing.assert_array_equal(*(drawn(flow).obsm["X_scflow"] for flow in flows))
    assert narrow.field.network.settings["width"] == 16
    assert "scflow" in simulated.uns


def test_an_order_of_ones_own_stays(simulated: AnnData) -> None:
    network, order = nn.Transformer(51, width=16, depth=1), torch.arange(51).flip(0)
    network.arrange(order)
    flow = scflow.tl.train(simulated, space="genes", field=network, **QUICK)
    assert flow.field.network.order.equal(order)


@pytest.mark.parametrize("made", ["module", "function"])
def test_a_field_of_ones_own_is_trained_and_not_kept(made: str, simulated: AnnData, tmp_path: Path) -> None:
    own = Linear(51, 1)
    start = own.layer.weight.clone()
    field = own if made == "module" else lambda dim, *, cardinalities: Linear(dim, len(cardinalities))
    with pytest.warns(UserWarning, match=r"not kept in adata\.uns\['scflow'\]\. A flow whose field is a Linear cannot"):
        flow = scflow.tl.train(simulated, condition="cell_type", space="genes", field=field, **QUICK)
    assert "scflow" not in simulated.uns
    assert own.layer.weight.equal(start), "the network that was passed stays as it is"
    assert not flow.field.network.layer.weight.equal(start)
    assert drawn(flow).shape == (40, 50)
    with pytest.raises(
        InputError, match=r"field is a Linear cannot be saved; .* Keep flow\.field\.network\.state_dict"
    ):
        flow.save(tmp_path / "flow.safetensors")


class Short(Linear):
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return super().forward(x, t, condition)[:, :-1]


class Two(Linear):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        return x


class Leaky(Linear):
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is not None
        return self.layer(torch.cat([x, t[:, None], condition], dim=1))


@pytest.mark.parametrize(
    ("field", "match"),
    [
        ("unett", r"field='unett' is not known\. Did you mean 'unet'\? Choose one of 'mlp', 'transformer', 'unet', or"),
        (3, r"field=3 is not known\. Choose one of .* such as functools\.partial\(scflow\.nn\.Transformer, depth=6\)"),
        (Short(51, 1), r"field=Short gave torch\.float32 \[2, 50\] for x \[2, 51\]; expected a velocity of the same"),
        (
            Two(51, 1),
            r"field=Two cannot be called as field\(x, t, condition\) with x \[2, 51\], t \[2\] and condition ",
        ),
        (Linear(50, 1), r"field=Linear cannot be called .* condition \[2, 1\] \(NaN is none\): RuntimeError"),
        (Leaky(51, 1), r"field=Leaky gave 51 of 102 numbers that are not finite\. A condition of NaN stands for none"),
        (torch.nn.Identity(), r"field=Identity has no weights that could learn"),
        (lambda dim, *, cardinalities: None, r"field=.*lambda.* made a NoneType; expected a torch\.nn\.Module"),
        (functools.partial(nn.UNet, size=3), r"field='unet' cannot be built for 51 coordinates: TypeError: .*'size'"),
        (functools.partial(nn.Transformer, patch=40), r"cannot be built .* ValueError: patch=40 makes 2 tokens of 51"),
        (functools.partial(nn.MLP, 51), r"field=MLP cannot be built for 51 coordinates: TypeError"),
    ],
)
def test_what_is_no_field_is_refused_before_any_work(field: Any, match: str, simulated: AnnData) -> None:
    before = simulated.copy()
    with pytest.raises(InputError, match=match):
        scflow.tl.train(simulated, condition="cell_type", space="genes", field=field, **QUICK)
    assert set(simulated.uns) == set(before.uns)
    assert list(simulated.var) == list(before.var)
