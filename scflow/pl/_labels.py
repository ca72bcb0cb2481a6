"""Names beside dots, none on top of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["name_dots"]

_TURNS = np.deg2rad([0, 180, 40, 140, -40, -140, 90, -90])
_NEAR, _FAR = 5.0, (14.0, 24.0, 36.0, 50.0)
"""Points between a dot and its name; beyond the first a line leads there."""
_PLACES = [(radius, np.array([np.cos(turn), np.sin(turn)])) for radius in (_NEAR, *_FAR) for turn in _TURNS]


def name_dots(ax: Axes, xy: NDArray[Any], names: Sequence[str], others: NDArray[Any]) -> None:
    """A name beside each of the dots `[n, 2]`, at the first place around it where there is room.

    Where there is none, at the place where fewest names and `others`, all dots `[m, 2]`, are in the way.
    """
    from matplotlib.transforms import Bbox

    # Only now is it known where the axes will be, and how wide a name is.
    ax.figure.canvas.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72
    dots, frame = ax.transData.transform(xy), ax.get_window_extent()
    around = [Bbox([dot - 2 * pixels, dot + 2 * pixels]) for dot in ax.transData.transform(others)]
    taken: list[Bbox] = []
    for dot, at, name in zip(dots, xy, names, strict=True):
        size = _size(ax, name)
        offsets = [radius * pixels * turn + 0.5 * size * turn for radius, turn in _PLACES]
        boxes = [Bbox([dot + offset - 0.5 * size, dot + offset + 0.5 * size]) for offset in offsets]
        # A name on another is worse than one on a dot, and one off the axes worse still.
        cost = [
            box.count_overlaps(around) + 9 * box.count_overlaps(taken) + 99 * (not _within(box, frame)) for box in boxes
        ]
        best = int(np.argmin(cost))
        line = {"arrowstyle": "-", "lw": 0.5, "color": "0.4", "shrinkA": 0, "shrinkB": 2}
        ax.annotate(
            name,
            at,
            offsets[best] / pixels,
            textcoords="offset points",
            arrowprops=line if _PLACES[best][0] > _NEAR else None,
            **_STYLE,
        )
        taken.append(boxes[best])


_STYLE: dict[str, Any] = {"fontsize": "x-small", "color": "0.1", "ha": "center", "va": "center", "zorder": 5}


def _size(ax: Axes, name: str) -> NDArray[np.float64]:
    """Width and height of a name in pixels, with a margin."""
    text = ax.text(0, 0, name, transform=ax.transAxes, **_STYLE)
    box = text.get_window_extent()
    text.remove()
    return np.array([box.width, box.height]) + 2


def _within(box: Any, frame: Any) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
