"""A flow as a notebook shows it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scflow.errors import listed
from scflow.flow import _facts

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["as_html"]

# Styles in the elements, for pages that strip style sheets; no colour but the page's own, so that a dark one stays so.
_BOX = (
    "max-width:52rem;border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:.6rem .9rem;"
    "color:inherit;background:transparent;font-size:.95em;line-height:1.45;overflow-wrap:anywhere"
)
_NAME = (
    "text-align:left;vertical-align:top;padding:.1rem 1rem .1rem 0;font-weight:600;white-space:nowrap;background:none"
)
_CELL = "text-align:left;vertical-align:top;padding:.1rem 0;background:none"
_CODE = "background:rgba(128,128,128,.15);color:inherit;padding:.1rem .3rem;border-radius:3px;white-space:pre-wrap"


def as_html(flow: Flow) -> str:
    """What it learnt, from what, how well, and how to draw; details to open. Whatever comes from outside is escaped."""
    rows = {"learnt": _facts.learnt(flow), "from": _facts.origin(flow)}
    rows |= {f"by {name}": values for name, values in _facts.conditioned(flow).items()}
    rows |= {"how well": _facts.quality(flow)}
    rows |= {"made": _facts.made(flow)} if _facts.made(flow) else {}
    code = f'<code style="{_CODE}">{html.escape(_facts.drawing(flow))}</code>'
    body = _table(rows) + f'<p style="margin:.5rem 0 .2rem">draw: {code}</p>'
    judge = "scflow.tl.score(held_out, new, reference=train)"
    body += f'<p style="margin:.2rem 0 .5rem">judge: <code style="{_CODE}">{judge}</code></p>'
    body += _details("training", _curve(flow) + _table(_facts.training(flow)))
    every = _facts.conditioned(flow, most=200)
    body += _details("conditions", _table(every)) if every else ""
    body += (
        _details(f"{len(flow.genes):,} genes", f"<p>{html.escape(listed(flow.genes, 60))}</p>") if flow.genes else ""
    )
    # Notebooks typeset what stands between dollars, but not here.
    quiet = 'class="tex2jax_ignore mathjax_ignore"'
    return f'<div {quiet} style="{_BOX}"><strong>scflow.Flow</strong>{body}</div>'


def _table(rows: Mapping[str, str]) -> str:
    lines = (
        f'<tr style="background:none"><th style="{_NAME}">{html.escape(name)}</th>'
        f'<td style="{_CELL}">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f'<table style="border-collapse:collapse;margin:.3rem 0;color:inherit">{"".join(lines)}</table>'


def _details(title: str, body: str) -> str:
    return f'<details><summary style="cursor:pointer">{html.escape(title)}</summary>{body}</details>'


def _curve(flow: Flow) -> str:
    """Loss (thin) and validation loss (thick) against the step; nothing where there are fewer than two of them."""
    if "loss" not in flow.history or len(flow.history) < 2:
        return ""
    step = flow.history["step"].to_numpy(dtype=np.float64)
    curves = [
        (flow.history[name].to_numpy(dtype=np.float64), width, opacity)
        for name, width, opacity in (("loss", 1, 0.45), ("validation_loss", 2, 1.0))
        if name in flow.history
    ]
    values = np.concatenate([curve for curve, *_ in curves])
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return ""
    low, high = float(values.min()), float(np.quantile(values, 0.98))
    lines = "".join(_line(step, curve, low, high, width, opacity) for curve, width, opacity in curves)
    what = f"loss (thin) and validation loss (thick) over {int(step[-1]):,} steps"
    return (
        f'<svg viewBox="0 0 300 80" width="300" height="80" role="img" aria-label="{what}" '
        f'style="display:block;max-width:100%;margin:.4rem 0">{lines}</svg><div style="opacity:.7">{what}</div>'
    )


def _line(
    step: NDArray[np.float64], curve: NDArray[np.float64], low: float, high: float, width: int, opacity: float
) -> str:
    seen = np.isfinite(curve)
    x = 2 + 296 * (step[seen] - step[0]) / max(step[-1] - step[0], 1.0)
    y = 76 - 72 * np.clip((curve[seen] - low) / max(high - low, 1e-12), 0, 1)
    every = max(1, len(x) // 150)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::every], y[::every]))
    return (
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="{width}" '
        f'stroke-opacity="{opacity}"/>'
    )
