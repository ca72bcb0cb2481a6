r"""Guidance: a field made to follow its conditions more (or less) closely.

All conditions at once, :math:`v_\emptyset + w (v_c - v_\emptyset)` (Ho and Salimans 2022, equation 6, whose w is one
less), or each with a weight of its own, :math:`v_\emptyset + \sum_i w_i (v_{c_i} - v_\emptyset)`, where
:math:`v_{c_i}` is the field that is told condition i alone (the conjunction of Liu et al. 2022, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scflow.errors import InputError, listed, nearest
from scflow.matching.objective import Velocity
from scflow.matching.paths import like

__all__ = ["Guidance", "Guided"]


@dataclass(frozen=True)
class Guidance:
    """How closely cells follow the conditions they are drawn with.

    Parameters
    ----------
    scale
        One weight for all conditions together: 1 draws from the learnt law, above 1 sharpens it towards the conditions,
        0 ignores them. Or a weight for each condition by its name, 1 for those left out; the conditions' effects on the
        velocity are then added up, as if they were independent, so that weights of 1 are not quite the learnt law.
    interval
        The times `(from, to)` within [0, 1] at which guidance applies; outside, the scale is 1. In the middle alone it
        costs the least diversity (Kynkäänniemi et al. 2024).

    Raises
    ------
    InputError
        For weights that are not finite numbers of at least 0, and an interval that is none.

    Examples
    --------
    >>> Guidance({"cell_type": 2.0}, interval=(0.2, 0.8)).weights(["cell_type", "batch"])
    (2.0, 1.0)
    """

    scale: float | Mapping[str, float] = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.scale, Mapping):
            for name, weight in self.scale.items():
                _checked(weight, f"guidance[{name!r}]")
        else:
            _checked(self.scale, "guidance")
        try:
            low, high = (float(t) for t in self.interval)
        except (TypeError, ValueError):
            raise InputError(f"interval={self.interval!r} is no pair of times, such as (0.2, 0.8).") from None
        if not 0 <= low < high <= 1:
            raise InputError(f"interval={self.interval!r} must be two times in [0, 1] that rise, such as (0.2, 0.8).")

    @classmethod
    def of(cls, asked: float | Mapping[str, float] | Guidance) -> Guidance:
        """What was asked for, as an object: a scale alone applies at all times."""
        return asked if isinstance(asked, Guidance) else cls(asked)

    def weights(self, names: Sequence[str]) -> float | tuple[float, ...]:
        """The weight of all conditions together, or one for each of a flow's conditions `names`.

        Raises
        ------
        InputError
            Where a name is not among them, or guidance other than 1 is asked of a flow without conditions.
        """
        if not names and (isinstance(self.scale, Mapping) or float(self.scale) != 1):
            asked = dict(self.scale) if isinstance(self.scale, Mapping) else self.scale
            raise InputError(
                f"guidance={asked} needs a condition, and this flow has none. Train with "
                'scflow.tl.train(adata, condition="cell_type"), or leave guidance=1.'
            )
        if not isinstance(self.scale, Mapping):
            return float(self.scale)
        unknown = [name for name in self.scale if name not in names]
        if unknown:
            raise InputError(
                f"guidance names {len(unknown)} of {len(self.scale)} conditions that this flow does not have "
                f"({listed(unknown)}).{nearest(unknown[0], names)} It was trained with {listed(names)}."
            )
        return tuple(float(self.scale.get(name, 1.0)) for name in names)

    def around(self, field: Velocity, names: Sequence[str], widths: Sequence[int] | None = None) -> Guided:
        """The field of a flow with the conditions `names`, guided; `widths` as in :class:`Guided`."""
        low, high = self.interval
        return Guided(field, self.weights(names), (float(low), float(high)), None if widths is None else tuple(widths))


def _checked(weight: Any, name: str) -> None:
    """Raise unless a weight is a finite number of at least 0."""
    try:
        number = float(weight)
    except (TypeError, ValueError):
        raise InputError(f"{name}={weight!r} is not a number.") from None
    if not math.isfinite(number) or number < 0:
        raise InputError(f"{name}={weight!r} must be a finite number of at least 0.")


@dataclass(frozen=True)
class Guided:
    """A field with guidance around it.

    Parameters
    ----------
    field
        A field that was trained with its conditions dropped now and then; NaN stands for "none".
    scale
        One weight for all conditions together, or one for each of them: see :class:`Guidance`.
    interval
        The times at which guidance applies; outside, the scale is 1.
    widths
        How many columns each condition takes; one each unless given.

    Examples
    --------
    >>> field = lambda x, t, c: torch.where(c.isnan(), 0.0, c)  # the velocity is the condition
    >>> guided = Guided(field, 2.0)
    >>> guided(torch.zeros(1, 1), torch.zeros(1), torch.tensor([[3.0]])).tolist()
    [[6.0]]
    """

    field: Velocity
    scale: float | tuple[float, ...]
    interval: tuple[float, float] = (0.0, 1.0)
    widths: tuple[int, ...] | None = None

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity at the states `x` ``[n, ...]``, times `t` ``[n]`` and `condition` ``[n, n_columns]``."""
        weights = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        together = len(weights) == 1
        if condition is None or (together and weights[0] == 1):
            return self.field(x, t, condition)
        always = self.interval == (0.0, 1.0)
        within = (t >= self.interval[0]) & (t <= self.interval[1])
        if not always and not bool(within.any()):
            return self.field(x, t, condition)
        guided = self._together(x, t, condition, weights[0]) if together else self._each(x, t, condition, weights)
        if always or bool(within.all()):
            return guided
        return torch.where(like(within, x), guided, self.field(x, t, condition))

    def _together(self, x: Tensor, t: Tensor, condition: Tensor, weight: float) -> Tensor:
        """Evaluate the field with and without conditions in one pass, and extrapolate."""
        both = torch.cat([condition, torch.full_like(condition, torch.nan)])
        asked, none = self.field(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(none, asked, weight)

    def _each(self, x: Tensor, t: Tensor, condition: Tensor, weights: Sequence[float]) -> Tensor:
        """Evaluate the field without conditions and with each that has a weight in one pass, and add them up."""
        alone = [torch.full_like(condition, torch.nan)]
        felt = [i for i, weight in enumerate(weights) if weight]
        columns = torch.split(torch.arange(condition.shape[1]), list(self.widths or [1] * len(weights)))
        for i in felt:
            alone.append(alone[0].clone())
            alone[-1][:, columns[i]] = condition[:, columns[i]]
        k = len(alone)
        none, *asked = self.field(torch.cat([x] * k), torch.cat([t] * k), torch.cat(alone)).chunk(k)
        velocity = none.clone()
        for i, own in zip(felt, asked, strict=True):
            velocity += weights[i] * (own - none)
        return velocity
