"""Cells on the way from one cell to another, or from one type to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow import _anndata, _keys
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.flow._between import End, Line, drawn_noise
from scflow.matching import guidance as guiding
from scflow.matching import solvers
from scflow.tl._following import cells_of, check_noise, codes_of, flow_of, sampling_of, solver_facts
from scflow.tl._options import half_the_cores, whole

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["interpolate"]

_EVALUATIONS = 64


def interpolate(
    flow_or_adata: Flow | AnnData,
    a: AnnData | Mapping[str, Any],
    b: AnnData | Mapping[str, Any],
    *,
    n: int = 11,
    n_pairs: int | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    layer: str | None = None,
    solver: str | solvers.Solver = "rk4",
    steps: int | str = "auto",
    batch_size: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
) -> AnnData:
    """Draw cells along ways that begin at `a` and end at `b`: cells, or conditions such as types.

    Every cell of a way is one that the flow can draw. Cells are followed back to their noise, and noises are
    interpolated on a sphere, so that what is between two of them is as normal as they are: where a straight line
    between two states would leave the cells, the way stays among them. Where categories differ, one
    end's velocity goes over into the other's: at the share s of the way it is ``(1 - s) v_a + s v_b``, which leans to
    states that are likely under both; in count space the categories' effects on counts go over likewise. Numbers, such
    as a dose, are interpolated themselves. It is a way that the model has, and none that cells need take: no time, no
    lineage.

    Parameters
    ----------
    flow_or_adata
        A flow, or an AnnData that :func:`scflow.tl.train` left one in.
    a, b
        Real cells, an AnnData with rows that go together one by one (a single one goes with all of the other end),
        whose conditions are read from `.obs`; or conditions, a mapping such as ``{"cell_type": "B"}``. Between two
        mappings one noise is drawn a way, and only the conditions change. With cells at one end and a mapping at the
        other, the cells keep their noise, and their conditions change to those of the mapping. What only one mapping
        names, or the cells have, holds at both ends; what none names is drawn as it occurs with what is.
    n
        Cells a way, both ends among them; at least 2.
    n_pairs
        Ways between two mappings, 1 unless given. Between cells there are as many as cells.
    guidance
        As in :func:`scflow.tl.generate`.
    layer
        Where the cells' counts are; where they were in training unless given.
    solver, steps
        As in :func:`scflow.tl.generate`; ``"auto"`` takes 64 evaluations of the field each way, 16 steps of RK4.
    batch_size
        Cells computed at once on a GPU; ``"auto"`` is 4096.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of all random numbers of this call. The global random state is not touched.
    progress
        Show progress bars.
    key_added
        The slot of an AnnData that the flow is in.

    Returns
    -------
    AnnData
        Cells in the form of :func:`scflow.tl.generate`, one way after the other. `.obs["scflow_position"]` is where on
        the way a cell is, from 0 at `a` to 1 at `b`, and `.obs["scflow_pair"]` which way it is on; a category that
        differs between the ends is missing in between. `.obsm["X_scflow"]` at both ends is the cells' own state, up to
        the solver's error. Counts are drawn around the states, at every position anew: a real cell's own counts do not
        come back. They are calibrated cell by cell where every way stays within its categories, and otherwise as the
        flow draws them (``calibration`` in the provenance).

    Raises
    ------
    InputError
        Where the flow starts from cells and not from noise; where `a` or `b` is something else, or they are of
        different lengths; where genes or conditions are missing, or a category is unknown.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, condition="cell_type", steps=20, progress=False)
    >>> way = scflow.tl.interpolate(flow, {"cell_type": "type_0"}, {"cell_type": "type_1"}, n=5, progress=False)
    >>> way.obs["scflow_position"].tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    flow = flow_or_adata if isinstance(flow_or_adata, Flow) else flow_of(None, flow_or_adata, key_added)
    check_noise(flow)
    number = whole(n, "n", least=2)
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "seed": seed, "progress": progress}
    sampling = sampling_of(flow, solver=solver, steps=steps, evaluations=_EVALUATIONS, guidance=guidance, **options)
    sides = [_side(flow, side, layer, name) for side, name in ((a, "a"), (b, "b"))]
    pairs = _pairs(sides, n_pairs)
    tables = _tables(flow, sides[0], sides[1], pairs, sampling.seed)
    with half_the_cores():
        noises = _noises(flow, sides, tables[0], pairs, sampling)
        ends = [End(noise, table) for noise, table in zip(noises, tables, strict=True)]
        line = flow.between(ends[0], ends[1], np.linspace(0, 1, number), sampling)
    between = "cells" if all(side.is_cells for side in sides) else "conditions"
    return _cells(flow, line, sampling, between, [side.named for side in sides])


@dataclass(frozen=True, eq=False)
class _Side:
    """One end as it was given: cells and their encoded conditions, or the conditions asked for; `named` is either."""

    cells: sparse.csr_matrix | NDArray[np.float32] | None
    codes: Tensor | None
    asked: Mapping[str, Any]
    named: Mapping[str, Any]

    @property
    def is_cells(self) -> bool:
        return self.cells is not None

    def __len__(self) -> int:
        return 0 if self.cells is None else int(self.cells.shape[0])


def _side(flow: Flow, side: AnnData | Mapping[str, Any], layer: str | None, name: str) -> _Side:
    """Cells or conditions, checked."""
    if not isinstance(side, Mapping):
        such = "an AnnData of cells or a mapping of conditions such as {'cell_type': 'B'}"
        if not hasattr(side, "obs_names"):
            raise InputError(f"{name} is a {type(side).__name__}; expected {such}.")
        _anndata.checked(side, name=name)
        codes, named = codes_of(flow, side, name=name), {one: list(side.obs[one]) for one in flow.conditions.names}
        return _Side(cells_of(flow, side, layer, name=name), codes, {}, named)
    if not side:
        raise InputError(f"{name}={{}} names no condition. Name one, such as {name}={{'cell_type': 'B'}}.")
    return _Side(None, None, side, side)


def _pairs(sides: list[_Side], n_pairs: int | None) -> int:
    """How many ways there are."""
    given = None if n_pairs is None else whole(n_pairs, "n_pairs")
    lengths = [len(side) for side in sides if side.is_cells]
    if not lengths:
        return given or 1
    most = max(lengths)
    if any(length not in (1, most) for length in lengths):
        raise InputError(
            f"a has {lengths[0]} cells and b has {lengths[1]}: each cell of the one goes with one of the other. Give "
            "as many, or a single one."
        )
    if given not in (None, most):
        raise InputError(f"n_pairs={given}, but there are cells for {most} ways. Leave n_pairs out.")
    return most


def _tables(flow: Flow, one: _Side, other: _Side, pairs: int, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """Both ends' encoded conditions `[n_pairs, n_conditions]`."""
    if one.is_cells and other.is_cells:
        return _as_many(one.codes, pairs), _as_many(other.codes, pairs)
    if one.is_cells:
        return _as_many(one.codes, pairs), _changed(flow, one.codes, other.asked, pairs)
    if other.is_cells:
        return _changed(flow, other.codes, one.asked, pairs), _as_many(other.codes, pairs)
    rng = np.random.default_rng([seed, 1])
    table = flow.conditions.table({**other.asked, **one.asked}, pairs, flow.seen, rng)
    return table, _changed(flow, table, other.asked, pairs)


def _as_many(codes: Tensor | None, pairs: int) -> Tensor | None:
    return None if codes is None else codes.expand(pairs, -1)


def _changed(flow: Flow, codes: Tensor | None, asked: Mapping[str, Any], pairs: int) -> Tensor | None:
    """The conditions, with those that are asked for in their place."""
    table = flow.conditions.table(asked, pairs, flow.seen, np.random.default_rng(0))
    if codes is None:
        return None
    whose = np.repeat(flow.conditions.names, flow.conditions.widths)
    return torch.where(torch.from_numpy(np.isin(whose, list(asked))), table, codes.expand(pairs, -1))


def _noises(
    flow: Flow, sides: list[_Side], condition: Tensor | None, pairs: int, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Both ends' noise `[n_pairs, dim]`: that of the cells, or one for both."""
    codes = [None if side.cells is None else flow.encode(side.cells, side.codes, sampling) for side in sides]
    found = [torch.from_numpy(code.noise).expand(pairs, -1) for code in codes if code is not None]
    if not found:
        found = [drawn_noise(flow, pairs, condition, sampling)]
    return found[0], found[-1]


def _cells(flow: Flow, line: Line, sampling: Sampling, between: str, named: Sequence[Mapping[str, Any]]) -> AnnData:
    """The cells of all ways as an AnnData."""
    obs = pd.DataFrame(index=range(len(line.pair)))
    if line.condition is not None:
        obs = flow.conditions.decode(line.condition, *named)
    obs[_keys.POSITION], obs[_keys.PAIR] = line.position, line.pair
    scales = sampling.guided.weights(flow.conditions.names)
    return _anndata.new_cells(
        line.counts,
        genes=flow.genes,
        obs=obs,
        state=line.state,
        noise=line.noise,
        target_sum=float(flow.provenance.get("target_sum", 1e4)),
        provenance={
            **flow.provenance,
            "condition": list(flow.conditions.names),
            "between": between,
            "guidance": dict(zip(flow.conditions.names, scales)) if isinstance(scales, tuple) else scales,
            "guidance_interval": [float(t) for t in sampling.guided.interval],
            **solver_facts(sampling),
            "generate_seed": sampling.seed,
            "weights": sampling.weights,
            "calibration": "independent" if line.calibrated else "none",
        },
    )
