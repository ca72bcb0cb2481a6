"""Two published ways to predict a stimulus, written plainly, for perturbation.py: latent arithmetic, and OT-CFM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from cells import counts_of
from numpy.typing import NDArray
from perturbation_task import Task, expression
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from scflow.metrics import Space

Numbers = NDArray[np.float64]

EPOCHS, BATCH = 100, 128
FLOW_STEPS, FLOW_BATCH = 3000, 128
EULER = 50


class Autoencoder(nn.Module):
    """Dense layers to a normal code and back, as scGen has them (Lotfollahi et al. 2019), narrower for few cells."""

    def __init__(self, n_genes: int, *, hidden: int = 256, latent: int = 50) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*layers(n_genes, hidden), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(*layers(latent, hidden), nn.Linear(hidden, n_genes), nn.ReLU())

    def loss(self, x: Tensor, rng: torch.Generator, *, kl: float = 5e-5) -> Tensor:
        """Half of the squared error, and hardly any divergence."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        code = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=rng)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        result: Tensor = (0.5 * (self.decoder(code) - x).square().sum(1) + kl * divergence).mean()
        return result

    def code(self, x: Tensor) -> Tensor:
        """The mean of each cell's code."""
        result: Tensor = self.encoder(x).chunk(2, dim=1)[0]
        return result


def layers(n: int, hidden: int) -> list[nn.Module]:
    """Two dense layers."""
    parts: list[nn.Module] = []
    for width in (n, hidden):
        parts += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(), nn.Dropout(0.2)]
    return parts


def latent_arithmetic(task: Task) -> Numbers:
    """Codes of the controls moved by the mean difference of codes in the other types, which count alike, and decoded.

    The decoder gives an expectation: cells without the noise of their counts, as scGen draws them.
    """
    x = torch.from_numpy(expression(task.train)).float()
    with torch.random.fork_rng(devices=[]):  # of dropout too
        torch.default_generator.manual_seed(task.seed)
        model, rng = Autoencoder(x.shape[1]), torch.Generator().manual_seed(task.seed)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x), generator=rng).split(BATCH):
                descend(optimizer, model.loss(x[rows], rng))
    model.eval()
    with torch.no_grad():
        codes = model.code(x).numpy()
        shift = np.mean([after.mean(0) - before.mean(0) for _, before, after in task.pairs(codes)], axis=0)
        moved = torch.from_numpy(codes[task.is_control] + shift).float()
        return np.asarray(model.decoder(moved).numpy(), dtype=np.float64)


class Velocity(nn.Module):
    """Dense layers of state, time and an embedding of the condition."""

    def __init__(self, dim: int, n_conditions: int, *, hidden: int = 256, embedding: int = 32) -> None:
        super().__init__()
        self.condition = nn.Embedding(n_conditions, embedding)
        self.register_buffer("frequencies", 2 * torch.pi * torch.arange(1, 9))
        parts: list[nn.Module] = []
        for width in (dim + embedding + 16, hidden, hidden):
            parts += [nn.Linear(width, hidden), nn.SiLU()]
        self.layers = nn.Sequential(*parts, nn.Linear(hidden, dim))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """States ``[n, dim]``, times and conditions ``[n]`` to velocities ``[n, dim]``."""
        angle = t[:, None] * self.frequencies
        result: Tensor = self.layers(torch.cat([x, angle.sin(), angle.cos(), self.condition(condition)], dim=1))
        return result


def conditional_flow(task: Task) -> Numbers:
    """CellFlow's recipe (Klein et al. 2025): flow matching from controls to stimulated cells in principal components.

    A step shows cells of one type, whose controls and stimulated cells are paired by an assignment within the batch.
    The field knows the condition to go to, which here is one, and not the type: the one held out has no name it knows.
    """
    space = Space.fit(counts_of(task.train), task.train.n_vars)
    everything = space.components(counts_of(task.train))
    scale = torch.from_numpy(everything.std(0))
    pairs = [[torch.from_numpy(side) / scale for side in both] for _, *both in task.pairs(everything)]
    rng, choice = torch.Generator().manual_seed(task.seed), np.random.default_rng(task.seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(task.seed)
        field = Velocity(len(scale), 1)
    optimizer = torch.optim.Adam(field.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FLOW_STEPS)
    for _ in range(FLOW_STEPS):
        before, after = paired(pairs[choice.integers(len(pairs))], rng)
        t = torch.rand(len(before), generator=rng)
        x = torch.lerp(before, after, t[:, None])
        velocity = field(x, t, torch.zeros(len(x), dtype=torch.int64))
        descend(optimizer, (velocity - (after - before)).square().mean())
        schedule.step()
    x = torch.from_numpy(everything[task.is_control]) / scale
    moved = np.asarray((carried(field, x) * scale).numpy(), dtype=np.float64)
    predicted = np.empty((len(moved), task.train.n_vars))
    predicted[:, space.chosen] = moved @ space.loadings.T + space.mean
    return predicted


def paired(sides: Sequence[Tensor], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of each side, in the order that makes the sum of squared distances least."""
    before, after = (x[torch.randint(len(x), (FLOW_BATCH,), generator=rng)] for x in sides)
    return before, after[linear_sum_assignment((before @ after.T).numpy(), maximize=True)[1]]


@torch.no_grad()
def carried(field: nn.Module, x: Tensor) -> Tensor:
    """From time 0 to 1 by Euler's method."""
    condition = torch.zeros(len(x), dtype=torch.int64)
    for i in range(EULER):
        x = x + field(x, torch.full((len(x),), i / EULER), condition) / EULER
    return x


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
