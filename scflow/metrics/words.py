"""How metrics and figures are written, wherever a person reads them."""

from __future__ import annotations

import math

__all__ = ["figure", "title"]

_CAPITALS = ("auc", "ks", "mmd")


def title(metric: str) -> str:
    """A metric's name as one writes it.

    Examples
    --------
    >>> title("forest_auc_genes")
    'forest AUC genes'
    """
    return " ".join(word.upper() if word in _CAPITALS else word for word in metric.split("_"))


def figure(value: float) -> str:
    """Three digits that matter, without exponents where they can be avoided; a real minus sign; a dash for NaN.

    Examples
    --------
    >>> figure(0.00251), figure(123.45), figure(float("nan"))
    ('0.0025', '123.5', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.4f}"
    if abs(value) >= 100:
        text = f"{value:.1f}"
    # Rounded to nothing, a number has lost its sign.
    return text.replace("-", "−") if float(text) else text.removeprefix("-")
