"""Flows through the time points of a course."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.errors import InputError
from scflow.flow._ancestry import Ancestry, Stages
from scflow.flow._course import Course
from scflow.matching import plans
from scflow.tl._course import _into_numbers

DAYS = (0.0, 1.0, 4.0)
MEANS = {0.0: (0.0, 0.0), 1.0: (2.0, 0.0), 4.0: (2.0, 3.0)}
SD = 0.5
N = 200


def mean_at(day: float) -> NDArray[np.float64]:
    """Where the middle is: it moves by (2, 0) in a day, and then by (0, 1) a day."""
    return np.array([np.interp(day, DAYS, [MEANS[d][i] for d in DAYS]) for i in (0, 1)])


def moving(seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    x = np.vstack([rng.normal(size=(N, 2)) * SD + MEANS[d] for d in DAYS])
    obs = pd.DataFrame({"day": np.repeat(DAYS, N)}, index=[f"c{i}" for i in range(3 * N)])
    return AnnData(obs=obs, obsm={"X_e": x.astype(np.float32)})


def growing(n: int = 240) -> AnnData:
    """Two types about (-4, 0) and (4, 0), half and half; the first doubles beside the second, and both move up."""
    rng = np.random.default_rng(3)
    xs, rows = [], []
    for day, share in ((0.0, 1 / 2), (2.0, 2 / 3), (3.0, 2 / 3)):
        first = np.arange(n) < round(share * n)
        at = np.column_stack([np.where(first, -4, 4), np.full(n, day / 2)])
        xs.append(rng.normal(size=(n, 2)) * 0.3 + at)
        rows += [(day, "a" if one else "b") for one in first]
    obs = pd.DataFrame(rows, columns=["day", "type"], index=[f"c{i}" for i in range(len(rows))])
    return AnnData(obs=obs, obsm={"X_e": np.vstack(xs).astype(np.float32)})


def crossing(n: int = 60) -> AnnData:
    """Each donor's cells go to where the other's were; the last coordinate alone is the donor's own."""
    rng = np.random.default_rng(2)
    xs, rows = [], []
    for day, side in ((0.0, 3.0), (1.0, -3.0), (2.0, 3.0)):
        for donor, own in (("p", -1.0), ("q", 1.0)):
            xs.append(np.column_stack([rng.normal((own * side, 0.0), 0.3, size=(n, 2)), np.full(n, own)]))
            rows += [(day, donor)] * n
    obs = pd.DataFrame(rows, columns=["day", "donor"], index=[f"c{i}" for i in range(len(rows))])
    return AnnData(obs=obs, obsm={"X_e": np.vstack(xs).astype(np.float32)})


SMALL: dict[str, Any] = {"use_rep": "X_e", "progress": False, "lr": 3e-3, "batch_size": 128}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def field(dim: int, *, cardinalities: tuple[int, ...] = ()) -> torch.nn.Module:
    return scflow.nn.MLP(dim, cardinalities=cardinalities, width=64, depth=2)


TINY: dict[str, Any] = {"use_rep": "X_e", "steps": 10, "progress": False, "field": field}


@pytest.fixture(scope="module")
def balanced() -> tuple[AnnData, scflow.flow.Flow]:
    adata = moving()
    return adata, scflow.tl.train(adata, course="day", coupling="entropic", steps=400, field=field, **SMALL)


@pytest.fixture(scope="module")
def grown() -> tuple[AnnData, scflow.flow.Flow]:
    adata = growing()
    return adata, scflow.tl.train(adata, course="day", steps=300, field=field, validation=0.02, **SMALL)


@pytest.fixture(scope="module")
def counted() -> tuple[AnnData, scflow.flow.Flow]:
    adata = programme()
    return adata, scflow.tl.train(adata, course="day", steps=200, field=field, progress=False)


def programme(n: int = 300, genes: int = 40) -> AnnData:
    """A programme that rises from day to day: ever more of a quarter of the genes, ever less of another quarter."""
    rng = np.random.default_rng(5)
    base = rng.lognormal(0.0, 0.5, size=genes)
    turn = np.zeros(genes)
    turn[: genes // 4], turn[genes // 4 : genes // 2] = 1.0, -1.0
    days = np.repeat([0.0, 1.0, 3.0], n // 3)
    score = np.select([days == 0, days == 1], [0.0, 0.6], 1.2) + rng.normal(size=n) * 0.2
    rate = base * np.exp(score[:, None] * turn)
    sizes = rng.lognormal(np.log(400), 0.2, size=n)
    counts = rng.poisson(sizes[:, None] * rate / rate.sum(1, keepdims=True))
    obs = pd.DataFrame({"day": days}, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(genes)])
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var, uns={"turn": turn})


def at(adata: AnnData, day: float) -> AnnData:
    return adata[adata.obs["day"] == day].copy()


# ---- the plan


def test_the_semi_relaxed_plan_is_that_of_an_independent_solver() -> None:
    rng = torch.Generator().manual_seed(0)
    costs = torch.rand(12, 9, generator=rng, dtype=torch.float64)
    epsilon, reach = 0.1, 0.5
    u, v = plans.semi_relaxed(costs, epsilon, reach)
    plan = torch.exp(u[:, None] + v - costs / epsilon)
    plan = plan / plan.sum()
    torch.testing.assert_close(plan.sum(0), torch.full((9,), 1 / 9, dtype=torch.float64))

    def price(logits: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(logits, 0) / 9
        rows = p.sum(1)
        entropy = (p * (p * 12 * 9).log()).sum()
        return (p * costs).sum() + epsilon * entropy + reach * (rows * (rows * 12).log()).sum()

    logits = torch.zeros(12, 9, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = price(logits)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(plan, (torch.softmax(logits, 0) / 9).detach(), rtol=1e-3, atol=1e-6)
    even = plans.semi_relaxed(costs, epsilon, math.inf)
    balanced = torch.exp(even[0][:, None] + even[1] - costs / epsilon)
    torch.testing.assert_close(
        balanced.sum(1) / balanced.sum(), torch.full((12,), 1 / 12, dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_masses_of_new_cells_are_those_of_the_plan() -> None:
    """Of the very cells that it was made of, by its row sums."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(70, 2, generator=rng)
    x[30:, 0] += 1
    point = (torch.arange(70) >= 30).long()
    stages = Stages(point, torch.zeros(70, dtype=torch.int64), 2, 1, 0.05, 0.5)
    rows = (torch.arange(70), torch.arange(0))
    growth = Ancestry.of(lambda rows: x[rows], stages, rows, rng=rng).growth
    found = growth.log(x[:30], torch.zeros(30, dtype=torch.int64)).exp()
    left = x.double() - x.double().mean(0)
    values, vectors = torch.linalg.eigh(left.T @ left / 70)
    white = left @ vectors / values.sqrt()
    costs = torch.cdist(white[:30], white[30:]).square()
    u, v = plans.semi_relaxed(costs / costs.mean(), 0.05, 0.5)
    mass = torch.exp(u[:, None] + v - costs / costs.mean() / 0.05).sum(1)
    torch.testing.assert_close(found, mass / mass.mean(), rtol=1e-3, atol=0)
    assert found.std() > 0.1
    assert growth.log(x[:2], torch.tensor([-1, 5])).isnan().all()


def test_blocks_share_the_cells_and_stay_in_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow.flow._ancestry.MOST_CELLS", 20)
    rng = torch.Generator().manual_seed(0)
    n = 200
    point, group = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    x = torch.randn(n, 2, generator=rng)
    held = torch.arange(n) < 20
    rows = (torch.arange(n)[~held], torch.arange(n)[held])
    ancestors = Ancestry.of(lambda rows: x[rows], Stages(point, group, 2, 2, 0.5, 0.5), rows, rng=rng).ancestors.long()
    later = (point == 1).nonzero()[:, 0]
    assert (point[ancestors[later]] == 0).all()
    assert (group[ancestors[later]] == group[later, None]).all()
    assert not held[ancestors[later]].any()
    # As many blocks of 20 earlier cells as of later ones: none is left out for good.
    assert len(ancestors[later].unique()) > 0.9 * int(((point == 0) & ~held).sum())


def test_times_of_the_flow_are_linear_between_time_points() -> None:
    course = Course("day", DAYS)
    np.testing.assert_allclose(course.place(np.array([0, 0.5, 1, 2.5, 4])), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(course.pace(np.array([0, 1, 4.0])), [0.5, 1 / 6, 1 / 6])
    np.testing.assert_allclose(course.within(np.array([0, 0.5, 1, 4])), [0.975, 0.75, 0.475, 0.025])
    assert Course.of({"course": course.to_json()}) == course
    assert Course.of({}) is None


# ---- the law


@pytest.mark.parametrize("day", [0.5, 1.0, 2.5, 4.0])
def test_cells_are_carried_to_the_law_of_any_day(balanced: tuple[AnnData, scflow.flow.Flow], day: float) -> None:
    _, flow = balanced
    new = moving(seed=5)
    scflow.tl.transport(new, flow, to=day, progress=False)
    for own in DAYS:
        found = new.obsm["X_scflow"][new.obs["day"] == own]
        np.testing.assert_allclose(found.mean(0), mean_at(day), atol=0.15)
        np.testing.assert_allclose(np.cov(found.T), np.eye(2) * SD**2, atol=0.06)
    moved = new.obsm["X_scflow"] - new.obsm["X_scflow_source"]
    expected = mean_at(day) - np.array([mean_at(own) for own in new.obs["day"]])
    assert np.sqrt(np.mean((moved - expected) ** 2)) < 0.2  # each cell by itself, not the law alone
    back = (new.obs["day"] > day).to_numpy()
    np.testing.assert_array_equal(new.obs["scflow_growth"].isna(), back)
    np.testing.assert_allclose(new.obs["scflow_growth"][~back], 1)
    assert new.uns["scflow_transport"]["target"] == f"day: {day:g}"


def test_velocity_is_the_slope_in_real_time(balanced: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = balanced
    adata = adata.copy()
    scflow.tl.velocity(adata, flow)
    slopes = {0.0: (2, 0), 1.0: (0, 1), 4.0: (0, 1)}
    for day, slope in slopes.items():
        np.testing.assert_allclose(adata.obsm["velocity_scflow"][adata.obs["day"] == day].mean(0), slope, atol=0.15)
    np.testing.assert_array_equal(adata.obsm["velocity_e"], adata.obsm["velocity_scflow"])
    np.testing.assert_allclose(adata.obsm["X_scflow"], adata.obsm["X_e"], atol=1e-5)
    middle = scflow.tl.transport(adata, flow, to=2.5, progress=False, copy=True)
    assert middle is not None
    middle.obsm["X_e"], middle.obs["day"] = middle.obsm["X_scflow"], 2.5
    scflow.tl.velocity(middle, flow)
    own = middle.obsm["velocity_scflow"]
    np.testing.assert_allclose(own.mean(0), (0, 1), atol=0.1)
    scflow.tl.velocity(middle, flow, time=2.5)
    np.testing.assert_array_equal(own, middle.obsm["velocity_scflow"])
    ways = scflow.tl.trajectory(middle, flow, times=[2.5, 2.51], steps=400, progress=False)
    step = np.diff(ways.obsm["X_scflow"].reshape(2, -1, 2), axis=0)[0] / 0.01
    np.testing.assert_allclose(step, own, atol=0.05)


def test_a_trajectory_passes_through_the_cell_and_where_transport_ends(
    balanced: tuple[AnnData, scflow.flow.Flow],
) -> None:
    adata, flow = balanced
    cells = adata[::10].copy()
    before = cells.copy()
    times = [0.0, 0.5, 1.0, 2.5, 4.0]
    ways = scflow.tl.trajectory(cells, flow, times=times, progress=False)
    states = ways.obsm["X_scflow"].reshape(5, cells.n_obs, 2)
    assert ways.obs["scflow_time"].unique().tolist() == times
    assert ways.obs["scflow_cell"].tolist() == list(cells.obs_names) * 5
    for i, day in enumerate(times):
        mine = (cells.obs["day"] == day).to_numpy()
        np.testing.assert_allclose(states[i, mine], cells.obsm["X_e"][mine], atol=1e-5)
        carried = scflow.tl.transport(cells, flow, to=day, progress=False, copy=True)
        assert carried is not None
        np.testing.assert_allclose(states[i], carried.obsm["X_scflow"], atol=5e-3)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert set(cells.obsm) == set(before.obsm)
    even = scflow.tl.trajectory(cells, flow, times=3, progress=False)
    assert even.obs["scflow_time"].unique().tolist() == [0, 2, 4]


def test_there_and_back_again(balanced: tuple[AnnData, scflow.flow.Flow]) -> None:
    """Cells that are carried do not depend on those beside them, and going back is the inverse of going on."""
    adata, flow = balanced
    first = at(adata, 0.0)
    scflow.tl.transport(first, flow, to=3.0, progress=False)
    later = first.copy()
    later.obsm["X_e"], later.obs["day"] = first.obsm["X_scflow"], 3.0
    scflow.tl.transport(later, flow, to=0.0, progress=False)
    np.testing.assert_allclose(later.obsm["X_scflow"], first.obsm["X_e"], atol=0.02)


def test_cells_of_a_day_between_are_drawn(balanced: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = balanced
    new = scflow.tl.generate(flow, 500, at=2.5, adata=adata, progress=False)
    assert new.shape == (500, 0)
    np.testing.assert_allclose(new.obsm["X_scflow"].mean(0), mean_at(2.5), atol=0.15)
    np.testing.assert_allclose(np.cov(new.obsm["X_scflow"].T), np.eye(2) * SD**2, atol=0.06)
    assert (new.obs["day"] == 2.5).all()
    ancestors = adata[new.obs["scflow_cell"]]
    assert (ancestors.obs["day"] == 1).all()
    np.testing.assert_allclose(new.obsm["X_scflow_source"], ancestors.obsm["X_e"], atol=1e-5)
    counts = new.obs["scflow_cell"].value_counts()
    assert (len(counts), counts.min(), counts.max()) == (N, 2, 3)  # 500 of 200: each twice or thrice
    # A day with cells of its own comes from those before, or it would be a copy of them.
    assert (adata[scflow.tl.generate(adata, 50, at=4, progress=False).obs["scflow_cell"]].obs["day"] == 1).all()
    again = scflow.tl.generate(flow, 500, at=2.5, adata=adata, progress=False)
    np.testing.assert_array_equal(new.obsm["X_scflow"], again.obsm["X_scflow"])
    assert new.uns["scflow"]["provenance"]["at"] == 2.5


# ---- growth


def test_a_type_that_doubles_has_twice_the_descendants_and_none_becomes_the_other(
    grown: tuple[AnnData, scflow.flow.Flow],
) -> None:
    adata, flow = grown
    first, a = at(adata, 0.0), (at(adata, 0.0).obs["type"] == "a").to_numpy()
    scflow.tl.growth(first, flow)
    growth = first.obs["scflow_growth"].to_numpy()
    assert growth[a].mean() / growth[~a].mean() == pytest.approx(2, rel=0.05)
    assert growth.mean() == pytest.approx(1, rel=0.03)
    second = scflow.tl.growth(at(adata, 2.0), flow, copy=True)
    assert second is not None
    np.testing.assert_allclose(second.obs.groupby("type")["scflow_growth"].mean(), 1, rtol=0.05)
    last = scflow.tl.growth(at(adata, 3.0), flow, copy=True)
    assert last is not None
    assert last.obs["scflow_growth"].isna().all()
    for day in (2.0, 3.0):
        scflow.tl.transport(first, flow, to=day, progress=False)
        np.testing.assert_array_equal(first.obsm["X_scflow"][:, 0] < 0, a)
        mass = first.obs["scflow_growth"].to_numpy()
        # Each as often as it has descendants: what the plan takes for growth is not movement of the others.
        assert np.average(first.obsm["X_scflow"][:, 1], weights=mass) == pytest.approx(day / 2, abs=0.1)
        assert mass[a].mean() / mass[~a].mean() == pytest.approx(2, rel=0.1)
    scflow.tl.transport(first, flow, to=1.0, progress=False)  # halfway they count in full, as the field was trained
    np.testing.assert_allclose(first.obs["scflow_growth"], growth)
    new = scflow.tl.generate(flow, 600, at=2.0, adata=adata, progress=False)
    assert (new.obsm["X_scflow"][:, 0] < 0).mean() == pytest.approx(2 / 3, abs=0.02)


def test_balanced_plans_have_to_carry_a_type_over() -> None:
    """What the growth is for: with equal masses a sixth of all cells has to become the other type."""
    adata = growing()
    flow = scflow.tl.train(adata, course="day", coupling="entropic", steps=300, field=field, **SMALL)
    first = at(adata, 0.0)
    scflow.tl.transport(first, flow, to=2.0, progress=False)
    became = (first.obsm["X_scflow"][:, 0] < 0) != (first.obs["type"] == "a").to_numpy()
    assert 0.05 < became.mean() < 0.3


def test_groups_never_cross() -> None:
    adata = crossing()
    apart, together = (
        scflow.tl.train(adata.copy(), course="day", group=group, steps=400, field=field, **SMALL)
        for group in ("donor", None)
    )
    first = at(adata, 0.0)
    own = np.where(first.obs["donor"] == "p", -1, 1)
    scflow.tl.transport(first, apart, to=1.0, progress=False)
    np.testing.assert_array_equal(np.sign(first.obsm["X_scflow"][:, 0]), -own)
    scflow.tl.transport(first, apart, to=2.0, progress=False)
    np.testing.assert_array_equal(np.sign(first.obsm["X_scflow"][:, 0]), own)
    scflow.tl.transport(first, together, to=1.0, progress=False)
    assert (np.sign(first.obsm["X_scflow"][:, 0]) == own).mean() > 0.3
    new = scflow.tl.generate(apart, 40, at=0.5, adata=adata, progress=False)
    assert list(new.obs.columns) == ["day", "donor", "scflow_cell"]
    other = first.copy()
    other.obs["donor"] = "r"
    scflow.tl.growth(other, apart)
    assert other.obs["scflow_growth"].isna().all()
    with pytest.raises(InputError, match=r"120 of 120 cells are of groups of 'donor' .* It knows 'p', 'q'"):
        scflow.tl.generate(apart, 10, at=0.5, adata=other)
    del other.obs["donor"]
    with pytest.raises(InputError, match="no column 'donor'"):
        scflow.tl.transport(other, apart, to=1.0)


# ---- counts


def test_counts_follow_the_programme(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = counted
    first, last = at(adata, 0.0), at(adata, 3.0)
    scflow.tl.transport(first, flow, to=3.0, progress=False)
    counts = first.layers["scflow"]
    assert sparse.issparse(counts)
    assert counts.dtype == np.int32
    assert counts.min() >= 0
    turn = adata.uns["turn"]

    def score(x: Any) -> float:
        total = np.asarray(x.sum(0), dtype=np.float64).ravel()
        return float(np.log(total[turn > 0].sum() / total[turn < 0].sum()))

    moved, wanted = score(counts) - score(first.X), score(last.X) - score(first.X)
    assert 0.6 * wanted < moved < 1.3 * wanted
    sizes = np.asarray(counts.sum(1)).ravel()
    assert 300 < np.median(sizes) < 530
    kept = np.corrcoef(np.log(sizes), np.log(np.asarray(first.X.sum(1)).ravel()))[0, 1]
    assert kept > 0.5
    new = scflow.tl.generate(adata, 60, at=2.0, progress=False)
    assert new.shape == (60, 40)
    assert score(first.X) < score(new.layers["counts"]) < score(last.X)
    ways = scflow.tl.trajectory(first, flow, times=[0.0, 3.0], progress=False)
    assert (ways.layers["counts"][: first.n_obs] != first.X).nnz == 0
    assert (ways.layers["counts"][first.n_obs :] != counts).nnz == 0


def test_growth_over_two_intervals_is_of_what_cells_are_carried_to(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    """Draws of codes are like no later cell's mean code, and by them hardly anything would have descendants."""
    adata, flow = counted
    first = at(adata, float(adata.obs["day"].min()))
    scflow.tl.transport(first, flow, to=float(adata.obs["day"].max()), progress=False)
    growth = first.obs["scflow_growth"].to_numpy()
    assert growth.mean() == pytest.approx(1.0, abs=0.3)
    assert growth.sum() ** 2 / np.square(growth).sum() > 0.6 * len(growth)  # as many cells share in what comes


# ---- the value


def test_it_is_saved_and_loaded_and_gives_the_same_bits(
    grown: tuple[AnnData, scflow.flow.Flow], tmp_path: Path
) -> None:
    adata, flow = grown
    flow.save(tmp_path / "flow.safetensors")
    loaded = scflow.flow.Flow.load(tmp_path / "flow.safetensors")
    assert loaded.course == flow.course
    carried = [scflow.tl.transport(adata, one, to=2.5, progress=False, copy=True) for one in (flow, loaded, None)]
    for one in carried[1:]:
        np.testing.assert_array_equal(carried[0].obsm["X_scflow"], one.obsm["X_scflow"])  # type: ignore[union-attr]
        pd.testing.assert_frame_equal(carried[0].obs, one.obs)  # type: ignore[union-attr]
    raw = loaded.weighted("raw")
    assert all(raw.field.state_dict()[name].equal(weight) for name, weight in (flow.raw or {}).items())
    assert flow.raw


def test_the_same_seed_gives_the_same_flow_and_no_global_numbers_are_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (scflow.tl.train(crossing(), course="day", group="donor", **TINY) for _ in range(2))
    assert torch.get_rng_state().equal(before)
    for name, weight in one.field.state_dict().items():
        assert weight.equal(two.field.state_dict()[name]), name


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    options = {**TINY, "course": "day", "steps": 40, "checkpoint": tmp_path / "run"}
    whole = scflow.tl.train(crossing(), **{**options, "checkpoint": None})
    scflow.tl.train(crossing(), **options)
    again = scflow.tl.train(crossing(), **options, resume=True)
    other = crossing()
    other.obs["day"] = other.obs["day"].to_numpy()[::-1]
    with pytest.raises(InputError, match="time points of the cells are other ones than those the run was started on"):
        scflow.tl.train(other, **options, resume=True)
    for name, weight in whole.field.state_dict().items():
        assert weight.equal(again.field.state_dict()[name]), name


def test_labels_of_days_are_made_numbers_as_is_said() -> None:
    labels = pd.Series(["E10.5", "E11", "day 3", "7d"])
    said = _into_numbers(labels)
    assert eval(f"labels{said}", {"labels": labels}).tolist() == [10.5, 11.0, 3.0, 7.0]


def test_states_of_two_verbs_do_not_mix(balanced: tuple[AnnData, scflow.flow.Flow]) -> None:
    """Both write where cells are: a velocity is of the states beside it, and so is where cells came from."""
    cells, flow = at(balanced[0], 0.0), balanced[1]
    scflow.tl.velocity(cells, flow)
    scflow.tl.transport(cells, flow, to=4, progress=False)
    with pytest.raises(InputError, match=r"no 'velocity_scflow': no flow was asked"):
        scflow.pl.velocity(cells, basis="scflow")
    scflow.tl.velocity(cells, flow)
    with pytest.raises(InputError, match=r"no 'X_scflow_source': no flow carried these cells"):
        scflow.pl.transport(cells)


def test_pictures_take_what_the_verbs_write(grown: tuple[AnnData, scflow.flow.Flow]) -> None:
    import matplotlib.pyplot as plt

    adata, flow = grown
    adata = adata.copy()
    ways = scflow.tl.trajectory(adata[::20].copy(), flow, times=4, progress=False)
    scflow.pl.trajectory(ways, background=adata)
    scflow.tl.velocity(adata, flow)
    scflow.pl.velocity(adata, basis="scflow")
    first = at(adata, 0.0)
    scflow.tl.transport(first, flow, to=3.0, progress=False)
    axes = scflow.pl.transport(first, at(adata, 3.0))
    assert [ax.get_title().partition("\n")[0] for ax in axes] == ["before: day: 0", "after: day: 3", "real: day: 3"]
    plt.close("all")


def test_the_shell_trains_carries_and_draws(tmp_path: Path) -> None:
    from anndata import read_h5ad

    from scflow.__main__ import main

    moving().write_h5ad(tmp_path / "cells.h5ad")
    flow, cells = str(tmp_path / "flow.safetensors"), str(tmp_path / "cells.h5ad")
    short = ["--use-rep", "X_e", "--steps", "5", "--no-progress"]
    assert main(["train", cells, "--out", flow, "--course", "day", *short]) == 0
    assert scflow.flow.Flow.load(flow).course == Course("day", DAYS, (), ("all",))
    there, new = str(tmp_path / "carried.h5ad"), str(tmp_path / "new.h5ad")
    assert main(["transport", cells, "--flow", flow, "--to", "2.5", "--out", there, "--no-progress"]) == 0
    assert read_h5ad(there).uns["scflow_transport"]["target"] == "day: 2.5"
    drawn = ["generate", flow, "--n-obs", "7", "--at", "2.5", "--adata", cells, "--out", new, "--no-progress"]
    assert main(drawn) == 0
    assert read_h5ad(new).obs["day"].tolist() == [2.5] * 7


# ---- errors


def changed(**obs: Any) -> AnnData:
    adata = moving()
    for column, values in obs.items():
        adata.obs[column] = values
    return adata


DAY = np.repeat(DAYS, N)
WRONG = [
    ({"day": 1.0}, {}, r"obs\['day'\] has one time only \(1\) for all 600 cells"),
    ({"day": np.where(np.arange(600) == 7, np.nan, DAY)}, {}, r"no value for 1 of 600 cells \(first: 'c7'\)"),
    ({"day": np.where(np.arange(600) == 7, np.inf, DAY)}, {}, r"infinite for 1 of 600 cells \(first: 'c7'\)"),
    ({"day": [f"day {d:g}" for d in DAY]}, {}, r"such as 'day 0', and not numbers.*str\.extract\(.*astype\(float\)"),
    ({"day": [f"{d:g}" for d in DAY]}, {}, r"such as '0', and not numbers.* = adata\.obs\['day'\]\.astype\(float\)\."),
    ({"day": np.where(DAY == 0, "early", "late")}, {}, r"\.map\(\{'early': 0\.0, 'late': 1\.0\}\)"),
    ({"day": np.where(np.arange(600) == 7, 3.0, DAY)}, {}, r"1 of 4 time points .* fewer than 2 cells \('3: 1 cell'\)"),
    ({}, {"course": "dya"}, r"no column 'dya'. Did you mean 'day'"),
    ({}, {"source": {"day": 0.0}}, r"source=.* and course= exclude each other"),
    ({}, {"target": {"day": 0.0}}, r"target=.* and course= exclude each other"),
    ({"a": DAY}, {"condition": "a"}, r"condition='a' and course= exclude each other.*group="),
    ({}, {"noise": "gaussian"}, r"noise='gaussian' and course= exclude each other"),
    ({}, {"path": "variance_preserving"}, r"path='variance_preserving' and course= exclude each other"),
    ({}, {"coupling": "optimal"}, r"coupling='optimal' pairs batches of equal size"),
    ({}, {"watch": 1}, r"with course= there is none"),
    ({}, {"group": "day"}, r"group names 'day'"),
    ({}, {"validation": "groups"}, r"validation='groups' and course= exclude each other"),
    ({}, {"batch_size": 500}, r"batch_size=500 is more than the 400 cells after the first time point"),
    ({"g": np.where(DAY == 1, "x", "y")}, {"group": "g"}, r"2 times cells of a group of 'g' .*'x at 1: 200 cells'"),
]


@pytest.mark.parametrize(("obs", "options", "message"), WRONG, ids=[w[2][:30] for w in WRONG])
def test_what_no_course_can_be_learnt_from(obs: dict[str, Any], options: dict[str, Any], message: str) -> None:
    adata = changed(**obs)
    with pytest.raises(InputError, match=message):
        scflow.tl.train(adata, **{"course": "day", **TINY, **options})
    assert not adata.uns


def test_a_group_that_ends_is_warned_of_and_has_no_descendants() -> None:
    adata = changed(g=np.where((DAY == 0) & (np.arange(600) % 4 == 0), "gone", "there"))
    with pytest.warns(UserWarning, match=r"Groups of 'g' end before the course does \('gone after 0'\)"):
        flow = scflow.tl.train(adata, course="day", group="g", **TINY)
    scflow.tl.growth(adata, flow)
    first = at(adata, 0.0)
    np.testing.assert_array_equal(first.obs["scflow_growth"].isna(), first.obs["g"] == "gone")
    # They were 50 of 200, and all of the later cells come from the other 150.
    assert first.obs["scflow_growth"].mean() == pytest.approx(4 / 3, rel=0.05)
    new = scflow.tl.generate(flow, 300, at=0.5, adata=adata, progress=False)
    assert set(new.obs["g"]) == {"there"}
    with pytest.raises(InputError, match=r"cells that scflow.tl.generate drew.*scflow.pl.umap\(real, generated\)"):
        scflow.pl.transport(new, adata)


def test_days_that_cannot_be_asked_for(balanced: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = balanced
    late = adata.copy()
    late.obs.loc["c3", "day"] = 9.0
    tl = scflow.tl
    for call, message in (
        (lambda: tl.transport(adata, flow), r"through the times of obs\['day'\], 0 to 4.* to=4"),
        (lambda: tl.transport(adata, flow, to=5), r"to=5 is outside of the course, .* = 0 to 4"),
        (lambda: tl.transport(adata, flow, to="soon"), r"to='soon' is not a number"),  # type: ignore[arg-type]
        (lambda: tl.transport(adata, flow, to=math.nan), r"to=nan is outside"),
        (lambda: tl.transport(adata, flow, target={"day": 4.0}), r"target=.* is none. Say to when"),
        (lambda: tl.transport(late, flow, to=4), r"1 of 600 cells have times outside .*'c3', 9"),
        (lambda: tl.trajectory(adata, flow, times=[1, 0]), r"must rise within 0 and 4"),
        (lambda: tl.trajectory(adata, flow, times=[0, 4.5]), r"times=4.5 is outside"),
        (lambda: tl.velocity(adata, flow, time=-1), r"time=-1 is outside"),
        (lambda: tl.generate(flow, 5), r"Say to when"),
        (lambda: tl.generate(flow, 5, at=2), r"the flow does not hold them.*adata=adata"),
        (lambda: tl.generate(adata, 5, at=0), r"no cells before day 0"),
        (
            lambda: tl.generate(adata, 5, at=2, condition={"a": 1}),
            r"condition=.* is for cells that are drawn from noise",
        ),
        (lambda: tl.encode(adata, flow), r"cells have no code under it.*without course="),
        (lambda: tl.log_prob(adata, flow), r"density is not known.*without source= and course="),
        (lambda: tl.interpolate(flow, at(adata, 0.0), at(adata, 4.0)), r"through the times of obs\['day'\]"),
        (lambda: tl.reflow(flow), r"reflow works on pairs of noise"),
        (lambda: tl.distill(flow), r"distill works on pairs of noise"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert set(adata.obsm) == {"X_e"}


def test_days_are_not_asked_of_other_flows() -> None:
    adata = scflow.datasets.simulate(60, 20, 2, seed=4)
    flow = scflow.tl.train(adata, source={"batch": "batch_0"}, space="pca", steps=5, progress=False)
    for call in (
        lambda: scflow.tl.transport(at_source(adata), flow, to=1.0),
        lambda: scflow.tl.generate(flow, 5, at=1.0),
        lambda: scflow.tl.growth(adata, flow),
    ):
        with pytest.raises(InputError, match=re.escape("scflow.tl.train(adata, course='day')")):
            call()


def at_source(adata: AnnData) -> AnnData:
    return adata[adata.obs["batch"] == "batch_0"].copy()
