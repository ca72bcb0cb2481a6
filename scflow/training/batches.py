"""Batches: rows of sparse counts, gathered, made dense and encoded on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.codecs import Codec, Entries
from scflow.training.workers import ALONE, Workers

__all__ = ["Batches", "Cells", "Encoded", "Order", "Rows", "Summarized", "shared", "states_of"]


class Rows(Protocol):
    """Rows of numbers that are made dense a few at a time."""

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        ...

    def __len__(self) -> int: ...

    def dense(self, rows: Tensor) -> Tensor:
        """The given rows, float32 ``[len(rows), n]``."""
        ...

    def entries(self, rows: Tensor) -> Entries | None:
        """The given rows as they are stored; None where that is dense."""
        ...


class Cells:
    """Sparse counts on a device, as they are: the arrays are shared with the matrix where the device is the CPU.

    Elsewhere they are of the smallest types that hold them exactly. Where they leave too little room there, they stay
    on the CPU, and each batch goes over.
    """

    def __init__(self, counts: sparse.csr_matrix, device: torch.device) -> None:
        self.n_cells, self.n_genes = (int(n) for n in counts.shape)
        self.device, self.longest = device, int(np.diff(counts.indptr).max(initial=0))
        value, gene = counts.data, counts.indices
        if device.type != "cpu":
            value, gene = smallest(value), smallest(gene)
        self.home = device if fits(value.nbytes + gene.nbytes, device) else torch.device("cpu")
        self.start = torch.from_numpy(np.asarray(counts.indptr, dtype=np.int64)).to(self.home)
        self.gene, self.value = _shared(gene).to(self.home), _shared(value).to(self.home)

    def __len__(self) -> int:
        return self.n_cells

    def dense(self, rows: Tensor) -> Tensor:
        """The given cells' counts, float32 ``[len(rows), n_genes]``."""
        return self.entries(rows).dense()

    def entries(self, rows: Tensor) -> Entries:
        """The given cells' counts as they are stored.

        How many there are is known on the CPU alone: elsewhere every cell has as many as the longest, the rest being
        padding, and no step waits for the device to count.
        """
        rows = rows.to(self.home)
        cell, stored = self._exactly(rows) if self.home.type == "cpu" else self._padded(rows)
        value, gene = self.value[stored].to(self.device), self.gene[stored].to(self.device)
        return Entries(cell.to(self.device), gene.long(), value.to(torch.float32), len(rows), self.n_genes)

    def _exactly(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of each stored count the cell it belongs to, by its place among `rows`, and where it is."""
        first = self.start[rows]
        length = self.start[rows + 1] - first
        end = length.cumsum(0)
        total = int(end[-1]) if len(end) else 0
        shift = torch.repeat_interleave(first - end + length, length, output_size=total)
        cell = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), length, output_size=total)
        return cell, torch.arange(total, device=rows.device) + shift

    def _padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same, as many for each cell as the longest has; what is too many belongs to a cell that is not there."""
        place = torch.arange(self.longest, device=rows.device)
        first, stop = self.start[rows][:, None], self.start[rows + 1][:, None]
        stored = first + place
        cell = torch.where(stored < stop, torch.arange(len(rows), device=rows.device)[:, None], len(rows))
        return cell.flatten(), stored.clamp_max(len(self.value) - 1).flatten()


class Coordinates:
    """Dense coordinates of an embedding, in the place of counts."""

    def __init__(self, coordinates: np.ndarray[Any, Any], device: torch.device) -> None:
        self.values = torch.from_numpy(np.asarray(coordinates, dtype=np.float32)).to(device)

    @property
    def device(self) -> torch.device:
        """Where the coordinates are."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.values)

    def dense(self, rows: Tensor) -> Tensor:
        """The given rows."""
        return self.values[rows]

    def entries(self, rows: Tensor) -> None:
        """Nothing is sparse."""


class States(Protocol):
    """Where a batch's states come from."""

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        """States ``[len(rows), dim]`` of the given cells, or pictures ``[len(rows), channels, height, width]``."""
        ...


class Encoded:
    """Counts, encoded batch by batch."""

    def __init__(self, cells: Rows, codec: Codec, condition: Tensor | None) -> None:
        self.cells, self.codec, self.condition = cells, codec, condition

    @torch.no_grad()
    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        """Gather and encode."""
        condition = None if self.condition is None else self.condition[rows]
        stored = self.cells.entries(rows)
        if stored is None:
            return self.codec.encode(self.cells.dense(rows), condition, rng=rng)
        return self.codec.encode_entries(stored, condition, rng=rng)


class Summarized:
    """Summaries of all cells, made once, from which each batch's states are drawn."""

    def __init__(
        self, cells: Rows, codec: Codec, condition: Tensor | None, *, chunk: int = 1024, workers: Workers = ALONE
    ) -> None:
        self.codec = codec
        starts = range(0, len(cells), chunk)
        workers = workers if len(starts) >= workers.size else ALONE
        with torch.no_grad():
            parts = []
            for start in starts[slice(*workers.span(len(starts)))]:
                rows = torch.arange(start, min(start + chunk, len(cells)), device=cells.device)
                parts.append(codec.summarize(cells.dense(rows), None if condition is None else condition[rows]))
        self.summaries = workers.joined(torch.cat(parts))

    @torch.no_grad()
    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        """Draw from the summaries."""
        return self.codec.draw(self.summaries[rows], rng=rng)


def states_of(cells: Rows, codec: Codec, condition: Tensor | None, workers: Workers = ALONE) -> States:
    """The source of states that suits a codec."""
    if codec.summarizes:
        return Summarized(cells, codec, condition, workers=workers)
    return Encoded(cells, codec, condition)


def shared(states: States, rows: Tensor, *, rng: torch.Generator, workers: Workers) -> Tensor:
    """States of this process's cells, of a batch that `workers` share.

    They are drawn for all, so that they do not depend on how many share it. Where that is dear, cells of others are
    left out; and where encoding is random, each process draws numbers of its own.
    """
    if workers.size == 1 or not isinstance(states, Encoded):
        return workers.share(states.states(rows, rng=rng))
    return states.states(workers.share(rows), rng=workers.own(rng) if states.codec.random else rng)


class Batches(Protocol):
    """The rows of one batch after another, without end, from a place that can be kept and gone back to."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Where it stands."""
        ...

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        ...


class Order:
    """Which cells make up each batch: a new shuffle for every pass over the data, without end.

    What is left over at the end of a pass, less than a batch, waits for the next shuffle.
    """

    def __init__(self, rows: Tensor, batch_size: int, rng: torch.Generator) -> None:
        self.rows, self.batch_size, self.rng = rows, min(batch_size, len(rows)), rng
        self.place, self.before = 0, rng.get_state()

    def __iter__(self) -> Iterator[Tensor]:
        """Batches from where the order stands: at the start, or at the place that was restored."""
        n, size = len(self.rows), self.batch_size
        while True:
            self.before = self.rng.get_state()
            shuffled = self.rows[torch.randperm(n, generator=self.rng, device=self.rng.device)]
            for start in range(self.place, n - size + 1, size):
                self.place = start + size
                yield shuffled[start : start + size]
            self.place = 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The place in this pass over the data, and the generator as it was before the pass was shuffled."""
        return {"place": self.place}, {"before": self.before}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from there: the shuffle is made anew, and what came before the place is left out."""
        self.place = int(values["place"])
        self.rng.set_state(tensors["before"])


def smallest(whole: NDArray[Any]) -> NDArray[Any]:
    """Numbers in the smallest type that holds all of them exactly and that tensors have; others as they are."""
    least, most = (whole.min(), whole.max()) if len(whole) else (0, 0)
    for kind in (np.uint8, np.int16, np.int32):
        known = np.iinfo(kind)
        if known.min <= least and most <= known.max and np.dtype(kind).itemsize < whole.dtype.itemsize:
            small = whole.astype(kind)
            return small if np.array_equal(small, whole) else whole
    return whole


def fits(n_bytes: int, device: torch.device) -> bool:
    """Whether so much may stay on the device: a CUDA device is left half of what is free there."""
    return device.type != "cuda" or n_bytes <= torch.cuda.mem_get_info(device)[0] // 2


def _shared(array: Any) -> Tensor:
    """A tensor that shares the array's memory; a read-only or foreign-endian array is copied."""
    native = np.asarray(array)
    if not native.flags.writeable or not native.dtype.isnative:
        native = native.astype(native.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(native)
