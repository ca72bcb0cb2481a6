"""Make a flow straight, so that few steps draw its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy import sparse

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._fewer import Fewer, RealCells, reflowed
from scflow.matching import times
from scflow.matching.names import TIMES, chosen
from scflow.tl._following import cells_of
from scflow.tl._leaving import warn_interrupted
from scflow.tl._options import half_the_cores, positive, whole
from scflow.tl._teaching import Guidance, run_of, settings, teacher
from scflow.training.batches import Cells, Coordinates

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["reflow"]

_SHARE = 0.25


def reflow(
    flow_or_adata: Flow | AnnData,
    *,
    iterations: int = 1,
    n_pairs: int | str = "auto",
    guidance: Guidance = 1.0,
    adata: AnnData | None = None,
    layer: str | None = None,
    share: float | str = "auto",
    time: str | times.Time = "u_shaped",
    steps: int = 2000,
    batch_size: int | str = "auto",
    lr: float | str = "auto",
    draw_steps: int = 4,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Flow:
    """Straighten a flow: train it anew on pairs of noise and cell that it has coupled itself (Liu et al. 2023).

    Pairs are drawn with the averaged weights and 16 steps of RK4. Noise, cell and condition stay together, and a tenth
    of the pairs is drawn under no condition, so that guidance remains possible. The field starts with the weights that
    it has. Where cells and noise are paired by the flow, its ways no longer cross, and become straight: few steps of
    Euler's follow them. The calibration of counts is made anew for those.

    Ctrl-C ends the training early and keeps the best so far, with a warning.

    Parameters
    ----------
    flow_or_adata
        A flow, or the AnnData that :func:`scflow.tl.train` left one in, which then serves as `adata`, too.
    iterations
        Rounds, each on pairs of the flow before. One does nearly all there is to do.
    n_pairs
        Pairs a round; ``"auto"`` is 20,000, and fewer of very wide states.
    guidance
        What the pairs are drawn with (of the first round), as in :func:`scflow.tl.generate`. The new flow has it in
        itself: draw from it with guidance 1.
    adata
        The cells that the flow was trained on. Some of the pairs are then real cells with the noise that the flow,
        followed backwards, finds for them: rounds do not drift away from the data.
    layer
        Where their counts are; where they were in training unless given.
    share
        Of real cells among the pairs, from 0 to 1; ``"auto"`` is a quarter where there are any and they fit.
    time
        The law of training times. Straight ways leave least to learn in the middle: ``"u_shaped"``.
    steps, batch_size, lr
        Of the training of a round, as in :func:`scflow.tl.train`.
    draw_steps
        Steps of Euler's method that cells are drawn in, where :func:`scflow.tl.generate` is not told otherwise, and
        that counts are calibrated for.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of all random numbers of this call. The global random state is not touched.
    progress
        Show a progress bar.

    Returns
    -------
    Flow
        On the linear path, with the codec, conditions, genes and noise of the one before, which stays as it is. Its
        provenance says ``made_by: reflow``, from how many pairs and with which guidance.

    Raises
    ------
    InputError
        For numbers that do not fit; for a flow that was distilled; for real cells where their noise would not follow
        the flow's: with guidance other than 1, and with noises that have no density.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, steps=20, progress=False)
    >>> straight = scflow.tl.reflow(flow, n_pairs=200, steps=20, progress=False)
    >>> straight.provenance["made_by"], straight.usual.steps
    ('reflow', 4)
    """
    flow = teacher(flow_or_adata, "reflow")
    turns, law = whole(iterations, "iterations"), chosen(time, TIMES, times.Time, "time")
    how = settings(flow, n_pairs, "n_pairs", 2, guidance, steps, lr, ("euler", draw_steps))
    run = run_of(how, batch_size, device, seed, progress)
    cells = flow_or_adata if adata is None and not isinstance(flow_or_adata, Flow) else adata
    real_share = _share(flow, how, share, cells, asked=adata is not None)
    real = None if cells is None or not real_share else _real(flow, cells, layer, run.device)
    with half_the_cores():
        new = reflowed(flow, how, law, turns, real, real_share, run)
    warn_interrupted(new, caller=3)
    return new


def _share(flow: Flow, how: Fewer, share: float | str, cells: AnnData | None, *, asked: bool) -> float:
    """The share of real cells; none where they do not fit, unless they were asked for."""
    wanted = _SHARE if share == "auto" else positive(share, "share", zero=True)
    if wanted > 1:
        raise InputError(f"share={share} is the share of real cells among the pairs: 1 at most, such as 0.25.")
    if cells is None:
        if share != "auto" and wanted:
            raise InputError(
                f"share={share} needs the cells that the flow was trained on. Give them: scflow.tl.reflow(flow, "
                "adata=adata), or leave share='auto'."
            )
        return 0.0
    reason = _misfit(flow, how)
    if reason is None or not wanted:
        return wanted
    if asked or share != "auto":
        raise InputError(f"Real cells cannot be among the pairs: {reason} Leave adata=None and share=0.")
    return 0.0


def _misfit(flow: Flow, how: Fewer) -> str | None:
    """Why real cells and the noise that is found for them do not belong to the pairs, if so."""
    scale = how.guidance.weights(flow.conditions.names)
    if any(w != 1 for w in (scale if isinstance(scale, tuple) else (scale,))):
        return f"guidance={scale} draws another law than theirs."
    if not flow.noise.has_density:
        return (
            f"a {type(flow.noise).__name__} noise has no density, and the noise found for a cell by following the flow "
            "backwards does not have its zeros."
        )
    return None


def _real(flow: Flow, adata: AnnData, layer: str | None, device: torch.device) -> RealCells:
    """The training cells, with the flow's genes in its order, and their conditions."""
    _anndata.checked(adata)
    frame = _anndata.read_conditions(adata, list(flow.conditions.names)) if len(flow.conditions) else None
    condition = None if frame is None else flow.conditions.encode(frame).to(device)
    cells = cells_of(flow, adata, layer)
    return RealCells(Cells(cells, device) if sparse.issparse(cells) else Coordinates(cells, device), condition)
