"""The ways that a flow takes cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._carrying import carry
from scflow.flow._course import Course
from scflow.matching import guidance as guiding
from scflow.matching import solvers
from scflow.tl._carrying import EVALUATIONS, Journey
from scflow.tl._course import Trip, asked_day, check_day, in_words
from scflow.tl._following import flow_of, sampling_of
from scflow.tl._options import half_the_cores, positive, whole

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["trajectory"]


def trajectory(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    times: int | Sequence[float] = 11,
    target: Mapping[str, Any] | None = None,
    layer: str | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    solver: str | solvers.Solver = "midpoint",
    steps: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
) -> AnnData:
    """Follow cells from the source population to the target, or through a time course, and keep them at several times.

    Parameters
    ----------
    adata
        Cells of the source population, or of any times of a course: counts of the flow's genes, or the embedding that
        it lives in.
    flow
        The flow, or an AnnData that was left one in `.uns[key_added]`; by default `adata` itself.
    times
        So many equally spaced times, or the times themselves, rising from 0, the source, to 1, the target; in a time
        course real times within it. A cell is followed from its own time on to later ones, and back to earlier ones.
    target, layer, guidance, solver, steps, device, seed, progress
        As in :func:`scflow.tl.transport`.
    key_added
        The slots' name.

    Returns
    -------
    AnnData
        A new one, with a row for each cell at each time, all cells at the first time coming first: `.obs` as the cells
        have it, and `.obs["scflow_cell"]`, the cell's name, and `.obs["scflow_time"]`; `.obsm["X_scflow"]`, where it
        is; where the flow knows genes, `.layers["counts"]`, integer counts, and `.X`, log1p of counts per 10,000; and
        `.uns["scflow_transport"]`. In a time course also `.obs["scflow_growth"]`, how many descendants the cell has by
        then (:func:`scflow.tl.transport`).

    Raises
    ------
    InputError
        As in :func:`scflow.tl.transport`, and for times that do not rise within 0 to 1, or within the course.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, source={"batch": "batch_0"}, steps=20, progress=False)
    >>> cells = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> ways = scflow.tl.trajectory(cells, flow, times=3, progress=False)
    >>> ways.n_obs == 3 * cells.n_obs
    True
    """
    _anndata.checked(adata)
    if not adata.obs_names.is_unique:
        raise InputError(
            f"{adata.n_obs - adata.obs_names.nunique()} of {adata.n_obs} cells have the name of another one, and cells "
            "are told apart by their names on their way. Name them anew: adata.obs_names_make_unique()."
        )
    found = flow_of(flow, adata, key_added)
    options: dict[str, Any] = {"guidance": guidance, "device": device, "seed": seed, "progress": progress}
    if found.course is not None:
        options |= {"solver": solver, "steps": steps}
        return _through(adata, found, found.course, times, target, layer, options, key_added)
    at = _times(times)
    journey = Journey.of(adata, found, target, layer, key_added)
    sampling = sampling_of(journey.flow, solver=solver, steps=steps, evaluations=EVALUATIONS, **options)
    before = [1.0] if at[0] > 0 else []
    with half_the_cores():
        grid = [*before, *(1.0 - t for t in at)]
        decode = [False] * len(before) + [True] * len(at)
        way = carry(journey.flow, journey.data, journey.condition, grid, sampling, decode=decode)
    return _anndata.rows_in_time(
        adata,
        at,
        way.states[len(before) :],
        way.counts,
        journey.flow.genes,
        target_sum=float(journey.flow.provenance.get("target_sum", 1e4)),
        facts=journey.facts(),
        key=key_added,
    )


def _through(
    adata: AnnData,
    flow: Flow,
    course: Course,
    times: int | Sequence[float],
    target: Mapping[str, Any] | None,
    layer: str | None,
    options: dict[str, Any],
    key: str,
) -> AnnData:
    """Follow cells through a course."""
    if target is not None:
        asked_day(course, None, target, "times")
    at = _days(course, times)
    trip = Trip.of(adata, flow, course, layer)
    with half_the_cores():
        way, growth = trip.to(at, options)
    return _anndata.rows_in_time(
        adata,
        at,
        way.states[1:],
        way.counts,
        flow.genes,
        target_sum=float(flow.provenance.get("target_sum", 1e4)),
        facts=trip.facts(in_words(at)),
        key=key,
        growth=growth,
    )


def _days(course: Course, times: int | Sequence[float]) -> list[float]:
    """Rising times within a course."""
    first, last = course.times[0], course.times[-1]
    if isinstance(times, (int, np.integer)):
        return [float(t) for t in np.linspace(first, last, whole(times, "times", least=2))]
    at = [check_day(course, t, "times") for t in _each(times)]
    if not at or not all(a < b for a, b in pairwise(at)):
        raise InputError(f"times={times!r} must rise within {first:g} and {last:g}, such as [{first:g}, {last:g}].")
    return at


def _each(times: Any) -> Sequence[Any]:
    """Several times."""
    if isinstance(times, (str, bytes, Mapping)) or not isinstance(times, Iterable):
        raise InputError(f"times={times!r} is neither a number of times nor a list of them, such as [0, 0.5, 1].")
    return list(times)


def _times(times: int | Sequence[float]) -> list[float]:
    """Rising times from 0 to 1."""
    if isinstance(times, (int, np.integer)):
        return [float(t) for t in np.linspace(0, 1, whole(times, "times", least=2))]
    at = [positive(t, "times", zero=True) for t in _each(times)]
    rising = all(a < b for a, b in pairwise(at))
    if not at or not rising or not 0 <= at[0] <= at[-1] <= 1:
        raise InputError(f"times={times!r} must rise within 0, the source, and 1, the target, such as [0, 0.5, 1].")
    return at
