"""What `scflow.tl.train` learns: the cells, what they are conditioned on, and which of them are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scflow import _anndata
from scflow.conditions import Conditions
from scflow.errors import InputError, listed
from scflow.flow._course import Course
from scflow.flow._sourcing import Roles
from scflow.tl._recipe import split
from scflow.tl._roles import Chosen, groups_of, roles_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Populations", "Task"]


@dataclass(frozen=True)
class Populations:
    """The options of `scflow.tl.train` that say what cells are carried to what, as they were given."""

    source: Any
    target: Any
    group: Any
    course: Any

    @property
    def carried(self) -> bool:
        """Whether cells are carried at all."""
        return self.source is not None or self.course is not None


@dataclass(frozen=True, eq=False)
class Task:
    """Cells to learn from.

    Attributes
    ----------
    data
        Counts ``[n_cells, n_genes]`` or coordinates ``[n_cells, dim]``, of the cells that are learnt from alone.
    conditions, condition
        The schema, and the cells' encoded conditions ``[n_cells, n_conditions]`` or ``None``.
    rows
        Rows to learn from, and rows to look at, in random order.
    roles
        Which cells are carried to which; ``None`` for a flow from noise. Of a course, which are there when.
    facts
        What the provenance says of that.
    """

    data: Any
    conditions: Conditions
    condition: Tensor | None
    rows: tuple[Tensor, Tensor]
    roles: Roles | Course | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        adata: AnnData,
        data: Any,
        condition: str | Sequence[str] | None,
        populations: Populations,
        *,
        fraction: float,
        size: int | None,
        seed: int,
        device: torch.device,
    ) -> Task:
        """The task of an AnnData's `data`."""
        if populations.course is not None:
            return _of_course(adata, data, condition, populations, fraction, size, seed, device)
        chosen = roles_of(adata, populations.source, populations.target, populations.group)
        if chosen is not None:
            return _carrying(adata, data, condition, chosen, fraction, size, seed, device)
        frame = _anndata.read_conditions(adata, condition)
        conditions = Conditions.from_frame(frame) if frame.shape[1] else Conditions()
        encoded = conditions.encode(frame).to(device) if len(conditions) else None
        return cls(data, conditions, encoded, split(adata.n_obs, fraction, size, seed, device))

    def cells_in_words(self) -> str:
        """How many cells there are, and of which population."""
        if self.roles is None:
            return f"{self.data.shape[0]:,} cells"
        if isinstance(self.roles, Course):
            return f"{self.data.shape[0]:,} cells at {len(self.roles.times)} times"
        return f"{len(self.roles.source):,} cells carried to {len(self.roles.target):,}"


def _carrying(
    adata: AnnData,
    data: Any,
    condition: str | Sequence[str] | None,
    chosen: Chosen,
    fraction: float,
    size: int | None,
    seed: int,
    device: torch.device,
) -> Task:
    """The cells of both populations; the conditions are those of the target's."""
    used = np.flatnonzero(chosen.source | chosen.target)
    target = np.flatnonzero(chosen.target[used])
    source = np.flatnonzero(chosen.source[used])
    frame = _told(adata, condition, chosen)
    conditions = Conditions.from_frame(frame) if frame.shape[1] else Conditions()
    encoded = None
    if len(conditions):
        encoded = torch.full((len(used), len(conditions)), torch.nan)
        encoded[target] = conditions.encode(frame)
        encoded = encoded.to(device)
    codes, group = np.unique(chosen.group[used], return_inverse=True)
    to, by, of = (torch.from_numpy(rows.reshape(-1)).to(device) for rows in (target, source, group))
    facts = {**chosen.facts, "n_source": len(source), "n_target": len(target)}
    rows = _split_both((target, source), fraction, size, seed, device)
    return Task(data[used], conditions, encoded, rows, Roles(by, to, of, len(codes)), facts)


def _of_course(
    adata: AnnData,
    data: Any,
    condition: str | Sequence[str] | None,
    populations: Populations,
    fraction: float,
    size: int | None,
    seed: int,
    device: torch.device,
) -> Task:
    """The cells of all times; they are paired within equal conditions as well."""
    if populations.source is not None or populations.target is not None:
        raise InputError(
            f"course={populations.course!r} has all its times as sources and targets. Leave source and target out."
        )
    values = times_of(adata, populations.course)
    frame = _anndata.read_conditions(adata, condition)
    conditions = Conditions.from_frame(frame) if frame.shape[1] else Conditions()
    encoded = conditions.encode(frame).to(device) if len(conditions) else None
    kept = [populations.group] if isinstance(populations.group, str) else list(populations.group or ())
    labels = [name for name, k in zip(conditions.names, conditions.cardinalities, strict=True) if k]
    codes, names = groups_of(adata, [*kept, *(name for name in labels if name not in kept)])
    known, at = np.unique(values, return_inverse=True)
    _check_course(known, at.reshape(-1), codes, names)
    rows = [torch.from_numpy(np.flatnonzero(at.reshape(-1) == k)).to(device) for k in range(len(known))]
    scaled = ((known - known[0]) / (known[-1] - known[0])).tolist()
    facts = {"course": populations.course, "times": known.tolist(), "group": kept}
    course = Course(rows, scaled, torch.from_numpy(codes).to(device))
    return Task(data, conditions, encoded, split(adata.n_obs, fraction, size, seed, device), course, facts)


def times_of(adata: AnnData, course: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """When each cell is there.

    Raises
    ------
    InputError
        Where the column is not there, or holds no numbers.
    """
    if not isinstance(course, str):
        raise InputError(f"course={course!r} is not the name of a column of obs. Give one, such as course='day'.")
    column = _anndata.obs_column(adata, course)
    numbers = pd.to_numeric(column.astype(str), errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        found = pd.unique(column[wrong].astype(str)).tolist()
        raise InputError(
            f"obs[{course!r}] holds no numbers in {int(wrong.sum())} of {adata.n_obs} cells ({listed(found)}). A "
            f"course needs times: adata.obs['time'] = adata.obs[{course!r}].map({{{str(found[0])!r}: 0.0, ...}})."
        )
    return numbers


def _check_course(
    known: np.ndarray[Any, Any], at: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], names: Sequence[str]
) -> None:
    """Raise where there is but one time, hardly a cell at one, or no group is there at two that follow each other."""
    if len(known) < 2:
        raise InputError(f"All cells are of one time, {known[0]:g}. A course needs two at least.")
    sizes = np.bincount(at, minlength=len(known))
    if sizes.min() < 2:
        raise InputError(f"There is but one cell at the time {known[sizes.argmin()]:g}. Drop it, or join times.")
    for k in range(len(known) - 1):
        a, b = (set(codes[at == i].tolist()) for i in (k, k + 1))
        if a & b:
            continue
        raise InputError(
            f"No group is there at both {known[k]:g} ({listed([names[c] for c in sorted(a)])}) and {known[k + 1]:g} "
            f"({listed([names[c] for c in sorted(b)])}): no cell has a partner. Group by something that cells keep."
        )


def _told(adata: AnnData, condition: str | Sequence[str] | None, chosen: Chosen) -> pd.DataFrame:
    """What the field is told of the target cells: where they are carried to, and other conditions."""
    more = [condition] if isinstance(condition, str) else list(condition or ())
    twice = [column for column in more if column in chosen.told]
    if twice:
        raise InputError(
            f"condition names {twice[0]!r}, which target cells are told apart by already. Leave it out of condition."
        )
    return _anndata.read_conditions(adata[chosen.target], [*chosen.told, *more] or None)


def _split_both(
    populations: Sequence[np.ndarray[Any, Any]], fraction: float, size: int | None, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The same share of each population to look at; batches are of target cells, the first."""
    parts = []
    for i, rows in enumerate(populations):
        mine = torch.from_numpy(rows).to(device)
        parts.append([mine[places] for places in split(len(rows), fraction, None if i else size, seed, device)])
    rng = np.random.default_rng([seed, 3])
    train, validation = (torch.cat(rows) for rows in zip(*parts, strict=True))
    first, second = (torch.from_numpy(rng.permutation(len(rows))).to(device) for rows in (train, validation))
    return train[first], validation[second]
