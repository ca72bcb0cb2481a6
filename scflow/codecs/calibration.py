"""Calibration: drawn counts carried to the training cells' own distributions, gene by gene."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from scflow.codecs.steps import Steps, count_steps, random_ranks

__all__ = ["Calibration", "group_codes"]


class Calibration(nn.Module):
    """Per gene, and per group of cells, a drawn value goes to the training cells' quantile of the same rank.

    The rank is that of the model's own distribution, uniform within the step that a value stands on. Dependence between
    genes comes from the flow, marginals and zeros from the data. First all cells are carried by one map. Then each
    group (a combination of categorical conditions) has a second map for what is left, which a value takes with the
    probability ``n / (n + shrinkage)``, for a group of n training cells: where cells are few, the whole decides.

    Attributes
    ----------
    model, data
        Distribution functions, one row a gene for the whole, then one a gene for each group.
    groups
        The groups' codes, ascending, int64 ``[n_groups]``.
    trust
        Probability that a value takes its group's map, ``[n_groups]``.
    """

    groups: Tensor
    trust: Tensor

    def __init__(self, n_genes: int, groups: Tensor, trust: Tensor, model: Steps, data: Steps) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.register_buffer("groups", groups)
        self.register_buffer("trust", trust)
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
        g = counts.shape[1]
        whole = cls(g, _codes([]), torch.zeros(0), _steps([count_steps(drawn)]), _steps([count_steps(counts)]))
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
        return cls(g, _codes(known[kept]), trust, _steps(model), _steps(data))

    def refitted(
        self, drawn: sparse.csr_matrix, drawn_groups: NDArray[np.int64], *, seed: int = 0, fewest: int = 20
    ) -> Calibration:
        """The same training cells, for a model that draws otherwise, such as in fewer steps.

        From values the model drew ``[n_drawn, n_genes]`` and their cells' groups. The data's distributions and the
        trust in each group stay; a group with less than `fewest` drawn cells is carried with the whole.
        """
        g, data = self.n_genes, _tables(self.data, self.n_genes)
        whole = Calibration(g, _codes([]), torch.zeros(0), _steps([count_steps(drawn)]), _steps(data[:1]))
        carried = whole.carry(drawn, rng=torch.Generator().manual_seed(seed))
        member = [drawn_groups == int(code) for code in self.groups]
        kept = [i for i, cells in enumerate(member) if cells.sum() >= fewest]
        model = [count_steps(drawn), *(count_steps(carried, member[i]) for i in kept)]
        data = [data[0], *(data[i + 1] for i in kept)]
        return Calibration(g, self.groups[kept].clone(), self.trust[kept].clone(), _steps(model), _steps(data))

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
        return cls(n_genes, codes, torch.zeros(n_groups), Steps.empty(rows, model), Steps.empty(rows, data))

    def forward(self, values: Tensor, groups: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Counts ``[n, n_genes]`` for the whole numbers `values` ``[n, n_genes]`` of cells in `groups` ``[n]``."""
        gene = torch.arange(self.n_genes, device=values.device).expand_as(values)
        x = self._map(gene, values.long(), rng=rng)
        if groups is None or not len(self.groups):
            return x.float()
        place = torch.searchsorted(self.groups, groups).clamp_max(len(self.groups) - 1)
        known = self.groups[place] == groups
        taken = torch.rand(x.shape, generator=rng, device=x.device) < (self.trust[place] * known)[:, None]
        rows = gene + ((place + 1) * self.n_genes)[:, None]
        return torch.where(taken, self._map(rows, x, rng=rng), x).float()

    def _map(self, row: Tensor, value: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.data.quantile(row, random_ranks(self.model, row, value, rng=rng))

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
