"""Draw new cells."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from scflow import _anndata, _file
from scflow.errors import InputError
from scflow.flow import CALIBRATIONS, Drawn, Flow, Sampling
from scflow.flow._sampling import joined
from scflow.matching import guidance as guiding
from scflow.matching import paths, solvers
from scflow.matching.names import PATHS, SOLVERS, chosen, named
from scflow.tl._course import not_a_course
from scflow.tl._drawn_at import Day, check_usual
from scflow.tl._following import solver_facts
from scflow.tl._options import device_of, half_the_cores, one_of, positive, whole
from scflow.tl._recipe import precision_of
from scflow.training.workers import Workers, together

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["generate"]

_STEPS = {"euler": 50, "midpoint": 12, "heun": 12, "rk4": 6, "adams": 24, "jump": 1}


@together()
def generate(
    flow_or_adata: Flow | AnnData,
    n_obs: int,
    *,
    condition: Mapping[str, Any] | Sequence[Any] | pd.Series | pd.DataFrame | None = None,
    at: float | None = None,
    adata: AnnData | None = None,
    guidance: float | Mapping[str, float] | guiding.Guidance = 1.0,
    solver: str | solvers.Solver = "auto",
    steps: int | str = "auto",
    shift: float = 1.0,
    path: str | paths.Affine | None = None,
    batch_size: int | str = "auto",
    precision: str = "float32",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    weights: str = "average",
    calibration: str = "balanced",
    key_added: str = "scflow",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> AnnData | Path:
    """Draw new cells from a flow.

    The same seed gives the same cells, whatever the batch size (but for other numbers than float32: see `precision`).
    Asking for more cells leaves the first ones' states as they were, and with ``calibration="independent"`` their
    counts too. (With ``"dopri5"`` a cell depends, within the tolerances, on the 255 it is integrated with.)

    Parameters
    ----------
    flow_or_adata
        A flow, or an AnnData that :func:`scflow.tl.train` left one in.
    n_obs
        How many cells.
    condition
        What they are conditioned on. ``None`` draws conditions as they are in the training cells, in the same shares.
        A mapping such as ``{"cell_type": "Dendritic"}`` holds for all cells (or has a list, one entry a cell); what is
        not named is drawn as it occurs with what is. A list, Series (one condition) or DataFrame has one row a cell.
        After :func:`scflow.pp.embed` any combination of known parts can be asked for, with a warning where it is new.
    at
        A time within the course, for a flow through a time course: cells of that time are drawn. Ancestors are drawn
        among the cells of `adata` at the latest time point before, as often as they have descendants, and are carried
        there. More cells than there are ancestors are not new ones each: some come from the same cell.
    adata
        Cells of the course, which the flow does not hold; by default `flow_or_adata` itself, where that is an AnnData.
    guidance
        1 draws from the learnt law; above 1 states are pushed away from those without the condition. In count space,
        whose decoder knows the condition as well, cells were not more typical for it (docs/benchmarks.md). A mapping
        such as ``{"cell_type": 2.0, "batch": 1.0}`` gives each condition a weight of its own (1 where it is left out),
        and ``scflow.matching.guidance.Guidance(2.0, interval=(0.2, 0.8))`` guides at those times only.
    solver
        ``"euler"``, ``"midpoint"``, ``"heun"``, ``"rk4"``, ``"adams"`` (second order, one evaluation a step) or
        ``"dopri5"`` (chooses its own steps; needs ``pip install "scflow-tools[adaptive]"``), or a solver of
        :mod:`scflow.matching.solvers`; or ``"jump"``, the steps of a flow map (:func:`scflow.tl.distill`). ``"auto"``
        is what the flow was made for: the midpoint rule, Euler's method after :func:`scflow.tl.reflow`, jumps of a map.
    steps
        Steps of the solver from noise to data; ``"auto"`` takes 24 evaluations of the field: 12 steps of two, 6 of RK4,
        24 of Adams; and 50 of Euler. A flow that was made for few steps is drawn in those.
    shift
        Above 1 more of the steps are near the noise, below 1 near the data: see :func:`scflow.matching.solvers.grid`.
    path
        The affine path to draw along, an object of :mod:`scflow.matching.paths` or its name; the flow's own unless
        given. The cells are the same but for the solver's error.
    batch_size
        Cells computed at once on a GPU; ``"auto"`` is 4096. It changes speed and memory, not the cells.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``: how the network multiplies matrices. Solver, codec and counts
        are in float32 always. ``"auto"`` is bfloat16 where the device has units for it (GPUs of today, CPUs with AMX):
        up to twice as fast, more the more evaluations and the wider the network, and cells of the same quality. But
        which ones they are then depends on the machine, its number of threads and on a GPU the batch size, and under
        torchrun on the processes: what rounds otherwise draws other counts from there on.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of all random numbers of this call. The global random state is not touched.
    progress
        Show a progress bar.
    weights
        ``"average"`` draws with the moving average of the field's weights, ``"raw"`` with the weights of the best step
        as they were. (The calibration of counts was made with the average.)
    calibration
        How counts are carried to the training cells' marginals. ``"balanced"``: the cells of this call are also
        balanced against each other, gene by gene within their type, so that they are off the tissue's marginals no
        more than as many new real cells are. That is for guidance 1 and labels that training cells had; others are
        calibrated one by one. ``"independent"`` does that always: cells are then independent draws of one law.
        ``"none"``: counts as the flow itself draws them.
    key_added
        The slot of the AnnData that the flow is in.
    out
        A path that ends in ``.h5ad`` or ``.zarr``: cells are written there as they are drawn, a block of some thousands
        at a time, so that a million take no more memory than one block (but for their `.obs`: a name and the conditions
        of each). The file holds what is returned without `out`, bit by bit; an h5ad file is compressed with gzip. It is
        put in its place once it is complete.
    overwrite
        Replace what is at `out`.

    Returns
    -------
    AnnData or pathlib.Path
        With `out` the path of the file, for ``anndata.read_h5ad`` or ``anndata.read_zarr``. Otherwise the cells:
        `.X` log1p of counts per 10,000, `.layers["counts"]` integer counts, `.obs` the conditions,
        `.obsm["X_scflow"]` the state the flow drew, `.obsm["X_scflow_noise"]` where it started, `.var` the training
        genes, `.uns["scflow"]["provenance"]` what they were drawn from and how. A flow in an embedding draws no counts:
        `.obsm["X_scflow"]` is all there is. Cells of a time of a course have `.obs` with that time, their group, and
        their ancestor's name in `.obs["scflow_cell"]`, and `.obsm["X_scflow_source"]`, where that one was.

    Raises
    ------
    FileError
        Before any work where `out` has another ending, is there and `overwrite` is False, or cannot be written to;
        later where the disk refuses.
    InputError
        For conditions or categories that the flow does not know, numbers that do not fit, and unknown choices; in a
        time course where `at` is missing or outside of it, or there are no cells before.

    Notes
    -----
    Under torchrun, or in a process group of the caller's own, the processes draw blocks of cells in turn, on a device
    each, and the cells are those of one process. With `out` the first one writes them; without, all of them return all.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, condition="cell_type", steps=20, progress=False)
    >>> scflow.tl.generate(flow, 30, progress=False).shape
    (30, 50)

    More cells than fit into memory, into a file:

    >>> import anndata, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = scflow.tl.generate(flow, 30, out=f"{folder.name}/new.h5ad", progress=False)
    >>> anndata.read_h5ad(path).shape
    (30, 50)

    Cells of day 2.5 of a time course:

    >>> adata.obs["day"] = [float(i % 3) ** 2 for i in range(adata.n_obs)]
    >>> flow = scflow.tl.train(adata, course="day", steps=20, progress=False)
    >>> scflow.tl.generate(adata, 30, at=2.5, progress=False).shape
    (30, 50)
    """
    workers = Workers.now()
    progress, target = progress and workers.first, None
    if out is not None:
        target = workers.once(lambda: _file.checked_target(out, (".h5ad", ".zarr"), overwrite=overwrite))
    flow = flow_or_adata
    if not isinstance(flow, Flow):
        flow = Flow.from_content(_anndata.read_flow(flow_or_adata, key_added))
    n = whole(n_obs, "n_obs")
    course = flow.course
    if course is not None:
        check_usual(course, condition=condition, shift=shift, path=path, weights=weights, calibration=calibration)
        cells = flow_or_adata if adata is None and not isinstance(flow_or_adata, Flow) else adata
        options = {"solver": "midpoint" if solver == "auto" else solver, "steps": steps, "guidance": guidance}
        options |= {"batch_size": batch_size, "device": device, "seed": whole(seed, "seed", least=0)}
        options |= {"precision": precision_of(precision, device_of(device)), "progress": progress}
        with half_the_cores():
            day = Day.of(flow, course, n, at, cells, options)
            return day.cells() if target is None else workers.once(lambda: day.written(target))
    for name, value in (("at", at), ("adata", adata)):
        if value is not None:
            raise not_a_course(name, "..." if name == "adata" else value)
    method = flow.usual.solver if solver == "auto" else chosen(solver, SOLVERS, solvers.Solver, "solver")
    guided = guiding.Guidance.of(guidance)
    guided.weights(flow.conditions.names)
    where = device_of(device)
    sampling = Sampling(
        guidance=guided,
        solver=method,
        steps=_steps(flow, method, steps, shift),
        shift=positive(shift, "shift"),
        path=None if path is None else chosen(path, PATHS, paths.Affine, "path"),
        batch_size=4096 if batch_size == "auto" else whole(batch_size, "batch_size"),
        device=where,
        seed=whole(seed, "seed", least=0),
        progress=progress,
        weights=weights,
        calibration=one_of(calibration, CALIBRATIONS, "calibration"),
        workers=workers,
        precision=precision_of(precision, where),
    )
    facts = _facts(flow, sampling)
    with half_the_cores():
        if target is not None:
            return _in_blocks(flow, flow.blocks(n, condition, sampling), condition, facts, target, workers)
        drawn = flow.draw(n, condition, sampling)
    return _cells(flow, drawn, condition, facts)


def _facts(flow: Flow, sampling: Sampling) -> dict[str, Any]:
    """What cells were drawn from, and how."""
    guided, names = sampling.guided, flow.conditions.names
    scales = guided.weights(names)
    return {
        **flow.provenance,
        "condition": list(names),
        "guidance": dict(zip(names, scales)) if isinstance(scales, tuple) else scales,
        "guidance_interval": [float(t) for t in guided.interval],
        **solver_facts(sampling),
        "path": named(sampling.path or flow.path, PATHS)["name"],
        "generate_seed": sampling.seed,
        "generate_precision": sampling.precision,
        "weights": sampling.weights,
        "calibration": sampling.calibration,
    }


def _cells(flow: Flow, drawn: Drawn, request: Any, facts: Mapping[str, Any]) -> AnnData:
    """Drawn cells as an AnnData."""
    return _anndata.new_cells(
        drawn.counts,
        genes=flow.genes,
        obs=pd.DataFrame(index=range(len(drawn.state)))
        if drawn.condition is None
        else flow.conditions.decode(drawn.condition, request),
        state=drawn.state,
        noise=drawn.noise,
        target_sum=float(flow.provenance.get("target_sum", 1e4)),
        provenance={**facts, "evaluations": drawn.evaluations},
    )


def _in_blocks(
    flow: Flow, blocks: Iterable[Drawn], request: Any, facts: Mapping[str, Any], target: Path, workers: Workers
) -> Path:
    """Drawn cells in a file, each block before the next is drawn; of several processes the first one writes."""
    if not workers.first:
        for _ in blocks:
            pass  # they go to the first one
        return workers.told(target)
    told: list[Drawn] = []
    with _anndata.growing(target) as file:
        for block in blocks:
            file.append(_cells(flow, replace(block, condition=None), request, facts))
            told.append(block.bare())
        file.finish(_cells(flow, joined(told), request, facts))
    return workers.told(target)


def _steps(flow: Flow, method: solvers.Solver, steps: int | str, shift: float) -> int:
    """The number of steps; a solver that chooses its own takes none, and no shift."""
    if steps == "auto" and type(method) is type(flow.usual.solver):
        return flow.usual.steps
    if method.adaptive and (steps != "auto" or shift != 1):
        raise InputError(
            f"solver={type(method).__name__.lower()!r} chooses its own steps: steps={steps!r} and shift={shift!r} mean "
            "nothing to it. Leave both out, and say how exact it is to be: "
            "solver=scflow.matching.solvers.Dopri5(rtol=1e-3, atol=1e-3)."
        )
    return _STEPS.get(type(method).__name__.lower(), 24) if steps == "auto" else whole(steps, "steps")
