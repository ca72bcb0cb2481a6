"""A batch of counts as it is stored: the counts that are not zero, and where they belong."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Entries"]


@dataclass(frozen=True, eq=False)
class Entries:
    """Counts of `n_cells` cells that are stored, cell by cell; all others are zero.

    Attributes
    ----------
    cell, gene
        Where each count belongs, int64 ``[n_stored]``. What belongs to cell `n_cells` is padding.
    value
        The counts, float32 ``[n_stored]``; anything in padding.
    n_cells, n_genes
        Shape of the matrix.

    Examples
    --------
    >>> import torch
    >>> entries = Entries(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([5.0, 1.0]), n_cells=2, n_genes=3)
    >>> entries.dense().tolist(), entries.sizes.tolist()
    ([[0.0, 0.0, 5.0], [1.0, 0.0, 0.0]], [5.0, 1.0])
    """

    cell: Tensor
    gene: Tensor
    value: Tensor
    n_cells: int
    n_genes: int

    @property
    def sizes(self) -> Tensor:
        """The library sizes ``[n_cells]``."""
        totals = self.value.new_zeros(self.n_cells + 1)
        return totals.index_add_(0, self.cell, self.value)[:-1]

    def dense(self) -> Tensor:
        """The counts ``[n_cells, n_genes]``."""
        return self.filled(self.value, self.value.new_zeros(self.n_genes))

    def filled(self, values: Tensor, background: Tensor) -> Tensor:
        """Rows of `background` ``[width]``, with `values` ``[n_stored]`` in the place of the counts.

        Columns beyond the genes stay as they are.
        """
        width = len(background)
        out = background.new_empty((self.n_cells + 1) * width)
        rows = out.view(self.n_cells + 1, width)
        rows[:-1] = background
        out[self.cell * width + self.gene] = values
        return rows[:-1]
