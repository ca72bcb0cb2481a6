"""Flows for fewer steps, made of a trained one: straightened by reflow, or distilled to a flow map."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scflow.errors import InputError
from scflow.flow._flow import Flow
from scflow.flow._learning import drawn_to_calibrate, facts_of, sound, uncalibrated
from scflow.flow._trajectories import Teacher, Trajectories, solved_back, teacher_of, trajectories
from scflow.matching import FlowMap, FlowMatching, Preconditioned, noises, paths
from scflow.matching import guidance as guiding
from scflow.matching.distillation import Distillation, Piece, Trajectory
from scflow.matching.times import Time
from scflow.nn import Field
from scflow.training import Optimisation, Run, Trained, fit_module, fit_pairs
from scflow.training.batches import Cells, Coordinates, states_of
from scflow.training.fit import spread_of
from scflow.training.pairs import Coupled, Pair, dropped

__all__ = ["PIECES", "Fewer", "RealCells", "check_teacher", "coupled", "distilled", "reflowed"]

_Velocity = Preconditioned | FlowMap

_UNCONDITIONAL = 0.1
"""The share of conditions that are dropped, as in training: what is drawn under none keeps guidance possible."""
_PATIENCE = 1_000
"""Looks: more than there are. What a teacher draws has no noise to overfit, and the learning rate is to come down."""
PIECES = 8
"""How many a trajectory is cut into."""


@dataclass(frozen=True)
class Fewer:
    """How a flow is made of another.

    Attributes
    ----------
    n
        Pairs or trajectories to learn from.
    guidance
        What the teacher draws with.
    steps, lr
        Of the training.
    draw
        The solver's name and the steps that cells will be drawn with, and are calibrated for.
    """

    n: int
    guidance: guiding.Guidance
    steps: int
    lr: float
    draw: tuple[str, int]


@dataclass(frozen=True, eq=False)
class RealCells:
    """Cells that the flow was trained on: counts or coordinates on a device, and conditions ``[n, n_conditions]``."""

    cells: Cells | Coordinates
    condition: Tensor | None


def reflowed(
    flow: Flow, how: Fewer, time: Time, iterations: int, real: RealCells | None, share: float, run: Run
) -> Flow:
    """Train the field anew on pairs that the flow itself has coupled, as often as asked (Liu et al. 2023).

    `share` of the pairs are real cells with the noise that the flow, followed backwards, gives them. Guidance is that
    of the first round: later ones draw from a flow that has it in itself.
    """
    new = flow
    for i in range(iterations):
        turn = replace(run, seed=run.seed + i)
        guided = how if i == 0 else replace(how, guidance=guiding.Guidance())
        new = _reflowed_once(new, guided, time, real, share, turn)
        if new.provenance["interrupted"]:
            iterations = i + 1
            break
    n_real = 0 if real is None else round(share * how.n)
    facts = {"reflow_iterations": iterations, "real_pairs": n_real, "reflow_time": type(time).__name__.lower()}
    return _finished(flow, new, how, run, "reflow", facts)


def _reflowed_once(flow: Flow, how: Fewer, time: Time, real: RealCells | None, share: float, run: Run) -> Flow:
    flow = _on(flow, run.device)
    pairs = coupled(flow, how, real, share, run)
    field, path = _next_field(flow, pairs, run), paths.Linear()
    objective, mine = FlowMatching(path, time), _split(how.n, run)
    trained = fit_pairs(field, pairs, objective, mine, steps=how.steps, lr=how.lr, patience=_PATIENCE)
    return _learnt(flow, field, trained, how, run)


def coupled(flow: Flow, how: Fewer, real: RealCells | None, share: float, run: Run) -> Coupled:
    """Pairs of the flow's own: drawn cells and, in a share, real ones."""
    teacher = teacher_of(flow, how.guidance)
    n_real = 0 if real is None else round(share * how.n)
    parts = []
    if n_real < how.n:
        ways = _drawn(flow, teacher, how.n - n_real, run)
        parts.append(Pair(ways.states[:, -1], ways.states[:, 0], ways.condition))
    if real is not None and n_real:
        parts.append(_encoded(flow, teacher, real, n_real, run))
    conditions = [part.condition for part in parts if part.condition is not None]
    data, noise = torch.cat([part.data for part in parts]), torch.cat([part.noise for part in parts])
    return Coupled(data, noise, torch.cat(conditions) if conditions else None)


def _drawn(flow: Flow, teacher: Teacher, n: int, run: Run, *, pieces: int = 1) -> Trajectories:
    """Trajectories under conditions as they are in the training cells, now and then under none."""
    table = None
    if len(flow.conditions):
        table = flow.conditions.table(None, n, flow.seen, np.random.default_rng([run.seed, 21])).to(run.device)
        table = dropped(table, rate=_UNCONDITIONAL, widths=flow.conditions.widths, rng=run.generator(22))
    return trajectories(flow, teacher, table, n, run, pieces=pieces)


def _encoded(flow: Flow, teacher: Teacher, real: RealCells, n: int, run: Run) -> Pair:
    """Real cells' states, every cell about as often, the noise each comes from, and the condition it has there."""
    rng = run.generator(23)
    turns = -(-n // len(real.cells))
    rows = torch.cat([torch.randperm(len(real.cells), generator=rng, device=rng.device) for _ in range(turns)])[:n]
    source = states_of(real.cells, flow.codec, real.condition)
    with torch.no_grad():
        states = torch.cat([source.states(r, rng=rng) for r in torch.split(rows, 1024)])
    c = None if real.condition is None else real.condition[rows]
    told = dropped(c, rate=_UNCONDITIONAL, widths=flow.conditions.widths, rng=rng)
    return Pair(states, solved_back(teacher, states, told, run), told)


def _next_field(flow: Flow, pairs: Coupled, run: Run) -> Preconditioned:
    """The field to train, on the linear path; it starts with the teacher's weights."""
    if isinstance(flow.field, Preconditioned):
        field = copy.deepcopy(flow.field)
        field.path = paths.Linear()
    else:
        network, shift = copy.deepcopy(flow.field.network), copy.deepcopy(getattr(flow.field, "shift", None))
        data = pairs.data[:1024]
        left = data if shift is None or pairs.condition is None else data - shift(pairs.condition[:1024])
        spread = spread_of(left).cpu()
        field = Preconditioned(network, paths.Linear(), spread, flow.noise.sd(flow.codec.dim), shift)
    return field.requires_grad_(True).to(run.device)


def distilled(flow: Flow, how: Fewer, method: Distillation, run: Run) -> Flow:
    """Train a flow map on trajectories of the flow."""
    mine = _on(flow, run.device)
    teacher = teacher_of(mine, how.guidance)
    ways = _drawn(mine, teacher, how.n, run, pieces=PIECES)
    assert isinstance(mine.field, Preconditioned)
    network = copy.deepcopy(mine.field.network).requires_grad_(True)
    assert isinstance(network, Field)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.generator(24).initial_seed())
        network.take_two_times()
    shift = copy.deepcopy(mine.field.shift)
    flow_map = FlowMap(network, mine.field.data_variance, mine.field.noise_variance, shift).to(run.device)
    trained = _fit_map(flow_map, ways, method, teacher, how, run)
    new = _learnt(mine, flow_map, trained, how, run)
    return _finished(flow, new, how, run, "distill", {"method": type(method).__name__.lower()})


def _fit_map(
    flow_map: FlowMap, ways: Trajectories, method: Distillation, teacher: Teacher, how: Fewer, run: Run
) -> Trained:
    """Whatever the loss, the map of the best step is the one that gets nearest to where the teacher got."""
    run = _split(how.n, run)
    rng = run.generator(1)
    held = _pieces(ways, run.validation[:2048], rng=run.generator(4))

    def loss(rows: Tensor) -> Tensor:
        return method.losses(flow_map, teacher.velocity, _pieces(ways, rows, rng=rng), rng=rng).mean()

    def validate() -> float:
        return float(Trajectory().losses(flow_map, teacher.velocity, held, rng=rng).mean())

    return fit_module(flow_map, loss, validate, run, rng, steps=how.steps, lr=how.lr, patience=_PATIENCE)


def _pieces(ways: Trajectories, rows: Tensor, *, rng: torch.Generator) -> Piece:
    """A piece of each trajectory: half of them start at the noise, half end at the data."""
    n, k = len(rows), ways.times.shape[1] - 1
    u = torch.rand(4, n, generator=rng, device=rng.device)
    first = torch.where(u[0] < 0.5, 0, (u[1] * k).long())
    last = torch.where(u[2] < 0.5, k, first + 1 + (u[3] * (k - first)).long())
    c = None if ways.condition is None else ways.condition[rows]
    states, times = ways.states, ways.times
    return Piece(states[rows, first], times[rows, first], states[rows, last], times[rows, last], c)


def _on(flow: Flow, device: torch.device) -> Flow:
    """The flow with a field and a codec of its own, on a device: the caller's stay where they are."""
    return replace(
        flow, field=copy.deepcopy(flow.field).to(device).eval(), codec=copy.deepcopy(flow.codec).to(device).eval()
    )


def _split(n: int, run: Run) -> Run:
    """The run on `n` pairs, a tenth of which is looked at and not learnt from."""
    order = torch.from_numpy(np.random.default_rng([run.seed, 0]).permutation(n)).to(run.device)
    held = max(1, round(0.1 * n))
    return replace(run, train=order[held:], validation=order[:held])


def _learnt(flow: Flow, field: _Velocity, trained: Trained, how: Fewer, run: Run) -> Flow:
    """The flow with its new field, on the CPU."""
    new = replace(
        flow,
        field=field.cpu().requires_grad_(False).eval(),
        codec=flow.codec.cpu(),
        path=paths.Linear(),
        history=trained.history,
        raw=trained.raw,
        provenance={**flow.provenance, **facts_of(trained, run, Optimisation(), how.lr)},
    )
    return sound(new, trained)


def _finished(flow: Flow, new: Flow, how: Fewer, run: Run, made_by: str, facts: Mapping[str, Any]) -> Flow:
    """The new flow with where it comes from, and calibrated for how it will be drawn."""
    scale = how.guidance.weights(flow.conditions.names)
    done = int(new.history["step"].iloc[-1]) if len(new.history) else 0
    provenance = {
        **{name: value for name, value in new.provenance.items() if name != "linear_loss"},
        "made_by": made_by,
        "made_with_guidance": dict(zip(flow.conditions.names, scale)) if isinstance(scale, tuple) else scale,
        "made_with_interval": [float(t) for t in how.guidance.interval],
        "made_with_seed": run.seed,
        "pairs": how.n,
        "teacher_steps": flow.provenance.get("steps", 0),
        "steps": done,
        "steps_planned": how.steps,
        "draw_solver": how.draw[0],
        "draw_steps": how.draw[1],
        **facts,
    }
    new = replace(new, provenance=provenance)
    if scale != 1:
        # Refitting on guided cells would take back what guidance did to their marginals.
        return replace(new, calibration=None if flow.calibration is None else flow.calibration.one_by_one())
    sampling = replace(new.usual, device=run.device, seed=run.seed + 1, progress=run.progress)
    try:
        return new.recalibrated(n_drawn=drawn_to_calibrate(new.codec.dim), sampling=sampling)
    except KeyboardInterrupt:
        return uncalibrated(new)


def check_teacher(flow: Flow, verb: str) -> None:
    """Raise where a flow cannot teach another.

    Raises
    ------
    InputError
        Where it is a flow map already, or, for a map, where its path is not affine or its field not one of `scflow.nn`.
    """
    if isinstance(flow.field, FlowMap):
        raise InputError(
            f"This flow was distilled already, and {verb} needs the velocity that it was distilled from. Give the flow "
            "that scflow.tl.train returned."
        )
    if isinstance(flow.noise, noises.Population):
        raise InputError(
            f"This flow carries cells and does not start from noise, and {verb} works on pairs of noise and cells. "
            "Give it a flow that was trained from noise: scflow.tl.train(adata) without source= and course=."
        )
    if verb == "reflow":
        return
    paths.affine(flow.path, "Distilling")
    if not isinstance(flow.field.network, Field):
        raise InputError(
            f"The field of this flow is a {type(flow.field.network).__qualname__}, which takes one time; a flow map "
            "needs a field that takes two. Train with field='mlp', 'unet' or 'transformer', or use scflow.tl.reflow."
        )
