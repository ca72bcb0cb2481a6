"""What a field is trained to do: path + time + weight + coupling -> the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scflow.errors import InputError
from scflow.matching import couplings, paths, times, weights
from scflow.matching.preconditioning import Preconditioned

__all__ = ["FlowMatching", "Velocity"]

Velocity = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_NODES = 1 << 14


@dataclass(frozen=True)
class FlowMatching:
    """Conditional flow matching: regress the field on the path's velocity (Lipman et al. 2023, equation 9).

    Attributes
    ----------
    path, time, weight, coupling
        What the velocity is the derivative along, which times are drawn, what the loss is multiplied by there, and
        which noise belongs to which cell.
    numbers
        The columns of conditions that hold numbers; others hold codes. Only a coupling with a penalty asks.

    Raises
    ------
    InputError
        Where the weight is not defined on the path, or has no mean under the time law to divide it by.

    Examples
    --------
    >>> from scflow.nn import MLP
    >>> matching = FlowMatching(weight=weights.MinSNR(), coupling=couplings.Optimal())
    >>> x0, x1 = torch.randn(64, 2, generator=rng) + 3, torch.randn(64, 2, generator=rng)
    >>> matching.loss(MLP(2), x0, x1, None, rng=rng).shape
    torch.Size([])
    """

    path: paths.Path = field(default_factory=paths.Linear)
    time: times.Time = field(default_factory=times.Stratified)
    weight: weights.Weight = field(default_factory=weights.Uniform)
    coupling: couplings.Coupling = field(default_factory=couplings.Independent)
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self._mean) and self._mean > 0):
            raise InputError(
                f"weight={self.weight!r} has the mean {self._mean} under time={self.time!r}; it must be finite and "
                "above 0. Clamp the weight, or take weight='uniform'."
            )

    def loss(
        self, field: Velocity, x0: Tensor, x1: Tensor, condition: Tensor | None, *, rng: torch.Generator
    ) -> Tensor:
        """The mean loss of a batch: cells `x0` and noise `x1` ``[n, ...]``, `condition` ``[n, k]`` or ``None``."""
        return self.terms(field, x0, x1, condition, rng=rng)[0].mean()

    def terms(
        self,
        field: Velocity,
        x0: Tensor,
        x1: Tensor,
        condition: Tensor | None,
        *,
        rng: torch.Generator,
        group: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What `loss` is the mean of: the loss of every cell, and the time it was drawn at, each ``[n]``.

        `condition` is what the field is told, `group` what it is not told and cells are paired within as well. Cells
        that the coupling leaves out are not among them.
        """
        x0, x1, condition = self.paired(x0, x1, condition, rng=rng, group=group)
        t = self.draw_times(len(x0), rng=rng)
        return self.losses(field, x0, x1, t, condition), t

    def paired(
        self,
        x0: Tensor,
        x1: Tensor,
        condition: Tensor | None,
        *,
        rng: torch.Generator,
        group: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cells, what the coupling gives to each within equal conditions and groups, and the cells' conditions.

        Cells that the coupling leaves out are gone from all three; the others keep their order.

        Raises
        ------
        InputError
            Where the coupling leaves out all cells.
        """
        order = self.coupling.pair(*self._asked(x0, x1, condition, group), rng=rng)
        if order is None:
            return x0, x1, condition
        kept = order >= 0
        if not bool(kept.any()):
            raise InputError(
                f"coupling={self.coupling!r} leaves out all {len(kept)} cells of a batch: nothing to learn from. "
                "Let it return the number of a partner for some cells, and -1 only for those that have none."
            )
        if not bool(kept.all()):
            x0, order = x0[kept], order[kept]
            condition = None if condition is None else condition[kept]
        return x0, x1[order], condition

    def _asked(
        self, x0: Tensor, x1: Tensor, condition: Tensor | None, group: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the coupling is to pair: cells and noise, beside them the numbers that have a price, and groups."""
        if not self.coupling.by_group:
            return x0, x1, None
        if self.coupling.penalty is None or condition is None or not self.numbers:
            return x0, x1, couplings.groups_of(condition, group)
        told, place = couplings.priced(condition, self.numbers, self.coupling.penalty)
        x0, x1 = (torch.cat([x.flatten(1), place], 1) for x in (x0, x1))
        return x0, x1, couplings.groups_of(told, group)

    def losses(self, field: Velocity, x0: Tensor, x1: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The weighted loss of every cell, ``[n]``: the squared error of the velocity, averaged over coordinates."""
        if isinstance(field, Preconditioned) and field.path == self.path:
            error = field.errors(x0, x1, t, condition)
        else:
            x, velocity = self.path.sample(x0, x1, t)
            error = (field(x, t, condition).float() - velocity).square().flatten(1).mean(1)
        return error if self._even else self.loss_weight(t) * error

    def draw_times(self, n: int, *, rng: torch.Generator) -> Tensor:
        """`n` times of the time law ``[n]``, squeezed to where the path ends."""
        return self.time.sample(n, rng=rng) * self.path.end

    def loss_weight(self, t: Tensor) -> Tensor:
        """What the loss at the times `t` is multiplied by: its mean is 1 under the time law."""
        return self._unscaled(t) / self._mean

    def effective_weight(self, t: Tensor) -> Tensor:
        """What the times `t` count in training: loss weight times density of the time law.

        A weight and a time law are one knob, for ``E_p[w L] = E_U[p w L]``. Its mean is 1 over all times in [0, 1]; it
        is 0 beyond the path's end.
        """
        t_end = t.clamp_max(self.path.end)
        share = t_end / self.path.end
        density = 1 if self.time.corrected else self.time.density(share)
        effective = self.weight(t_end, self.path) * density / (self._mean * self.path.end)
        return torch.where(t > self.path.end, 0, effective)

    def _unscaled(self, t: Tensor) -> Tensor:
        """The weight as it is, over the density where the time law is corrected for."""
        weight = self.weight(t, self.path)
        return weight / self.time.density(t / self.path.end) if self.time.corrected else weight

    @cached_property
    def _even(self) -> bool:
        """Whether the weight is 1 at all times, and need not be multiplied by."""
        return isinstance(self.weight, weights.Uniform) and not self.time.corrected

    @cached_property
    def _mean(self) -> float:
        """The mean under the time law, by the midpoint rule over its quantiles."""
        u = (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES
        return float(self._unscaled(self.time.quantile(u) * self.path.end).mean())
