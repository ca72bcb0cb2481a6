"""Counts of molecules: some of them taken at random, and their negative-binomial likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["negative_binomial_nll", "thinned"]


def thinned(counts: Tensor, keep: float, *, rng: torch.Generator) -> Tensor:
    """Whole counts with each molecule kept with probability `keep`: a binomial draw at each stored count."""
    place = counts.nonzero(as_tuple=True)
    stored = counts[place]
    out = torch.zeros_like(counts)
    out[place] = torch.binomial(stored, torch.full_like(stored, keep), generator=rng)
    return out


def negative_binomial_nll(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Minus the log-likelihood of counts ``[n, genes]``, summed over genes; variance ``mean + dispersion mean^2``.

    A zero costs ``log(1 + dispersion mean) / dispersion``. All else is computed at the stored counts alone, which are
    few: the gamma functions would otherwise take most of the time.
    """
    loss = (torch.log1p(mean * dispersion) / dispersion).sum(1)
    cell, gene = counts.nonzero(as_tuple=True)
    x, mu, alpha = counts[cell, gene], mean[cell, gene].clamp_min(1e-20), dispersion.expand_as(mean)[cell, gene]
    shape = 1.0 / alpha
    gammas = torch.lgamma(x + shape) - torch.lgamma(shape) - torch.lgamma(x + 1)
    return loss.index_add(0, cell, -(gammas + x * (torch.log(mu * alpha) - torch.log1p(mu * alpha))))
