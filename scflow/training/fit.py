"""Fitting a field to a codec's states, on pairs of any kind; or any other module, by its own loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from scflow.errors import Diverged
from scflow.matching import Bare, FlowMatching, Preconditioned, Shift, noises, preconditioned
from scflow.matching.couplings import Independent
from scflow.training.batches import States
from scflow.training.compiling import compiled
from scflow.training.history import Monitor
from scflow.training.loop import Loss, Trained, train
from scflow.training.optim import adamw
from scflow.training.pairs import Fresh, Pairs
from scflow.training.probes import Look, TimeBins, Watching
from scflow.training.profiling import traced
from scflow.training.progress import Plan
from scflow.training.run import Run
from scflow.training.settings import Optimisation

__all__ = ["fit_field", "fit_module", "fit_pairs", "spread_of"]

_LOOKS = 40
_PATIENCE = _LOOKS // 4
_AT_LEAST = 100
"""Steps without a better look that no run ends before: the first ones, from a field that is linear, are often worse."""
_MOVES = 16
"""Steps that the weight average may wait for its next move: it reaches over a thousand by then."""
_NUMBERS, _FEWEST = 1 << 21, 256
"""Numbers of states that go through a field together on a CPU, where more are no faster, but so many cells at least."""
_WIDE = 5.0
"""A coordinate of this standard deviation is not standardised, and its error is most of the loss."""


def spread_of(states: Tensor) -> Tensor:
    """The data's standard deviation, by which a field is preconditioned: of each coordinate of states ``[n, dim]``.

    Of pictures ``[n, channels, ...]`` the root mean square of each channel, about zero: a place that never changes has
    no deviation, and the network could not move it from zero to where it is.
    """
    if states.ndim == 2:
        return states.std(0, correction=0)
    axes = (0, *range(2, states.ndim))
    return states.square().mean(axes, keepdim=True)[0].sqrt()


def fit_field(
    network: nn.Module,
    states: States,
    condition: Tensor | None,
    noise: noises.Noise,
    objective: FlowMatching,
    run: Run,
    *,
    steps: int,
    lr: float,
    condition_dropout: float = 0.1,
    widths: Sequence[int] | None = None,
    shift: Shift | None = None,
    optimisation: Optimisation | None = None,
    look: Look | None = None,
    look_columns: tuple[str, ...] = (),
    look_every: int = 1,
) -> tuple[Preconditioned | Bare, Trained]:
    """Train a field on states, and keep the weight average that is best on the validation cells.

    `widths` are the columns of each condition, which are dropped together: one each unless given. `shift` is how far
    the data of each condition lie from the mean, where that is known. `look` is called with the field at every
    `look_every`-th look at the validation cells, and its values are kept in the history as `look_columns`.

    Examples
    --------
    >>> import numpy as np
    >>> from scflow.training import Run
    >>> rows = torch.arange(200)
    >>> run = Run(rows[:180], rows[180:], batch_size=32, seed=0, device=torch.device("cpu"), progress=False)
    >>> from scflow.codecs import Embedding
    >>> from scflow.matching import FlowMatching, noises
    >>> from scflow.nn import MLP
    >>> from scflow.training.batches import Coordinates, states_of
    >>> points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    >>> codec = Embedding.fit(points)
    >>> states = states_of(Coordinates(points, run.device), codec, None)
    >>> field, trained = fit_field(MLP(2), states, None, noises.Gaussian(), FlowMatching(), run, steps=20, lr=1e-3)
    >>> field(torch.zeros(3, 2), torch.zeros(3), None).shape
    torch.Size([3, 2])
    """
    rows = run.train[:1024]
    first = states.states(rows, rng=run.generator(2))
    shape = first.shape[1:]
    _warn_of_scale(spread_of(first))
    spread = spread_of(first if shift is None or condition is None else first - shift(condition[rows]))
    noise_sd = noise.sd(shape.numel()).reshape(shape)
    field = preconditioned(network, objective.path, spread, noise_sd, shift).to(run.device)
    return field, fit_pairs(
        field,
        Fresh(states, condition, noise, condition_dropout, widths),
        objective,
        run,
        steps=steps,
        lr=lr,
        optimisation=optimisation,
        look=look,
        look_columns=look_columns,
        look_every=look_every,
    )


def fit_pairs(
    field: nn.Module,
    pairs: Pairs,
    objective: FlowMatching,
    run: Run,
    *,
    steps: int,
    lr: float,
    optimisation: Optimisation | None = None,
    look: Look | None = None,
    look_columns: tuple[str, ...] = (),
    look_every: int = 1,
    patience: int = _PATIENCE,
) -> Trained:
    """Train a field, in place, on pairs of cells and noise: fresh ones, or those that another flow has coupled.

    Examples
    --------
    >>> import numpy as np
    >>> from scflow.training import Run
    >>> rows = torch.arange(200)
    >>> run = Run(rows[:180], rows[180:], batch_size=32, seed=0, device=torch.device("cpu"), progress=False)
    >>> from scflow.codecs import Embedding
    >>> from scflow.matching import FlowMatching, noises
    >>> from scflow.nn import MLP
    >>> from scflow.training.batches import Coordinates, states_of
    >>> points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    >>> codec = Embedding.fit(points)
    >>> states = states_of(Coordinates(points, run.device), codec, None)
    >>> from scflow.matching import Bare
    >>> from scflow.training.pairs import Fresh
    >>> pairs = Fresh(states, None, noises.Gaussian(), 0.1)
    >>> trained = fit_pairs(Bare(MLP(2)), pairs, FlowMatching(), run, steps=20, lr=1e-3)
    >>> trained.interrupted
    False
    """
    rng, workers = run.generator(1), run.workers
    most = _most(field, run.device)
    bins, losses_of = TimeBins(objective, workers), workers.wrapped(_Losses(field, objective))

    def parts(rows: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
        x0, x1, c, group = pairs.draw(rows, rng=rng, workers=workers)
        times = None if workers.size == 1 else workers.share(objective.draw_times(len(rows), rng=rng))
        coupling = rng if isinstance(objective.coupling, Independent) else workers.own(rng)
        x0, x1, c = objective.paired(x0, x1, c, rng=coupling, group=group)
        t, size = objective.draw_times(len(x0), rng=rng) if times is None else times[: len(x0)], _size(x0, most)
        done = 0
        for (a, b, told), some in zip(_batches(x0, x1, c, size=size), torch.split(t, size), strict=True):
            done += len(some)
            with workers.waiting(losses_of, more=done < len(t)):
                losses = losses_of(a, b, some, told)
            yield losses, some, len(some) / len(t)

    def loss(rows: Tensor) -> Iterator[Tensor]:
        for losses, times, share in parts(rows):
            bins.add(times, losses)
            yield losses.mean() * share

    def trial() -> None:
        before = rng.get_state()
        with run.autocast():
            for losses, _, _ in parts(run.train[: run.batch_size]):
                losses.mean().backward()  # type: ignore[no-untyped-call]
        field.zero_grad(set_to_none=True)
        rng.set_state(before)

    settings = optimisation or Optimisation()
    network = field.network if isinstance(field, Preconditioned | Bare) else field
    chosen = settings.compile if workers.size == 1 else settings.compile is True
    with compiled(network, chosen, trial, steps=steps):
        return fit_module(
            field,
            loss,
            _fixed_validation(field, pairs, objective, run),
            run,
            rng,
            steps=steps,
            lr=lr,
            optimisation=settings,
            probe=Watching(bins, field, look if workers.first else None, columns=look_columns, every=look_every),
            patience=patience,
        )


def fit_module(
    module: nn.Module,
    loss: Loss,
    validate: Callable[[], float],
    run: Run,
    rng: torch.Generator,
    *,
    steps: int,
    lr: float,
    optimisation: Optimisation | None = None,
    probe: Watching | None = None,
    patience: int = _PATIENCE,
) -> Trained:
    """Train a module, in place, by the loss of a batch's rows, and keep the average that is best by `validate`.

    `rng` is what `loss` draws from; checkpoints keep it. After `patience` looks without a better one, and a hundred
    steps, the run ends. One that diverges after a look is returned as well, and says so.

    Examples
    --------
    >>> from scflow.training import Run
    >>> rows = torch.arange(200)
    >>> run = Run(rows[:180], rows[180:], batch_size=32, seed=0, device=torch.device("cpu"), progress=False)
    >>> x = torch.randn(200, 1, generator=rng)
    >>> model = torch.nn.Linear(1, 1)
    >>> loss = lambda rows: (model(x[rows]) - 3 * x[rows]).square().mean()
    >>> trained = fit_module(model, loss, lambda: loss(run.validation).item(), run, rng, steps=300, lr=0.1)
    >>> round(model.weight.item(), 1)
    3.0
    """
    settings = optimisation or Optimisation()
    every = max(1, min(500, steps // _LOOKS))
    plan = Plan(
        steps,
        every=every,
        patience=max(patience, -(-_AT_LEAST // every)),
        clip=settings.clip,
        average=settings.law,
        moves=_MOVES,
        schedule=settings.schedule,
        warmup=settings.warmup,
        accumulate=settings.accumulate,
    )
    columns = () if probe is None else probe.columns
    monitor = Monitor(steps, title="flow", progress=run.progress, callbacks=run.callbacks, columns=columns)
    batches = run.batches(run.generator(3))
    optimizer = adamw(module, lr=lr, weight_decay=settings.weight_decay)
    with run.globals(8) as shared, traced(run.trace, run.device, steps) as after_step:
        keeper = run.keeper("flow", batches, [rng, *shared], None if probe is None else probe.bins)
        try:
            return train(
                module,
                loss,
                batches,
                validate,
                optimizer,
                plan,
                monitor,
                run.autocast,
                scaler=run.scaler(),
                keeper=keeper,
                probe=probe,
                after_step=after_step,
                workers=run.workers,
            )
        except Diverged as error:
            if error.trained is None:
                raise
            best: Trained = error.trained
            return best


class _Losses(nn.Module):
    """The loss of every cell as a module, so that its gradient can be averaged over processes."""

    def __init__(self, field: nn.Module, objective: FlowMatching) -> None:
        super().__init__()
        self.field, self.objective = field, objective

    def forward(self, x0: Tensor, x1: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The losses ``[n]`` of cells and noise at the times `t`."""
        return self.objective.losses(self.field, x0, x1, t, condition)


def _most(field: nn.Module, device: torch.device) -> float:
    """How many numbers of a batch's states go through a field together.

    On a GPU, and by a field that looks at a batch as a whole, all do.
    """
    whole = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in field.modules())
    return math.inf if whole or device.type != "cpu" else _NUMBERS


def _size(states: Tensor, most: float) -> int:
    """How many of a batch's states are that: parts are of one size, or nearly."""
    parts = math.ceil(len(states) / max(_FEWEST, most / states[0].numel()))
    return -(-len(states) // max(1, parts))


def _warn_of_scale(spread: Tensor) -> None:
    """The guide's "no standardisation": coordinates of very different size."""
    wide = spread > _WIDE
    if wide.any():
        warnings.warn(
            f"{int(wide.sum())} of {len(spread)} coordinates have a standard deviation above {_WIDE:g} (the largest: "
            f"{float(spread.max()):.3g}): the states are not standardised, and the loss is mostly theirs.",
            stacklevel=3,
        )


def _fixed_validation(
    field: nn.Module,
    pairs: Pairs,
    objective: FlowMatching,
    run: Run,
    *,
    most: int = 2048,
) -> Callable[[], float]:
    """The loss of the validation cells at times and noises that stay the same, so that looks can be compared.

    They are paired as in training, in batches of as many cells: another coupling has another best field. Cells that it
    leaves out are not looked at.
    """
    rng = run.generator(4)
    times = max(1, most // len(run.validation))
    rows = run.validation[:most].repeat(times)
    x0, x1, c, group = pairs.fixed(rows, rng=rng)
    batches = zip(_batches(x0, x1, c, size=run.batch_size), _pieces(group, len(rows), run.batch_size), strict=True)
    x0, x1, c = _together([objective.paired(*batch, rng=rng, group=some) for batch, some in batches])
    t = objective.draw_times(len(x0), rng=rng)

    def validate() -> float:
        parts = zip(_batches(x0, x1, c, size=512), torch.split(t, 512), strict=True)
        losses = [objective.losses(field, a, b, times, k) for (a, b, k), times in parts]
        return float(torch.cat(losses).mean())

    return validate


def _batches(
    x0: Tensor, x1: Tensor, condition: Tensor | None, *, size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Cells, noises and conditions, `size` at a time."""
    return zip(torch.split(x0, size), torch.split(x1, size), _pieces(condition, len(x0), size), strict=True)


def _together(batches: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cells, noises and conditions of all batches."""
    x0, x1 = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))  # type: ignore[misc]
    told = [c for _, _, c in batches if c is not None]
    return x0, x1, torch.cat(told) if told else None


def _pieces(values: Tensor | None, n: int, size: int) -> Sequence[Tensor | None]:
    """What belongs to `n` cells, `size` at a time; nothing of nothing."""
    return [None] * -(-n // size) if values is None else torch.split(values, size)
