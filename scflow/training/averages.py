"""Laws of the weight average: how much of it is kept at each update.

An update is ``average = decay * average + (1 - decay) * weights``. Whatever the law, the decays of all updates say in
closed form how much of the weights of each step is in the average at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

__all__ = ["AVERAGES", "Average", "Constant", "Nothing", "Power", "Ramp"]


class Average(ABC):
    """A law of decays.

    Examples
    --------
    >>> [round(law.decay(5000), 4) for law in (Constant(), Ramp(), Power(), Nothing())]
    [0.9999, 0.9982, 0.9964, 0.0]
    """

    @abstractmethod
    def decay(self, n: int) -> float:
        """What is kept of the average at an update that `n` others came before, in [0, 1]."""


@dataclass(frozen=True)
class Constant(Average):
    """The same decay at every step: after n steps ``decay**n`` of the average is still the random start.

    After 5,000 steps with 0.9999 that is 61 %: only for long runs.

    Examples
    --------
    >>> Constant(0.99).decay(0), Constant(0.99).decay(1000)
    (0.99, 0.99)
    """

    decay_rate: float = 0.9999

    def __post_init__(self) -> None:
        _checked(self.decay_rate)

    def decay(self, n: int) -> float:
        """Constant."""
        return self.decay_rate


@dataclass(frozen=True)
class Ramp(Average):
    """A decay that grows with the steps taken, ``min(decay, (1 + n) / (10 + n))``: the start is soon forgotten.

    Examples
    --------
    >>> Ramp().decay(0), Ramp().decay(100_000)
    (0.1, 0.999)
    """

    decay_rate: float = 0.999

    def __post_init__(self) -> None:
        _checked(self.decay_rate)

    def decay(self, n: int) -> float:
        """From 0.1 up to `decay_rate`."""
        return min(self.decay_rate, (1 + n) / (10 + n))


@dataclass(frozen=True)
class Power(Average):
    r"""A power law of the run's length: step i of t has the weight :math:`(i/t)^{\gamma+1} - ((i-1)/t)^{\gamma+1}`.

    The profile keeps its shape however long the run: its standard deviation is `width` of the run's length. The decay
    of update t is :math:`(1 - 1/t)^{\gamma+1}`, and the start has no weight at all (Karras et al. 2024, "Analyzing and
    improving the training dynamics of diffusion models", section 3.1).

    Parameters
    ----------
    width
        Standard deviation of the profile as a share of the run, above 0 and below 0.288 (a uniform mean).

    Examples
    --------
    >>> law = Power(width=0.1)
    >>> law.decay(0), law.decay(10) < law.decay(1000)
    (0.0, True)
    """

    width: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.width < 12**-0.5:
            raise ValueError(f"width={self.width} must lie above 0 and below {12**-0.5:.3f}, such as 0.05.")

    @cached_property
    def gamma(self) -> float:
        r"""The exponent whose profile has this width: :math:`w^2 = (\gamma+1) / ((\gamma+2)^2 (\gamma+3))`."""
        low, high = 0.0, 1 / self.width
        for _ in range(100):  # Bisection: the width falls with gamma, from that of a uniform mean at 0.
            middle = (low + high) / 2
            if (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > self.width**2:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    def decay(self, n: int) -> float:
        """``(1 - 1 / t) ** (gamma + 1)`` for the update t = n + 1."""
        return float((n / (n + 1)) ** (self.gamma + 1))


@dataclass(frozen=True)
class Nothing(Average):
    """No average: the weights as they are. Cells drawn with it are worse; there for comparison.

    Examples
    --------
    >>> Nothing().decay(100)
    0.0
    """

    def decay(self, n: int) -> float:
        """Nothing is kept."""
        return 0.0


AVERAGES: dict[str, type[Average]] = {"ramp": Ramp, "constant": Constant, "power": Power, "none": Nothing}


def _checked(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"decay_rate={decay} must be at least 0 and below 1, such as 0.999.")
