"""Checkpoints: a run that was killed goes on bit for bit, and with nothing but the run it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import scflow
from scflow import nn
from scflow.codecs import Counts
from scflow.errors import FileError, InputError
from scflow.flow import Flow, Watch
from scflow.matching import FlowMatching, noises
from scflow.training import Checkpoint, Checkpoints, Optimisation, Run, fit_field
from scflow.training.batches import Order

pytestmark = pytest.mark.usefixtures("small_flows")

SETTINGS: dict[str, Any] = {"condition": "cell_type", "steps": 160, "batch_size": 48, "seed": 3, "progress": False}

SCRIPT = """
import os, signal, sys
import scflow
import torch
from scflow.codecs import Counts
from scflow.flow import _learning
from scflow.matching import FlowMatching

torch.set_num_threads(1)
scflow.nn.mlp._width = lambda dim: 32
_learning._DRAWN = 1024
kind, name, left = {"codec": (Counts, "losses", 40), "flow": (FlowMatching, "draw_times", 31)}[sys.argv[2]]
method = getattr(kind, name)

def until_killed(*arguments, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*arguments, **options)

setattr(kind, name, until_killed)
adata = scflow.datasets.simulate(200, 50, 3, n_programmes=2, dropout=0.05, seed=1)
scflow.tl.train(adata, condition="cell_type", steps=160, batch_size=48, seed=3, progress=False, device="cpu",
                checkpoint=scflow.training.Checkpoint(sys.argv[1], every=3), resume=True)
"""


def killed(folder: Path, stage: str) -> None:
    """A process of its own that trains until it is killed in the middle of a stage."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), stage], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def same_flow(first: Flow, second: Flow) -> None:
    """Weights, history and cells, bit for bit; the speed may differ."""
    a, b = (flow.to_content()["tensors"] for flow in (first, second))
    assert set(a) == set(b)
    for name in set(a) - {"history.cells_per_second"}:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    new = [scflow.tl.generate(flow, 40, seed=5, progress=False) for flow in (first, second)]
    np.testing.assert_array_equal(new[0].layers["counts"].toarray(), new[1].layers["counts"].toarray())


@pytest.fixture(scope="module")
def unbroken(small_flows: None, _simulated: AnnData) -> Flow:
    return scflow.tl.train(_simulated.copy(), **SETTINGS)


class Stop(Exception):
    """A crash."""


def crash_after(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, calls: int) -> None:
    """Have a method of the training fail at a call, as a power cut would."""
    method: Callable[..., Any] = getattr(kind, name)
    left = [calls]

    def counted(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Stop
        return method(*arguments, **options)

    monkeypatch.setattr(kind, name, counted)


def crashed(kind: type, name: str, calls: int, cells: AnnData, **options: Any) -> None:
    """A training that ends in a crash."""
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, kind, name, calls)
        with pytest.raises(Stop):
            scflow.tl.train(cells.copy(), **options)


# Going on.


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is a signal of POSIX systems")
def test_a_run_that_was_killed_goes_on_bit_for_bit(unbroken: Flow, simulated: AnnData, tmp_path: Path) -> None:
    killed(tmp_path / "run", "flow")
    names = sorted(f.name for f in (tmp_path / "run").iterdir() if f.name.startswith("flow-"))
    assert names == ["flow-00000012.safetensors", "flow-00000024.safetensors"]
    flow = scflow.tl.train(simulated, **SETTINGS, checkpoint=Checkpoint(tmp_path / "run", every=3), resume=True)
    same_flow(flow, unbroken)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is a signal of POSIX systems")
def test_a_run_that_was_killed_twice_goes_on_bit_for_bit(unbroken: Flow, simulated: AnnData, tmp_path: Path) -> None:
    for stage in ("codec", "codec", "flow", "flow"):
        killed(tmp_path / "run", stage)
    flow = scflow.tl.train(simulated, **SETTINGS, checkpoint=Checkpoint(tmp_path / "run", every=3), resume=True)
    same_flow(flow, unbroken)


@pytest.mark.parametrize(
    ("kind", "name", "calls"),
    [
        (Counts, "losses", 3),  # before the first checkpoint
        (Counts, "losses", 30),  # in the codec's training
        (FlowMatching, "draw_times", 2),  # the codec is done, nothing of the flow is
        (FlowMatching, "draw_times", 21),
        (Flow, "calibrated", 1),  # all is trained
    ],
)
def test_a_crash_anywhere_changes_nothing(
    kind: type, name: str, calls: int, unbroken: Flow, simulated: AnnData, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, every=2)
    crashed(kind, name, calls, simulated, **SETTINGS, checkpoint=checkpoint)
    same_flow(scflow.tl.train(simulated, **SETTINGS, checkpoint=checkpoint, resume=True), unbroken)


@pytest.mark.parametrize(
    "settings",
    [
        {"space": "genes", "optimisation": Optimisation(accumulate=2, average="power", schedule="constant")},
        {"space": "quantile", "precision": "float16"},
        {"use_rep": "X_own", "watch": Watch(every=9, n_cells=20, steps=2)},
    ],
    ids=lambda s: s.get("space", "embedding"),
)
def test_every_kind_of_run_goes_on(settings: dict[str, Any], simulated: AnnData, tmp_path: Path) -> None:
    simulated.obsm["X_own"] = np.random.default_rng(0).normal(size=(simulated.n_obs, 4)).astype(np.float32)
    options = {**SETTINGS, "steps": 24, "batch_size": 40, "validation": 0.2, **settings}
    whole = scflow.tl.train(simulated.copy(), **options)
    crashed(FlowMatching, "draw_times", 11, simulated, **options, checkpoint=tmp_path / "run")
    flow = scflow.tl.train(simulated, **options, checkpoint=tmp_path / "run", resume=True)
    pd.testing.assert_frame_equal(
        flow.history.drop(columns="cells_per_second"), whole.history.drop(columns="cells_per_second"), check_exact=True
    )
    for name, value in whole.field.state_dict().items():
        assert torch.equal(flow.field.state_dict()[name], value), name


def test_layers_that_draw_from_the_global_generator_go_on_too(tmp_path: Path) -> None:
    """Dropout has no generator of its own: the run seeds the global one, keeps it, and puts it back."""
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))

    class Fixed:
        def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
            return x[rows]

    def fit(calls: int | None, store: Checkpoints | None) -> list[Tensor]:
        torch.random.default_generator.manual_seed(calls or 0)
        before = torch.random.get_rng_state()
        run = Run(torch.arange(20, 120), torch.arange(20), 32, 0, torch.device("cpu"), progress=False)
        field_ = nn.MLP(3, width=16, depth=2, dropout=0.5)
        with torch.no_grad():
            for i, p in enumerate(field_.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
        before = torch.random.get_rng_state()
        with pytest.MonkeyPatch.context() as patch:
            if calls:
                crash_after(patch, FlowMatching, "draw_times", calls + 1)
            try:
                run = replace(run, checkpoints=store)
                fitted, _ = fit_field(field_, Fixed(), None, noises.Gaussian(), FlowMatching(), run, steps=12, lr=1e-2)
            except Stop:
                return []
            finally:
                assert torch.equal(torch.random.get_rng_state(), before)
        return list(fitted.parameters())

    whole = fit(None, None)
    fit(8, Checkpoints(Checkpoint(tmp_path, every=1), {}, resume=False))
    for a, b in zip(whole, fit(None, Checkpoints(Checkpoint(tmp_path, every=1), {}, resume=True)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 11])
def test_the_order_of_the_data_goes_on_where_it_was(taken: int) -> None:
    def order() -> Order:
        return Order(torch.arange(10), 3, torch.Generator().manual_seed(1))

    first = order()
    batches = iter(first)
    for _ in range(taken):
        next(batches)
    values, tensors = first.state()
    second = order()
    second.restore(values, {name: t.clone() for name, t in tensors.items()})
    again = iter(second)
    for _ in range(9):
        assert torch.equal(next(batches), next(again))


# The folder.


def test_the_last_few_are_kept_and_the_finished_codec(simulated: AnnData, tmp_path: Path) -> None:
    scflow.tl.train(simulated, **SETTINGS, checkpoint=Checkpoint(tmp_path / "a" / "b", every=1, keep=3))
    names = sorted(file.name for file in (tmp_path / "a" / "b").iterdir())
    last = int(names[-1][5:13])
    assert names == ["codec.safetensors", *(f"flow-{last - i:08d}.safetensors" for i in (8, 4, 0))]


def test_a_checkpoint_comes_every_so_many_looks_or_minutes(simulated: AnnData, tmp_path: Path) -> None:
    options = {**SETTINGS, "space": "genes", "steps": 7}
    scflow.tl.train(simulated.copy(), **options, checkpoint=Checkpoint(tmp_path / "looks", every=3, keep=99))
    assert sorted(int(f.name[5:13]) for f in (tmp_path / "looks").iterdir()) == [3, 6, 7]
    scflow.tl.train(simulated, **options, checkpoint=Checkpoint(tmp_path / "time", every=99, minutes=0, keep=99))
    assert len(list((tmp_path / "time").iterdir())) == 7


def test_what_a_kill_left_half_written_is_removed(simulated: AnnData, tmp_path: Path) -> None:
    options = {**SETTINGS, "space": "genes", "steps": 4}
    left = tmp_path / ".flow-00000002.safetensors.x1y2"
    left.write_bytes(b"half")
    scflow.tl.train(simulated, **options, checkpoint=tmp_path)
    assert not left.exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(simulated: AnnData, tmp_path: Path) -> None:
    options = {**SETTINGS, "space": "genes", "steps": 9}
    checkpoint = Checkpoint(tmp_path, every=2)
    whole = scflow.tl.train(simulated.copy(), **options, checkpoint=checkpoint)
    last = max(tmp_path.iterdir())
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=r"is damaged.*The checkpoint before it is taken"):
        flow = scflow.tl.train(simulated.copy(), **options, checkpoint=checkpoint, resume=True)
    same_flow(flow, whole)
    for file in tmp_path.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"None of the 2 checkpoints in '.*' can be read\. Start in another folder"):
        scflow.tl.train(simulated, **options, checkpoint=checkpoint, resume=True)


def test_checkpoints_hold_no_pickle(simulated: AnnData, tmp_path: Path) -> None:
    from safetensors import safe_open

    scflow.tl.train(simulated, **{**SETTINGS, "steps": 4}, checkpoint=tmp_path)
    for file in tmp_path.iterdir():
        with safe_open(file, framework="numpy") as content:
            assert content.metadata()["kind"] == "scflow.Checkpoint"


# Refusals.


@pytest.fixture
def begun(simulated: AnnData, tmp_path: Path) -> Path:
    scflow.tl.train(simulated.copy(), **{**SETTINGS, "space": "genes", "steps": 4}, checkpoint=tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"lr": 0.01},
            r"Cannot resume from '.*run': lr was None and is now 0\.01\. Give what the run was started with",
        ),
        ({"seed": 4}, r"seed was 3 and is now 4; validation"),
        ({"steps": 5, "batch_size": 40}, r"batch_size was 48 and is now 40; steps was 4 and is now 5"),
        ({"time": "uniform"}, r"objective\.time\.name was 'Stratified' and is now 'Uniform'"),
        ({"condition": None}, r"conditions of the cells are other ones than those the run was started on"),
        ({"precision": "float16"}, r"precision was '\w+' and is now 'float16'"),
        (
            {"optimisation": Optimisation(average="power", clip=2.0)},
            r"optimisation\.clip was 1\.0 and is now 2\.0; optimisation\.average\.name was 'Ramp' and is now 'Power'",
        ),
    ],
)
def test_other_settings_are_refused(options: dict[str, Any], match: str, simulated: AnnData, begun: Path) -> None:
    before = set(simulated.uns), set(simulated.var)
    with pytest.raises(InputError, match=match):
        scflow.tl.train(
            simulated, **{**SETTINGS, "space": "genes", "steps": 4, **options}, checkpoint=begun, resume=True
        )
    assert (set(simulated.uns), set(simulated.var)) == before


def test_other_data_are_refused_and_the_same_in_other_types_are_not(simulated: AnnData, begun: Path) -> None:
    options = {**SETTINGS, "space": "genes", "steps": 4, "checkpoint": begun, "resume": True}
    other = simulated.copy()
    other.X = other.X.astype(np.int32)
    scflow.tl.train(other, **options)
    simulated.X.data[7] += 1
    with pytest.raises(InputError, match=r"cells or their counts are other ones than those the run was started on"):
        scflow.tl.train(simulated, **options)


def test_a_run_is_not_written_over(simulated: AnnData, begun: Path) -> None:
    with pytest.raises(InputError, match=r"holds 2 checkpoints of a run \(the last: flow-00000004\.safetensors\)\. Go"):
        scflow.tl.train(simulated, **SETTINGS, checkpoint=begun)
    file = begun / "flow-00000004.safetensors"
    with pytest.raises(InputError, match=r"is a file\. Give a folder"):
        scflow.tl.train(simulated, **SETTINGS, checkpoint=file)


def test_nothing_to_go_on_with_starts_anew_and_says_so(
    simulated: AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**SETTINGS, "space": "genes", "steps": 3, "progress": True, "resume": True}
    flow = scflow.tl.train(simulated.copy(), **options, checkpoint=tmp_path / "new")
    assert f"no run to go on with yet: starting one in '{tmp_path / 'new'}'" in capsys.readouterr().out
    same_flow(scflow.tl.train(simulated, **options, checkpoint=tmp_path / "new"), flow)
    assert "going on with the run in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"every": 0}, r"every=0 must be a whole number of at least 1"),
        ({"keep": 0}, r"keep=0 must be a whole number of at least 1"),
        ({"minutes": -1}, r"minutes=-1 must be a number of at least 0, or None"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Checkpoint(os.curdir, **settings)
