"""Principal components of standardised expression."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy import sparse
from torch import Tensor

from scflow.codecs.base import Codec, LibrarySize, Settings
from scflow.codecs.editing import edited
from scflow.codecs.standardized import Standardized, whole

__all__ = ["PCA", "dense_chunks"]

_OVERSAMPLE, _ITERATIONS = 10, 6


class PCA(Codec):
    """The leading principal components, each with variance 1, and the log library size.

    The way back gives a smooth expectation, around which counts are drawn; what the left-out components held is lost
    but for what calibration puts back gene by gene.

    Examples
    --------
    >>> from scflow.codecs import Standardized, gene_statistics
    >>> genes = Standardized.fit(gene_statistics(counts), np.asarray(counts.sum(1)).ravel())
    >>> codec = PCA.fit(counts, genes, n_components=5)
    >>> codec.encode(torch.from_numpy(counts[:2].toarray()).float(), None, rng=rng).shape  # and the library size
    torch.Size([2, 6])
    """

    name = "pca"
    summarizes = True
    axes: Tensor
    scale: Tensor

    def __init__(self, n_genes: int, *, n_components: int, target_sum: float = 1e4, clip: float = 10.0) -> None:
        super().__init__()
        self.n_genes, self.n_components, self.dim = n_genes, n_components, n_components + 1
        self.genes = Standardized(n_genes, target_sum=target_sum, clip=clip, counts="poisson")
        self.register_buffer("axes", torch.zeros(n_genes, n_components))
        self.register_buffer("scale", torch.ones(n_components))

    @classmethod
    def fit(cls, counts: sparse.csr_matrix, genes: Standardized, *, n_components: int = 50, seed: int = 0) -> PCA:
        """From training counts ``[n_cells, n_genes]`` and the standardising codec fitted on them.

        Randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) over chunks of rows.
        """
        n, g = counts.shape
        k = min(n_components, g, n - 1)
        rng = torch.Generator().manual_seed(seed)
        basis = torch.randn(g, min(k + _OVERSAMPLE, g), generator=rng)
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(basis).Q
            product = torch.zeros_like(basis)
            for chunk in dense_chunks(counts):
                x = genes.expression(chunk)
                product += x.T @ (x @ basis)
            previous, basis = basis, product
        small = previous.T @ product
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        codec = cls(g, n_components=k, target_sum=genes.target_sum, clip=genes.clip)
        codec.axes.copy_((previous @ vectors).flip(1)[:, :k])
        codec.scale.copy_((values.flip(0)[:k].clamp_min(1e-8) / n).sqrt())
        for name in ("mean", "sd", "dropout", "dispersion"):
            getattr(codec.genes, name).copy_(getattr(genes, name))
        codec.genes.library = LibrarySize(
            float(genes.library.mean), float(genes.library.sd), float(genes.library.largest)
        )
        return codec

    def settings(self) -> Settings:
        """Sizes and the way of normalising."""
        return {
            "n_genes": self.n_genes,
            "n_components": self.n_components,
            "target_sum": self.genes.target_sum,
            "clip": self.genes.clip,
        }

    def summarize(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """Scaled components and the library coordinate: the state itself."""
        scores = (self.genes.expression(counts) @ self.axes) / self.scale
        return torch.cat([scores, self.genes.library.encode(counts.sum(1, keepdim=True))], dim=1)

    def draw(self, summary: Tensor, *, rng: torch.Generator) -> Tensor:
        """The summary is the state."""
        return summary

    def edit(
        self,
        counts: Tensor,
        before: Tensor,
        after: Tensor,
        condition: Tensor | None,
        *,
        shares: tuple[float, float] = (0.0, 1.0),
        rng: torch.Generator,
    ) -> Tensor:
        """Molecules taken from each cell, or added, by the ratio of what its two states expect."""
        return edited(counts, self._expected(before), self._expected(after), None, rng=rng)

    def decode(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Poisson counts around the expectation that the components give."""
        return whole(self._expected(state), "poisson", self.genes.dispersion, rng=rng)

    def _expected(self, state: Tensor) -> Tensor:
        """Expected counts ``[n, n_genes]`` of states."""
        expression = (state[:, :-1] * self.scale) @ self.axes.T
        return self.genes.expected(expression, state[:, -1:]).clamp_min(0.0)


def dense_chunks(counts: sparse.csr_matrix, cells: int = 1024) -> Iterator[Tensor]:
    """Consecutive rows as dense float32 tensors, a few at a time."""
    for start in range(0, counts.shape[0], cells):
        yield torch.from_numpy(counts[start : start + cells].toarray()).float()
