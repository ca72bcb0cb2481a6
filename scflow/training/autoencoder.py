"""Fitting the autoencoder of counts, whose codes are then a field's states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from scflow.codecs import Counts
from scflow.errors import FileError
from scflow.training.averages import Ramp
from scflow.training.batches import Cells, Order
from scflow.training.effects import fit_effects
from scflow.training.history import Monitor
from scflow.training.loop import Trained, train
from scflow.training.optim import adamw
from scflow.training.progress import Plan
from scflow.training.run import Run, seeded
from scflow.training.shared import fit_shared

__all__ = ["fit_counts"]


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
    shared: int = 32,
    effects: str = "code",
) -> tuple[Counts, Trained]:
    """Train the autoencoder of counts; it stops on the likelihood of the validation cells.

    Then find what codes leave out: of each category's mean, and at most `shared` directions that residuals have in
    common. `effects` are those of `scflow.codecs.Counts`.

    Examples
    --------
    >>> from scflow.training import Run
    >>> from scflow.training.batches import Cells
    >>> rows = torch.arange(counts.shape[0])
    >>> run = Run(rows[:60], rows[60:], batch_size=32, seed=0, device=torch.device("cpu"), progress=False)
    >>> codec, trained = fit_counts(counts, Cells(counts, run.device), None, (), run, latent=4, steps=10)
    >>> codec.dim
    5
    """
    rng = run.generator(5)
    on_cpu = None if condition is None else condition.cpu()
    sizes: dict[str, Any] = {
        "latent": latent,
        "cardinalities": tuple(cardinalities),
        "shared": shared,
        "effects": effects,
    }
    codec = seeded(lambda: Counts.start(counts, on_cpu, **sizes), rng).to(run.device)
    assert isinstance(codec, Counts)
    done = None if run.checkpoints is None else run.checkpoints.finished("codec")
    if done is not None:
        try:
            codec.load_state_dict(done)
        except RuntimeError as error:
            raise FileError(f"The finished codec of the run does not fit it ({str(error)[:300]}).") from error
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
    if trained.interrupted:
        return codec, trained
    _standardize(codec, cells, condition)
    if effects == "code":
        fit_effects(codec, cells, condition, run)
    if shared:
        fit_shared(codec, cells, condition, run)
    if run.checkpoints is not None:
        run.checkpoints.finish("codec", codec.state_dict())
    return codec, trained


@torch.no_grad()
def _standardize(codec: Counts, cells: Cells, condition: Tensor | None, *, most: int = 20_000) -> None:
    """Location and scale of the code over (at most 20,000 evenly spaced) cells."""
    rows = torch.linspace(0, len(cells) - 1, min(len(cells), most), device=cells.device).long()
    chunks = torch.split(rows, 1024)
    parts = [codec.posterior_of(cells.dense(r), None if condition is None else condition[r]) for r in chunks]
    means, sds = torch.cat([mean for mean, _ in parts]), torch.cat([sd for _, sd in parts])
    codec.standardize(means, sds, None if condition is None else condition[rows])
