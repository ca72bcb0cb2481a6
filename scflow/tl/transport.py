"""Carry cells from one population to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scflow import _anndata
from scflow.flow import Flow
from scflow.flow._carrying import carry
from scflow.flow._course import Course
from scflow.matching import guidance as guiding
from scflow.matching import solvers
from scflow.tl._carrying import EVALUATIONS, Journey
from scflow.tl._course import Trip, asked_day, not_a_course
from scflow.tl._following import flow_of, sampling_of
from scflow.tl._options import half_the_cores
from scflow.training.interrupts import shielded

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["transport"]


def transport(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    target: Mapping[str, Any] | None = None,
    to: float | None = None,
    layer: str | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    solver: str | solvers.Solver = "midpoint",
    steps: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """Carry cells along a flow that :func:`scflow.tl.train` learnt between two populations, or through a time course.

    Each cell keeps its row. Genes are found by name, in any order.

    Parameters
    ----------
    adata
        Cells of the source population, or of any times of the course with their times in the column of `.obs` that it
        was learnt from: counts of the flow's genes, or the embedding that it lives in.
    flow
        The flow, or an AnnData that was left one in `.uns[key_added]`; by default `adata` itself.
    target
        Where to, where the flow knows several targets: ``{"condition": "IFN"}``, or a list with one value a cell. After
        :func:`scflow.pp.embed` any combination of known parts, with a warning where no training cell had it.
    to
        To when, for a flow through a time course: any time within it. Each cell is carried from its own time, on or
        back.
    layer
        Where the counts are; by default `.X`, or `.layers["counts"]` where `.X` holds no counts.
    guidance
        1 carries to the learnt law; above 1 cells are pushed away from the mean of all targets.
    solver, steps
        As in :func:`scflow.tl.generate`; ``"auto"`` takes 24 evaluations of the field. In a time course both are of
        the whole course, and ``"auto"`` takes 24 evaluations an interval.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of the states of cells in count space, and of the counts. The global random state is not touched.
    progress
        Show a progress bar.
    key_added
        The slots' name.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obsm["X_scflow_source"]`, the state that a cell started from, `.obsm["X_scflow"]`, where it ended,
        `.layers["scflow"]`, integer counts of where it ended (not for a flow in an embedding), and
        `.uns["scflow_transport"]`, from where to where. In a time course also `.obs["scflow_growth"]`: how many
        descendants a cell has, relative to the mean of its time point, at the first time point that is not before that
        time; NaN for those that were carried back. Cells that were carried are the population of that time if each
        counts as often. An earlier `.obsm["velocity_scflow"]`, of other states, is dropped.

    Raises
    ------
    InputError
        Where the flow starts from noise, cells are known to be of another population, genes or conditions are missing,
        or it has several targets and none was chosen; in a time course, where times or groups are missing or outside of
        it, or it is not said to when.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> options = {"source": {"batch": "batch_0"}, "group": "cell_type", "steps": 20, "progress": False}
    >>> flow = scflow.tl.train(adata, **options)
    >>> cells = adata[adata.obs["batch"] == "batch_0"].copy()
    >>> scflow.tl.transport(cells, flow, progress=False)
    >>> cells.layers["scflow"].shape == cells.shape
    True

    A time course, from every cell's own day to day 2.5:

    >>> adata.obs["day"] = [float(i % 3) ** 2 for i in range(adata.n_obs)]
    >>> flow = scflow.tl.train(adata, course="day", steps=20, progress=False)
    >>> scflow.tl.transport(adata, flow, to=2.5, progress=False)
    >>> adata.uns["scflow_transport"]["target"]
    'day: 2.5'
    """
    _anndata.checked(adata)
    found = flow_of(flow, adata, key_added)
    options: dict[str, Any] = {"guidance": guidance, "device": device, "seed": seed, "progress": progress}
    if found.course is not None:
        options |= {"solver": solver, "steps": steps}
        adata = adata.copy() if copy else adata
        _through(adata, found, found.course, asked_day(found.course, to, target), layer, options, key_added)
        return adata if copy else None
    if to is not None:
        raise not_a_course("to", to)
    journey = Journey.of(adata, found, target, layer, key_added)
    sampling = sampling_of(journey.flow, solver=solver, steps=steps, evaluations=EVALUATIONS, **options)
    with half_the_cores():
        way = carry(journey.flow, journey.data, journey.condition, (1.0, 0.0), sampling)
    adata = adata.copy() if copy else adata
    counts = way.counts[0] if way.counts else None
    both = (way.states[0], way.states[1])
    _anndata.write_carried(adata, both, counts, journey.flow.genes, journey.facts(), key_added)
    return adata if copy else None


def _through(
    adata: AnnData, flow: Flow, course: Course, day: float, layer: str | None, options: dict[str, Any], key: str
) -> None:
    """Carry cells through a course to a day, and write where they are."""
    trip = Trip.of(adata, flow, course, layer)
    with half_the_cores():
        way, growth = trip.to([day], options)
    counts = way.counts[0] if way.counts else None
    both = (way.states[0], way.states[1])
    with shielded():
        _anndata.write_carried(adata, both, counts, flow.genes, trip.facts(f"{day:g}"), key)
        _anndata.write_growth(adata, growth[0], key)
