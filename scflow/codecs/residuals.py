"""What residuals share: directions in which they vary together, and by how much they would in cells not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Shared", "shared_directions", "spiked"]

Blocks = Callable[[], Iterator[Tensor]]

_PASSES = 10
"""Of the subspace iteration; the gap that matters is that between structure and noise, which is wide."""
_TRACY_WIDOM = 0.9793
"""The 95 % quantile of the law for real symmetric matrices."""
_SPARE = 8
"""Directions carried along beside those asked for, which makes the iteration converge faster."""


class Shared(NamedTuple):
    """Directions that rows have in common.

    Attributes
    ----------
    mean
        Of the rows, ``[width]``.
    axes
        Orthonormal directions, ``[width, k]``; k may be 0.
    signal
        The variance that new rows have along each, beyond that of the noise, ``[k]``.
    """

    mean: Tensor
    axes: Tensor
    signal: Tensor

    def excess(self, rows: Tensor) -> float:
        """By what factor rows that were not learnt from vary more along all the axes together than was said."""
        centred = rows - self.mean
        along = (centred @ self.axes).square().mean(0)
        noise = (centred.square().sum(1).mean() - along.sum()) / (len(self.mean) - len(along))
        return float((along - noise).sum() / self.signal.sum())


def shared_directions(blocks: Blocks, most: int, *, rng: torch.Generator) -> Shared:
    """Directions of large variance, and the part of it that is no accident of the sample.

    Parameters
    ----------
    blocks
        Called once a pass: the rows, some at a time, each ``[n, width]``, with variances near 1.
    most
        How many directions at most.
    rng
        Of the start, on the device of the rows.

    Returns
    -------
    Shared
        Without the directions that noise alone could have.
    """
    n, total, mean = 0, torch.zeros((), device=rng.device), torch.zeros((), device=rng.device)
    for rows in blocks():
        n, mean, total = n + len(rows), mean + rows.sum(0), total + rows.square().sum()
    mean = mean / n
    width = len(mean)
    total = total / n - mean.square().sum()
    axes = torch.randn(width, min(most + _SPARE, width, n), generator=rng, device=rng.device)
    for _ in range(_PASSES):
        axes = torch.linalg.qr(_covariance_times(blocks, mean, axes) / n).Q
    values, turn = torch.linalg.eigh(axes.T @ _covariance_times(blocks, mean, axes) / n)
    values, axes = values.flip(0)[:most], (axes @ turn).flip(1)[:, :most]
    signal, _ = spiked(values, total, n, width)
    kept = signal > 0
    return Shared(mean, axes[:, kept], signal[kept])


def _covariance_times(blocks: Blocks, mean: Tensor, axes: Tensor) -> Tensor:
    """Rows, less their mean, times their coordinates along `axes`, summed: ``[width, k]``."""
    out = torch.zeros_like(axes)
    for rows in blocks():
        centred = rows - mean
        out += centred.T @ (centred @ axes)
    return out


def spiked(values: Tensor, total: Tensor, n: int, width: int) -> tuple[Tensor, Tensor]:
    r"""The variance that new rows have along the leading eigenvectors of a sample covariance, beyond the noise's.

    With few rows and many columns the largest eigenvalues are too large, and their eigenvectors point aside. In the
    spiked model (Johnstone 2001; Paul 2007), with :math:`\gamma` = `width` / `n` and noise of variance 1, a direction
    of variance :math:`\ell` shows as the eigenvalue :math:`\ell (1 + \gamma / (\ell - 1))`, if that is beyond what
    noise has, and its eigenvector has with it the squared cosine
    :math:`c^2 = (1 - \gamma / (\ell - 1)^2) / (1 + \gamma / (\ell - 1))`. New rows vary along it by
    :math:`1 + (\ell - 1) c^2`. The largest eigenvalue of noise follows a Tracy-Widom law near
    :math:`(1 + \sqrt\gamma)^2`; what it exceeds once in twenty samples counts as structure.

    Parameters
    ----------
    values
        The largest eigenvalues, ``[k]``.
    total
        The sum of all of them.
    n, width
        Rows and columns of the sample.

    Returns
    -------
    signal, noise
        :math:`(\ell - 1) c^2` in the units of `values`, 0 for what noise alone could be, ``[k]``; and the noise's
        variance.

    Examples
    --------
    >>> signal, noise = spiked(torch.tensor([10.0, 2.0]), torch.tensor(506.0), 1000, 500)
    >>> [round(float(s), 1) for s in signal], round(float(noise), 1)
    ([7.9, 0.0], 1.0)
    """
    gamma, noise, edge = width / n, total / width, _edge(n, width)
    excess = torch.zeros_like(values)
    for _ in range(20):  # The noise is what is left beside the structure, which is found by knowing the noise.
        scaled = values / noise
        half = (scaled + 1 - gamma) / 2
        excess = torch.where(scaled > edge, half + (half.square() - scaled).clamp_min(0).sqrt() - 1, 0.0)
        noise = (total - noise * excess.sum()) / width
    certain = excess.clamp_min(1e-12)
    cosine = ((1 - gamma / certain.square()) / (1 + gamma / certain)).clamp(0, 1)
    return torch.where(excess > 0, noise * excess * cosine, 0.0), noise


def _edge(n: int, width: int) -> float:
    """The 95 % quantile of the largest eigenvalue of the covariance of white noise of variance 1 (Johnstone 2001)."""
    root, other = math.sqrt(max(n - 1, 1)), math.sqrt(width)
    return float((root + other) ** 2 + _TRACY_WIDOM * (root + other) * (1 / root + 1 / other) ** (1 / 3)) / n
