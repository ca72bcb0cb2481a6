"""Solvers of dx/dt = v(x, t), from noise at t=1 to data at t=0, or back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from scflow.errors import InputError

__all__ = ["RK4", "Adams", "Dopri5", "Euler", "Heun", "Jump", "Midpoint", "Solver", "grid"]

Velocity = Callable[[Tensor, Tensor], Tensor]


def grid(steps: int, *, start: float = 1.0, end: float = 0.0, shift: float = 1.0) -> Tensor:
    r"""``steps + 1`` times from `start` to `end`, float32: equally spaced, or shifted towards one end.

    A time is shifted as :math:`t' = a t / (1 + (a - 1) t)` for a shift :math:`a` (Esser et al. 2024, equation 23).
    Above 1, more steps are near the noise; below 1, near the data; which way the times run changes nothing. `start` and
    `end` stay where they are.

    Examples
    --------
    >>> grid(4, shift=3.0).tolist()
    [1.0, 0.8999999761581421, 0.75, 0.5, 0.0]
    """
    if not 0 < shift < float("inf"):
        raise InputError(f"shift={shift} must be a finite number above 0; 1 leaves the times equally spaced.")
    first, last = (_shifted(torch.tensor(t, dtype=torch.float64), 1 / shift).item() for t in (start, end))
    return _shifted(torch.linspace(first, last, steps + 1, dtype=torch.float64), shift).float()


def _shifted(t: Tensor, shift: float) -> Tensor:
    """Shifting by `a` and then by `1 / a` gives the times back."""
    return shift * t / (1 + (shift - 1) * t)


class Solver(ABC):
    """A method of integration.

    Attributes
    ----------
    order
        The power of the step that its error falls with.
    evaluations
        How often it evaluates the velocity in a step; 0 where that is not known beforehand.
    adaptive
        Whether it chooses its own steps. What it then does for one state depends on the others of its batch.
    jumps
        Whether it asks for the mean velocity of a whole step, which only the field of a flow map knows.

    Examples
    --------
    >>> times = grid(2)
    >>> for solver in (Euler(), Midpoint(), RK4()):  # dx/dt = x, from t = 1 to 0: 1 / e = 0.3679
    ...     print(f"{solver.integrate(lambda x, t: x, torch.ones(1), times).item():.4f}")
    0.2500
    0.3906
    0.3682
    """

    order: ClassVar[int]
    evaluations: ClassVar[int]
    adaptive: ClassVar[bool] = False
    jumps: ClassVar[bool] = False

    @abstractmethod
    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """The state at the last of `times`, from the state `x` at the first; times may rise or fall."""


def _steps(times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The start and the length of each step, both scalars; going down, lengths are negative."""
    return ((t, after - t) for t, after in pairwise(times))


@dataclass(frozen=True)
class Euler(Solver):
    """First order, one evaluation a step.

    Examples
    --------
    >>> x = Euler().integrate(lambda x, t: x, torch.ones(1), grid(4))  # 1 / e = 0.3679
    >>> round(x.item(), 4)
    0.3164
    """

    order = 1
    evaluations = 1

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """Follow the velocity at the start of each step."""
        for t, h in _steps(times):
            x = x + h * velocity(x, t)
        return x


@dataclass(frozen=True)
class Midpoint(Solver):
    """Second order, two evaluations a step.

    Examples
    --------
    >>> x = Midpoint().integrate(lambda x, t: x, torch.ones(1), grid(4))  # 1 / e = 0.3679
    >>> round(x.item(), 4)
    0.3725
    """

    order = 2
    evaluations = 2

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """Follow the velocity in the middle of each step."""
        for t, h in _steps(times):
            middle = x + h / 2 * velocity(x, t)
            x = x + h * velocity(middle, t + h / 2)
        return x


@dataclass(frozen=True)
class Heun(Solver):
    """Second order, two evaluations a step: the trapezoidal rule with an Euler predictor.

    Examples
    --------
    >>> x = Heun().integrate(lambda x, t: x, torch.ones(1), grid(4))  # 1 / e = 0.3679
    >>> round(x.item(), 4)
    0.3725
    """

    order = 2
    evaluations = 2

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """Follow the mean of the velocities at both ends of each step."""
        for t, h in _steps(times):
            here = velocity(x, t)
            there = velocity(x + h * here, t + h)
            x = x + h / 2 * (here + there)
        return x


@dataclass(frozen=True)
class RK4(Solver):
    """Fourth order, four evaluations a step: the classical method of Kutta (1901).

    Examples
    --------
    >>> x = RK4().integrate(lambda x, t: x, torch.ones(1), grid(4))  # 1 / e = 0.3679
    >>> round(x.item(), 4)
    0.3679
    """

    order = 4
    evaluations = 4

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """Follow a mean of the velocities at the start, twice in the middle and at the end, as 1 : 2 : 2 : 1."""
        for t, h in _steps(times):
            start = velocity(x, t)
            middle = velocity(x + h / 2 * start, t + h / 2)
            again = velocity(x + h / 2 * middle, t + h / 2)
            end = velocity(x + h * again, t + h)
            x = x + h / 6 * (start + 2 * (middle + again) + end)
        return x


@dataclass(frozen=True)
class Adams(Solver):
    r"""Second order, one evaluation a step: Adams-Bashforth, for steps of any lengths.

    The line through the velocities :math:`v_{n-1}, v_n` at both ends of the last step, of length :math:`h_{n-1}`, is
    integrated over the next one (Hairer, Nørsett and Wanner 1993, section III.5):
    :math:`x_{n+1} = x_n + h_n (v_n + r_n / 2 \, (v_n - v_{n-1}))` with :math:`r_n = h_n / h_{n-1}`. The first step has
    no last one and is an Euler step: one error of second order, which leaves the whole of second order.

    Examples
    --------
    >>> x = Adams().integrate(lambda x, t: x, torch.ones(1), grid(4))  # 1 / e = 0.3679
    >>> round(x.item(), 4)
    0.3647
    """

    order = 2
    evaluations = 1

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """Follow the velocity that the last two foretell for the middle of each step."""
        before: tuple[Tensor, Tensor] | None = None
        for t, h in _steps(times):
            here = velocity(x, t)
            foretold = here if before is None else here + h / (2 * before[1]) * (here - before[0])
            x, before = x + h * foretold, (here, h)
        return x


@dataclass(frozen=True)
class Jump(Solver):
    """The steps of a flow map (:class:`scflow.matching.FlowMap`), one evaluation each, exact where the map is.

    The velocity is called with both times of a step, ``velocity(x, [from, to])``, and gives the mean of the way.

    Examples
    --------
    >>> mean_velocity = lambda x, both: torch.full_like(x, 2.0)
    >>> Jump().integrate(mean_velocity, torch.ones(1), grid(1)).tolist()
    [-1.0]
    """

    order = 1
    evaluations = 1
    jumps = True

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """Follow the mean velocity of each step."""
        for both in times.unfold(0, 2, 1):
            x = x + (both[1] - both[0]) * velocity(x, both)
        return x


@dataclass(frozen=True)
class Dopri5(Solver):
    """Fifth order, with steps as long as the tolerances allow: Dormand and Prince (1980), by torchdiffeq.

    Only the first and the last time count. The step's length follows from the error averaged over all states of a
    batch, so a cell depends, within the tolerances, on those it is integrated with. scflow therefore integrates tiles
    that do not depend on the batch size; but it never is the default.

    Parameters
    ----------
    rtol, atol
        The error that a step may have: `rtol` times the state's size, plus `atol`.

    Raises
    ------
    InputError
        For tolerances that are not above 0; when integrating, where torchdiffeq is not installed.

    Examples
    --------
    >>> x = Dopri5(rtol=1e-6, atol=1e-6).integrate(lambda x, t: x, torch.ones(1), grid(1))
    >>> round(x.item(), 4)
    0.3679
    """

    order = 5
    evaluations = 0
    adaptive = True

    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < value < float("inf"):
                raise InputError(f"{name}={value} must be a finite number above 0, such as 1e-5.")

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
        """From the first of `times` to the last, by steps of its own."""
        try:
            from torchdiffeq import odeint
        except ImportError as error:
            raise InputError(
                "solver='dopri5' needs torchdiffeq, which is not installed. Install it with: "
                'pip install "scflow-tools[adaptive]", or use solver="rk4".'
            ) from error
        ends = times[[0, -1]]

        def within(t: Tensor, x: Tensor) -> Tensor:
            """The first guess of a step may reach beyond the end, where no field is trained."""
            return velocity(x, t.clamp(ends.min(), ends.max()))

        # The last step ends at the end, and is not interpolated from one beyond it.
        options = {"step_t": ends[1:]}
        path: Tensor = odeint(within, x, ends, rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        return path[-1]
