"""Conditions: encoding and its inverse, and the tables of cells that can be asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from scflow.conditions import Categorical, Conditions, Continuous, as_column
from scflow.errors import InputError


def training_frame() -> pd.DataFrame:
    """24 cells: B only in batch one, T in both, NK in two; ages 20 and 60."""
    types = ["B"] * 6 + ["T"] * 12 + ["NK"] * 6
    batches = ["one"] * 6 + ["one", "two"] * 6 + ["two"] * 6
    return pd.DataFrame(
        {
            "cell_type": pd.Categorical(types, categories=["T", "B", "NK"]),
            "batch": batches,
            "age": [20.0, 60.0] * 12,
        }
    )


@pytest.fixture
def conditions() -> Conditions:
    return Conditions.from_frame(training_frame())


@pytest.fixture
def training(conditions: Conditions) -> torch.Tensor:
    return conditions.encode(training_frame())


@pytest.fixture
def one() -> Conditions:
    return Conditions.from_frame(training_frame()[["cell_type"]])


@pytest.fixture
def one_training(one: Conditions) -> torch.Tensor:
    return one.encode(training_frame())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# The schema.


def test_schema_of_a_frame(conditions: Conditions) -> None:
    assert conditions.columns == (
        Categorical("cell_type", ("T", "B", "NK"), "string"),
        Categorical("batch", ("one", "two"), "string"),
        Continuous("age", 40.0, 20.0),
    )
    assert conditions.names == ("cell_type", "batch", "age")
    assert conditions.cardinalities == (3, 2, 0)
    assert len(conditions) == 3


def test_codes_are_written_out(conditions: Conditions) -> None:
    codes = conditions.encode({"age": [20, 50, None], "batch": ["two", None, "one"], "cell_type": ["NK", "T", np.nan]})
    assert codes.dtype == torch.float32
    expected = [[2, 1, -1], [0, np.nan, 0.5], [np.nan, 0, np.nan]]
    np.testing.assert_array_equal(codes.numpy(), expected)


def test_decode_inverts_encode(conditions: Conditions, training: torch.Tensor) -> None:
    back = conditions.decode(training)
    frame = training_frame()
    assert list(back) == list(frame)
    for column in frame:
        assert back[column].tolist() == frame[column].tolist()
    assert back["cell_type"].cat.categories.tolist() == ["T", "B", "NK"]
    assert torch.equal(conditions.encode(back), training)


def test_decode_keeps_categories_that_do_not_occur_and_missing_values(conditions: Conditions) -> None:
    back = conditions.decode(torch.tensor([[1.0, np.nan, np.nan]]))
    assert back["cell_type"].cat.categories.tolist() == ["T", "B", "NK"]
    assert back["batch"].cat.categories.tolist() == ["one", "two"]
    assert back["batch"].isna().all()
    assert back["age"].isna().all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False, True], "boolean"),
        (pd.array([True, False, True], dtype="boolean"), "boolean"),
        (pd.Categorical([True, False, True]), "boolean"),
        (pd.Categorical([3, 1, 2]), "integer"),
        (pd.Categorical([0.5, 1.0, 0.5]), "number"),
        (["3", "1", "2"], "string"),
        (pd.array(["b", "a", "b"], dtype="string"), "string"),
        (pd.Categorical(["b", "a", "b"], categories=["b", "a"]), "string"),
        (pd.Categorical([1, "a", True]), "string"),
    ],
)
def test_labels_come_back_as_what_they_were(values: Any, kind: str) -> None:
    frame = pd.DataFrame({"label": values})
    conditions = Conditions.from_frame(frame)
    column = conditions.columns[0]
    assert isinstance(column, Categorical)
    assert column.kind == kind
    back = conditions.decode(conditions.encode(frame))["label"].tolist()
    expected = [str(v) for v in frame["label"]] if kind == "string" else frame["label"].tolist()
    assert back == expected
    assert [type(v) for v in back] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("categories", "asked", "code"),
    [
        ([True, False], True, 1),
        ([True, False], "True", 1),
        ([True, False], 1, 1),
        ([1, 2, 10], 10, 2),
        ([1, 2, 10], "10", 2),
        ([1, 2, 10], np.float64(10), 2),
        ([0.5, 1.0], 1, 1),
        (["0", "1"], 1, 1),
    ],
)
def test_a_label_may_be_asked_for_as_text_or_number(categories: list[Any], asked: Any, code: int) -> None:
    conditions = Conditions.from_frame(pd.DataFrame({"label": pd.Categorical(categories)}))
    assert conditions.encode({"label": [asked]}).item() == code


def test_categories_that_are_one_when_written_as_text() -> None:
    frame = pd.DataFrame({"label": pd.Categorical([1, "1", 2], categories=[1, "1", 2])})
    with pytest.raises(
        InputError, match=r"3 categories of condition 'label' are only 2 when written as text.*astype\(str\)"
    ):
        Conditions.from_frame(frame)


@pytest.mark.parametrize(
    "numbers", [[30.0, 31.5, 90.0], [1e-7, 2e-7, 5e-7], [1000.0, 1000.1, 1000.25], [0.0, 1e9, 3e9], [-0.3, 0.1, 0.7]]
)
def test_numbers_come_back_round(numbers: list[float]) -> None:
    frame = pd.DataFrame({"dose": numbers})
    conditions = Conditions.from_frame(frame)
    back = conditions.decode(conditions.encode(frame))["dose"]
    np.testing.assert_allclose(back, numbers, rtol=1e-9, atol=1e-12)


def test_no_dose_comes_back_as_minus_zero() -> None:
    frame = pd.DataFrame({"dose": [0.0, 1.0, 2.0, 4.0, 4.0, 2.0, 2.0]})
    conditions = Conditions.from_frame(frame)
    codes = conditions.encode(frame) - 1e-7
    assert not np.signbit(conditions.decode(codes)["dose"]).any()


def test_a_number_that_never_varies_stays_finite() -> None:
    conditions = Conditions.from_frame(pd.DataFrame({"dose": [2.0, 2.0]}))
    assert conditions.encode({"dose": [2.0, 3.0]}).flatten().tolist() == [0.0, 1.0]


def test_objects_that_are_numbers_are_numbers() -> None:
    assert as_column(pd.Series([1, 2.5, None], dtype=object), "x").dtype == np.float64
    assert as_column(pd.Series([1, 2, 3], dtype=object), "x").dtype == np.float64
    assert as_column(pd.Series(pd.array([1, None], dtype="Int64")), "x").dtype == np.float64


def test_json_holds_everything() -> None:
    frame = training_frame().assign(treated=[True, False] * 12, cluster=pd.Categorical([1, 2, 3] * 8), dose=np.pi)
    conditions = Conditions.from_frame(frame)
    assert Conditions.from_json(conditions.to_json()) == conditions
    assert Conditions.from_json(Conditions().to_json()) == Conditions()


def test_values_that_cannot_be_encoded(conditions: Conditions) -> None:
    good = {"cell_type": ["B"] * 3, "batch": ["one"] * 3, "age": [1.0] * 3}
    message = (
        r"Condition 'cell_type' has 2 unknown categories, in 3 of 3 cells \('NKT', 'T cell'\)\. Did you mean 'NK'.*"
        r"trained with 'T', 'B', 'NK': ask for those"
    )
    with pytest.raises(InputError, match=message):
        conditions.encode({**good, "cell_type": ["NKT", "T cell", "NKT"]})
    with pytest.raises(
        InputError, match=r"'age' is continuous, but 1 of 3 values are no numbers \('old'\)\. Give numbers.*40 \+- 20"
    ):
        conditions.encode({**good, "age": [1, "old", 2]})
    with pytest.raises(InputError, match=r"'age' is infinite in 1 of 3 cells\. Give finite numbers"):
        conditions.encode({**good, "age": [1, 2, np.inf]})
    with pytest.raises(
        InputError,
        match=r"no condition 'batch'\. Did you mean 'bath'\? It has .*; expected 'cell_type', 'batch', 'age'",
    ):
        conditions.encode({"cell_type": ["B"], "bath": ["one"], "age": [1.0]})
    with pytest.raises(InputError, match=r"conditions differ in length: \[2, 3\]"):
        conditions.encode({**good, "age": [1.0, 2.0]})


def test_dates_are_no_condition() -> None:
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=3)})
    with pytest.raises(InputError, match="Condition 'day' holds values of type datetime64"):
        Conditions.from_frame(frame)


# Tables that are asked for.


def combinations(frame: pd.DataFrame) -> Counter[tuple[Any, ...]]:
    return Counter(frame.itertuples(index=False, name=None))


@pytest.mark.parametrize("n_obs", [1, 7, 24, 100, 1001])
def test_nothing_asked_gives_every_combination_its_share(
    conditions: Conditions, training: torch.Tensor, n_obs: int
) -> None:
    table = conditions.table(None, n_obs, training, rng())
    assert table.shape == (n_obs, 3)
    assert table.dtype == torch.float32
    known, drawn = combinations(training_frame()), combinations(conditions.decode(table))
    assert set(drawn) <= set(known)
    for combination, count in known.items():
        share = n_obs * count / 24
        assert np.floor(share) <= drawn[combination] <= np.ceil(share)


def test_drawn_rows_are_shuffled_and_seeded(conditions: Conditions, training: torch.Tensor) -> None:
    first = conditions.table(None, 100, training, np.random.default_rng(1))
    assert torch.equal(first, conditions.table(None, 100, training, np.random.default_rng(1)))
    other = conditions.table(None, 100, training, np.random.default_rng(2))
    assert not torch.equal(first, other)
    runs = sum(1 for _ in itertools.groupby(first[:, 0].tolist()))
    assert runs > 30


def test_a_rare_combination_is_drawn_at_its_rate_when_it_is_too_rare_for_one_cell() -> None:
    frame = pd.DataFrame({"label": ["common"] * 99 + ["rare"]})
    conditions = Conditions.from_frame(frame)
    generator = rng()
    drawn = [conditions.table(None, 10, conditions.encode(frame), generator).sum().item() for _ in range(2000)]
    assert set(drawn) == {0.0, 1.0}
    assert np.mean(drawn) == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / 2000))


@pytest.mark.parametrize("value", ["B", np.str_("B")])
def test_one_value_for_all_cells(one: Conditions, one_training: torch.Tensor, value: Any) -> None:
    for request in ({"cell_type": value}, value):
        assert one.table(request, 5, one_training, rng()).flatten().tolist() == [1.0] * 5


@pytest.mark.parametrize("as_kind", [list, tuple, np.array, pd.Series, pd.Categorical, pd.Index])
def test_one_value_a_cell(one: Conditions, one_training: torch.Tensor, as_kind: Any) -> None:
    labels = ["NK", "T", "B", "T"]
    values = as_kind(labels)
    if as_kind is pd.Series:
        values.index = [9, 8, 7, 6]
    for request in (values, {"cell_type": values}, pd.DataFrame({"cell_type": values})):
        assert one.table(request, 4, one_training, rng()).flatten().tolist() == [2, 0, 1, 0]


def test_numbers_a_cell() -> None:
    frame = pd.DataFrame({"age": [20.0, 60.0]})
    conditions = Conditions.from_frame(frame)
    training = conditions.encode(frame)
    assert conditions.table(torch.tensor([40.0, 80.0]), 2, training, rng()).flatten().tolist() == [0.0, 2.0]
    assert conditions.table(40, 2, training, rng()).flatten().tolist() == [0.0, 0.0]


def test_conditions_not_named_come_from_cells_that_match(conditions: Conditions, training: torch.Tensor) -> None:
    frame = conditions.decode(conditions.table({"cell_type": "B"}, 10, training, rng()))
    assert combinations(frame) == {("B", "one", 20.0): 5, ("B", "one", 60.0): 5}
    asked = ["B", "NK"] * 5
    frame = conditions.decode(conditions.table({"cell_type": asked}, 10, training, rng()))
    assert frame["cell_type"].tolist() == asked
    assert frame["batch"].tolist() == ["one", "two"] * 5


def test_a_number_never_seen_still_matches_by_its_categories(conditions: Conditions, training: torch.Tensor) -> None:
    frame = conditions.decode(conditions.table({"cell_type": "B", "age": 33.5}, 6, training, rng()))
    assert combinations(frame) == {("B", "one", 33.5): 6}


def test_a_combination_never_seen_draws_the_rest_from_all(conditions: Conditions, training: torch.Tensor) -> None:
    frame = conditions.decode(conditions.table({"cell_type": "B", "batch": "two"}, 12, training, rng()))
    assert combinations(frame) == {("B", "two", 20.0): 6, ("B", "two", 60.0): 6}
    alone = pd.DataFrame({"cell_type": ["B", "T"], "batch": ["one", "two"], "age": [1.0, 2.0]})
    schema = Conditions.from_frame(alone)
    frame = schema.decode(schema.table({"cell_type": "B", "batch": "two"}, 4, schema.encode(alone), rng()))
    assert combinations(frame) == {("B", "two", 1.0): 2, ("B", "two", 2.0): 2}


def test_none_asks_for_no_condition(conditions: Conditions, training: torch.Tensor) -> None:
    table = conditions.table({"cell_type": None, "batch": "one"}, 6, training, rng())
    assert table[:, 0].isnan().all()
    assert not table[:, 1:].isnan().any()
    everything = conditions.table({"cell_type": None, "batch": None, "age": None}, 3, training, rng())
    assert everything.isnan().all()


def test_none_for_one_column_rules_out_no_cell(conditions: Conditions, training: torch.Tensor) -> None:
    frame = conditions.decode(conditions.table({"cell_type": None}, 24, training, rng()))
    assert combinations(frame[["batch", "age"]]) == combinations(training_frame()[["batch", "age"]])


def test_a_frame_with_all_conditions_is_taken_as_it_is(conditions: Conditions, training: torch.Tensor) -> None:
    frame = training_frame().sample(frac=1, random_state=0)
    assert torch.equal(
        conditions.table(frame[["age", "cell_type", "batch"]], 24, training, rng()), conditions.encode(frame)
    )


def test_a_flow_without_conditions() -> None:
    nothing = Conditions()
    training = torch.zeros((5, 0))
    for request in (None, {}, pd.DataFrame(index=range(3))):
        assert nothing.table(request, 3, training, rng()).shape == (3, 0)
    message = r"trained without conditions, so none can be asked for{}\. Leave condition=None, or train with"
    with pytest.raises(InputError, match=message.format(r" \('cell_type'\)")):
        nothing.table({"cell_type": "B"}, 3, training, rng())
    with pytest.raises(InputError, match=message.format("")):
        nothing.table(["B"] * 3, 3, training, rng())
    assert nothing.decode(torch.zeros((3, 0))).shape == (3, 0)
    assert nothing.encode(pd.DataFrame(index=range(4))).shape == (4, 0)


def test_requests_that_cannot_be(conditions: Conditions, training: torch.Tensor) -> None:
    def table(request: Any) -> None:
        conditions.table(request, 3, training, rng())

    message = (
        r"1 of 2 names asked for are no conditions of this flow \('cel_type'\)\. Did you mean 'cell_type'\?.*'age'"
    )
    with pytest.raises(InputError, match=message):
        table({"cel_type": "B", "age": 3})
    with pytest.raises(
        InputError, match=r"no conditions of this flow \('n_counts'\).*condition=\{'cell_type': \.\.\.\}"
    ):
        table(training_frame().head(3).assign(n_counts=1))
    with pytest.raises(
        InputError, match=r"'cell_type' has 2 values for n_obs=3 cells\. Give one value a cell \(n_obs=2\)"
    ):
        table({"cell_type": ["B", "T"]})
    with pytest.raises(InputError, match="'cell_type' has 24 values for n_obs=3 cells"):
        table(training_frame())
    with pytest.raises(
        InputError, match=r"'cell_type' has 1 unknown categories, in 1 of 1 cells \('NKT'\)\. Did you mean 'NK'"
    ):
        table({"cell_type": "NKT"})
    with pytest.raises(
        InputError, match=r"has 3 conditions \('cell_type', 'batch', 'age'\), and a list does not say which is meant"
    ):
        table(["B", "T", "NK"])
    with pytest.raises(
        InputError, match=r"'cell_type' has no value in 2 of 3 rows \(first: 1\)\..*condition=\{'cell_type': None\}"
    ):
        table({"cell_type": ["B", None, np.nan]})
    with pytest.raises(
        InputError, match=r"'age' has several values a cell\. Give one value a cell, a sequence of n_obs=3"
    ):
        table({"age": np.ones((3, 2))})
