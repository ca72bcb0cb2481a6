"""What every picture does beside drawing: one look, a figure as wide as its legends, a file, the figure itself."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np

from scflow.errors import FileError, InputError, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["picture"]

P = ParamSpec("P")
Drawn = TypeVar("Drawn")

_LOOK: dict[Any, Any] = {
    "axes.grid": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": "medium",
    "axes.titleweight": "normal",
    "font.family": ["sans-serif"],
    "font.size": 10.0,
    "image.cmap": "viridis",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    # Text stays text, which a journal and a drawing program can edit; else it becomes outlines.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    # The same picture is the same bytes.
    "svg.hashsalt": "scflow",
}
_DPI = 300
"""Of files, and of the dots in vector files, which are pixels: a hundred thousand shapes open nowhere."""
_ROOM = 1.2
"""Inches beside the axes that figures have anyway."""


def picture(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Give a function that draws our look, and see to its `ax`, `save` and `return_fig`, which it need not read.

    What is set for matplotlib is as it was afterwards; where drawing fails, no empty figure stays open.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        import matplotlib

        target = _target(kwargs.get("save"))
        with matplotlib.rc_context(_LOOK), _closed_where_it_fails():
            axes = draw(*args, **kwargs)
            if kwargs.get("ax") is None:
                _widen(_figure(axes))
            if target is not None:
                _save(_figure(axes), target)
            return cast("Drawn", _figure(axes)) if kwargs.get("return_fig") else axes

    return drawn


def _target(save: object) -> Path | None:
    """Where the file is to be written, checked before anything is drawn.

    Raises
    ------
    InputError
        Where `save` is no path.
    FileError
        Where its folder is not there, or its ending is none that matplotlib writes.
    """
    if save is None:
        return None
    if not isinstance(save, (str, os.PathLike)) or not os.fspath(save):
        raise InputError(f"save={save!r} is no path. Give one with an ending, such as save='umap.pdf'.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = Path(os.fsdecode(save)).expanduser()
    known: Mapping[str, str] = FigureCanvasAgg.get_supported_filetypes()
    if target.suffix.lstrip(".").lower() not in known:
        raise FileError(
            f"Cannot save a picture to '{target}': it ends in {target.suffix!r}. Expected one of "
            f"{listed(sorted(known), most=20)}, such as '{target.with_suffix('.pdf')}'."
        )
    if not target.parent.is_dir():
        raise FileError(f"Cannot save to '{target}': there is no folder '{target.parent}'. Make it first.")
    return target


@contextmanager
def _closed_where_it_fails() -> Iterator[None]:
    """Close the figures that were made for a picture that then could not be drawn."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        yield
    except BaseException:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        raise


def _figure(axes: Any) -> Figure:
    """The one figure that all axes are in; that of a part of a figure is the whole."""
    figures: list[Any] = list(dict.fromkeys(one.figure.canvas.figure for one in np.ravel(np.asarray(axes))))
    if len(figures) > 1:
        raise InputError(
            f"ax lies in {len(figures)} figures, and save and return_fig are about one. Make the axes together, such "
            f"as figure, ax = plt.subplots(1, {np.size(axes)}), or save each figure: ax[0].figure.savefig(path)."
        )
    return cast("Figure", figures[0])


def _widen(figure: Figure) -> None:
    """Give legends beside the axes the room they take, so that axes stay as large as they were meant."""
    wide, high = 0.0, 0.0
    for ax in figure.axes:
        legend = ax.get_legend()
        if legend is not None and _beside(ax):
            box = legend.get_window_extent()
            wide, high = wide + box.width / figure.dpi, max(high, box.height / figure.dpi)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + max(0.0, wide - _ROOM), max(height, high + 0.3))


def _beside(ax: Axes) -> bool:
    """Whether the legend stands outside, to the right: those within take no room."""
    legend = ax.get_legend()
    anchor = None if legend is None else legend.get_bbox_to_anchor()
    return anchor is not None and bool(ax.transAxes.inverted().transform(anchor.get_points())[0, 0] >= 1)


def _save(figure: Figure, target: Path) -> None:
    """Write the file; without a date, so that the same picture makes the same bytes."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    try:
        figure.savefig(target, dpi=_DPI, bbox_inches="tight", metadata=dates.get(target.suffix.lower()))
    except OSError as error:
        raise FileError(f"Cannot save to '{target}': {error.strerror or error}.") from error
