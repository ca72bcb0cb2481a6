"""The training loop, for a field and for a codec alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor, nn

from scflow.errors import Diverged, FileError
from scflow.training.checkpoints import Keeper
from scflow.training.failures import note, of_memory, out_of_memory
from scflow.training.history import Monitor, Probe
from scflow.training.interrupts import Ending, listening, shielded
from scflow.training.optim import WeightAverage, clipped, load
from scflow.training.progress import Plan, Progress, Scaler
from scflow.training.workers import ALONE, Workers

__all__ = ["Loss", "Trained", "train"]

_BAD_STEPS = 5
_HALVINGS = 16
"""A gradient scale of 65,536 may be halved so often before the gradient itself is to blame."""

Loss = Callable[[Tensor], Tensor | Iterator[Tensor]]


@dataclass(frozen=True)
class Trained:
    """The history of a run, the step with the best validation loss, and whether it was interrupted.

    `raw` are the weights of the best step as they were, by name; the module itself is left with their average.
    `diverged` is the message of the error that ended the run after that step, to be raised once its flow is made.

    Examples
    --------
    >>> import pandas as pd
    >>> Trained(pd.DataFrame({"step": [10], "loss": [1.0]}), best_step=10, interrupted=False).best_step
    10
    """

    history: pd.DataFrame
    best_step: int
    interrupted: bool
    raw: Mapping[str, Tensor] = field(default_factory=dict)
    diverged: str = ""


def train(
    module: nn.Module,
    loss: Loss,
    batches: Iterable[Tensor],
    validate: Callable[[], float],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    monitor: Monitor,
    precision: Callable[[], AbstractContextManager[object]],
    *,
    scaler: Scaler | None = None,
    keeper: Keeper | None = None,
    probe: Probe | None = None,
    after_step: Callable[[], None] = lambda: None,
    workers: Workers = ALONE,
) -> Trained:
    """Teach `module`, in place, and leave it with the weight average that was best on the validation cells.

    `loss` takes the rows of a batch and gives its mean loss: whole, or in parts that add up to it, each made when the
    one before is done with, so that the memory of one is enough for all. `validate` gives the loss of the validation
    cells with the weights as they are. A step whose gradient is not finite is passed over, and nothing advances: not
    the weights, their average, the schedule or the count of steps. (On a GPU without a scaler nobody looks before the
    next report: only the optimiser passes over the step there.)

    Ctrl-C ends the run after the step that is under way, a second one at once; a KeyboardInterrupt from elsewhere does
    as the second one. The best so far is kept, and with a `keeper`, but for the second one, the state. With a `keeper`
    SIGTERM does so too, and is then sent again, with the handler that was there before.

    Parameters
    ----------
    scaler
        For float16: scale, backward, unscale, clip, step, average.
    keeper
        Writes checkpoints at looks and where the run is ended, and puts everything back to where the last one found it.
    probe
        Asked for more columns of the history at each look.
    after_step
        Called after each step.
    workers
        The processes that share each batch. The gradient is the same in all of them by the time it is there, and what
        the first one finds at looks holds for all. A Ctrl-C in one of them ends all, without the best so far.

    Raises
    ------
    Diverged
        After five steps in a row with a gradient that is not finite; the best weights so far are in place, as they are
        whatever is raised.
    OutOfMemory
        Where there was no room for a step.

    Examples
    --------
    >>> import contextlib
    >>> from scflow.training import Plan
    >>> from scflow.training.history import Monitor
    >>> model = torch.nn.Linear(1, 1)
    >>> x = torch.randn(64, 1, generator=rng)
    >>> loss = lambda rows: (model(x[rows]) - 3 * x[rows]).square().mean()
    >>> trained = train(
    ...     model,
    ...     loss,
    ...     [torch.arange(64)] * 200,
    ...     lambda: loss(torch.arange(64)).item(),
    ...     torch.optim.AdamW(model.parameters(), lr=0.1),
    ...     Plan(200),
    ...     Monitor(200, title="example", progress=False),
    ...     contextlib.nullcontext,
    ... )
    >>> round(model.weight.item(), 1)
    3.0
    """
    run, alone = Progress(module, optimizer, plan, monitor, scaler), workers.size == 1
    if keeper is not None:
        keeper.resume(run)
    source, stopped = iter(batches), False
    module.train()
    with listening(terminate=keeper is not None) if alone else nullcontext(Ending()) as ending:
        try:
            while not run.done and ending.asked is None:
                stepped = _stepped(run, loss, source, precision, workers)
                after_step()
                if stepped and (run.step % plan.every == 0 or run.step >= plan.steps):
                    _look(run, validate, keeper, probe, workers)
            if ending.asked is not None and keeper is not None:
                _keep(run, keeper)
        except KeyboardInterrupt:
            if not alone:
                raise
            stopped = True
        except Exception as error:
            monitor.give_up()
            if isinstance(error, Diverged) and run.best.step:
                error.trained = replace(_trained(run, workers), diverged=str(error))
            # No name for what is raised: its traceback has this frame, and all of the run would wait for the collector.
            if of_memory(error):
                raise out_of_memory(error, run, keeper) from error
            note(error, run, keeper)
            raise
        finally:
            with shielded():
                monitor.close()
                load(run.parameters, run.best.weights)
                module.eval()
    ending.pass_on()
    return _trained(run, workers, interrupted=stopped or ending.asked is not None)


def _trained(run: Progress, workers: Workers, *, interrupted: bool = False) -> Trained:
    """What has come of a run."""
    names = [name for name, p in run.module.named_parameters() if p.requires_grad]
    raw = dict(zip(names, (p.cpu() for p in run.best.raw), strict=True))
    return Trained(workers.told(run.monitor.table()), run.best.step, interrupted, raw)


def _look(
    run: Progress, validate: Callable[[], float], keeper: Keeper | None, probe: Probe | None, workers: Workers
) -> None:
    """Look at the validation cells: the best average, a row of the history, and a checkpoint where one is due."""
    row = _reported(run, workers)
    run.average.settle()
    run.monitor.lap()
    row["validation_loss"] = workers.told(_validated(run.module, run.average, validate))
    row |= {} if probe is None else _probed(run, probe)
    with shielded():
        run.best.offer(row["validation_loss"], run.step, run.average)
        run.monitor.log(row, cells=int(row.pop("cells")))
    try:
        run.monitor.tell()
    except BaseException:
        # Nothing is half done here, whatever a callback raises. Of several processes the others do not know of it.
        if keeper is not None and workers.size == 1:
            keeper.offer(run, run.step, last=True)
        raise
    if keeper is not None:
        keeper.offer(run, run.step, last=run.done)


def _keep(run: Progress, keeper: Keeper) -> None:
    """The state where a run was asked to end; a disk that refuses it costs no more than that."""
    try:
        keeper.offer(run, run.step, last=True)
    except FileError as error:
        warnings.warn(f"{error} {keeper.kept()}", stacklevel=2)


def _stepped(
    run: Progress,
    loss: Loss,
    source: Iterator[Tensor],
    precision: Callable[[], AbstractContextManager[object]],
    workers: Workers,
) -> bool:
    """Take one step; false where it was passed over, and then nothing has advanced."""
    for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
        group["lr"] = rate * run.plan.factor(run.step)
    value, cells = _backward(run, loss, source, precision)
    if run.scaler is not None:
        run.scaler.unscale_(run.optimizer)
    norm = clipped(run.parameters, run.plan.clip)
    seen = norm.device.type == "cpu" or run.scaler is not None
    good = not seen or bool(norm.isfinite())
    if good:
        if not seen:
            # The optimiser itself passes over a bad step, on the device: no step waits for the host to look.
            run.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        run.optimizer.step() if run.scaler is None else run.scaler.step(run.optimizer)
        run.average.update()
        run.step += 1
    run.bad = 0 if good else run.bad + 1
    if run.scaler is not None:
        run.scaler.update()
    run.running.add(value, norm, cells)
    if run.bad >= _BAD_STEPS + (_HALVINGS if run.scaler is not None else 0):
        raise _diverged(run, run.bad, run.step + run.bad, run.running.report(workers)[0])
    return good


def _backward(
    run: Progress,
    loss: Loss,
    source: Iterator[Tensor],
    precision: Callable[[], AbstractContextManager[object]],
) -> tuple[Tensor, int]:
    """The gradient of one batch, or the mean gradient of several; their mean loss, and how many cells they had."""
    values, cells, n = [], 0, run.plan.accumulate
    run.optimizer.zero_grad(set_to_none=True)
    # Around all parts: what autocast made of the weights is kept until the outermost context ends.
    with torch.autocast(run.parameters[0].device.type, enabled=False):
        for rows in (next(source) for _ in range(n)):
            run.shown = len(rows)
            for value in _parts(loss, rows, precision):
                scaled = value if n == 1 else value / n
                (scaled if run.scaler is None else run.scaler.scale(scaled)).backward()
                values.append(value.detach())
            cells += len(rows)
    return values[0] if len(values) == 1 else torch.stack(values).sum() / n, cells


def _parts(loss: Loss, rows: Tensor, precision: Callable[[], AbstractContextManager[object]]) -> Iterator[Tensor]:
    """The loss of a batch, one part after another."""
    with precision():
        value = loss(rows)
    if isinstance(value, Tensor):
        yield value
        return
    while True:
        with precision():
            part = next(value, None)
        if part is None:
            return
        yield part


def _reported(run: Progress, workers: Workers) -> dict[str, float]:
    """A row of the history; where nobody looked at single steps, this is where bad ones are found."""
    row, bad = run.running.report(workers)
    rate = run.rates[0] * run.plan.factor(run.step - 1)
    row |= {"step": run.step, "learning_rate": rate}
    if bad >= _BAD_STEPS or math.isnan(row["loss"]):
        raise _diverged(run, bad, run.step, row)
    return row


def _diverged(run: Progress, bad: int, step: int, row: dict[str, float]) -> Diverged:
    """The error that ends a run, with a history whose last row tells of the bad steps."""
    row = {"step": step, "learning_rate": run.rate, **row}
    rate, done = row["learning_rate"], row.pop("cells")
    run.monitor.log(row, cells=int(done))
    run.monitor.tell()
    return Diverged(
        f"The gradient has not been finite for {bad} steps up to step {step} (learning rate {rate:.2g}). "
        "Try a lower rate, scflow.tl.train(..., lr=1e-4).",
        run.monitor.table(),
    )


@contextmanager
def _averaged(module: nn.Module, average: WeightAverage) -> Iterator[None]:
    """The module with its averaged weights, as it is used and not trained."""
    average.swap()
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train()
        average.swap()


def _validated(module: nn.Module, average: WeightAverage, validate: Callable[[], float]) -> float:
    """The validation loss of the averaged weights."""
    with _averaged(module, average):
        return validate()


def _probed(run: Progress, probe: Probe) -> dict[str, float]:
    """More columns of the history, by the averaged weights."""
    with _averaged(run.module, run.average):
        return probe.report(len(run.monitor.rows) + 1)
