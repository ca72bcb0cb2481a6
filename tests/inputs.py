"""Every public function, how it is called with the smallest cells that it takes, and every fault that cells can have.

`test_inputs.py` runs the product of the two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import scflow
from scflow.flow import Flow

N, GENES = 66, 20


# The world that functions are called in.


@dataclass(frozen=True, eq=False)
class World:
    """Cells and what has been made of them; tests take copies."""

    adatas: Mapping[str, AnnData]
    flows: Mapping[str, Flow]
    folder: Path

    @property
    def cells(self) -> AnnData:
        return self.adatas["cells"]


def simulated() -> AnnData:
    """66 cells of 20 genes with all that a function here can ask for; counts fit in a byte, their sums do not."""
    adata = scflow.datasets.simulate(N, GENES, 3, n_programmes=1, library_size=400, seed=1)
    del adata.uns["truth"], adata.obsm["truth_programmes"], adata.obs["truth_library_size"]
    adata.X = sparse.csr_matrix(np.minimum(adata.X.toarray(), 120).astype(np.float32))
    assert adata.X.sum(axis=1).max() > 255
    i, rng = np.arange(N), np.random.default_rng(0)
    adata.obs["perturbation"] = pd.Categorical(np.array(["ctrl", "A", "B"])[i % 3])
    adata.obs["day"] = (i % 3).astype(np.float64)
    for name in ("X_own", "X_umap"):
        adata.obsm[name] = rng.normal(size=(N, 2)).astype(np.float32)
    return adata


def world(folder: Path) -> World:
    """Four small flows, and cells that each of them made."""
    cells = simulated()
    quick: dict[str, Any] = {"steps": 4, "batch_size": 16, "precision": "float32", "progress": False}
    kept = cells.copy()
    plain = scflow.tl.train(kept, condition="cell_type", space="genes", noise="gaussian", **quick)
    carrying = scflow.tl.train(
        cells.copy(), source={"perturbation": "ctrl"}, target={"perturbation": ["A", "B"]}, space="genes", **quick
    )
    dated = cells.copy()
    course = scflow.tl.train(dated, course="day", space="genes", **quick)
    own = scflow.tl.train(cells.copy(), use_rep="X_own", **quick)
    drawn = scflow.tl.generate(plain, N, steps=1, progress=False)
    scflow.tl.score(cells, drawn, reference=cells, metrics="gene_means", condition=None)
    source = cells[cells.obs["perturbation"] == "ctrl"].copy()
    to = {"target": {"perturbation": "A"}, "steps": 1, "progress": False}
    carried = scflow.tl.transport(source, carrying, copy=True, **to)
    assert carried is not None
    moving = scflow.tl.velocity(source, carrying, target=to["target"], copy=True)
    assert moving is not None
    looked = cells.copy()
    looked.uns["scflow_steps"] = scflow.tl.steps(plain, cells, reference=cells, **STEPS)
    adatas = {"cells": cells, "kept": kept, "dated": dated, "drawn": drawn, "source": source, "carried": carried}
    adatas |= {"paths": scflow.tl.trajectory(source, carrying, times=2, **to), "moving": moving, "looked": looked}
    flows = {"plain": plain, "carrying": carrying, "course": course, "own": own}
    return World(adatas, flows, folder)


STEPS: dict[str, Any] = {
    "solvers": "euler",
    "evaluations": [1],
    "metrics": "gene_means",
    "calibration": "none",
    "progress": False,
}


# How each function is called.


@dataclass(frozen=True, eq=False)
class Recipe:
    """One argument of one function that takes an AnnData.

    Attributes
    ----------
    name, argument
        Of the function, "tl.train", and of its argument.
    base
        Which AnnData of the world it is given.
    call
        Everything but that argument: the world and the AnnData in, the result out; further options replace others.
    counts, column, rep
        What of the cells is looked at: whether their counts, which column of `.obs`, which embedding.
    learns
        Whether any genes and labels will do, as nothing is known of any yet.
    trains
        Whether cells without counts and constant genes are refused.
    streams
        Whether counts may be on disk.
    flow
        Whether the flow is looked for in `.uns`.
    alone
        Whether only genes that all sides have are compared, so that missing ones do no harm.
    writes
        The slots that may change; a trailing "*" is any ending.
    optional
        Whether None says something.
    """

    name: str
    argument: str
    call: Callable[..., Any]
    base: str = "cells"
    counts: bool = False
    column: str | None = None
    rep: str | None = None
    learns: bool = False
    trains: bool = False
    streams: bool = False
    flow: bool = False
    alone: bool = False
    writes: tuple[str, ...] = ()
    optional: bool = False
    variant: str = ""

    @property
    def id(self) -> str:
        """Such as "tl.score-reference"."""
        return "-".join(part for part in (self.name, self.argument, self.variant) if part)

    @property
    def function(self) -> Callable[..., Any]:
        """What is called."""
        room, _, name = self.name.partition(".")
        return getattr(getattr(scflow, room), name)  # type: ignore[no-any-return]


QUIET: dict[str, Any] = {"progress": False}
ONE: dict[str, Any] = {"progress": False, "steps": 1}
TRAIN: dict[str, Any] = {"steps": 2, "batch_size": 16, "precision": "float32", "progress": False, "space": "genes"}
TO_A: dict[str, Any] = {"target": {"perturbation": "A"}}
_LEARNT = ("uns/scflow", "uns/scflow_pp", "var/scflow_mean", "var/scflow_sd", "var/scflow_dropout")


def _of(function: Callable[..., Any], *before: Any, **options: Any) -> Callable[..., Any]:
    """A call with these options, unless others are given."""

    def call(w: World, adata: Any, **other: Any) -> Any:
        asked = {**{k: _known(v, w) for k, v in options.items()}, **other}
        return function(*[adata if one is CELLS else _known(one, w) for one in before], **asked)

    return call


CELLS = object()
"""Where the AnnData of the recipe goes."""


@dataclass(frozen=True)
class _A:
    """An AnnData of the world by its name."""

    name: str


@dataclass(frozen=True)
class _F:
    """A flow of the world by its name."""

    name: str


def _known(value: Any, w: World) -> Any:
    if isinstance(value, _A):
        return w.adatas[value.name].copy()
    return w.flows[value.name] if isinstance(value, _F) else value


def _report(w: World, real: Any, generated: Any, reference: Any, **options: Any) -> Any:
    path = w.folder / "report.html"
    asked = {"scores": w.adatas["drawn"], "path": path, "overwrite": True, **options}
    return scflow.tl.report(real, generated, reference=reference, **asked)


def recipes() -> list[Recipe]:
    """All of them."""
    tl, pp, pl = scflow.tl, scflow.pp, scflow.pl
    c, g = _A("cells"), _A("drawn")
    genes: dict[str, Any] = {"counts": True}
    typed: dict[str, Any] = {"counts": True, "column": "cell_type"}
    carried: dict[str, Any] = {"base": "source", "counts": True}
    read: dict[str, Any] = {"base": "kept", "flow": True}
    coded = ("obsm/X_scflow", "obsm/X_scflow_noise")
    moved = ("obsm/X_scflow", "obsm/X_scflow_source", "obsm/velocity_scflow", "layers/scflow", "uns/scflow_transport")
    judged: dict[str, Any] = {"metrics": "gene_means", "condition": "cell_type"}
    learning: dict[str, Any] = {"learns": True, "trains": True, "streams": True, "writes": _LEARNT}
    return [
        Recipe("tl.train", "adata", _of(tl.train, CELLS, condition="cell_type", **TRAIN), **typed, **learning),
        Recipe(
            "tl.train",
            "adata",
            _of(tl.train, CELLS, use_rep="X_own", **{**TRAIN, "space": "auto"}),
            rep="X_own",
            variant="embedding",
            **learning,
        ),
        Recipe(
            "tl.train",
            "adata",
            _of(tl.train, CELLS, source={"perturbation": "ctrl"}, target={"perturbation": ["A", "B"]}, **TRAIN),
            counts=True,
            column="perturbation",
            variant="source",
            **learning,
        ),
        Recipe(
            "tl.train",
            "adata",
            _of(tl.train, CELLS, course="day", **TRAIN),
            counts=True,
            column="day",
            variant="course",
            **learning,
        ),
        Recipe("tl.augment", "adata", _of(tl.augment, CELLS, "cell_type", n_obs=6, flow=_F("plain"), **QUIET), **typed),
        Recipe("tl.diagnose", "flow", _of(tl.diagnose, CELLS, n_cells=30, verbose=False), **read),
        Recipe("tl.distill", "flow_or_adata", _of(tl.distill, CELLS, n_trajectories=100, **ONE), **read),
        Recipe("tl.encode", "adata", _of(tl.encode, CELLS, _F("plain"), **ONE), writes=coded, **typed),
        Recipe("tl.encode", "adata", _of(tl.encode, CELLS, _F("own"), **ONE), writes=coded, rep="X_own", variant="own"),
        Recipe("tl.encode", "flow", _of(tl.encode, c, CELLS, **ONE), optional=True, **read),
        Recipe("tl.generate", "flow_or_adata", _of(tl.generate, CELLS, n_obs=5, **ONE), **read),
        Recipe(
            "tl.generate",
            "adata",
            lambda w, a, **o: tl.generate(w.flows["course"], 5, adata=a, **{"at": 0.5, **ONE, **o}),
            column="day",
            optional=True,
            **genes,
        ),
        Recipe(
            "tl.growth",
            "adata",
            _of(tl.growth, CELLS, _F("course")),
            column="day",
            writes=("obs/scflow_growth",),
            **genes,
        ),
        Recipe("tl.growth", "flow", _of(tl.growth, c, CELLS), base="dated", flow=True, optional=True),
        Recipe("tl.interpolate", "flow_or_adata", _of(tl.interpolate, CELLS, c, c, n=2, **ONE), **read),
        Recipe("tl.interpolate", "a", _of(tl.interpolate, _F("plain"), CELLS, c, n=2, **ONE), **typed),
        Recipe("tl.interpolate", "b", _of(tl.interpolate, _F("plain"), c, CELLS, n=2, **ONE), **typed),
        Recipe(
            "tl.log_prob",
            "adata",
            _of(tl.log_prob, CELLS, _F("plain"), exact=False, probes=2, **ONE),
            writes=("obs/scflow_log_prob", "obs/scflow_log_prob_se", "uns/scflow_log_prob"),
            **typed,
        ),
        Recipe("tl.log_prob", "flow", _of(tl.log_prob, c, CELLS, exact=False, probes=2, **ONE), optional=True, **read),
        Recipe("tl.reflow", "flow_or_adata", _of(tl.reflow, CELLS, n_pairs=100, draw_steps=1, **ONE), **read),
        Recipe(
            "tl.reflow",
            "adata",
            lambda w, a, **o: tl.reflow(w.flows["plain"], adata=a, **{"n_pairs": 100, "draw_steps": 1, **ONE, **o}),
            optional=True,
            **typed,
        ),
        Recipe("tl.report", "real", lambda w, a, **o: _report(w, a, _known(g, w), _known(c, w), **o), **typed),
        Recipe(
            "tl.report",
            "generated",
            lambda w, a, **o: _report(w, _known(c, w), a, _known(c, w), **o),
            base="drawn",
            **typed,
        ),
        Recipe(
            "tl.report",
            "reference",
            lambda w, a, **o: _report(w, _known(c, w), _known(g, w), a, **o),
            optional=True,
            **genes,
        ),
        Recipe("tl.score", "real", _of(tl.score, CELLS, g, reference=c, **judged), **typed),
        Recipe(
            "tl.score",
            "generated",
            _of(tl.score, c, CELLS, reference=c, **judged),
            base="drawn",
            writes=("uns/scflow_score",),
            **typed,
        ),
        Recipe(
            "tl.score",
            "reference",
            lambda w, a, **o: tl.score(_known(c, w), _known(g, w), reference=a, **{**judged, **o}),
            optional=True,
            **typed,
        ),
        Recipe("tl.steps", "flows", _of(tl.steps, CELLS, c, reference=c, **STEPS), **read),
        Recipe(
            "tl.steps",
            "real",
            _of(tl.steps, _F("plain"), CELLS, reference=c, **STEPS),
            writes=("uns/scflow_steps",),
            **typed,
        ),
        Recipe(
            "tl.steps",
            "reference",
            lambda w, a, **o: tl.steps(w.flows["plain"], _known(c, w), **{"reference": a, **STEPS, **o}),
            **genes,
        ),
        Recipe("tl.trajectory", "adata", _of(tl.trajectory, CELLS, _F("carrying"), times=2, **TO_A, **ONE), **carried),
        Recipe(
            "tl.transport", "adata", _of(tl.transport, CELLS, _F("carrying"), **TO_A, **ONE), writes=moved, **carried
        ),
        Recipe(
            "tl.transport",
            "adata",
            _of(tl.transport, CELLS, _F("course"), to=1.5, **ONE),
            column="day",
            writes=(*moved, "obs/scflow_growth"),
            variant="course",
            **carried,
        ),
        Recipe("tl.velocity", "adata", _of(tl.velocity, CELLS, _F("carrying"), **TO_A), writes=moved, **carried),
        Recipe("tl.verdict", "scores", _of(tl.verdict, CELLS), base="drawn"),
        Recipe(
            "pp.embed",
            "adata",
            _of(pp.embed, CELLS, "perturbation", none="ctrl"),
            column="perturbation",
            learns=True,
            writes=("uns/scflow_embed",),
        ),
        Recipe(
            "pp.log1p_standardize",
            "adata",
            _of(pp.log1p_standardize, CELLS),
            **genes,
            **{**learning, "writes": _LEARNT[1:]},
        ),
        Recipe("pp.split", "adata", _of(pp.split, CELLS, stratify="cell_type"), column="cell_type", learns=True),
        Recipe("pl.correlation", "real", _of(pl.correlation, CELLS, g), alone=True, **genes),
        Recipe("pl.correlation", "generated", _of(pl.correlation, c, CELLS), alone=True, **genes),
        Recipe("pl.genes", "real", _of(pl.genes, CELLS, g), alone=True, **genes),
        Recipe("pl.genes", "generated", _of(pl.genes, c, CELLS), alone=True, **genes),
        Recipe("pl.history", "flow", _of(pl.history, CELLS), **read),
        Recipe("pl.neighbours", "real", _of(pl.neighbours, CELLS, g, c), alone=True, **genes),
        Recipe("pl.neighbours", "generated", _of(pl.neighbours, c, CELLS, c), alone=True, **genes),
        Recipe("pl.neighbours", "reference", _of(pl.neighbours, c, g, CELLS), alone=True, **genes),
        Recipe("pl.response", "real", _of(pl.response, CELLS, _A("carried"), _A("source")), alone=True, **genes),
        Recipe("pl.response", "predicted", _of(pl.response, c, CELLS, _A("source")), base="carried", alone=True),
        Recipe(
            "pl.response", "source", _of(pl.response, c, _A("carried"), CELLS), alone=True, optional=True, **carried
        ),
        Recipe(
            "pl.response",
            "floor",
            lambda w, a, **o: pl.response(
                _known(c, w), w.adatas["carried"].copy(), w.adatas["source"].copy(), floor=a, **o
            ),
            alone=True,
            optional=True,
            **genes,
        ),
        Recipe("pl.score", "scores", _of(pl.score, CELLS), base="drawn"),
        Recipe("pl.steps", "table", _of(pl.steps, CELLS), base="looked"),
        Recipe(
            "pl.trajectory",
            "paths",
            _of(pl.trajectory, CELLS, color="cell_type"),
            base="paths",
            rep="X_scflow",
            column="cell_type",
        ),
        Recipe(
            "pl.trajectory",
            "background",
            lambda w, a, **o: pl.trajectory(w.adatas["paths"].copy(), background=a, **{"basis": "pca", **o}),
            optional=True,
            alone=True,
            **genes,
        ),
        Recipe(
            "pl.transport",
            "carried",
            _of(pl.transport, CELLS, color="cell_type", basis="pca"),
            base="carried",
            column="cell_type",
        ),
        Recipe(
            "pl.transport",
            "real",
            _of(pl.transport, _A("carried"), CELLS, basis="pca"),
            optional=True,
            alone=True,
            **genes,
        ),
        Recipe("pl.umap", "real", _of(pl.umap, CELLS, g, color="cell_type"), alone=True, **typed),
        Recipe("pl.umap", "generated", _of(pl.umap, c, CELLS, color="cell_type"), base="drawn", alone=True, **typed),
        Recipe(
            "pl.velocity",
            "adata",
            _of(pl.velocity, CELLS, color="cell_type"),
            base="moving",
            rep="X_umap",
            column="cell_type",
        ),
        Recipe(
            "pl.velocity",
            "background",
            lambda w, a, **o: pl.velocity(w.adatas["moving"].copy(), background=a, **o),
            optional=True,
            rep="X_umap",
        ),
    ]


# What can be wrong with cells.


@dataclass(frozen=True, eq=False)
class Fault:
    """One way for cells to be unusual.

    Attributes
    ----------
    make
        The faulty AnnData, of a copy that it may change and of the recipe. None where AnnData does not let it be.
    expected
        What each function has to do with it: "same" (accepted, with the result of the clean cells), "accepted",
        "refused" or "either" (as documented by the function, but clearly).
    touches
        "cells", "counts", "column" or "rep": functions that do not look there have to take no notice.
    """

    name: str
    make: Callable[[AnnData, Recipe], Any]
    expected: Callable[[Recipe], str]
    touches: str


FAULTS: dict[str, Fault] = {}


def _fault(touches: str, expected: str | Callable[[Recipe], str], name: str | None = None) -> Callable[..., Any]:
    def note(make: Callable[..., Any]) -> Callable[..., Any]:
        known = name or make.__name__.strip("_").replace("_", " ")
        assert known not in FAULTS
        FAULTS[known] = Fault(known, make, (lambda _: expected) if isinstance(expected, str) else expected, touches)
        return make

    return note


def looks(recipe: Recipe, touches: str) -> bool:
    """Whether the function looks at what the fault is in."""
    there = {"counts": recipe.counts, "column": recipe.column, "rep": recipe.rep, "flow": recipe.flow}
    return bool(there.get(touches, True))


def has(recipe: Recipe, touches: str) -> bool:
    """Whether there is such a thing to be faulty."""
    return touches not in ("column", "rep") or looks(recipe, touches)


# Not an AnnData.

_THINGS: dict[str, Callable[[AnnData], Any]] = {
    "None": lambda a: None,
    "empty list": lambda a: [],
    "list of numbers": lambda a: [1, 2],
    "DataFrame": lambda a: a.to_df(),
    "array": lambda a: np.ones((3, 2)),
    "sparse matrix": lambda a: sparse.eye(3, format="csr"),
    "path to nowhere": lambda a: "nowhere.h5ad",
    "number": lambda a: 5,
    "class": lambda a: AnnData,
    "MuData": lambda a: type("MuData", (), {"mod": {"rna": a}, "n_obs": 3})(),
    "Raw": lambda a: _with_raw(a).raw,
}
for _name, _make in _THINGS.items():
    _fault("cells", lambda r, n=_name: "either" if n == "None" and r.optional else "refused", f"a {_name}")(
        lambda a, r, make=_make: make(a)
    )


def _with_raw(adata: AnnData) -> AnnData:
    adata.raw = adata.copy()
    return adata


# Too little of it.


@_fault("cells", lambda r: "refused" if r.counts or r.column or r.rep else "either")
def no_cells(a: AnnData, r: Recipe) -> Any:
    return a[:0].copy()


@_fault("counts", "refused")
def no_genes(a: AnnData, r: Recipe) -> Any:
    return a[:, :0].copy()


@_fault("cells", "either")
def one_cell(a: AnnData, r: Recipe) -> Any:
    return a[:1].copy()


@_fault("cells", "either")
def two_cells(a: AnnData, r: Recipe) -> Any:
    return a[:2].copy()


@_fault("cells", "either")
def one_gene(a: AnnData, r: Recipe) -> Any:
    return a[:, :1].copy()


@_fault("cells", "either")
def two_genes(a: AnnData, r: Recipe) -> Any:
    return a[:, :2].copy()


# Values that are no counts.


def _filled(a: AnnData, change: Callable[[np.ndarray], Any]) -> AnnData:
    """With changed dense counts in the place of the counts, wherever these are."""
    there = a.layers.get("counts", a.X)
    x = np.array(there.toarray() if sparse.issparse(there) else there, dtype=np.float64)
    made = change(x)
    x = x if made is None else made
    a.layers.pop("counts", None)
    a.X = x if not isinstance(x, np.ndarray) or x.dtype.kind != "f" else sparse.csr_matrix(x)
    return a


def _with(value: float) -> Callable[..., Any]:
    def change(x: np.ndarray) -> None:
        x[3, 4] = value

    return lambda a, r: _filled(a, change)


for _name, _value in {"NaN": np.nan, "inf": np.inf, "negative": -1.0, "fraction": 0.5, "minus inf": -np.inf}.items():
    _fault("counts", "refused", f"count {_name}")(_with(_value))
for _name, _value in {"1e9": 1e9, "2**30": 2.0**30}.items():
    _fault("counts", "accepted", f"count {_name}")(_with(_value))
for _name, _value in {"2**31": 2.0**31, "2**53": 2.0**53, "1e300": 1e300}.items():
    _fault("counts", "refused", f"count {_name}")(_with(_value))
for _kind in ("complex128", "object", "str", "datetime64[s]"):
    _fault("counts", "refused", f"counts of {_kind}")(
        lambda a, r, kind=_kind: _put(a, lambda x: x.astype(np.int64).astype(kind))
    )


def _put(a: AnnData, change: Callable[[np.ndarray], Any]) -> Any:
    """As `_filled`; where AnnData does not let such values be, None."""
    try:
        return _filled(a, change)
    except (TypeError, ValueError, NotImplementedError):
        return None


@_fault("counts", "refused")
def counts_masked(a: AnnData, r: Recipe) -> Any:
    def change(x: np.ndarray) -> Any:
        mask = np.zeros(x.shape, dtype=bool)
        mask[3, 4] = True
        return np.ma.MaskedArray(x.astype(np.int64), mask)

    return _put(a, change)


@_fault("counts", "refused")
def x_is_none(a: AnnData, r: Recipe) -> Any:
    a.layers.pop("counts", None)
    a.layers.pop("scflow", None)
    a.X = None
    return a


@_fault("counts", "refused")
def log_normalised(a: AnnData, r: Recipe) -> Any:
    return _filled(a, np.log1p)


@_fault("counts", lambda r: "refused" if r.trains else "either")
def an_empty_cell(a: AnnData, r: Recipe) -> Any:
    def change(x: np.ndarray) -> None:
        x[3] = 0

    return _filled(a, change)


@_fault("counts", "accepted")
def an_empty_gene(a: AnnData, r: Recipe) -> Any:
    def change(x: np.ndarray) -> None:
        x[:, 4] = 0

    return _filled(a, change)


@_fault("counts", lambda r: "refused" if r.trains else "either")
def nothing_but_zeros(a: AnnData, r: Recipe) -> Any:
    return _filled(a, np.zeros_like)


@_fault("counts", lambda r: "refused" if r.trains else "either")
def cells_all_the_same(a: AnnData, r: Recipe) -> Any:
    return _filled(a, lambda x: np.tile(x[:1], (len(x), 1)))


# The same counts in other containers.

_CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr_array": lambda x: sparse.csr_array(x.astype(np.float32)),
    "csc_matrix": lambda x: sparse.csc_matrix(x.astype(np.float32)),
    "csc_array": lambda x: sparse.csc_array(x.astype(np.float32)),
    "dense": lambda x: x.astype(np.float32),
    "Fortran order": lambda x: np.asfortranarray(x.astype(np.float32)),
    "read-only": lambda x: _read_only(sparse.csr_matrix(x.astype(np.float32))),
    "read-only dense": lambda x: _read_only(x.astype(np.float32)),
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian sparse": lambda x: _replaced(x, lambda m: m.data.astype(">f4")),
    "big-endian integers": lambda x: x.astype(">i2"),
    "int64 indices": lambda x: _wide(sparse.csr_matrix(x.astype(np.float32))),
    "unsorted": lambda x: _unsorted(sparse.csr_matrix(x.astype(np.float32))),
    "duplicates": lambda x: _doubled(sparse.csr_matrix(x.astype(np.float32))),
    "stored zeros": lambda x: _zeros_stored(x.astype(np.float32)),
    "masked nowhere": lambda x: np.ma.MaskedArray(x.astype(np.float32)),
}
for _kind in ("float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
    _CONTAINERS[_kind] = lambda x, kind=_kind: (
        sparse.csr_matrix(x).astype(kind) if kind != "float16" else x.astype(kind)
    )
    _CONTAINERS[f"{_kind} dense"] = lambda x, kind=_kind: x.astype(kind)


def _read_only(values: Any) -> Any:
    for part in (values.data, values.indices, values.indptr) if sparse.issparse(values) else (values,):
        part.flags.writeable = False
    return values


def _replaced(x: np.ndarray, data: Callable[[Any], Any]) -> Any:
    values = sparse.csr_matrix(x.astype(np.float32))
    values.data = data(values)
    return values


def _wide(values: sparse.csr_matrix) -> sparse.csr_matrix:
    values.indices, values.indptr = values.indices.astype(np.int64), values.indptr.astype(np.int64)
    return values


def _unsorted(values: sparse.csr_matrix) -> sparse.csr_matrix:
    for start, stop in zip(values.indptr[:-1], values.indptr[1:], strict=True):
        for part in (values.data, values.indices):
            part[start:stop] = part[start:stop][::-1].copy()
    return sparse.csr_matrix((values.data, values.indices, values.indptr), shape=values.shape)


def _doubled(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each count in two parts."""
    one = np.minimum(values.data, 1)
    data = np.stack([one, values.data - one], axis=1).ravel()
    return sparse.csr_matrix((data, np.repeat(values.indices, 2), values.indptr * 2), shape=values.shape)


def _zeros_stored(x: np.ndarray) -> sparse.csr_matrix:
    indptr = np.arange(len(x) + 1) * x.shape[1]
    return sparse.csr_matrix((x.ravel(), np.tile(np.arange(x.shape[1]), len(x)), indptr), shape=x.shape)


def _boxed(a: AnnData, r: Recipe, box: Callable[[np.ndarray], Any]) -> Any:
    def change(x: np.ndarray) -> Any:
        return box(x)

    there = a.layers.get("counts", a.X)
    x = np.asarray(there.toarray() if sparse.issparse(there) else there, dtype=np.float64)
    try:
        if "counts" in a.layers:
            a.layers["counts"] = box(x)
        else:
            a.X = box(x)
    except (TypeError, ValueError):
        return None
    return a


for _name, _box in _CONTAINERS.items():
    # Cells cannot be taken out of a sparse matrix of the other order.
    _sliced = ("pp.split", "tl.augment", "tl.generate") if _name == "big-endian sparse" else ()
    _fault(
        "cells" if _sliced else "counts", lambda r, s=_sliced: "either" if r.name in s else "same", f"counts as {_name}"
    )(functools.partial(_boxed, box=_box))


@_fault("cells", "same")
def a_view(a: AnnData, r: Recipe) -> Any:
    return a[np.arange(a.n_obs), np.arange(a.n_vars)]


@_fault("counts", lambda r: "accepted" if r.name == "tl.augment" else "same")
def counts_in_a_layer(a: AnnData, r: Recipe) -> Any:
    if "counts" not in a.layers:
        a.layers["counts"] = a.X.copy()
        a.X = a.X.copy()
        a.X.data = np.log1p(a.X.data)
    return a


@_fault("cells", "same")
def with_raw(a: AnnData, r: Recipe) -> Any:
    return _with_raw(a)


def _stored(r: Recipe) -> str:
    return "same" if r.streams else "either"


@_fault("cells", _stored)
def backed(a: AnnData, r: Recipe) -> Any:
    path = WHERE[0] / f"{r.id}.h5ad"
    a.write_h5ad(path)
    return anndata.read_h5ad(path, backed="r")


@_fault("counts", _stored)
def dask(a: AnnData, r: Recipe) -> Any:
    array = __import__("dask.array").array
    return _boxed(a, r, lambda x: array.from_array(x.astype(np.float32), chunks=(20, 7)))


@_fault("cells", _stored)
def read_lazily(a: AnnData, r: Recipe) -> Any:
    path = WHERE[0] / f"{r.id}.zarr"
    a.write_zarr(path)
    return anndata.experimental.read_lazy(path)


WHERE: list[Path] = []
"""The folder for files."""


# Names.


def _names(axis: str, make: Callable[[int], list[Any]]) -> Callable[..., Any]:
    def change(a: AnnData, r: Recipe) -> Any:
        frame = getattr(a, axis)
        frame.index = pd.Index(make(len(frame)))
        return a

    return change


_ODD: dict[str, Callable[[int], list[Any]]] = {
    "with slashes": lambda n: [f"a/{i}" for i in range(n)],
    "with spaces": lambda n: [f" a {i} " for i in range(n)],
    "of other scripts": lambda n: [f"細胞\u202e{i}🧬" for i in range(n)],
    "of 5,000 letters": lambda n: ["x" * 5000 + str(i) for i in range(n)],
    "one empty": lambda n: ["", *(f"a{i}" for i in range(1, n))],
    "with HTML": lambda n: [f"<b>{i}</b>&" for i in range(n)],
    "with a $": lambda n: [f"$\\frac{i}" for i in range(n)],
    "with a zero byte": lambda n: [f"a\0{i}" for i in range(n)],
}
for _name, _make in _ODD.items():
    # A name that means the same cells: AnnData keeps numbers as names, and warns.
    _fault("cells", "same", f"cell names {_name}")(_names("obs", _make))
    _fault("counts", lambda r: "same" if r.learns else "either", f"gene names {_name}")(_names("var", _make))


@_fault("cells", lambda r: "refused" if r.name == "tl.trajectory" else "same")
def cell_names_not_unique(a: AnnData, r: Recipe) -> Any:
    a.obs.index = pd.Index(["same"] * a.n_obs)
    return a


for _name, _make in {
    "integers": lambda n: list(range(3, n + 3)),
    "floats": lambda n: [i / 2 for i in range(n)],
    "dates": lambda n: list(pd.date_range("2020", periods=n)),
    "some integers": lambda n: [0, *(f"a{i}" for i in range(1, n))],
}.items():
    _fault("cells", "refused", f"cell names {_name}")(_names("obs", _make))
    _fault("cells", "refused", f"gene names {_name}")(_names("var", _make))


@_fault("cells", "refused")
def cell_names_missing(a: AnnData, r: Recipe) -> Any:
    a.obs.index = pd.Index([None, *(f"a{i}" for i in range(1, a.n_obs))], dtype=object)
    return a


@_fault("cells", "refused")
def cell_names_of_several_levels(a: AnnData, r: Recipe) -> Any:
    a.obs.index = pd.MultiIndex.from_arrays([["a"] * a.n_obs, [str(i) for i in range(a.n_obs)]])
    return a


@_fault("cells", "refused")
def gene_names_of_several_levels(a: AnnData, r: Recipe) -> Any:
    a.var.index = pd.MultiIndex.from_arrays([["a"] * a.n_vars, [str(i) for i in range(a.n_vars)]])
    return a


@_fault("counts", "refused")
def genes_duplicated(a: AnnData, r: Recipe) -> Any:
    a.var_names = [*a.var_names[:-1], a.var_names[0]]
    return a


@_fault("counts", lambda r: "accepted" if r.learns or r.alone or r.id == "tl.score-real" else "same")
def genes_permuted(a: AnnData, r: Recipe) -> Any:
    return a[:, np.random.default_rng(3).permutation(a.n_vars)].copy()


@_fault(
    "counts",
    lambda r: (
        "accepted"
        if r.learns or r.alone or r.name == "tl.augment" or r.id in ("tl.score-real", "tl.report-real")
        else "refused"
    ),
)
def genes_missing(a: AnnData, r: Recipe) -> Any:
    return a[:, 4:].copy()


@_fault("counts", lambda r: "either" if r.learns or r.alone else "refused")
def genes_of_another_species(a: AnnData, r: Recipe) -> Any:
    a.var_names = [f"mouse_{i}" for i in range(a.n_vars)]
    return a


@_fault("counts", lambda r: "refused" if r.id in ("tl.augment-adata", "tl.score-real") else "accepted")
def genes_extra(a: AnnData, r: Recipe) -> Any:
    more = a[:, :3].copy()
    more.var_names = ["x1", "x2", "x3"]
    made = anndata.concat([a, more], axis="var", merge="first", uns_merge="first")
    for key, value in a.uns.items():
        made.uns[key] = value
    return made


# The column that cells are told apart by.


def _column(change: Callable[[pd.Series[Any]], Any]) -> Callable[..., Any]:
    def make(a: AnnData, r: Recipe) -> Any:
        assert r.column is not None
        try:
            values = change(a.obs[r.column].copy())
        except (ImportError, NameError, TypeError):
            return None
        if values is None:
            return None
        a.obs[r.column] = values
        return a

    return make


def _text(s: pd.Series[Any]) -> Any:
    return s.astype(str)


def _first(value: Any) -> Callable[[pd.Series[Any]], Any]:
    def change(s: pd.Series[Any]) -> Any:
        values = list(s)
        values[3] = value
        return pd.Series(values, index=s.index, dtype=object)

    return change


def _labels_only(change: Callable[[pd.Series[Any]], Any]) -> Callable[[pd.Series[Any]], Any]:
    return lambda s: None if s.dtype.kind == "f" else change(s)


def _numbers_only(change: Callable[[pd.Series[Any]], Any]) -> Callable[[pd.Series[Any]], Any]:
    return lambda s: change(s) if s.dtype.kind == "f" else None


_SAME: dict[str, Callable[[pd.Series[Any]], Any]] = {
    "object": lambda s: s.astype(object),
    "string": _labels_only(lambda s: s.astype(str).astype("string")),
    "string[python]": _labels_only(lambda s: s.astype(str).astype("string[python]")),
    "string[pyarrow]": _labels_only(lambda s: s.astype(str).astype("string[pyarrow]")),
    "str": _labels_only(_text),
    "unused categories": _labels_only(lambda s: s.cat.add_categories(["never", "nowhere"])),
    "ordered categories": _labels_only(lambda s: s.cat.as_ordered()),
    "numpy strings": _labels_only(lambda s: pd.Series([np.str_(v) for v in s], index=s.index, dtype=object)),
    "float32": _numbers_only(lambda s: s.astype("float32")),
    "int8": _numbers_only(lambda s: s.astype("int8")),
    "uint64": _numbers_only(lambda s: s.astype("uint64")),
    "Int64": _numbers_only(lambda s: s.astype("Int64")),
    "Float64": _numbers_only(lambda s: s.astype("Float64")),
    "int64[pyarrow]": _numbers_only(lambda s: s.astype("int64[pyarrow]")),
    "big-endian": _numbers_only(lambda s: s.astype(">f8")),
    "numbers in objects": _numbers_only(lambda s: pd.Series(list(s), index=s.index, dtype=object)),
}
for _name, _change in _SAME.items():
    _sliced = ("pp.split", "tl.augment", "tl.generate") if _name == "big-endian" else ()
    _fault("column", lambda r, s=_sliced: "either" if r.name in s else "same", f"column of {_name}")(_column(_change))
for _name, _change in {
    "booleans": lambda s: pd.Series(np.arange(len(s)) % 2 == 0, index=s.index),
    "boolean": lambda s: pd.Series(np.arange(len(s)) % 2 == 0, index=s.index).astype("boolean"),
    "integers": lambda s: pd.Series(np.arange(len(s)) % 3, index=s.index),
    "integer categories": lambda s: pd.Series(np.arange(len(s)) % 3, index=s.index).astype("category"),
    "bytes": lambda s: pd.Series([str(v).encode() for v in s], index=s.index, dtype=object),
    "odd labels": lambda s: pd.Series(np.array(["a/b", " ", "細胞<b>$"])[np.arange(len(s)) % 3], index=s.index),
    "infinities": lambda s: pd.Series(np.where(np.arange(len(s)) == 3, np.inf, np.arange(len(s))), index=s.index),
    "huge numbers": lambda s: pd.Series(np.where(np.arange(len(s)) % 2, 1e308, -1e308), index=s.index),
}.items():
    _fault("column", "either", f"column of {_name}")(_column(_change))
for _name, _value in {"None": None, "nan": np.nan, "NA": pd.NA, "NaT": pd.NaT}.items():
    _fault("column", "refused", f"column with {_name}")(_column(_first(_value)))
for _name, _change in {
    "dates": lambda s: pd.Series(pd.date_range("2020", periods=len(s)), index=s.index),
    "durations": lambda s: pd.Series(pd.to_timedelta(np.arange(len(s)), unit="D"), index=s.index),
    "periods": lambda s: pd.Series(pd.period_range("2020", periods=len(s), freq="D"), index=s.index),
    "complex numbers": lambda s: pd.Series(np.arange(len(s)) * 1j, index=s.index),
    "nothing": lambda s: pd.Series([None] * len(s), index=s.index, dtype=object),
    "NaN only": lambda s: pd.Series(np.full(len(s), np.nan), index=s.index),
}.items():
    _fault("column", "refused", f"column of {_name}")(_column(_change))
for _name, _change in {
    "lists": lambda s: pd.Series([[v] for v in s], index=s.index, dtype=object),
    "mappings": lambda s: pd.Series([{"v": v} for v in s], index=s.index, dtype=object),
    "arrays": lambda s: pd.Series([np.arange(2) for _ in s], index=s.index, dtype=object),
}.items():
    _fault("column", "refused", f"column of {_name}")(_column(_change))


@_fault("column", "refused")
def column_missing(a: AnnData, r: Recipe) -> Any:
    del a.obs[r.column]
    return a


@_fault("column", "refused")
def column_misspelt(a: AnnData, r: Recipe) -> Any:
    a.obs = a.obs.rename(columns={r.column: f"{r.column}s"})
    return a


@_fault("column", "refused")
def column_twice(a: AnnData, r: Recipe) -> Any:
    a.obs = pd.concat([a.obs, a.obs[[r.column]]], axis=1)
    return a


@_fault("cells", "same")
def columns_that_are_no_text(a: AnnData, r: Recipe) -> Any:
    a.obs[5] = 1.0
    a.obs[("a", "b")] = 2.0
    return a


@_fault("column", "either")
def columns_of_several_levels(a: AnnData, r: Recipe) -> Any:
    a.obs.columns = pd.MultiIndex.from_arrays([list(a.obs.columns), ["x"] * a.obs.shape[1]])
    return a


@_fault("column", lambda r: "refused" if r.name == "tl.train" else "either")
def column_of_one_label(a: AnnData, r: Recipe) -> Any:
    value = a.obs[r.column].iloc[0]
    a.obs[r.column] = pd.Series([value] * a.n_obs, index=a.obs.index)
    return a


@_fault("column", lambda r: "refused" if r.name == "tl.train" and r.column != "day" else "either")
def column_of_barcodes(a: AnnData, r: Recipe) -> Any:
    a.obs[r.column] = [f"b{i}" for i in range(a.n_obs)]
    return a


@_fault("column", "either")
def column_with_an_unknown_label(a: AnnData, r: Recipe) -> Any:
    values = [str(v) for v in a.obs[r.column]]
    values[3] = values[3] + "x"
    a.obs[r.column] = values
    return a


# The embedding.


def _embedding(change: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    def make(a: AnnData, r: Recipe) -> Any:
        values = change(np.array(a.obsm[r.rep], dtype=np.float64))
        if isinstance(values, pd.DataFrame):
            values.index = a.obs_names
        try:
            a.obsm[r.rep] = values
        except (TypeError, ValueError):
            return None
        return a

    return make


def _put_in(value: float) -> Callable[[np.ndarray], Any]:
    def change(x: np.ndarray) -> Any:
        x[3, 1] = value
        return x

    return change


for _name, _change in {
    "float64": lambda x: x,
    "Fortran": lambda x: np.asfortranarray(x.astype(np.float32)),
    "big-endian": lambda x: x.astype(">f4"),
    "sparse": lambda x: sparse.csr_matrix(x.astype(np.float32)),
    "csc_array": lambda x: sparse.csc_array(x.astype(np.float32)),
    "DataFrame": lambda x: pd.DataFrame(x.astype(np.float32), columns=[f"d{i}" for i in range(x.shape[1])]),
    "read-only": lambda x: _read_only(x.astype(np.float32)),
}.items():
    _fault("rep", "same", f"embedding as {_name}")(_embedding(_change))
for _name, _change in {
    "NaN": _put_in(np.nan),
    "inf": _put_in(np.inf),
    "1e30": lambda x: x * 1e30,
    "1e39": lambda x: x * 1e39,
    "text": lambda x: x.astype(str),
    "objects": lambda x: x.astype(object),
    "complex": lambda x: x.astype(complex),
    "dates": lambda x: x.astype(np.int64).astype("datetime64[s]"),
    "no columns": lambda x: x[:, :0],
    "three dimensions": lambda x: x[:, :, None],
    "masked": lambda x: np.ma.MaskedArray(x, x > 1),
}.items():
    _fault("rep", "refused", f"embedding of {_name}")(_embedding(_change))
for _name, _change in {
    "float16": lambda x: x.astype(np.float16),
    "1e14": lambda x: x * 1e14,
    "zeros": lambda x: x * 0,
    "integers": lambda x: x.astype(int),
    "one column": lambda x: x[:, :1],
    "one dimension": lambda x: x[:, 0],
    "more columns": lambda x: np.hstack([x, x]),
}.items():
    _fault("rep", "either", f"embedding of {_name}")(_embedding(_change))


@_fault("rep", "refused")
def embedding_missing(a: AnnData, r: Recipe) -> Any:
    del a.obsm[r.rep]
    return a


# What is in the slots already.


@_fault("cells", lambda r: "refused" if r.name == "tl.augment" else "accepted")
def columns_named_as_slots_are(a: AnnData, r: Recipe) -> Any:
    for name in ("scflow", "scflow_growth", "scflow_cell", "scflow_time", "scflow_synthetic", "scflow_log_prob"):
        if name not in a.obs:
            a.obs[name] = "mine"
    for name in ("scflow_mean", "scflow_sd", "scflow_dropout"):
        if name not in a.var:
            a.var[name] = "mine"
    return a


def _slot(key: str, value: Any) -> Callable[..., Any]:
    def make(a: AnnData, r: Recipe) -> Any:
        a.uns[key] = value
        return a

    return make


for _name, _value in {
    "text": "mine",
    "a number": 5,
    "nothing": {},
    "a list": [1],
    "half a flow": {"config": "{}"},
    "no JSON": {"config": "mine", "tensors": {}},
}.items():
    _fault("flow", "refused", f"uns flow is {_name}")(_slot("scflow", _value))
for _name, _value in {
    "text": "mine",
    "nothing": {},
    "wrong": {"n_cells": "x", "n_genes": None},
    "without columns": {"n_cells": N, "n_genes": GENES, "clip": 10.0, "target_sum": 1e4},
    "wrong numbers": {"n_cells": N, "n_genes": GENES, "clip": "a", "target_sum": -1},
}.items():
    _fault("slots", "either", f"uns scflow_pp is {_name}")(_slot("scflow_pp", _value))
for _name, _value in {
    "text": "mine",
    "a list": [1],
    "wrong": {"perturbation": {"parts": 5}},
    "odd": {"cell_type": 3},
}.items():
    _fault("slots", "either", f"uns scflow_embed is {_name}")(_slot("scflow_embed", _value))
for _key in ("scflow_score", "scflow_steps", "scflow_transport"):
    for _name, _value in {"text": "mine", "an empty table": pd.DataFrame(), "numbers": np.ones(3)}.items():
        _fault("slots", "either", f"uns {_key} is {_name}")(_slot(_key, _value))
