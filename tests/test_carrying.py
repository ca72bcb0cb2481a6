"""Flows that carry one population of cells to another."""

from __future__ import annotations

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
from scflow.matching import Displaced, FlowMatching, couplings
from scflow.training.pairs import Sources

N = 500
# Two normal laws with covariances C0, C1; the optimal map is x -> mean + C0^-1/2 (C0^1/2 C1 C0^1/2)^1/2 C0^-1/2 x.
SOURCE_SD = np.array([1.0, 0.5])
TARGET = np.array([[1.3, 0.4], [0.4, 0.9]])
MEAN = np.array([3.0, -1.0])


def root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


def brenier() -> NDArray[np.float64]:
    half = np.diag(SOURCE_SD)
    inverse = np.diag(1 / SOURCE_SD)
    return np.asarray(inverse @ root(half @ TARGET @ half) @ inverse)


def gaussians(seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(N, 2)) * SOURCE_SD
    b = rng.multivariate_normal(MEAN, TARGET, size=N)
    obs = pd.DataFrame({"condition": ["ctrl"] * N + ["stim"] * N}, index=[f"c{i}" for i in range(2 * N)])
    return AnnData(obs=obs, obsm={"X_e": np.vstack([a, b]).astype(np.float32)})


def two_targets() -> AnnData:
    """Two groups that both drugs move: "up" by (0, 4), "right" by (4, 0); group b starts at (10, 0)."""
    rng = np.random.default_rng(1)
    rows, xs = [], []
    moves = {"ctrl": (0.0, 0.0), "up": (0.0, 4.0), "right": (4.0, 0.0)}
    for drug, move in moves.items():
        for group, start in (("a", 0.0), ("b", 10.0)):
            xs.append(rng.normal(size=(120, 2)) * 0.5 + [start, 0.0] + move)
            rows += [(drug, group)] * 120
    obs = pd.DataFrame(rows, columns=["drug", "group"], index=[f"c{i}" for i in range(len(rows))])
    return AnnData(obs=obs, obsm={"X_e": np.vstack(xs).astype(np.float32)})


TINY = {"use_rep": "X_e", "steps": 10, "progress": False}


@pytest.fixture(scope="module")
def normal() -> tuple[AnnData, scflow.flow.Flow]:
    adata = gaussians()
    options: dict[str, Any] = {"source": {"condition": "ctrl"}, "target": {"condition": "stim"}, "use_rep": "X_e"}
    return adata, scflow.tl.train(adata, **options, steps=600, progress=False)


@pytest.fixture(scope="module")
def drugs() -> tuple[AnnData, scflow.flow.Flow]:
    adata = two_targets()
    flow = scflow.tl.train(
        adata, source={"drug": "ctrl"}, group="group", use_rep="X_e", steps=500, progress=False, seed=1
    )
    return adata, flow


@pytest.fixture(scope="module")
def counted() -> tuple[AnnData, scflow.flow.Flow]:
    adata = scflow.datasets.simulate(500, 40, 2, n_batches=2, library_size=300, seed=4)
    flow = scflow.tl.train(adata, source={"batch": "batch_0"}, group="cell_type", steps=400, progress=False)
    return adata, flow


def cells(adata: AnnData, column: str, value: str) -> AnnData:
    return adata[adata.obs[column] == value].copy()


# ---- the law


def test_normal_to_normal_is_the_optimal_map(normal: tuple[AnnData, scflow.flow.Flow]) -> None:
    _, flow = normal
    new = gaussians(seed=5)
    carried = cells(new, "condition", "ctrl")
    scflow.tl.transport(carried, flow, progress=False)
    x = carried.obsm["X_e"].astype(np.float64)
    expected = MEAN + x @ brenier().T
    found = carried.obsm["X_scflow"]
    moved = np.sqrt(np.mean(np.sum((expected - x) ** 2, axis=1)))
    error = np.sqrt(np.mean(np.sum((found - expected) ** 2, axis=1)))
    assert error < 0.1 * moved
    np.testing.assert_allclose(found.mean(0), MEAN, atol=0.2)
    np.testing.assert_allclose(np.cov(found.T), TARGET, atol=0.25)
    np.testing.assert_allclose(carried.obsm["X_scflow_source"], x, atol=1e-5)


def test_independent_pairs_have_the_law_and_not_the_map(normal: tuple[AnnData, scflow.flow.Flow]) -> None:
    """What a pairing by distance is for: the same target, reached by other ways."""
    adata, flow = normal
    other = scflow.tl.train(
        adata.copy(), source={"condition": "ctrl"}, coupling="independent", use_rep="X_e", steps=600, progress=False
    )
    source = cells(adata, "condition", "ctrl")
    far = {}
    for name, one in (("optimal", flow), ("independent", other)):
        carried = scflow.tl.transport(source, one, progress=False, copy=True)
        assert carried is not None
        np.testing.assert_allclose(carried.obsm["X_scflow"].mean(0), MEAN, atol=0.25)
        far[name] = np.mean(np.sum((carried.obsm["X_scflow"] - source.obsm["X_e"] - MEAN) ** 2, axis=1))
    assert far["optimal"] < far["independent"]
    assert "X_scflow" not in source.obsm


def test_each_target_is_reached_within_its_group(drugs: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = drugs
    assert flow.conditions.names == ("drug",)
    control = cells(adata, "drug", "ctrl")
    for drug, move in (("up", (0, 4)), ("right", (4, 0))):
        carried = scflow.tl.transport(control, flow, target={"drug": drug}, progress=False, copy=True)
        assert carried is not None
        by_group = carried.obsm["X_scflow"] - carried.obsm["X_scflow_source"]
        for group in ("a", "b"):
            mine = (carried.obs["group"] == group).to_numpy()
            np.testing.assert_allclose(by_group[mine].mean(0), move, atol=0.4)
        assert carried.uns["scflow_transport"]["target"] == f"drug: '{drug}'"
    each = np.where(control.obs["group"] == "a", "up", "right")
    mixed = scflow.tl.transport(control, flow, target={"drug": each}, progress=False, copy=True)
    assert mixed is not None
    moved = mixed.obsm["X_scflow"] - mixed.obsm["X_scflow_source"]
    np.testing.assert_allclose(moved[each == "up"].mean(0), (0, 4), atol=0.4)
    np.testing.assert_allclose(moved[each == "right"].mean(0), (4, 0), atol=0.4)


def test_velocity_points_to_the_target(drugs: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = drugs
    control = cells(adata, "drug", "ctrl")
    scflow.tl.velocity(control, flow, target={"drug": "up"})
    np.testing.assert_allclose(control.obsm["velocity_scflow"].mean(0), (0, 4), atol=0.5)
    np.testing.assert_array_equal(control.obsm["velocity_e"], control.obsm["velocity_scflow"])
    np.testing.assert_allclose(control.obsm["X_scflow"], control.obsm["X_e"], atol=1e-5)
    ways = scflow.tl.trajectory(control, flow, target={"drug": "up"}, times=[0.0, 0.01], steps=200, progress=False)
    step = np.diff(ways.obsm["X_scflow"].reshape(2, -1, 2), axis=0)[0] / 0.01
    np.testing.assert_allclose(step, control.obsm["velocity_scflow"], atol=0.1)


def test_a_trajectory_begins_with_the_cell_and_ends_where_transport_does(
    normal: tuple[AnnData, scflow.flow.Flow],
) -> None:
    adata, flow = normal
    source = cells(adata, "condition", "ctrl")
    ways = scflow.tl.trajectory(source, flow, times=5, steps=48, progress=False)
    scflow.tl.transport(source, flow, steps=48, progress=False)
    states = ways.obsm["X_scflow"].reshape(5, source.n_obs, 2)
    np.testing.assert_allclose(states[0], source.obsm["X_e"], atol=1e-5)
    np.testing.assert_allclose(states[-1], source.obsm["X_scflow"], atol=1e-3)
    assert ways.obs["scflow_time"].unique().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert ways.obs["scflow_cell"].tolist() == list(source.obs_names) * 5
    later = scflow.tl.trajectory(source, flow, times=[0.5, 1.0], steps=48, progress=False)
    np.testing.assert_allclose(later.obsm["X_scflow"].reshape(2, -1, 2), states[[2, 4]], atol=1e-3)


# ---- counts


def test_counts_are_carried(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = counted
    source = cells(adata, "batch", "batch_0")
    before = source.copy()
    scflow.tl.transport(source, flow, progress=False)
    counts = source.layers["scflow"]
    assert sparse.issparse(counts)
    assert counts.dtype == np.int32
    assert counts.min() >= 0
    target = cells(adata, "batch", "batch_1")

    def profile(x: Any) -> NDArray[np.float64]:
        total = np.asarray(x.sum(0), dtype=np.float64).ravel()
        return np.asarray(np.log((total + 5) / total.sum()))

    near = np.abs(profile(counts) - profile(target.X)).mean()
    far = np.abs(profile(source.X) - profile(target.X)).mean()
    assert near < 0.55 * far
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(source, slot), getattr(before, slot))
    assert (source.X != before.X).nnz == 0
    assert set(source.obsm) - set(before.obsm) == {"X_scflow", "X_scflow_source"}
    ways = scflow.tl.trajectory(source, flow, times=2, progress=False)
    assert ways.shape == (2 * source.n_obs, adata.n_vars)
    assert (ways.layers["counts"][source.n_obs :] != counts).nnz == 0
    assert ways.X.max() < 10


def test_genes_go_by_name(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = counted
    source = cells(adata, "batch", "batch_0")
    shuffled = source[:, ::-1].copy()
    scflow.tl.transport(source, flow, progress=False)
    scflow.tl.transport(shuffled, flow, progress=False)
    assert (source.layers["scflow"] != shuffled[:, source.var_names].layers["scflow"]).nnz == 0
    fewer = source[:, 5:].copy()
    with pytest.raises(InputError, match="adata lacks 5 of 40 genes"):
        scflow.tl.transport(fewer, flow, progress=False)


def test_the_codec_knows_no_conditions(counted: tuple[AnnData, scflow.flow.Flow]) -> None:
    _, flow = counted
    assert flow.codec.settings()["cardinalities"] == []
    assert isinstance(flow.field, Displaced)
    assert flow.calibration is None


# ---- the value


def test_it_is_saved_and_loaded_and_gives_the_same_bits(
    drugs: tuple[AnnData, scflow.flow.Flow], tmp_path: Path
) -> None:
    adata, flow = drugs
    flow.save(tmp_path / "flow.safetensors")
    control = cells(adata, "drug", "ctrl")
    others = [flow, scflow.flow.Flow.load(tmp_path / "flow.safetensors"), None]
    found = [scflow.tl.transport(control, o, target={"drug": "up"}, progress=False, copy=True) for o in others]
    for one in found[1:]:
        np.testing.assert_array_equal(found[0].obsm["X_scflow"], one.obsm["X_scflow"])  # type: ignore[union-attr]


def test_it_draws_no_cells(drugs: tuple[AnnData, scflow.flow.Flow]) -> None:
    with pytest.raises(InputError, match=r"starts from cells.*scflow.tl.transport\(adata, flow\)"):
        scflow.tl.generate(drugs[1], 10, progress=False)


def test_random_state_is_local_and_results_do_not_depend_on_the_rest(
    counted: tuple[AnnData, scflow.flow.Flow],
) -> None:
    adata, flow = counted
    source = cells(adata, "batch", "batch_0")
    numpy_state, torch_state = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    a = scflow.tl.transport(source, flow, seed=3, progress=False, copy=True)
    b = scflow.tl.transport(source, flow, seed=3, progress=False, copy=True)
    c = scflow.tl.transport(source, flow, seed=4, progress=False, copy=True)
    assert a is not None and b is not None and c is not None  # noqa: PT018
    assert (a.layers["scflow"] != b.layers["scflow"]).nnz == 0
    assert (a.layers["scflow"] != c.layers["scflow"]).nnz > 0
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002
    assert torch.get_rng_state().equal(torch_state)


def test_cells_of_neither_population_are_not_learnt_from() -> None:
    adata = two_targets()
    options: dict[str, Any] = {"source": {"drug": "ctrl"}, "target": {"drug": "up"}, **TINY}
    a = scflow.tl.train(adata, **options)
    assert len(a.conditions) == 0
    assert a.provenance["n_cells"] == 480
    adata.obsm["X_e"][(adata.obs["drug"] == "right").to_numpy()] += 100
    b = scflow.tl.train(adata, **options)
    for name, weight in a.field.state_dict().items():
        assert weight.equal(b.field.state_dict()[name]), name


# ---- partners


def test_sources_are_of_the_group_and_evenly_drawn() -> None:
    rng = torch.Generator().manual_seed(0)
    group = torch.tensor([0, 1, 0, 1, 1, 2])
    rows = torch.tensor([10, 11, 12, 13, 14, 15])
    sources = Sources.of(rows, group, 3)
    asked = torch.tensor([1] * 6 + [0] * 4 + [2] * 3)
    drawn = sources.draw(asked, rng=rng)
    of = dict(zip(rows.tolist(), group.tolist(), strict=True))
    assert [of[r] for r in drawn.tolist()] == asked.tolist()
    assert sorted(drawn[:6].tolist()) == [11, 11, 13, 13, 14, 14]
    assert sorted(drawn[6:10].tolist()) == [10, 10, 12, 12]
    first = {tuple(sources.draw(torch.tensor([1, 1, 1]), rng=rng).tolist()) for _ in range(50)}
    assert len(first) == 6


def test_groups_of_what_is_told_and_what_is_not() -> None:
    told = torch.tensor([[0.0], [0.0], [torch.nan], [torch.nan]])
    group = torch.tensor([0, 1, 0, 0])
    codes = couplings.groups_of(told, group)
    assert codes is not None
    assert codes[2] == codes[3]
    assert len(codes.unique()) == 3
    alone = couplings.groups_of(None, group)
    assert alone is not None
    assert alone.tolist() == [0, 1, 0, 0]
    assert couplings.groups_of(None) is None


def crossing() -> AnnData:
    """Each group's targets lie on the other group's sources; the last coordinate alone is the group's own."""
    rng = np.random.default_rng(2)
    xs, rows = [], []
    for drug, at in (("ctrl", {"a": -5.0, "b": 5.0}), ("stim", {"a": 5.0, "b": -5.0})):
        for group, own in (("a", -1.0), ("b", 1.0)):
            xs.append(np.column_stack([rng.normal((at[group], 0.0), size=(60, 2)), np.full(60, own)]))
            rows += [(drug, group)] * 60
    obs = pd.DataFrame(rows, columns=["drug", "group"], index=[f"c{i}" for i in range(len(rows))])
    obs["dose"] = rng.permutation(len(rows)) / len(rows)
    return AnnData(obs=obs, obsm={"X_e": np.vstack(xs).astype(np.float32)})


EACH = (
    couplings.Independent(),
    couplings.Optimal(),
    couplings.Entropic(),
    couplings.Unbalanced(),
    couplings.Partial(),
    couplings.Optimal(penalty=0.0),
)


@pytest.mark.parametrize("coupling", EACH, ids=repr)
def test_no_coupling_pairs_across_groups_though_it_were_cheaper(
    coupling: couplings.Coupling, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    losses = FlowMatching.losses

    def noted(self: FlowMatching, field: Any, x0: torch.Tensor, x1: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((x0, x1))
        return losses(self, field, x0, x1, *rest)

    monkeypatch.setattr(FlowMatching, "losses", noted)
    options: dict[str, Any] = {"source": {"drug": "ctrl"}, "coupling": coupling, **TINY}
    if coupling.penalty is not None:
        options["condition"] = "dose"
    for group in ("group", None):
        scflow.tl.train(crossing(), **options, group=group)
        x0, x1 = (torch.cat(states) for states in zip(*seen, strict=True))
        across = (x0[:, 2].sign() != x1[:, 2].sign()).float().mean()
        assert (across == 0) if group else (across > 0.3)
        seen.clear()


@pytest.mark.parametrize("coupling", ["independent", "optimal", "entropic", "unbalanced", "partial"])
def test_simulated_cells_are_carried_by_every_coupling(coupling: str, recwarn: pytest.WarningsRecorder) -> None:
    adata = scflow.datasets.simulate(200, 20, 2, n_batches=2, seed=4)
    source = cells(adata, "batch", "batch_0")
    options: dict[str, Any] = {"source": {"batch": "batch_0"}, "group": "cell_type", "coupling": coupling}
    flow = scflow.tl.train(adata, **options, steps=20, progress=False)
    assert not [w for w in recwarn if "coupling" in str(w.message)]
    assert np.isfinite(flow.history["validation_loss"]).all()
    scflow.tl.transport(source, flow, progress=False)
    assert source.layers["scflow"].shape == source.shape


def test_the_cells_that_a_price_pairs_are_carried_by_numbers_too() -> None:
    """At no price cells of any dose are partners and the way is short; without one every cell has its own dose."""
    adata = gaussians()
    adata.obs["dose"] = np.linspace(0, 1, adata.n_obs)
    options: dict[str, Any] = {"source": {"condition": "ctrl"}, "condition": "dose", **TINY}
    losses = [
        scflow.tl.train(adata.copy(), **options, coupling=couplings.Optimal(penalty=penalty)).history["validation_loss"]
        for penalty in (0.0, None)
    ]
    assert losses[0].iloc[-1] < 0.5 * losses[1].iloc[-1]
    with pytest.raises(InputError, match=r"price on the difference of conditions that are numbers; none was given"):
        scflow.tl.train(adata, source={"condition": "ctrl"}, coupling=couplings.Optimal(penalty=1.0), **TINY)  # type: ignore[arg-type]


def test_cells_that_are_left_out_are_not_what_the_field_is_scaled_by() -> None:
    """A twentieth of the targets lies at 1,000; left out, no step is as long."""
    adata = gaussians()
    adata.obsm["X_e"][N::20] = 1000
    found = {}
    for coupling in ("optimal", "partial"):
        flow = scflow.tl.train(adata.copy(), source={"condition": "ctrl"}, coupling=coupling, **TINY)  # type: ignore[arg-type]
        source = cells(adata, "condition", "ctrl")
        scflow.tl.transport(source, flow, progress=False)
        found[coupling] = float(np.abs(source.obsm["X_scflow"] - source.obsm["X_e"]).mean())
    assert found["partial"] < 5
    assert found["optimal"] > 20


# ---- growth


def grown(n: int = 400) -> AnnData:
    """Two types about (-4, -4) and (4, 4), half and half; later moved by (1, -1), and then four fifths and a fifth."""
    rng = np.random.default_rng(3)
    xs, rows = [], []
    for day, move, share in (("d0", 0.0, 0.5), ("d1", 1.0, 0.8)):
        first = np.arange(n) < share * n
        xs.append(rng.normal((move, -move), 0.5, size=(n, 2)) + np.where(first, -4, 4)[:, None])
        rows += [(day, "low" if one else "high") for one in first]
    obs = pd.DataFrame(rows, columns=["day", "type"], index=[f"c{i}" for i in range(len(rows))])
    return AnnData(obs=obs, obsm={"X_e": np.vstack(xs).astype(np.float32)})


def test_unbalanced_masses_are_the_growth_and_each_type_is_carried_to_itself() -> None:
    """The known growth is 0.8 / 0.5 and 0.2 / 0.5. With equal masses 0.6 of the type that shrinks has to change."""
    adata = grown()
    before, after = (torch.from_numpy(cells(adata, "day", day).obsm["X_e"]) for day in ("d0", "d1"))
    source = cells(adata, "day", "d0")
    low = (source.obs["type"] == "low").to_numpy()
    growth = couplings.growth(before, after).numpy()
    assert growth[low].mean() == pytest.approx(1.6, rel=0.05)
    assert growth[~low].mean() == pytest.approx(0.4, rel=0.05)
    options: dict[str, Any] = {"source": {"day": "d0"}, "use_rep": "X_e", "steps": 400, "progress": False}
    moved = {}
    for coupling in ("unbalanced", "optimal"):
        flow = scflow.tl.train(adata.copy(), **options, coupling=coupling)
        scflow.tl.transport(source, flow, progress=False)
        moved[coupling] = source.obsm["X_scflow"] - source.obsm["X_e"]
    for mine in (low, ~low):
        np.testing.assert_allclose(moved["unbalanced"][mine].mean(0), (1, -1), atol=0.25)
    assert np.abs(moved["unbalanced"].sum(1)).max() < 4
    assert (moved["optimal"].sum(1) < -8)[~low].mean() > 0.4


def test_a_field_that_learnt_nothing_moves_all_cells_alike() -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            return torch.zeros_like(x)

    step = torch.tensor([1.0, -2.0])
    field = Displaced(Nothing(), torch.zeros(2), torch.ones(2), step, torch.ones(2))
    assert field(torch.randn(4, 2), torch.rand(4), None).equal(step.expand(4, 2))


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": {"drug": "up"}}, "says what cells are carried to, and source= says which"),
        ({"group": "group"}, "says what cells are carried to, and source= says which"),
        ({"source": "ctrl"}, r"source='ctrl' does not say which cells are meant. Give columns of obs"),
        ({"source": {}}, r"source={} does not say which cells are meant"),
        ({"source": {"drugs": "ctrl"}}, "no column 'drugs'.*drug"),
        ({"source": {"drug": "control"}}, r"No cell has 'control' in obs\['drug'\].*It has 'ctrl', 'up', 'right'"),
        ({"source": {"drug": "ctrl"}, "target": {"group": "a"}}, "120 cells are in both populations"),
        ({"source": {"drug": "ctrl"}, "target": {"dose": "a"}}, r"obs\['dose'\], which holds numbers. Give numbers"),
        ({"source": {"drug": "ctrl"}, "group": "drug"}, r"2 of 2 groups of 'drug' have target cells and no source"),
        ({"source": {"drug": "ctrl"}, "condition": "drug"}, "condition names 'drug'.*told apart by already"),
        ({"source": {"drug": "ctrl"}, "noise": "gaussian"}, "noise='gaussian' and source= exclude each other"),
        ({"source": {"drug": "ctrl"}, "watch": 5}, "watch=5 draws cells from noise"),
        ({"source": {"name": ["c0", "c1"]}}, "The source population has 2 cells"),
        ({"source": {"name": [f"c{i}" for i in range(19)]}}, "The source population has 19 cells.* at least 20"),
    ],
)
def test_training_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    adata = two_targets()
    adata.obs["dose"] = np.repeat([0.0, 1.0, 2.0], 240)
    adata.obs["name"] = adata.obs_names
    with pytest.raises(InputError, match=message):
        scflow.tl.train(adata, **{**TINY, **options})
    assert not adata.uns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"several values of 'drug' \('right', 'up'\). Say to which: target={'drug': 'right'}"),
        ({"target": {"drug": ["up"] * 239 + [None]}}, r"no value of 'drug' for 1 of 240 cells \(first: 'c\d+'\)"),
        ({"target": {"drug": "down"}}, "unknown categories.*'down'"),
        ({"target": {"group": "a"}}, "target names 'group'; this flow carries cells to values of 'drug'"),
        ({"target": {"drug": ["up", "right"]}}, "target has 2 values of 'drug' for 240 cells"),
        ({"target": {"drug": "up"}, "solver": "jump"}, "solver='jump' takes the steps of a flow map"),
        ({"target": {"drug": "up"}, "solver": "eule"}, "solver='eule' is not known. Did you mean 'euler'"),
        ({"target": {"drug": "up"}, "guidance": {"dose": 2.0}}, "dose"),
    ],
)
def test_transport_says_what_is_wrong(
    drugs: tuple[AnnData, scflow.flow.Flow], options: dict[str, Any], message: str
) -> None:
    adata, flow = drugs
    control = cells(adata, "drug", "ctrl")
    with pytest.raises(InputError, match=message):
        scflow.tl.transport(control, flow, progress=False, **options)
    assert "X_scflow" not in control.obsm


def test_cells_of_another_population_are_refused(drugs: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = drugs
    message = r"480 of 720 cells are not of the population.*adata\[adata.obs\['drug'\].isin\(\['ctrl'\]\)\].copy\(\)"
    with pytest.raises(InputError, match=message):
        scflow.tl.transport(adata, flow, target={"drug": "up"}, progress=False)
    unlabelled = AnnData(obs=pd.DataFrame(index=["x", "y"]), obsm={"X_e": np.zeros((2, 2), np.float32)})
    scflow.tl.transport(unlabelled, flow, target={"drug": "up"}, progress=False)
    assert unlabelled.obsm["X_scflow"].shape == (2, 2)


def test_a_run_does_not_go_on_with_other_groups_or_populations(tmp_path: Path) -> None:
    """Neither counts nor conditions tell them."""
    adata = two_targets()
    options = {**TINY, "source": {"drug": "ctrl"}, "target": {"drug": "up"}, "group": "group", "checkpoint": tmp_path}
    scflow.tl.train(adata, **options)
    scflow.tl.train(adata, **options, resume=True)
    other = adata.copy()
    other.obs["group"] = np.roll(other.obs["group"], 1)
    with pytest.raises(InputError, match="groups of the cells are other ones than those the run was started on"):
        scflow.tl.train(other, **options, resume=True)


def test_a_flow_from_noise_carries_nothing() -> None:
    adata = gaussians()
    flow = scflow.tl.train(adata, **TINY)  # type: ignore[arg-type]
    for verb in (scflow.tl.transport, scflow.tl.velocity, scflow.tl.trajectory):
        with pytest.raises(InputError, match="turns noise into cells and carries none"):
            verb(adata, flow)  # type: ignore[operator]


@pytest.mark.parametrize("times", [1, [], [0.5, 0.2], [0, 2.0], [-0.1, 1.0]])
def test_times_rise_from_source_to_target(normal: tuple[AnnData, scflow.flow.Flow], times: Any) -> None:
    adata, flow = normal
    with pytest.raises(InputError, match="times"):
        scflow.tl.trajectory(cells(adata, "condition", "ctrl"), flow, times=times, progress=False)
    with pytest.raises(InputError, match=re.escape("time=1.5 is after the target")):
        scflow.tl.velocity(cells(adata, "condition", "ctrl"), flow, time=1.5)
