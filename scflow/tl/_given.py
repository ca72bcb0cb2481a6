"""What `scflow.tl.train` is given: cells in memory, or cells of which only some are read at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scflow import _anndata, _keys
from scflow.errors import InputError
from scflow.tl._task import Task
from scflow.training import Run, stored

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Given"]


@dataclass(frozen=True, eq=False)
class Given:
    """Cells to learn from.

    Attributes
    ----------
    cells
        An AnnData in memory: with its counts, or without where these are read later.
    layer
        Where the counts are; ``None`` for `.X`.
    use_rep
        The embedding that is learnt in their place.
    store
        The cells' own place, where that is not memory.
    """

    cells: AnnData
    layer: str | None
    use_rep: str | None
    store: _anndata.Store | None = None

    @classmethod
    def of(cls, cells: Any, layer: str | None, use_rep: str | None, *, key_added: str, carrying: str) -> Given:
        """What the caller means; few cells are loaded, and are then as any others in memory.

        `carrying` is the option by which cells are carried to others, if any: those have to be in memory.
        """
        _keys.slots(key_added)
        store = _anndata.opened(cells, layer, use_rep=use_rep, key_added=key_added)
        if store is None:
            return cls(_anndata.checked(cells), layer, use_rep)
        if use_rep is not None:
            return cls(store.cells, None, use_rep, store)
        n = store.cells.n_obs
        if n <= stored.PART:
            return cls(store.loaded(), store.layer, None, store)
        if carrying:
            raise InputError(
                f"{carrying} takes cells in memory; of the {n:,} of {store.name} no more than {stored.PART:,} are "
                "loaded. Load them: adata.to_memory() of an AnnData, anndata.read_h5ad(path) of a file."
            )
        return cls(store.cells, store.layer, None, store)

    def data(self) -> Any:
        """Coordinates, or counts; those of many cells that are not in memory have a shape so far."""
        if self.use_rep is not None:
            return _anndata.read_embedding(self.cells, self.use_rep)
        if self._streams:
            assert self.store is not None
            return self.store.matrix
        return _anndata.read_counts(self.cells, self.layer)

    def surveyed(self, task: Task, run: Run, key_added: str, *, fingerprint: bool) -> Task:
        """The task, once all cells have been looked at; those in memory have been already."""
        if not self._streams:
            return task
        assert self.store is not None
        rows = stored.part_of(run)
        found = _anndata.survey(self.store, rows.numpy(), key_added=key_added, fingerprint=fingerprint)
        facts = {**task.facts, "n_cells_in_memory": len(rows)}
        return replace(task, data=stored.Stored(task.data, rows, found.part, found.fingerprint), facts=facts)

    def source(self) -> str | None:
        """The layer that the counts come from."""
        return self.layer if self.store is not None else _anndata.counts_layer(self.cells, self.layer)

    def leave(self, key_added: str) -> None:
        """Leave what was found in the caller's AnnData, where the cells are not that one themselves."""
        if self.store is not None:
            self.store.leave(self.cells, key_added)

    @property
    def _streams(self) -> bool:
        return self.store is not None and self.use_rep is None and self.cells.n_obs > stored.PART
