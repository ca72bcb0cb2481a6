"""Plans of transport between two small clouds: who is paired with whom at which cost, solved on the CPU in float64."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "assigned",
    "assigned_in_part",
    "drawn",
    "relative_costs",
    "rounded",
    "semi_relaxed",
    "tree_order",
    "unbalanced",
]

_MOST_ITERATIONS = 10_000
_THRESHOLD = 1e-5
_LARGEST_EXPONENT = 600.0
_SETTLED, _MOST_SCALINGS = 1e-4, 2000
"""The scaling of no column changes by more than such a share of it, beside what all have in common."""


def assigned(costs: Tensor) -> Tensor:
    """The column of each row, every column at most once, at the least cost: an exact assignment, int64 ``[n]``.

    Examples
    --------
    >>> assigned(torch.tensor([[5.0, 1.0], [1.0, 5.0]])).tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(costs.numpy())[1])


def assigned_in_part(costs: Tensor, n_left_out: int) -> Tensor:
    """The cheapest assignment that leaves so many rows out, -1 for these (Caffarelli and McCann 2010).

    Rows that are left out go to columns that are added, which pay for being taken (Chapel, Alaya and Gasso 2020). It is
    partial optimal transport of equal masses, whose plan has no fractions, and takes no longer than POT's.

    Examples
    --------
    >>> assigned_in_part(torch.tensor([[9.0, 8.0], [1.0, 5.0]]), n_left_out=1).tolist()
    [-1, 0]
    """
    n = costs.shape[1]
    column = assigned(torch.cat([costs, costs.new_full((len(costs), n_left_out), -1.0)], 1))
    return torch.where(column < n, column, -1)


def relative_costs(x0: Tensor, x1: Tensor) -> Tensor:
    """Squared distances between the cells of two clouds, ``[n, m]``, of mean 1 (or 0 where all agree).

    Examples
    --------
    >>> relative_costs(torch.zeros(1, 1), torch.tensor([[1.0], [3.0]])).tolist()  # 1 and 9, over their mean
    [[0.20000000298023224, 1.7999999523162842]]
    """
    costs = torch.cdist(x0, x1).square()
    mean = costs.mean()
    return costs / mean if mean > 0 else costs


def drawn(costs: Tensor, epsilon: float, *, rng: torch.Generator) -> Tensor:
    r"""A permutation drawn from the entropic plan of a square of costs: every column is taken once, int64 ``[n]``.

    The plan is :math:`P_{ij} = e^{u_i + v_j - c_{ij} / \varepsilon}`. One column of one row would be drawn as the
    greatest of :math:`\log P_{ij}` plus Gumbel noise; an assignment takes the greatest for all rows at once (perturb
    and maximise: Papandreou and Yuille 2011). Every permutation has the same sum of u and v, so they need not be known:
    no Sinkhorn iteration is run.

    How often i is given j is P where rows have many columns to choose from. With few, likely pairs come a little too
    often: with 256 standard normal cells of 20 coordinates and an epsilon of 0.05 of the mean cost those of P = 0.5
    come with 0.54, those of 0.14 with 0.14, and the mean cost is 0.3 per cent below the plan's.

    Examples
    --------
    >>> drawn(torch.tensor([[5.0, 1.0], [1.0, 5.0]]), 0.05, rng=rng).tolist()
    [1, 0]
    """
    exponential = torch.empty(costs.shape, device=rng.device).exponential_(generator=rng)
    gumbel = exponential.cpu().double().log().neg()
    return assigned(costs / epsilon - gumbel)


def unbalanced(costs: Tensor, epsilon: float, reach: float) -> Tensor:
    r"""The row-normalised plan of unbalanced transport, ``[n, m]``: where each row's mass comes from.

    The plan makes least, with equal masses a and b and the reach :math:`\rho` (Chizat et al. 2018),

    .. math:: \langle P, C \rangle + \varepsilon KL(P | a \otimes b) + \rho KL(P 1 | a) + \rho KL(P^T 1 | b).

    It is POT's translation invariant iteration (Séjourné, Vialard and Peyré 2022). What a row costs at least, r, is
    first taken out of its costs and put into its mass, and then the same for columns: with the costs C - r and the mass
    :math:`a e^{-r / \rho}` the plan is the same. The kernel of a cell far from all others would be zero otherwise.

    Raises
    ------
    RuntimeError
        Where the iteration did not converge.

    Examples
    --------
    >>> plan = unbalanced(torch.tensor([[0.0, 9.0], [0.0, 9.0]]).double(), epsilon=0.05, reach=0.1)
    >>> bool(plan[:, 0].sum() > plan[:, 1].sum())  # nobody wants the second
    True
    """
    from_rows = costs.min(1, keepdim=True).values
    rest = costs - from_rows
    from_columns = rest.min(0, keepdim=True).values
    rest = rest - from_columns
    log_v = _iterated(rest, _masses(from_rows, reach), _masses(from_columns, reach), epsilon, reach)
    # Normalised in logarithms, so that a row whose mass is next to nothing still comes from somewhere.
    return torch.softmax(log_v - rest / epsilon, 1)


def semi_relaxed(costs: Tensor, epsilon: float, reach: float) -> tuple[Tensor, Tensor]:
    r"""The plan of transport that keeps the marginal of columns, and may change that of rows at a price.

    It makes least, with equal masses a and b and the reach :math:`\rho` (Chizat et al. 2018; Schiebinger et al. 2019),

    .. math:: \langle P, C \rangle + \varepsilon KL(P | a \otimes b) + \rho KL(P 1 | a), \quad P^T 1 = b.

    Scaling in logarithms (Chizat et al. 2018, algorithm 1). The rows' half is a contraction by
    :math:`\rho / (\rho + \varepsilon)` and the columns' half expands nothing, so it converges from anywhere. With an
    infinite reach the plan is balanced, and may take longer than the 2,000 iterations that are made: the rows' masses
    are nearly equal.

    Parameters
    ----------
    costs
        ``[n, m]``.
    epsilon, reach
        In the unit of the costs; the reach may be infinite.

    Returns
    -------
    The logarithms u ``[n]`` and v ``[m]`` of the scalings:
    :math:`P_{ij} \propto e^{u_i + v_j - c_{ij} / \varepsilon}`. The columns' half came last, so their masses are exact.

    Examples
    --------
    >>> costs = torch.rand(4, 3, generator=rng).double()
    >>> u, v = semi_relaxed(costs, epsilon=0.1, reach=1.0)
    >>> plan = (u[:, None] + v - costs / 0.1).exp()
    >>> [round(mass / plan.sum().item(), 2) for mass in plan.sum(0).tolist()]  # columns keep theirs
    [0.33, 0.33, 0.33]
    """
    kernel, power = costs / -epsilon, 1 / (1 + epsilon / reach)
    u, v = costs.new_zeros(len(costs)), costs.new_zeros(costs.shape[1])
    for _ in range(_MOST_SCALINGS):
        u = -power * torch.logsumexp(kernel + v, 1)
        before, v = v, -torch.logsumexp(kernel + u[:, None], 0)
        moved = v - before
        if float(moved.max() - moved.min()) < _SETTLED:
            break
    return u, v


def _masses(least: Tensor, reach: float) -> Tensor:
    """Equal masses, less what a cell costs at least; a factor that all have in common changes the plan by a factor."""
    exponent = (least.flatten() - least.min()) / reach
    return exponent.clamp_max(_LARGEST_EXPONENT).neg().exp() / len(exponent)


def _iterated(costs: Tensor, a: Tensor, b: Tensor, epsilon: float, reach: float) -> Tensor:
    """The logarithm of the scaling of columns, ``[m]``."""
    import ot

    reference = np.full(tuple(costs.shape), 1 / costs.numel())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            _, log = ot.unbalanced.sinkhorn_unbalanced(
                a.numpy(),
                b.numpy(),
                costs.numpy(),
                epsilon,
                reach,
                # "sinkhorn_stabilized" (POT 0.9.7) ends far from the plan where costs are many times epsilon, and does
                # not always say so.
                method="sinkhorn_translation_invariant",
                c=reference,
                numItermax=_MOST_ITERATIONS,
                stopThr=_THRESHOLD,
                log=True,
            )
        except Warning as warning:
            raise RuntimeError(_unfinished(costs, epsilon, reach, str(warning))) from warning
    if not log["err"][-1] < _THRESHOLD:
        raise RuntimeError(_unfinished(costs, epsilon, reach, f"{_MOST_ITERATIONS} steps"))
    return torch.from_numpy(log["logv"])


def _unfinished(costs: Tensor, epsilon: float, reach: float, why: str) -> str:
    return (
        f"Unbalanced transport of {costs.shape[1]} to {costs.shape[0]} cells did not converge with epsilon={epsilon:g} "
        f"and reach={reach:g}: {why}. Give a larger epsilon, such as {2 * epsilon:g}, and look for extreme values "
        "among the cells."
    )


def tree_order(x: Tensor) -> Tensor:
    """An order of two or more cells ``[n, dim]`` in which every branch of their tree is in one piece, int64 ``[n]``.

    The tree is that of average linkage.

    Examples
    --------
    >>> tree_order(torch.tensor([[0.0], [9.0], [0.1], [9.1]])).tolist()  # what is alike is beside each other
    [0, 2, 1, 3]
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    return torch.from_numpy(leaves_list(linkage(x.numpy(), "average"))).long()


def rounded(expected: Tensor, *, rng: torch.Generator) -> Tensor:
    """Whole numbers in the place of `expected` ``[m]``, each less than one away and right on average, of the same sum.

    Systematic rounding: one random start for all, so the sum, which has to be whole, does not vary (Madow 1949); nor
    does that of any piece in a row, by more than one.

    Examples
    --------
    >>> rounded(torch.tensor([0.5, 0.5, 2.0]).double(), rng=rng).sum().item()
    3
    """
    ends = expected.double().cumsum(0)
    ends[-1] = ends[-1].round()
    start = torch.rand((), generator=rng, device=rng.device).cpu().double()
    return torch.diff((ends + start).floor(), prepend=ends.new_zeros(1)).long()
