"""Batches of counts that are not in memory: read a pool of cells at a time, by a thread, ahead of their use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.codecs import Codec, Entries
from scflow.training.batches import Cells, Encoded, States, Summarized
from scflow.training.run import Run
from scflow.training.workers import ALONE, Workers

__all__ = ["PART", "Elsewhere", "Pools", "Stored", "Streamed", "part_of"]

PART = 50_000
"""Cells that are in memory, on which is fitted whatever is not trained batch by batch."""

POOL = 32_768
"""Cells that are shuffled together, at the least ..."""
POOL_BATCHES = 16
"""... and so many batches of them, more where only large blocks can be read ..."""
POOL_VALUES = 1 << 25
"""... but no more stored values than these: 200 MB, twice, since one pool is read while another is used."""
PIECE = 16_384
"""Cells that are read together where all are read in order."""
_LOOKED_AT = 2048
"""Validation cells of the part, at the least: so many are looked at."""
_FEWEST, _MOST = 16, 1024
"""Cells of a block."""
_OF_A_WORKER = 32
"""Blocks that each of several processes is dealt in a pass, at the least."""


class Elsewhere(Protocol):
    """Counts ``[n_cells, n_genes]`` that are not in memory, such as those of a file."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        ...

    @property
    def grain(self) -> int:
        """How many consecutive cells cost about as much to read as one of them."""
        ...

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """The counts of ascending rows, in the smallest type that will do."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """Counts that are elsewhere, and a random part of the cells in memory.

    On the part is fitted whatever is not trained batch by batch, and validation cells are among it.

    Attributes
    ----------
    counts
        Those of all cells.
    rows
        Which cells the part is of, ascending, int64 ``[n_part]``.
    part
        Their counts ``[n_part, n_genes]``.
    fingerprint
        Of all counts, where that was asked for.
    """

    counts: Elsewhere
    rows: Tensor
    part: sparse.csr_matrix
    fingerprint: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.counts.shape

    def within(self, run: Run) -> Run:
        """The run as it is on the part: its rows are those of `part`, in the order that they have in the run."""
        train, validation = (_among(self.rows, rows) for rows in (run.train, run.validation))
        return replace(run, train=train, validation=validation)

    def streamed(self, device: torch.device, workers: Workers = ALONE) -> Streamed:
        """The source of batches."""
        return Streamed(self, device, workers)


def part_of(run: Run) -> Tensor:
    """Cells that are kept in memory, ascending, on the CPU: at random, training and validation cells by their number.

    The rows of a run are in random order, and whatever looks at a few takes the first.
    """
    n, held = len(run.train) + len(run.validation), len(run.validation)
    kept = min(held, max(_LOOKED_AT, round(min(PART, n) * held / n)))
    train, validation = run.train[: max(min(PART, n) - kept, 1)], run.validation[:kept]
    return torch.cat([train, validation]).sort().values.cpu()


class Streamed:
    """Cells that are read when their pool's turn comes; those of the part are at hand at any time.

    Close it: that ends its thread. Of `workers` that share the batches, each reads its own cells.
    """

    def __init__(self, stored: Stored, device: torch.device, workers: Workers = ALONE) -> None:
        self.counts, self.device, self.workers = stored.counts, device, workers
        self.part = _Held(stored.rows.to(device), Cells(stored.part, device))
        self.pool: _Held | None = None
        self.per_cell = max(1.0, stored.part.nnz / max(1, stored.part.shape[0]))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scflow-read")

    def __len__(self) -> int:
        return self.counts.shape[0]

    def dense(self, rows: Tensor) -> Tensor:
        """The given cells' counts, float32 ``[len(rows), n_genes]``; those that nobody holds are read."""
        return self.entries(rows).dense()

    def entries(self, rows: Tensor) -> Entries:
        """The same as they are stored."""
        for held in (self.pool, self.part):
            found = None if held is None else held.entries(rows)
            if found is not None:
                return found
        order = torch.unique(rows)
        cells = Cells(self.counts.read(order.cpu().numpy()), self.device)
        return cells.entries(torch.searchsorted(order, rows))

    def states(self, codec: Codec, condition: Tensor | None) -> States:
        """Where a batch's states come from; a codec that summarises sees every cell once, and no file is read after."""
        if codec.summarizes:
            most = max(1, int(min(PIECE, POOL_VALUES / self.per_cell)))
            return Summarized(_Passing(self.counts, self.device, most), codec, condition, workers=self.workers)
        return Encoded(self, codec, condition)

    def order(self, rows: Tensor, batch_size: int, rng: torch.Generator) -> Pools:
        """The order in which batches can be read."""
        return Pools(self, rows, batch_size, rng)

    def ahead(self, pools: Iterator[_Pool]) -> Iterator[_Pool]:
        """The same pools, each of which is read while the one before is used."""
        reading: Future[sparse.csr_matrix] | None = None
        try:
            pool = next(pools)
            reading = self._thread.submit(self._read, self._own(pool))
            for upcoming in pools:
                # The pool before goes first, so that there are never three.
                self.pool = None
                rows = self._own(pool).sort().values.to(self.device)
                self.pool = _Held(rows, Cells(reading.result(), self.device))
                reading = self._thread.submit(self._read, self._own(upcoming))
                yield pool
                pool = upcoming
        finally:
            if reading is not None:
                reading.cancel()

    def close(self) -> None:
        """End the thread, once it has read what it is reading."""
        self.pool = None
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _own(self, pool: _Pool) -> Tensor:
        """The rows that this process shows."""
        return pool.rows[self.workers.rank]

    def _read(self, rows: Tensor) -> sparse.csr_matrix:
        return self.counts.read(np.sort(rows.numpy()))


class _Held:
    """Counts of some cells on the device, found by their row among all."""

    def __init__(self, rows: Tensor, cells: Cells) -> None:
        self.rows, self.cells = rows, cells

    def entries(self, rows: Tensor) -> Entries | None:
        """Counts of the given cells, if all are here."""
        place = torch.searchsorted(self.rows, rows).clamp_max(len(self.rows) - 1)
        return self.cells.entries(place) if torch.equal(self.rows[place], rows) else None


class _Passing:
    """All cells in order, a piece at a time: for whoever asks for ascending rows once."""

    def __init__(self, counts: Elsewhere, device: torch.device, most: int) -> None:
        self.counts, self.device, self.most = counts, device, most
        self.first = 0
        self.cells: Cells | None = None

    def __len__(self) -> int:
        return self.counts.shape[0]

    def dense(self, rows: Tensor) -> Tensor:
        """The given cells' counts, float32 ``[len(rows), n_genes]``."""
        return self.entries(rows).dense()

    def entries(self, rows: Tensor) -> Entries:
        """The same as they are stored."""
        first, last = int(rows[0]), int(rows[-1])
        if self.cells is None or first < self.first or last >= self.first + len(self.cells):
            stop = min(len(self), max(last + 1, first + self.most))
            self.first, self.cells = first, Cells(self.counts.read(np.arange(first, stop)), self.device)
        return self.cells.entries(rows - self.first)


class _Pool(NamedTuple):
    """Rows of one pool, in the order they are shown; where they start in their pass, and the first still to be shown.

    Rows are ``[n_workers, n]``, one row for each process. `before` is the generator's state before the pass.
    """

    rows: Tensor
    start: int
    first: int
    before: Tensor


class Pools:
    """Which cells make up each batch: blocks of neighbours in random order, pools of blocks, a shuffle in each pool.

    Every cell comes once a pass, less what is left over at the end, less than a batch, as in a full shuffle. Batches
    of a pool have blocks in common: where a value is sorted along the file, the variance of its mean in a batch is that
    of a full shuffle times about ``1 + batch_size * block / pool``, which is kept between 1.5 and 2 unless the source
    can only be read in larger blocks, or a pool of so many batches is too large.

    Of several processes each is dealt blocks of its own in every pass, has pools of them, and shows as many cells as
    the others: the first part of a batch is the first one's. All know the whole order. Blocks that do not go round are
    left out of that pass.
    """

    def __init__(self, cells: Streamed, rows: Tensor, batch_size: int, rng: torch.Generator) -> None:
        self.cells, self.rows, self.rng = cells, rows.cpu().sort().values, rng
        workers = cells.workers.size
        n, size = len(rows), min(batch_size, len(rows))
        if workers > 1:
            n, size = n // workers, min(size // workers, n // workers * 15 // 16)
        wanted = max(POOL, POOL_BATCHES * size, 2 * size * min(cells.counts.grain, _MOST))
        room = max(POOL_VALUES / cells.per_cell, size)
        n_pools = max(1, round(n / max(wanted, size)), math.ceil(n / room))
        self.batch_size, self.size = size, max(1, -(-n // (n_pools * size))) * size
        fine = self.size // (2 * size)
        self.block = min(max(fine, cells.counts.grain, _FEWEST), _MOST)
        if workers > 1:
            self.block = max(1, min(self.block, n // _OF_A_WORKER))
        self.place, self.before = 0, rng.get_state()

    def __iter__(self) -> Iterator[Tensor]:
        """Batches from where the order stands: at the start, or at the place that was restored."""
        for pool in self.cells.ahead(self._pools()):
            self.before = pool.before
            for i in range(pool.first, pool.rows.shape[1], self.batch_size):
                self.place = pool.start + i + self.batch_size
                yield pool.rows[:, i : i + self.batch_size].reshape(-1).to(self.cells.device)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The place in this pass over the data, and the generator as it was before the pass was shuffled."""
        return {"place": self.place}, {"before": self.before}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.place = int(values["place"])
        self.rng.set_state(tensors["before"])

    def _pools(self) -> Iterator[_Pool]:
        """Pass after pass; of the first one, the pools from the place on."""
        place = self.place
        while True:
            before = self.rng.get_state()
            shuffled = self._shuffled()
            shown = shuffled.shape[1] // self.batch_size * self.batch_size
            for start in range(0, shown, self.size):
                rows = shuffled[:, start : min(start + self.size, shown)]
                if start + rows.shape[1] > place:
                    yield _Pool(rows, start, max(place - start, 0), before)
            place = 0

    def _shuffled(self) -> Tensor:
        """All rows in the order of a pass, of each process ``[n_workers, n]``."""
        workers = self.cells.workers.size
        blocks = self._permutation(-(-len(self.rows) // self.block))
        dealt = [self._mixed(own) for own in blocks[: len(blocks) // workers * workers].view(workers, -1)]
        shortest = min(map(len, dealt))
        return torch.stack([rows[:shortest] for rows in dealt])

    def _mixed(self, blocks: Tensor) -> Tensor:
        """The rows of some blocks, shuffled pool by pool."""
        places = blocks[:, None] * self.block + torch.arange(self.block)
        places = places[places < len(self.rows)]
        pools = [pool[self._permutation(len(pool))] for pool in torch.split(places, self.size)]
        return self.rows[torch.cat(pools)]

    def _permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.rng, device=self.rng.device).cpu()


def _among(rows: Tensor, wanted: Tensor) -> Tensor:
    """Where the wanted rows are in ascending `rows`, in the order they are wanted; those that are not there are not."""
    rows = rows.to(wanted.device)
    place = torch.searchsorted(rows, wanted).clamp_max(len(rows) - 1)
    return place[rows[place] == wanted]
