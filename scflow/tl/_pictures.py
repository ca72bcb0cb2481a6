"""The pictures of a report: each panel a figure of its own, so that a page can stack them on a narrow screen."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Picture", "drawn"]

_DPI = 160


@dataclass(frozen=True)
class Picture:
    """A picture as a page holds it.

    Attributes
    ----------
    uri
        A PNG as a `data:` address: nothing is fetched from elsewhere.
    alt
        What it shows, for those who do not see it.
    width
        In points of the screen.
    """

    uri: str
    alt: str
    width: int


def drawn(draw: Callable[[Any], object], sizes: Sequence[tuple[float, float]], alts: Sequence[str]) -> list[Picture]:
    """What `draw` draws on as many axes as there are `sizes` (in inches), a picture each.

    The figures are not pyplot's: no window, no backend, and nothing to close.

    Parameters
    ----------
    draw
        Given one Axes, or a list where there are several.
    alts
        A text for each.
    """
    from matplotlib.figure import Figure

    # No layout engine: a legend beside the axes would shrink them. Saved tight, the picture grows instead.
    figures = [Figure(figsize=size) for size in sizes]
    axes: list[Axes] = [figure.subplots() for figure in figures]
    draw(axes if len(axes) > 1 else axes[0])
    return [_picture(figure, alt) for figure, alt in zip(figures, alts, strict=True)]


def _picture(figure: Figure, alt: str) -> Picture:
    stream = io.BytesIO()
    # No metadata: the same cells make the same bytes.
    figure.savefig(stream, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    content = stream.getvalue()
    width = int.from_bytes(content[16:20], "big")
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode()}", alt, round(width * 96 / _DPI))
