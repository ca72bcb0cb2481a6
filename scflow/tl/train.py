"""Learn cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from scflow import _anndata, matching
from scflow.errors import InputError, path_of
from scflow.flow import Flow, Watch
from scflow.flow._coursing import learn_course
from scflow.flow._fields import check_field, chosen_field, state_dim
from scflow.flow._identity import described, identity
from scflow.flow._learning import Recipe, default_steps, learn, learn_embedding
from scflow.flow._sourcing import learn_carrying
from scflow.tl._course import check_alone, coupling_of
from scflow.tl._given import Given
from scflow.tl._leaving import Prepared, leave, warn_interrupted
from scflow.tl._options import device_of, half_the_cores, positive, whole
from scflow.tl._recipe import (
    batch_size_of,
    check_groups,
    for_groups,
    knowing,
    noise_of,
    objective_of,
    precision_of,
    share_of,
    space_of,
    trace_of,
    warn_of,
)
from scflow.tl._task import Task
from scflow.training import Checkpoint, Checkpoints, Optimisation, Run
from scflow.training.history import Callback
from scflow.training.workers import Workers, together

if TYPE_CHECKING:
    from anndata import AnnData
    from anndata.experimental import AnnCollection

__all__ = ["train"]


@together()
def train(
    adata: AnnData | AnnCollection | str | os.PathLike[str] | Sequence[AnnData | str | os.PathLike[str]],
    *,
    condition: str | Sequence[str] | None = None,
    source: Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
    group: str | Sequence[str] | None = None,
    course: str | None = None,
    layer: str | None = None,
    space: str = "auto",
    use_rep: str | None = None,
    path: str | matching.paths.Path = "linear",
    noise: str | matching.noises.Noise = "auto",
    time: str | matching.times.Time = "stratified",
    weight: str | matching.weights.Weight = "uniform",
    coupling: str | matching.couplings.Coupling = "auto",
    field: str | torch.nn.Module | Callable[..., torch.nn.Module] = "mlp",
    steps: int | None = None,
    batch_size: int | str = "auto",
    lr: float | str = "auto",
    validation: float | str = "auto",
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    optimisation: Optimisation | None = None,
    watch: int | Watch | None = None,
    profile: bool | str | os.PathLike[str] = False,
    key_added: str = "scflow",
) -> Flow:
    """Learn the cells of `adata` by flow matching.

    Everything is checked before any work starts. Ctrl-C ends the training early and keeps the best flow so far (see
    Notes); whatever is raised, `adata` is as it was.

    Parameters
    ----------
    adata
        Cells with raw counts, sparse or dense, in `.X` or in `layer`. They need not be in memory: an AnnData that is
        backed (``anndata.read_h5ad(path, backed="r")``), lazily read (``anndata.experimental.read_lazy``) or holds Dask
        arrays, the path of a `.h5ad` or `.zarr` file, an ``anndata.experimental.AnnCollection``, or a list of any of
        these with the same genes in the same order. Of more than 50,000 such cells the field sees all, a pool of
        thousands at a time, and a random 50,000 are loaded, on which all else is fitted: the codec, the calibration,
        the noise's rates. Fewer are loaded, and give the flow that they give from memory.
    condition
        Columns of `.obs` that cells are drawn by: categories, or numbers such as a dose. Labels that
        :func:`scflow.pp.embed` was told are combinations of parts, "A+B", are sums of vectors to the field; a flow can
        then be asked for combinations that no training cell had.
    source, target
        Two populations of cells, by columns of `.obs` and their values: the flow then starts from cells, not from
        noise, and carries those of `source` to those of `target`, such as ``source={"condition": "ctrl"},
        target={"condition": ["IFN", "LPS"]}``. Without `target` all other cells are. Where the target cells have
        several values in a column, the field is told which, and :func:`scflow.tl.transport` asks for one; after
        :func:`scflow.pp.embed` for any combination of their parts. Where the source's own label is known too, such as
        "ctrl" by ``none="ctrl"``, it is where sums start from. Cells of neither are not learnt from.
    group
        Columns of `.obs` that a cell keeps on its way, such as its type: cells are paired within equal values. The
        field is not told; so cells of a type that has no target cells are carried as those like them.
    course
        A column of `.obs` with the times of a time course, two or more: one flow then carries cells through all of
        them, in real time. Cells of each time point get ancestors at the one before by a plan between the whole
        populations, in which some cells have more descendants than others: that is how growth is found
        (:func:`scflow.tl.growth`). Ask for any day between by :func:`scflow.tl.transport` (``to=3.5``),
        :func:`scflow.tl.trajectory` or :func:`scflow.tl.generate` (``at=3.5``). `group` holds here too.
    layer
        Where the counts are; by default `.X`, or `.layers["counts"]` where `.X` holds no counts.
    space
        Where the flow lives. ``"counts"``: the latent space of a linear-decoder autoencoder of counts. ``"genes"``:
        log1p of normalised counts, standardised, one coordinate a gene. ``"quantile"``: each count as a normal value
        through its gene's distribution. ``"pca"``: principal components. ``"auto"`` is ``"counts"``, which has the
        best cells by measurement.
    use_rep
        An embedding in `.obsm` to learn in the place of counts; no counts are drawn then.
    path, noise, time, weight, coupling
        Objects of :mod:`scflow.matching`, or their names. Path: ``"linear"``, ``"variance_preserving"`` (on a circle)
        or ``"variance_preserving_linear"`` (``s(t) = t``). Noise: ``"gaussian"``, ``"matched_variance"`` (normal with
        the data's standard deviations), ``"sparse"`` (normal, a tenth of it zero; ``"auto"`` in gene space),
        ``"dropout"`` (zeros at each gene's own rate) or ``"dropout_by_condition"`` (at its rate in each combination of
        categorical conditions, drawn towards the whole where cells are few). Time: ``"stratified"``, ``"uniform"``,
        ``"importance"`` (more near the data), ``"logit_normal"`` (in the middle) or ``"u_shaped"`` (at the ends).
        Weight of the loss on velocities: ``"uniform"``, ``"inverse_snr"``, ``"min_snr"``, ``"endpoint"`` (at the data)
        or ``"endpoint_noise"``. Coupling of cells and noise, or cells of the source, in a batch, among those of equal
        conditions: ``"independent"`` (``"auto"``), ``"optimal"`` (optimal transport: straighter ways, drawn in fewer
        steps; ``"auto"`` for a source of cells), ``"entropic"`` (pairs near to those), or, for a source of cells,
        ``"unbalanced"`` (some have more descendants than others) and ``"partial"`` (the dearest tenth is left out). In
        a `course` whole time points are coupled: ``"unbalanced"`` (``"auto"``, with ``epsilon=0.02, reach=0.5``) or
        ``"entropic"`` (all cells have as many descendants).
    field
        The velocity network. ``"mlp"``: residual blocks. ``"unet"``: narrowing dense layers with skip connections.
        ``"transformer"``: attention between patches of genes in the order of their co-expression. Settings go with the
        class: ``functools.partial(scflow.nn.Transformer, depth=6)``, or any other function that makes a network when it
        is called with the number of coordinates and ``cardinalities=`` of the conditions (-m for an embedded one of m
        columns). Or any :class:`torch.nn.Module` with ``forward(x, t, condition)``: states ``[n, dim]``, times ``[n]``
        and conditions ``[n, n_columns]`` (NaN is none; ``None`` without conditions) to velocities ``[n, dim]``; it is
        copied.
    steps
        Optimiser steps; by default from the number of cells, 2,000 to 20,000.
    batch_size
        Cells a step; ``"auto"`` is 256, and 1,024 for many cells on a GPU. It is that of each process where several
        share the work (see Notes): two see twice the cells a step, at the same learning rate.
    lr
        Peak learning rate; ``"auto"`` is 1e-3, or 5e-4 for wide states.
    validation
        What to stop on: a share of cells held out, above 0 and at most 0.5 (``"auto"`` is 0.1); or, with `source` and
        `group`, ``"groups"``. Then each group of at least 20 cells a side is held out in turn, and training goes on for
        as many steps, of at most `steps` (480), as carry held-out groups best: hundreds at most, where cells of known
        groups would go on for thousands. ``"auto"`` does so where some groups have source cells alone.
    precision
        ``"float32"``, or ``"bfloat16"`` or ``"float16"`` (network only, the latter with a gradient scaler); ``"auto"``
        takes bfloat16 on a GPU that has it, and on a CPU with matrix units for it (AMX).
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of all random numbers of this call. The global random state is not touched.
    checkpoint
        A folder that the state of the run is kept in at looks, or a :class:`scflow.training.Checkpoint` that says how
        often and how many. It holds plain tensors and JSON.
    resume
        Go on with the run in that folder; on a CPU the flow is then the same, bit for bit, as if it had never stopped.
        Data and settings must be those it was started with. Where the folder holds no run yet, one is started, so that
        one command serves for both.
    callbacks
        Functions of one argument, called after each look at the validation cells with that row of the history. What one
        of them raises ends the training, with a note on the step and, with `checkpoint`, the state of that step kept;
        then those that have a `close` are closed.
    progress
        Show a progress bar (in a terminal or notebook) and say what is trained on what.
    optimisation
        Schedule, warm-up, weight decay, clip, gradient accumulation, weight average and `torch.compile`: a
        :class:`scflow.training.Optimisation`.
    watch
        Draw a few cells at every so many looks and score them against validation cells, into the history: a number, or
        a :class:`scflow.flow.Watch`. ``None`` does not.
    profile
        Write a trace of five steps of the field's training, in JSON for https://ui.perfetto.dev: to this file, or to
        ``"scflow_trace.json"``.
    key_added
        The slots' name.

    Returns
    -------
    Flow
        The trained flow. It is also left in `.uns["scflow"]`, and the genes' statistics, where they were not there, in
        `.var["scflow_mean"]`, `["scflow_sd"]`, `["scflow_dropout"]` and `.uns["scflow_pp"]`. With a path, noise or
        field of your own it is returned only, and a warning says so: it has no name to be kept by. Of cells on disk
        these slots are written to the AnnData in memory alone, and not to the file; with a path, a collection or a list
        the flow is returned only.

    Raises
    ------
    InputError
        For counts, conditions or options that cannot be worked with; nothing has been changed then.
    Diverged
        A FloatingPointError, where the gradient stays infinite or NaN. Its `history` says how it came to that:
        :func:`scflow.tl.diagnose` reads it. Its `flow` is the best one before that, if there was a look at one.
    OutOfMemory
        A MemoryError, where a step finds no room, on the GPU or elsewhere. It says how large a batch was.
    KeyboardInterrupt
        After Ctrl-C while there is no flow yet: before the field's training.

    Notes
    -----
    **Interrupting.** Ctrl-C, or the stop button of a notebook, ends the training of the field after the step that is
    under way, a second one at once. With `checkpoint` the state after that step is kept: `resume` goes on from there.
    The best flow so far is calibrated (another Ctrl-C leaves that out), left in `adata` and returned with a warning;
    its provenance says ``interrupted``. Earlier, while the codec is trained, KeyboardInterrupt is raised, and with
    `checkpoint` the codec's state is kept. A handler for SIGINT of your own stays in place: what it raises ends the
    step at once. With `checkpoint` SIGTERM, which schedulers send before they kill, ends the training after the step
    that is under way too, with the state kept, and is then sent again with the handler that was there before: by
    default it ends the process; after one of your own that returns all goes on as after Ctrl-C. In SLURM
    ``#SBATCH --signal=TERM@120`` sends it two minutes early; where it is to be another one,
    ``signal.signal(signal.SIGUSR1, lambda *_: signal.raise_signal(signal.SIGTERM))`` passes that on. Handlers are put
    back before this returns, and signals are heard in the main thread alone.

    **Several devices and machines.** Under ``torchrun --nproc-per-node=8`` (and ``--nnodes``), or in a process group of
    the caller's own, the same call in every process trains one flow, which all of them return: PyTorch's
    DistributedDataParallel averages the gradients, with NCCL between GPUs, one for each process, and Gloo between CPUs.
    Each process shows a share of every batch, other cells than the others: n processes with `batch_size` b go the way
    of one with n b, within rounding. (But couplings, the draws of ``space="quantile"`` and, where many processes share
    thousands of coordinates, the noise are each process's own; and from disk each reads blocks of its own.) All are to
    be given the same cells and options. The codec and the calibration are fitted by the first process, which alone
    prints, warns, calls the callbacks and writes checkpoints. A process that ends, by Ctrl-C too, ends all;
    ``torchrun --max-restarts`` goes on from the checkpoint with ``resume=True``.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, condition="cell_type", steps=20, progress=False)
    >>> flow.codec.name, flow.conditions.names
    ('counts', ('cell_type',))
    """
    workers = Workers.now()
    progress, callbacks = progress and workers.first, callbacks if workers.first else ()
    carrying = source is not None or course is not None
    option = "source=" if source is not None else "course=" if course is not None else ""
    given = Given.of(adata, layer, use_rep, key_added=key_added, carrying=option)
    cells = given.cells
    _check_watch(watch, option)
    if course is not None:
        held_out = "groups" if isinstance(validation, str) and validation == "groups" else None
        check_alone(condition=condition, source=source, target=target, path=path, noise=noise, validation=held_out)
    keeping = _checkpoint(checkpoint, resume)
    space = space_of(space, use_rep)
    kind, settings = chosen_field(field)
    recipe = Recipe(
        space=space,
        objective=objective_of(path, time, weight, coupling if course is None else "auto", carrying=source is not None),
        noise=noise_of(noise, space, carrying=carrying),
        steps=default_steps(cells.n_obs) if steps is None else whole(steps, "steps"),
        lr=None if lr == "auto" else positive(lr, "lr"),
        optimisation=_optimisation(optimisation),
        watch=watch if isinstance(watch, Watch) or watch is None else Watch(every=whole(watch, "watch")),
        field=kind,
        network=settings,
    )
    where, fraction = device_of(device), share_of(validation)
    size = None if batch_size == "auto" else whole(batch_size, "batch_size")
    numbers, start = precision_of(precision, where), whole(seed, "seed", least=0)
    data, populations = given.data(), (source, target, group)
    through = None if course is None else (course, coupling_of(coupling))
    held: dict[str, Any] = {"fraction": fraction, "size": size, "seed": start}
    task = Task.of(cells, data, condition, populations, through, key_added=key_added, device=where, **held)
    run = Run(
        train=task.rows[0],
        validation=task.rows[1],
        batch_size=batch_size_of(size, len(task.rows[0]), where, workers, intervals=task.n_intervals),
        seed=start,
        device=where,
        precision=numbers,
        progress=progress,
        callbacks=_callable(callbacks),
        trace=trace_of(profile if workers.first else False),
        workers=workers,
    )
    check_groups(recipe.noise, task.conditions)
    recipe = knowing(recipe, task.conditions)
    recipe = for_groups(recipe, validation, task.roles, usual_steps=steps is None)
    dim = state_dim(space, data.shape, latent=recipe.latent, components=recipe.components)
    check_field(kind, settings, dim, task.conditions.inputs)
    task = given.surveyed(task, run, key_added, fingerprint=keeping is not None)
    layer = None if use_rep else given.source()
    if keeping is not None or workers.size > 1:
        how = _preprocessing(cells, layer, use_rep, key_added)
        genes = [] if use_rep else [str(name) for name in cells.var_names]
        run = _agreed(task, genes, recipe, run, how, keeping, resume)
    warn_of(recipe, run, carrying=carrying)
    with half_the_cores():
        flow, prepared = _learn(cells, task, layer, use_rep, recipe, run, key_added)
    leave(given, prepared, flow, key_added)
    warn_interrupted(flow, None if run.checkpoints is None else run.checkpoints.folder)
    return flow


def _optimisation(optimisation: Optimisation | None) -> Optimisation:
    """What was given, or the usual."""
    if optimisation is None:
        return Optimisation()
    if not isinstance(optimisation, Optimisation):
        raise InputError(
            f"optimisation={optimisation!r} is a {type(optimisation).__name__}. Give settings, such as "
            "scflow.training.Optimisation(schedule='constant')."
        )
    return optimisation


def _check_watch(watch: int | Watch | None, carrying: str) -> None:
    """Raise where cells are to be drawn from noise, and are carried by the option `carrying`."""
    if carrying and watch is not None:
        raise InputError(f"watch={watch!r} draws cells from noise, and with {carrying} there is none. Leave watch out.")


def _learn(
    adata: AnnData,
    task: Task,
    layer: str | None,
    use_rep: str | None,
    recipe: Recipe,
    run: Run,
    key_added: str,
) -> tuple[Flow, Prepared | None]:
    """Say what is about to happen, preprocess where that was not done, and learn; nothing is written yet."""
    n, names = task.data.shape[0], list(task.conditions.names)
    provenance: dict[str, Any] = {"n_cells": n, "seed": run.seed, "condition": names, **task.facts}
    if run.workers.size > 1:
        provenance["processes"] = run.workers.size
    if run.progress:
        what = f"obsm[{use_rep!r}]" if use_rep else f"{adata.n_vars:,} genes in {recipe.space} space"
        steps = f"{recipe.steps:,}" if recipe.held_out == "cells" else f"at most {recipe.most_steps:,}"
        size = run.batch_size if run.workers.size == 1 else f"{run.workers.size} x {run.batch_size}"
        how = f"{steps} steps of {size} cells on {run.device}"
        print(f"scflow: {task.cells_in_words()}, {what}, {how}")
    if use_rep:
        provenance["use_rep"] = use_rep
        return _learnt(task, None, (), recipe, run, provenance), None
    prepared = Prepared.of(adata, layer, key_added)
    provenance |= {"layer": layer or "X", "target_sum": prepared.how.statistics.target_sum}
    genes = tuple(str(name) for name in adata.var_names)
    return _learnt(task, prepared.how, genes, recipe, run, provenance), prepared


def _learnt(
    task: Task,
    how: _anndata.Preprocessing | None,
    genes: tuple[str, ...],
    recipe: Recipe,
    run: Run,
    provenance: dict[str, Any],
) -> Flow:
    """The flow of counts, or of an embedding, which is not preprocessed."""
    statistics, clip = (None, 0.0) if how is None else (how.statistics, how.clip)
    given = (task.conditions, task.condition)
    if task.stages is not None:
        return learn_course(task.data, statistics, clip, task.stages, genes, recipe, run, provenance)
    if task.roles is not None:
        return learn_carrying(task.data, statistics, clip, task.roles, *given, genes, recipe, run, provenance)
    if statistics is None:
        return learn_embedding(task.data, *given, recipe, run, provenance)
    return learn(task.data, statistics, clip, *given, genes, recipe, run, provenance)


def _checkpoint(checkpoint: str | os.PathLike[str] | Checkpoint | None, resume: bool) -> Checkpoint | None:
    """Where and how often the run is kept."""
    if checkpoint is None:
        if resume:
            raise InputError("resume=True has no run to go on with. Name its folder: checkpoint='run', resume=True.")
        return None
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(path_of(checkpoint, "checkpoint"))


def _agreed(
    task: Task,
    genes: Sequence[str],
    recipe: Recipe,
    run: Run,
    prepared: dict[str, Any],
    keeping: Checkpoint | None,
    resume: bool,
) -> Run:
    """The run, once all processes have said that they mean the same one, with its folder."""
    of = identity(task.data, genes, task.conditions, task.condition, recipe, run, prepared | dict(task.facts))
    of["data"] |= described(task.belonging)
    # A network of the caller's own is that of the first process, however those of others started.
    run.workers.agree(of if isinstance(recipe.field, str) else of | {"field": None})
    if keeping is None:
        return run
    return replace(run, checkpoints=run.workers.once(lambda: _opened(keeping, of, resume, run.progress)))


def _callable(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks that can be called."""
    given = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    wrong = next((one for one in given if not callable(one)), None)
    if wrong is not None or given is not callbacks:
        raise InputError(f"callbacks={callbacks!r} is no list of functions that take a row of the history.")
    return tuple(given)


def _opened(settings: Checkpoint, of: dict[str, Any], resume: bool, progress: bool) -> Checkpoints:
    """The run's folder, after a comparison with the run that is in it."""
    checkpoints = Checkpoints(settings, of, resume=resume)
    if resume and progress:
        said = "going on with the run" if checkpoints.found else "no run to go on with yet: starting one"
        print(f"scflow: {said} in '{checkpoints.folder}'")
    return checkpoints


def _preprocessing(adata: AnnData, layer: str | None, use_rep: str | None, key_added: str) -> dict[str, Any]:
    """How counts become the network's input, as far as the caller decides it."""
    if use_rep:
        return {"use_rep": use_rep}
    done = _anndata.read_preprocessing(adata, key_added)
    target, clip = (1e4, 10.0) if done is None or done.layer != layer else (done.statistics.target_sum, done.clip)
    return {"layer": layer, "target_sum": float(target), "clip": float(clip)}
