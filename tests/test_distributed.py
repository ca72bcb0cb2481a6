"""Several processes on one call: two of them, over Gloo on this machine, beside one with their batches together.

The two are started once, and go through everything that is to be looked at; another pair is started by torchrun, and
one of it is lost.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from scipy import sparse
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import scflow
from scflow.__main__ import main
from scflow.codecs import Embedding
from scflow.flow import Flow, Watch, _balance
from scflow.matching import FlowMatching, noises
from scflow.training import Checkpoint, Optimisation, fit, loop, stored
from scflow.training.batches import Coordinates, Encoded, Order
from scflow.training.pairs import Fresh
from scflow.training.progress import Best
from scflow.training.stored import Pools, Stored
from scflow.training.workers import ALONE, Workers, together

ALIKE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(scflow.__file__).parents[1])}
"""For a process that is to be as this one."""

SETTINGS: dict[str, Any] = {
    "precision": "float32",
    "condition": "cell_type",
    "steps": 12,
    "progress": False,
    "field": "small",
}


def simulated(n: int = 240) -> anndata.AnnData:
    adata = scflow.datasets.simulate(n_cells=n, n_genes=30, seed=0)
    adata.obs["day"] = [float(i % 3) for i in range(n)]
    adata.obs["drug"] = [["none", "A"][i % 2] for i in range(n)]
    adata.obsm["X_own"] = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return adata


class Net(nn.Module):
    """A network of the user's own: with dropout, a buffer that changes, and a weight that is not used."""

    def __init__(self, dim: int, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim + 1, 32), nn.SiLU(), nn.Dropout(dropout), nn.Linear(32, dim))
        self.unused = nn.Parameter(torch.zeros(3))
        self.register_buffer("calls", torch.zeros(()))
        with torch.no_grad():
            for p in self.layers.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) * 0.1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        self.calls += 1
        out: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return out


def small(dim: int, *, cardinalities: Any) -> nn.Module:
    return scflow.nn.MLP(dim, width=32, depth=2, cardinalities=cardinalities)


def trained(size: int, **settings: Any) -> Flow:
    """A flow; `size` is the batch of all processes."""
    given = SETTINGS | {"batch_size": size // Workers.launched().size} | settings
    given["field"] = small if given["field"] == "small" else given["field"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scflow.tl.train(simulated(), **given)


CASES: dict[str, dict[str, Any]] = {
    "counts": {},
    "genes": {"space": "genes"},
    "pca": {"space": "pca", "optimisation": Optimisation(accumulate=2)},
    "embedding": {"use_rep": "X_own", "noise": "matched_variance", "watch": Watch(every=5, n_cells=20, steps=2)},
    "by condition": {"space": "genes", "noise": "dropout_by_condition", "weight": "min_snr"},
    "carried": {"condition": None, "source": {"drug": "none"}, "group": "cell_type", "coupling": "independent"},
    "own network": {"condition": None, "use_rep": "X_own", "field": Net(4)},
}
"""What two processes go through as one does with the doubled batch."""


OTHERS = ("coupled", "course", "groups held out", "disk genes", "disk counts", "whole", "gone on")
"""What is the same in both processes, and not that of one."""


def weights(flow: Flow) -> dict[str, Tensor]:
    named = {"field": flow.field.state_dict(), "codec": flow.codec.state_dict()}
    return {f"{part}.{name}": t.clone() for part, tensors in named.items() for name, t in tensors.items()}


def summary(flow: Flow) -> dict[str, Any]:
    table = None if flow.calibration is None else flow.calibration.state_dict()
    return {"weights": weights(flow), "history": flow.history, "facts": dict(flow.provenance), "calibration": table}


def raised(work: Callable[[], Any]) -> str:
    """The error of some work, with its kind."""
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def in_both(folder: Path) -> dict[str, Any]:
    """What each of the two processes finds."""
    rank = Workers.launched().rank
    found = {name: summary(trained(64, **case)) for name, case in CASES.items()}
    found["coupled"] = summary(trained(64, coupling="entropic"))
    found["course"] = summary(trained(64, condition=None, course="day"))
    carried = {"condition": None, "source": {"drug": "none"}, "group": "cell_type", "use_rep": "X_own", "steps": 6}
    found["groups held out"] = summary(trained(64, **carried, validation="groups"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "PART", 100)
        for space in ("genes", "counts"):
            options = SETTINGS | {"field": small, "batch_size": 32, "space": space}
            found[f"disk {space}"] = summary(scflow.tl.train(folder / "cells.h5ad", **options))
    found["averaged"] = averaged()
    return found | broken(folder, rank) | spoken(folder, rank) | drawn(folder, rank)


def averaged() -> dict[str, Any]:
    """How often gradients are averaged when the batches of a process, of 32 cells, come in four parts."""
    options = {"condition": None, "use_rep": "X_own", "steps": 6, "optimisation": Optimisation(accumulate=2)}
    whole = weights(trained(64, **options))
    seen = {"averages": 0, "parts": 0}
    wrapped, losses = Workers.wrapped, FlowMatching.losses

    def averaging(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        seen["averages"] += int(bucket.is_last())
        return allreduce_hook(dist.group.WORLD, bucket)

    averaging.__annotations__.clear()  # which PyTorch would read as they are, and they are strings

    def hooked(self: Workers, module: nn.Module) -> nn.Module:
        made = wrapped(self, module)
        made.register_comm_hook(None, averaging)  # type: ignore[operator]
        return made

    def counted(self: FlowMatching, *given: Any) -> Tensor:
        seen["parts"] += int(torch.is_grad_enabled())
        return losses(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_NUMBERS", 0)
        patch.setattr(fit, "_FEWEST", 8)
        patch.setattr(Workers, "wrapped", hooked)
        patch.setattr(FlowMatching, "losses", counted)
        return {"whole": whole, "in parts": weights(trained(64, **options)), **seen}


def broken(folder: Path, rank: int) -> dict[str, Any]:
    """Runs that do not come to their end, and what cannot be shared."""
    dropout = {"condition": None, "use_rep": "X_own", "field": Net(4, dropout=0.5, seed=rank)}
    found = {"whole": summary(trained(64, **dropout))}
    kept = Checkpoint(folder / "broken", every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Best, "offer", crashing(Best.offer, 7))
        found["crash"] = raised(lambda: trained(64, **dropout, checkpoint=kept))
    found["gone on"] = summary(trained(64, **dropout, checkpoint=kept, resume=True))
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(loop, "_stepped", crashing(loop._stepped, 3, KeyboardInterrupt))
        found["stopped"] = raised(lambda: trained(64))
    found["more processes"] = raised(lambda: trained(400))
    found["other cells"] = raised(lambda: scflow.tl.train(simulated(240 + 20 * rank), steps=2, progress=False))
    found["other options"] = raised(lambda: trained(64, steps=20 + rank))
    found["other counts"] = raised(lambda: scflow.tl.train(other_counts(rank), steps=2, progress=False))
    found["diverged"] = raised(lambda: trained(64, use_rep="X_own", condition=None, lr=1e30))
    return found


def spoken(folder: Path, rank: int) -> dict[str, Any]:
    """What is said, left and written."""
    heard: list[dict[str, float]] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adata, options = simulated(), SETTINGS | {"field": small, "batch_size": 8, "callbacks": [heard.append]}
        kept = {"checkpoint": folder / f"run of {rank}", "profile": folder / f"trace of {rank}.json"}
        scflow.tl.train(adata, **options, **kept)
    warned = [str(w.message) for w in said if w.category is UserWarning]
    return {"heard": len(heard), "warned": warned, "slots": sorted(adata.uns)}


def drawn(folder: Path, rank: int) -> dict[str, Any]:
    """Cells, scores, and what the command line does."""
    flow, found = trained(64), dict[str, Any]()
    for how in ("balanced", "independent"):
        new = scflow.tl.generate(flow, 2500, progress=False, calibration=how)
        found[f"drawn {how}"] = (new.layers["counts"], new.obsm["X_scflow"])
    path = scflow.tl.generate(flow, 2500, progress=False, out=folder / "two.h5ad")
    found["written"] = (path.exists(), path.name)
    found["taken"] = raised(lambda: scflow.tl.generate(flow, 50, progress=False, out=folder / "two.h5ad"))
    if rank == 0:
        flow.save(folder / "flow.safetensors")
    found["scores"] = scores()
    found["exit"] = main(train_command(folder, folder))
    found["group"] = dist.is_initialized()
    return found


METRICS = ("wasserstein", "mmd", "logistic_auc_genes", "gene_means", "label_accuracy", "copying")


def scores() -> pd.DataFrame:
    cells, options = simulated(480), {"condition": "cell_type", "metrics": METRICS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scflow.tl.score(cells[:240].copy(), cells[240:].copy(), reference=simulated(), **options)


def crashing(function: Callable[..., Any], calls: int, error: type[BaseException] = OSError) -> Callable[..., Any]:
    """The function, which raises at a call."""
    left = [calls]

    def counted(*given: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error("the machine is gone")
        return function(*given, **options)

    return counted


def other_counts(rank: int) -> anndata.AnnData:
    adata = simulated()
    adata.X = adata.X * (1 + rank)
    return adata


def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
    return number


def environment(rank: int, where: int) -> dict[str, str]:
    """What torchrun sets, for one of two processes."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(where),
        **ALIKE,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    """What the two processes found."""
    where = port()
    simulated().write_h5ad(folder / "cells.h5ad")
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank)],
            env=os.environ | environment(rank, where),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return [torch.load(folder / f"found {rank}.pt", weights_only=False) | {"said": said[rank]} for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_with_the_doubled_batch(case: str, both: list[dict[str, Any]]) -> None:
    one, two = summary(trained(64, **CASES[case])), both[0][case]
    for name, expected in one["weights"].items():
        if not name.endswith("calls"):
            torch.testing.assert_close(two["weights"][name], expected, rtol=0, atol=2e-5, msg=f"{case}: {name}")
    columns = ["loss", "validation_loss", "gradient_norm", "loss_t0", "loss_t4", "learning_rate", "step"]
    np.testing.assert_allclose(two["history"][columns], one["history"][columns], rtol=2e-4, atol=2e-5)
    assert two["facts"]["batch_size"] == one["facts"]["batch_size"]
    assert two["facts"]["processes"] == 2
    assert "processes" not in one["facts"]


def test_gradients_are_averaged_once_for_all_parts_of_a_batch(both: list[dict[str, Any]]) -> None:
    """Six steps of two batches of four parts; and what is learnt is that of whole batches."""
    for found in (one["averaged"] for one in both):
        assert (found["averages"], found["parts"]) == (6 * 2, 6 * 2 * 4)
        for name, value in found["whole"].items():
            torch.testing.assert_close(found["in parts"][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", [*CASES, *OTHERS])
def test_both_processes_have_the_same_flow(case: str, both: list[dict[str, Any]]) -> None:
    first, second = (found[case] for found in both)
    for name, value in first["weights"].items():
        assert torch.equal(second["weights"][name], value), name
    pd.testing.assert_frame_equal(first["history"], second["history"], check_exact=True)
    for name, value in (first["calibration"] or {}).items():
        assert torch.equal(second["calibration"][name], value), name


def test_a_run_that_ended_goes_on_bit_for_bit_with_the_dropout_of_each_process(both: list[dict[str, Any]]) -> None:
    whole, again = both[0]["whole"], both[0]["gone on"]
    assert "OSError: the machine is gone" in both[0]["crash"]
    for name, value in whole["weights"].items():
        assert torch.equal(again["weights"][name], value), name
    timed = ["cells_per_second"]
    pd.testing.assert_frame_equal(
        whole["history"].drop(columns=timed), again["history"].drop(columns=timed), check_exact=True
    )


def test_the_first_process_speaks_and_writes_and_nobody_else(both: list[dict[str, Any]], folder: Path) -> None:
    assert [found["heard"] for found in both] == [12, 0]
    assert [len(found["warned"]) for found in both] == [1, 0]
    assert [found["slots"] for found in both] == [both[0]["slots"]] * 2
    assert "scflow" in both[1]["slots"]
    assert (folder / "run of 0").exists()
    assert not (folder / "run of 1").exists()
    assert (folder / "trace of 0.json").exists()
    assert not (folder / "trace of 1.json").exists()
    assert both[0]["said"][0].count("saved ") == 1
    assert both[1]["said"] == ("", "")
    assert [found["exit"] for found in both] == [0, 0]
    assert not both[0]["group"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "more processes",
            "216 cells to learn from are shared by 2 processes of batch_size=200 each. Use batch_size=108",
        ),
        ("other cells", "0 and 1 have 240 cells of 30 coordinates and 260 cells of 30 coordinates"),
        ("other options", "0 and 1 have steps=20 and 21"),
        ("other counts", "0 and 1 have other cells or their counts"),
    ],
)
def test_what_cannot_be_shared_is_said_in_all(case: str, message: str, both: list[dict[str, Any]]) -> None:
    for found in both:
        assert found[case].startswith("InputError: ")
        assert message in found[case]


def test_an_interrupt_of_one_ends_all(both: list[dict[str, Any]]) -> None:
    assert both[1]["stopped"] == "KeyboardInterrupt: the machine is gone"
    assert both[0]["stopped"].startswith("ConnectionError: Another of the 2 processes has ended, and so does this one.")


def test_what_diverges_ends_in_all(both: list[dict[str, Any]]) -> None:
    assert both[0]["diverged"].startswith("Diverged: The gradient has not been finite")
    assert both[0]["diverged"] == both[1]["diverged"]


@pytest.mark.parametrize("how", ["balanced", "independent"])
def test_cells_that_two_draw_are_those_of_one(how: str, both: list[dict[str, Any]], folder: Path) -> None:
    flow = Flow.load(folder / "flow.safetensors")
    with small_blocks():
        drawn = scflow.tl.generate(flow, 2500, progress=False, calibration=how)
    for found in both:
        counts, states = found[f"drawn {how}"]
        assert (counts != drawn.layers["counts"]).nnz == 0
        np.testing.assert_array_equal(states, drawn.obsm["X_scflow"])


def test_one_file_is_written_by_the_first(both: list[dict[str, Any]], folder: Path) -> None:
    flow = Flow.load(folder / "flow.safetensors")
    with small_blocks():
        scflow.tl.generate(flow, 2500, progress=False, out=folder / "one.h5ad")
    one, two = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("one", "two"))
    assert (one.X != two.X).nnz == 0
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert str(one.uns) == str(two.uns)
    for found in both:
        assert found["written"] == (True, "two.h5ad")
        assert found["taken"].startswith("FileError: ")


def test_scores_of_two_are_those_of_one(both: list[dict[str, Any]]) -> None:
    one = scores()
    assert set(one["metric"]) == {*METRICS}
    for found in both:
        pd.testing.assert_frame_equal(found["scores"], one, check_exact=True)


class small_blocks:
    """Cells are drawn 1,024 at a time."""

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_balance, "_WIDEST", 1)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


LOST = """
import os, sys
from scflow.__main__ import main
from scflow.training import loop

if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    stepped, calls = loop._stepped, []

    def lost(*given):
        calls.append(0)
        if len(calls) == 8:
            os._exit(3)
        return stepped(*given)

    loop._stepped = lost
sys.exit(main(sys.argv[1:]))
"""


def test_torchrun_goes_on_after_a_process_is_lost(both: list[dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    """One of two processes dies in its eighth step, as processes do that are killed."""
    (tmp_path / "lost.py").write_text(LOST)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*torchrun, f"--master-port={port()}", "lost.py", *train_command(folder, tmp_path)]
    env = os.environ | ALIKE
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "exitcode: 3" in done.stderr
    assert done.stdout.count("saved ") == 1
    lost, whole = (weights(Flow.load(where / "flow of two.safetensors")) for where in (tmp_path, folder))
    for name, value in whole.items():
        assert torch.equal(lost[name], value), name
    assert len(list((tmp_path / "run").glob("flow-*.safetensors"))) == 2


def train_command(cells: Path, out: Path) -> list[str]:
    files = ["train", f"{cells}/cells.h5ad", "--out", f"{out}/flow of two.safetensors", "--checkpoint", f"{out}/run"]
    return [*files, "--use-rep", "X_own", "--steps", "30", "--batch-size", "40", "--no-progress", "--resume"]


@pytest.mark.parametrize("size", [2, 3])
def test_shares_of_an_order_are_disjoint_and_cover_every_pass(size: int) -> None:
    n, each = 96, 96 // (4 * size)
    batches = iter(Order(torch.arange(n), each * size, torch.Generator().manual_seed(0)))
    for _ in range(2):
        shown = [
            [Workers(rank, size).share(batch) for rank in range(size)] for batch in (next(batches) for _ in range(4))
        ]
        assert {len(part) for parts in shown for part in parts} == {each}
        assert torch.cat([part for parts in shown for part in parts]).sort().values.tolist() == list(range(n))


class Fake:
    """Counts in blocks, that say which rows were read."""

    def __init__(self, n: int) -> None:
        self.shape, self.grain, self.read_rows = (n, 3), 4, []

    def read(self, rows: np.ndarray[Any, Any]) -> sparse.csr_matrix:
        self.read_rows.append(rows)
        return sparse.csr_matrix(np.repeat(rows[:, None] + 1, 3, axis=1))


@pytest.mark.parametrize("size", [2, 3])
def test_from_disk_each_process_reads_its_own_cells(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scflow.training.stored.POOL", 64)
    n, b, shown = 4000, 10, []
    for rank in range(size):
        fake, workers = Fake(n), Workers(rank, size)
        few = torch.arange(4)
        streamed = Stored(fake, few, fake.read(few.numpy())).streamed(torch.device("cpu"), workers)
        fake.read_rows.clear()
        order = Pools(streamed, torch.arange(n), b * size, torch.Generator().manual_seed(0))
        mine: list[Tensor] = []
        for batch in order:
            if order.place == b and mine:  # the next pass
                break
            rows = workers.share(batch)
            assert (streamed.dense(rows)[:, 0] == rows + 1).all()
            mine.append(rows)
        assert len(np.concatenate(fake.read_rows)) < 1.5 * n / size
        streamed.close()
        shown.append(torch.cat(mine))
    assert len({len(rows) for rows in shown}) == 1
    every = torch.cat(shown)
    assert len(every.unique()) == len(every)
    assert len(every) > 0.95 * n


def test_the_generators_of_all_processes_stay_at_one_place() -> None:
    rngs = [torch.Generator().manual_seed(1) for _ in range(2)]
    own = [Workers(rank, 2).own(rng) for rank, rng in enumerate(rngs)]
    assert torch.equal(rngs[0].get_state(), rngs[1].get_state())
    first, second = (torch.rand(1000, generator=rng) for rng in own)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    assert ALONE.own(rngs[0]) is rngs[0]


@pytest.mark.parametrize(("dim", "exact"), [(8192, True), (8193, False)])
def test_noise_is_that_of_one_process_unless_most_of_it_would_not_be_used(dim: int, exact: bool) -> None:
    states = Encoded(Coordinates(np.zeros((6, dim)), torch.device("cpu")), Embedding.fit(np.eye(2, dim)), None)
    pairs = Fresh(states, torch.arange(6.0)[:, None], noises.Gaussian(), 0.5)
    rngs = [torch.Generator().manual_seed(1) for _ in range(3)]
    whole = pairs.draw(torch.arange(6), rng=rngs[2])
    parts = [pairs.draw(torch.arange(6), rng=rngs[rank], workers=Workers(rank, 2)) for rank in range(2)]
    noise = torch.cat([part.noise for part in parts])
    assert noise.shape == (6, dim)
    assert torch.equal(noise, whole.noise) == exact
    assert len(noise[:, 0].unique()) == 6
    assert torch.equal(rngs[0].get_state(), rngs[1].get_state())
    if exact:
        assert torch.equal(torch.cat([part.condition for part in parts]).isnan(), whole.condition.isnan())


def test_times_are_stratified_over_the_processes() -> None:
    times = scflow.matching.times.Stratified().sample(64, rng=torch.Generator().manual_seed(0))
    shares = [Workers(rank, 2).share(times) for rank in range(2)]
    assert torch.cat(shares).mul(64).long().sort().values.tolist() == list(range(64))


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # by a scheduler, which starts no processes that find each other
    assert Workers.launched() == ALONE
    with together() as workers:
        assert workers == ALONE
        assert not dist.is_initialized()


def test_work_for_one_process_is_refused_by_several(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in environment(0, 1).items():
        monkeypatch.setenv(name, value)
    assert main(["distill", "flow.safetensors"]) == 1
    assert "distill is work for one process, and torchrun has started 2" in capsys.readouterr().err


if __name__ == "__main__":
    torch.set_num_threads(1)
    _balance._WIDEST = 1
    torch.save(in_both(Path(sys.argv[1])), Path(sys.argv[1]) / f"found {sys.argv[2]}.pt")
