"""What `scflow.tl.train` learns: the cells, what they are conditioned on, and which of them are looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scflow import _anndata
from scflow.conditions import Conditions, Parts
from scflow.errors import InputError, names_of
from scflow.flow._ancestry import Stages
from scflow.flow._sourcing import Roles
from scflow.matching import couplings
from scflow.matching.names import COUPLINGS, named
from scflow.tl._course import course_of, split_points
from scflow.tl._recipe import split
from scflow.tl._roles import Chosen, roles_of
from scflow.training.stored import Stored

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """Cells to learn from.

    Attributes
    ----------
    data
        Counts ``[n_cells, n_genes]`` or coordinates ``[n_cells, dim]``, of the cells that are learnt from alone; or
        where counts are that are not in memory.
    conditions, condition
        The schema, and the cells' encoded conditions ``[n_cells, n_conditions]`` or ``None``.
    rows
        Rows to learn from, and rows to look at, in random order.
    roles
        Which cells are carried to which; ``None`` for a flow from noise.
    stages
        When cells are, for a flow through a time course.
    facts
        What the provenance says of that.
    """

    data: Any
    conditions: Conditions
    condition: Tensor | None
    rows: tuple[Tensor, Tensor]
    roles: Roles | None = None
    stages: Stages | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        adata: AnnData,
        data: Any,
        condition: str | Sequence[str] | None,
        populations: tuple[Any, Any, Any],
        course: tuple[str, couplings.Unbalanced | couplings.Entropic] | None,
        *,
        key_added: str,
        fraction: float,
        size: int | None,
        seed: int,
        device: torch.device,
    ) -> Task:
        """The task of an AnnData's `data`.

        `populations` are the options source, target and group, and `course` has that option and how its time points are
        coupled.
        """
        if course is not None:
            return _course(adata, data, *course, populations[2], fraction, size, seed, device)
        chosen = roles_of(adata, *populations)
        parts = _anndata.read_parts(adata, key_added)
        if chosen is not None:
            return _carrying(adata, data, condition, chosen, parts, fraction, size, seed, device)
        frame = _anndata.read_conditions(adata, condition)
        conditions = Conditions.from_frame(frame, parts) if frame.shape[1] else Conditions()
        encoded = conditions.encode(frame).to(device) if len(conditions) else None
        return cls(data, conditions, encoded, split(adata.n_obs, fraction, size, seed, device))

    @property
    def belonging(self) -> dict[str, Tensor]:
        """Which cells belong to which population, time point and group, by name, for those that go on with a run."""
        if self.stages is not None:
            return {"time points of the cells": self.stages.point, "groups of the cells": self.stages.group}
        if self.roles is not None:
            return {"source cells": self.roles.source, "groups of the cells": self.roles.group}
        return {}

    @property
    def n_intervals(self) -> int:
        """How many intervals a batch is dealt to: those of a course, or one."""
        return 1 if self.stages is None else self.stages.n_points - 1

    def cells_in_words(self) -> str:
        """How many cells there are, and of which population."""
        if self.stages is not None:
            return f"{self.data.shape[0]:,} cells of {self.stages.n_points} time points"
        if self.roles is None:
            here = f", {len(self.data.rows):,} of them in memory" if isinstance(self.data, Stored) else ""
            return f"{self.data.shape[0]:,} cells{here}"
        return f"{len(self.roles.source):,} cells carried to {len(self.roles.target):,}"


def _course(
    adata: AnnData,
    data: Any,
    column: str,
    coupling: couplings.Unbalanced | couplings.Entropic,
    group: str | Sequence[str] | None,
    fraction: float,
    size: int | None,
    seed: int,
    device: torch.device,
) -> Task:
    """The cells of all time points."""
    course, point, codes = course_of(adata, column, group)
    later = int((point > 0).sum())
    if size is not None and size > later:
        raise InputError(
            f"batch_size={size} is more than the {later} cells after the first time point, which are what a course is "
            "learnt from. Use batch_size='auto'."
        )
    train, validation = (torch.from_numpy(rows).to(device) for rows in split_points(point, fraction, seed))
    when, of = (torch.from_numpy(values).to(device) for values in (point, codes))
    reach = coupling.reach if isinstance(coupling, couplings.Unbalanced) else math.inf
    stages = Stages(when, of, len(course.times), len(course.groups), coupling.epsilon, reach)
    plan = named(coupling, COUPLINGS)
    facts = {"course": course.to_json(), "plan": plan, "n_by_time": np.bincount(point).tolist()}
    return Task(data, Conditions(), None, (train, validation), stages=stages, facts=facts)


def _carrying(
    adata: AnnData,
    data: Any,
    condition: str | Sequence[str] | None,
    chosen: Chosen,
    parts: Mapping[str, Parts],
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
    conditions = Conditions.from_frame(frame, parts) if frame.shape[1] else Conditions()
    encoded = None
    if len(conditions):
        encoded = torch.full((len(used), sum(conditions.widths)), torch.nan)
        encoded[source] = conditions.known(adata.obs[chosen.source])
        encoded[target] = conditions.encode(frame)
        encoded = encoded.to(device)
    codes, group = np.unique(chosen.group[used], return_inverse=True)
    to, by, of = (torch.from_numpy(rows.reshape(-1)).to(device) for rows in (target, source, group))
    facts = {**chosen.facts, "n_source": len(source), "n_target": len(target)}
    rows = _split_both((target, source), fraction, size, seed, device)
    return Task(data[used], conditions, encoded, rows, Roles(by, to, of, len(codes)), facts=facts)


def _told(adata: AnnData, condition: str | Sequence[str] | None, chosen: Chosen) -> pd.DataFrame:
    """What the field is told of the target cells: where they are carried to, and other conditions."""
    more = names_of(condition, "condition")
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
