"""Training: batches against dense rows, averages against their closed form, and what a run leaves behind."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import Tensor

from scflow import nn
from scflow.codecs import Codec, Embedding, Standardized, gene_statistics
from scflow.codecs.statistics import library_sizes
from scflow.matching import FlowMatching, noises
from scflow.training import Plan, Run, Trained, batches, fit_field, train
from scflow.training import fit as training_fit
from scflow.training.averages import Constant, Ramp
from scflow.training.batches import Cells, Coordinates, Encoded, Order, Summarized, smallest, states_of
from scflow.training.history import COLUMNS, Monitor
from scflow.training.optim import WeightAverage, adamw, schedule, warmup_steps
from scflow.training.pairs import dropped
from scflow.training.run import seeded

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_counts(dtype: str = "float32") -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (40, 7)) * (rng.random((40, 7)) < 0.5)
    counts[3], counts[:, 5] = 0, 0  # A cell without counts, and a gene that is never there.
    return sparse.csr_matrix(counts.astype(dtype))


# Rows of sparse counts.


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "int64", "uint8"])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_dense_rows_are_scipys(dtype: str, index: type) -> None:
    counts = some_counts(dtype)
    counts.indices, counts.indptr = counts.indices.astype(index), counts.indptr.astype(index)
    cells, dense = Cells(counts, CPU), counts.toarray()
    assert len(cells) == 40
    for rows in (np.arange(40), np.array([5, 5, 39, 0, 3, 3]), np.array([3])):
        found = cells.dense(torch.from_numpy(rows))
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found, dense[rows].astype(np.float32))


def test_no_rows_have_all_genes() -> None:
    assert Cells(some_counts(), CPU).dense(torch.zeros(0, dtype=torch.int64)).shape == (0, 7)
    empty = Cells(sparse.csr_matrix((5, 7), dtype=np.float32), CPU)
    assert torch.equal(empty.dense(torch.arange(5)), torch.zeros(5, 7))


def test_the_matrix_is_shared_and_not_copied() -> None:
    counts = some_counts()
    cells = Cells(counts, CPU)
    assert cells.value.data_ptr() == counts.data.ctypes.data
    assert cells.gene.data_ptr() == counts.indices.ctypes.data
    assert cells.gene.dtype == torch.int32


def test_a_read_only_or_foreign_matrix_is_read_all_the_same() -> None:
    counts = some_counts()
    dense = counts.toarray()
    counts.data.flags.writeable = False
    np.testing.assert_array_equal(Cells(counts, CPU).dense(torch.arange(40)), dense)
    counts.data = counts.data.astype(">f4")
    np.testing.assert_array_equal(Cells(counts, CPU).dense(torch.arange(40)), dense)


def test_a_large_count_is_exact() -> None:
    counts = sparse.csr_matrix(np.array([[0.0, 2.0**24]]))
    assert Cells(counts, CPU).dense(torch.tensor([0])).tolist() == [[0.0, 2.0**24]]


@pytest.mark.parametrize("rows", [[7, 1, 3, 1], [3], []])
def test_padded_entries_are_the_exact_ones(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device is no CPU, rows are as long as the longest; what is too much is written beside the cells."""
    cells, wanted = Cells(some_counts(), CPU), torch.tensor(rows, dtype=torch.int64)
    exact = cells.entries(wanted)
    monkeypatch.setattr(cells, "_exactly", cells._padded)
    padded = cells.entries(wanted)
    assert len(padded.value) == len(rows) * cells.longest >= len(exact.value)
    assert torch.equal(padded.dense(), exact.dense())
    assert torch.equal(padded.sizes, exact.sizes)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], np.uint8),
        ([0, 256], np.int16),
        ([-1, 3], np.int16),
        ([40_000], np.int32),
        ([2**31], np.float64),
        ([0.5, 2], np.float64),
        ([], np.uint8),
    ],
)
def test_the_smallest_type_is_exact(values: list[float], kind: type) -> None:
    found = smallest(np.array(values, dtype=np.float64))
    assert found.dtype == kind
    assert found.tolist() == values


def test_cells_that_a_device_has_no_room_for_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of the device "meta" have no values: what is there would not be found on the CPU."""
    meta = torch.device("meta")
    assert Cells(some_counts(), meta).value.device == meta
    monkeypatch.setattr(batches, "fits", lambda *_: False)
    held = Cells(some_counts("int64"), meta)
    assert held.value.device == held.gene.device == held.start.device == CPU
    assert held.value.dtype == held.gene.dtype == torch.uint8
    assert held.entries(torch.tensor([1, 2])).value.device == meta


# States.


def test_stored_counts_are_encoded_as_dense_ones() -> None:
    counts = some_counts()
    counts = counts[np.diff(counts.indptr) > 0]
    codec = Standardized.fit(gene_statistics(counts), library_sizes(counts), clip=1.5)
    entries = Cells(counts, CPU).entries(torch.arange(counts.shape[0]))
    expected = codec.encode(torch.from_numpy(counts.toarray()), None, rng=generator())
    found = codec.encode_entries(entries, None, rng=generator())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert bool((found[:, :-1].abs() == 1.5).any())


class Halves(Standardized):
    """Counts halved, and the condition beside them: a codec that shows what it was given."""

    encode_entries = Codec.encode_entries

    def encode(self, counts: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        return torch.cat([counts / 2, torch.zeros(len(counts), 1) if condition is None else condition], dim=1)


def test_encoded_states_follow_their_rows_and_conditions() -> None:
    counts = some_counts()
    condition = torch.arange(40.0)[:, None]
    rows = torch.tensor([7, 1, 1])
    states = states_of(Cells(counts, CPU), Halves(7), condition)
    assert isinstance(states, Encoded)
    expected = torch.cat([torch.from_numpy(counts.toarray())[rows] / 2, condition[rows]], dim=1)
    assert torch.equal(states.states(rows, rng=generator()), expected)


@pytest.mark.parametrize("condition", [None, torch.zeros(40, 1)])
def test_summaries_are_made_once_and_in_chunks(condition: Tensor | None) -> None:
    coordinates = np.random.default_rng(0).normal(3, 2, (40, 4)).astype(np.float32)
    codec, cells = Embedding.fit(coordinates), Coordinates(coordinates, CPU)
    states = states_of(cells, codec, condition)
    assert isinstance(states, Summarized)
    chunked = Summarized(cells, codec, condition, chunk=7)
    rows = torch.tensor([39, 0, 0, 12])
    expected = (coordinates[rows] - coordinates.mean(0)) / coordinates.std(0)
    np.testing.assert_allclose(states.states(rows, rng=generator()), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(chunked.summaries, states.summaries)
    assert not states.summaries.requires_grad


# The order of batches.


@pytest.mark.parametrize(("n", "size"), [(12, 4), (12, 12), (7, 1)])
def test_every_pass_has_every_cell_once(n: int, size: int) -> None:
    rows, batches = torch.arange(n) + 100, iter(Order(torch.arange(n) + 100, size, generator()))
    passes = [torch.cat([next(batches) for _ in range(n // size)]) for _ in range(5)]
    assert all(torch.equal(p.sort().values, rows) for p in passes)
    assert len({tuple(p.tolist()) for p in passes}) > 1


def test_what_is_left_over_waits_for_the_next_pass() -> None:
    """All batches have one size, no pass has a cell twice, and in the long run all cells come equally often."""
    batches = iter(Order(torch.arange(10), 4, generator()))
    seen = torch.zeros(10)
    for _ in range(500):
        once = torch.cat([next(batches), next(batches)])
        assert len(once) == len(once.unique()) == 8
        seen[once] += 1
    assert (seen - 400).abs().max() < 5 * math.sqrt(500 * 0.8 * 0.2)


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert len(next(iter(Order(torch.arange(5), 256, generator())))) == 5


# The optimiser.


def test_decay_spares_norms_biases_and_embeddings() -> None:
    field = nn.MLP(4, cardinalities=(3,), width=8, depth=1)
    fast = [field.last.weight]
    groups = adamw(field, lr=1e-3, weight_decay=0.01, fast=fast, faster=5.0).param_groups
    by_id = {id(p): (g["weight_decay"], g["lr"]) for g in groups for p in g["params"]}
    assert len(by_id) == sum(len(g["params"]) for g in groups) == len(list(field.parameters()))
    for name, p in field.named_parameters():
        if p is field.last.weight:
            expected = (0.0, 5e-3)
        elif p.ndim < 2 or name.startswith("condition.columns"):
            expected = (0.0, 1e-3)
        else:
            expected = (0.01, 1e-3)
        assert by_id[id(p)] == pytest.approx(expected), name


def test_the_schedule_in_closed_form() -> None:
    factors = [schedule(s, steps=110, warmup=10) for s in range(111)]
    assert factors[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factors[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * s / 100)) for s in range(101)])
    assert max(factors) == 1.0
    # It stays at its end for ever, and the floor is where it ends.
    assert schedule(10_000, steps=110, warmup=10) == 0.0
    assert schedule(110, steps=110, warmup=10, floor=0.1) == pytest.approx(0.1)
    assert schedule(60, steps=110, warmup=10, floor=0.1) == pytest.approx(0.55)
    assert schedule(0, steps=1, warmup=1) == 1.0


def test_warm_up_is_never_most_of_a_short_run() -> None:
    assert [warmup_steps(n) for n in (1, 20, 100, 2000, 20_000, 10**6)] == [1, 1, 5, 100, 1000, 1000]


def test_the_weight_average_in_closed_form() -> None:
    weights = torch.randn(30, 3, dtype=torch.float64, generator=generator())
    p = torch.nn.Parameter(weights[0].clone())
    average, decay = WeightAverage([p], Ramp(0.9)), 0.9
    ramp = [min(decay, (1 + n) / (10 + n)) for n in range(29)]
    for w in weights[1:]:
        with torch.no_grad():
            p.copy_(w)
        average.update()
    shares = [math.prod(ramp)] + [(1 - ramp[i]) * math.prod(ramp[i + 1 :]) for i in range(29)]
    assert sum(shares) == pytest.approx(1)
    expected = (torch.tensor(shares, dtype=torch.float64)[:, None] * weights).sum(0)
    torch.testing.assert_close(average.copy()[0].double(), expected, rtol=1e-5, atol=1e-6)
    assert average.copy()[0].dtype == torch.float32


def test_the_ramp_forgets_the_start() -> None:
    """After 100 steps hardly anything of the start is left, where 0.9999 alone would hold 99 % of it."""
    p = torch.nn.Parameter(torch.ones(1))
    average = WeightAverage([p], Ramp(0.9999))
    with torch.no_grad():
        p.zero_()
    for _ in range(100):
        average.update()
    assert average.copy()[0].item() < 1e-6


def test_swapping_twice_changes_nothing() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    average = WeightAverage([p])
    with torch.no_grad():
        p.fill_(3.0)
    average.swap()
    assert p.tolist() == [1, 1]
    assert average.copy()[0].tolist() == [3, 3]
    average.swap()
    assert p.tolist() == [3, 3]


# The loop.


class Line(torch.nn.Module):
    """One weight, pulled towards a target."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


def forever() -> Iterator[Tensor]:
    while True:
        yield torch.arange(8)


def looped(
    validate: Callable[[Line], float],
    *,
    loss: Callable[[Line, Tensor], Tensor] | None = None,
    callbacks: tuple[Callable[[dict[str, float]], None], ...] = (),
    lr: float = 0.1,
    **plan: Any,
) -> tuple[Line, Trained]:
    line = Line()
    pull = loss or (lambda line, rows: (line.weight - 100).abs().sum())
    settings = Plan(**{"steps": 50, "every": 5, "patience": 3, "average": Constant(0.0), **plan})
    monitor = Monitor(settings.steps, title="test", progress=False, callbacks=callbacks)
    optimizer = torch.optim.AdamW(line.parameters(), lr=lr, weight_decay=0.0, fused=True)
    with_line = lambda rows: pull(line, rows)  # noqa: E731
    trained = train(
        line, with_line, forever(), lambda: validate(line), optimizer, settings, monitor, contextlib.nullcontext
    )
    return line, trained


def test_the_best_average_is_kept_and_the_loop_stops_after_its_patience() -> None:
    """The weight wanders off to 100 while the validation cells want it at 1: the look nearest to 1 is what is left."""
    line, trained = looped(lambda line: abs(float(line.weight) - 1.0), steps=500)
    looks = trained.history
    best = looks["validation_loss"].idxmin()
    assert trained.best_step == looks["step"][best]
    assert abs(line.weight.item() - 1.0) == pytest.approx(looks["validation_loss"][best])
    assert len(looks) == best + 1 + 4  # Three looks without improvement are borne, the fourth ends the run.
    assert looks["step"].iloc[-1] < 500
    assert not trained.interrupted
    assert not line.training


def test_validation_sees_the_average_and_training_goes_on_with_the_weights() -> None:
    seen: list[float] = []

    def validate(line: Line) -> float:
        assert not line.training
        assert not torch.is_grad_enabled()
        seen.append(line.weight.item())
        return -len(seen)  # Always better.

    line, trained = looped(validate, steps=20, average=Ramp(0.999))
    # Adam moves the weight by about the rate a step; the average lags behind.
    weights = [0.1 * sum(schedule(s, steps=20, warmup=1) for s in range(k)) for k in range(21)]
    average = 0.0
    for n in range(20):
        decay = min(0.999, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weights[n + 1]
    assert seen[-1] == pytest.approx(average, rel=1e-3)
    assert line.weight.item() == seen[-1]
    assert trained.best_step == 20


def test_the_history_has_a_row_a_look() -> None:
    rows: list[dict[str, float]] = []
    _, trained = looped(lambda line: -line.weight.item(), steps=12, callbacks=(rows.append,))
    history = trained.history
    assert tuple(history.columns) == COLUMNS
    assert history["step"].tolist() == [5, 10, 12]  # The last step has a look of its own.
    assert history["step"].dtype == np.int64
    assert history["learning_rate"].tolist() == pytest.approx(
        [0.1 * schedule(s - 1, steps=12, warmup=1) for s in (5, 10, 12)]
    )
    assert (history["gradient_norm"] == 1).all()
    # The loss of a row is the mean over the steps since the row before.
    assert history["loss"].iloc[0] == pytest.approx(100 - 0.1 * sum(5 - k for k in range(1, 5)) / 5, abs=0.01)
    assert (history["cells_per_second"] > 0).all()
    pd.testing.assert_frame_equal(pd.DataFrame(rows).astype({"step": int}), history)


def test_gradients_are_clipped_and_the_history_has_the_norm_before() -> None:
    steep = lambda line, rows: 1000 * (line.weight - 100).abs().sum()  # noqa: E731
    _, trained = looped(lambda line: 0.0, loss=steep, steps=5)
    assert trained.history["gradient_norm"].tolist() == [1000]


def test_clipping_is_that_of_torch() -> None:
    """Adam forgets a common factor of all gradients, so they have to differ in size from step to step."""
    slopes, taken = [1000.0, 0.5, 3.0, 0.5, 0.25], iter([1000.0, 0.5, 3.0, 0.5, 0.25])
    line, _ = looped(
        lambda line: -line.weight.abs().item(),
        loss=lambda line, rows: next(taken) * line.weight.sum(),
        steps=5,
        clip=2.0,
    )
    expected = Line()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.1, weight_decay=0.0)
    for step, slope in enumerate(slopes):
        optimizer.param_groups[0]["lr"] = 0.1 * schedule(step, steps=5, warmup=1)
        expected.weight.grad = torch.tensor([slope])
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 2.0)
        optimizer.step()
    assert line.weight.item() == pytest.approx(expected.weight.item(), rel=1e-4)


def test_ctrl_c_keeps_the_best_so_far_and_returns() -> None:
    def stop(row: dict[str, float]) -> None:
        if row["step"] == 15:
            raise KeyboardInterrupt

    line, trained = looped(lambda line: abs(float(line.weight) - 1.0), callbacks=(stop,), steps=100)
    assert trained.interrupted
    assert trained.history["step"].tolist() == [5, 10, 15]
    assert trained.best_step == 10
    assert abs(line.weight.item() - 1.0) == pytest.approx(trained.history["validation_loss"].min())


def test_ctrl_c_before_the_first_look_leaves_the_start() -> None:
    calls = 0

    def loss(line: Line, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return line.weight.sum()

    line, trained = looped(lambda line: 0.0, loss=loss)
    assert trained.interrupted
    assert len(trained.history) == trained.best_step == 0
    assert line.weight.item() == 0.0


def test_a_bad_step_is_passed_over() -> None:
    calls = 0

    def loss(line: Line, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return line.weight.sum() * (math.nan if calls in (2, 3, 7) else 1.0)

    line, trained = looped(lambda line: line.weight.item(), loss=loss, steps=10, lr=0.1)
    assert math.isfinite(line.weight.item())
    assert line.weight.item() < -0.2
    assert trained.history[["loss", "gradient_norm"]].notna().all().all()


def test_a_gradient_that_stays_nan_ends_the_run_with_a_word() -> None:
    calls = 0
    held: list[Line] = []

    def loss(line: Line, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        held[:] = [line]
        return line.weight.sum() * (math.nan if calls > 5 else 1.0)

    with pytest.raises(
        FloatingPointError,
        match=r"The gradient has not been finite for 5 steps up to step 10 \(learning rate 0\.1\)\. "
        r"Try a lower rate, scflow\.tl\.train\(\.\.\., lr=1e-4\)",
    ):
        looped(lambda line: line.weight.item(), loss=loss, steps=100)
    assert held[0].weight.item() < 0  # The weights of step 5.
    assert math.isfinite(held[0].weight.item())


def test_a_validation_loss_of_nan_is_never_the_best() -> None:
    line, trained = looped(lambda line: math.nan, steps=10)
    assert trained.best_step == 0
    assert line.weight.item() == 0.0


# The monitor.


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar_is_silent_when_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stderr", piped)
    monitor = Monitor(10, title="flow", progress=True)
    monitor.log({"step": 5, "loss": 1.0, "learning_rate": 1e-3}, cells=50)
    monitor.close()
    assert piped.getvalue() == ""


def test_the_bar_shows_loss_and_rate_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monitor = Monitor(10, title="flow", progress=True)
    monitor.log({"step": 10, "loss": 1.25, "validation_loss": 1.5, "learning_rate": 1e-3}, cells=50)
    monitor.close()
    for part in ("flow", "10/10", "loss 1.25", "validation 1.5", "rate 1.0e-03"):
        assert part in screen.getvalue()


def test_without_progress_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    Monitor(10, title="flow", progress=False).close()
    assert screen.getvalue() == ""


# Fitting.


def test_conditions_are_dropped_at_their_rate_all_at_once_or_one_of_several() -> None:
    one = dropped(torch.ones(20_000, 1), rate=0.1, rng=generator())
    assert one.isnan().float().mean().item() == pytest.approx(0.1, abs=0.01)
    two = dropped(torch.ones(20_000, 2), rate=0.1, rng=generator()).isnan()
    each = 0.05
    assert two.all(1).float().mean().item() == pytest.approx(0.1 + 0.9 * each**2, abs=0.01)
    assert two[:, 0].float().mean().item() == pytest.approx(1 - 0.9 * (1 - each), abs=0.01)
    assert dropped(None, rate=0.1, rng=generator()) is None
    kept = torch.arange(6.0)[:, None]
    assert torch.equal(dropped(kept, rate=0.0, rng=generator()), kept)


def test_a_seeded_network_leaves_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (seeded(lambda: torch.nn.Linear(3, 3), generator(s)) for s in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def run(n: int, seed: int = 0, precision: str = "float32") -> Run:
    order = torch.randperm(n, generator=generator())
    return Run(order[20:], order[:20], 64, seed=seed, device=CPU, precision=precision, progress=False)


class Fixed:
    """States that are there already."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.x[rows]


def fit(seed: int = 0, steps: int = 40, precision: str = "float32"):
    x = torch.randn(200, 3, generator=generator()) * torch.tensor([0.5, 1.0, 2.0])
    condition = torch.arange(200.0)[:, None] % 2
    network = seeded(lambda: nn.MLP(3, cardinalities=(2,), width=16, depth=1), generator())
    return fit_field(
        network, Fixed(x), condition, noises.Gaussian(), FlowMatching(), run(200, seed, precision), steps=steps, lr=1e-3
    )


def test_a_field_is_preconditioned_by_its_states_and_its_noise() -> None:
    field, trained = fit()
    torch.testing.assert_close(field.data_variance, torch.tensor([0.25, 1.0, 4.0]), rtol=0.3, atol=0)
    assert torch.equal(field.noise_variance, torch.ones(3))
    assert trained.history["validation_loss"].notna().all()


def test_a_run_is_repeated_bit_for_bit() -> None:
    (first, one), (again, two), (other, _) = fit(), fit(), fit(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    columns = ["step", "loss", "validation_loss", "gradient_norm", "learning_rate"]
    pd.testing.assert_frame_equal(one.history[columns], two.history[columns], check_exact=True)
    assert not torch.equal(first.network.last.weight, other.network.last.weight)


def test_validation_is_the_same_at_every_look() -> None:
    """Times and noises are fixed: with weights that do not move, so is the validation loss."""
    x = torch.randn(200, 3, generator=generator())
    network = seeded(lambda: nn.MLP(3, width=16, depth=1), generator())
    _, trained = fit_field(network, Fixed(x), None, noises.Gaussian(), FlowMatching(), run(200), steps=8, lr=1e-12)
    losses = trained.history["validation_loss"]
    assert losses.max() - losses.min() < 1e-6
    assert trained.history["loss"].std() > 1e-3


def test_streams_of_random_numbers_differ() -> None:
    draws = [torch.rand(1, generator=run(30, seed).generator(stream)).item() for seed in (0, 1) for stream in range(8)]
    assert len(set(draws)) == 16


def test_bfloat16_is_for_the_network_only() -> None:
    field, trained = fit(precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in field.parameters())
    reference = fit()[1].history["loss"]
    np.testing.assert_allclose(trained.history["loss"].to_numpy()[:5], reference.to_numpy()[:5], rtol=0.02)


def test_a_run_among_some_rows_keeps_one_to_look_at() -> None:
    run = Run(torch.arange(6), torch.tensor([7, 2]), 4, seed=0, device=CPU, progress=False)
    few = run.among(lambda rows: rows[rows < 5])
    assert few.train.tolist() == [0, 1, 2, 3, 4]
    assert few.validation.tolist() == [2]
    assert run.among(lambda rows: rows[(rows > 2) & (rows < 7)]).validation.tolist() == [3]


def test_a_large_batch_goes_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is the same up to rounding, and so is what the history says; only memory is less."""
    whole, one = fit()
    seen: list[int] = []
    forward = nn.MLP.forward

    def watched(self: nn.MLP, x: Tensor, *given: Any) -> Tensor:
        seen.append(len(x)) if torch.is_grad_enabled() else None
        return forward(self, x, *given)

    monkeypatch.setattr(nn.MLP, "forward", watched)
    monkeypatch.setattr(training_fit, "_NUMBERS", 75)
    monkeypatch.setattr(training_fit, "_FEWEST", 5)
    parts, two = fit()
    assert set(seen) == {22, 20}  # of 64, at most 25 at a time
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    columns = ["loss", "validation_loss", "gradient_norm", *[c for c in one.history if c.startswith("loss_")]]
    pd.testing.assert_frame_equal(one.history[columns], two.history[columns], rtol=1e-4)
    assert not torch.equal(whole.network.last.weight, parts.network.last.weight)


def test_a_field_that_looks_at_a_batch_as_a_whole_is_shown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_fit, "_FEWEST", 5)
    monkeypatch.setattr(training_fit, "_NUMBERS", 75)
    linear, states = torch.nn.Linear(3, 3), torch.zeros(64, 3)
    most = training_fit._most(linear, CPU)
    assert training_fit._size(states, most) == 22
    assert training_fit._size(states[:25], most) == 25
    for whole in (
        training_fit._most(torch.nn.Sequential(torch.nn.BatchNorm1d(3)), CPU),
        training_fit._most(linear, torch.device("meta")),
    ):
        assert training_fit._size(states, whole) == 64


def test_parts_of_a_loss_add_up() -> None:
    """The same steps as by the whole loss; and several batches a step are averaged."""

    def whole(line: Line, rows: Tensor) -> Tensor:
        return (line.weight - 100).square().sum()

    def parts(line: Line, rows: Tensor) -> Iterator[Tensor]:
        yield whole(line, rows) * 0.25
        yield whole(line, rows) * 0.75

    for accumulate in (1, 2):
        (one, a), (two, b) = (looped(lambda line: 1.0, loss=loss, accumulate=accumulate) for loss in (whole, parts))
        torch.testing.assert_close(one.weight, two.weight)
        np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-6)
        np.testing.assert_allclose(a.history["gradient_norm"], b.history["gradient_norm"], rtol=1e-6)
