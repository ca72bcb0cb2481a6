"""How many descendants cells have at the next time point of a course."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Growth", "Whitening"]


@dataclass(frozen=True, eq=False)
class Whitening:
    """Coordinates that have mean 0 and the identity as covariance.

    Attributes
    ----------
    centre, axes
        ``(x - centre) @ axes``, float64 ``[dim]`` and ``[dim, dim]``.
    """

    centre: Tensor
    axes: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> Whitening:
        """Of states ``[n, dim]``; with fewer than ten a coordinate, each coordinate is divided by its deviation."""
        x = x.double()
        centre, left = x.mean(0), x - x.mean(0)
        if len(x) < 10 * x.shape[1]:
            sd = left.square().mean(0).sqrt()
            return cls(centre, torch.diag(1 / sd.clamp_min(1e-3 * float(sd.max()) + 1e-12)))
        values, vectors = torch.linalg.eigh(left.T @ left / len(x))
        # What hardly varies is not blown up to the size of what does.
        return cls(centre, vectors / values.clamp_min(1e-6 * float(values.max()) + 1e-24).sqrt())

    def __call__(self, x: Tensor) -> Tensor:
        """States ``[n, dim]`` in these coordinates, float64 on the CPU."""
        return (x.cpu().double() - self.centre) @ self.axes


@dataclass(frozen=True, eq=False)
class Growth:
    r"""The masses that the plans between time points give to cells, for any cell.

    A plan has :math:`u_i = -\frac{\rho}{\rho + \varepsilon} \log \sum_j e^{v_j - c_{ij} / \varepsilon}`, so the mass
    that starts at a cell is :math:`(\sum_j e^{v_j - c_{ij} / \varepsilon})^{\varepsilon / (\rho + \varepsilon)}`, and
    only the later cells and their scaling v have to be known. It is divided by its mean over the earlier cells.

    Attributes
    ----------
    centre, axes
        Of the plans' coordinates: see :class:`Whitening`.
    states
        The later cells in these coordinates, float32 ``[n, dim]``.
    scaling
        v, ``[n]``.
    plan
        Which plan each is of, int64 ``[n]``: the interval's number times the number of groups plus the group's.
    unit
        The mean cost of each plan, ``[n_plans]``; NaN where there is none.
    mean
        The logarithm of what a mass is divided by, ``[n_plans]``.
    epsilon, power
        :math:`\varepsilon` in mean costs, and :math:`\varepsilon / (\rho + \varepsilon)`, 0 where plans are balanced.
    """

    centre: Tensor
    axes: Tensor
    states: Tensor
    scaling: Tensor
    plan: Tensor
    unit: Tensor
    mean: Tensor
    epsilon: Tensor
    power: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def log(self, x: Tensor, plan: Tensor) -> Tensor:
        """The logarithm of how many descendants cells have, relative to the mean of their time point, float64 ``[n]``.

        Parameters
        ----------
        x
            States ``[n, dim]``.
        plan
            Which plan to ask for each, ``[n]``; below 0 for none. Without a plan there is no answer, NaN.
        """
        out = torch.full((len(x),), torch.nan, dtype=torch.float64)
        place = Whitening(self.centre, self.axes)(x)
        for code in torch.unique(plan[plan >= 0]).tolist():
            mine, later = plan == code, self.plan == code
            if bool(later.any()):
                out[mine] = self._log(place[mine], self.states[later].double(), self.scaling[later], code)
        return out

    def _log(self, x: Tensor, later: Tensor, scaling: Tensor, code: int) -> Tensor:
        """That of the cells of one plan, block by block."""
        unit = self.unit[code] * self.epsilon
        blocks = (scaling - torch.cdist(some, later).square() / unit for some in torch.split(x, 1024))
        mass = torch.cat([torch.logsumexp(block, 1) for block in blocks])
        return mass * self.power - self.mean[code]
