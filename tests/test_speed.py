"""What makes training fast, and does not change what is learnt."""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from anndata import AnnData
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import scflow
from scflow.matching import FlowMatching, Preconditioned, Shift, noises, paths
from scflow.matching.preconditioning import Bare
from scflow.tl._options import _cores
from scflow.tl._recipe import precision_of
from scflow.training import Optimisation, Run, fit, loop
from scflow.training.batches import fits
from scflow.training.compiling import compiled, pays
from scflow.training.fit import fit_module
from scflow.training.profiling import traced

QUICK: dict[str, Any] = {"condition": "cell_type", "space": "pca", "progress": False}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cells() -> AnnData:
    return scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """A network of one layer, which sees the time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim + 1, dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        out: Tensor = self.layer(torch.cat([x, t[:, None]], dim=1))
        return out


# The loss at once.


@pytest.mark.parametrize(
    "path",
    [paths.Linear(), paths.VariancePreserving(), paths.VariancePreservingLinear()],
    ids=lambda path: type(path).__name__,
)
@pytest.mark.parametrize("shifted", [False, True])
def test_the_loss_at_once_is_that_of_the_velocities(path: paths.Affine, shifted: bool) -> None:
    """Value and gradient, with a coordinate that never varies."""
    n, dim, rng = 9, 5, generator()
    torch.manual_seed(0)
    x0, x1 = (torch.randn(n, dim, generator=rng) for _ in range(2))
    t, condition = torch.rand(n, generator=rng) * path.end, torch.randn(n, 2, generator=rng)
    sd = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.0])
    shift = Shift(torch.randn(2, dim, generator=rng)) if shifted else None
    field = Preconditioned(Linear(dim), path, sd, sd.flip(0) + 0.1, shift).double()
    x0, x1, t, condition = (x.double() for x in (x0, x1, t, condition))
    objective = FlowMatching(path=path)
    at_once = objective.losses(field, x0, x1, t, condition)
    one_by_one = objective.losses(lambda *given: field(*given), x0, x1, t, condition)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)
    weights = torch.rand(n, generator=rng).double()
    gradients = [torch.autograd.grad(losses @ weights, list(field.parameters())) for losses in (at_once, one_by_one)]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_pictures_is_that_of_the_velocities() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            return self.scale * x

    rng = generator()
    x0, x1 = (torch.randn(4, 3, 2, 2, generator=rng) for _ in range(2))
    t, sd = torch.rand(4, generator=rng), torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1)
    field, objective = Preconditioned(Same(), paths.Linear(), sd, torch.ones(3, 1, 1)), FlowMatching()
    at_once = objective.losses(field, x0, x1, t, None)
    assert at_once.shape == (4,)
    torch.testing.assert_close(at_once, objective.losses(lambda *given: field(*given), x0, x1, t, None))


def test_a_field_on_another_path_is_compared_with_its_velocity() -> None:
    """At once is only right where the objective follows the field's own path."""
    rng = generator()
    x0, x1 = (torch.randn(6, 2, generator=rng) for _ in range(2))
    t, field = torch.rand(6, generator=rng), Preconditioned(Linear(2), paths.Linear(), torch.ones(2), torch.ones(2))
    objective = FlowMatching(path=paths.VariancePreserving())
    expected = objective.losses(lambda *given: field(*given), x0, x1, t, None)
    assert torch.equal(objective.losses(field, x0, x1, t, None), expected)
    assert torch.isfinite(objective.losses(Bare(Linear(2)), x0, x1, t, None)).all()


def test_masked_noise_is_the_sum_of_a_masked_normal_and_a_jitter() -> None:
    """By its law: the share of small values, and the variance of either part."""
    x = noises.Dropout(torch.tensor([0.3, 0.0, 1.0]), jitter=0.01).sample(200_000, 3, rng=generator())
    small = (x.abs() < 0.05).double().mean(0)
    # A normal of deviation 1 is within 0.05 of 0 with the probability 0.0399.
    torch.testing.assert_close(small, torch.tensor([0.3 + 0.7 * 0.0399, 0.0399, 1.0]).double(), rtol=0, atol=0.004)
    variance = x.double().var(0)
    torch.testing.assert_close(variance, torch.tensor([0.7 + 1e-4, 1 + 1e-4, 1e-4]).double(), rtol=0.02, atol=0)
    coarse = noises.Dropout(torch.tensor([0.3, 0.0, 1.0]), jitter=0.5).sample(200_000, 3, rng=generator())
    torch.testing.assert_close(coarse.var(0), torch.tensor([0.7 + 0.25, 1.25, 0.25]), rtol=0.02, atol=0)


# Precision.


def test_auto_takes_bfloat16_where_there_are_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert precision_of("auto", CPU) == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert precision_of("auto", CPU) == "float32"
    assert precision_of("bfloat16", CPU) == "bfloat16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older PyTorch
    assert precision_of("auto", CPU) == "float32"


# Where the counts are, and on how many cores.


def test_counts_stay_on_a_gpu_where_half_of_its_room_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    gpu = torch.device("cuda")
    assert fits(500, gpu)
    assert not fits(501, gpu)
    assert fits(501, CPU)


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert _cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert _cores() == 64


# How long a run takes.


@pytest.mark.parametrize(("steps", "patience", "expected"), [(400, 2, 120), (4000, 2, 400), (4000, 1, 300)])
def test_a_run_takes_a_hundred_steps_without_a_better_look(steps: int, patience: int, expected: int) -> None:
    """Looks that only get worse, at every fortieth of the steps: the first is the best, one beyond patience ends it."""
    looks = itertools.count()
    module = nn.Linear(1, 1)
    run = Run(torch.arange(8), torch.arange(1), 4, 0, CPU, progress=False)
    trained = fit_module(
        module,
        lambda rows: module(rows[:, None].float()).square().mean(),
        lambda: float(next(looks)),
        run,
        generator(),
        steps=steps,
        lr=1e-3,
        patience=patience,
    )
    assert trained.best_step == steps // 40
    assert trained.history["step"].iloc[-1] == expected


# A trace.


@pytest.mark.parametrize(("steps", "expected"), [(30, 5), (17, 5), (6, 6)])
def test_a_trace_is_of_some_steps(steps: int, expected: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with traced(trace, CPU, steps) as after_step:
        for _ in range(steps):
            torch.ones(3).relu()
            after_step()
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::relu") == expected


def test_profile_writes_a_trace_of_the_training(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scflow.tl.train(cells, use_rep="truth_programmes", steps=4, profile=True, progress=False)
    names = {event.get("name") for event in json.loads(Path("scflow_trace.json").read_text())["traceEvents"]}
    assert {"aten::addmm", "aten::_fused_adamw_", "_SquaredErrorBackward"} <= names


def test_a_trace_into_no_folder_is_an_error_before_any_work(cells: AnnData, tmp_path: Path) -> None:
    before = list(cells.uns)
    with pytest.raises(scflow.errors.InputError, match=r"in a folder that is not there"):
        scflow.tl.train(cells, steps=4, profile=tmp_path / "none" / "trace.json", **QUICK)
    assert list(cells.uns) == before


# Compiling.


class Pretended(nn.Linear):
    """A network whose compilation is pretended, and takes so many seconds; what it then takes differs."""

    def __init__(self, compiling: float, eager: float, fast: float) -> None:
        super().__init__(2, 2)
        self.compiling, self.eager, self.fast, self.compilations = compiling, eager, fast, 0

    def compile(self, *args: Any, **kwargs: Any) -> None:
        waiting = [self.compiling]

        def call(x: Tensor) -> Tensor:
            time.sleep(waiting.pop() if waiting else self.fast)
            return x

        self._compiled_call_impl: Callable[[Tensor], Tensor] | None = call
        self.compilations += 1

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.eager)
        return x


@pytest.mark.parametrize(("steps", "expected"), [(1000, True), (2, False)])
def test_compiling_pays_over_many_steps(steps: int, expected: bool) -> None:
    """0.1 s for 10 ms less a step."""
    network, x = Pretended(0.1, 0.012, 0.002), torch.ones(1, 2)
    network.compile()
    assert pays(network, lambda: network(x), steps) is expected


def test_compiling_that_makes_steps_slower_never_pays() -> None:
    network, x = Pretended(0.0, 0.002, 0.01), torch.ones(1, 2)
    network.compile()
    assert not pays(network, lambda: network(x), 10**6)


@pytest.mark.parametrize(("choice", "expected"), [(True, True), (False, False), ("auto", False)])
def test_a_network_is_compiled_while_it_is_trained_where_that_was_asked_for(choice: bool | str, expected: bool) -> None:
    network = Pretended(0, 0, 0)
    with compiled(network, choice, lambda: network(torch.ones(1, 2)), steps=10) as found:
        assert found is expected
    assert network._compiled_call_impl is None
    assert network.compilations == int(expected)


def test_an_unknown_choice_is_an_error() -> None:
    with pytest.raises(scflow.errors.InputError, match=r"compile='always' is not known\. Choose True, False or 'auto'"):
        Optimisation(compile="always")


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(cells: AnnData) -> None:
    settings: dict[str, Any] = {"steps": 20, "precision": "float32", **QUICK}
    plain, fast = (
        scflow.tl.train(cells.copy(), optimisation=Optimisation(compile=choice), **settings) for choice in (False, True)
    )
    assert plain.history["loss"].tolist() == pytest.approx(fast.history["loss"].tolist(), rel=1e-4)


# Drawing in mixed precision.


class Casts(TorchDispatchMode):
    """Counts the casts of float32 tensors of some shapes."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self.shapes, self.n = shapes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].shape in self.shapes:
            self.n += int(args[0].dtype == torch.float32 and made.dtype == torch.bfloat16)
        return made


def matrices(module: nn.Module) -> list[torch.Size]:
    """Shapes of the weights that states are multiplied by; no state of the tests has one of them."""
    return [layer.weight.shape for layer in module.modules() if isinstance(layer, nn.Linear)]


@pytest.fixture(scope="module")
def flow() -> scflow.Flow:
    cells = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    small = functools.partial(scflow.nn.MLP, width=48, depth=2)
    given: dict[str, Any] = {"condition": "cell_type", "field": small, "steps": 30, "precision": "float32"}
    return scflow.tl.train(cells, progress=False, **given)


def drawn(flow: scflow.Flow, n: int = 300, **options: Any) -> AnnData:
    asked = {"condition": {"cell_type": ["type_0", "type_1"] * (n // 2)}, "device": "cpu", "progress": False}
    return scflow.tl.generate(flow, n, **asked | options)


def test_cells_of_bfloat16_are_those_of_float32_within_its_rounding(flow: scflow.Flow) -> None:
    exact, rounded = drawn(flow), drawn(flow, precision="bfloat16")
    one, other = exact.obsm["X_scflow"], rounded.obsm["X_scflow"]
    np.testing.assert_array_equal(exact.obsm["X_scflow_noise"], rounded.obsm["X_scflow_noise"])
    assert other.dtype == np.float32
    assert 0 < np.abs(one - other).max() < 2**-5 * np.abs(one).max()  # eight bits, of all layers
    told = [cells.uns["scflow"]["provenance"] for cells in (exact, rounded)]
    assert [facts["generate_precision"] for facts in told] == ["float32", "bfloat16"]
    assert [facts["precision"] for facts in told] == ["float32", "float32"]  # of the training


def test_cells_of_bfloat16_do_not_depend_on_how_many_are_drawn_or_where_to(flow: scflow.Flow, tmp_path: Path) -> None:
    """Tiles are computed whole, on one thread."""
    many, few = (drawn(flow, n, precision="bfloat16", calibration="independent") for n in (600, 300))
    np.testing.assert_array_equal(many.obsm["X_scflow"][:300], few.obsm["X_scflow"])
    np.testing.assert_array_equal(many.layers["counts"][:300].toarray(), few.layers["counts"].toarray())
    path = drawn(flow, 300, precision="bfloat16", calibration="independent", out=tmp_path / "new.h5ad")
    there = anndata.read_h5ad(path)
    np.testing.assert_array_equal(there.layers["counts"].toarray(), few.layers["counts"].toarray())


def test_the_solver_and_the_way_back_stay_in_float32(flow: scflow.Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[bool]] = {"network": set(), "codec": set(), "solver": set()}

    def noting(kind: type, name: str, what: str) -> None:
        real = getattr(kind, name)

        def noted(*given: Any, **options: Any) -> Any:
            seen[what].add(torch.is_autocast_enabled("cpu"))
            return real(*given, **options)

        monkeypatch.setattr(kind, name, noted)

    noting(scflow.nn.MLP, "forward", "network")
    noting(scflow.codecs.Counts, "rank", "codec")
    noting(scflow.matching.solvers.Midpoint, "integrate", "solver")
    drawn(flow, precision="bfloat16")
    assert seen == {"network": {True}, "codec": {False}, "solver": {False}}
    seen["network"].clear()
    drawn(flow)
    assert seen["network"] == {False}


def test_weights_are_cast_once_for_a_block_of_cells(flow: scflow.Flow) -> None:
    """And not at each of the evaluations, of which each tile has 24."""
    shapes = matrices(flow.field)
    with Casts(set(shapes)) as casts:
        drawn(flow, 600, precision="bfloat16")
    assert casts.n == len(shapes)


def test_an_unknown_precision_is_an_error(flow: scflow.Flow) -> None:
    with pytest.raises(scflow.errors.InputError, match=r"precision='half' is not known\. Choose 'auto', 'float32'"):
        drawn(flow, precision="half")


class Fixed:
    """States that are there."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.values[rows]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_are_cast_once_a_step_for_all_parts_of_a_batch(
    accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a step have the weights of one, cast once for both ways."""
    monkeypatch.setattr(fit, "_NUMBERS", 16 * 40)
    monkeypatch.setattr(fit, "_FEWEST", 16)  # 64 cells in four parts
    found: list[tuple[int, int]] = []
    stepped, parts = loop._stepped, itertools.count()
    losses = FlowMatching.losses

    def counted(self: FlowMatching, *given: Any) -> Tensor:
        next(parts)
        return losses(self, *given)

    def noted(run: Any, *given: Any) -> bool:
        before = next(parts)
        with Casts(set(shapes)) as casts:
            taken = stepped(run, *given)
        found.append((casts.n, next(parts) - before - 1))
        return taken

    monkeypatch.setattr(FlowMatching, "losses", counted)
    monkeypatch.setattr(loop, "_stepped", noted)
    network = scflow.nn.MLP(40, width=48, depth=2)
    shapes = matrices(network)
    cells = torch.randn(200, 40, generator=generator())
    run = Run(torch.arange(160), torch.arange(160, 200), 64, 0, CPU, precision="bfloat16", progress=False)
    settings = Optimisation(accumulate=accumulate)
    fit.fit_field(
        network, Fixed(cells), None, noises.Gaussian(), FlowMatching(), run, steps=3, lr=1e-3, optimisation=settings
    )
    assert found == [(len(shapes), 4 * accumulate)] * 3
