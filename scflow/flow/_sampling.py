"""Drawing cells: noise, the solver, the codec's way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.errors import InputError
from scflow.flow._balance import Balance, at_a_time, groups_of
from scflow.matching import FlowMap, Rerouted, paths, solvers
from scflow.matching import guidance as guiding
from scflow.matching.objective import Velocity
from scflow.training.bars import bar_class
from scflow.training.run import autocast
from scflow.training.workers import ALONE, Workers

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["TILE", "Drawn", "Sampling", "along", "blocks", "decoded", "draw", "generator", "joined", "moved"]

TILE = 256
"""Cells whose random numbers come from one generator. On a CPU a tile is also computed as one, always whole, so that
a cell's bits depend on the seed and its place alone."""


@dataclass(frozen=True)
class Sampling:
    """How cells are drawn.

    Attributes
    ----------
    guidance
        A weight, weights by the conditions' names, or a :class:`scflow.matching.guidance.Guidance`.
    solver, steps, shift
        The method, how many steps it takes from noise to data, and their shift (:func:`scflow.matching.solvers.grid`).
    path
        The path to draw along, where it is not the flow's own: see :class:`scflow.matching.Rerouted`.
    batch_size
        Cells computed at once on a GPU.
    device, seed
        Where, and from which random numbers.
    ranks
        Give whole numbers that rank cells (see `Codec.rank`) in the place of counts, without calibration.
    calibration
        What becomes of the flow's calibration, where it has one. ``"independent"``: it is applied to each cell by
        itself. ``"balanced"``: and the cells of the draw are balanced against each other
        (:class:`scflow.flow._balance.Balance`). ``"none"``: it is left out.
    progress
        Show a progress bar.
    weights
        Draw with the field's averaged weights, ``"average"``, or with those of the best step itself, ``"raw"``.
    workers
        The processes that draw a block of cells each in turn.
    precision
        In which the field multiplies matrices. The solver and the way back to counts are in float32 always.

    Examples
    --------
    >>> sampling = Sampling(guidance=1.5, solver=solvers.RK4(), steps=6, seed=1)
    >>> flow.draw(5, None, sampling).evaluations
    24.0
    """

    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0
    solver: solvers.Solver = field(default_factory=solvers.Midpoint)
    steps: int = 12
    shift: float = 1.0
    path: paths.Affine | None = None
    batch_size: int = 4096
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    ranks: bool = False
    calibration: str = "balanced"
    progress: bool = False
    weights: str = "average"
    workers: Workers = ALONE
    precision: str = "float32"

    @property
    def guided(self) -> guiding.Guidance:
        """The guidance as an object."""
        return guiding.Guidance.of(self.guidance)

    def around(self, flow: Flow) -> Velocity:
        """The flow's field, guided, in the precision that was asked for."""
        field = self.guided.around(flow.field, flow.conditions.names, flow.conditions.widths)
        return field if self.precision == "float32" else Mixed(field, self.device, self.precision)

    @contextmanager
    def keeping(self, flow: Flow) -> Iterator[None]:
        """While this lasts, weights are cast to another precision once, and not at each evaluation."""
        if self.precision == "float32":
            yield
            return
        # Autocast keeps casts of weights alone that could have a gradient.
        weights = [p for p in flow.field.parameters() if not p.requires_grad]
        try:
            for p in weights:
                p.requires_grad_(True)
            with torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            for p in weights:
                p.requires_grad_(False)


@dataclass(frozen=True)
class Mixed:
    """A field that multiplies matrices in another precision than float32, in which its velocities are still.

    Attributes
    ----------
    field, device, precision
        Which field, and what :func:`scflow.training.run.autocast` is told.
    """

    field: Velocity
    device: torch.device
    precision: str

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity at the states `x` ``[n, ...]``, times `t` ``[n]`` and `condition` ``[n, n_columns]``."""
        with autocast(self.device, self.precision):
            return self.field(x, t, condition).float()


@dataclass(frozen=True, eq=False)
class Drawn:
    """Cells as arrays.

    Attributes
    ----------
    counts
        Whole numbers ``[n, n_genes]``, int32 (``None`` for a flow in an embedding).
    state, noise
        Where the flow ended and started, float32 ``[n, dim]``; in an embedding `state` is in the user's units.
    condition
        Encoded conditions ``[n, n_conditions]``, or ``None``.
    evaluations
        How often the solver evaluated the velocity for a cell, on average.

    Examples
    --------
    >>> drawn = flow.draw(5)
    >>> drawn.counts.dtype, drawn.noise.shape == drawn.state.shape
    (dtype('int32'), True)
    """

    counts: sparse.csr_matrix | None
    state: NDArray[np.float32]
    noise: NDArray[np.float32]
    condition: Tensor | None
    evaluations: float = 0.0

    def bare(self) -> Drawn:
        """What is small of the cells: no counts, and states of no width."""
        return replace(self, counts=None, state=self.state[:, :0].copy(), noise=self.noise[:, :0].copy())


def draw(flow: Flow, n: int, condition: Tensor | None, sampling: Sampling) -> Drawn:
    """Draw cells, one for each row of `condition`."""
    return joined(list(blocks(flow, n, condition, sampling)))


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The cells of all parts, in order."""
    counts = [part.counts for part in parts if part.counts is not None]
    told = [part.condition for part in parts if part.condition is not None]
    sizes = [len(part.state) for part in parts]
    return Drawn(
        sparse.csr_matrix(sparse.vstack(counts, format="csr")) if counts else None,
        np.concatenate([part.state for part in parts]),
        np.concatenate([part.noise for part in parts]),
        torch.cat(told) if told else None,
        sum(part.evaluations * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes),
    )


def blocks(
    flow: Flow, n: int, condition: Tensor | None, sampling: Sampling, *, everywhere: bool = True
) -> Iterator[Drawn]:
    """Draw cells, one for each row of `condition`, in blocks whose size does not grow with `n`.

    Of several processes all get all blocks; the first one alone, unless they are wanted `everywhere`.

    Raises
    ------
    InputError
        Before the first block is asked for, where the solver takes whole steps and the flow cannot.
    """
    _check_jumps(flow, sampling)
    return _blocks(flow, n, condition, sampling, everywhere)


def _blocks(flow: Flow, n: int, condition: Tensor | None, sampling: Sampling, everywhere: bool) -> Iterator[Drawn]:
    # A solver that chooses its steps couples the cells of a batch: a tile is always a batch of its own.
    alone = sampling.device.type == "cpu" or sampling.solver.adaptive
    per_batch = TILE if alone else max(1, sampling.batch_size // TILE) * TILE
    silent, workers = None if sampling.progress else True, sampling.workers
    with moved(flow, sampling.device), bar_class()(total=n, desc="cells", unit="cell", disable=silent) as bar:
        balance = Balance.of(flow, n, condition, sampling)
        size = at_a_time(len(flow.genes) or flow.codec.dim, TILE)
        # Cells that are calibrated one by one are the same in any block: whole batches, there.
        if balance is None:
            share = -(-n // per_batch // workers.size) if workers.size > 1 else size
            size = max(1, min(size // per_batch, share)) * per_batch
        spans = [range(begin, min(n, begin + size), per_batch) for begin in range(0, n, size)]
        done = bar.update if workers.size == 1 else _unseen
        tasks = [partial(_block, flow, n, span, condition, sampling, balance, done) for span in spans]
        for block in workers.dealt(tasks, everywhere=everywhere):
            if workers.size > 1:
                bar.update(len(block.state))
            yield block


def _unseen(n: int) -> None:
    """Cells that are counted once they have come."""


@contextmanager
def moved(flow: Flow, device: torch.device) -> Iterator[None]:
    """The flow's modules on a device while this lasts, ready to be evaluated, and on the CPU afterwards."""
    modules = [flow.field, flow.codec, *([flow.calibration] if flow.calibration is not None else [])]
    try:
        for module in modules:
            module.to(device).eval()
        yield
    finally:
        for module in modules:
            module.to("cpu")


@torch.no_grad()  # not around a yield: it would hold for whoever takes the blocks
def _block(
    flow: Flow,
    n: int,
    span: range,
    condition: Tensor | None,
    sampling: Sampling,
    balance: Balance | None,
    done: Callable[[int], object],
) -> Drawn:
    """The cells of `span`, computed in steps of it, and calibrated together where they are balanced."""
    how = sampling if balance is None else replace(sampling, ranks=True)
    parts = []
    with sampling.keeping(flow):
        for first in span:
            parts.append(_batch(flow, n, first, min(span.stop, first + span.step), condition, how))
            done(len(parts[-1][1]))
    values, states, starts = (np.concatenate(each) for each in list(zip(*parts))[:3])
    counts = None
    if flow.codec.has_counts:
        rng = generator(sampling, span.start // TILE, 2)
        counts = sparse.csr_matrix(values if balance is None else balance(values, span.start, rng=rng))
    told = None if condition is None else condition[span.start : span.stop]
    evaluations = sum(calls * len(state) for _, state, _, calls in parts) / len(states)
    return Drawn(counts, states, starts, told, evaluations)


def _batch(
    flow: Flow, n: int, first: int, last: int, condition: Tensor | None, sampling: Sampling
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], int]:
    """The cells from `first` to `last`, and how many evaluations they took: whole tiles are computed, and cut."""
    device, dim = sampling.device, flow.codec.dim
    numbers, kept = range(first // TILE, -(-last // TILE)), last - first
    rows = torch.arange(first, first + TILE * len(numbers)).clamp_max(n - 1)
    c = None if condition is None else condition[rows].to(device)
    conditions = [None] * len(numbers) if c is None else torch.split(c, TILE)
    each = zip(numbers, conditions, strict=True)
    noise = torch.cat([flow.noise.sample_given(k, TILE, dim, rng=generator(sampling, i, 0)) for i, k in each])
    field, begin, scale = along(sampling.around(flow), flow.path, sampling.path)
    calls = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return field(x, t.expand(len(x), *t.shape), c)

    times = solvers.grid(sampling.steps, start=begin, shift=sampling.shift).to(device)
    state = sampling.solver.integrate(velocity, noise * scale, times)
    tiles_of = zip(numbers, torch.split(state, TILE), conditions, strict=True)
    x = _finite(lambda: torch.cat([decoded(flow, s, k, sampling, tile) for tile, s, k in tiles_of])[:kept].cpu(), state)
    start = noise[:kept].cpu().numpy()
    if not flow.codec.has_counts:
        return np.empty((kept, 0), np.int32), x, start, calls
    return x.astype(np.int32), state[:kept].cpu().numpy(), start, calls


def _finite(decode: Callable[[], Tensor], state: Tensor) -> NDArray[np.float32]:
    """What is decoded from states; an error where they, or what they expect, are beyond all numbers.

    Raises
    ------
    InputError
        It names what leads there: guidance, weights that are no trained ones.
    """
    bad = len(state) - int(state.isfinite().flatten(1).all(1).sum())
    try:
        x = None if bad else decode()
    except RuntimeError as error:
        if "Poisson" not in str(error):
            raise
        x = None
    if x is None or not bool(x.isfinite().all()):
        raise InputError(
            f"{bad or 'Some'} of {len(state)} cells were drawn to infinity or NaN. Is guidance= large, or are the "
            "flow's weights no trained ones? Use guidance=1, or train anew."
        )
    values: NDArray[np.float32] = x.numpy()
    return values


def _check_jumps(flow: Flow, sampling: Sampling) -> None:
    """Raise where whole steps are asked of a flow that knows no map, or of a map that cannot take them so."""
    if not sampling.solver.jumps:
        return
    if not isinstance(flow.field, FlowMap):
        raise InputError(
            "solver='jump' takes the steps of a flow map, and this flow has a velocity alone. Distil it first: "
            "scflow.tl.distill(flow), or use solver='midpoint'."
        )
    scale = sampling.guided.weights(flow.conditions.names)
    if any(w != 1 for w in (scale if isinstance(scale, tuple) else (scale,))):
        raise InputError(
            f"guidance={scale} cannot be had from solver='jump': guidance acts on velocities, and a jump has none. "
            "Distil with it, scflow.tl.distill(teacher, guidance=2.0), or use solver='midpoint'."
        )
    if sampling.path is not None and sampling.path != flow.path:
        raise InputError(
            f"solver='jump' goes along the path that its map was made for, {type(flow.path).__name__}. Leave path=None."
        )


def along(field: Velocity, own: paths.Path, path: paths.Affine | None) -> tuple[Velocity, float, float]:
    """The field along the path that was asked for, the time to start from, and the scale of the noise there."""
    if path is None or path == own:
        return field, own.end, 1.0
    along = Rerouted(field, paths.affine(own, "Drawing along another path"), path)
    return along, along.start, along.scale


def decoded(flow: Flow, state: Tensor, condition: Tensor | None, sampling: Sampling, tile: int) -> Tensor:
    """Counts, calibrated where the flow is; or ranks, where they are asked for; or a user's own coordinates."""
    rng = generator(sampling, tile, 1)
    if sampling.ranks:
        return flow.codec.rank(state, condition, rng=rng)
    if flow.calibration is None or sampling.calibration == "none":
        return flow.codec.decode(state, condition, rng=rng)
    groups = groups_of(flow.conditions, condition, len(state)).to(state.device)
    ranks = flow.codec.rank(state, condition, rng=rng)
    # Numbers of its own: how many the ranks used up depends on the cells that come after these.
    counts: Tensor = flow.calibration(ranks, groups, rng=generator(sampling, tile, 2))
    return counts


def generator(sampling: Sampling, tile: int, stream: int) -> torch.Generator:
    """A tile's own random numbers."""
    seed = np.random.SeedSequence([sampling.seed, 2 + stream, tile]).generate_state(1, np.uint64)[0]
    return torch.Generator(sampling.device).manual_seed(int(seed >> 1))
