"""Cells to learn from, and cells to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scflow._anndata import check_sliced, checked, obs_column
from scflow.errors import InputError, check_seed, names_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["split"]


def split(
    adata: AnnData,
    *,
    test_size: float = 0.5,
    stratify: str | Sequence[str] | None = None,
    groups: str | None = None,
    seed: int = 0,
) -> tuple[AnnData, AnnData]:
    """Split cells in two at random: `(train, held_out)`.

    Parameters
    ----------
    adata
        The cells; left as they are.
    test_size
        The held-out cells: their fraction (below 1), or their number (a whole number from 1 up).
    stratify
        One or several columns of `.obs`. Each of their combinations keeps its share on both sides, to within one cell;
        a combination of one cell goes to `train`, and every combination keeps a cell there.
    groups
        A column of `.obs`, such as the donor, whose groups stay whole. The held-out share is then met as nearly as
        whole groups in random order allow. Not together with `stratify`.
    seed
        The same seed gives the same split.

    Returns
    -------
    tuple of AnnData
        Copies, each with its cells in their old order.

    Raises
    ------
    InputError
        Where a side would be empty, or a column is not there or has no value for some cells.

    Examples
    --------
    >>> import anndata, numpy, scflow
    >>> adata = anndata.AnnData(numpy.ones((10, 2), dtype="float32"))
    >>> train, held_out = scflow.pp.split(adata, test_size=0.3)
    >>> train.n_obs, held_out.n_obs
    (7, 3)
    """
    checked(adata)
    check_sliced(adata)
    size = _size(test_size, adata.n_obs)
    if stratify is not None and groups is not None:
        raise InputError(
            f"split was given both stratify={stratify!r} and groups={groups!r}, and whole groups cannot keep every "
            "category's share. Give one of them."
        )
    rng = np.random.default_rng(check_seed(seed))
    if groups is not None:
        held_out = _by_groups(_codes(adata, [groups]), size, groups, rng)
    else:
        columns = names_of(stratify, "stratify")
        held_out = _by_shares(_codes(adata, columns), size, rng)
    if not held_out.any():
        raise InputError(
            f"No cell is left to hold out: with stratify={stratify!r}, each combination of the {adata.n_obs} cells is "
            f"too small to give a cell away at test_size={test_size}. Stratify by coarser labels, or by none."
        )
    return adata[~held_out].copy(), adata[held_out].copy()


def _size(test_size: object, n_cells: int) -> int:
    """The number of held-out cells."""
    size = 0
    if isinstance(test_size, (int, np.integer)) and not isinstance(test_size, bool):
        size = int(test_size)
    elif isinstance(test_size, (float, np.floating)) and 0 < test_size < 1:
        size = round(float(test_size) * n_cells)
    if not 0 < size < n_cells:
        raise InputError(
            f"test_size={test_size!r} of {n_cells} cells leaves a side empty. Give a fraction between 0 and 1, or a "
            f"number of cells from 1 to {n_cells - 1}."
        )
    return size


def _codes(adata: AnnData, columns: Sequence[str]) -> NDArray[np.int64]:
    """Which combination of the columns' values each cell has, 0, 1, ... `[n_cells]`."""
    codes = np.zeros(adata.n_obs, dtype=np.int64)
    for column in columns:
        values = obs_column(adata, column).astype(str).to_numpy(dtype=str)
        both = np.stack([codes, np.unique(values, return_inverse=True)[1].reshape(-1)])
        codes = np.unique(both, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


def _by_shares(codes: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Held-out cells by the method of largest remainders over the combinations."""
    counts = np.bincount(codes)
    quota, remainder = np.divmod(counts * size, len(codes))
    # The last cell of a combination stays in train. Ties between remainders are broken at random.
    remainder[quota + 1 >= counts] = 0
    order = np.lexsort((rng.random(len(counts)), -remainder))
    short = min(size - int(quota.sum()), int((remainder > 0).sum()))
    quota[order[:short]] += 1
    held_out = np.zeros(len(codes), dtype=bool)
    for combination, number in enumerate(quota):
        held_out[rng.permutation(np.flatnonzero(codes == combination))[:number]] = True
    return held_out


def _by_groups(codes: NDArray[np.int64], size: int, column: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Held-out cells as whole groups: taken in random order while they bring the number nearer to `size`."""
    counts = np.bincount(codes)
    if len(counts) < 2:
        raise InputError(
            f"obs[{column!r}] holds 1 group; at least 2 are needed to keep groups whole. "
            f"Split without groups={column!r}."
        )
    taken = np.zeros(len(counts), dtype=bool)
    for group in rng.permutation(len(counts)):
        now = int(counts[taken].sum())
        nearer = abs(now + int(counts[group]) - size) < abs(now - size)
        if nearer and taken.sum() < len(counts) - 1:
            taken[group] = True
    if not taken.any():
        taken[counts.argmin()] = True
    return np.asarray(taken[codes])
