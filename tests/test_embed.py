"""Labels that are sums of parts, and combinations that no training cell had."""

from __future__ import annotations

import functools
import json
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

import scflow
from scflow.conditions import Conditions, Embedded, Parts
from scflow.errors import InputError
from scflow.matching import Shift
from scflow.matching.guidance import Guidance
from scflow.nn import ConditionEmbedding
from scflow.training.pairs import dropped
from scflow.training.shifts import fit_shift

MOVES = {"ctrl": (0.0, 0.0), "A": (3.0, 0.0), "B": (0.0, 3.0), "A+B": (3.0, 3.0), "C": (-2.0, 2.0)}
TABLE = {"A": [1.0, 0.0, 0.0], "B": [0.0, 1.0, 0.0], "C": [0.0, 0.0, 1.0], "D": [0.5, 0.5, 0.0]}
SMALL = functools.partial(scflow.nn.MLP, width=64, depth=2)
QUICK: dict[str, Any] = {"use_rep": "X_e", "field": SMALL, "progress": False}


def cells(labels: tuple[str, ...] = tuple(MOVES), n: int = 100) -> AnnData:
    """Normal cells of standard deviation 0.5 about where their drugs move them."""
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(size=(n, 2)) * 0.5 + MOVES[label] for label in labels])
    obs = pd.DataFrame({"drug": np.repeat(labels, n)}, index=[f"c{i}" for i in range(n * len(labels))])
    return AnnData(obs=obs, obsm={"X_e": x.astype(np.float32)})


def embedded(*args: Any, **options: Any) -> AnnData:
    adata = cells()
    scflow.pp.embed(adata, "drug", *args, **{"none": "ctrl"} | options)
    return adata


def controls() -> AnnData:
    return cells(("ctrl",), 200)


def carried(flow: scflow.flow.Flow, drug: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = scflow.tl.transport(controls(), flow, target={"drug": drug}, progress=False, copy=True)
    assert found is not None
    return found.obsm["X_scflow"] - found.obsm["X_e"]


@pytest.fixture(scope="module")
def combined() -> scflow.flow.Flow:
    """Carries controls to A, B, A+B and C."""
    return scflow.tl.train(embedded(), source={"drug": "ctrl"}, steps=200, **QUICK)


@pytest.fixture(scope="module")
def by_table() -> scflow.flow.Flow:
    """Carries controls to the same by vectors, D's among them, of which there are no cells."""
    return scflow.tl.train(embedded(TABLE), source={"drug": "ctrl"}, steps=200, **QUICK)


@pytest.fixture(scope="module")
def drawn() -> scflow.flow.Flow:
    """From noise, beside a second condition."""
    adata = embedded()
    adata.obs["batch"] = np.tile(["x", "y"], adata.n_obs // 2)
    return scflow.tl.train(adata, condition=["batch", "drug"], steps=200, **QUICK)


# What a flow makes of them


@pytest.mark.parametrize("drug", ["A+C", "B+C", "A+B+C", "A+A"])
def test_an_unseen_combination_moves_cells_by_the_sum_of_its_parts(combined: scflow.flow.Flow, drug: str) -> None:
    moved, expected = carried(combined, drug), sum(np.array(MOVES[part]) for part in drug.split("+"))
    np.testing.assert_allclose(moved.mean(0), expected, atol=0.35)
    assert (carried(combined, drug) + controls().obsm["X_e"]).std(0).max() < 0.65


def test_a_network_alone_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first layer is linear, and the others are not: cells land on either of the laws that were learnt."""
    monkeypatch.setattr("scflow.flow._sourcing.fit_shift", lambda told, *_: Shift(torch.zeros(told.shape[1], 2)))
    flow = scflow.tl.train(embedded(), source={"drug": "ctrl"}, steps=200, **QUICK)
    np.testing.assert_allclose(carried(flow, "A+B").mean(0), [3, 3], atol=0.35)
    assert np.abs(carried(flow, "A+C").mean(0) - [1, 2]).max() > 0.7


def test_the_empty_combination_moves_nothing(combined: scflow.flow.Flow) -> None:
    np.testing.assert_allclose(carried(combined, "ctrl").mean(0), 0, atol=0.25)


def test_pairs_are_predicted_from_single_drugs_alone() -> None:
    """Controls, which have no drug, say where the sum starts: the mean of all drugs is in every single one."""
    adata = cells(("ctrl", "A", "B", "C"))
    scflow.pp.embed(adata, "drug", none="ctrl")
    flow = scflow.tl.train(adata, source={"drug": "ctrl"}, steps=150, **QUICK)
    np.testing.assert_allclose(carried(flow, "A+B").mean(0), [3, 3], atol=0.35)


def test_a_drug_without_cells_is_where_its_vector_is(by_table: scflow.flow.Flow) -> None:
    """D's vector is the mean of A's and B's."""
    np.testing.assert_allclose(carried(by_table, "D").mean(0), [1.5, 1.5], atol=0.3)


def test_the_order_of_parts_changes_no_bit(combined: scflow.flow.Flow, drawn: scflow.flow.Flow) -> None:
    assert np.array_equal(carried(combined, "B + A"), carried(combined, "A+B"))
    assert np.array_equal(carried(combined, "C+A"), carried(combined, "A+C"))
    with pytest.warns(UserWarning, match=r"'C\+A'"):
        one = scflow.tl.generate(drawn, 20, condition={"drug": "C+A"}, progress=False)
    with pytest.warns(UserWarning, match=r"'A\+C'"):
        other = scflow.tl.generate(drawn, 20, condition={"drug": "A+C"}, progress=False)
    assert np.array_equal(one.obsm["X_scflow"], other.obsm["X_scflow"])
    assert one.obs["drug"].tolist() == other.obs["drug"].tolist() == ["A+C"] * 20


def test_labels_come_back_as_labels(drawn: scflow.flow.Flow) -> None:
    """Of 500 cells a fifth are of each label, each at its own mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = scflow.tl.generate(drawn, 500, progress=False)
    assert new.obs["drug"].value_counts().to_dict() == dict.fromkeys(MOVES, 100)
    assert set(new.obs["batch"]) == {"x", "y"}
    for label, move in MOVES.items():
        mine = new.obsm["X_scflow"][new.obs["drug"] == label]
        np.testing.assert_allclose(mine.mean(0), move, atol=0.4)


def test_cells_from_noise_add_up_too(drawn: scflow.flow.Flow) -> None:
    with pytest.warns(UserWarning, match="not among the training"):
        new = scflow.tl.generate(drawn, 300, condition={"drug": "A+C"}, progress=False)
    np.testing.assert_allclose(new.obsm["X_scflow"].mean(0), [1, 2], atol=0.4)
    assert set(new.obs["batch"]) == {"x", "y"}


def test_ways_between_combinations_keep_their_labels(drawn: scflow.flow.Flow) -> None:
    ends = {"drug": "A+B", "batch": "x"}, {"drug": "A+C", "batch": "x"}
    with pytest.warns(UserWarning, match="not among the training"):
        way = scflow.tl.interpolate(drawn, *ends, n=3, progress=False)
    assert way.obs["drug"].astype(object).where(way.obs["drug"].notna(), None).tolist() == ["A+B", None, "A+C"]


@pytest.fixture(scope="module")
def counted() -> tuple[AnnData, scflow.flow.Flow]:
    """Counts from noise, beside the type."""
    adata = scflow.datasets.simulate(n_cells=200, n_genes=20, seed=0)
    adata.obs["drug"] = ["ctrl", "A", "B", "A+B", "C"] * 40
    scflow.pp.embed(adata, "drug", none="ctrl")
    return adata, scflow.tl.train(adata, condition=["cell_type", "drug"], field=SMALL, steps=20, progress=False)


def test_counts_of_an_unseen_combination(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    flow = counted[1]
    with pytest.warns(UserWarning, match=r"1 labels of 'drug'.*'A\+C'"):
        new = scflow.tl.generate(flow, 30, condition={"drug": "A+C"}, progress=False)
    counts = new.layers["counts"]
    assert counts.shape == (30, 20)
    assert np.issubdtype(counts.dtype, np.integer)
    assert counts.sum() > 0
    assert new.obs["drug"].tolist() == ["A+C"] * 30
    assert new.obs["cell_type"].notna().all()


def test_counts_are_carried_to_an_unseen_combination() -> None:
    adata = scflow.datasets.simulate(n_cells=200, n_genes=40, seed=0)
    adata.obs["drug"] = ["ctrl", "A", "B", "A+B", "C"] * 40
    scflow.pp.embed(adata, "drug", none="ctrl")
    flow = scflow.tl.train(adata, source={"drug": "ctrl"}, group="cell_type", field=SMALL, steps=20, progress=False)
    start = adata[adata.obs["drug"] == "ctrl"].copy()
    with pytest.warns(UserWarning, match=r"'A\+C'"):
        scflow.tl.transport(start, flow, target={"drug": "A+C"}, progress=False)
    assert np.issubdtype(start.layers["scflow"].dtype, np.integer)
    with pytest.warns(UserWarning, match=r"'A\+C'"):
        rows = scflow.tl.trajectory(start, flow, target={"drug": "A+C"}, times=2, progress=False)
    assert rows.n_obs == 2 * start.n_obs
    with pytest.warns(UserWarning, match=r"'A\+C'"):
        scflow.tl.velocity(start, flow, target={"drug": "A+C"})
    assert np.isfinite(start.obsm["velocity_scflow"]).all()


def test_saved_and_loaded_it_carries_the_same_bits(by_table: scflow.flow.Flow, tmp_path: Path) -> None:
    by_table.save(tmp_path / "flow")
    again = scflow.Flow.load(tmp_path / "flow")
    assert again.conditions == by_table.conditions
    assert np.array_equal(carried(again, "C+D"), carried(by_table, "C+D"))


def test_flows_without_such_a_condition_say_nothing_of_it() -> None:
    adata = cells()
    flow = scflow.tl.train(adata, condition="drug", steps=2, **QUICK)
    config = json.loads(flow.to_content()["config"])
    assert "shifted" not in config["field"]
    assert not [name for name in flow.to_content()["tensors"] if "shift" in name]


def test_faster_flows_keep_the_shift(drawn: scflow.flow.Flow) -> None:
    again = scflow.tl.reflow(drawn, n_pairs=200, steps=3, progress=False)
    assert torch.equal(again.field.shift.weight, drawn.field.shift.weight)  # type: ignore[union-attr]
    jumps = scflow.tl.distill(drawn, n_trajectories=200, steps=60, progress=False)
    with pytest.warns(UserWarning, match="not among the training"):
        new = scflow.tl.generate(jumps, 200, condition={"drug": "A+C"}, progress=False)
    np.testing.assert_allclose(new.obsm["X_scflow"].mean(0), [1, 2], atol=0.6)


def test_a_label_of_the_source_without_a_vector_leaves_the_constant_free() -> None:
    """ "ctrl" is then a part like others, of which no target cell has any: its sum is no origin."""
    adata = cells()
    scflow.pp.embed(adata, "drug")
    flow = scflow.tl.train(adata, source={"drug": "ctrl"}, steps=20, **QUICK)
    column = flow.conditions.columns[0]
    assert isinstance(column, Embedded)
    assert column.parts.names == ("A", "B", "C")
    with pytest.raises(InputError, match=r"1 unknown parts \('ctrl'\)"):
        scflow.tl.transport(controls(), flow, target={"drug": "ctrl"}, progress=False)


def test_embedded_categories_can_be_added_to(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    more = scflow.tl.augment(counted[0], key="drug", n_obs={"A+B": 7}, flow=counted[1], progress=False)
    assert (more.obs["drug"] == "A+B").sum() == 47


# The warning, and what is refused


def test_a_warning_names_new_combinations_and_parts_once(by_table: scflow.flow.Flow) -> None:
    with pytest.warns(UserWarning, match="not among the training") as found:
        scflow.tl.transport(controls(), by_table, target={"drug": ["A+C", "D"] * 100}, progress=False)
    told = [str(w.message) for w in found if "not among the training" in str(w.message)]
    assert len(told) == 1
    assert told[0].startswith("2 labels of 'drug' were not among the training cells' ('A+C', 'D')")
    assert told[0].endswith("No training cell had 'D': known by vectors alone.")


def test_an_unknown_part_is_refused_with_the_known_ones(combined: scflow.flow.Flow) -> None:
    message = r"1 unknown parts \('D'\).* Known are 'A', 'B', 'C'; 'ctrl' is none"
    with pytest.raises(InputError, match=message):
        scflow.tl.transport(controls(), combined, target={"drug": "A+D"}, progress=False)
    with pytest.raises(InputError, match="have an empty part"):
        scflow.tl.transport(controls(), combined, target={"drug": "A+"}, progress=False)


def test_without_a_table_parts_that_no_training_cell_had_are_unknown() -> None:
    """The column was embedded with C, and is learnt from without."""
    adata = embedded()
    flow = scflow.tl.train(adata[adata.obs["drug"] != "C"].copy(), condition="drug", steps=2, **QUICK)
    with pytest.raises(InputError, match=r"unknown parts \('C'\)"):
        scflow.tl.generate(flow, 3, condition="C", progress=False)


def test_labels_that_changed_since_are_refused() -> None:
    adata = embedded()
    adata.obs["drug"] = adata.obs["drug"].str.replace("C", "E")
    with pytest.raises(InputError, match=r"unknown parts \('E'\)"):
        scflow.tl.train(adata, condition="drug", steps=2, **QUICK)
    adata.obs["drug"] = np.arange(adata.n_obs) % 3
    with pytest.raises(InputError, match="holds numbers now"):
        scflow.tl.train(adata, condition="drug", steps=2, **QUICK)
    adata.obs["drug"] = np.where(np.arange(adata.n_obs) % 2, "A+B", "B+A")
    with pytest.raises(InputError, match="same combination"):
        scflow.tl.train(adata, condition="drug", steps=2, **QUICK)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "lengths": ({**TABLE, "B": [1.0]}, {}, r"differ in length.*\[1, 3\] entries \(first: 'B' has 1\)"),
    "nan": ({**TABLE, "B": [1.0, np.nan, 0.0]}, {}, r"NaN or infinite values in the vectors of 1 of 4 parts \('B'\)"),
    "missing": ({"A": [1.0], "B": [2.0]}, {}, r"1 unknown parts \('C'\)"),
    "text": ({**TABLE, "B": ["x", "y", "z"]}, {}, "no vector of numbers for 'B'"),
    "scalar": ({"A": 1.0}, {}, "no vector of numbers for 'A'"),
    "empty": ({}, {}, "table is an empty dict"),
    "no table": ("X_pca", {}, "table is 'X_pca'"),
    "twice": (pd.DataFrame([[1.0], [2.0]], index=["A", "A"]), {}, r"more than once \('A'\)"),
    "none": ({**TABLE, "ctrl": [0.0] * 3}, {}, "'ctrl' is named by none= and has a row in table"),
    "torn": ({**TABLE, "A+B": [0.0] * 3}, {}, r"no single part.*'A\+B'"),
    "separator": (TABLE, {"separator": ""}, "separates nothing"),
    "all none": (None, {"none": list(MOVES), "separator": "|"}, "leaves no part"),
}


@pytest.mark.parametrize(("table", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_pp_embed_refuses(table: Any, options: dict[str, Any], message: str) -> None:
    adata = cells()
    with pytest.raises(InputError, match=message):
        scflow.pp.embed(adata, "drug", table, **{"none": "ctrl"} | options)
    assert not adata.uns


def test_labels_with_empty_parts_and_columns_without_labels_are_refused() -> None:
    adata = cells()
    adata.obs["odd"] = adata.obs["drug"].str.replace("+", "++")
    adata.obs["dose"] = 1.5
    with pytest.raises(InputError, match=re.escape("1 labels of 'odd' have an empty part between their '+' ('A++B')")):
        scflow.pp.embed(adata, "odd")
    with pytest.raises(InputError, match=re.escape("obs['dose'] holds numbers")):
        scflow.pp.embed(adata, "dose")
    with pytest.raises(InputError, match="has no column 'drgu'"):
        scflow.pp.embed(adata, "drgu")


# What is written


def test_pp_embed_writes_its_slot_alone_and_h5ad_keeps_it(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["other"] = adata.obs["drug"]
    before = adata.obs.copy()
    scflow.pp.embed(adata, "drug", pd.DataFrame(TABLE).T, none="ctrl")
    scflow.pp.embed(adata, "other", separator="_", key_added="scflow")
    pd.testing.assert_frame_equal(adata.obs, before)
    assert list(adata.uns) == ["scflow_embed"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found = scflow._anndata.read_parts(anndata.read_h5ad(tmp_path / "cells.h5ad"))
    vectors = tuple(tuple(v) for v in TABLE.values())
    assert found == {
        "drug": Parts(tuple(TABLE), vectors, "+", ("ctrl",)),
        "other": Parts(("A", "A+B", "B", "C", "ctrl"), None, "_"),
    }


def test_a_copy_is_written_to_and_key_added_names_the_slot() -> None:
    adata = cells()
    other = scflow.pp.embed(adata, "drug", key_added="mine", copy=True)
    assert other is not None
    assert list(other.uns) == ["mine_embed"]
    assert not adata.uns
    plain = scflow.tl.train(other.copy(), condition="drug", steps=2, **QUICK)
    mine = scflow.tl.train(other, condition="drug", steps=2, key_added="mine", **QUICK)
    assert plain.conditions.inputs == (5,)
    assert mine.conditions.inputs == (-4,)


# The schema


FRAME = pd.DataFrame({"type": ["x", "y", "x", "y"], "drug": ["A", "B", "B+A", "ctrl"], "dose": [1.0, 2.0, 3.0, 4.0]})
PARTS = {"drug": Parts(("A", "B"), ((1.0, 0.0, 7.0), (0.0, 4.0, 0.0)), none=("ctrl",))}


def test_codes_are_standardised_sums_over_labels() -> None:
    conditions = Conditions.from_frame(FRAME, PARTS)
    assert conditions.cardinalities == (2, 0, 0, 0, 0)
    assert conditions.inputs == (2, -3, 0)
    assert conditions.widths == (1, 3, 1)
    assert conditions.numbers == (4,)
    assert conditions.vectors == (1, 2, 3)
    # The sums are (1, 0, 7), (0, 4, 0), (1, 4, 7), 0: each entry takes two values, each twice.
    expected = [[1, -1, 1], [-1, 1, -1], [1, 1, 1], [-1, -1, -1]]
    assert conditions.encode(FRAME)[:, 1:4].tolist() == expected
    assert conditions.encode(FRAME.loc[[0, 0, 1, 2, 3]])[:, 1:4].tolist() == [expected[0], *expected]


def test_codes_come_back_as_labels_and_a_file_keeps_the_schema() -> None:
    conditions = Conditions.from_frame(FRAME, PARTS)
    back = conditions.decode(conditions.encode(FRAME))
    assert back["drug"].tolist() == FRAME["drug"].tolist()
    assert back["type"].tolist() == FRAME["type"].tolist()
    assert Conditions.from_json(conditions.to_json()) == conditions
    one_hot = Conditions.from_frame(FRAME, {"drug": Parts(("A", "B"), none=("ctrl",))})
    assert Conditions.from_json(one_hot.to_json()) == one_hot


def test_an_entry_that_no_training_label_varies_in_is_not_told() -> None:
    parts = Parts(("A", "B", "C"), ((1.0, 2.0), (0.0, 2.0), (0.0, 9.0)))
    conditions = Conditions.from_frame(pd.DataFrame({"drug": ["A", "B"]}), {"drug": parts})
    with pytest.warns(UserWarning, match="known by vectors alone"):
        codes = conditions.encode(pd.DataFrame({"drug": ["A", "B", "C"]}))
    assert codes.tolist() == [[1, 0], [-1, 0], [-1, 0]]


def test_labels_of_one_vector_are_warned_of() -> None:
    parts = Parts(("A", "B", "C"), ((1.0,), (1.0,), (2.0,)))
    with pytest.warns(UserWarning, match=r"2 labels of 'drug' have the vector of another \('B as A', 'C as A\+B'\)"):
        Conditions.from_frame(pd.DataFrame({"drug": ["A", "A+B", "B", "C"]}), {"drug": parts})


def test_no_condition_is_nan_in_all_columns() -> None:
    conditions = Conditions.from_frame(FRAME, PARTS)
    table = conditions.table({"drug": None, "type": "x"}, 3, conditions.encode(FRAME), np.random.default_rng(0))
    assert table[:, 1:4].isnan().all()
    assert not table[:, [0, 4]].isnan().any()
    assert conditions.decode(table)["drug"].isna().all()


def test_what_is_not_named_is_drawn_with_the_combination() -> None:
    """B+A occurs with type x and a dose of 3 alone."""
    conditions = Conditions.from_frame(FRAME, PARTS)
    table = conditions.table({"drug": "A+B"}, 5, conditions.encode(FRAME), np.random.default_rng(0))
    assert conditions.decode(table)[["type", "dose"]].drop_duplicates().to_numpy().tolist() == [["x", 3.0]]
    back = conditions.decode(table, {"drug": "A+B"})
    assert back["drug"].tolist() == ["B+A"] * 5


# The field


def test_sums_of_vectors_are_embedded_as_sums() -> None:
    torch.manual_seed(0)
    embedding = ConditionEmbedding((3, -2, 0), 8)
    torch.nn.init.normal_(embedding.columns[1].weight)
    rows = torch.tensor([[1.0, a, b, 0.5] for a, b in [(1, 0), (0, 2), (1, 2), (0, 0)]])
    one, other, both, neither = embedding(rows)
    torch.testing.assert_close(one + other, both + neither)
    rows[0, 1:3] = torch.nan
    changed = embedding(rows)[0] - neither
    torch.testing.assert_close(changed, embedding.columns[1].weight[:, 2])


def test_guidance_drops_all_columns_of_a_vector_or_none() -> None:
    rng = torch.Generator().manual_seed(0)
    gone = dropped(torch.ones(20_000, 5), rate=0.1, rng=rng, widths=(1, 3, 1))
    assert gone is not None
    missing = gone.isnan()
    assert (missing[:, 1:4].any(1) == missing[:, 1:4].all(1)).all()
    # A tenth all at once, and a twentieth of the rest each alone: 0.1 + 0.9 * 0.05.
    np.testing.assert_allclose(missing[:, [0, 1, 4]].float().mean(0), 0.145, atol=0.01)
    together = dropped(torch.ones(20_000, 3), rate=0.1, rng=rng, widths=(3,))
    assert together is not None
    np.testing.assert_allclose(together.isnan().float().mean(), 0.1, atol=0.01)


def test_guidance_by_name_tells_all_columns_of_a_vector() -> None:
    """The field counts what it is told: v_none + w (v_drug - v_none), which is 2 w for a vector of two entries."""

    def field(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        assert condition is not None
        return (~condition.isnan()).sum(1, keepdim=True).expand_as(x).float()

    guided = Guidance({"drug": 3.0, "type": 0.0}).around(field, ["type", "drug"], (1, 2))
    x = torch.zeros(4, 2)
    assert torch.equal(guided(x, torch.zeros(4), torch.ones(4, 3)), torch.full((4, 2), 6.0))


def test_a_shift_is_the_regression_on_vectors_beside_other_conditions() -> None:
    """Type y lies 5 higher and gets more of the drug; what the drug does is found beside it."""
    rng = np.random.default_rng(0)
    kind = torch.from_numpy(rng.integers(0, 2, 4000)).float()
    vector = torch.from_numpy(rng.normal(size=(4000, 2))).float() + kind[:, None]
    weight = torch.tensor([[2.0, 0.0], [-1.0, 3.0]])
    moved = vector @ weight + 5 * kind[:, None] + 7
    condition = torch.cat([kind[:, None], vector], 1)
    condition[:3] = torch.nan
    found = fit_shift(condition, (2, 0, 0), (1, 2), moved)
    torch.testing.assert_close(found.weight[1:], weight, atol=5e-3, rtol=0)
    assert not found.weight[0].any()


def test_an_origin_takes_the_place_of_the_constant() -> None:
    told = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2000, 1)
    moved = torch.tensor([[3.0], [5.0]]).repeat(2000, 1)
    free = fit_shift(told, (0, 0), (0, 1), moved).weight
    torch.testing.assert_close(free, torch.tensor([[-1.0], [1.0]]), atol=5e-3, rtol=0)
    tied = fit_shift(told, (0, 0), (0, 1), moved, torch.zeros(2)).weight
    torch.testing.assert_close(tied, torch.tensor([[3.0], [5.0]]), atol=5e-3, rtol=0)


@pytest.mark.parametrize("kind", ["noise", "cells", "map"])
def test_a_shifted_field_is_the_field_in_a_moved_frame(kind: str) -> None:
    """On the linear path, x = y + (1 - t) m: the velocity of x at y + (1 - t) m is that of y at y, less m."""
    torch.manual_seed(0)
    network, one = scflow.nn.MLP(2, cardinalities=(-3,), width=16, depth=1), torch.ones(2)
    torch.nn.init.normal_(network.last.weight)
    shift = Shift(torch.randn(3, 2))

    def field(shift: Shift | None) -> Any:
        if kind == "cells":
            return scflow.matching.Displaced(network, one, 2 * one, 3 * one, one, shift)
        if kind == "noise":
            return scflow.matching.Preconditioned(network, scflow.matching.paths.Linear(), 2 * one, one, shift)
        if network.length is None:
            network.take_two_times()
        return scflow.matching.FlowMap(network, 2 * one, one, shift)

    y, t, condition = torch.randn(5, 2), torch.rand(5), torch.randn(5, 3)
    move = condition @ shift.weight
    with torch.no_grad():
        moving = field(shift)(y + (1 - t)[:, None] * move, t, condition)
        torch.testing.assert_close(moving, field(None)(y, t, condition) - move)
        nothing = torch.full((5, 3), torch.nan)
        torch.testing.assert_close(field(shift)(y, t, nothing), field(None)(y, t, nothing))
