"""What all pictures share: axes, colours, and the reading of sets of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scflow._anndata import checked, read_counts
from scflow.errors import InputError, listed, name_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["GENERATED", "REAL", "axes_of", "category_colors", "of_layer", "palette", "shared_counts"]

REAL = "#8c8c8c"
GENERATED = "#d55e00"

_PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5d3a9b", "#870000", "#0000ff", "#4be1b4",
    "#5a87ff", "#874b69", "#b42d0f", "#690f5a", "#78d2f0", "#96b487", "#0f69f0", "#d20fc3", "#782d4b", "#b4d269",
    "#0000d2", "#5ac3c3", "#ff2d69", "#00875a", "#b43c96", "#2d692d", "#5a0087", "#6996e1", "#693c78", "#0f963c",
    "#ffb400", "#4b78d2", "#4ba5c3", "#e1965a", "#004b2d", "#3c6987", "#3c00a5", "#b4c387", "#69a5ff", "#b4961e",
)  # fmt: skip
"""The first six are of Okabe and Ito (2008), without black, and yellow, which fades on white. Each that follows is the
colour that is farthest from all before it to the nearest of three eyes: a usual one, and one without red or without
green cones (Machado et al. 2009), in the perceptual space of Ottosson (2020), neither near white nor near black."""


def axes_of(ax: Axes | Sequence[Axes] | None, n: int, width: float, height: float) -> list[Axes]:
    """`n` axes: the caller's, or those of a new figure of `n * width` by `height` inches.

    Raises
    ------
    InputError
        Where the caller gave another number of axes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        # Not constrained: that forgets that axes may be square, and cuts legends off beside them.
        _, made = plt.subplots(1, n, figsize=(n * width, height), layout="compressed", squeeze=False)
        return list(made[0])
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    wrong = [type(one).__name__ for one in given if not isinstance(one, Axes)]
    if wrong:
        raise InputError(f"ax holds a {wrong[0]}, which is no matplotlib Axes. Make some: figure, ax = plt.subplots().")
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
    own = palette(len(categories))
    return {str(name): known.get(str(name), own[i]) for i, name in enumerate(categories)}


def palette(n: int) -> list[str]:
    """`n` colours, the first of which are those of fewer; beyond forty they can no longer all be told apart."""
    if n <= len(_PALETTE):
        return list(_PALETTE[:n])
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
    name_of(layer, "layer")
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
