"""Gene space by quantiles: each count becomes a standard normal through its gene's own distribution."""

from __future__ import annotations

import math

import torch
from scipy import sparse
from torch import Tensor

from scflow.codecs.base import Codec, LibrarySize, Settings
from scflow.codecs.statistics import library_sizes
from scflow.codecs.steps import Steps, count_steps, random_ranks

__all__ = ["Quantile"]


class Quantile(Codec):
    """A randomised probability integral transform, drawn anew each batch, whose inverse gives whole counts.

    A count goes to a uniform draw within its step of the gene's distribution function, and on to a standard normal.
    Gaussian noise then has the data's dropout and marginals, gene by gene, and the flow has only the dependence
    between genes to learn (Rueschendorf 2009 on the distributional transform).

    Examples
    --------
    >>> codec = Quantile.fit(counts)
    >>> some = torch.from_numpy(counts[:2].toarray()).float()
    >>> codec.decode(codec.encode(some, None, rng=rng), None, rng=rng).equal(some)  # the exact inverse
    True
    """

    name = "quantile"
    random = True

    def __init__(self, n_genes: int, *, n_steps: int) -> None:
        super().__init__()
        self.n_genes, self.dim, self.n_steps = n_genes, n_genes + 1, n_steps
        self.steps = Steps.empty(n_genes, n_steps)
        self.library = LibrarySize()

    @classmethod
    def fit(cls, counts: sparse.csr_matrix) -> Quantile:
        """From the training cells' counts ``[n_cells, n_genes]``."""
        start, value, cumulative = count_steps(counts)
        codec = cls(counts.shape[1], n_steps=len(value))
        codec.steps = Steps(torch.from_numpy(start), torch.from_numpy(value), torch.from_numpy(cumulative))
        codec.library = LibrarySize.of(library_sizes(counts))
        return codec

    def settings(self) -> Settings:
        """Number of genes and of steps."""
        return {"n_genes": self.n_genes, "n_steps": self.n_steps}

    def encode(self, counts: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """A normal draw within each count's step, and the log library size."""
        row = torch.arange(self.n_genes, device=counts.device).expand_as(counts)
        u = random_ranks(self.steps, row, counts.long(), rng=rng)
        x = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)).float()
        return torch.cat([x, self.library.encode(counts.sum(1, keepdim=True))], dim=1)

    def mean_state(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """The mean of a standard normal that is cut to each count's step; it lies within the step.

        A standard normal between a and b has the mean (density at a - density at b) / (probability of the step). A
        count that no training cell had stands on no step, and is where `encode` has it.
        """
        row = torch.arange(self.n_genes, device=counts.device).expand_as(counts)
        low, high = self.steps.around(row, counts.long())
        a, b = (torch.special.ndtri(u.clamp(0, 1)) for u in (low, high))
        density = torch.exp(-a.square() / 2) - torch.exp(-b.square() / 2)
        inside = density / math.sqrt(2 * math.pi) / (high - low).clamp_min(1e-12)
        edge = torch.special.ndtri(low.clamp(1e-6, 1 - 1e-6))
        x = torch.where(high > low, inside, edge).float()
        return torch.cat([x, self.library.encode(counts.sum(1, keepdim=True))], dim=1)

    def decode(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """The count on whose step each normal value falls."""
        x = state[:, :-1].double()
        row = torch.arange(self.n_genes, device=x.device).expand_as(x)
        u = (0.5 * torch.erfc(-x / math.sqrt(2.0))).clamp(0.0, 1 - 1e-12)
        return self.steps.quantile(row, u).float()
