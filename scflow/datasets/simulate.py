"""Negative-binomial cells whose truth is known, for tests that need an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit, logit

from scflow.errors import InputError, check_seed

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["simulate"]

Floats = NDArray[np.float64]

# Entries of one dense block of rows, about 20 MB in float64: cells x genes is never dense as a whole.
_BLOCK = 2_500_000


def simulate(
    n_cells: int = 1000,
    n_genes: int = 500,
    n_types: int = 4,
    *,
    proportions: Sequence[float] | None = None,
    n_batches: int = 2,
    n_programmes: int = 3,
    library_size: float | None = None,
    library_sd: float = 0.3,
    gene_sd: float = 1.0,
    type_effect: float = 1.5,
    batch_effect: float = 0.2,
    programme_effect: float = 0.5,
    dispersion: float = 0.2,
    dropout: float = 0.0,
    seed: int = 0,
) -> AnnData:
    r"""Draw cells from a negative-binomial model with known types, batches and gene programmes.

    A cell :math:`i` of type :math:`k` in batch :math:`b`, with library size :math:`L_i` and programme scores
    :math:`z_i \sim N(0, I)`, has for gene :math:`g` the mean

    .. math:: \mu_{ig} = L_i\, p_{kg} \exp\bigl(\beta_{bg} + z_i \cdot w_g - \tfrac12 |w_g|^2\bigr)

    and the count is negative binomial with variance :math:`\mu + \phi_g \mu^2`, then zero with the gene's technical
    dropout rate :math:`\pi_g`. The programmes make genes of one type go together; the last term of the exponent
    keeps their mean at 1, so that averaged over the scores the mean is :math:`L_i\, p_{kg} e^{\beta_{bg}}`.

    Rows are drawn in blocks and kept sparse, so 50,000 cells of 5,000 genes fit in little more than their CSR matrix.
    How full the matrix is follows from the counts per gene: ``library_size = 0.056 * n_genes`` fills about 5 %.

    Parameters
    ----------
    n_cells, n_genes, n_types
        The size; at least 1 each.
    proportions
        Share of each type, `[n_types]`, scaled to sum to 1; equal by default. Types are drawn cell by cell.
    n_batches
        Batches, drawn with equal shares and independently of type. The first is the reference, without an effect.
    n_programmes
        Programmes, each moving about a fifth of the genes; 0 leaves genes independent within a type.
    library_size
        Median counts of a cell, log-normal between cells; ``2 * n_genes`` by default.
    library_sd
        Standard deviation of the log library size.
    gene_sd
        Standard deviation of the log mean expression between genes.
    type_effect
        Standard deviation of a type's log fold changes, in the tenth of the genes that mark it.
    batch_effect
        Standard deviation of a batch's log fold changes, over all genes.
    programme_effect
        Standard deviation of the loadings :math:`w`, in log units for one unit of score.
    dispersion
        Median over genes of :math:`\phi`, which is log-normal with standard deviation 0.3; 0 is Poisson.
    dropout
        Technical dropout rate of the gene of median expression; rarer genes lose more, 0 loses none.
    seed
        Of the generator that everything is drawn from. Global random states are not touched.

    Returns
    -------
    AnnData
        `[n_cells, n_genes]`, with

        - ``.X``: counts, CSR float32;
        - ``.obs["cell_type"]``, ``.obs["batch"]``: categorical, ``type_0``..., ``batch_0``...;
        - ``.obs["truth_library_size"]``: :math:`L`;
        - ``.obsm["truth_programmes"]``: :math:`z`, `[n_cells, n_programmes]`;
        - ``.uns["truth"]``: arrays ``profiles`` (:math:`p`, rows sum to 1) `[n_types, n_genes]`, ``batch_effects``
          (:math:`\beta`) `[n_batches, n_genes]`, ``programme_loadings`` (:math:`w`) `[n_programmes, n_genes]`,
          ``dispersion`` (:math:`\phi`) and ``dropout`` (:math:`\pi`) `[n_genes]`, ``proportions`` `[n_types]`.

    Raises
    ------
    InputError
        If a size, a share or an effect is out of range.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(100, 50, 3)
    >>> adata.shape, adata.uns["truth"]["profiles"].shape
    ((100, 50), (3, 50))
    """
    library_size = 2.0 * n_genes if library_size is None else library_size
    _check_sizes(n_cells=(n_cells, 1), n_genes=(n_genes, 1), n_types=(n_types, 1))
    _check_sizes(n_batches=(n_batches, 1), n_programmes=(n_programmes, 0))
    _check_effects(library_sd=library_sd, gene_sd=gene_sd, type_effect=type_effect, batch_effect=batch_effect)
    _check_effects(programme_effect=programme_effect, dispersion=dispersion, dropout=dropout)
    if not (np.isfinite(library_size) and library_size > 0):
        raise InputError(f"library_size is {library_size}; a number above 0 is expected, such as library_size=2000.")
    if not dropout < 1:
        raise InputError(f"dropout is {dropout}; a rate from 0 to below 1 is expected, such as dropout=0.1.")
    rng = np.random.default_rng(check_seed(seed))
    profiles = _profiles(n_types, n_genes, gene_sd=gene_sd, type_effect=type_effect, rng=rng)
    truth = _Truth(
        profiles=profiles,
        batch_effects=_batch_effects(n_batches, n_genes, batch_effect, rng),
        programme_loadings=programme_effect * _sparse_normal((n_programmes, n_genes), 0.2, rng),
        dispersion=dispersion * np.exp(0.3 * rng.standard_normal(n_genes)),
        dropout=_dropout_rates(profiles, dropout),
        proportions=_shares(proportions, n_types),
    )
    cells = _Cells(
        type=rng.choice(n_types, n_cells, p=truth.proportions),
        batch=rng.integers(n_batches, size=n_cells),
        library=library_size * np.exp(library_sd * rng.standard_normal(n_cells)),
        programmes=rng.standard_normal((n_cells, n_programmes)),
    )
    return _annotated(_draw(truth, cells, rng), truth, cells)


@dataclass(frozen=True)
class _Truth:
    """What holds for all cells; the fields are those of ``.uns["truth"]``."""

    profiles: Floats
    batch_effects: Floats
    programme_loadings: Floats
    dispersion: Floats
    dropout: Floats
    proportions: Floats


@dataclass(frozen=True)
class _Cells:
    """What is drawn for each cell before its counts."""

    type: NDArray[np.int64]
    batch: NDArray[np.int64]
    library: Floats
    programmes: Floats


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (value, least) in sizes.items():
        if value != int(value) or value < least:
            raise InputError(f"{name} is {value}; a whole number from {least} up is expected.")


def _check_effects(**effects: float) -> None:
    for name, value in effects.items():
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; a finite number from 0 up is expected, and {name}=0 switches it off.")


def _shares(proportions: Sequence[float] | None, n_types: int) -> Floats:
    """Share of each type, summing to 1."""
    if proportions is None:
        return np.full(n_types, 1 / n_types)
    shares = np.asarray(proportions, dtype=np.float64)
    if shares.shape != (n_types,):
        raise InputError(f"proportions has {shares.size} values for {n_types} types; set n_types={shares.size}.")
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise InputError(f"proportions is {shares.tolist()}; finite shares from 0 up with a positive sum are expected.")
    return np.asarray(shares / shares.sum())


def _sparse_normal(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Floats:
    """Standard normal values in about `share` of the entries, 0 elsewhere."""
    return np.where(rng.random(shape) < share, rng.standard_normal(shape), 0.0)


def _profiles(n_types: int, n_genes: int, *, gene_sd: float, type_effect: float, rng: np.random.Generator) -> Floats:
    """Mean profile of each type, rows summing to 1."""
    log_mean = gene_sd * rng.standard_normal(n_genes)
    profiles = np.exp(log_mean + type_effect * _sparse_normal((n_types, n_genes), 0.1, rng))
    return np.asarray(profiles / profiles.sum(axis=1, keepdims=True))


def _batch_effects(n_batches: int, n_genes: int, batch_effect: float, rng: np.random.Generator) -> Floats:
    """Log fold changes against the first batch; shifted so that a cell's total stays about the same."""
    effects = batch_effect * rng.standard_normal((n_batches, n_genes)) - batch_effect**2 / 2
    effects[0] = 0.0
    return effects


def _dropout_rates(profiles: Floats, dropout: float) -> Floats:
    """Rate of each gene: `dropout` where expression is the median, lower above it and higher below, logistic."""
    if dropout == 0:
        return np.zeros(profiles.shape[1])
    log_mean = np.log(profiles.mean(axis=0))
    return np.asarray(expit(logit(dropout) - (log_mean - np.median(log_mean))))


def _draw(truth: _Truth, cells: _Cells, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of all cells, drawn dense in blocks of rows and kept sparse."""
    n_cells, n_genes = len(cells.type), truth.profiles.shape[1]
    rows = max(1, _BLOCK // n_genes)
    blocks = [
        sparse.csr_matrix(_draw_block(truth, cells, slice(start, start + rows), rng), dtype=np.float32)
        for start in range(0, n_cells, rows)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def _draw_block(truth: _Truth, cells: _Cells, block: slice, rng: np.random.Generator) -> Floats:
    """Counts of one block of rows, dense."""
    loadings = truth.programme_loadings
    mean = cells.programmes[block] @ loadings
    mean += truth.batch_effects[cells.batch[block]] - (loadings**2).sum(axis=0) / 2
    np.exp(mean, out=mean)
    mean *= truth.profiles[cells.type[block]]
    mean *= cells.library[block, None]
    if (truth.dispersion > 0).all():
        # Gamma-Poisson: a gamma of mean 1 and variance phi times the mean, then a Poisson count.
        mean *= rng.standard_gamma(1 / truth.dispersion, size=mean.shape) * truth.dispersion
    counts = rng.poisson(mean).astype(np.float64)
    if truth.dropout.any():
        counts *= rng.random(counts.shape) >= truth.dropout
    return counts


def _annotated(counts: sparse.csr_matrix, truth: _Truth, cells: _Cells) -> AnnData:
    """Cells, genes and the truth under their documented names."""
    import pandas as pd
    from anndata import AnnData

    n_cells, n_genes = counts.shape
    obs = {
        "cell_type": _labels("type", cells.type, len(truth.profiles)),
        "batch": _labels("batch", cells.batch, len(truth.batch_effects)),
        "truth_library_size": cells.library,
    }
    return AnnData(
        X=counts,
        obs=pd.DataFrame(obs, index=pd.Index(_names("cell", n_cells))),
        var=pd.DataFrame(index=pd.Index(_names("gene", n_genes))),
        obsm={"truth_programmes": cells.programmes},
        uns={"truth": dict(vars(truth))},
    )


def _labels(stem: str, codes: NDArray[np.int64], n: int) -> pd.Categorical[str]:
    """Codes as a categorical whose categories are all there, drawn or not."""
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=pd.Index(_names(stem, n)))


def _names(stem: str, n: int) -> list[str]:
    """`stem_0`... with as many digits as the last one needs, so that they sort in order."""
    width = len(str(n - 1))
    return [f"{stem}_{i:0{width}d}" for i in range(n)]
