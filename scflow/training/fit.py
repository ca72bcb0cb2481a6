"""Fitting: a codec to counts, and a field to the codec's states."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from scflow.codecs import Counts
from scflow.matching import Bare, FlowMatching, Preconditioned, noises, preconditioned
from scflow.training.averages import Ramp
from scflow.training.batches import Cells, Order, States
from scflow.training.checkpoints import Checkpoints, Keeper
from scflow.training.history import Callback, Monitor
from scflow.training.loop import Trained, train
from scflow.training.optim import adamw
from scflow.training.pairs import Fresh, Pairs
from scflow.training.probes import Look, TimeBins, Watching
from scflow.training.progress import Plan, Scaler
from scflow.training.settings import Optimisation

__all__ = ["Run", "fit_counts", "fit_field", "fit_module", "fit_pairs", "spread_of"]

_LOOKS = 40
_PATIENCE = _LOOKS // 4
_WIDE = 5.0
"""A coordinate of this standard deviation is not standardised, and its error is most of the loss."""


@dataclass(frozen=True)
class Run:
    """What all training of one call shares.

    Attributes
    ----------
    train, validation
        Row numbers of the cells to learn from and to look at, int64, on the device.
    batch_size, seed, device, precision, progress, callbacks
        As `scflow.tl.train` has them, resolved.
    checkpoints
        Where the state of the run is kept, if anywhere.
    """

    train: Tensor
    validation: Tensor
    batch_size: int
    seed: int
    device: torch.device
    precision: str = "float32"
    progress: bool = True
    callbacks: Sequence[Callback] = ()
    checkpoints: Checkpoints | None = None

    def generator(self, stream: int) -> torch.Generator:
        """One of the run's own streams of random numbers."""
        seed = int(np.random.SeedSequence([self.seed, stream]).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(self.device).manual_seed(seed)

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision, where it was asked for."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def scaler(self) -> Scaler | None:
        """The gradient scaler that float16 needs, and nothing else does: bfloat16 has the range of float32."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "float16" else None

    @contextlib.contextmanager
    def globals(self, stream: int) -> Iterator[list[torch.Generator]]:
        """The generators that layers without one of their own draw from (dropout), seeded here and put back after."""
        cuda = self.device.type == "cuda"
        index = (self.device.index if self.device.index is not None else torch.cuda.current_device()) if cuda else 0
        generators = [torch.default_generator, *([torch.cuda.default_generators[index]] if cuda else [])]
        with torch.random.fork_rng(devices=[index] if cuda else []):
            for i, generator in enumerate(generators):
                generator.manual_seed(self.generator(stream + i).initial_seed())
            yield generators

    def keeper(self, stage: str, order: Order, generators: Sequence[torch.Generator]) -> Keeper | None:
        """What keeps the state of a stage."""
        return None if self.checkpoints is None else Keeper(self.checkpoints, stage, order, generators)


def seeded(build: Callable[[], nn.Module], rng: torch.Generator) -> nn.Module:
    """Build a network whose initial weights depend on `rng` alone; the global random state is left as it was."""
    seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


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
    optimisation: Optimisation | None = None,
    look: Look | None = None,
    look_columns: tuple[str, ...] = (),
    look_every: int = 1,
) -> tuple[Preconditioned | Bare, Trained]:
    """Train a field on states, and keep the weight average that is best on the validation cells.

    `look` is called with the field at every `look_every`-th look at the validation cells, and its values are kept in
    the history as `look_columns`.
    """
    first = states.states(run.train[:1024], rng=run.generator(2))
    spread, shape = spread_of(first), first.shape[1:]
    _warn_of_scale(spread)
    field = preconditioned(network, objective.path, spread, noise.sd(shape.numel()).reshape(shape)).to(run.device)
    return field, fit_pairs(
        field,
        Fresh(states, condition, noise, condition_dropout),
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
    """Train a field, in place, on pairs of cells and noise: fresh ones, or those that another flow has coupled."""
    rng, bins = run.generator(1), TimeBins(objective)

    def loss(rows: Tensor) -> Tensor:
        x0, x1, c = pairs.draw(rows, rng=rng)
        losses, t = objective.terms(field, x0, x1, c, rng=rng)
        bins.add(t, losses)
        return losses.mean()

    return fit_module(
        field,
        loss,
        _fixed_validation(field, pairs, objective, run),
        run,
        rng,
        steps=steps,
        lr=lr,
        optimisation=optimisation,
        probe=Watching(bins, field, look, columns=look_columns, every=look_every),
        patience=patience,
    )


def fit_module(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
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

    `rng` is what `loss` draws from; checkpoints keep it. After `patience` looks without a better one the run ends.
    """
    settings = optimisation or Optimisation()
    plan = Plan(
        steps,
        every=max(1, min(500, steps // _LOOKS)),
        patience=patience,
        clip=settings.clip,
        average=settings.law,
        schedule=settings.schedule,
        warmup=settings.warmup,
        accumulate=settings.accumulate,
    )
    columns = () if probe is None else probe.columns
    monitor = Monitor(steps, title="flow", progress=run.progress, callbacks=run.callbacks, columns=columns)
    batches = Order(run.train, run.batch_size, run.generator(3))
    optimizer = adamw(module, lr=lr, weight_decay=settings.weight_decay)
    with run.globals(8) as shared:
        keeper = run.keeper("flow", batches, [rng, *shared])
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
        )


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

    They are paired as in training, in batches of as many cells: another coupling has another best field.
    """
    rng = run.generator(4)
    times = max(1, most // len(run.validation))
    rows = run.validation[:most].repeat(times)
    x0, x1, c = pairs.fixed(rows, rng=rng)
    x1 = torch.cat([objective.paired(*batch, rng=rng) for batch in _batches(x0, x1, c, size=run.batch_size)])
    t = objective.draw_times(len(rows), rng=rng)

    def validate() -> float:
        parts = zip(_batches(x0, x1, c, size=512), torch.split(t, 512), strict=True)
        losses = [objective.losses(field, a, b, times, k) for (a, b, k), times in parts]
        return float(torch.cat(losses).mean())

    return validate


def _batches(
    x0: Tensor, x1: Tensor, condition: Tensor | None, *, size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Cells, noises and conditions, `size` at a time."""
    n = -(-len(x0) // size)
    conditions = [None] * n if condition is None else torch.split(condition, size)
    return zip(torch.split(x0, size), torch.split(x1, size), conditions, strict=True)


def fit_counts(
    counts: sparse.csr_matrix,
    cells: Cells,
    condition: Tensor | None,
    cardinalities: Sequence[int],
    run: Run,
    *,
    latent: int,
    steps: int,
    lr: float = 1e-3,
) -> tuple[Counts, Trained]:
    """Train the autoencoder of counts; it stops on the likelihood of the validation cells."""
    rng = run.generator(5)
    on_cpu = None if condition is None else condition.cpu()
    codec = seeded(
        lambda: Counts.start(counts, on_cpu, latent=latent, cardinalities=tuple(cardinalities)),
        rng,
    ).to(run.device)
    assert isinstance(codec, Counts)
    done = None if run.checkpoints is None else run.checkpoints.finished("codec")
    if done is not None:
        codec.load_state_dict(done)
        return codec, Trained(pd.DataFrame(), steps, interrupted=False)
    n = len(run.train)

    def loss(rows: Tensor) -> Tensor:
        c = None if condition is None else condition[rows]
        nll, kl = codec.losses(cells.dense(rows), c, rng=rng)
        return (nll + codec.kl * kl).mean() + codec.penalty() / n

    def validate() -> float:
        fixed, total = run.generator(6), 0.0
        for rows in torch.split(run.validation[:2048], 256):
            c = None if condition is None else condition[rows]
            total += float(codec.losses(cells.dense(rows), c, rng=fixed)[0].sum())
        return total / min(len(run.validation), 2048)

    plan = Plan(steps, every=max(1, steps // 25), patience=6, clip=20.0, average=Ramp(0.99))
    monitor = Monitor(steps, title="codec", progress=run.progress)
    batches = Order(run.train, min(run.batch_size, 128), run.generator(7))
    optimizer = adamw(codec, lr=lr, weight_decay=1e-4, fast=codec.fast_parameters())
    keeper = run.keeper("codec", batches, [rng])
    trained = train(codec, loss, batches, validate, optimizer, plan, monitor, run.autocast, keeper=keeper)
    _standardize(codec, cells, condition)
    if run.checkpoints is not None and not trained.interrupted:
        run.checkpoints.finish("codec", codec.state_dict())
    return codec, trained


@torch.no_grad()
def _standardize(codec: Counts, cells: Cells, condition: Tensor | None, *, most: int = 20_000) -> None:
    """The scale of the code over (at most 20,000 evenly spaced) cells."""
    rows = torch.linspace(0, len(cells) - 1, min(len(cells), most), device=cells.device).long()
    chunks = torch.split(rows, 1024)
    parts = [codec.posterior_of(cells.dense(r), None if condition is None else condition[r]) for r in chunks]
    codec.standardize(torch.cat([mean for mean, _ in parts]), torch.cat([sd for _, sd in parts]))
