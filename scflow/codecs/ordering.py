"""An order of genes in which those that are expressed together stand together."""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor

from scflow.codecs.pca import PCA
from scflow.codecs.standardized import Standardized

__all__ = ["coexpression_order"]

_ROUNDS = 10


def coexpression_order(
    counts: sparse.csr_matrix, genes: Standardized, *, patch: int, n_components: int = 30, seed: int = 0
) -> Tensor:
    """A permutation of the genes whose consecutive stretches of `patch` are co-expressed.

    Each gene's loadings on the leading principal components are scaled to length one, so that their products are the
    correlations that the components explain. Genes are then divided in two, again and again until a patch is left:
    first across the leading direction of their loadings (principal direction divisive partitioning, Boley 1998), then
    a few times more across the line between the two parts' means, both parts being of whole patches. Counts are read
    a few rows at a time and never made dense as a whole.

    Parameters
    ----------
    counts
        Of the training cells, ``[n_cells, n_genes]``.
    genes
        The standardising codec fitted on them.
    patch
        Genes of a stretch.
    n_components, seed
        Of the principal components.

    Returns
    -------
    Tensor
        Column numbers, int64 ``[n_genes]``.

    Examples
    --------
    >>> from scflow.codecs import Standardized, gene_statistics
    >>> genes = Standardized.fit(gene_statistics(counts), np.asarray(counts.sum(1)).ravel())
    >>> order = coexpression_order(counts, genes, patch=4)
    >>> sorted(order.tolist()) == list(range(counts.shape[1]))
    True
    """
    components = PCA.fit(counts, genes, n_components=n_components, seed=seed)
    loadings = components.axes * components.scale
    return _divided(torch.nn.functional.normalize(loadings, dim=1), torch.arange(len(loadings)), patch)


def _divided(loadings: Tensor, members: Tensor, patch: int) -> Tensor:
    """The members in order: one half, then the other."""
    patches = -(-len(members) // patch)
    if patches <= 1:
        return members
    centred = loadings[members] - loadings[members].mean(0)
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    # An eigenvector's sign is arbitrary: the larger loading is taken as positive.
    direction = direction * direction[direction.abs().argmax()].sign()
    half = (patches // 2) * patch
    ranks = torch.argsort(centred @ direction, stable=True)
    for _ in range(_ROUNDS):
        means = centred[ranks[:half]].mean(0), centred[ranks[half:]].mean(0)
        ranks = torch.argsort(centred @ (means[1] - means[0]), stable=True)
    ranked = members[ranks]
    return torch.cat([_divided(loadings, ranked[:half], patch), _divided(loadings, ranked[half:], patch)])
