"""Labels as sums of vectors: combinations and parts that no training cell had, from the schema to the drawn cells."""

from __future__ import annotations

import functools
import re
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.typing import NDArray

import scflow
from scflow.conditions import Conditions, Embedded, Parts
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._balance import groups_of
from scflow.matching import Displaced, Preconditioned, Shift, paths, solvers
from scflow.matching.guidance import Guided
from scflow.nn.embeddings import ConditionEmbedding
from scflow.training.pairs import dropped
from scflow.training.shifts import fit_shift

MOVES = {"ctrl": (0.0, 0.0), "A": (3.0, 0.0), "B": (0.0, 3.0), "A+B": (3.0, 3.0), "C": (-2.0, 2.0)}
LABELS = ["A", "B", "B+A", "A+A", "ctrl", "A+ctrl"]
SMALL = functools.partial(scflow.nn.MLP, width=64, depth=2)
VECTORS = {"A": [1.0, 0.0, 2.0], "B": [0.0, 3.0, 2.0], "D": [0.5, 1.5, 2.0]}


def toy(n: int = 150, seed: int = 0) -> AnnData:
    """Cells of deviation 0.5 at where their drug moves them; the moves of A and B add up."""
    rng = np.random.default_rng(seed)
    at = np.repeat(np.array(list(MOVES.values())), n, axis=0)
    obs = pd.DataFrame({"drug": np.repeat(list(MOVES), n)}, index=[f"c{i}" for i in range(len(at))])
    return AnnData(obs=obs, obsm={"X_e": (at + 0.5 * rng.normal(size=at.shape)).astype(np.float32)})


def quietly(flow: Flow, drug: Any, adata: AnnData, **options: Any) -> AnnData:
    """The control cells, carried to a drug that need not have been seen."""
    control = adata[adata.obs["drug"] == "ctrl"].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scflow.tl.transport(control, flow, target={"drug": drug}, progress=False, **options)
    return control


def move(flow: Flow, drug: str, adata: AnnData) -> NDArray[np.float64]:
    """How far cells are carried on average."""
    control = quietly(flow, drug, adata)
    return np.asarray((control.obsm["X_scflow"] - control.obsm["X_e"]).mean(0), dtype=np.float64)


@pytest.fixture(scope="module")
def carried() -> tuple[AnnData, Flow]:
    adata = toy()
    scflow.pp.embed(adata, "drug", none="ctrl")
    return adata, scflow.tl.train(adata, source={"drug": "ctrl"}, use_rep="X_e", field=SMALL, steps=150, progress=False)


@pytest.fixture(scope="module")
def drawn() -> tuple[AnnData, Flow]:
    """From noise, with a table: D was never seen, and lies halfway between A and B."""
    adata = toy()
    table = pd.DataFrame({"x": [1.0, 0.0, 0.0, 0.5], "y": [0, 1, 0, 0.5], "z": [0, 0, 1, 0]}, index=list("ABCD"))
    scflow.pp.embed(adata, "drug", table, none="ctrl")
    return adata, scflow.tl.train(adata, condition="drug", use_rep="X_e", field=SMALL, steps=300, progress=False)


# ---- the law


@pytest.mark.parametrize("drug", ["A", "B", "A+B", "C", "A+C", "B+C", "A+B+C"])
def test_moves_add_up_where_cells_are_carried(drug: str, carried: tuple[AnnData, Flow]) -> None:
    """A field that is told sums, and nothing more, leaves A+C 1.1 short of where it belongs."""
    adata, flow = carried
    expected = np.sum([MOVES[part] for part in drug.split("+")], axis=0)
    np.testing.assert_allclose(move(flow, drug, adata), expected, atol=0.35)
    spread = quietly(flow, drug, adata).obsm["X_scflow"].std(0)
    np.testing.assert_allclose(spread, 0.5, atol=0.12)


@pytest.mark.parametrize("drug", ["B", "A+B", "A+C", "D", "D+D"])
def test_moves_add_up_where_cells_are_drawn(drug: str, drawn: tuple[AnnData, Flow]) -> None:
    """D is (A + B) / 2 by its vector, so it moves by half of both, and D+D as A+B."""
    known = {**MOVES, "D": (1.5, 1.5)}
    expected = np.sum([known[part] for part in drug.split("+")], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        new = scflow.tl.generate(drawn[1], 400, condition=drug, progress=False)
    np.testing.assert_allclose(new.obsm["X_scflow"].mean(0), expected, atol=0.4)
    assert set(new.obs["drug"]) == {drug}


def test_the_order_of_parts_makes_no_difference(carried: tuple[AnnData, Flow], drawn: tuple[AnnData, Flow]) -> None:
    adata, flow = carried
    for one, other in (("A+C", "C+A"), ("A+B", " B + A "), ("A", "ctrl+A")):
        np.testing.assert_array_equal(*(quietly(flow, d, adata).obsm["X_scflow"] for d in (one, other)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        new = [scflow.tl.generate(drawn[1], 50, condition=d, progress=False) for d in ("A+D", "D+A")]
    np.testing.assert_array_equal(new[0].obsm["X_scflow"], new[1].obsm["X_scflow"])
    assert new[0].obs["drug"].tolist() == new[1].obs["drug"].tolist() == ["A+D"] * 50


def test_velocity_and_trajectory_take_combinations(carried: tuple[AnnData, Flow]) -> None:
    adata, flow = carried
    control = adata[adata.obs["drug"] == "ctrl"].copy()
    with pytest.warns(UserWarning, match="not among the training cells"):
        scflow.tl.velocity(control, flow, target={"drug": "A+C"})
    np.testing.assert_allclose(control.obsm["velocity_scflow"].mean(0), (1, 2), atol=0.4)
    with pytest.warns(UserWarning, match="not among the training cells"):
        ways = scflow.tl.trajectory(control, flow, target={"drug": "A+C"}, times=2, progress=False)
    ends = ways.obsm["X_scflow"].reshape(2, -1, 2)
    np.testing.assert_allclose((ends[1] - ends[0]).mean(0), (1, 2), atol=0.4)


def test_each_cell_may_have_a_combination_of_its_own(carried: tuple[AnnData, Flow]) -> None:
    adata, flow = carried
    each = np.array(["A+C", "B"] * 75)
    control = quietly(flow, each, adata)
    moved = control.obsm["X_scflow"] - control.obsm["X_e"]
    np.testing.assert_allclose(moved[each == "A+C"].mean(0), (1, 2), atol=0.4)
    np.testing.assert_allclose(moved[each == "B"].mean(0), (0, 3), atol=0.4)


@pytest.fixture(scope="module")
def counted(small_flows: None) -> tuple[AnnData, Flow]:
    """A, B and C raise five genes each fivefold."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["ctrl", "A", "B", "A+B", "C"], 100)
    rate = np.full((500, 20), 4.0)
    for part, first in (("A", 0), ("B", 5), ("C", 10)):
        rate[np.ix_([part in label.split("+") for label in labels], range(first, first + 5))] *= 5
    adata = AnnData(rng.poisson(rate * rng.gamma(20, 0.05, size=(500, 1))).astype(np.float32))
    adata.obs["drug"] = labels
    scflow.pp.embed(adata, "drug", none="ctrl")
    return adata, scflow.tl.train(adata, condition="drug", field=SMALL, steps=300, progress=False)


def log_shares(counts: Any) -> NDArray[np.float64]:
    """Of each five genes, log2 of their share in all counts."""
    total = np.asarray(counts.sum(0), dtype=np.float64).reshape(4, 5).sum(1)
    return np.log2(total / total.sum())


def test_counts_of_an_unseen_combination(counted: tuple[AnnData, Flow]) -> None:
    """In A+C the genes of both are up; neither what A nor what C does is half as near to that."""
    adata, flow = counted
    with pytest.warns(UserWarning, match=re.escape("1 labels of 'drug' were not among the training cells' ('A+C')")):
        new = scflow.tl.generate(flow, 300, condition="A+C", progress=False)
    assert new.layers["counts"].dtype.kind == "i"
    assert new.obs["drug"].tolist() == ["A+C"] * 300
    expected = np.log2(np.array([5, 1, 5, 1]) / 12)

    def error(counts: Any) -> float:
        return float(np.sqrt(np.mean((log_shares(counts) - expected) ** 2)))

    alone = [error(adata.X[(adata.obs["drug"] == drug).to_numpy()]) for drug in ("A", "C")]
    assert error(new.layers["counts"]) < 0.5 * min(alone)


def test_counts_of_seen_labels_are_calibrated_with_their_cells(counted: tuple[AnnData, Flow]) -> None:
    """As many of each gene as the training cells of the label have; of a combination that is new nothing is known."""
    adata, flow = counted
    for drug in ("ctrl", "A", "A+B"):
        mean = np.asarray(scflow.tl.generate(flow, 300, condition=drug, progress=False).layers["counts"].mean(0))
        real = adata.X[(adata.obs["drug"] == drug).to_numpy()].mean(0)
        np.testing.assert_allclose(mean.ravel(), real, rtol=0.12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        told = flow.conditions.encode({"drug": ["B+A", "A+C", None, "ctrl", "C"]})
    names = [flow.conditions.columns[0].labels[int(i)] if i >= 0 else None for i in groups_of(flow.conditions, told, 5)]
    assert names == ["A+B", None, None, "ctrl", "C"]


# ---- what is asked for


def test_drawn_as_seen_come_labels_that_were_seen(drawn: tuple[AnnData, Flow]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = scflow.tl.generate(drawn[1], 500, progress=False)
        again = scflow.tl.generate(drawn[1], 4, condition=["A+B", "ctrl", "B+A", "C"], progress=False)
    assert new.obs["drug"].value_counts().to_dict() == dict.fromkeys(MOVES, 100)
    assert again.obs["drug"].tolist() == ["A+B", "ctrl", "A+B", "C"]


def test_a_combination_is_warned_of_once_and_a_part_that_no_cell_had_is_named(drawn: tuple[AnnData, Flow]) -> None:
    for drug, alone in (("A+C", False), ("D", True)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scflow.tl.generate(drawn[1], 5, condition=drug, progress=False)
        texts = [str(w.message) for w in said if "not among the training cells" in str(w.message)]
        assert len(texts) == 1
        assert ("No training cell had 'D'" in texts[0]) == alone


def test_unknown_parts_are_named_beside_the_known(carried: tuple[AnnData, Flow], drawn: tuple[AnnData, Flow]) -> None:
    adata, flow = carried
    control = adata[adata.obs["drug"] == "ctrl"].copy()
    known = re.escape("1 unknown parts ('E'). Known are 'A', 'B', 'C'")
    for verb in (scflow.tl.transport, scflow.tl.trajectory):
        with pytest.raises(InputError, match=known):
            verb(control, flow, target={"drug": "A+E"}, progress=False)
    with pytest.raises(InputError, match=known):
        scflow.tl.generate(drawn[1], 5, condition="A+E", progress=False)
    with pytest.raises(InputError, match="empty part"):
        scflow.tl.generate(drawn[1], 5, condition="A++B", progress=False)


# ---- what is written and kept


def test_only_its_slot_is_written(tmp_path: Path) -> None:
    adata = toy(10)
    before = adata.copy()
    scflow.pp.embed(adata, "drug", {"A": [1, 2], "B": [0, 1], "C": [0, 0]}, none="ctrl")
    assert set(adata.uns) == {"scflow_embed"}
    entry = adata.uns["scflow_embed"]["drug"]
    np.testing.assert_array_equal(entry["vectors"], [[1, 2], [0, 1], [0, 0]])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["X_e"], before.obsm["X_e"])
    copied = scflow.pp.embed(before, "drug", key_added="mine", copy=True)
    assert copied is not None
    assert set(copied.uns) == {"mine_embed"}
    assert not before.uns
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    flows = [scflow.tl.train(a, condition="drug", use_rep="X_e", steps=2, progress=False) for a in (adata, back)]
    assert flows[0].conditions == flows[1].conditions
    assert flows[0].conditions.columns[0].parts.vectors == ((1, 2), (0, 1), (0, 0))


@pytest.mark.parametrize("which", ["carried", "drawn"])
def test_saved_and_loaded_it_gives_the_same_bits(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    adata, flow = request.getfixturevalue(which)
    assert flow.field.shift is not None
    flow.save(tmp_path / "flow.safetensors")
    adata.write_h5ad(tmp_path / "a.h5ad")
    for again in (Flow.load(tmp_path / "flow.safetensors"), anndata.read_h5ad(tmp_path / "a.h5ad")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if which == "drawn":
                a, b = (scflow.tl.generate(f, 20, condition="A+D", progress=False) for f in (flow, again))
            else:
                a, b = (quietly(f, "A+C", adata) for f in (flow, again))
        np.testing.assert_array_equal(a.obsm["X_scflow"], b.obsm["X_scflow"])


def test_a_flow_without_such_a_condition_is_as_it_was() -> None:
    """No shift, no word of it in the file, and the same conditions as without `embed` ever called."""
    adata = toy(20)
    plain = scflow.tl.train(adata, condition="drug", use_rep="X_e", steps=5, progress=False)
    adata.obs["other"] = ["x", "y"] * 50
    scflow.pp.embed(adata, "other")
    same = scflow.tl.train(adata, condition="drug", use_rep="X_e", steps=5, progress=False)
    assert plain.field.shift is None
    assert plain.to_content()["config"] == same.to_content()["config"]
    assert "shift" not in plain.to_content()["config"]
    for name, tensor in plain.to_content()["tensors"].items():
        if not name.endswith("cells_per_second"):
            np.testing.assert_array_equal(tensor, same.to_content()["tensors"][name])


# ---- refused


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"A": [1, 2], "B": [1, 2, 3], "C": [0, 0]}, "length"),
        (
            {"A": [1, np.nan], "B": [1, 2], "C": [0, 0]},
            r"NaN or infinite values in the vectors of 1 of 3 parts \('A'\)",
        ),
        ({"A": [1, 2], "C": [0, 0]}, r"1 unknown parts \('B'\)"),
        ({"A": ["x", "y"], "B": [1, 2], "C": [0, 0]}, "no vector of numbers for 'A'"),
        ({"A": 1.0, "B": 2.0, "C": 3.0}, "no vector of numbers for 'A'"),
        ({"A": [], "B": [], "C": []}, "vector"),
        ({}, "an empty dict"),
        ("drugs.csv", "expected a DataFrame"),
        ({"A": [1, 2], "B": [1, 2], "C": [0, 0], "ctrl": [0, 0]}, "named by none="),
        ({"A+B": [1, 2], "A": [1, 2], "B": [1, 2], "C": [0, 0]}, r"no single part.*'A\+B'"),
        (pd.DataFrame({"x": [1.0, 2, 3, 4]}, index=["A", "B", "C", "A"]), "more than once"),
    ],
)
def test_tables_that_cannot_be_used(table: Any, message: str) -> None:
    adata = toy(10)
    with pytest.raises(InputError, match=message):
        scflow.pp.embed(adata, "drug", table, none="ctrl")
    assert not adata.uns


@pytest.mark.parametrize("label", ["A++B", "+A", "A+", ""])
def test_labels_with_an_empty_part(label: str) -> None:
    adata = toy(10)
    adata.obs["drug"] = np.where(adata.obs["drug"] == "C", label, adata.obs["drug"])
    for table in (None, {"A": [1.0], "B": [2.0]}):
        with pytest.raises(InputError, match="empty part"):
            scflow.pp.embed(adata, "drug", table, none="ctrl")


def test_columns_that_cannot_be_embedded() -> None:
    adata = toy(10)
    adata.obs["dose"] = 1.0
    with pytest.raises(InputError, match="holds numbers"):
        scflow.pp.embed(adata, "dose")
    with pytest.raises(InputError, match="no column 'drgu'"):
        scflow.pp.embed(adata, "drgu")
    with pytest.raises(InputError, match="separates nothing"):
        scflow.pp.embed(adata, "drug", separator=" ")
    with pytest.raises(InputError, match="leaves no part"):
        scflow.pp.embed(adata, "drug", none=["ctrl", "A", "B", "C"])
    adata.obs.loc["c3", "drug"] = None
    with pytest.raises(InputError, match="no value for 1 of 50 cells"):
        scflow.pp.embed(adata, "drug")


def test_labels_that_changed_after_embedding() -> None:
    adata = toy(10)
    scflow.pp.embed(adata, "drug", none="ctrl")
    adata.obs["drug"] = adata.obs["drug"].replace("C", "E")
    with pytest.raises(InputError, match=r"1 unknown parts \('E'\)"):
        scflow.tl.train(adata, condition="drug", use_rep="X_e", steps=2, progress=False)


# ---- the schema


@pytest.fixture
def schema() -> Conditions:
    parts = Parts(tuple(VECTORS), tuple(map(tuple, VECTORS.values())), none=("ctrl",))
    frame = pd.DataFrame({"dose": np.arange(6.0), "drug": LABELS, "type": list("xyxyxy")})
    return Conditions.from_frame(frame, {"drug": parts})


def test_codes_are_standardised_sums(schema: Conditions) -> None:
    """By hand: A+ctrl is A, so there are five labels; the third entry counts parts, the second has B alone."""
    sums = np.array([[1, 0, 2], [0, 3, 2], [1, 3, 4], [2, 0, 4], [0, 0, 0]], dtype=float)
    frame = pd.DataFrame({"dose": np.zeros(6), "drug": LABELS, "type": list("xyxyxy")})
    codes = schema.encode(frame)
    assert codes.shape == (6, 5)
    assert schema.widths == (1, 3, 1)
    assert schema.inputs == (0, -3, 2)
    assert schema.cardinalities == (0, 0, 0, 0, 2)
    expected = (sums - sums.mean(0)) / sums.std(0)
    np.testing.assert_allclose(codes[:, 1:4], expected[[0, 1, 2, 3, 4, 0]], atol=1e-6)


def test_decoding_is_the_inverse_and_knows_what_was_asked(schema: Conditions) -> None:
    column = schema.columns[1]
    assert isinstance(column, Embedded)
    codes = column.encode(["A+B", "ctrl+A", None, "ctrl"])
    back = column.decode(codes)
    assert [None if pd.isna(v) else v for v in back] == ["B+A", "A", None, "ctrl"]
    with pytest.warns(UserWarning, match="No training cell had 'D'"):
        new = column.encode(["D+D", "D"])
    assert column.decode(new).tolist()[0] == "B+A"  # of the same sum
    assert column.decode(new, ["D+D", "D"]).tolist() == ["D+D", "D"]


def test_json_and_back(schema: Conditions) -> None:
    assert Conditions.from_json(schema.to_json()) == schema


def test_other_conditions_are_drawn_from_cells_of_the_combination(schema: Conditions) -> None:
    """Cells of A have dose 0 or 5 and both types; cells of B dose 1 and type y; of A+A+B there are none."""
    frame = pd.DataFrame({"dose": np.arange(6.0), "drug": LABELS, "type": list("xyxyxy")})
    seen = schema.encode(frame)
    table = schema.table({"drug": "B"}, 4, seen, np.random.default_rng(0))
    assert schema.decode(table).to_numpy().tolist() == [[1.0, "B", "y"]] * 4
    with pytest.warns(UserWarning, match="not among"):
        table = schema.table({"drug": "A+A+B"}, 60, seen, np.random.default_rng(0))
    assert not table.isnan().any()
    assert sorted(schema.decode(table)["dose"].unique()) == [0, 1, 2, 3, 4, 5]
    none = schema.table({"drug": None}, 4, seen, np.random.default_rng(0))
    assert none.isnan().sum(0).tolist() == [0, 4, 4, 4, 0]


# ---- what the field is told


def test_conditions_are_dropped_whole() -> None:
    told = torch.ones(4000, 5)
    out = dropped(told, rate=0.1, widths=(1, 3, 1), rng=torch.Generator().manual_seed(0)).isnan()
    span = out[:, 1:4].sum(1)
    assert set(span.tolist()) == {0, 3}
    together = out.all(1).float().mean()
    assert abs(together - 0.1) < 0.02
    for j in (0, 1, 4):  # all at once in a tenth, and one of three in a twentieth of the others
        assert abs(out[:, j].float().mean() - (1 - 0.9 * 0.95)) < 0.02
    one = torch.ones(50, 2)
    same = [dropped(one, rate=0.3, rng=torch.Generator().manual_seed(1), **w) for w in ({}, {"widths": (1, 1)})]
    assert torch.equal(same[0].isnan(), same[1].isnan())


def test_guidance_weighs_conditions_and_not_columns() -> None:
    """The effect of the vector is that of all its entries, told together or not at all."""

    def field(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        assert c is not None
        assert set(c[:, 1:].isnan().sum(1).tolist()) <= {0, 2}
        return c[:, :1].nan_to_num(0.0) + 10 * c[:, 1:].nan_to_num(0.0).prod(1, keepdim=True)

    c = torch.tensor([[1.0, 2.0, 3.0]])
    out = Guided(field, (3.0, 0.5), widths=(1, 2))(torch.zeros(1, 1), torch.zeros(1), c)
    assert out.item() == pytest.approx(3 * 1 + 0.5 * 60)


def test_sums_are_embedded_as_sums() -> None:
    layer = ConditionEmbedding((2, -3), 8)
    torch.nn.init.normal_(layer.columns[1].weight)
    a, b = torch.randn(2, 3).double()
    layer = layer.double()
    told = torch.stack([torch.cat([torch.zeros(1).double(), v]) for v in (a, b, a + b, torch.zeros(3).double())])
    one, other, both, zero = layer(told)
    torch.testing.assert_close(both - zero, (one - zero) + (other - zero))
    none = layer(torch.full((1, 4), torch.nan).double())
    assert none.isfinite().all()
    assert not torch.allclose(none, zero)


class Silent(torch.nn.Module):
    """A network that has learnt nothing."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("path", [paths.Linear(), paths.VariancePreserving()])
def test_a_shifted_field_carries_noise_to_the_shifted_law(path: paths.Affine) -> None:
    """Normal data of deviation 2 about W c: the best velocity is linear, and ends at W c + 2 z."""
    weight = torch.tensor([[3.0, 0.0], [0.0, -1.0]])
    field = Preconditioned(Silent(), path, torch.tensor(2.0), torch.tensor(1.0), Shift(weight))
    c = torch.tensor([[1.0, 0.0], [1.0, 2.0], [torch.nan, torch.nan]])
    z = torch.tensor([[0.3, -0.2], [1.0, 1.0], [0.5, 0.1]])
    way = solvers.grid(200, start=1.0, end=0.0)
    end = solvers.RK4().integrate(lambda x, t: field(x, t.expand(len(x)), c), z, way)
    torch.testing.assert_close(end, c.nan_to_num(0.0) @ weight + 2 * z, atol=2e-3, rtol=1e-3)


def test_a_shifted_displacement_adds_to_the_mean_one() -> None:
    shift = Shift(torch.tensor([[2.0, 1.0]]))
    step = torch.tensor([-1.0, 4.0])  # from data to source
    field = Displaced(Silent(), torch.zeros(2), torch.ones(2), step, torch.ones(2), shift)
    c = torch.tensor([[1.0], [-2.0], [torch.nan]])
    expected = step - torch.tensor([[2.0, 1.0], [-4.0, -2.0], [0.0, 0.0]])
    torch.testing.assert_close(field(torch.randn(3, 2), torch.rand(3), c), expected)


def test_the_shift_is_found_beside_other_conditions() -> None:
    """Types at +-5 that go along with the first entry are not taken for its doing."""
    rng = torch.Generator().manual_seed(0)
    n = 3000
    told = torch.randn(n, 2, generator=rng)
    kind = (told[:, 0] + torch.randn(n, generator=rng) > 0).float()
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    x = told @ weight + 10 * kind[:, None] - 5 + 0.1 * torch.randn(n, 2, generator=rng)
    condition = torch.cat([kind[:, None], told], dim=1)
    found = fit_shift(condition, (2, 0, 0), (1, 2), x).weight
    torch.testing.assert_close(found, torch.cat([torch.zeros(1, 2), weight]), atol=0.02, rtol=0)
