"""What there is to say about a flow in plain words: what it learnt, from what, how well, and the line that draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scflow.conditions._columns import Categorical, Continuous
from scflow.errors import listed
from scflow.metrics.words import figure

if TYPE_CHECKING:
    from scflow.conditions._columns import Column
    from scflow.flow._flow import Flow

__all__ = ["best_loss", "conditioned", "drawing", "learnt", "made", "origin", "quality", "training"]

_MADE = {"reflow": "reflowed", "distill": "distilled"}


def learnt(flow: Flow) -> str:
    """What the flow draws, and where it lives."""
    if flow.genes:
        return f"counts of {len(flow.genes):,} genes, in the space {flow.codec.name!r}"
    return f"{flow.codec.dim} coordinates, those of .obsm[{flow.provenance.get('use_rep', '?')!r}]"


def origin(flow: Flow) -> str:
    """The training cells: how many, and from which population to which."""
    p = flow.provenance
    cells = f"{p['n_cells']:,} cells" if isinstance(p.get("n_cells"), int) else "an unknown number of cells"
    if flow.course is not None:
        times = ", ".join(f"{time:g}" for time in flow.course.times)
        return f"{cells} of a time course by {flow.course.column!r}, at {times}"
    if isinstance(p.get("source"), Mapping):
        target = _population(p.get("target")) or "all others"
        return f"{cells}: from {_population(p['source'])} to {target}"
    return cells


def _population(wanted: Any) -> str:
    """Columns and their values, such as "condition 'ctrl'"."""
    if not isinstance(wanted, Mapping):
        return ""
    every = ((column, values if isinstance(values, (list, tuple)) else [values]) for column, values in wanted.items())
    return " and ".join(f"{column} {listed(values, most=4)}" for column, values in every)


def conditioned(flow: Flow, most: int = 5) -> dict[str, str]:
    """What cells are drawn by: a condition, and the labels or numbers it has."""
    return {column.name: _values(column, most) for column in flow.conditions.columns}


def _values(column: Column, most: int) -> str:
    if isinstance(column, Continuous):
        return f"numbers, {column.mean:.3g} ± {column.sd:.3g} in the training cells"
    if isinstance(column, Categorical):
        return f"{len(column.categories)} labels: {listed(column.categories, most)}"
    return f"{len(column.labels)} labels made of {len(column.parts.names)} parts: {listed(column.parts.names, most)}"


def best_loss(flow: Flow) -> tuple[float, int] | None:
    """The least validation loss and its step; None where no cells were held out."""
    if "validation_loss" not in flow.history:
        return None
    losses = flow.history["validation_loss"].to_numpy(dtype=np.float64)
    if not np.isfinite(losses).any():
        return None
    best = int(np.nanargmin(losses))
    return float(losses[best]), int(flow.history["step"].iloc[best])


def quality(flow: Flow) -> str:
    """How well it learnt, as far as the flow itself knows: the loss says little of cells, a watched score more."""
    best = best_loss(flow)
    told = "no validation cells" if best is None else f"validation loss {figure(best[0])} at step {best[1]:,}"
    for name, words in (("forest_auc", "forest AUC"), ("mmd", "MMD"), ("wasserstein", "2-Wasserstein")):
        if name in flow.history and f"{name}_floor" in flow.history:
            seen = flow.history[[name, f"{name}_floor"]].dropna()
            if len(seen):
                value, floor = (float(number) for number in seen.iloc[-1])
                told += f", {words} {figure(value)} (floor {figure(floor)})"
    return told


def training(flow: Flow) -> dict[str, str]:
    """The network and its training, by name."""
    p, network = flow.provenance, getattr(flow.field, "network", flow.field)
    parameters = sum(weight.numel() for weight in flow.field.parameters())
    steps = (
        f"{p.get('steps', '?')} of {p['steps_planned']} planned" if "steps_planned" in p else f"{p.get('steps', '?')}"
    )
    told = {
        "field": f"{type(network).__name__}, {parameters:,} weights",
        "path": type(flow.path).__name__,
        "noise": type(flow.noise).__name__,
        "steps": f"{steps}{', interrupted' if p.get('interrupted') else ''}",
    }
    told |= {word: str(p[name]) for name, word in _SETTINGS.items() if name in p}
    return told | ({"made": made(flow)} if made(flow) else {})


_SETTINGS = {"batch_size": "batch size", "lr": "learning rate", "precision": "precision", "seed": "seed"}


def made(flow: Flow) -> str:
    """What was made of another flow, and how."""
    p = flow.provenance
    if "made_by" not in p:
        return ""
    pairs = f"{p['pairs']:,} of its {'pairs' if p['made_by'] == 'reflow' else 'trajectories'}"
    guided = "" if p["made_with_guidance"] == 1 else f", guidance {p['made_with_guidance']}"
    return f"{_MADE[p['made_by']]} from {pairs}{guided}, {p['draw_solver']} x {p['draw_steps']}"


def drawing(flow: Flow) -> str:
    """The line to type for new, or for carried, cells."""
    if flow.course is not None:
        early, late = flow.course.times[:2]
        return f"scflow.tl.transport(adata, flow, to={(early + late) / 2:g})"
    if isinstance(flow.provenance.get("source"), Mapping):
        return "scflow.tl.transport(adata, flow)"
    for column in flow.conditions.columns:
        if isinstance(column, Categorical) and column.categories:
            value = column.decode(np.zeros(1))[0]  # a number or a truth value, where the labels were some
            label = repr(value) if isinstance(value, str) else str(value)
            return f"scflow.tl.generate(flow, 1_000, condition={{{column.name!r}: {label}}})"
    return "scflow.tl.generate(flow, 1_000)"
