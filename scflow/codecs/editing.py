"""Counts of a cell whose expectation changes: molecules are taken away or added, and none is drawn anew."""

from __future__ import annotations

import torch
from torch import Tensor

from scflow.codecs.base import branch

__all__ = ["edited"]

_RAREST = 1e-12
"""Counts of a gene that a cell is expected to have, at least: a ratio of two zeros is no change."""


def edited(counts: Tensor, before: Tensor, after: Tensor, dispersion: Tensor | None, *, rng: torch.Generator) -> Tensor:
    r"""Counts of the expectations `after`, of cells that had `counts` at the expectations `before`.

    Where a gene's expectation falls, each molecule stays with the probability :math:`f = \mu_1 / \mu_0`; where it
    rises, :math:`\mathrm{Poisson}((f - 1) \lambda)` come in, with :math:`\lambda \sim \mathrm{Gamma}(x + 1/a, \; 1 +
    1/(a \mu_0))`, the rate of a cell that has x. Counts that are negative binomial around :math:`\mu_0` become so
    around :math:`\mu_1`, with the same dispersion a; where nothing changes, they stay as they are. So a cell keeps what
    the codec knows nothing of.

    Parameters
    ----------
    counts, before, after
        Whole numbers, and expectations, each ``[n, n_genes]``.
    dispersion
        Variance beyond Poisson's over the squared mean, ``[n, n_genes]``; ``None`` for Poisson counts.
    """
    # A generator each, so that how many numbers one draw takes does not shift the others.
    staying, rates, coming = branch(rng), branch(rng), branch(rng)
    ratio = after.clamp_min(_RAREST) / before.clamp_min(_RAREST)
    out = torch.zeros_like(counts)
    place = counts.nonzero(as_tuple=True)
    out[place] = torch.binomial(counts[place], ratio[place].clamp_max(1.0), generator=staying)
    more = (ratio - 1).clamp_min(0.0)
    if dispersion is None:
        return out + torch.poisson(more * before, generator=coming)
    shape = 1.0 / dispersion
    rate = torch._standard_gamma((counts + shape).contiguous(), generator=rates)
    rate = rate * before / (before + shape)
    return out + torch.poisson(more * rate, generator=coming)
