"""Results into an AnnData, in plain arrays and strings that survive `write_h5ad`, and out again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scflow import _keys
from scflow._anndata._checks import checked, named
from scflow.codecs.statistics import GeneStatistics, library_sizes
from scflow.errors import InputError, nearest
from scflow.training.interrupts import shielded

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "Preprocessing",
    "expression",
    "new_cells",
    "plain",
    "read_flow",
    "read_preprocessing",
    "storable",
    "write_code",
    "write_flow",
    "write_log_prob",
    "write_preprocessing",
    "write_table",
    "writing",
]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What :func:`scflow.pp.log1p_standardize` left in an AnnData.

    Attributes
    ----------
    statistics
        Per-gene statistics of the cells it was called on.
    clip
        Standardised values beyond +-`clip` are cut.
    layer
        Where the counts were read: a layer's name, or None for `.X`.
    n_cells
        How many cells the statistics are of.
    """

    statistics: GeneStatistics
    clip: float
    layer: str | None
    n_cells: int


def write_flow(adata: AnnData, content: Mapping[str, Any], key: str = _keys.FLOW) -> None:
    """Leave a flow's content in `.uns[key]`.

    Parameters
    ----------
    content
        Nested mappings of numpy arrays, numbers and strings, as `Flow.to_content` gives it. A "/" in a key, which
        would open a group in an h5ad file, is escaped. Arrays are copied.
    """
    with writing():
        adata.uns[key] = storable(content)


def write_table(adata: AnnData, table: pd.DataFrame, key: str) -> None:
    """Leave a copy of a table in `.uns[key]`."""
    with writing():
        adata.uns[key] = table.copy()


def write_code(adata: AnnData, state: NDArray[Any], noise: NDArray[Any], key_added: str = _keys.FLOW) -> None:
    """Write `.obsm["X_scflow"]` and `["X_scflow_noise"]`, each `[n_cells, n_dimensions]`, by `key_added`."""
    slot = _keys.slots(key_added)
    with writing():
        adata.obsm[slot.state] = np.asarray(state, dtype=np.float32)
        adata.obsm[slot.noise] = np.asarray(noise, dtype=np.float32)


def write_log_prob(
    adata: AnnData,
    value: NDArray[np.float64],
    se: NDArray[np.float64] | None,
    facts: Mapping[str, Any],
    key_added: str = _keys.FLOW,
) -> None:
    """Write `.obs["scflow_log_prob"]`, `["scflow_log_prob_se"]` and `.uns["scflow_log_prob"]`, by `key_added`.

    Parameters
    ----------
    value, se
        Log-densities and their standard errors, `[n_cells]`. Without standard errors, the column that an earlier call
        left is dropped: it would be of other values.
    facts
        How they were computed: strings, numbers, lists of strings.
    """
    slot = _keys.slots(key_added)
    with writing():
        adata.obs[slot.log_prob] = value
        if se is not None:
            adata.obs[slot.log_prob_se] = se
        elif slot.log_prob_se in adata.obs:
            del adata.obs[slot.log_prob_se]
        adata.uns[slot.log_prob] = storable(facts)


def read_flow(adata: AnnData, key: str = _keys.FLOW, *, name: str = "adata") -> dict[str, Any]:
    """The content that :func:`write_flow` left in `.uns[key]`.

    Raises
    ------
    InputError
        Where there is none, or what is there is no flow.
    """
    adata = checked(adata, name=name, backed=True)
    _keys.slots(key)
    if key not in adata.uns:
        keys = [str(k) for k in adata.uns]
        raise InputError(
            f"{name}.uns has no flow {key!r}.{nearest(key, keys)} Train one first: flow = scflow.tl.train({name}), or "
            "give the flow itself: scflow.Flow.load(path)."
        )
    content = adata.uns[key]
    if not isinstance(content, Mapping) or "config" not in content:
        what = "the provenance of generated cells" if _is_provenance(content) else f"a {type(content).__name__}"
        raise InputError(
            f"{name}.uns[{key!r}] holds {what}, not a flow. Give the AnnData that was trained on, or the flow itself: "
            "scflow.Flow.load(path)."
        )
    try:
        flow: dict[str, Any] = plain(content)
        flow["config"] = str(flow["config"])
        # h5ad gives an array without dimensions back as a number.
        flow["tensors"] = {n: np.array(t) for n, t in flow.get("tensors", {}).items()}
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{name}.uns[{key!r}] holds what is no flow ({str(error)[:200]}).") from error
    return flow


def _is_provenance(content: Any) -> bool:
    return isinstance(content, Mapping) and "provenance" in content


def new_cells(
    counts: sparse.csr_matrix | None,
    *,
    genes: Sequence[str],
    obs: pd.DataFrame,
    state: NDArray[Any],
    noise: NDArray[Any],
    target_sum: float,
    provenance: Mapping[str, Any],
) -> AnnData:
    """Generated cells as an AnnData.

    Parameters
    ----------
    counts
        Integer counts `[n_cells, n_genes]`, or None for a flow in the user's own embedding, which draws none.
    genes
        The names of the training genes; not used without `counts`.
    obs
        The conditions asked for, one row a cell.
    state, noise
        What the flow drew and where it started, `[n_cells, n_dimensions]`.
    target_sum
        Counts per cell after size normalisation in `.X`.
    provenance
        Where the cells come from: strings, numbers, arrays, lists of strings. Entries that are None are left out.

    Returns
    -------
    AnnData
        `.X` log1p of counts per `target_sum` (CSR float32; a cell without counts is a row of zeros),
        `.layers["counts"]` (CSR int32), `.obsm["X_scflow"]`, `.obsm["X_scflow_noise"]`, `.obs`,
        `.uns["scflow"]["provenance"]`; cells are named "scflow_0", "scflow_1", ...
    """
    from anndata import AnnData

    obs = obs.set_axis(pd.Index([f"scflow_{i}" for i in range(len(obs))], dtype="object"), axis=0)
    adata = AnnData(obs=obs) if counts is None else expression(counts, genes, obs, target_sum)
    adata.obsm[_keys.STATE] = np.asarray(state, dtype=np.float32)
    adata.obsm[_keys.NOISE] = np.asarray(noise, dtype=np.float32)
    adata.uns[_keys.FLOW] = {"provenance": storable(provenance)}
    return adata


def expression(counts: sparse.csr_matrix, genes: Sequence[str], obs: pd.DataFrame, target_sum: float) -> AnnData:
    """Counts, and beside them their logarithm, in an AnnData."""
    from anndata import AnnData

    largest = counts.data.max() if counts.data.size else 0
    whole = sparse.csr_matrix(counts, dtype=np.int32 if largest < 2**31 else np.int64, copy=True)
    whole.sum_duplicates()
    whole.eliminate_zeros()
    sizes = library_sizes(whole)
    scale = np.divide(target_sum, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    values = np.log1p(whole.data * np.repeat(scale, np.diff(whole.indptr))).astype(np.float32)
    logs = sparse.csr_matrix((values, whole.indices.copy(), whole.indptr.copy()), shape=whole.shape)
    var = pd.DataFrame(index=pd.Index([str(gene) for gene in genes], dtype="object"))
    return AnnData(X=logs, obs=obs, var=var, layers={_keys.COUNTS: whole})


def write_preprocessing(
    adata: AnnData,
    statistics: GeneStatistics,
    *,
    clip: float,
    layer: str | None,
    key_added: str = _keys.FLOW,
) -> None:
    """Write `.var["scflow_mean"]`, `["scflow_sd"]`, `["scflow_dropout"]` and `.uns["scflow_pp"]`, by `key_added`."""
    slot = _keys.slots(key_added)
    settings = {
        "target_sum": statistics.target_sum,
        "clip": float(clip),
        "layer": layer,
        "n_cells": adata.n_obs,
        "n_genes": adata.n_vars,
    }
    with writing():
        adata.var[slot.mean] = statistics.mean
        adata.var[slot.sd] = statistics.sd
        adata.var[slot.dropout] = statistics.dropout
        adata.uns[slot.pp] = storable(settings)


def read_preprocessing(adata: AnnData, key: str = _keys.FLOW, *, name: str = "adata") -> Preprocessing | None:
    """What :func:`write_preprocessing` left, or None where there is nothing that is true of these cells.

    A subset of cells or genes inherits the slots of its parent, whose statistics are of other cells and other library
    sizes: they count as nothing.

    Raises
    ------
    InputError
        Where the settings are there but columns of `.var` are not, or are none of ours.
    """
    slot = _keys.slots(key)
    settings = adata.uns.get(slot.pp)
    if settings is None:
        return None
    told = _settings(settings, f"{name}.uns[{slot.pp!r}]", name)
    if (told["n_cells"], told["n_genes"]) != adata.shape:
        return None
    missing = [c for c in (slot.mean, slot.sd, slot.dropout) if c not in adata.var]
    if missing:
        raise InputError(
            f"{name}.uns[{slot.pp!r}] is there, but {name}.var lacks {len(missing)} of its 3 columns{named(missing)}. "
            f"Write them anew: scflow.pp.log1p_standardize({name})."
        )
    mean, sd, dropout = (_statistic(adata, column, name) for column in (slot.mean, slot.sd, slot.dropout))
    layer = str(settings["layer"]) if settings.get("layer") is not None else None
    statistics = GeneStatistics(mean, sd, dropout, told["target_sum"])
    return Preprocessing(statistics, told["clip"], layer, int(told["n_cells"]))


def _settings(settings: Any, where: str, name: str) -> dict[str, float]:
    """Numbers that have to be above 0, out of what anybody may have written."""
    try:
        told = {key: float(settings[key]) for key in ("n_cells", "n_genes", "target_sum", "clip")}
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        told = {str(error)[:80]: 0.0}
    bad = [key for key, value in told.items() if not 0 < value < np.inf]
    if bad:
        raise InputError(
            f"{where} is none that scflow wrote: {bad[0]} is no number above 0. Write it anew: "
            f"scflow.pp.log1p_standardize({name}), or drop it."
        )
    return told


def _statistic(adata: AnnData, column: str, name: str) -> NDArray[np.float64]:
    """A number for each gene."""
    try:
        values: NDArray[np.float64] = adata.var[column].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(adata.n_vars, np.nan)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(
            f"{name}.var[{column!r}] has no finite number for {bad} of {len(values)} genes. Write it anew: "
            f"scflow.pp.log1p_standardize({name})."
        )
    return values


@contextmanager
def writing() -> Iterator[None]:
    """Writing to a view makes it a copy of its own, as everywhere in AnnData, and here without the warning.

    Whatever would interrupt this waits until all slots are written.
    """
    from anndata import ImplicitModificationWarning

    with shielded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        yield


def storable(value: Any) -> Any:
    """Nested dictionaries of arrays, numbers and strings: what every version of the h5ad format can hold."""
    if isinstance(value, Mapping):
        return {_escaped(str(k)): storable(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return np.array(value, dtype=object) if all(isinstance(v, str) for v in value) else np.array(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def plain(value: Any) -> Any:
    """The inverse of :func:`storable` for mappings, which a view of an AnnData wraps in a class of its own."""
    return {_unescaped(str(k)): plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _escaped(key: str) -> str:
    return key.replace("%", "%25").replace("/", "%2F")


def _unescaped(key: str) -> str:
    return key.replace("%2F", "/").replace("%25", "%")
