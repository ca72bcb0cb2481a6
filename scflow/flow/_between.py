"""Cells on the way from some cells or conditions to others, by way of the noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.flow._following import Way, batches, check_velocity
from scflow.flow._sampling import TILE, Sampling, decoded, generator, moved
from scflow.matching.likelihood import Velocity

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["End", "Line", "between", "drawn_noise", "slerp"]


@dataclass(frozen=True, eq=False)
class End:
    """One end of each way.

    Attributes
    ----------
    noise
        Where its cells come from, ``[n_pairs, dim]``.
    condition
        Encoded conditions, ``[n_pairs, n_conditions]``, NaN for none; ``None`` where the flow has none.
    """

    noise: Tensor
    condition: Tensor | None


@dataclass(frozen=True, eq=False)
class Line:
    """The cells of all ways, one way after the other.

    Attributes
    ----------
    counts
        Whole numbers ``[n, n_genes]``, int32 (``None`` for a flow in an embedding).
    state, noise
        Where the flow ended and started, float32 ``[n, dim]``; in an embedding `state` is in the user's units.
    pair, position
        Which way a cell is on, int64 ``[n]``, and where, from 0 to 1.
    condition
        Encoded conditions ``[n, n_conditions]``: in between NaN where categories differ, or ``None``.
    calibrated
        Whether counts were calibrated.
    """

    counts: sparse.csr_matrix | None
    state: NDArray[np.float32]
    noise: NDArray[np.float32]
    pair: NDArray[np.int64]
    position: NDArray[np.float64]
    condition: Tensor | None
    calibrated: bool


def slerp(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    r"""Spherical interpolation of rows ``[n, dim]``, at the shares ``[n]`` of the way (Shoemake 1985; White 2016).

    With the angle :math:`\theta` between two rows of the directions u and v, the direction on the way is
    :math:`(\sin((1 - s) \theta)\, u + \sin(s \theta)\, v) / \sin \theta`, and the length goes over evenly: between
    normal draws it is the length that normal draws have, and on a straight line it would not be. (Taken of the rows
    themselves, with their lengths, the formula goes far astray where two of different length point against each other.)
    Where the rows point the same way or exactly against each other, it is the straight line.
    """
    a, b, s = one.double(), other.double(), share.double()[:, None]
    long_a, long_b = (x.norm(dim=1, keepdim=True) for x in (a, b))
    u, v = a / long_a.clamp_min(1e-12), b / long_b.clamp_min(1e-12)
    angle = (u * v).sum(1, keepdim=True).clamp(-1, 1).acos()
    flat = angle.sin() < 1e-6
    way = (((1 - s) * angle).sin() * u + (s * angle).sin() * v) / torch.where(flat, 1, angle.sin())
    return torch.where(flat, torch.lerp(a, b, s), way * torch.lerp(long_a, long_b, s)).to(one.dtype)


def drawn_noise(flow: Flow, n: int, condition: Tensor | None, sampling: Sampling) -> Tensor:
    """`n` noises ``[n, dim]`` on the CPU, the first ones that :func:`scflow.flow._sampling.draw` starts from."""
    found = []
    for tile in range(-(-n // TILE)):
        rows = torch.arange(tile * TILE, (tile + 1) * TILE).clamp_max(n - 1)
        c = None if condition is None else condition[rows].to(sampling.device)
        found.append(flow.noise.sample_given(c, TILE, flow.codec.dim, rng=generator(sampling, tile, 0)).cpu())
    return torch.cat(found)[:n]


@dataclass(frozen=True, eq=False)
class _Blend:
    """The conditions of cells between two ends, ``[n, n_conditions]`` or ``None``, and their shares of the way ``[n]``.

    Numbers are interpolated, and are the same at both ends then; categories are each end's own.
    """

    flow: Flow
    one: Tensor | None
    other: Tensor | None
    share: Tensor

    @classmethod
    def of(cls, flow: Flow, one: Tensor | None, other: Tensor | None, share: Tensor) -> _Blend:
        if one is None or other is None:
            return cls(flow, None, None, share)
        there = torch.lerp(one, other, share[:, None])
        # A number that one end lacks has nothing to be interpolated with.
        number = torch.zeros(there.shape[1], dtype=torch.bool)
        number[list(flow.conditions.numbers)] = True
        number = number & ~there.isnan()
        return cls(flow, torch.where(number, there, one), torch.where(number, there, other), share)

    @property
    def same(self) -> bool:
        """Whether both ends are told the same."""
        if self.one is None or self.other is None:
            return True
        return torch.equal(self.one.nan_to_num(-1e9), self.other.nan_to_num(-1e9))

    @property
    def told(self) -> Tensor | None:
        """What each cell was drawn under: NaN in between, where the ends differ."""
        if self.one is None or self.other is None:
            return None
        s, differ = self.share[:, None], self.flow.conditions.whole(self.one != self.other)
        return torch.where(s == 0, self.one, torch.where(s == 1, self.other, self.one.masked_fill(differ, torch.nan)))

    def __getitem__(self, rows: Tensor) -> _Blend:
        """Some of the cells, on the device that their numbers are on."""
        one, other, share = (None if x is None else x.to(rows.device)[rows] for x in (self.one, self.other, self.share))
        assert share is not None
        return _Blend(self.flow, one, other, share)

    def velocity(self, way: Way, *, same: bool) -> Velocity:
        """The flow's, or the mean of both ends' in the cells' shares."""
        one, other, share = way.velocity(self.one), way.velocity(self.other), self.share[:, None]
        return one if same else lambda x, t: torch.lerp(one(x, t), other(x, t), share)

    def decoded(self, state: Tensor, how: Sampling, tile: int, *, same: bool) -> Tensor:
        """Counts, or a user's coordinates, of a tile."""
        if same:
            return decoded(self.flow, state, self.one, how, tile)
        rng = generator(how, tile, 1)
        return self.flow.codec.decode_between(state, (self.one, self.other), self.share, rng=rng)


def between(flow: Flow, one: End, other: End, positions: NDArray[Any], sampling: Sampling) -> Line:
    """Follow the noise between two noises to the cell between two cells.

    Noises are interpolated on the sphere, in units of the noise's standard deviations. Where categories differ, the
    velocity at the share s of the way is ``(1 - s) v_one + s v_other``, and the codec takes the conditions' effects on
    counts in the same shares; a number is interpolated itself. Counts are calibrated cell by cell where every way stays
    within its categories; between them the flow has no calibration, and counts are as it draws them.
    """
    check_velocity(sampling)
    pairs, where = len(one.noise), torch.from_numpy(np.asarray(positions, dtype=np.float64))
    pair, place = torch.arange(pairs).repeat_interleave(len(where)), where.repeat(pairs)
    sd = flow.noise.sd(flow.codec.dim)
    noise = slerp(one.noise[pair] / sd, other.noise[pair] / sd, place) * sd
    c, d = (None if end.condition is None else end.condition[pair] for end in (one, other))
    blend = _Blend.of(flow, c, d, place.float())
    how = replace(sampling, calibration="independent" if blend.same else "none")
    parts = list(_followed(flow, noise, blend, how))
    counts = [sparse.csr_matrix(x.astype(np.int32)) for x, _ in parts] if flow.codec.has_counts else []
    return Line(
        counts=sparse.vstack(counts, format="csr") if counts else None,
        state=np.concatenate([state for _, state in parts]),
        noise=noise.numpy(),
        pair=pair.numpy(),
        position=place.numpy(),
        condition=blend.told,
        calibrated=blend.same and flow.calibration is not None,
    )


def _followed(
    flow: Flow, noise: Tensor, blend: _Blend, how: Sampling
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What each batch is decoded to, and its states; in an embedding both are the user's coordinates."""
    way, same = Way.of(flow, how), blend.same
    with torch.no_grad(), moved(flow, how.device):
        for batch in batches(len(noise), how):
            start, mine = noise.to(how.device)[batch.rows] * way.scale, blend[batch.rows]
            state = how.solver.integrate(mine.velocity(way, same=same), start, way.times(up=False))
            tiles = batch.parts(torch.arange(len(state), device=how.device))
            x = torch.cat([mine[rows].decoded(state[rows], how, tile, same=same) for tile, rows in tiles])
            shown = state if flow.codec.has_counts else x
            yield x[: len(batch)].cpu().numpy(), shown[: len(batch)].cpu().numpy()
