"""Velocities as arrows of an embedding: by where a cell's neighbours stand in it, and averaged over a grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scflow.pl._embedding import Points

__all__ = ["Grid", "averaged", "projected"]

_BLOCK = 2_000_000
"""Numbers of one block of neighbours: cells x neighbours x dimensions is never there as a whole."""

Numbers = NDArray[np.float64]


class Grid(NamedTuple):
    """Arrows on a regular grid, NaN where there are too few cells.

    `x` and `y` are `[n]`, `arrows` is `[n, n, 2]`, row by row from the lowest y.
    """

    x: Numbers
    y: Numbers
    arrows: Numbers


def projected(
    states: Points, moves: Points, points: Points, among: Points, among_points: Points, n_neighbors: int
) -> Numbers:
    """Which way each cell moves in an embedding, by the neighbours that it moves towards, `[n_cells, 2]`.

    After Bergen et al. (2020), "Generalizing RNA velocity to transient cell states through dynamical modeling": a cell
    goes to its neighbours with probabilities that rise with the cosine between its velocity and the way there, and its
    arrow is the mean unit step to them in the embedding, less what it would be if all were equally probable, which is
    only how unevenly they lie. Here cosines count in units of their standard deviation over the cell's neighbours:
    in many dimensions all of them are small. The arrow's length is how far the neighbours agree, times the speed.

    Parameters
    ----------
    states, moves
        Where the cells are and their velocities, `[n_cells, dim]`.
    points
        The cells in the embedding, `[n_cells, 2]`.
    among, among_points
        The cells that neighbours are sought among, in both spaces, `[m, dim]` and `[m, 2]`. A cell at no distance is no
        neighbour.
    n_neighbors
        How many.
    """
    from sklearn.neighbors import NearestNeighbors

    # One more: a cell may be among those it is sought among.
    found = NearestNeighbors(n_neighbors=min(n_neighbors + 1, len(among))).fit(among)
    arrows = np.zeros((len(states), 2))
    step = max(1, _BLOCK // (n_neighbors * states.shape[1]))
    for start in range(0, len(states), step):
        rows = slice(start, start + step)
        near = found.kneighbors(states[rows], return_distance=False)
        ways = _units(among[near] - states[rows, None])
        there = ways.any(axis=2)
        weights = _excess(np.einsum("nkd,nd->nk", ways, _units(moves[rows])), there)
        steps = _units(among_points[near] - points[rows, None])
        arrows[rows] = np.einsum("nk,nkd->nd", weights, steps)
    speed: Numbers = np.linalg.norm(moves, axis=1, keepdims=True).astype(np.float64)
    return arrows * speed


def _excess(cosines: Numbers, there: Any) -> Numbers:
    """The probability of each neighbour, less that of one in as many; 0 where a cell has none or does not move."""
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = (cosines * there).sum(axis=1, keepdims=True) / n
    centred = np.where(there, cosines - mean, 0.0)
    sd = np.sqrt((centred**2).sum(axis=1, keepdims=True) / n)
    weights = np.exp(np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 1e-9)) * there
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    result: Numbers = weights / total - there / n
    return result


def _units(vectors: Points) -> Numbers:
    """Vectors of length 1; those of length 0 stay."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Numbers = np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)
    return result


def averaged(points: Points, arrows: Numbers, marks: Numbers, least: float) -> Grid:
    """Arrows of cells as means over a grid, weighted by a bell as wide as half a mesh.

    Parameters
    ----------
    points, arrows
        The cells and an arrow of each, `[n_cells, 2]`.
    marks
        Where the lines of the grid are, evenly along x and along y, `[n, 2]`.
    least
        A point of the grid has an arrow where the weights of the cells around it come to at least so many cells.
    """
    # A bell of two coordinates is the product of two: so sums over cells are products of two matrices.
    x, y = (_bells(points[:, i], marks[:, i]) for i in (0, 1))
    weight = y.T @ x
    sums = np.stack([(y * arrows[:, i, None]).T @ x for i in (0, 1)], axis=-1)
    mean = np.full((*weight.shape, 2), np.nan)
    np.divide(sums, weight[..., None], out=mean, where=weight[..., None] >= least)
    return Grid(marks[:, 0], marks[:, 1], mean)


def _bells(values: Points, at: Numbers) -> Numbers:
    """The weight of each value at each place, 1 where it stands, `[n_values, n_places]`."""
    result: Numbers = np.exp(-0.5 * ((values[:, None] - at) / (0.5 * (at[1] - at[0]))) ** 2)
    return result
