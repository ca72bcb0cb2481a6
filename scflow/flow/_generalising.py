"""How long to train so that groups which were never seen carried are carried best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scflow.errors import Diverged
from scflow.matching import FlowMatching, solvers
from scflow.metrics import energy_distance
from scflow.training import Optimisation, Run
from scflow.training.bars import bar_class
from scflow.training.fit import fit_pairs
from scflow.training.groups import ByTurns

__all__ = ["FEWEST_CELLS", "FEWEST_GROUPS", "Generalised", "enough_groups", "generalised"]

FEWEST_GROUPS, FEWEST_CELLS = 3, 20
_MOST_CELLS, _STEPS = 500, 8
_COLUMN = "held_out"


@dataclass(frozen=True, eq=False)
class Generalised:
    """What groups that were held out say of the number of steps.

    Attributes
    ----------
    steps
        Steps of training, from 0: the mean displacement of all groups alone.
    energy
        Energy distance of the carried cells of groups that were not learnt from to those groups' target cells, averaged
        over groups.
    n_groups
        How many groups were held out, each in turn.
    """

    steps: NDArray[np.int64]
    energy: NDArray[np.float64]
    n_groups: int

    @property
    def best(self) -> int:
        """The number of steps with the lowest distance, at least one."""
        return max(1, int(self.steps[self.energy.argmin()]))


def enough_groups(source: Tensor, target: Tensor) -> Tensor:
    """The groups that can be held out, from the cells that each has in both populations, ``[n_groups]``."""
    return ((source >= FEWEST_CELLS) & (target >= FEWEST_CELLS)).nonzero()[:, 0]


def generalised(
    start: Callable[[ByTurns], nn.Module],
    turns: ByTurns,
    held_out: Tensor,
    objective: FlowMatching,
    run: Run,
    *,
    steps: int,
    lr: float,
    optimisation: Optimisation,
) -> Generalised:
    """Train without each group of `held_out` in turn, and look on the way at how its cells are carried.

    Held-out cells of groups that are learnt from would say otherwise: for them more steps are better for long, while
    those of other groups get worse.

    Parameters
    ----------
    start
        The field at its start, scaled by the pairs of the groups that take part.
    """
    # Looks alone decide, so one validation cell will do.
    alone = replace(run, progress=False, callbacks=(), checkpoints=None, validation=run.validation[:1])
    curves, at = [], np.zeros(0, dtype=np.int64)
    for code in bar_class()(held_out.tolist(), desc="groups held out", disable=None if run.progress else True):
        others = replace(turns, codes=turns.codes[turns.codes != code])
        field = start(others)
        look = _look(turns, code, run)
        with torch.no_grad():
            first = run.workers.told(look(field)[_COLUMN])
        trained = fit_pairs(
            field,
            others,
            objective,
            alone,
            steps=steps,
            lr=lr,
            optimisation=optimisation,
            look=look,
            look_columns=(_COLUMN,),
            patience=steps,
        )
        if trained.diverged:
            raise Diverged(trained.diverged, trained.history)
        if trained.interrupted:
            raise KeyboardInterrupt("Groups were still being held out: there is no flow yet that could be kept.")
        at = np.array([0, *trained.history["step"]], dtype=np.int64)
        curves.append([first, *trained.history[_COLUMN]])
    return Generalised(at, np.mean(curves, axis=0), len(curves))


def _look(turns: ByTurns, code: int, run: Run) -> Callable[[Callable[..., Tensor]], dict[str, float]]:
    """What carries a group's source cells, the same at every look, and compares them with its target cells."""
    rng = run.generator(5)
    rows = turns.targets.within(code)
    own = turns.pairs.fixed(rows[torch.randperm(len(rows), generator=rng, device=rng.device)[:_MOST_CELLS]], rng=rng)
    there = own.data.cpu().numpy()

    def look(field: Callable[..., Tensor]) -> dict[str, float]:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return field(x, t.expand(len(x)), own.condition)

        carried = solvers.Midpoint().integrate(velocity, own.noise, solvers.grid(_STEPS).to(own.noise.device))
        return {_COLUMN: energy_distance(carried.cpu().numpy(), there, interval=False).value}

    return look
