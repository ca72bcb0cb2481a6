"""What all pictures share: axes, colours, and the reading of sets of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scflow._anndata import checked, read_counts
from scflow.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["GENERATED", "REAL", "axes_of", "category_colors", "of_layer", "shared_counts"]

REAL = "#8c8c8c"
GENERATED = "#d55e00"

# Okabe and Ito (2008), without black and yellow, which fades on white.
_EIGHT = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5d3a9b", "#7f7f7f")
# Krzywinski's fifteen colours for the colour-blind, darkened where they fade on white.
_FIFTEEN = (
    "#003c86", "#e20134", "#008169", "#ff71fd", "#009ffa", "#68023f", "#00b08f", "#9400e6",
    "#c98a00", "#ef0096", "#008607", "#6a0213", "#00a3c4", "#b58900", "#ff9dc8",
)  # fmt: skip


def axes_of(ax: Axes | Sequence[Axes] | None, n: int, width: float, height: float) -> list[Axes]:
    """`n` axes: the caller's, or those of a new figure of `n * width` by `height` inches.

    Raises
    ------
    InputError
        Where the caller gave another number of axes.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        # Not constrained: that forgets that axes may be square, and cuts legends off beside them.
        _, made = plt.subplots(1, n, figsize=(n * width, height), layout="compressed", squeeze=False)
        return list(made[0])
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(given) != n:
        raise InputError(
            f"ax holds {len(given)} Axes; this picture draws on {n}. Make them with: "
            f"figure, ax = plt.subplots({f'1, {n}' if n > 1 else ''})."
        )
    return given


def category_colors(categories: Sequence[Any], *adatas: AnnData, column: str) -> dict[str, str]:
    """A colour for each category: that of the first of `adatas` with one in `.uns["<column>_colors"]`, or our own."""
    known: dict[str, str] = {}
    for adata in adatas:
        colors, values = adata.uns.get(f"{column}_colors"), adata.obs[column]
        if colors is None or not isinstance(values.dtype, pd.CategoricalDtype):
            continue
        names = [str(name) for name in values.cat.categories]
        # Fewer colours than categories: written before a category was added, so no longer to be trusted.
        if len(colors) >= len(names):
            known = {name: str(color) for name, color in zip(names, colors, strict=False)} | known
    own = _palette(len(categories))
    return {str(name): known.get(str(name), own[i]) for i, name in enumerate(categories)}


def _palette(n: int) -> list[str]:
    """`n` colours; beyond fifteen they can no longer all be told apart."""
    if n <= len(_FIFTEEN):
        return list((_EIGHT if n <= len(_EIGHT) else _FIFTEEN)[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["turbo"](i / (n - 1))) for i in range(n)]


def shared_counts(cells: Mapping[str, AnnData], layer: str | None) -> list[sparse.csr_matrix]:
    """Counts of each set of cells, by its name, on the genes that all have, in the order of the first.

    Raises
    ------
    InputError
        Where they share fewer than two genes, or hold no counts.
    """
    adatas = {name: checked(adata, name=name) for name, adata in cells.items()}
    genes, *others = (adata.var_names for adata in adatas.values())
    for other in others:
        genes = genes[genes.isin(other)]
    if len(genes) < 2:
        numbers = " and ".join(str(adata.n_vars) for adata in adatas.values())
        names = "; ".join(f"{name}: {listed(adata.var_names, 3)}" for name, adata in adatas.items())
        raise InputError(
            f"{' and '.join(adatas)} share {len(genes)} of {numbers} genes ({names}). Expected the same names in "
            ".var_names of all."
        )
    found = []
    nowhere = not any(layer in adata.layers for adata in adatas.values())
    for name, adata in adatas.items():
        # In none: reading it says which layers there are.
        here = layer if layer in adata.layers or nowhere else None
        counts = read_counts(adata, here, name=name, for_training=False)
        whole = adata.var_names.equals(genes)
        found.append(counts if whole else sparse.csr_matrix(counts[:, adata.var_names.get_indexer(genes)]))
    return found


def of_layer(adata: AnnData, layer: str) -> AnnData:
    """The same cells and genes with a layer in the place of `.X`, which is not copied."""
    from anndata import AnnData

    return AnnData(adata.layers[layer], obs=adata.obs[[]], var=adata.var[[]])
