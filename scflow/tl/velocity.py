"""How fast a flow moves cells, and where to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow, Sampling
from scflow.flow._carrying import velocity_of
from scflow.flow._course import Course
from scflow.matching import guidance as guiding
from scflow.tl._carrying import EVALUATIONS, Journey
from scflow.tl._course import Trip, asked_day, check_day
from scflow.tl._following import flow_of, sampling_of
from scflow.tl._options import half_the_cores, positive

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["velocity"]


def velocity(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    target: Mapping[str, Any] | None = None,
    time: float | None = None,
    layer: str | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    device: str = "auto",
    seed: int = 0,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """The velocity at which a flow between populations moves cells, at the states where they are.

    Parameters
    ----------
    adata
        Cells of the source population, or of any times of a course: counts of the flow's genes, or the embedding that
        it lives in.
    flow
        The flow, or an AnnData that was left one in `.uns[key_added]`; by default `adata` itself.
    target
        Where to, as in :func:`scflow.tl.transport`.
    time
        When: 0 at the source, which it is by default, 1 at the target. In a time course a time within it; by default
        each cell's own. At a time point, where ways turn, it is the velocity of the interval that begins there (of the
        last interval at the end): asked for a twentieth of it away.
    layer
        Where the counts are.
    guidance
        As in :func:`scflow.tl.transport`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of the states of cells in count space.
    key_added
        The slots' name.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obsm["X_scflow"]`, the state of each cell, and `.obsm["velocity_scflow"]`, its change from source to
        target in a unit of that way (in a time course: in a unit of real time, such as a day), in the same coordinates:
        the names that ``scvelo.pl.velocity_embedding(adata, basis="scflow")`` looks for. For a flow in
        `.obsm["X_umap"]`, also `.obsm["velocity_umap"]`. An earlier `.obsm["X_scflow_source"]` is dropped: cells are no
        longer where they were carried to.

    Raises
    ------
    InputError
        As in :func:`scflow.tl.transport`, and for a time outside of 0 to 1, or of the course.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, source={"batch": "batch_0"}, steps=20, progress=False)
    >>> cells = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> scflow.tl.velocity(cells, flow)
    >>> cells.obsm["velocity_scflow"].shape == cells.obsm["X_scflow"].shape
    True
    """
    _anndata.checked(adata)
    found = flow_of(flow, adata, key_added)
    options: dict[str, Any] = {"guidance": guidance, "device": device, "seed": seed, "progress": False}
    sampling = sampling_of(found, solver="midpoint", steps="auto", evaluations=EVALUATIONS, **options)
    if found.course is not None:
        states, moves = _through(adata, found, found.course, time, target, layer, sampling)
    else:
        when = positive(0.0 if time is None else time, "time", zero=True)
        if when > 1:
            raise InputError(f"time={time!r} is after the target: it runs from 0, the source, to 1.")
        journey = Journey.of(adata, found, target, layer, key_added)
        with half_the_cores():
            states, moves = velocity_of(found, journey.data, journey.condition, 1.0 - when, sampling).states
    adata = adata.copy() if copy else adata
    _anndata.write_velocity(adata, states, moves, key_added, found.provenance.get("use_rep"))
    return adata if copy else None


def _through(
    adata: AnnData,
    flow: Flow,
    course: Course,
    time: float | None,
    target: Mapping[str, Any] | None,
    layer: str | None,
    sampling: Sampling,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States and velocities in a course, in a unit of real time."""
    if target is not None:
        asked_day(course, time, target, "time")
    day = None if time is None else check_day(course, time, "time")
    trip = Trip.of(adata, flow, course, layer)
    when = trip.times if day is None else np.full(len(trip.times), day)
    with half_the_cores():
        states, moves = velocity_of(flow, trip.data, None, course.within(when), sampling).states
    return states, (moves * course.pace(when)[:, None]).astype(np.float32)
