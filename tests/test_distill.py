"""Flow maps: against closed forms, against the teacher's own fine integration, and as flows like any other."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from torch import Tensor, nn

import scflow
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.flow._fewer import Fewer, _fit_map, _pieces
from scflow.flow._trajectories import Teacher, Trajectories
from scflow.matching import FlowMap, Preconditioned, noises, paths, solvers
from scflow.matching.distillation import Distillation, Lagrangian, Piece, Trajectory
from scflow.matching.guidance import Guidance
from scflow.matching.names import DISTILLATIONS
from scflow.training import Run

pytestmark = pytest.mark.usefixtures("small_flows")

STEPS = {Trajectory: 400, Lagrangian: 150}
"""A step of the latter takes as long as several of the former."""
METHODS = pytest.mark.parametrize("method", [kind() for kind in DISTILLATIONS.values()], ids=list(DISTILLATIONS))
SD0, SD1 = torch.tensor([0.3, 2.0]), torch.tensor([1.0, 0.5])
MEAN = torch.tensor([1.5, -0.5])


class Silent(nn.Module):
    """A network that says nothing."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def sd(t: Tensor) -> Tensor:
    """The standard deviation at time t, ``[n, 2]``."""
    return ((1 - t)[:, None].square() * SD0**2 + t[:, None].square() * SD1**2).sqrt()


def exact(x: Tensor, t: Tensor, s: Tensor, mean: Tensor) -> Tensor:
    """The map of the linear flow between normal laws: the increasing map between the marginals."""
    return (1 - s)[:, None] * mean + (x - (1 - t)[:, None] * mean) * sd(s) / sd(t)


def velocity(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
    """Its velocity, ``E[x1 - x0 | x_t = x]``."""
    centred, t = x - (1 - t)[:, None] * mean, t[:, None]
    return -mean + (t * SD1**2 - (1 - t) * SD0**2) / ((1 - t) ** 2 * SD0**2 + t**2 * SD1**2) * centred


def points(n: int, mean: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States at times, and earlier times to go to."""
    rng = torch.Generator().manual_seed(seed)
    t = torch.rand(n, generator=rng)
    x = (1 - t)[:, None] * mean + sd(t) * torch.randn(n, 2, generator=rng)
    return x, t, t * torch.rand(n, generator=rng)


# Closed forms.


def test_the_preconditioning_is_the_map_between_normal_laws() -> None:
    flow_map, zero = FlowMap(Silent(), SD0**2, SD1**2), torch.zeros(2)
    x, t, s = points(200, zero)
    torch.testing.assert_close(flow_map.between(x, t, s, None), exact(x, t, s, zero), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(flow_map.between(x, t, torch.ones(200), None), exact(x, t, torch.ones(200), zero))


def test_on_the_diagonal_it_is_the_field() -> None:
    torch.manual_seed(0)
    network = scflow.nn.MLP(2)
    nn.init.normal_(network.last.weight)
    field = Preconditioned(network, paths.Linear(), SD0, SD1)
    x, t, s = points(50, torch.zeros(2))
    two = copy.deepcopy(network)
    two.take_two_times()
    flow_map = FlowMap(two, SD0**2, SD1**2)
    torch.testing.assert_close(flow_map(x, t, None), field(x, t, None))
    assert not torch.equal(flow_map(x, torch.stack([t, s], 1), None), field(x, t, None)), "the mean is another"


@METHODS
def test_the_loss_is_zero_for_the_map_and_only_for_it(method: Distillation) -> None:
    zero = torch.zeros(2)
    x, t, s = points(300, zero)
    piece = Piece(x, t, exact(x, t, s, zero), s, None)
    right, wrong = FlowMap(Silent(), SD0**2, SD1**2), FlowMap(Silent(), SD0**2 * 1.5, SD1**2)
    rng = torch.Generator().manual_seed(0)

    def teacher(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        return velocity(x, t, zero)

    losses = [method.losses(m, teacher, piece, rng=rng) for m in (right, wrong)]
    assert losses[0].shape == (300,)
    assert float(losses[0].max()) < 1e-4
    assert float(losses[1].mean()) > 1e-2


def test_lagrangian_is_the_derivative_of_the_end() -> None:
    """Against a central difference in float64, and without a gradient through the teacher."""
    x, t, _ = (v.double() for v in points(20, torch.zeros(2)))
    flow_map = FlowMap(Silent(), SD0**2 * 1.5, SD1**2).double()
    asked: list[tuple[Tensor, Tensor]] = []

    def teacher(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        asked.append((x, t))
        return torch.zeros_like(x)

    losses = Lagrangian().losses(flow_map, teacher, Piece(x, t, x, t, None), rng=torch.Generator().manual_seed(1))
    (state, s), h = asked[0], 1e-5
    torch.testing.assert_close(state, flow_map.between(x, t, s, None))
    moved = (flow_map.between(x, t, s + h, None) - flow_map.between(x, t, s - h, None)) / (2 * h)
    expected = moved.square().mean(1) + 0.5 * flow_map(x, t, None).square().mean(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
    assert bool((s <= t).all())


@METHODS
def test_the_map_of_a_flow_between_normal_laws_is_learnt(method: Distillation) -> None:
    """The data's mean is not zero, which the preconditioning does not know."""
    torch.manual_seed(0)
    network = scflow.nn.MLP(2, width=64)
    network.take_two_times()
    flow_map = FlowMap(network, SD0**2, SD1**2)
    rng, n = torch.Generator().manual_seed(0), 2048
    times = torch.cat([torch.ones(n, 1), torch.rand(n, 3, generator=rng).sort(1, descending=True).values], 1)
    times = torch.cat([times, torch.zeros(n, 1)], 1)
    noise = SD1 * torch.randn(n, 2, generator=rng)
    states = torch.stack([exact(noise, times[:, 0], times[:, i], MEAN) for i in range(5)], 1)
    run = Run(torch.arange(0), torch.arange(0), 256, 0, torch.device("cpu"), progress=False)
    teacher = Teacher(lambda x, t, c: velocity(x, t, MEAN), 1.0, 1.0)
    how = Fewer(n, Guidance(), STEPS[type(method)], 3e-3, ("jump", 1))
    _fit_map(flow_map, Trajectories(states, times, None), method, teacher, how, run)
    x, t, s = points(500, MEAN, seed=1)
    with torch.no_grad():
        error = (flow_map.between(x, t, s, None) - exact(x, t, s, MEAN)).square().mean().sqrt()
        away = (x - exact(x, t, s, MEAN)).square().mean().sqrt()
        whole = (flow_map.between(noise, times[:, 0], times[:, -1], None) - states[:, -1]).square().mean().sqrt()
    assert float(error) < 0.1 * float(away)
    assert float(whole) < 0.08


def test_pieces_are_of_one_trajectory_and_go_towards_the_data() -> None:
    n, k = 500, 4
    times = torch.cat([torch.linspace(1, 0, k + 1).expand(n, -1)])
    states = (torch.arange(n)[:, None] + times)[:, :, None]
    ways = Trajectories(states, times, torch.arange(n)[:, None].float())
    piece = _pieces(ways, torch.arange(n).flip(0), rng=torch.Generator().manual_seed(0))
    assert piece.condition is not None
    torch.testing.assert_close(piece.start[:, 0], piece.condition[:, 0] + piece.t)
    torch.testing.assert_close(piece.end[:, 0], piece.condition[:, 0] + piece.s)
    assert bool((piece.s < piece.t).all())
    assert 0.55 < float((piece.t == 1).float().mean()) < 0.7
    assert set(piece.s.unique().tolist()) == {0.0, 0.25, 0.5, 0.75}


# On a mixture.

REP = "X_mix"


def clusters(n: int, seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    centres = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    return (centres[rng.integers(0, 3, n)] + 0.25 * rng.normal(size=(n, 2))).astype(np.float32)


def sliced(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """The sliced 2-Wasserstein distance, over 60 directions."""
    angles = np.linspace(0, np.pi, 60, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.sqrt(((np.sort(a @ directions, 0) - np.sort(b @ directions, 0)) ** 2).mean()))


@pytest.fixture(scope="module")
def teacher_flow(small_flows: None) -> Flow:
    cells = AnnData(obsm={REP: clusters(2000, 0)})
    return scflow.tl.train(cells, use_rep=REP, steps=700, progress=False)


@pytest.fixture(scope="module", params=list(DISTILLATIONS))
def quick(request: pytest.FixtureRequest, teacher_flow: Flow) -> Flow:
    steps = STEPS[DISTILLATIONS[request.param]]
    return scflow.tl.distill(teacher_flow, method=request.param, n_trajectories=2000, steps=steps, progress=False)


def drawn(flow: Flow, solver: solvers.Solver, steps: int, n: int = 1024) -> np.ndarray[Any, Any]:
    state: np.ndarray[Any, Any] = flow.draw(n, sampling=Sampling(solver=solver, steps=steps, seed=5)).state
    return state


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_few_jumps_are_as_good_as_the_teachers_fine_steps(quick: Flow, teacher_flow: Flow, steps: int) -> None:
    """The distance to the mixture itself: jumps are near the flow in fifty steps, Euler's steps are far."""
    truth = clusters(1024, 99)
    fine, coarse = (sliced(drawn(teacher_flow, solvers.Euler(), n), truth) for n in (50, steps))
    found = sliced(drawn(quick, solvers.Jump(), steps), truth)
    assert found < fine + 0.1
    assert found < (0.6 if steps < 4 else 1.0) * coarse


def test_one_jump_lands_where_the_teacher_gets_to(quick: Flow, teacher_flow: Flow) -> None:
    there = drawn(teacher_flow, solvers.RK4(), 16)
    error = float(np.median(np.abs(drawn(quick, solvers.Jump(), 1) - there)))
    assert error < 0.1
    assert np.median(np.abs(drawn(teacher_flow, solvers.Euler(), 1) - there)) > 5 * error


def test_other_solvers_follow_the_diagonal(quick: Flow, teacher_flow: Flow) -> None:
    there = drawn(teacher_flow, solvers.RK4(), 16)
    along = drawn(quick, solvers.Midpoint(), 24)
    assert float(np.median(np.abs(along - there))) < 0.15


def test_guidance_is_baked_in(small_flows: None) -> None:
    cells = scflow.datasets.simulate(200, 20, 2, seed=0)
    flow = scflow.tl.train(cells, condition="cell_type", steps=200, progress=False)
    options: dict[str, Any] = {"n_trajectories": 1000, "steps": 200, "progress": False}
    new = scflow.tl.distill(flow, guidance=3.0, **options)
    request = {"cell_type": cells.obs["cell_type"].iloc[0]}
    states = [
        flow.draw(500, request, Sampling(solver=solvers.RK4(), guidance=w, seed=1, calibration="none")).state
        for w in (1.0, 3.0)
    ]
    jumped = new.draw(500, request, replace(new.usual, seed=1)).state
    distances = [float(np.abs(jumped - state).mean()) for state in states]
    assert distances[1] < 0.5 * distances[0]
    assert new.provenance["made_with_guidance"] == 3.0
    assert "distilled from 1,000 of its trajectories, guidance 3.0, jump x 1" in repr(new)


# A flow like any other.


@pytest.fixture(scope="module")
def counted(small_flows: None) -> tuple[AnnData, Flow]:
    adata = scflow.datasets.simulate(200, 30, 3, seed=1)
    return adata, scflow.tl.train(adata, condition="cell_type", steps=40, progress=False)


@pytest.fixture(scope="module")
def a_map(counted: tuple[AnnData, Flow]) -> Flow:
    return scflow.tl.distill(counted[1], n_trajectories=200, steps=10, draw_steps=2, progress=False)


@pytest.mark.parametrize(("options", "evaluations"), [({"steps": n}, n) for n in (1, 2, 4)] + [({}, 2)])
def test_cells_take_as_many_evaluations_as_steps(a_map: Flow, options: dict[str, Any], evaluations: int) -> None:
    facts = scflow.tl.generate(a_map, 20, progress=False, **options).uns["scflow"]["provenance"]
    assert (facts["solver"], facts["solver_steps"], facts["evaluations"]) == ("jump", evaluations, evaluations)
    assert facts["made_by"] == "distill"


def test_saving_loading_and_drawing_gives_the_same_bits(a_map: Flow, tmp_path: Path) -> None:
    a_map.save(tmp_path / "map.safetensors")
    loaded = Flow.load(tmp_path / "map.safetensors")
    assert isinstance(loaded.field, FlowMap)
    for options in ({}, {"solver": "heun", "guidance": 1.5}, {"weights": "raw"}):
        a, b = (scflow.tl.generate(f, 300, progress=False, **options) for f in (a_map, loaded))
        np.testing.assert_array_equal(a.obsm["X_scflow"], b.obsm["X_scflow"])
        assert (a.layers["counts"] != b.layers["counts"]).nnz == 0
    assert repr(loaded) == repr(a_map)


@pytest.mark.parametrize("field", ["unet", "transformer"])
@METHODS
def test_other_fields_become_maps(field: str, method: Distillation, tmp_path: Path) -> None:
    cells = AnnData(obsm={REP: np.tile(clusters(100, 0), 4)})
    flow = scflow.tl.train(cells, use_rep=REP, field=field, steps=5, progress=False)
    new = scflow.tl.distill(flow, method=method, n_trajectories=100, steps=3, progress=False)
    new.save(tmp_path / "map.safetensors")
    np.testing.assert_array_equal(Flow.load(tmp_path / "map.safetensors").draw(30).state, new.draw(30).state)


def test_old_files_load(counted: tuple[AnnData, Flow]) -> None:
    """A content as 0.1.0 wrote it does not say whether it is of a map."""
    flow = counted[1]
    content = flow.to_content()
    config = json.loads(content["config"])
    assert config["field"].pop("map") is False
    old = Flow.from_content({**content, "config": json.dumps(config)})
    assert isinstance(old.field, Preconditioned)
    np.testing.assert_array_equal(old.draw(20).state, flow.draw(20).state)


def test_the_seed_decides_and_nothing_else_is_touched(counted: tuple[AnnData, Flow]) -> None:
    adata, flow = counted
    kept = copy.deepcopy(flow.to_content()["tensors"])
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    options: dict[str, Any] = {"n_trajectories": 100, "steps": 5, "progress": False}
    for method in DISTILLATIONS:
        one, two, other = (scflow.tl.distill(adata, method=method, **options, seed=seed) for seed in (0, 0, 1))
        states = [f.field.state_dict() for f in (one, two, other)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    for name, tensor in kept.items():
        np.testing.assert_array_equal(tensor, flow.to_content()["tensors"][name])


def test_a_flow_on_another_path_is_distilled_along_the_linear_one() -> None:
    cells = AnnData(obsm={REP: clusters(400, 0)})
    flow = scflow.tl.train(cells, use_rep=REP, path="variance_preserving", steps=150, progress=False)
    new = scflow.tl.distill(flow, n_trajectories=1000, steps=250, progress=False)
    assert new.path == paths.Linear()
    there = drawn(flow, solvers.RK4(), 16)
    assert float(np.median(np.abs(drawn(new, solvers.Jump(), 1) - there))) < 0.2


def test_jump_asks_for_both_times_of_each_step() -> None:
    asked: list[list[float]] = []

    def mean(x: Tensor, both: Tensor) -> Tensor:
        asked.append(both.tolist())
        return both.sum() * torch.ones_like(x)  # The mean of 2 t over the step.

    end = solvers.Jump().integrate(mean, torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.25, 0.0]).double())
    assert asked == [[1.0, 0.25], [0.25, 0.0]]
    torch.testing.assert_close(end, -torch.ones(2).double())


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lagrange"}, "method='lagrange' is not known. Did you mean 'lagrangian'"),
        ({"n_trajectories": 7}, "n_trajectories=7 must be a whole number of at least 100"),
        ({"draw_steps": 1.5}, "draw_steps=1.5 is not a whole number"),
        ({"guidance": {"batch": 2.0}}, "guidance names 1 of 1 conditions that this flow does not have"),
    ],
)
def test_options_that_do_not_fit(counted: tuple[AnnData, Flow], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scflow.tl.distill(counted[1], progress=False, **options)


def test_what_cannot_be_distilled(a_map: Flow, counted: tuple[AnnData, Flow]) -> None:
    with pytest.raises(InputError, match="distilled already, and distill needs the velocity"):
        scflow.tl.distill(a_map)
    with pytest.raises(InputError, match="distilled already, and reflow needs the velocity"):
        scflow.tl.reflow(a_map)
    flow = counted[1]
    mine = replace(flow, field=Preconditioned(Silent(), paths.Linear(), torch.ones(1), torch.ones(1)))
    with pytest.raises(InputError, match=r"The field of this flow is a Silent, which takes one time"):
        scflow.tl.distill(mine)

    class Curved(paths.Path):
        def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> paths.PathSample:
            raise NotImplementedError

    with pytest.raises(InputError, match="Distilling"):
        scflow.tl.distill(replace(flow, path=Curved()))


def test_jumps_that_cannot_be_made(a_map: Flow, counted: tuple[AnnData, Flow]) -> None:
    with pytest.raises(InputError, match=r"solver='jump' takes the steps of a flow map.*scflow.tl.distill\(flow\)"):
        scflow.tl.generate(counted[1], 5, solver="jump", progress=False)
    with pytest.raises(InputError, match=r"guidance=2.0 cannot be had from solver='jump'"):
        scflow.tl.generate(a_map, 5, guidance=2.0, progress=False)
    with pytest.raises(InputError, match="solver='jump' goes along the path that its map was made for, Linear"):
        scflow.tl.generate(a_map, 5, path="variance_preserving", progress=False)
    assert scflow.tl.generate(a_map, 5, path="linear", progress=False).n_obs == 5


def test_noise_stays_that_of_the_teacher() -> None:
    cells = AnnData(obsm={REP: clusters(200, 0)})
    flow = scflow.tl.train(cells, use_rep=REP, noise=noises.Sparse(), steps=5, progress=False)
    assert scflow.tl.distill(flow, n_trajectories=100, steps=3, progress=False).noise is flow.noise


def test_the_trajectory_loss_is_of_mean_velocities() -> None:
    """From 1 at the noise to 3 at t = 1/4; the silent map goes to ``sqrt(5/8)`` instead, that of unit normal laws."""
    piece = Piece(torch.ones(2, 2), torch.ones(2), torch.full((2, 2), 3.0), torch.full((2,), 0.25), None)
    flow_map = FlowMap(Silent(), torch.ones(1), torch.ones(1))
    losses = Trajectory().losses(flow_map, lambda x, t, c: x, piece, rng=torch.Generator())
    torch.testing.assert_close(losses, torch.full((2,), ((3 - 0.625**0.5) / 0.75) ** 2))
