"""Calibration: drawn counts carried to the training cells' own distributions, gene by gene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from scflow.codecs.steps import Steps, count_steps, random_ranks

__all__ = ["Calibration", "evened", "group_codes"]

_AT_ONCE = 1 << 20
"""Values mapped at a time: the temporaries are float64 and int64."""


class Calibration(nn.Module):
    """Per gene, and per group of cells, a drawn value goes to the training cells' quantile of the same rank.

    The rank is that of the model's own distribution, uniform within the step that a value stands on. Dependence between
    genes comes from the flow, marginals and zeros from the data. First all cells are carried by one map. Then each
    group (a combination of categorical conditions) has a second map for what is left, which a value takes with the
    probability ``n / (n + shrinkage)``, for a group of n training cells: where cells are few, the whole decides.

    Cells of one draw can be balanced against each other: see :func:`evened`.

    Attributes
    ----------
    model, data
        Distribution functions, one row a gene for the whole, then one a gene for each group.
    groups
        The groups' codes, ascending, int64 ``[n_groups]``.
    trust
        Probability that a value takes its group's map, ``[n_groups]``.
    sizes
        Training cells in all, then of each group, int64 ``[1 + n_groups]``; 0 where that is not known.

    Examples
    --------
    >>> poor = counts.copy()
    >>> poor.data = poor.data // 2  # a model that draws too few molecules
    >>> group = np.zeros(counts.shape[0], dtype=np.int64)
    >>> mended = Calibration.fit(poor, group, counts, group).carry(poor, group, rng=rng)
    >>> bool(abs(mended.mean() - counts.mean()) < abs(poor.mean() - counts.mean()))
    True
    """

    groups: Tensor
    trust: Tensor
    sizes: Tensor

    def __init__(self, n_genes: int, groups: Tensor, trust: Tensor, sizes: Tensor, model: Steps, data: Steps) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.register_buffer("groups", groups)
        self.register_buffer("trust", trust)
        self.register_buffer("sizes", sizes)
        self.model, self.data = model, data

    @classmethod
    def fit(
        cls,
        drawn: sparse.csr_matrix,
        drawn_groups: NDArray[np.int64],
        counts: sparse.csr_matrix,
        groups: NDArray[np.int64],
        *,
        shrinkage: float = 20.0,
        seed: int = 0,
    ) -> Calibration:
        """From values the model drew ``[n_drawn, n_genes]`` and the training counts ``[n_cells, n_genes]``.

        `groups` are codes ``[n]`` of each cell's group, below 0 for none.
        """
        n, g = counts.shape
        steps = _steps([count_steps(drawn)]), _steps([count_steps(counts)])
        whole = cls(g, _codes([]), torch.zeros(0), _codes([n]), *steps)
        known, size = np.unique(groups[groups >= 0], return_counts=True)
        if len(known) < 2:
            return whole
        rng = torch.Generator().manual_seed(seed)
        carried = whole.carry(drawn, rng=rng)
        model, data, kept = [count_steps(drawn)], [count_steps(counts)], []
        for i, code in enumerate(known):
            if (drawn_groups == code).sum() >= 2 * min(size[i], 20):
                kept.append(i)
                model.append(count_steps(carried, drawn_groups == code))
                data.append(count_steps(counts, groups == code))
        trust = torch.from_numpy(size[kept] / (size[kept] + shrinkage)).float()
        return cls(g, _codes(known[kept]), trust, _codes([n, *size[kept]]), _steps(model), _steps(data))

    def refitted(
        self, drawn: sparse.csr_matrix, drawn_groups: NDArray[np.int64], *, seed: int = 0, fewest: int = 20
    ) -> Calibration:
        """The same training cells, for a model that draws otherwise, such as in fewer steps.

        From values the model drew ``[n_drawn, n_genes]`` and their cells' groups. The data's distributions and the
        trust in each group stay; a group with less than `fewest` drawn cells is carried with the whole.
        """
        g, data = self.n_genes, _tables(self.data, self.n_genes)
        steps = _steps([count_steps(drawn)]), _steps(data[:1])
        whole = Calibration(g, _codes([]), torch.zeros(0), self.sizes[:1].clone(), *steps)
        carried = whole.carry(drawn, rng=torch.Generator().manual_seed(seed))
        member = [drawn_groups == int(code) for code in self.groups]
        kept = [i for i, cells in enumerate(member) if cells.sum() >= fewest]
        model = [count_steps(drawn), *(count_steps(carried, member[i]) for i in kept)]
        data = [data[0], *(data[i + 1] for i in kept)]
        sizes = self.sizes[[0, *(i + 1 for i in kept)]]
        return Calibration(g, self.groups[kept].clone(), self.trust[kept].clone(), sizes, _steps(model), _steps(data))

    def one_by_one(self) -> Calibration:
        """The same tables for a law that deviates from the one they were made for, and is not to be balanced."""
        return Calibration(self.n_genes, self.groups, self.trust, torch.zeros_like(self.sizes), self.model, self.data)

    def settings(self) -> dict[str, Any]:
        """Sizes: number of genes, of groups, and of the steps of both tables."""
        return {
            "n_genes": self.n_genes,
            "n_groups": len(self.groups),
            "model": len(self.model.value),
            "data": len(self.data.value),
        }

    @classmethod
    def empty(cls, n_genes: int, n_groups: int, model: int, data: int) -> Calibration:
        """Room for tables that are loaded afterwards."""
        rows = n_genes * (n_groups + 1)
        codes = torch.zeros(n_groups, dtype=torch.int64)
        sizes = torch.zeros(1 + n_groups, dtype=torch.int64)
        return cls(n_genes, codes, torch.zeros(n_groups), sizes, Steps.empty(rows, model), Steps.empty(rows, data))

    def forward(
        self, values: Tensor, groups: Tensor | None, *, rng: torch.Generator, in_all: Tensor | None = None
    ) -> Tensor:
        """Counts of cells, from the whole numbers that the model drew.

        Parameters
        ----------
        values
            Whole numbers ``[n, n_genes]``.
        groups
            The code of each cell's group, int64 ``[n]``; ``None`` where cells have none.
        in_all
            To balance the cells, how many the draw has that these are a part of: in all, then of each group, int64
            ``[1 + n_groups]``. They must come from the law that was calibrated. Cells without a known group are
            balanced only where `groups` is ``None``.

        Returns
        -------
        Tensor
            Whole numbers ``[n, n_genes]``, float32.
        """
        place = known = None
        if groups is not None and len(self.groups):
            place = torch.searchsorted(self.groups, groups).clamp_max(len(self.groups) - 1)
            known = self.groups[place] == groups
        out = torch.empty(values.shape, dtype=torch.float32, device=values.device)
        width = max(1, _AT_ONCE // max(1, len(values)))
        for genes in torch.split(torch.arange(self.n_genes, device=values.device), width):
            x = values[:, genes].long()
            u = random_ranks(self.model, genes.expand_as(x), x, rng=rng)
            if groups is None and in_all is not None:
                u = evened(u, self._share(in_all, 0), rng=rng)
            x = self.data.quantile(genes.expand_as(x), u)
            if place is not None and known is not None:
                x = self._within_groups(x, genes, place, known, in_all, rng)
            out[:, genes] = x.float()
        return out

    def _within_groups(
        self, x: Tensor, genes: Tensor, place: Tensor, known: Tensor, in_all: Tensor | None, rng: torch.Generator
    ) -> Tensor:
        """The second map, which some of the values take."""
        taken = torch.rand(x.shape, generator=rng, device=x.device) < (self.trust[place] * known)[:, None]
        rows = genes + ((place + 1) * self.n_genes)[:, None]
        u = random_ranks(self.model, rows, x, rng=rng)
        if in_all is not None:
            for i in torch.unique(place[known]).tolist():
                cells = torch.nonzero(known & (place == i))[:, 0]
                u[cells] = evened(u[cells], self._share(in_all, i + 1), rng=rng)
        return torch.where(taken, self.data.quantile(rows, u), x)

    def _share(self, in_all: Tensor, i: int) -> float:
        """Cells of a draw over training cells; 0, and so no balance, where the latter are not known."""
        return float(in_all[i]) / float(self.sizes[i]) if self.sizes[i] else 0.0

    def counted(self, groups: Tensor | None, n: int) -> Tensor:
        """How many of `n` cells there are in all, then in each known group: `in_all` of `forward`."""
        if groups is None:
            return torch.tensor([n, *[0] * len(self.groups)])
        return torch.stack([torch.tensor(n), *[(groups == code).sum() for code in self.groups]])

    def carry(
        self,
        drawn: sparse.csr_matrix,
        groups: NDArray[np.int64] | None = None,
        *,
        rng: torch.Generator,
        cells: int = 512,
    ) -> sparse.csr_matrix:
        """The same for a sparse matrix of values, some `cells` at a time; without `groups`, by the map of the whole."""
        chunks = []
        for start in range(0, drawn.shape[0], cells):
            rows = slice(start, start + cells)
            values = torch.from_numpy(drawn[rows].toarray())
            codes = None if groups is None else torch.from_numpy(groups[rows])
            chunks.append(sparse.csr_matrix(self(values, codes, rng=rng).numpy().astype(np.int32)))
        carried: sparse.csr_matrix = sparse.vstack(chunks, format="csr")
        return carried


def evened(u: Tensor, share: float, *, rng: torch.Generator) -> Tensor:
    r"""Ranks ``[n, n_genes]`` of cells of one draw, spread more evenly over [0, 1) the more of them there are.

    A distribution that was estimated on N cells is off by their sampling error, and n cells that are drawn from it
    independently add an error of their own: together more than n new real cells have. Real cells, drawn without
    replacement from the N, have just as much as new ones (for n up to N), because their own part is smaller by
    :math:`1 - n / N`, the finite population correction. Each gene's ranks are drawn towards equal spacing so that
    their deviation from it, and with it the variance of every mean, falls by that factor:
    :math:`u' = c\, u + (1 - c)\, (r + \epsilon) / n`, with the rank r of u among the n, a uniform :math:`\epsilon` and
    :math:`c^2 = 1 - n / N`. The order of the cells stays as it was in each gene, and so does the law of a single cell.
    (Balanced or low-discrepancy marginals under the ranks of another sample: Clark et al. 2004; Schefzik et al. 2013.)

    Parameters
    ----------
    u
        Uniform in [0, 1), float64.
    share
        ``n / N``, for all n cells of the draw where `u` has only some of them. 0 leaves `u` as it is.
    """
    if share <= 0 or not len(u):
        return u
    c = math.sqrt(max(0.0, 1.0 - share))
    rank = torch.empty_like(u)
    rank.scatter_(0, u.argsort(0), torch.arange(len(u), dtype=u.dtype, device=u.device)[:, None].expand_as(u).clone())
    within = torch.rand(u.shape, generator=rng, device=u.device, dtype=u.dtype)
    return (c * u + (1 - c) * (rank + within) / len(u)).clamp_max(1 - 1e-12)


def group_codes(condition: Tensor | None, cardinalities: Sequence[int], n: int) -> Tensor:
    """One code a cell for its combination of categorical conditions, int64 ``[n]``; -1 where one of them is none."""
    if condition is None or not any(cardinalities):
        return torch.full((n,), -1, dtype=torch.int64, device=None if condition is None else condition.device)
    code = torch.zeros(n, dtype=torch.int64, device=condition.device)
    none = torch.zeros(n, dtype=torch.bool, device=condition.device)
    for j, k in enumerate(cardinalities):
        if k:
            missing = condition[:, j].isnan()
            none |= missing
            code = code * k + torch.where(missing, 0.0, condition[:, j]).long()
    return torch.where(none, -1, code)


def _codes(known: Any) -> Tensor:
    return torch.as_tensor(np.asarray(known, dtype=np.int64))


def _steps(tables: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]) -> Steps:
    """Several tables, one after another, as the rows of one."""
    offset, starts = 0, [np.zeros(1, np.int64)]
    for start, value, _ in tables:
        starts.append(start[1:] + offset)
        offset += len(value)
    return Steps(
        torch.from_numpy(np.concatenate(starts)),
        torch.from_numpy(np.concatenate([value for _, value, _ in tables])),
        torch.from_numpy(np.concatenate([cumulative for _, _, cumulative in tables])),
    )


def _tables(steps: Steps, n_genes: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """The inverse of `_steps`: one table for every `n_genes` rows."""
    start, value, cumulative = (t.numpy() for t in (steps.start, steps.value, steps.cumulative))
    edges = start[::n_genes]
    return [
        (start[i * n_genes : (i + 1) * n_genes + 1] - first, value[first:last], cumulative[first:last])
        for i, (first, last) in enumerate(pairwise(edges.tolist()))
    ]
