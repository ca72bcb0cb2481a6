"""Gene space as the guide has it: log1p of size-normalised counts, standardised gene by gene."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow.codecs.base import Codec, LibrarySize, Settings, branch
from scflow.codecs.entries import Entries
from scflow.codecs.statistics import EPSILON, GeneStatistics

__all__ = ["Standardized"]

_FINE, _NEAR = 64.0, 16.0  # ranks are 1/64 of asinh(16 x): 1/1000 of a count near zero, a few per cent of a large one


class Standardized(Codec):
    """``clip((log1p(count / library size * target_sum) - mean) / sd)``, and the log library size.

    The way back undoes each step exactly and gives an expected count, which is not a whole number. `counts` says what
    becomes of it: ``"stochastic"`` rounds up with the probability of the fraction, ``"round"`` to the nearest,
    ``"poisson"`` and ``"negative_binomial"`` draw around it. A calibrated flow ranks cells by the expected count
    itself, so that nothing of the order is lost to rounding.

    Parameters
    ----------
    n_genes, target_sum, clip, counts
        See above; `clip` is in standard deviations.

    Examples
    --------
    >>> from scflow.codecs import gene_statistics
    >>> genes = Standardized.fit(gene_statistics(counts), np.asarray(counts.sum(1)).ravel())
    >>> genes.encode(torch.from_numpy(counts[:2].toarray()).float(), None, rng=rng).shape  # and the library size
    torch.Size([2, 41])
    """

    name = "genes"
    mean: Tensor
    sd: Tensor
    dropout: Tensor
    dispersion: Tensor

    def __init__(
        self, n_genes: int, *, target_sum: float = 1e4, clip: float = 10.0, counts: str = "stochastic"
    ) -> None:
        super().__init__()
        self.n_genes, self.dim = n_genes, n_genes + 1
        self.target_sum, self.clip, self.counts = target_sum, clip, counts
        for name in ("mean", "dropout", "dispersion"):
            self.register_buffer(name, torch.zeros(n_genes))
        self.register_buffer("sd", torch.ones(n_genes))
        self.library = LibrarySize()

    @classmethod
    def fit(
        cls,
        statistics: GeneStatistics,
        sizes: NDArray[Any],
        *,
        clip: float = 10.0,
        counts: str = "stochastic",
        dispersion: Tensor | None = None,
    ) -> Standardized:
        """From the training cells' statistics, library sizes ``[n_cells]`` and dispersions ``[n_genes]``."""
        codec = cls(len(statistics.mean), target_sum=statistics.target_sum, clip=clip, counts=counts)
        codec.mean.copy_(torch.from_numpy(statistics.mean))
        codec.sd.copy_(torch.from_numpy(statistics.sd))
        codec.dropout.copy_(torch.from_numpy(statistics.dropout))
        if dispersion is not None:
            codec.dispersion.copy_(dispersion)
        codec.library = LibrarySize.of(sizes)
        return codec

    def settings(self) -> Settings:
        """Number of genes and the ways of normalising and rounding."""
        return {
            "n_genes": self.n_genes,
            "target_sum": self.target_sum,
            "clip": self.clip,
            "counts": self.counts,
        }

    def expression(self, counts: Tensor) -> Tensor:
        """Standardised expression ``[n, n_genes]`` of counts."""
        size = counts.sum(1, keepdim=True).clamp_min(1.0)
        x = (counts * (self.target_sum / size)).log1p_()
        return x.sub_(self.mean).div_(self.sd + EPSILON).clamp_(-self.clip, self.clip)

    def encode(self, counts: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Standardise; nothing is drawn."""
        return torch.cat([self.expression(counts), self.library.encode(counts.sum(1, keepdim=True))], dim=1)

    def encode_entries(self, counts: Entries, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Standardise what is stored; each gene has one value for all cells without it."""
        sizes, gene = counts.sizes, counts.gene
        scale = self.target_sum / sizes.clamp_min(1.0)
        x = counts.value.mul(torch.cat([scale, scale.new_ones(1)])[counts.cell]).log1p_()
        x = x.sub_(self.mean[gene]).div_((self.sd + EPSILON)[gene]).clamp_(-self.clip, self.clip)
        absent = (-self.mean / (self.sd + EPSILON)).clamp_(-self.clip, self.clip)
        states = counts.filled(x, torch.cat([absent, absent.new_zeros(1)]))
        states[:, -1:] = self.library.encode(sizes[:, None])
        return states

    def expected(self, expression: Tensor, library: Tensor) -> Tensor:
        """Standardised expression and the library coordinate to expected counts, which may be just below zero."""
        x = expression.clamp(-self.clip, self.clip) * (self.sd + EPSILON) + self.mean
        return torch.expm1(x) * (self.library.decode(library) / self.target_sum)

    def decode(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """The expected count, made whole."""
        mean = self.expected(state[:, :-1], state[:, -1:]).clamp_min(0.0)
        return whole(mean, self.counts, self.dispersion, rng=rng)

    def rank(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Fine steps of an expected count, finest around zero; below it too, where most of a rare gene's cells are."""
        expected = self.expected(state[:, :-1], state[:, -1:])
        return (torch.asinh(expected * _NEAR) * _FINE).round()


def whole(mean: Tensor, how: str, dispersion: Tensor, *, rng: torch.Generator) -> Tensor:
    """Whole numbers from expected counts; `dispersion` is the variance over the mean squared, beyond Poisson's."""
    if how == "round":
        return mean.round()
    if how == "stochastic":
        return (mean + torch.rand(mean.shape, generator=rng, device=rng.device)).floor()
    if how == "negative_binomial":
        shape, later = 1.0 / dispersion.clamp_min(1e-4).expand_as(mean), branch(rng)
        mean = mean * torch._standard_gamma(shape.contiguous(), generator=rng) / shape
        return torch.poisson(mean, generator=later)
    return torch.poisson(mean, generator=rng)
