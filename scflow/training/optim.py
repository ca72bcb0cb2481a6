"""The optimiser, its schedule and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from scflow.training.averages import Average, Ramp

__all__ = ["WeightAverage", "adamw", "clipped", "schedule", "warmup_steps"]


def adamw(
    module: nn.Module, *, lr: float, weight_decay: float = 0.01, fast: Iterable[nn.Parameter] = (), faster: float = 10.0
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) whose decay spares biases, norms and embeddings.

    The parameters in `fast` have `faster` times the rate, and no decay.
    """
    quick = list(fast)
    known = {id(p) for p in quick}
    embedded = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for p in module.parameters():
        if p.requires_grad and id(p) not in known:
            (decayed if p.ndim > 1 and id(p) not in embedded else spared).append(p)
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "lr": lr},
        {"params": spared, "weight_decay": 0.0, "lr": lr},
        {"params": quick, "weight_decay": 0.0, "lr": lr * faster},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, fused=True)


def warmup_steps(steps: int) -> int:
    """A thousand steps, or 5 % of a short run."""
    return max(1, min(1000, round(0.05 * steps)))


def schedule(step: int, *, steps: int, warmup: int, floor: float = 0.0, shape: str = "cosine") -> float:
    """The factor on the learning rate at `step` (from 0): a linear warm-up, then half a cosine down to `floor`.

    With the shape ``"constant"`` it stays at 1 after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    done = min((step - warmup) / max(1, steps - warmup), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def clipped(parameters: Sequence[Tensor], most: float) -> Tensor:
    """Scale gradients down to a total norm of `most`, and give the norm they had before.

    Most steps have less, and scaling by 1 would be one more pass over all gradients: on the CPU, where looking at the
    norm costs nothing, it is left out.
    """
    norm: Tensor = torch.linalg.vector_norm(
        torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
    )
    if norm.device.type != "cpu" or norm > most:
        nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)
    return norm


class WeightAverage:
    """The moving average of the weights by a law of :mod:`scflow.training.averages`, kept in float32.

    Moving it is a pass over all weights, which is much of a step of a small network. So it may be moved at every so
    many updates only, by as much as all of them together; `settle` makes up for those that are outstanding.

    Parameters
    ----------
    parameters
        The weights.
    law
        How much is kept at each update.
    every
        Updates from one move to the next, at most; fewer at first (one for every 64 so far, and one more), while the
        average reaches over few steps.
    """

    def __init__(self, parameters: Sequence[Tensor], law: Average | None = None, *, every: int = 1) -> None:
        self.law, self.every = law or Ramp(), every
        self.step, self.waiting, self.kept = 0, 0, 1.0
        self.source = [p.detach() for p in parameters]
        self.average = [p.detach().clone().float() for p in parameters]

    def update(self) -> None:
        """Count a step, and now and then move the average towards the weights as they are now."""
        self.kept *= self.law.decay(self.step)
        self.step += 1
        self.waiting += 1
        if self.waiting >= min(self.every, 1 + self.step // 64):
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Move the average by what the updates since the last move come to."""
        if self.kept != 1:
            torch._foreach_lerp_(self.average, [p.float() for p in self.source], 1 - self.kept)
        self.waiting, self.kept = 0, 1.0

    def copy(self) -> list[Tensor]:
        """The average as it is now."""
        return [p.clone() for p in self.average]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and average: call it again to undo."""
        for p, a in zip(self.source, self.average, strict=True):
            held = p.clone()
            p.copy_(a)
            a.copy_(held)


@torch.no_grad()
def load(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set weights."""
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)
