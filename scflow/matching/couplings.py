"""Couplings: which noise, or which cell of a source, belongs to which cell.

A coupling returns indices, never data, so that conditions can follow their cell. Cells are paired within their group,
the cells of one and the same condition: pairing across conditions lowers the loss and learns the wrong law. No plan is
sampled with replacement, which would leave a third of a batch's cells out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scflow.errors import InputError
from scflow.matching import plans

__all__ = ["Coupling", "Entropic", "Independent", "Optimal", "Partial", "Unbalanced", "groups_of", "growth", "priced"]


class Coupling(ABC):
    """A rule that pairs two minibatches of equal size.

    Attributes
    ----------
    by_group
        Whether it looks at the groups. Where it does not, nobody has to find them.
    penalty
        The price of a squared difference of one between the numbers that two cells are conditioned on. Without one
        (``None``), only cells whose numbers are the same are of one group.

    Examples
    --------
    >>> class Reversed(Coupling):
    ...     def pair(self, x0, x1, group, *, rng):
    ...         return torch.arange(len(x0)).flip(0)
    >>> Reversed().pair(torch.zeros(3, 1), torch.ones(3, 1), None, rng=rng).tolist()
    [2, 1, 0]
    """

    by_group: bool = True
    penalty: float | None = None

    @abstractmethod
    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor | None:
        """Index into `x1`, aligned with `x0` (``None`` leaves them as drawn); `group` ``[n]`` holds for both.

        An index of -1 leaves that cell out of the batch.
        """


@dataclass(frozen=True)
class Independent(Coupling):
    """Pairs as they were drawn.

    Examples
    --------
    >>> Independent().pair(torch.zeros(3, 1), torch.ones(3, 1), None, rng=rng) is None
    True
    """

    by_group = False

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor | None:
        """Leave the pairs alone."""
        return None


@dataclass(frozen=True)
class Optimal(Coupling):
    r"""The pairs of a batch that make :math:`\sum_i |x_0^i - x_1^{\pi(i)}|^2` least, group by group: optimal transport.

    Ways from noise to data cross less, so the field is straighter and a batch's loss varies less (Tong et al. 2024,
    "Improving and generalizing flow-based generative models with minibatch optimal transport").

    Groups are never mixed, so with many conditions they are small, and little is gained. Cells are drawn from the same
    noise whatever their condition, so each condition must see all of it in training; a plan over the whole batch would
    give each condition the part of the noise that lies nearest to it (Cheng and Schwing 2025, "The curse of
    conditions"). Within a group the noise is only put into another order. That holds for numbers as conditions too:
    cells are paired where the number is the same (a few doses), and stay as they were drawn where each has one of its
    own. A noise that depends on the condition stays with it.

    An assignment of 256 cells of 20 coordinates takes 3.5 ms on one core, where a step takes 26, and one of 1,024 cells
    87 ms; in eight groups they take 0.7 and 6 ms, and with 2,000 coordinates 3 and 22 ms. It is solved on the CPU, so a
    GPU waits for it.

    Parameters
    ----------
    penalty
        Pair cells of different numbers as well, at this price for a squared difference of one (numbers are standardised
        by :func:`scflow.tl.train`): :math:`|x_0^i - x_1^j|^2 + \lambda |c_i - c_j|^2`, where a noise has the number of
        the cell that it was drawn for (Chemseddine et al. 2024; Cheng and Schwing 2025, with cosine distances).
        Categories stay groups. Only a high price keeps the law of each number; a low one gives it the noise nearest to
        its cells. Of 256 cells of 20 coordinates, one of which is the number and a half of noise, the noise has a
        correlation with the number of 0.53 at no price, 0.08 at 10, 0.03 at 30 and 0.00 at 100, at mean costs of 18,
        21, 23 and 24; as drawn it is 40.

    Examples
    --------
    >>> x0, x1 = torch.tensor([[0.0], [10.0]]), torch.tensor([[9.0], [1.0]])
    >>> Optimal().pair(x0, x1, None, rng=rng).tolist()
    [1, 0]
    >>> Optimal().pair(x0, x1, torch.tensor([0, 1]), rng=rng).tolist()  # each alone in its group
    [0, 1]
    """

    penalty: float | None = None

    def __post_init__(self) -> None:
        if self.penalty is not None and not 0 <= self.penalty < math.inf:
            raise InputError(
                f"penalty={self.penalty!r} is no price on the difference of numbers; it must be finite and 0 or more. "
                "penalty=None pairs cells whose numbers are the same."
            )

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Solve one assignment problem a group."""
        # |x0 - x1|^2 = |x0|^2 + |x1|^2 - 2 x0.x1, and only the last term depends on who is paired with whom.
        return _by_group(x0, x1, group, lambda data, noise: plans.assigned(-(data @ noise.T)))


@dataclass(frozen=True)
class Entropic(Coupling):
    """Pairs drawn from the entropic plan (Cuturi 2013), group by group: near the optimal ones, other ones each time.

    Between :class:`Optimal`, for a small epsilon, and :class:`Independent`, for a large one. It is drawn as a
    permutation, so every cell and every noise is used once, and needs an assignment and no plan
    (:func:`scflow.matching.plans.drawn`): 1.8 times the time of :class:`Optimal` for 256 cells of 20 coordinates, 1.3
    times for 1,024.

    Parameters
    ----------
    epsilon
        The weight of the entropy, in units of the group's mean squared distance.

    Examples
    --------
    >>> x0, x1 = torch.tensor([[0.0], [10.0]]), torch.tensor([[9.0], [1.0]])
    >>> Entropic(epsilon=0.01).pair(x0, x1, None, rng=rng).tolist()
    [1, 0]
    """

    epsilon: float = 0.05

    def __post_init__(self) -> None:
        _check_positive(self.epsilon, "epsilon", "0.05 blurs a little, 1 nearly all")

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Draw one permutation a group."""
        return _by_group(
            x0, x1, group, lambda data, noise: plans.drawn(plans.relative_costs(data, noise), self.epsilon, rng=rng)
        )


@dataclass(frozen=True)
class Unbalanced(Coupling):
    """Pairs drawn from an unbalanced plan, group by group: some cells of a source have more descendants than others.

    Between two populations cells proliferate and die, and a balanced plan has to carry the cells of a type that became
    rare over to another one. Here mass may be made and destroyed instead (Chizat et al. 2018; in training, Eyring et
    al. 2024). Every cell x0 has one partner; a cell x1 is used as often as :func:`growth` says, rounded up or down with
    the right mean; a cluster of cells, too, is off by less than one. The field learns to carry the source's cells in
    these numbers: start from as many of each.

    It is meant for a source of cells. A noise is thinned out far from the cells, and cells are drawn from the whole of
    it: two types at -2 and 2 ended up at an energy distance of 0.08, where it is 0.00 by :class:`Optimal`.

    It takes 3 times the time of :class:`Optimal` for 256 cells of 20 coordinates (9 ms), and 2.3 times for 1,024 (207);
    in eight groups 18 and 33 ms.

    Parameters
    ----------
    epsilon
        The weight of the entropy, in units of the group's mean squared distance.
    reach
        What it costs to make or destroy mass, in the same units: about the squared distance beyond which that is
        cheaper than to carry it. The larger, the more balanced.

    Examples
    --------
    >>> x0 = torch.tensor([[0.0], [0.1], [0.2], [9.0]])  # three of one kind, one of the other
    >>> x1 = torch.tensor([[0.0], [0.1], [9.0], [9.1]])  # two and two
    >>> index = Unbalanced(reach=0.1).pair(x0, x1, None, rng=rng)
    >>> (index < 2).tolist()  # the three come from the two that are like them
    [True, True, True, False]
    """

    epsilon: float = 0.05
    reach: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self.epsilon, "epsilon", "0.05 blurs a little, 1 nearly all")
        _check_positive(self.reach, "reach", "1 is the mean squared distance; coupling='entropic' is balanced")

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Round the source's masses to whole cells, and draw one permutation of these a group."""

        def solved(target: Tensor, source: Tensor) -> Tensor:
            costs = plans.relative_costs(target, source)
            masses = plans.unbalanced(costs, self.epsilon, self.reach).sum(0)
            # In any other order a type's cells would now and then be too many, and go to another type's targets.
            order = plans.tree_order(source)
            places = order.repeat_interleave(plans.rounded(masses[order], rng=rng))
            return places[plans.drawn(costs[:, places], self.epsilon, rng=rng)]

        return _by_group(x0, x1, group, solved)


@dataclass(frozen=True)
class Partial(Coupling):
    """The optimal pairs of a share of the cells, group by group: the dearest are left out (Nguyen et al. 2022).

    It is for outliers, and for a source that has not all of the target's cells. What is far from everything is left out
    of every batch and is never learnt, a rare type too; and of a noise, the part far from the cells: two types at -2
    and 2 ended up at an energy distance of 0.03, where it is 0.00 by :class:`Optimal`.

    It takes 1.4 times the time of :class:`Optimal` for 256 cells of 20 coordinates, and 1.9 times for 1,024.

    Parameters
    ----------
    mass
        The share of cells that is paired, above 0 and at most 1, rounded to whole cells of a group, at least one.

    Examples
    --------
    >>> x0, x1 = torch.tensor([[0.0], [1.0], [50.0]]), torch.tensor([[1.0], [0.0], [2.0]])
    >>> Partial(mass=0.67).pair(x0, x1, None, rng=rng).tolist()  # the outlier has no partner
    [1, 0, -1]
    """

    mass: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise InputError(
                f"mass={self.mass!r} is the share of cells that is paired: above 0 and at most 1, such as 0.9."
            )

    def pair(self, x0: Tensor, x1: Tensor, group: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Solve one assignment problem a group, in which some cells (-1) may stay alone."""

        def solved(data: Tensor, noise: Tensor) -> Tensor:
            paired = max(1, round(self.mass * len(data)))
            return plans.assigned_in_part(plans.relative_costs(data, noise), len(data) - paired)

        return _by_group(x0, x1, group, solved)


def growth(x1: Tensor, x0: Tensor, *, epsilon: float = 0.05, reach: float = 1.0) -> Tensor:
    """How many cells of a later population `x0` come from each cell of a source `x1`, relative to their mean.

    By the unbalanced plan of :class:`Unbalanced`, row by row of the later population, each of whose cells counts as
    much: above 1 where cells proliferate, below where they die (Schiebinger et al. 2019).

    Parameters
    ----------
    x1, x0
        States ``[n_source, dim]`` and ``[n_target, dim]``; they and the plan between all of them have to fit in memory.
    epsilon, reach
        As in :class:`Unbalanced`.

    Returns
    -------
    Tensor
        Float64 ``[n_source]`` on the CPU, of mean 1.

    Raises
    ------
    InputError
        Where `epsilon` or `reach` is not above 0.
    RuntimeError
        Where the iteration did not converge.

    Examples
    --------
    >>> x1 = torch.tensor([[0.0], [9.0]])
    >>> x0 = torch.tensor([[0.0], [0.0], [0.0], [9.0]])
    >>> [round(number, 1) for number in growth(x1, x0, reach=0.1).tolist()]
    [1.5, 0.5]
    """
    settings = Unbalanced(epsilon, reach)
    target, source = (_exact(x) for x in (x0, x1))
    plan = plans.unbalanced(plans.relative_costs(target, source), settings.epsilon, settings.reach)
    return plan.sum(0) * (len(source) / len(target))


def groups_of(condition: Tensor | None, group: Tensor | None = None) -> Tensor | None:
    """A number for each cell, the same for equal rows of `condition` ``[n, k]``, int64 ``[n]``; NaN equals NaN.

    It is the condition that the field is told, after some have been dropped for guidance: "none" has a law of its own.
    Cells of different codes of `group` ``[n]`` are never equal.

    Examples
    --------
    >>> condition = torch.tensor([[0.0], [1.0], [0.0], [torch.nan], [torch.nan]])
    >>> groups_of(condition).tolist()
    [0, 1, 0, 2, 2]
    """
    if condition is None and group is None:
        return None
    columns = [part.double() for part in (condition, None if group is None else group[:, None]) if part is not None]
    rows = torch.cat(columns, dim=1).nan_to_num(nan=math.inf)
    codes: Tensor = torch.unique(rows, dim=0, return_inverse=True)[1]
    return codes


def priced(condition: Tensor, numbers: Sequence[int], penalty: float) -> tuple[Tensor, Tensor]:
    """A price on the squared difference of numbers, as coordinates that their squared distance is in.

    Parameters
    ----------
    condition
        ``[n, k]``.
    numbers
        Its columns that hold numbers.
    penalty
        The price.

    Returns
    -------
    The condition with the numbers made equal ("none" stays apart), for groups, and the coordinates
    ``[n, n_numbers]``.

    Examples
    --------
    >>> told, place = priced(torch.tensor([[0.0, 1.0], [1.0, 3.0]]), [1], penalty=4.0)
    >>> told.tolist(), place.tolist()
    ([[0.0, 0.0], [1.0, 0.0]], [[2.0], [6.0]])
    """
    columns = list(numbers)
    values, told = condition[:, columns], condition.clone()
    told[:, columns] = torch.where(values.isnan(), values, 0)
    return told, math.sqrt(penalty) * values.nan_to_num(nan=0)


def _by_group(x0: Tensor, x1: Tensor, group: Tensor | None, solved: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The index into `x1` that `solved` gives for the cells of each group among themselves."""
    data, noise = _exact(x0), _exact(x1)
    codes = torch.zeros(len(x0), dtype=torch.int64) if group is None else group.cpu()
    order = torch.arange(len(x0))
    for code in torch.unique(codes):
        here = (codes == code).nonzero()[:, 0]
        if len(here) > 1:
            place = solved(data[here], noise[here])
            order[here] = torch.where(place < 0, place, here[place])
    return order.to(x1.device)


def _exact(x: Tensor) -> Tensor:
    """States as vectors, float64 on the CPU."""
    return x.detach().flatten(1).cpu().double()


def _check_positive(value: float, name: str, meaning: str) -> None:
    if not 0 < value < math.inf:
        raise InputError(
            f"{name}={value!r} must be finite and above 0, in units of the mean squared distance: {meaning}."
        )
