"""The trivial generator: what any model has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError, listed, nearest
from scflow.metrics.sides import EVERYTHING
from scflow.metrics.space import library_sizes

__all__ = ["poisson_cells", "trivial"]

# Rates made dense at once: 32 MB.
_CHUNK = 1 << 22


def poisson_cells(
    counts: sparse.csr_matrix, labels: NDArray[Any], wanted: NDArray[Any], *, seed: int = 0
) -> sparse.csr_matrix:
    """Independent Poisson counts from the mean profile of each type, with resampled library sizes.

    Such cells have the right types, depths and means, but no variation within a type beyond counting noise, and no
    dependence between genes.

    Parameters
    ----------
    counts
        Raw counts of the reference cells `[n_cells, n_genes]`, CSR.
    labels
        The type of each reference cell, `[n_cells]`.
    wanted
        The type of each cell to draw, `[n_wanted]`.
    seed
        Of the draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        Counts, int32 `[n_wanted, n_genes]`.

    Raises
    ------
    InputError
        Where lengths do not fit, or a wanted type has no reference cell with counts.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> counts = sparse.csr_matrix(np.array([[9, 0], [9, 1], [0, 9]]))
    >>> labels = np.array(["a", "a", "b"])
    >>> cells = poisson_cells(counts, labels, np.array(["b"] * 3))
    >>> cells.shape, int(cells[:, 0].sum())
    ((3, 2), 0)
    """
    labels, wanted = np.asarray(labels), np.asarray(wanted)
    if labels.shape != (counts.shape[0],):
        raise InputError(f"{counts.shape[0]} cells have labels of shape {labels.shape}; expected one label a cell.")
    types, code = np.unique(labels, return_inverse=True)
    sizes = library_sizes(counts)
    profiles = _profiles(counts, code, len(types))
    place = {label: i for i, label in enumerate(types.tolist()) if profiles[i].sum() > 0}
    unknown = [label for label in dict.fromkeys(wanted.tolist()) if label not in place]
    if unknown:
        raise InputError(
            f"{len(unknown)} of the types wanted have no reference cell with counts ({listed(unknown)})."
            f"{nearest(unknown[0], place)} There are {listed(place)}."
        )
    rng = np.random.default_rng(seed)
    drawn = np.array([place[label] for label in wanted.tolist()], dtype=np.int64)
    depth = np.empty(len(wanted))
    for i in np.unique(drawn):
        depth[drawn == i] = rng.choice(sizes[code == i], int((drawn == i).sum()))
    step = max(1, _CHUNK // max(1, counts.shape[1]))
    blocks = [
        sparse.csr_matrix(rng.poisson(depth[s : s + step, None] * profiles[drawn[s : s + step]]).astype(np.int32))
        for s in range(0, max(1, len(wanted)), step)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def trivial(
    reference: sparse.csr_matrix, labels: NDArray[np.str_], wanted: NDArray[np.str_], seed: int
) -> sparse.csr_matrix:
    """The trivial generator's cells; a category that the reference lacks gets the profile of the whole reference."""
    pooled = ~np.isin(wanted, labels)
    if not pooled.any():
        return poisson_cells(reference, labels, wanted, seed=seed)
    everywhere = np.full(len(labels), EVERYTHING)
    blocks = [poisson_cells(reference, everywhere, np.full(int(pooled.sum()), EVERYTHING), seed=seed)]
    if not pooled.all():
        blocks.append(poisson_cells(reference, labels, wanted[~pooled], seed=seed + 1))
    order = np.concatenate([np.flatnonzero(pooled), np.flatnonzero(~pooled)])
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")[np.argsort(order)])


def _profiles(counts: sparse.csr_matrix, code: NDArray[np.int64], n_types: int) -> NDArray[np.float64]:
    """The share of each gene in all counts of each type, `[n_types, n_genes]`; zeros for a type without counts."""
    members = sparse.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))), shape=(n_types, len(code)))
    sums = (members @ counts).toarray()
    totals = sums.sum(axis=1, keepdims=True)
    profiles: NDArray[np.float64] = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    return profiles
