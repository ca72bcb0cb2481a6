"""What the verbs that make one flow of another share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from scflow import _anndata
from scflow.flow import Flow
from scflow.flow._fewer import Fewer, check_teacher
from scflow.flow._learning import default_lr
from scflow.matching import guidance as guiding
from scflow.tl._options import device_of, positive, whole
from scflow.training import Run

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Guidance", "run_of", "settings", "teacher"]

Guidance = float | Mapping[str, float] | guiding.Guidance

_PAIRS = 20_000
_WIDEST = 40_000_000
"""Most numbers, pairs x coordinates x states of each, that are kept."""
_FEWEST = 100


def teacher(flow_or_adata: Flow | AnnData, verb: str) -> Flow:
    """The flow that teaches."""
    flow = flow_or_adata if isinstance(flow_or_adata, Flow) else Flow.from_content(_anndata.read_flow(flow_or_adata))
    check_teacher(flow, verb)
    return flow


def settings(
    flow: Flow,
    n: int | str,
    name: str,
    states: int,
    guidance: Guidance,
    steps: int,
    lr: float | str,
    draw: tuple[str, Any],
) -> Fewer:
    """How to make a flow of `flow`, checked; `name` is what the verb calls the number of pairs."""
    most = max(_FEWEST * 10, _WIDEST // (states * flow.codec.dim))
    guided = guiding.Guidance.of(guidance)
    guided.weights(flow.conditions.names)
    return Fewer(
        n=min(_PAIRS, most) if n == "auto" else whole(n, name, least=_FEWEST),
        guidance=guided,
        steps=whole(steps, "steps"),
        lr=default_lr(flow.codec.dim) if lr == "auto" else positive(lr, "lr"),
        draw=(draw[0], whole(draw[1], "draw_steps")),
    )


def run_of(how: Fewer, batch_size: int | str, device: str, seed: int, progress: bool) -> Run:
    """The run; which pairs it looks at and which it learns from follows later."""
    none = torch.zeros(0, dtype=torch.int64)
    size = min(256, how.n // 2) if batch_size == "auto" else whole(batch_size, "batch_size")
    where = device_of(device)
    return Run(none, none, size, whole(seed, "seed", least=0), where, progress=progress)
