"""Cells whose counts are not in memory: which there are, where their counts are, and what is known beside these."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scflow import _keys
from scflow._anndata._checks import check_gene_names, check_names, named
from scflow._anndata._counts import holds_counts
from scflow._anndata._matrices import Entry, Joined, Matrix, matrix_of
from scflow.errors import InputError, listed, nearest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Store", "opened"]

_SUFFIXES = (".h5ad", ".zarr")
_REMOTE = re.compile(r"[A-Za-z][\w+.-]+://")


@dataclass(frozen=True, eq=False)
class Store:
    """Cells with counts that are read a few at a time.

    Attributes
    ----------
    cells
        All that is known of them but the counts: `.obs`, `.var`, one embedding where that was asked for, and of `.uns`
        what is of use here.
    layers
        What opens their counts, by the name of the layer; None for `.X`.
    layer
        The layer that is read.
    name
        What the cells are called in messages.
    kept
        The caller's AnnData, in which results are left; None where there is none that could hold them.
    """

    cells: AnnData
    layers: Mapping[str | None, Callable[[], Matrix]]
    layer: str | None
    name: str
    kept: AnnData | None = None

    @property
    def matrix(self) -> Matrix:
        """The counts."""
        return self.layers[self.layer]()

    def loaded(self) -> AnnData:
        """The cells with these counts in memory, not yet looked at."""
        counts = self.matrix.read(np.arange(self.cells.n_obs))
        loaded = self.cells.copy()
        if self.layer is None:
            loaded.X = counts
        else:
            loaded.layers[self.layer] = counts
        return loaded

    def leave(self, results: AnnData, key_added: str) -> None:
        """Leave what was found in `results` in the caller's AnnData, in memory: the file stays as it is."""
        if self.kept is None:
            return
        slot = _keys.slots(key_added)
        for column in (slot.mean, slot.sd, slot.dropout):
            if column in results.var:
                self.kept.var[column] = results.var[column].to_numpy()
        for key in (slot.pp, slot.flow):
            if key in results.uns:
                self.kept.uns[key] = results.uns[key]


class _Asked(NamedTuple):
    """What of the cells is asked for beside counts."""

    use_rep: str | None
    key_added: str


def opened(
    cells: Any,
    layer: str | None = None,
    *,
    use_rep: str | None = None,
    key_added: str = _keys.FLOW,
    name: str = "adata",
) -> Store | None:
    """The store of cells that are not in memory; None for an AnnData in memory, and for what is no cells at all.

    Parameters
    ----------
    cells
        An AnnData that is backed, lazily read or holds Dask arrays, the path of a `.h5ad` or `.zarr` file, an
        AnnCollection, or a list of any cells.
    layer
        Where the counts are; None means `.X`, or `.layers["counts"]` where the first cells of `.X` hold no counts.
    use_rep
        An embedding that is asked for in the place of counts.
    key_added
        The slots' name: of a file's `.uns` these are read, and no others.

    Raises
    ------
    InputError
        Where a file is not there, a layer is not known, or counts are stored by genes.
    """
    from anndata import AnnData

    if isinstance(cells, AnnData) and _is_in_memory(cells):
        return None
    found = _any(cells, _Asked(use_rep, key_added), name)
    if found is None:
        return None
    check_names(found.cells, name=found.name)
    check_gene_names(found.cells, name=found.name)
    if found.cells.n_obs == 0:
        raise InputError(f"{found.name} has 0 cells ({found.cells.n_vars} genes). Check the filter that made it.")
    chosen = layer if use_rep is not None else _layer(found, layer)
    return Store(found.cells, found.layers, chosen, found.name, found.kept)


def _any(cells: Any, asked: _Asked, name: str) -> Store | None:
    from anndata import AnnData

    if isinstance(cells, str) and _REMOTE.match(cells):
        raise InputError(
            f"{cells!r} is no path of this machine. Open it lazily, and give that: "
            f"adata = anndata.experimental.read_lazy({cells!r})."
        )
    if isinstance(cells, (str, os.PathLike)):
        return _of_path(Path(cells).expanduser(), asked)
    if isinstance(cells, AnnData):
        return _of_anndata(cells, asked, name)
    if type(cells).__name__ in ("AnnCollection", "AnnCollectionView"):
        return _of_collection(cells, asked, name)
    if isinstance(cells, (list, tuple)):
        return _joined(cells, asked, name)
    return None


def _of_path(path: Path, asked: _Asked) -> Store:
    """A file; its annotations are read, its counts are not."""
    from anndata.io import read_elem

    name, use_rep = repr(path.name), asked.use_rep
    if path.suffix not in _SUFFIXES:
        raise InputError(f"The path {str(path)!r} ends in {path.suffix!r}; expected cells in {listed(_SUFFIXES)}.")
    if not path.exists():
        raise InputError(f"There is no {str(path)!r}. Check the path; the current folder is {str(Path.cwd())!r}.")
    with _opened(path) as root:
        missing = [part for part in ("obs", "var") if part not in root]
        if missing:
            raise InputError(f"{str(path)!r} has no {listed(missing)}. Expected what adata.write writes.")
        obs, var = read_elem(root["obs"]), read_elem(root["var"])
        # Of .uns no more than is of use here: it may be large, or hold what this version of anndata cannot read.
        uns = {key: read_elem(root["uns"][key]) for key in _told(asked.key_added) if key in root.get("uns", {})}
        known = list(root.get("obsm", {}))
        if use_rep is not None and use_rep not in known:
            raise InputError(f"{name} has no embedding {use_rep!r}.{nearest(use_rep, known)} Embeddings{named(known)}.")
        embeddings = {} if use_rep is None else {use_rep: read_elem(root["obsm"][use_rep])}
        keys: dict[str | None, str] = {layer: f"layers/{layer}" for layer in root.get("layers", {})}
        keys |= {None: "X"} if "X" in root else {}
        is_file = path.suffix == ".h5ad"
        values = {layer: Entry(path, key) if is_file else root[key] for layer, key in keys.items()}
    return Store(_annotations(obs, var, uns, embeddings), _openers(values, name), None, name)


def _told(key_added: str) -> tuple[str, ...]:
    """What of `.uns` training looks at."""
    slot = _keys.slots(key_added)
    return slot.pp, slot.embed


def _opened(path: Path) -> AbstractContextManager[Any]:
    """The file, open for reading."""
    if path.suffix == ".h5ad":
        import h5py

        try:
            file: AbstractContextManager[Any] = h5py.File(path, "r")
            return file
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read as an h5ad file ({error}).") from error
    try:
        import zarr
    except ImportError as error:
        raise InputError(f"Reading {str(path)!r} takes zarr, which is not installed: pip install zarr.") from error
    try:
        return nullcontext(zarr.open_group(str(path), mode="r"))
    except Exception as error:  # zarr raises its own types, other ones in each version
        raise InputError(f"{str(path)!r} cannot be read as a zarr group ({error}).") from error


def _of_anndata(adata: AnnData, asked: _Asked, name: str) -> Store:
    """An AnnData of any kind: one of several may be in memory."""
    if adata.is_view and not _is_in_memory(adata):
        raise InputError(
            f"{name} is a view of cells that are not in memory. Give all of them, or write those that you mean to a "
            f"file of their own, or load them: {name} = {name}.to_memory()."
        )
    if adata.isbacked and not adata.file.is_open:
        raise InputError(f"{name} is backed by the file {str(adata.filename)!r}, which is closed. Open it again.")
    values: dict[str | None, Any] = {None: adata.X, **dict(adata.layers)}
    use_rep = asked.use_rep
    embeddings = {use_rep: adata.obsm[use_rep]} if use_rep is not None and use_rep in adata.obsm else {}
    known = _annotations(_table(adata.obs), _table(adata.var), dict(adata.uns), embeddings)
    return Store(known, _openers(values, name), None, name, adata)


def _of_collection(collection: Any, asked: _Asked, name: str) -> Store:
    """An AnnCollection: its AnnDatas one under another, with the annotations that it has of its own."""
    if type(collection).__name__ == "AnnCollectionView":
        raise InputError(f"{name} is a view of an AnnCollection. Give all of it, or load it: {name}.to_adata().")
    if getattr(collection, "convert", None) is not None:
        raise InputError(f"{name} is an AnnCollection that converts its values. Make it without convert=.")
    store = _joined(collection.adatas, asked, name)
    for column in getattr(collection.obs, "columns", []):
        store.cells.obs[column] = collection.obs[column].array
    return store


def _joined(several: Sequence[Any], asked: _Asked, name: str) -> Store:
    """Several cells, one under another: the same genes in the same order.

    A column of obs that not all have is without values in the others: whoever asks for it is told where.
    """
    import anndata

    if not several:
        raise InputError(f"{name} is an empty list. Give files or AnnDatas of cells.")
    stores = []
    for i, cells in enumerate(several):
        store = _any(cells, asked, f"{name}[{i}]")
        if store is None:
            raise InputError(f"{name}[{i}] is a {type(cells).__name__}; expected a path, or an AnnData.")
        stores.append(store)
    for store in stores[1:]:
        _check_same_genes(stores[0], store)
    known = anndata.concat([store.cells for store in stores], join="outer")
    layers = {
        layer: _joiner(
            [store.layers[layer] for store in stores], f"layer {layer!r} of {name}" if layer else f"{name}.X"
        )
        for layer in stores[0].layers
        if all(layer in store.layers for store in stores)
    }
    return Store(known, layers, None, name)


def _joiner(openers: Sequence[Callable[[], Matrix]], where: str) -> Callable[[], Matrix]:
    return lambda: Joined([opener() for opener in openers], where)


def _check_same_genes(first: Store, other: Store) -> None:
    ours, theirs = first.cells.var_names, other.cells.var_names
    if ours.equals(theirs):
        return
    lacking, more = ours.difference(theirs, sort=False), theirs.difference(ours, sort=False)
    if len(lacking) or len(more):
        found = f"it lacks {len(lacking)} ({listed(lacking[:3])})" if len(lacking) else "it lacks none"
        found += f" and has {len(more)} more ({listed(more[:3])})" if len(more) else ""
    else:
        at = int(np.flatnonzero(ours != theirs)[0])
        found = f"they are in another order (gene {at} is {str(theirs[at])!r}, not {str(ours[at])!r})"
    raise InputError(
        f"{other.name} has other genes than {first.name}: {found}. Expected the same genes in the same order: "
        "anndata.experimental.concat_on_disk(files, 'all.h5ad') writes those that all have to one file."
    )


def _layer(store: Store, layer: str | None) -> str | None:
    """The layer that holds counts, by its first cells."""
    layers = [name for name in store.layers if name is not None]
    if layer is not None and layer not in layers:
        raise InputError(
            f"{store.name} has no layer {layer!r}.{nearest(layer, layers)} Layers{named(layers)}. "
            "Name one of them, or leave layer=None to read X."
        )
    if layer is None and None not in store.layers and _keys.COUNTS not in layers:
        raise InputError(f"{store.name} has no X: there are no counts to read. Layers{named(layers)}: name one.")
    if layer is None and _keys.COUNTS in layers:
        first = next(store.layers[None]().blocks(), None) if None in store.layers else None
        return None if first is not None and holds_counts(first) else _keys.COUNTS
    return layer


def _openers(values: Mapping[str | None, Any], name: str) -> dict[str | None, Callable[[], Matrix]]:
    return {layer: _opener(kept, layer, name) for layer, kept in values.items() if kept is not None}


def _opener(values: Any, layer: str | None, name: str) -> Callable[[], Matrix]:
    where = _where(layer, name)

    def opener() -> Matrix:
        matrix = matrix_of(values, where)
        if matrix is None:
            raise InputError(f"{where} is a {type(values).__name__}; expected a matrix, sparse by rows or dense.")
        return matrix

    return opener


def _where(layer: str | None, name: str) -> str:
    return f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"


def _annotations(obs: Any, var: Any, uns: Mapping[str, Any], embeddings: Mapping[str, Any]) -> AnnData:
    from anndata import AnnData

    known = {key: np.asarray(values) for key, values in embeddings.items()}
    return AnnData(obs=obs, var=var, uns=dict(uns), obsm=known)


def _table(frame: Any) -> Any:
    """A DataFrame, of one that may be read lazily."""
    return frame.to_memory() if hasattr(frame, "to_memory") else frame


def _is_in_memory(adata: AnnData) -> bool:
    if adata.isbacked or hasattr(adata.obs, "to_memory"):
        return False
    return not any(_is_dask(values) for values in (adata.X, *adata.layers.values()))


def _is_dask(values: Any) -> bool:
    return type(values).__module__.startswith("dask.")
