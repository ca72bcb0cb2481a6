"""What a machine allows: a step's matrix products alone, and its bytes alone, at the rates that are measured here."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from scflow.training import Run

ADAMW = 28
"""Bytes a weight that a step of AdamW cannot do without: weight, gradient and two moments read, three written."""
_PRODUCTS = ("aten.mm.default", "aten.addmm.default", "aten.bmm.default")

Product = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class Limits:
    """Of one step.

    Attributes
    ----------
    flops
        Floating-point operations of its matrix products.
    products
        Seconds that these take alone, each of its own shape and type.
    n_bytes
        What has to be moved beside them: weights and moments by the optimiser, what the forward pass keeps for the
        backward one, once written and once read.
    memory
        Seconds that this takes at the bandwidth of a sum of two long vectors.
    """

    flops: float
    products: float
    n_bytes: float
    memory: float


class Seen(TorchDispatchMode):
    """Takes down the shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in _PRODUCTS:
            a, b = args[-2:]
            self.products[tuple(a.shape), tuple(b.shape), a.dtype] += 1
        return func(*args, **(kwargs or {}))


def limits(field: nn.Module, x0: Tensor, condition: Tensor, run: Run) -> Limits:
    """Of a step of this field on a batch of the states `x0` ``[n, dim]``."""
    rows = torch.arange(run.batch_size, device=run.device) % len(x0)
    cells, told = x0[rows], condition[rows]
    t, kept = torch.rand(len(rows), device=run.device), dict[int, int]()

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with Seen() as seen, FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda saved: saved):
        with run.autocast():
            loss = field(cells, t, told).square().mean()
        loss.backward()
    field.zero_grad(set_to_none=True)
    weights = sum(p.numel() for p in field.parameters())
    n_bytes = ADAMW * weights + 2 * sum(kept.values())
    products = sum(n * seconds_of(product, run.device) for product, n in seen.products.items())
    return Limits(counter.get_total_flops(), products, n_bytes, n_bytes / bandwidth(run.device))


def seconds_of(product: Product, device: torch.device) -> float:
    """What a product of these shapes takes alone."""
    first, second, kind = product
    a, b = torch.randn(first, device=device).to(kind), torch.randn(second, device=device).to(kind)
    return repeated(lambda: a @ b, device)


def bandwidth(device: torch.device, *, n: int = 1 << 24) -> float:
    """Bytes a second."""
    a, b, out = (torch.ones(n, device=device) for _ in range(3))
    return 3 * 4 * n / repeated(lambda: torch.add(a, b, out=out), device)


def repeated(work: Callable[[], Any], device: torch.device, *, times: int = 7) -> float:
    """The median of some repetitions, after one that warms up; short work is done often enough to be timed."""

    def took(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / n

    once = max(took(1), took(1))
    n = max(1, min(200, int(5e-3 / max(once, 1e-6))))
    return statistics.median(took(n) for _ in range(times))
