"""Whether genes go together in generated cells as they do in real ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError, check_seed
from scflow.metrics import log_normalised, profile
from scflow.metrics.genes import correlations
from scflow.pl._choices import check_whole
from scflow.pl._picture import picture
from scflow.pl._style import GENERATED, REAL, axes_of, shared_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["correlation"]

_LEAST = 10
"""Cells a side below which a correlation is chance."""

Matrix = NDArray[np.float64]


class _Correlations(NamedTuple):
    """Pearson's r of the same genes in each set of cells, `[n_genes, n_genes]`, genes by their place in a clustering.

    All of the real and all of the generated cells; and at equal numbers two halves of the real ones and some generated.
    """

    real: Matrix
    generated: Matrix
    half: Matrix
    other_half: Matrix
    some_generated: Matrix


@picture
def correlation(
    real: AnnData,
    generated: AnnData,
    *,
    n_genes: int = 200,
    layer: str | None = None,
    seed: int = 0,
    ax: Sequence[Axes] | None = None,
    return_fig: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> list[Axes] | Figure:
    """Gene-gene correlation of the most variable genes, real and generated.

    On the left all pairs of genes as one square: real cells below the diagonal, generated ones above it, genes in the
    order of a clustering of the real ones. A square that is its own mirror image is perfect.

    In the middle a dot is a pair: r in generated cells against r in one half of the real ones; on the right r in the
    other half against it, at the same number of cells: a perfect generator's picture. A cloud that is flatter than the
    one on the right has lost correlation. r is Pearson's, of log1p of counts per 10,000, over all cells at once.

    Parameters
    ----------
    real, generated
        The cells; compared on the genes that both have. Left as they are.
    n_genes
        How many genes: those whose expression varies most in `real`. At least 3; all of them where there are fewer.
    layer
        Where the counts are; None for `.X`, or `.layers["counts"]` where `.X` holds no counts.
    seed
        Of the halves; the same seed gives the same picture.
    ax
        Three axes to draw on; a new figure where there are none.
    return_fig
        Return the figure in the place of the axes.
    save
        Write the picture to this file too. In `.pdf` and `.svg` text stays text, and dots of cells are pixels.

    Returns
    -------
    list of Axes
        The square, generated against real, real against real. The figure is ``axes[0].figure``; it is not shown.

    Raises
    ------
    InputError
        Where values are no counts, the two share fewer than two genes, `n_genes` is below 3, or there are fewer than
        20 real or 10 generated cells.

    Examples
    --------
    >>> axes = scflow.pl.correlation(held_out, new)
    """
    check_seed(seed)
    check_whole(n_genes, "n_genes", least=0)
    if n_genes < 3:
        raise InputError(f"n_genes={n_genes!r} makes no picture; expected at least 3, such as n_genes=200.")
    counts = shared_counts({"real": real, "generated": generated}, layer)
    n = min(counts[0].shape[0] // 2, counts[1].shape[0])
    if n < _LEAST:
        raise InputError(
            f"{counts[0].shape[0]} real cells in two halves and {counts[1].shape[0]} generated ones leave {n} a side; "
            f"expected at least {_LEAST}. Hold out, or generate, more."
        )
    axes = axes_of(ax, 3, 4.4, 4.0)
    found = _correlated(counts[0], counts[1], n, n_genes, np.random.default_rng(seed))
    _square(axes[0], found)
    title = f"generated\n{_spread(found.half, found.some_generated)}"
    _pairs(axes[1], found.half, found.some_generated, GENERATED, title, "r in generated cells")
    title = f"real: the other half\n{_spread(found.half, found.other_half)}"
    _pairs(axes[2], found.half, found.other_half, REAL, title, "r in the other half")
    return axes


def _correlated(
    real: sparse.csr_matrix, generated: sparse.csr_matrix, n: int, n_genes: int, rng: np.random.Generator
) -> _Correlations:
    """The correlations of the variable genes, in the order of the real ones' clustering."""
    expression = [log_normalised(counts) for counts in (real, generated)]
    top = np.argsort(-profile(expression[0]).variance, kind="stable")[:n_genes]
    real, generated = (sparse.csr_matrix(x[:, np.sort(top)]) for x in expression)
    rows, drawn = rng.permutation(real.shape[0]), rng.permutation(generated.shape[0])[:n]
    sides = (real, generated, real[rows[:n]], real[rows[n : 2 * n]], generated[drawn])
    found = [correlations(x) for x in sides]
    order = _order(found[0])
    return _Correlations(*(r[np.ix_(order, order)] for r in found))


def _order(r: Matrix) -> NDArray[np.int64]:
    """Genes as the leaves of a tree of average linkage, those that go together beside each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    far = np.clip(1 - r, 0.0, 2.0)
    np.fill_diagonal(far, 0.0)
    tree = linkage(squareform(far, checks=False), method="average", optimal_ordering=True)
    order: NDArray[np.int64] = leaves_list(tree).astype(np.int64)
    return order


def _square(ax: Axes, found: _Correlations) -> None:
    """Real below the diagonal, generated above it; the scale ends where few pairs are beyond."""
    n = len(found.real)
    below = np.tril_indices(n, -1)
    both = np.where(np.tri(n, k=-1, dtype=bool), found.real, found.generated)
    np.fill_diagonal(both, np.nan)
    most = float(np.clip(np.quantile(np.abs(found.real[below]), 0.99), 0.05, 1.0))
    image = ax.imshow(both, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest", rasterized=True)
    ax.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="black", lw=0.8)
    ax.set(xticks=[], yticks=[], xlabel=f"{n} most variable genes")
    style: dict[str, Any] = {"transform": ax.transAxes, "fontsize": "medium"}
    # Outside of the square, so that they hide nothing.
    ax.set_title("generated ◥", loc="right", color=GENERATED, fontsize="medium")
    ax.text(-0.02, 0.0, "◣ real", rotation=90, ha="right", va="bottom", color="0.35", **style)
    ax.figure.colorbar(image, ax=ax, label="Pearson's r", shrink=0.7, extend="both")


def _pairs(ax: Axes, x: Matrix, y: Matrix, color: str, title: str, label: str) -> None:
    """A dot a pair of genes, and the line where both are the same."""
    above = np.triu_indices(len(x), 1)
    size = float(np.clip(20_000 / len(above[0]), 1.0, 12.0))
    ax.scatter(x[above], y[above], s=size, c=color, lw=0, alpha=0.35, rasterized=True)
    low, high = float(min(x[above].min(), y[above].min())), float(max(x[above].max(), y[above].max()))
    margin = 0.05 * (high - low) + 1e-6
    ax.plot([low, high], [low, high], color="black", ls="--", lw=1)
    ax.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    ax.set(xlabel="r in one half of the real cells", ylabel=label)
    ax.set_title(title, fontsize="medium")
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)


def _spread(x: Matrix, y: Matrix) -> str:
    """The mean distance from the line, which the score of this name is too."""
    above = np.triu_indices(len(x), 1)
    return f"mean |difference| {np.abs(x[above] - y[above]).mean():.3f}"
