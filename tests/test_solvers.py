"""Solvers: orders against halved steps, on equal and on shifted grids, and cells that are the same in any batch."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import scflow
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.flow._sampling import TILE, draw
from scflow.matching import solvers
from scflow.matching.names import SOLVERS

pytestmark = pytest.mark.usefixtures("small_flows")

# The test extra brings torchdiffeq.
needs_torchdiffeq = pytest.mark.skipif(
    importlib.util.find_spec("torchdiffeq") is None, reason="torchdiffeq is not installed (scflow-tools[adaptive])"
)
FIXED = [kind() for kind in SOLVERS.values() if not (kind.adaptive or kind.jumps)]
ADAPTIVE = pytest.param(solvers.Dopri5(), marks=needs_torchdiffeq)
EVERY = pytest.mark.parametrize("solver", [*FIXED, ADAPTIVE], ids=lambda s: type(s).__name__)


def slope(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = x cos(2t) + 1 / (1 + t): not linear in t, and not autonomous."""
    return x * torch.cos(2 * t) + 1 / (1 + t)


def exact(start: float, end: float, x: list[float]) -> Tensor:
    """Scipy's solution to twelve digits."""
    from scipy.integrate import solve_ivp

    found = solve_ivp(lambda t, x: x * np.cos(2 * t) + 1 / (1 + t), (start, end), x, rtol=1e-12, atol=1e-13)
    return torch.from_numpy(found.y[:, -1])


def shifted(steps: int, shift: float, *, back: bool) -> Tensor:
    """The grid in float64: what `solvers.grid` gives is float32, too coarse for a fourth order."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    t = shift * t / (1 + (shift - 1) * t)
    return t if back else t.flip(0)


# Orders.


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.4])
@pytest.mark.parametrize("back", [False, True], ids=["to_data", "to_noise"])
@pytest.mark.parametrize("solver", FIXED, ids=lambda s: type(s).__name__)
def test_the_error_falls_with_the_order(solver: solvers.Solver, shift: float, back: bool) -> None:
    x = [0.5, -2.0]
    truth, errors = exact(*((0, 1) if back else (1, 0)), x), []
    for steps in (32, 64, 128):
        end = solver.integrate(slope, torch.tensor(x, dtype=torch.float64), shifted(steps, shift, back=back))
        errors.append(float((end - truth).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([solver.order] * 2, abs=0.25)


def test_adams_needs_the_ratio_of_its_steps() -> None:
    """On steps that alternate, 1 : 3, the formula for equal ones would be of first order only."""
    errors = []
    for pairs in (32, 64, 128):
        h = torch.tensor([3.0, 1.0], dtype=torch.float64).repeat(pairs) / (4 * pairs)
        times = torch.cat([torch.ones(1, dtype=torch.float64), 1 - h.cumsum(0)])
        end = solvers.Adams().integrate(slope, torch.tensor([0.5, -2.0], dtype=torch.float64), times)
        errors.append(float((end - exact(1, 0, [0.5, -2.0])).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([2, 2], abs=0.2)


@pytest.mark.parametrize("solver", FIXED, ids=lambda s: type(s).__name__)
def test_evaluations_are_counted(solver: solvers.Solver) -> None:
    calls: list[int] = []
    for steps in (1, 2, 7):
        calls.clear()
        solver.integrate(lambda x, t: calls.append(1) or slope(x, t), torch.ones(2), solvers.grid(steps))
        assert len(calls) == steps * solver.evaluations


def test_polynomials_in_time_are_exact_up_to_the_order() -> None:
    """Where the slope is t^k a method of order k + 1 has no error (and Adams none once it has two velocities)."""
    times = solvers.grid(5, shift=2.5).double()
    for solver in FIXED:
        for k in range(solver.order if not isinstance(solver, solvers.Adams) else 1):
            end = solver.integrate(lambda x, t, k=k: t**k * torch.ones_like(x), torch.ones(1).double(), times)
            torch.testing.assert_close(end, torch.ones(1).double() - 1 / (k + 1))


@EVERY
def test_a_straight_field_is_solved_and_back(solver: solvers.Solver) -> None:
    rng = torch.Generator().manual_seed(0)
    x, v = torch.randn(10, 3, 2, generator=rng), torch.randn(10, 3, 2, generator=rng)
    there = solver.integrate(lambda x, t: v, x, solvers.grid(2, shift=3.0))
    torch.testing.assert_close(there, x - v)
    torch.testing.assert_close(solver.integrate(lambda x, t: v, there, solvers.grid(3, start=0, end=1)), x)


# Dopri5.


@needs_torchdiffeq
@pytest.mark.parametrize(("rtol", "within"), [(1e-3, 1e-2), (1e-6, 1e-5), (1e-9, 1e-8)])
def test_dopri5_keeps_its_tolerance_both_ways(rtol: float, within: float) -> None:
    """The tolerance is that of a step; there are about ten."""
    solver, x, calls = solvers.Dopri5(rtol=rtol, atol=rtol), torch.tensor([0.5, -2.0], dtype=torch.float64), []
    for start, end in ((1.0, 0.0), (0.0, 1.0)):
        times = torch.tensor([start, end], dtype=torch.float64)
        found = solver.integrate(lambda x, t: calls.append(1) or slope(x, t), x, times)
        assert float((found - exact(start, end, x.tolist())).abs().max()) < within
    assert len(calls) < 500


@needs_torchdiffeq
def test_tighter_tolerances_cost_more_and_err_less() -> None:
    x, costs, errors = torch.tensor([0.5, -2.0], dtype=torch.float64), [], []
    calls: list[int] = []
    for tolerance in (1e-2, 1e-5, 1e-8):
        calls.clear()
        solver = solvers.Dopri5(rtol=tolerance, atol=tolerance)
        end = solver.integrate(lambda x, t: calls.append(1) or slope(x, t), x, solvers.grid(1).double())
        costs.append(len(calls))
        errors.append(float((end - exact(1, 0, x.tolist())).abs().max()))
    assert costs == sorted(set(costs))
    assert errors[0] > errors[1] > errors[2]


@needs_torchdiffeq
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, 1.0), (0.9, 0.1)])
@pytest.mark.parametrize("rate", [1.0, 1e-3])
def test_dopri5_never_looks_beyond_the_ends(ends: tuple[float, float], rate: float) -> None:
    """A field is trained on [0, 1] only: outside, this one is huge. A slow one tempts to long steps."""

    def walled(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return rate * x if min(ends) - 1e-6 <= t <= max(ends) + 1e-6 else 1e6 * torch.ones_like(x)

    asked: list[float] = []
    x = torch.tensor([1.0, -2.0])
    end = solvers.Dopri5().integrate(walled, x, solvers.grid(1, start=ends[0], end=ends[1]))
    torch.testing.assert_close(end, x * math.exp(rate * (ends[1] - ends[0])), rtol=1e-4, atol=0)
    assert max(asked) <= max(ends) + 1e-6
    assert min(asked) >= min(ends) - 1e-6


def test_dopri5_names_its_extra_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(InputError, match=r"needs torchdiffeq, which is not installed.*scflow-tools\[adaptive\]"):
        solvers.Dopri5().integrate(slope, torch.ones(2), solvers.grid(1))


@pytest.mark.parametrize("setting", ["rtol", "atol"])
@pytest.mark.parametrize("bad", [0, -1e-5, math.inf, math.nan])
def test_tolerances_that_dopri5_refuses(setting: str, bad: float) -> None:
    with pytest.raises(InputError, match=rf"{setting}={bad} must be a finite number above 0, such as 1e-5"):
        solvers.Dopri5(**{setting: bad})


# The grid.


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0, 7.5])
def test_a_shifted_grid_in_closed_form(shift: float) -> None:
    t = torch.linspace(1, 0, 11, dtype=torch.float64)
    found = solvers.grid(10, shift=shift)
    torch.testing.assert_close(found, (shift * t / (1 + (shift - 1) * t)).float())
    assert (found[0], found[-1]) == (1, 0)
    # The same times run back.
    torch.testing.assert_close(solvers.grid(10, start=0, end=1, shift=shift), found.flip(0))


def test_a_shift_above_one_spends_steps_near_the_noise() -> None:
    shares = [float((solvers.grid(100, shift=a) > 0.5).float().mean()) for a in (0.3, 1.0, 3.0)]
    assert shares == pytest.approx([0.23, 0.5, 0.75], abs=0.01)


def test_a_shifted_grid_keeps_its_ends() -> None:
    times = solvers.grid(8, start=0.999, end=0.1, shift=3.0)
    assert times[[0, -1]].tolist() == pytest.approx([0.999, 0.1])
    assert (times.diff() < 0).all()
    # Unshifting gives equal steps.
    equal = times / (3 - 2 * times)
    torch.testing.assert_close(equal.diff(), equal.diff().mean().expand(8), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shift", [0, -1, math.inf, math.nan])
def test_shifts_that_are_refused(shift: float) -> None:
    with pytest.raises(InputError, match=r"must be a finite number above 0; 1 leaves the times equally spaced"):
        solvers.grid(4, shift=shift)


# Cells.


@pytest.fixture(scope="module")
def flow(small_flows: None) -> Flow:
    cells = scflow.datasets.simulate(200, 30, 3, seed=0)
    return scflow.tl.train(cells, condition="cell_type", space="genes", steps=30, progress=False)


Generate = Callable[..., AnnData]


@pytest.fixture
def generate(flow: Flow) -> Generate:
    return lambda n_obs=40, **options: scflow.tl.generate(flow, n_obs, progress=False, **options)


def test_every_solver_draws_the_same_cells(flow: Flow) -> None:
    """By the way that cells are drawn, against RK4 in many steps."""
    states = {
        type(solver).__name__.lower(): flow.draw(40, sampling=Sampling(solver=solver, steps=steps)).state
        for solver, steps in zip(FIXED, (200, 24, 24, 8, 48), strict=True)
    }
    truth = flow.draw(40, sampling=Sampling(solver=solvers.RK4(), steps=40)).state
    for name, state in states.items():
        np.testing.assert_allclose(state, truth, atol=0.05 if name == "euler" else 0.01, err_msg=name)


@needs_torchdiffeq
def test_dopri5_draws_the_same_cells_within_its_tolerance(flow: Flow) -> None:
    truth = flow.draw(40, sampling=Sampling(solver=solvers.RK4(), steps=40)).state
    found = flow.draw(40, sampling=Sampling(solver=solvers.Dopri5()))
    np.testing.assert_allclose(found.state, truth, atol=1e-3)
    assert found.evaluations > 6


@EVERY
def test_the_batch_size_does_not_change_the_cells(
    solver: solvers.Solver, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a tile is always a batch."""
    from scflow.flow import _sampling

    sizes: list[int] = []
    batch = _sampling._batch

    def counted(flow: Flow, n: int, first: int, last: int, *rest: Any) -> Any:
        sizes.append(last - first)
        return batch(flow, n, first, last, *rest)

    monkeypatch.setattr(_sampling, "_batch", counted)
    n = 2 * TILE + 10
    table = flow.conditions.table(None, n, flow.seen, np.random.default_rng(0))
    states = [draw(flow, n, table, Sampling(solver=solver, steps=3, batch_size=b)).state for b in (1, TILE, 4096)]
    for state in states[1:]:
        np.testing.assert_array_equal(state, states[0])
    assert sorted(set(sizes)) == [10, TILE]


@needs_torchdiffeq
def test_on_a_gpu_dopri5_still_integrates_a_tile_at_a_time(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is only asked for its type until cells are drawn."""
    from scflow.flow import _sampling

    class Stop(Exception):
        pass

    def stop(flow: Any, n: int, first: int, last: int, *rest: Any) -> None:
        raise Stop((last - first) // TILE)

    class Fast:
        type = "cuda"

    monkeypatch.setattr(_sampling, "_batch", stop)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args: self)
    for solver, tiles in ((solvers.Midpoint(), 4), (solvers.Dopri5(), 1)):
        with pytest.raises(Stop) as stopped:
            draw(flow, 10 * TILE, None, Sampling(solver=solver, batch_size=4 * TILE, device=Fast()))  # type: ignore[arg-type]
        assert stopped.value.args == (tiles,)


def test_steps_evaluations_and_shift_are_written_down(generate: Generate) -> None:
    expected = {"euler": (50, 50), "midpoint": (12, 24), "heun": (12, 24), "rk4": (6, 24), "adams": (24, 24)}
    for name, (steps, evaluations) in expected.items():
        facts = generate(2, solver=name, shift=2.0).uns["scflow"]["provenance"]
        found = (facts["solver"], facts["solver_steps"], facts["evaluations"], facts["solver_shift"])
        assert found == (name, steps, evaluations, 2.0)


@needs_torchdiffeq
def test_dopri5_writes_down_its_tolerances(generate: Generate) -> None:
    facts = generate(2, solver=solvers.Dopri5(rtol=1e-3, atol=1e-2)).uns["scflow"]["provenance"]
    assert (facts["solver"], facts["solver_rtol"], facts["solver_atol"]) == ("dopri5", 1e-3, 1e-2)
    assert "solver_steps" not in facts
    assert facts["evaluations"] >= 6


def test_a_shift_changes_the_times_and_not_the_noise(generate: Generate, flow: Flow) -> None:
    plain, shifted_ = (generate(shift=a, solver="euler", steps=4) for a in (1.0, 3.0))
    np.testing.assert_array_equal(plain.obsm["X_scflow_noise"], shifted_.obsm["X_scflow_noise"])
    # Four Euler steps by hand.
    x, c = torch.from_numpy(shifted_.obsm["X_scflow_noise"]), flow.conditions.encode(shifted_.obs)
    for t, after in pairwise([1.0, 0.9, 0.75, 0.5, 0.0]):
        with torch.no_grad():
            x = x + (after - t) * flow.field(x, torch.full((len(x),), t), c)
    np.testing.assert_allclose(shifted_.obsm["X_scflow"], x, atol=1e-4)
    assert np.abs(plain.obsm["X_scflow"] - shifted_.obsm["X_scflow"]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shift": 0}, r"shift=0 must be a finite number above 0"),
        ({"shift": "auto"}, r"shift='auto' is not a number"),
        (
            {"solver": "dopri5", "steps": 5},
            r"solver='dopri5' chooses its own steps: steps=5 and shift=1\.0 mean nothing",
        ),
        ({"solver": "dopri5", "shift": 3.0}, r"steps='auto' and shift=3\.0 mean nothing to it\. Leave both out"),
        ({"solver": "adam"}, r"solver='adam' is not known\. Did you mean 'adams'\?"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], match: str, generate: Generate) -> None:
    with pytest.raises(InputError, match=match):
        generate(**options)
