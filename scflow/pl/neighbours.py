"""Whether generated cells are copies of training cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError, check_seed
from scflow.metrics import Space
from scflow.metrics.neighbours import nearest_distances, radii
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["neighbours"]

_MOST, _LEAST = 5000, 10
_TRAINING = "#0072b2"


class _Distances(NamedTuple):
    """Of each cell the distance to the nearest training cell and to the nearest held-out one, `[n]`."""

    to_training: NDArray[np.float64]
    to_held_out: NDArray[np.float64]


@picture
def neighbours(
    real: AnnData,
    generated: AnnData,
    reference: AnnData,
    *,
    layer: str | None = None,
    seed: int = 0,
    ax: Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> list[Axes] | Figure:
    """Distances to the nearest training cell and to the nearest held-out cell, at equal numbers of both.

    For generated cells on the left, for real held-out cells on the right, as the share of cells that are nearer than a
    distance. Training cells that are nearer than as many unseen ones have been copied: the two lines then part on the
    left, where those on the right lie on each other. The titles tell the ratio of the medians: 1 is perfect, 0 is what
    copies have.

    Distances are Euclidean, in 50 principal components of training and held-out cells together, as many of each: in
    those of training cells alone, training cells lie farther out and seem too far away. Of the larger set as many are
    taken at random as the smaller one has, so that copies find all their origins only where as many cells were held
    out as trained on: ``scflow.pp.split(adata, test_size=0.5)``. A held-out cell is not its own neighbour.
    Compare the lines of one picture, not the two pictures: held-out cells took part in the fit, generated ones did not.

    Parameters
    ----------
    real
        Held-out real cells: none of them may have been trained on.
    generated
        The cells to judge.
    reference
        The training cells.
    layer
        Where the counts are; None for `.X`, or `.layers["counts"]` where `.X` holds no counts.
    seed
        Of the cells that are taken, at most 5,000 a side; the same seed gives the same picture.
    ax
        Two axes to draw on; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    list of Axes
        Generated cells, real held-out cells. The figure is ``axes[0].figure``; it is not shown.

    Raises
    ------
    InputError
        Where values are no counts, they share fewer than two genes, or there are fewer than 10 cells of one of them.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.pbmc68k()
    >>> train, held_out = scflow.pp.split(adata, stratify="cell_type", test_size=0.5)
    >>> axes = scflow.pl.neighbours(held_out, train[:100].copy(), train)
    >>> axes[0].get_title()
    'generated cells: ratio 0.00'
    """
    clouds = shared_counts({"real": real, "generated": generated, "reference": reference}, layer)
    sizes = [counts.shape[0] for counts in clouds]
    if min(sizes) < _LEAST:
        raise InputError(
            f"There are {sizes[0]} held-out, {sizes[1]} generated and {sizes[2]} training cells; expected at least "
            f"{_LEAST} of each. Hold out, or generate, more."
        )
    axes = axes_of(ax, 2, 4.8, 3.6)
    found = _measured(clouds[0], clouds[1], clouds[2], np.random.default_rng(check_seed(seed)))
    for one, side, name, color in zip(axes, found, ("generated", "real held-out"), (GENERATED, REAL), strict=True):
        _draw(one, side, name, color)
    return axes


def _measured(
    real: sparse.csr_matrix, generated: sparse.csr_matrix, training: sparse.csr_matrix, rng: np.random.Generator
) -> list[_Distances]:
    """Distances of generated and of real cells to as many training as held-out cells."""
    n = min(real.shape[0], training.shape[0], _MOST)
    seen, unseen = (cells[rng.permutation(cells.shape[0])[:n]] for cells in (training, real))
    space = Space.fit(sparse.csr_matrix(sparse.vstack([seen, unseen], format="csr")))
    drawn = space.components(generated[rng.permutation(generated.shape[0])[:_MOST]])
    taught, held_out = space.components(seen), space.components(unseen)
    return [
        _Distances(nearest_distances(drawn, taught)[:, 0], nearest_distances(drawn, held_out)[:, 0]),
        _Distances(nearest_distances(held_out, taught)[:, 0], radii(held_out, k=1)),  # none is its own neighbour
    ]


def _draw(ax: Axes, side: _Distances, name: str, color: str) -> None:
    """The share of cells that are nearer than a distance, and the medians."""
    lines = (
        (side.to_training, _TRAINING, "-", "nearest training cell"),
        (side.to_held_out, "0.25", "--", "nearest held-out cell"),
    )
    medians = [float(np.median(distances)) for distances, *_ in lines]
    for (distances, paint, style, label), median in zip(lines, medians, strict=True):
        share = np.arange(1, len(distances) + 1) / len(distances)
        ax.step(np.sort(distances), share, where="post", color=paint, ls=style, lw=1.6, label=label)
        ax.plot([median], [0.5], marker="o", ms=5, color=paint, zorder=3)
    ratio = f"ratio {medians[0] / medians[1]:.2f}" if medians[1] > 0 else "no ratio: all are copies"
    ax.set_title(f"{name} cells: {ratio}", color=color if color == GENERATED else "0.35", fontsize="medium")
    end = 1.05 * max(float(distances.max()) for distances in side) + 1e-9
    ax.set(xlim=(-0.02 * end, end), ylim=(0, 1.03), xlabel="distance", ylabel="share of cells that are nearer")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
