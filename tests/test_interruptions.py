"""Signals, kills, and errors of callbacks and of memory: what is kept, what is said, and how the process is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from children import POSSIBLE, SETTINGS, WRITTEN, Child, Fault, State, cells, changed, same_flow, slots_of, training

import scflow
from scflow.errors import Diverged, OutOfMemory
from scflow.flow import Flow
from scflow.training.interrupts import listening, shielded

forks = pytest.mark.skipif(not POSSIBLE, reason="forks processes, which systems like POSIX do")

STEP = "scflow.matching.FlowMatching.draw_times"
CODEC = "scflow.codecs.Counts.losses"


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts what runs in its background deaf to Ctrl-C, and Python leaves it at that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the children."""
    monkeypatch.setattr("scflow.nn.mlp._width", lambda dim: 16)
    monkeypatch.setattr("scflow.flow._learning._DRAWN", 256)


@pytest.fixture(scope="module")
def unbroken() -> Callable[[str], Flow]:
    """Flows of trainings that nothing ended, made once a space."""
    made: dict[str, Flow] = {}

    def of(space: str) -> Flow:
        if space not in made:
            made[space] = scflow.tl.train(cells(), **SETTINGS, space=space)
        return made[space]

    return of


def resumed(folder: Path, space: str) -> Flow:
    return scflow.tl.train(cells(), **SETTINGS, space=space, checkpoint=folder / "run", resume=True)


# Ctrl-C.


@forks
@pytest.mark.parametrize(
    ("space", "at", "call", "kept"),
    [
        ("genes", STEP, 42, "flow-00000041"),  # between two looks
        ("genes", "scflow.training.loop._validated", 11, "flow-00000022"),
        ("genes", "torch.optim.AdamW.step", 30, "flow-00000030"),
        ("genes", "scflow.training.progress.load", 8, "flow-"),  # in the best average, at whatever look is better
        ("genes", "os.fsync", 9, "flow-00000020"),  # in the fifth checkpoint: a file and its folder are flushed
        ("counts", STEP, 42, "flow-00000041"),
    ],
    ids=["step", "validation", "optimiser", "best", "checkpoint", "counts"],
)
def test_ctrl_c_keeps_the_best_flow_and_the_state(
    space: str, at: str, call: int, kept: str, unbroken: Callable[[str], Flow], tmp_path: Path
) -> None:
    child = Child(training, tmp_path, fault=Fault(at, call, "SIGINT"), space=space)
    assert child.end() == 0
    told = child.told
    assert (told["outcome"], told["interrupted"], told["left"]) == ("returned", True, [])
    assert tuple(told["changed"]) == WRITTEN
    (warning,) = told["warnings"]
    assert "The training was interrupted after the look at step" in warning
    assert f"Go on with it: checkpoint='{tmp_path / 'run'}', resume=True." in warning
    assert max(f.stem for f in (tmp_path / "run").glob("flow-*")).startswith(kept)
    assert not list((tmp_path / "run").glob(".*"))
    assert len(Flow.load(tmp_path / "best.safetensors").history) < 45
    assert not same_flow(resumed(tmp_path, space), unbroken(space))


@forks
def test_ctrl_c_while_there_is_no_flow_yet_is_raised_and_nothing_lost(
    unbroken: Callable[[str], Flow], tmp_path: Path
) -> None:
    child = Child(training, tmp_path, fault=Fault(CODEC, 31, "SIGINT"), space="counts")
    assert child.end() == 0
    told = child.told
    assert (told["outcome"], told["changed"], told["left"]) == ("KeyboardInterrupt", [], [])
    assert "there is no flow yet that could be kept" in told["message"]
    assert list((tmp_path / "run").glob("codec-*"))
    assert not same_flow(resumed(tmp_path, "counts"), unbroken("counts"))


@forks
@pytest.mark.parametrize("at", ["scflow._anndata.write_preprocessing", "scflow._anndata.write_flow"])
def test_what_is_being_written_is_written_first(at: str, tmp_path: Path) -> None:
    child = Child(training, tmp_path, fault=Fault(at, 1, "SIGINT"), space="genes", checkpoint=False)
    assert child.end() == 0
    assert child.told["outcome"] == "KeyboardInterrupt"
    assert tuple(child.told["changed"]) == WRITTEN
    assert child.told["left"] == []


@forks
def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path) -> None:
    child = Child(training, tmp_path, fault=Fault(STEP, 42, "SIGINT", times=2), space="genes")
    assert child.end() == 0
    assert (child.told["outcome"], child.told["interrupted"], child.told["left"]) == ("returned", True, [])
    assert max(f.stem for f in (tmp_path / "run").glob("flow-*")) == "flow-00000040"  # that of a look


@forks
def test_ctrl_c_while_counts_are_calibrated_leaves_that_out(tmp_path: Path) -> None:
    child = Child(training, tmp_path, fault=Fault("scflow.flow.Flow.calibrated", 1, "SIGINT"), space="genes")
    assert child.end() == 0
    assert child.told["outcome"] == "returned"
    assert "its counts are not calibrated" in child.told["warnings"][0]
    assert Flow.load(tmp_path / "best.safetensors").calibration is None


@pytest.mark.slow
def test_a_signal_at_any_line_leaves_the_best_average_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Ctrl-C at random lines of the loop: the weights that are left are always those of one look."""
    from scflow.training.progress import Best

    seen: list[torch.Tensor] = []
    offer = Best.offer

    def offered(best: Any, *given: Any) -> None:
        offer(best, *given)
        seen.append(torch.cat([w.flatten() for w in best.weights]).clone())

    monkeypatch.setattr(Best, "offer", offered)
    data = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    embedded = AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(120)]), obsm={"X_e": data})
    draw, ended = random.Random(0), 0
    for _ in range(20):
        left, seen[:] = draw.randrange(20, 2000), []

        def line(frame: Any, event: str, arg: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith(("loop.py", "progress.py", "optim.py", "history.py")):
                return None
            left -= event == "line"
            if left in (0, 1):
                signal.raise_signal(signal.SIGINT)
            return line

        sys.settrace(line)
        try:
            flow = scflow.tl.train(embedded.copy(), use_rep="X_e", **{**SETTINGS, "steps": 60, "condition": None})
        except KeyboardInterrupt:  # outside the loop
            continue
        finally:
            sys.settrace(None)
        ended += flow.provenance["interrupted"]
        weights = torch.cat([p.flatten() for p in flow.field.parameters()])
        if flow.provenance["best_step"]:
            assert any(torch.equal(weights, one) for one in seen)
            assert flow.provenance["best_step"] in set(flow.history["step"])
    assert ended > 8


# SIGTERM.


@forks
def test_sigterm_keeps_the_state_and_ends_the_process(unbroken: Callable[[str], Flow], tmp_path: Path) -> None:
    child = Child(training, tmp_path, fault=Fault(STEP, 42, "SIGTERM"), space="genes")
    assert child.end() == -signal.SIGTERM
    assert max(f.stem for f in (tmp_path / "run").iterdir()) == "flow-00000041"
    assert not same_flow(resumed(tmp_path, "genes"), unbroken("genes"))


@forks
@pytest.mark.parametrize(("handler", "outcome"), [("return", "returned"), ("exit", "SystemExit")])
def test_a_handler_of_the_users_own_is_called_once_the_state_is_kept(
    handler: str, outcome: str, tmp_path: Path
) -> None:
    child = Child(training, tmp_path, fault=Fault(STEP, 42, "SIGTERM"), space="genes", handler=handler)
    assert child.end() == 0
    told = child.told
    assert (told["outcome"], told["heard"], told["left"]) == (outcome, [signal.SIGTERM], [])
    assert told["changed"] == (list(WRITTEN) if handler == "return" else [])
    assert max(f.stem for f in (tmp_path / "run").iterdir()) == "flow-00000041"


@forks
def test_without_a_folder_sigterm_is_left_alone(tmp_path: Path) -> None:
    child = Child(training, tmp_path, fault=Fault(STEP, 42, "SIGTERM"), space="genes", checkpoint=False)
    assert child.end() == -signal.SIGTERM


@forks
@pytest.mark.slow
def test_sigterm_in_the_shell_is_status_143_and_says_how_to_go_on(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "cells.h5ad")
    files = ["cells.h5ad", "--out", "flow.safetensors", "--checkpoint", "run", "--space", "genes"]
    command = [sys.executable, "-m", "scflow", "train", *files, "--steps", "4000", "--batch-size", "32"]
    env = os.environ | {"PYTHONPATH": str(Path(scflow.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 90
    while not list(tmp_path.glob("run/flow-*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "scflow: stopped by SIGTERM. Go on with the same command and --resume: the state is in 'run'" in said
    assert not (tmp_path / "flow.safetensors").exists()
    assert not list(tmp_path.glob("run/.*"))


# SIGKILL.


@forks
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_a_random_moment_loses_nothing(seed: int, unbroken: Callable[[str], Flow], tmp_path: Path) -> None:
    draw = random.Random(seed)
    child = Child(training, tmp_path, space="counts", every=1)
    child.wait("begun")
    time.sleep(draw.uniform(0.02, 2.0))
    child.send(signal.SIGKILL)
    assert child.end() in (0, -signal.SIGKILL)
    assert not same_flow(resumed(tmp_path, "counts"), unbroken("counts"))


# Errors.


@forks
def test_an_error_of_a_callback_is_raised_with_the_step_and_the_state(
    unbroken: Callable[[str], Flow], tmp_path: Path
) -> None:
    whole, adata, before = unbroken("genes"), cells(), State.now()
    slots, closed = slots_of(adata), []

    class Recorder:
        def __call__(self, row: dict[str, float]) -> None:
            if row["step"] == 42:
                raise ZeroDivisionError("a callback of one's own")

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(ZeroDivisionError, match=r"one's own") as caught:
        scflow.tl.train(
            adata,
            **SETTINGS,
            space="genes",
            callbacks=[Recorder()],
            checkpoint=scflow.training.Checkpoint(tmp_path / "run", 9),
        )
    said = f"The flow of step 42 is in '{tmp_path / 'run'}': go on with resume=True."
    assert caught.value.__notes__ == [f"scflow: raised in step 43 of 90 of training the flow. {said}"]
    assert closed == [True]
    assert changed(slots, slots_of(adata)) == []
    assert before.differences() == []
    assert not same_flow(resumed(tmp_path, "genes"), whole)
    with pytest.raises(ZeroDivisionError) as caught:
        scflow.tl.train(adata, **SETTINGS, space="genes", callbacks=[Recorder()])
    assert "Nothing is kept of it; with checkpoint='run' it could go on." in caught.value.__notes__[0]


def test_a_gradient_that_is_not_finite_any_more_brings_the_best_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    adata, before, losses, calls = cells(), State.now(), scflow.matching.FlowMatching.losses, [0]

    def bad(*given: Any) -> torch.Tensor:
        found = losses(*given)
        calls[0] += torch.is_grad_enabled()
        return found * float("nan") if calls[0] > 50 and torch.is_grad_enabled() else found

    slots = slots_of(adata)
    monkeypatch.setattr(scflow.matching.FlowMatching, "losses", bad)
    with pytest.raises(Diverged, match=r"The best flow before that, of step \d+, is the error's `flow`") as caught:
        scflow.tl.train(adata, **SETTINGS, space="genes")
    assert len(str(caught.value)) < 400
    assert changed(slots, slots_of(adata)) == []
    assert before.differences() == []
    assert scflow.tl.generate(caught.value.flow, 20, progress=False).n_obs == 20


@pytest.mark.parametrize("what", ["OutOfMemoryError", "MemoryError"])
def test_no_room_for_a_step_names_the_batch_and_what_takes_less(what: str, tmp_path: Path) -> None:
    adata, before = cells(), State.now()
    slots = slots_of(adata)
    with Fault(STEP, 42, what).waiting(), pytest.raises(OutOfMemory) as caught:
        scflow.tl.train(adata, **SETTINGS, space="genes", checkpoint=tmp_path)
    said = str(caught.value)
    assert "step 42 of 90" in said or "step 41 of 90" in said
    assert "batches of 32 cells" in said
    assert "batch_size=16" in said
    assert "Optimisation(accumulate=2)" in said
    assert f"The flow of step 40 is in '{tmp_path}'" in said
    assert "\n" not in said
    assert type(caught.value.__cause__).__name__ == what
    assert changed(slots, slots_of(adata)) == []
    assert before.differences() == []


def test_what_ends_a_training_is_freed_at_once(tmp_path: Path) -> None:
    """Not when the collector of cycles comes by: it may be gigabytes."""
    import gc
    import weakref

    alive: list[Any] = []

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(50 + 1, 50 + 1)

        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Any) -> torch.Tensor:
            if not alive:
                alive.append(weakref.ref(self))
            return self.layer(x)

    def build(dim: int, **_: Any) -> torch.nn.Module:
        net = Net()
        net.layer = torch.nn.Linear(dim, dim)
        return net

    for what in ("ValueError", "OutOfMemoryError"):
        gc.collect()
        gc.disable()
        try:
            with Fault(STEP, 20, what).waiting(), pytest.raises((ValueError, MemoryError)) as caught:
                scflow.tl.train(cells(), **SETTINGS, space="genes", field=build)
            del caught
            assert alive.pop()() is None, what
        finally:
            gc.enable()


# Reflow, distill, drawing.


def test_reflow_and_distill_end_where_they_are_interrupted(unbroken: Callable[[str], Flow]) -> None:
    flow = unbroken("genes")
    with Fault(STEP, 20, "KeyboardInterrupt").waiting(), pytest.warns(UserWarning, match=r"was interrupted after the"):
        new = scflow.tl.reflow(flow, n_pairs=200, steps=200, iterations=3, progress=False)
    assert new.provenance["reflow_iterations"] == 1
    assert new.provenance["interrupted"]
    fault = Fault("scflow.matching.distillation.Trajectory.losses", 20, "KeyboardInterrupt")
    with fault.waiting(), pytest.warns(UserWarning, match=r"was interrupted after the"):
        new = scflow.tl.distill(flow, n_trajectories=200, steps=200, progress=False)
    assert new.provenance["interrupted"]


def test_drawing_and_scoring_are_interrupted_without_a_trace(unbroken: Callable[[str], Flow], tmp_path: Path) -> None:
    flow, adata, before = unbroken("genes"), cells(), State.now()
    slots = slots_of(adata)
    fault = Fault("scflow.codecs.Standardized.rank", 2, "SIGINT")
    with fault.waiting(), pytest.raises(KeyboardInterrupt):
        scflow.tl.generate(flow, 3000, progress=False, out=tmp_path / "new.h5ad", calibration="independent")
    assert list(tmp_path.iterdir()) == []
    with Fault("scflow.metrics.Space.fit", 1, "SIGINT").waiting(), pytest.raises(KeyboardInterrupt):
        scflow.tl.score(adata[:100], adata[100:], reference=adata[:100], metrics=("mmd",), condition=None)
    assert changed(slots, slots_of(adata)) == []
    assert before.differences() == []


# Handlers.


def test_handlers_are_put_back_and_others_stay() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    own = lambda number, frame: None  # noqa: E731
    with listening(terminate=True) as ending, shielded():
        signal.raise_signal(signal.SIGTERM)
        assert ending.asked is None
    assert ending.asked == signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    signal.signal(signal.SIGINT, own)
    try:
        with listening(terminate=False):
            assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before[0])
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with shielded():
            signal.raise_signal(signal.SIGINT)
            done.append(True)
    assert done
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_thread_trains_without_hearing_signals() -> None:
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(scflow.tl.train(cells(), **SETTINGS | {"steps": 3}, space="genes"))
    )
    thread.start()
    thread.join()
    assert isinstance(found[0], Flow)


# A notebook.


@pytest.mark.slow
def test_the_stop_button_of_a_notebook(tmp_path: Path) -> None:
    """A real kernel, interrupted as Jupyter does it; it lives on and can use the flow."""
    client = pytest.importorskip("jupyter_client", reason="jupyter_client and ipykernel are not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    env = os.environ | {"PYTHONPATH": str(Path(scflow.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    manager, kernel = client.manager.start_new_kernel(cwd=str(tmp_path), env=env)

    def run(code: str, *, interrupt: bool = False) -> tuple[str, str]:
        said: list[str] = []
        number = kernel.execute(code)
        if interrupt:
            until = time.monotonic() + 90
            while not list(tmp_path.glob("run/flow-*")) and time.monotonic() < until:
                time.sleep(0.05)
            manager.interrupt_kernel()
        status = kernel.get_shell_msg(timeout=120)["content"]["status"]
        while True:
            message = kernel.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != number:
                continue
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return status, "".join(said)

    try:
        assert run("import scflow, signal\nadata = scflow.datasets.simulate(200, 50, 3, seed=1)")[0] == "ok"
        train = "flow = scflow.tl.train(adata, space='genes', steps=20_000, progress=False, checkpoint='run')"
        status, said = run(train, interrupt=True)
        assert status == "ok"
        assert "The training was interrupted after the look at step" in said
        status, said = run("print(scflow.tl.generate(adata, 20, progress=False).n_obs, flow.provenance['interrupted'])")
        assert (status, said.strip()) == ("ok", "20 True")
        assert run("assert signal.getsignal(signal.SIGINT) is signal.default_int_handler")[0] == "ok"
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
