"""Whether an MMD is more than chance: its p-value by permutation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate
from scflow.metrics.kernels import gaussian_blocks, mmd_bandwidth
from scflow.metrics.transport import check_clouds

__all__ = ["mmd_test"]


def mmd_test(
    x: NDArray[Any], y: NDArray[Any], *, bandwidth: float | None = None, n_permutations: int = 199, seed: int = 0
) -> Estimate:
    """The p-value of :func:`mmd` under random exchanges of cells between the clouds (Gretton et al. 2012, section 6).

    The share of splits of the pooled cells, the given one included, whose unbiased MMD is at least the one found. For
    two samples of one law it is uniform. The kernel matrix is made once for all permutations, by chunks.

    Parameters
    ----------
    x, y
        Cells ``[n, d]`` and ``[m, d]``, at least two of each.
    bandwidth
        As in :func:`mmd`; the median distance of the pooled cells does not change with a permutation.
    n_permutations
        Random splits; the smallest p-value is ``1 / (n_permutations + 1)``.
    seed
        Of the permutations.

    Returns
    -------
    Estimate
        Without an interval: a p-value has none for other cells.

    Raises
    ------
    InputError
        Where shapes do not fit, there are fewer than two cells a side, or there is no permutation.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(2, 40, 3))
    >>> mmd_test(x, y + 2).value
    0.005
    """
    x, y = check_clouds(x, y)
    h = mmd_bandwidth(x, y, bandwidth, seed)
    n, m = len(x), len(y)
    if min(n, m) < 2 or n_permutations < 1:
        raise InputError(
            f"{n} and {m} cells with n_permutations={n_permutations!r} give no p-value. Expected at least 2 cells of "
            "each, and a permutation: n_permutations=199."
        )
    rng = np.random.default_rng(seed)
    # Who belongs to x, in the given split and in each permuted one; the last column counts everyone.
    member = np.zeros((n + m, n_permutations + 2))
    member[:n, 0] = 1
    for i in range(1, n_permutations + 1):
        member[rng.permutation(n + m)[:n], i] = 1
    member[:, -1] = 1
    within, of_all = np.zeros(n_permutations + 1), np.zeros(n_permutations + 2)
    for rows, kernel in gaussian_blocks(np.vstack([x, y]), h):
        sums = kernel @ member
        within += (member[rows, :-1] * sums[:, :-1]).sum(axis=0)
        of_all += member[rows].T @ sums[:, -1]
    total, from_x = of_all[-1], of_all[:-1]
    across = from_x - within
    among_y = total - from_x - across
    values = within / (n * (n - 1)) + among_y / (m * (m - 1)) - 2 * across / (n * m)
    # Rounding must not make a permutation that changes nothing smaller than what was found.
    return Estimate(float((values >= values[0] - 1e-12).mean()))
