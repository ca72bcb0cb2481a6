"""How mixed the neighbourhoods of two clouds are: the local inverse Simpson's index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.metrics.neighbours import nearest_neighbours
from scflow.metrics.transport import check_clouds

__all__ = ["lisi"]

Numbers = NDArray[np.float64]

_HALVINGS = 50


def lisi(x: NDArray[Any], y: NDArray[Any], *, k: int = 90, perplexity: float = 30.0) -> float:
    """The median over cells of the local inverse Simpson's index of two clouds (Korsunsky et al. 2019).

    Around each cell its `k` nearest others get Gaussian weights of the given perplexity, as in t-SNE; the index is
    one over the chance that two neighbours drawn by these weights are of the same cloud.

    Parameters
    ----------
    x, y
        Cells ``[n, d]`` and ``[m, d]``, about equally many.
    k, perplexity
        Of the neighbourhoods; both shrink where cells are few.

    Returns
    -------
    float
        1 where the clouds are apart, 2 where they are mixed perfectly; a little less for two samples of one law.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> lisi(x, y + 50)
    1.0
    """
    x, y = check_clouds(x, y)
    cells = np.vstack([x, y])
    k = min(k, len(cells) - 1)
    squares, near = nearest_neighbours(cells, k)
    weights = _weights(squares, min(perplexity, k / 3))
    of_x = (weights * (near < len(x))).sum(axis=1)
    return float(np.median(1 / (of_x**2 + (1 - of_x) ** 2)))


def _weights(squares: Numbers, perplexity: float) -> Numbers:
    """Weights ``[n, k]`` that sum to 1 a row and whose entropy is the logarithm of the perplexity, by bisection."""
    away = squares - squares.min(axis=1, keepdims=True)
    scale = np.maximum(away.mean(axis=1, keepdims=True), 1e-300)
    low, high = np.full(scale.shape, -30.0), np.full(scale.shape, 30.0)
    weights: Numbers = np.full(away.shape, 1 / away.shape[1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        weights = np.exp(-away / scale * np.exp(middle))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return weights
