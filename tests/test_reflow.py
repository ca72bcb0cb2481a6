"""Reflow: pairs that stay together make a flow straight, pairs that do not leave it as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

import scflow
from scflow.codecs import Calibration
from scflow.errors import InputError
from scflow.flow import Flow, Sampling, _fewer
from scflow.flow._fewer import Fewer, RealCells, coupled
from scflow.flow._trajectories import solved_back, teacher_of, trajectories
from scflow.matching import FlowMatching, Preconditioned, noises, paths, solvers
from scflow.matching.guidance import Guidance
from scflow.training import Run, fit_pairs
from scflow.training.batches import Coordinates
from scflow.training.pairs import Coupled

pytestmark = pytest.mark.usefixtures("small_flows")

REP = "X_mix"


def mixture(n: int, seed: int = 0) -> AnnData:
    """Two types in the plane, each of two far clusters: a flow from one normal law has to bend."""
    rng = np.random.default_rng(seed)
    kind, side = rng.integers(0, 2, n), rng.integers(0, 2, n)
    centre = np.stack([2.0 * side - 1, 2.0 * kind - 1], axis=1)
    cells = AnnData(
        obs=pd.DataFrame({"kind": pd.Categorical(np.where(kind == 1, "up", "down"))}, index=map(str, range(n)))
    )
    cells.obsm[REP] = (centre + 0.15 * rng.normal(size=(n, 2))).astype(np.float32)
    return cells


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return mixture(800)


@pytest.fixture(scope="module")
def bent(cells: AnnData, small_flows: None) -> Flow:
    return scflow.tl.train(cells.copy(), condition="kind", use_rep=REP, steps=400, progress=False)


@pytest.fixture(scope="module")
def counted(small_flows: None) -> tuple[AnnData, Flow]:
    adata = scflow.datasets.simulate(200, 30, 3, seed=1)
    return adata, scflow.tl.train(adata, condition="cell_type", steps=40, progress=False)


@pytest.fixture(scope="module")
def straight(bent: Flow) -> Flow:
    return scflow.tl.reflow(bent, n_pairs=1500, steps=300, progress=False)


def a_run(n: int = 0, seed: int = 0) -> Run:
    rows = torch.arange(n)
    return Run(rows[n // 10 :], rows[: n // 10], 128, seed, torch.device("cpu"), progress=False)


def how(n: int, guidance: float = 1.0, steps: int = 300) -> Fewer:
    return Fewer(n, Guidance(guidance), steps, 2e-3, ("euler", 4))


def straightness(flow: Flow, n: int = 400) -> float:
    """The squared distance of the velocity from the whole way's, averaged over the way: 0 where it is straight."""
    condition = flow.conditions.table(None, n, flow.seen, np.random.default_rng(9))
    rng, total, points = torch.Generator().manual_seed(9), 0.0, 20
    x = flow.noise.sample(n, flow.codec.dim, rng=rng)
    velocities, start = [], x
    for both in solvers.grid(points).unfold(0, 2, 1):
        velocities.append(flow.field(x, both[:1].expand(n), condition))
        x = solvers.Midpoint().integrate(lambda x, t: flow.field(x, t.expand(n), condition), x, both)
    for velocity in velocities:
        total += float((velocity - (start - x)).square().mean()) / points
    return total


# Pairs.


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_noise_cell_and_condition_stay_together(bent: Flow, guidance: float) -> None:
    """Each noise, followed alone under its own condition by another solver, gets to its own cell."""
    pairs = coupled(bent, how(300, guidance), None, 0.0, a_run())
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:40]
    x0, x1, c, _ = pairs.draw(rows, rng=torch.Generator())
    field = Guidance(guidance).around(bent.field, bent.conditions.names)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return field(x, t.expand(len(x)), c)

    found = solvers.Midpoint().integrate(velocity, x1, solvers.grid(200))
    torch.testing.assert_close(found, x0, atol=2e-2, rtol=0)
    swapped = solvers.Midpoint().integrate(velocity, x1.roll(1, 0), solvers.grid(50))
    assert (swapped - x0).abs().mean() > 0.1


def test_a_tenth_of_the_pairs_is_drawn_under_none(bent: Flow) -> None:
    c = coupled(bent, how(3000), None, 0.0, a_run()).condition
    assert c is not None
    assert float(c.isnan().float().mean()) == pytest.approx(0.1, abs=0.02)
    shares = [float((c == k).float().mean()) for k in (0, 1)]
    assert shares == pytest.approx([0.45, 0.45], abs=0.04)


def test_kept_pairs_are_not_drawn_anew() -> None:
    x0, x1, c = (
        torch.arange(6.0).view(3, 2),
        torch.arange(6.0).view(3, 2) * 10,
        torch.tensor([[0.0], [torch.nan], [2.0]]),
    )
    pairs, rows = Coupled(x0, x1, c), torch.tensor([2, 1])
    for pair in (pairs.draw(rows, rng=torch.Generator()), pairs.fixed(rows, rng=torch.Generator())):
        torch.testing.assert_close(pair.data * 10, pair.noise)
        torch.testing.assert_close(pair.condition, c[rows], equal_nan=True)


def test_real_cells_have_the_noise_that_leads_to_them(bent: Flow, cells: AnnData) -> None:
    real = RealCells(Coordinates(cells.obsm[REP], torch.device("cpu")), bent.conditions.encode(cells.obs))
    pairs = coupled(bent, how(400), real, 1.0, a_run())
    known = bent.codec.encode(torch.from_numpy(cells.obsm[REP]), None, rng=torch.Generator())
    c = pairs.condition

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return bent.field(x, t.expand(len(x)), c)

    there = solvers.RK4().integrate(velocity, pairs.noise, solvers.grid(64))
    torch.testing.assert_close(there, pairs.data, atol=1e-2, rtol=0)
    assert len(pairs.data) == 400
    assert (torch.cdist(pairs.data, known).min(1).values < 1e-3).all()


def test_half_of_the_pairs_can_be_real(bent: Flow, cells: AnnData) -> None:
    real = RealCells(Coordinates(cells.obsm[REP], torch.device("cpu")), bent.conditions.encode(cells.obs))
    mixed, drawn = coupled(bent, how(400), real, 0.5, a_run()), coupled(bent, how(200), None, 0.0, a_run())
    torch.testing.assert_close(mixed.data[:200], drawn.data)
    assert mixed.data.shape == mixed.noise.shape == (400, 2)
    assert mixed.condition is not None
    assert len(mixed.condition) == 400


@pytest.mark.parametrize("path", ["variance_preserving", "variance_preserving_linear"])
def test_pairs_are_the_same_along_any_path(path: str) -> None:
    """The teacher's own velocity, solved on its own path, leads to the cells that the linear path leads to."""
    flow = scflow.tl.train(mixture(300), use_rep=REP, path=path, steps=60, progress=False)
    teacher = teacher_of(flow, Guidance())
    ways = trajectories(flow, teacher, None, 200, a_run())
    noise = ways.states[:, 0]
    times = solvers.grid(100, start=flow.path.end)
    own = solvers.RK4().integrate(lambda x, t: flow.field(x, t.expand(len(x)), None), noise, times)
    torch.testing.assert_close(own, ways.states[:, -1], atol=0.02, rtol=0)
    back = solved_back(teacher, ways.states[:, -1], None, a_run())
    assert float((back - noise).abs().median()) < 0.02


# What it does.


def test_the_flow_becomes_straight_with_its_pairs_and_not_with_others(
    bent: Flow, straight: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = straightness(bent)
    assert straightness(straight) < 0.1 * before

    def shuffled(*arguments: Any) -> Coupled:
        pairs = coupled(*arguments)
        return Coupled(pairs.data, pairs.noise.roll(1, 0), pairs.condition)

    monkeypatch.setattr(_fewer, "coupled", shuffled)
    other = scflow.tl.reflow(bent, n_pairs=1500, steps=300, progress=False)
    assert straightness(other) > 0.5 * before


def test_one_step_of_euler_gets_near_the_cells(bent: Flow, straight: Flow) -> None:
    request = {"kind": "up"}
    truth = bent.draw(512, request, Sampling(solver=solvers.RK4(), steps=16, seed=3)).state
    for flow, least, most in ((bent, 0.5, 9.0), (straight, 0.0, 0.25)):
        found = flow.draw(512, request, Sampling(solver=solvers.Euler(), steps=1, seed=3)).state
        assert least < float(np.sqrt(((found - truth) ** 2).mean())) < most
    none = straight.draw(512, {"kind": None}, Sampling(solver=solvers.Euler(), steps=1, seed=3)).state
    assert 0.3 < (none[:, 1] > 0).mean() < 0.7, "under no condition both types are drawn"


def test_guidance_is_that_of_the_first_round(bent: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def noted(flow: Flow, fewer: Fewer, *rest: Any) -> Coupled:
        asked.append(fewer.guidance.scale)
        return coupled(flow, fewer, *rest)

    monkeypatch.setattr(_fewer, "coupled", noted)
    new = scflow.tl.reflow(bent, iterations=2, guidance=2.0, n_pairs=200, steps=10, progress=False)
    assert asked == [2.0, 1.0]
    assert new.provenance["made_with_guidance"] == 2.0
    assert "reflowed from 200 of its pairs, guidance 2.0, euler x 4" in repr(new)


def test_a_field_of_ones_own_and_a_path_of_ones_own(cells: AnnData) -> None:
    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))

        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            out: Tensor = self.layers(torch.cat([x, t[:, None]], dim=1))
            return out

    class Curved(paths.Path):
        def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> paths.PathSample:
            t = paths.like(t, x0)
            return paths.PathSample(x0 + t.square() * (x1 - x0), 2 * t * (x1 - x0))

    with pytest.warns(UserWarning, match="not kept"):
        flow = scflow.tl.train(cells.copy(), use_rep=REP, field=Mine(), path=Curved(), steps=50, progress=False)
    new = scflow.tl.reflow(flow, n_pairs=200, steps=20, progress=False)
    assert isinstance(new.field, Preconditioned)
    assert new.path == paths.Linear()
    assert np.isfinite(new.draw(10).state).all()


# Bookkeeping.


def test_it_is_a_flow_like_any_other(counted: tuple[AnnData, Flow], tmp_path: Path) -> None:
    _, flow = counted
    new = scflow.tl.reflow(flow, n_pairs=200, steps=15, draw_steps=3, progress=False)
    facts = {"made_by": "reflow", "pairs": 200, "real_pairs": 0, "reflow_iterations": 1, "steps_planned": 15}
    assert {name: new.provenance[name] for name in facts} == facts
    assert new.genes == flow.genes
    assert new.noise is flow.noise
    assert new.history["step"].iloc[-1] == new.provenance["steps"]
    new.save(tmp_path / "new.safetensors")
    loaded = Flow.load(tmp_path / "new.safetensors")
    a, b = (scflow.tl.generate(f, 40, progress=False) for f in (new, loaded))
    assert a.uns["scflow"]["provenance"]["evaluations"] == 3
    assert (a.layers["counts"] != b.layers["counts"]).nnz == 0
    np.testing.assert_array_equal(a.obsm["X_scflow"], b.obsm["X_scflow"])
    assert (
        scflow.tl.generate(new, 4, solver="midpoint", progress=False).uns["scflow"]["provenance"]["solver_steps"] == 12
    )
    assert new.weighted("raw").draw(5).counts is not None


def test_the_seed_decides_and_nothing_else_is_touched(counted: tuple[AnnData, Flow]) -> None:
    adata, flow = counted
    kept, cells = copy.deepcopy(flow.to_content()), adata.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    options: dict[str, Any] = {"n_pairs": 200, "steps": 10, "progress": False}
    one, two, other = (scflow.tl.reflow(adata, **options, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    contents = [f.to_content()["tensors"] for f in (one, two, other)]
    assert all(np.array_equal(contents[0][name], contents[1][name]) for name in contents[0] if "per_second" not in name)
    assert any(not np.array_equal(contents[0][n], contents[2][n]) for n in contents[0] if n.startswith("field"))
    for name, tensor in kept["tensors"].items():
        np.testing.assert_array_equal(tensor, flow.to_content()["tensors"][name])
    assert adata.uns["scflow"]["config"] == cells.uns["scflow"]["config"]
    assert (adata.X != cells.X).nnz == 0
    assert set(adata.uns) == set(cells.uns)
    assert set(adata.obsm) == set(cells.obsm)


def test_cells_that_carry_the_flow_are_mixed_in(counted: tuple[AnnData, Flow]) -> None:
    adata, flow = counted
    options: dict[str, Any] = {"n_pairs": 200, "steps": 5, "progress": False}
    assert scflow.tl.reflow(adata, **options).provenance["real_pairs"] == 50
    assert scflow.tl.reflow(adata, guidance=2.0, **options).provenance["real_pairs"] == 0
    shuffled = adata[:, ::-1].copy()
    turned = scflow.tl.reflow(flow, adata=shuffled, share=0.5, **options)
    straight = scflow.tl.reflow(flow, adata=adata, share=0.5, **options)
    assert turned.provenance["real_pairs"] == 100
    for name, tensor in straight.field.state_dict().items():
        torch.testing.assert_close(turned.field.state_dict()[name], tensor, msg="genes were not put in order")


def test_calibration_is_that_of_the_new_flow() -> None:
    """Refitted on the draw that it was fitted on, a calibration is the same; on another, it carries that one."""
    rng = np.random.default_rng(0)
    counts, drawn = (sparse.csr_matrix(rng.poisson(mean, (600, 8)).astype(np.float32)) for mean in (2.0, 5.0))
    groups, drawn_groups = rng.integers(0, 3, 600), rng.integers(0, 3, 600)
    fitted = Calibration.fit(drawn, drawn_groups, counts, groups)
    again = fitted.refitted(drawn, drawn_groups)
    for name, tensor in fitted.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)
    other = sparse.csr_matrix(rng.poisson(20.0, (600, 8)).astype(np.float32))
    carried = fitted.refitted(other, drawn_groups).carry(other, drawn_groups, rng=torch.Generator().manual_seed(0))
    assert carried.mean() == pytest.approx(counts.mean(), rel=0.03)
    few = fitted.refitted(other[:40], np.repeat([0, 1], [25, 15]))
    assert few.groups.tolist() == [0]
    assert few.data.start.shape == few.model.start.shape == (2 * 8 + 1,)


def test_the_new_flow_is_calibrated_for_its_own_steps(counted: tuple[AnnData, Flow]) -> None:
    adata, flow = counted
    new = scflow.tl.reflow(flow, n_pairs=400, steps=30, draw_steps=1, progress=False)
    assert flow.calibration is not None
    assert new.calibration is not None
    torch.testing.assert_close(new.calibration.data.value, flow.calibration.data.value)
    drawn = scflow.tl.generate(new, 2000, progress=False).layers["counts"].mean(0)
    stale = (
        scflow.tl.generate(replace(new, calibration=flow.calibration), 2000, progress=False).layers["counts"].mean(0)
    )
    truth = adata.X.mean(0)
    assert np.abs(drawn - truth).mean() < np.abs(stale - truth).mean()


def test_a_flow_without_calibration_has_none_afterwards(bent: Flow) -> None:
    assert scflow.tl.reflow(bent, n_pairs=200, steps=5, progress=False).calibration is None


def test_pairs_are_learnt_on_other_pairs_than_they_are_judged_by(bent: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Run] = []

    def noted(field: Any, pairs: Any, objective: FlowMatching, run: Run, **options: Any) -> Any:
        seen.append(run)
        return fit_pairs(field, pairs, objective, run, **options)

    monkeypatch.setattr(_fewer, "fit_pairs", noted)
    scflow.tl.reflow(bent, n_pairs=200, steps=5, progress=False)
    assert sorted(torch.cat([seen[0].train, seen[0].validation]).tolist()) == list(range(200))
    assert len(seen[0].validation) == 20


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0 must be a whole number of at least 1"),
        ({"n_pairs": 50}, "n_pairs=50 must be a whole number of at least 100"),
        ({"n_pairs": "many"}, "n_pairs='many' is not a whole number"),
        ({"time": "ushaped"}, "time='ushaped' is not known. Did you mean 'u_shaped'"),
        ({"share": 0.5}, r"share=0.5 needs the cells that the flow was trained on. Give them: .*adata=adata"),
        ({"steps": 0}, "steps=0 must be"),
        ({"lr": -1.0}, "lr=-1.0 must be a finite number above 0"),
        ({"draw_steps": 0}, "draw_steps=0 must be"),
        ({"guidance": -1.0}, "guidance=-1.0 must be a finite number of at least 0"),
        ({"seed": -1}, "seed=-1 must be"),
    ],
)
def test_options_that_do_not_fit(bent: Flow, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scflow.tl.reflow(bent, progress=False, **options)


def test_real_cells_that_do_not_fit(bent: Flow, cells: AnnData) -> None:
    options: dict[str, Any] = {"n_pairs": 100, "steps": 1, "progress": False}
    with pytest.raises(InputError, match=r"share=1.5 is the share of real cells"):
        scflow.tl.reflow(bent, adata=cells, share=1.5, **options)
    with pytest.raises(InputError, match=r"Real cells cannot be among the pairs: guidance=2.0 draws another law"):
        scflow.tl.reflow(bent, adata=cells, guidance=2.0, **options)
    masked = replace(bent, noise=noises.Sparse())
    with pytest.raises(InputError, match="a Sparse noise has no density"):
        scflow.tl.reflow(masked, adata=cells, **options)
    assert scflow.tl.reflow(masked, adata=cells, share=0, **options).provenance["real_pairs"] == 0
    with pytest.raises(InputError, match="has no column 'kind'"):
        scflow.tl.reflow(bent, adata=AnnData(obsm=dict(cells.obsm)), **options)


def test_what_carries_no_flow(cells: AnnData) -> None:
    with pytest.raises(InputError, match="has no flow 'scflow'"):
        scflow.tl.reflow(cells)
