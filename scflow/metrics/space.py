"""The space that cells are compared in: fitted on the reference cells alone, and centred on their mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError

__all__ = ["Space", "library_sizes", "log_normalised"]

_TARGET = 1e4

# Values made dense at once: 32 MB in float64.
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Space:
    """Variable genes, their mean and their principal components, all of the reference cells.

    Every cloud is projected with the *same* mean. Centring each cloud on its own would hide a shift, and no centring
    would add one constant to all distances from the origin.

    Attributes
    ----------
    chosen
        Columns of the variable genes, the most variable first, `[n_chosen]`.
    mean
        The reference's mean of log1p of counts per 10,000, float64 `[n_chosen]`.
    loadings
        Principal axes, orthonormal, float64 `[n_chosen, n_components]`; of each the largest entry is positive.
    n_genes
        How many genes counts must have.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> counts = sparse.csr_matrix(np.random.default_rng(0).poisson(3.0, size=(60, 30)))
    >>> space = Space.fit(counts, n_genes=20, n_components=5)
    >>> space.components(counts).shape
    (60, 5)
    >>> bool(np.allclose(space.components(counts).mean(axis=0), 0, atol=1e-5))
    True
    """

    chosen: NDArray[np.int64]
    mean: NDArray[np.float64]
    loadings: NDArray[np.float64]
    n_genes: int

    @classmethod
    def fit(cls, counts: sparse.csr_matrix, n_genes: int = 2000, n_components: int = 50) -> Space:
        """The space of reference cells.

        Parameters
        ----------
        counts
            Raw counts `[n_cells, n_genes]`, CSR.
        n_genes
            How many genes to keep: those whose log1p of counts per 10,000 varies most (all, where there are fewer).
        n_components
            Principal components; fewer where cells or genes are fewer.

        Raises
        ------
        InputError
            Where there are fewer than 2 cells, or all are the same.
        """
        n_cells = counts.shape[0]
        if n_cells < 2:
            raise InputError(f"The reference has {n_cells} cells; a space needs at least 2, and better hundreds.")
        expression = log_normalised(counts)
        mean, variance = _mean_and_variance(expression)
        if not variance.any():
            raise InputError(
                f"The {n_cells} reference cells are all the same after normalisation, so no gene varies. "
                "Expected cells that differ: check that this is the matrix you mean."
            )
        chosen = np.argsort(-variance, kind="stable")[:n_genes].astype(np.int64)
        k = min(n_components, n_cells - 1, len(chosen))
        loadings = _principal_axes(sparse.csr_matrix(expression[:, chosen]), mean[chosen], k)
        return cls(chosen, mean[chosen], loadings, counts.shape[1])

    def expression(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Log1p of counts per 10,000 of the variable genes, CSR float32 `[n_cells, n_chosen]`."""
        if counts.shape[1] != self.n_genes:
            raise InputError(
                f"The counts have {counts.shape[1]} genes; this space was fitted on {self.n_genes}. Give the same "
                "genes in the same order: adata[:, reference.var_names]."
            )
        return sparse.csr_matrix(log_normalised(counts)[:, self.chosen])

    def genes(self, counts: sparse.csr_matrix) -> NDArray[np.float32]:
        """As `expression`, but dense: for a few thousand cells at most."""
        result: NDArray[np.float32] = self.expression(counts).toarray()
        return result

    def components(self, counts: sparse.csr_matrix) -> NDArray[np.float32]:
        """Principal components, centred on the reference's mean, `[n_cells, n_components]`."""
        return self.project(self.expression(counts))

    def project(self, expression: sparse.csr_matrix) -> NDArray[np.float32]:
        """Principal components of what `expression` returned."""
        # The mean is projected instead of subtracted, so that nothing becomes dense.
        result: NDArray[np.float32] = (expression @ self.loadings - self.mean @ self.loadings).astype(np.float32)
        return result


def library_sizes(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Total counts of each cell, float64 `[n_cells]`.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0, 1], [4, 1]]))
    >>> library_sizes(x).tolist()
    [1.0, 5.0]
    """
    totals = np.concatenate([[0.0], np.cumsum(counts.data, dtype=np.float64)])
    result: NDArray[np.float64] = np.diff(totals[counts.indptr])
    return result


def log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log1p of counts per 10,000, CSR float32; a cell without counts is a row of zeros.

    Examples
    --------
    >>> import numpy as np
    >>> x = sparse.csr_matrix(np.array([[0, 1], [5, 5]]))
    >>> log_normalised(x).toarray().round(1).tolist()
    [[0.0, 9.199999809265137], [8.5, 8.5]]
    """
    sizes = library_sizes(counts)
    scale = np.divide(_TARGET, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    values = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr))).astype(np.float32)
    return sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def variable_genes(expression: sparse.csr_matrix, n_genes: int) -> NDArray[np.int64]:
    """Columns of the genes of largest variance, the most variable first."""
    variance = _mean_and_variance(expression)[1]
    return np.argsort(-variance, kind="stable")[:n_genes].astype(np.int64)


def dense_chunks(x: sparse.csr_matrix) -> Iterator[NDArray[np.float64]]:
    """The rows of `x` as dense float64 blocks of bounded size."""
    step = max(1, _CHUNK // max(1, x.shape[1]))
    for start in range(0, x.shape[0], step):
        yield x[start : start + step].toarray().astype(np.float64)


def _mean_and_variance(x: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per column; the variance by deviations from the mean, so that a constant column has exactly none."""
    n, width = x.shape
    stored = np.bincount(x.indices, minlength=width)
    mean = np.bincount(x.indices, weights=x.data, minlength=width) / n
    squares = np.bincount(x.indices, weights=(x.data - mean[x.indices]) ** 2, minlength=width)
    variance = (squares + (n - stored) * mean**2) / max(1, n - 1)
    return mean, np.where(variance > 1e-12, variance, 0.0)


def _principal_axes(x: sparse.csr_matrix, mean: NDArray[Any], k: int) -> NDArray[np.float64]:
    """The `k` leading eigenvectors of the covariance, which is summed over dense blocks of centred rows."""
    from scipy.linalg import eigh

    width = x.shape[1]
    covariance = np.zeros((width, width))
    for rows in dense_chunks(x):
        rows -= mean
        covariance += rows.T @ rows
    axes = eigh(covariance, subset_by_index=[width - k, width - 1])[1][:, ::-1]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(k)])
    return np.ascontiguousarray(axes * signs)
