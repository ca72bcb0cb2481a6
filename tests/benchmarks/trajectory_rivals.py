"""TorchCFM's flow matching, as its single-cell example trains it (Tong et al. 2024), for trajectory.py.

Everything that learns is TorchCFM's own: its matchers and its network. One step takes a batch of each pair of
consecutive time points, at the time k + t; where a time point is left out the pair spans the gap.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from trajectory_courses import Task
from trajectory_report import INDEPENDENT

WIDTH, BATCH, RATE, SIGMA = 64, 128, 1e-3, 0.1

Array = NDArray[np.float64]


def installed() -> bool:
    """Whether TorchCFM can be imported."""
    return importlib.util.find_spec("torchcfm") is not None


def rival(kind: str, task: Task, seed: int, steps: int) -> Array:
    """The cells of the time point before, carried to the one left out, which is halfway through its pair."""
    field = trained(kind, task.train, seed, steps)
    return carried(field, task.train[task.before], task.before, task.before + 0.5)


def trained(kind: str, cells: list[Array], seed: int, steps: int) -> nn.Module:
    """TorchCFM's network of three hidden layers, trained with one of its matchers."""
    from torchcfm.models.models import MLP

    # TorchCFM draws from the global generators of torch and numpy: they are set, and put back.
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        field: nn.Module = MLP(dim=cells[0].shape[1], time_varying=True, w=WIDTH)
        _fit(field, matcher(kind), [torch.from_numpy(x).float() for x in cells], steps)
    np.random.set_state(state)  # noqa: NPY002
    return field


def matcher(kind: str) -> Any:
    """Pairs as they are drawn, or the optimal ones of each batch."""
    from torchcfm.conditional_flow_matching import (
        ConditionalFlowMatcher,
        ExactOptimalTransportConditionalFlowMatcher,
    )

    return (ConditionalFlowMatcher if kind == INDEPENDENT else ExactOptimalTransportConditionalFlowMatcher)(sigma=SIGMA)


def _fit(field: nn.Module, match: Any, cells: list[torch.Tensor], steps: int) -> None:
    """AdamW on the squared error of the velocity."""
    optimizer = torch.optim.AdamW(field.parameters(), RATE)
    for _ in range(steps):
        parts = []
        for k, (x0, x1) in enumerate(pairwise(cells)):
            x0, x1 = (x[torch.randint(len(x), (BATCH,))] for x in (x0, x1))
            t, x, velocity = match.sample_location_and_conditional_flow(x0, x1)
            parts.append((torch.cat([x, t[:, None] + k], 1), velocity))
        x, velocity = (torch.cat(part) for part in zip(*parts, strict=True))
        loss = (field(x) - velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def carried(field: nn.Module, cells: Array, start: float, end: float, steps: int = 50) -> Array:
    """Cells after the field's flow from one time to another, by classical Runge-Kutta."""
    x, h = torch.from_numpy(cells).float(), (end - start) / steps

    def velocity(x: Tensor, t: float) -> Tensor:
        found: Tensor = field(torch.cat([x, torch.full((len(x), 1), t)], 1))
        return found

    for k in range(steps):
        t = start + k * h
        a = velocity(x, t)
        b = velocity(x + h / 2 * a, t + h / 2)
        c = velocity(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + velocity(x + h * c, t + h))
    return x.double().numpy()
