"""Cells of one draw, calibrated together: balanced against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow.codecs import Calibration
from scflow.codecs.calibration import group_codes
from scflow.conditions import Conditions

if TYPE_CHECKING:
    from scflow.flow._flow import Flow
    from scflow.flow._sampling import Sampling

__all__ = ["CALIBRATIONS", "Balance", "at_a_time", "groups_of"]

CALIBRATIONS = ("balanced", "independent", "none")
"""How counts are calibrated when they are drawn: see :class:`scflow.flow.Sampling`."""

_FEWEST, _WIDEST = 1024, 8_000_000
"""Cells, and numbers (cells x genes), that are drawn and balanced at a time: 32 MB of ranks."""


@dataclass(frozen=True, eq=False)
class Balance:
    """The calibration of a draw, whose cells are balanced within their groups.

    Marginals that were estimated on N cells have those cells' sampling error, and cells that are drawn from them one by
    one have their own on top. Together that is more than new real cells have, and a forest of 2,000 genes sees it.
    Balanced cells (:func:`scflow.codecs.calibration.evened`) have no more than new real ones.

    Attributes
    ----------
    calibration
        The flow's.
    groups
        Codes of all cells of the draw, int64 ``[n]``, or ``None`` for a flow without groups.
    in_all
        See :meth:`scflow.codecs.Calibration.counted`.
    device
        Where it is computed.
    """

    calibration: Calibration
    groups: Tensor | None
    in_all: Tensor
    device: torch.device

    @classmethod
    def of(cls, flow: Flow, n: int, condition: Tensor | None, sampling: Sampling) -> Balance | None:
        """For a draw of `n` cells; ``None`` where cells are to be calibrated one by one, or not at all.

        Balance takes what deviates from the calibrated law for the luck of the draw. Where guidance is not 1, or cells
        of a group have continuous conditions, they deviate because they are meant to, and are left alone.
        """
        calibration, n_labels = flow.calibration, flow.conditions.n_labels
        if calibration is None or sampling.ranks or sampling.calibration != "balanced":
            return None
        if sampling.guided.weights(flow.conditions.names) != 1 or not all(n_labels):
            return None
        if len(calibration.groups):
            groups = groups_of(flow.conditions, condition, n).cpu()
            return cls(calibration, groups, calibration.counted(groups, n), sampling.device)
        # Without maps for its groups, a law is calibrated as a whole: nothing is known of a part of it.
        return cls(calibration, None, calibration.counted(None, n), sampling.device) if not n_labels else None

    def __call__(self, ranks: NDArray[np.int32], first: int, *, rng: torch.Generator) -> NDArray[np.int32]:
        """Counts of a block, the cells from `first` on, from their ranks ``[n, n_genes]``."""
        groups = None if self.groups is None else self.groups[first : first + len(ranks)].to(self.device)
        x = self.calibration(torch.from_numpy(ranks).to(self.device), groups, rng=rng, in_all=self.in_all)
        counts: NDArray[np.int32] = x.cpu().numpy().astype(np.int32)
        return counts


def at_a_time(width: int, tile: int) -> int:
    """Cells of `width` genes at a time, in whole tiles. Balanced counts depend on it, so no batch size changes it."""
    return max(_FEWEST, _WIDEST // width) // tile * tile


def groups_of(conditions: Conditions, condition: Tensor | None, n: int) -> Tensor:
    """The group that each cell is calibrated with, int64 ``[n]``; -1 for a label that no training cell had, or none."""
    labels = None if condition is None else conditions.labels(condition)
    return group_codes(labels, conditions.n_labels, n)
