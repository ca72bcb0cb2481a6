"""Make a flow map of a flow, so that one step draws its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scflow.flow import Flow
from scflow.flow._fewer import PIECES, distilled
from scflow.matching.distillation import Distillation
from scflow.matching.names import DISTILLATIONS, chosen
from scflow.tl._leaving import warn_interrupted
from scflow.tl._options import half_the_cores
from scflow.tl._teaching import Guidance, run_of, settings, teacher

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["distill"]


def distill(
    flow_or_adata: Flow | AnnData,
    *,
    method: str | Distillation = "trajectory",
    n_trajectories: int | str = "auto",
    guidance: Guidance = 1.0,
    steps: int = 2000,
    batch_size: int | str = "auto",
    lr: float | str = "auto",
    draw_steps: int = 1,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Flow:
    r"""Distil a flow to a flow map, :math:`X_{t \to s}(x) = x + (s - t) u(x, t, s)`, which jumps from noise to cell.

    The map has the field's network, told a second time, and starts with its weights. It learns from trajectories of
    the flow, each followed from its noise to its cell by RK4, of which nine states are kept; the averaged weights draw
    them, under conditions as they are in the training cells, and a tenth under none. The calibration of counts is made
    anew for cells drawn by the map.

    Ctrl-C ends the training early and keeps the best so far, with a warning.

    Parameters
    ----------
    flow_or_adata
        A flow, or the AnnData that :func:`scflow.tl.train` left one in.
    method
        ``"trajectory"``: get to where the flow gets, from any state that was kept to any later one. ``"lagrangian"``:
        the end of the map moves with the flow's velocity (Boffi, Albergo and Vanden-Eijnden 2025); four times as much
        work a step. Or an object of :mod:`scflow.matching.distillation`.
    n_trajectories
        How many; ``"auto"`` is 20,000, and fewer of wide states.
    guidance
        What they are drawn with, as in :func:`scflow.tl.generate`. The map has it in itself and knows no other.
    steps, batch_size, lr
        Of the training, as in :func:`scflow.tl.train`.
    draw_steps
        Jumps that cells are drawn in, where :func:`scflow.tl.generate` is not told otherwise, and that counts are
        calibrated for.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of all random numbers of this call. The global random state is not touched.
    progress
        Show a progress bar.

    Returns
    -------
    Flow
        On the linear path, with the codec, conditions, genes and noise of its teacher, which stays as it is. Cells are
        drawn by ``solver="jump"``; other solvers follow its velocity, the diagonal of the map. Its provenance says
        ``made_by: distill``, from how many trajectories and with which guidance.

    Raises
    ------
    InputError
        For numbers that do not fit; for a flow that is distilled already, whose path is not affine, or whose field is
        none of :mod:`scflow.nn`.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, steps=20, progress=False)
    >>> quick = scflow.tl.distill(flow, n_trajectories=200, steps=20, progress=False)
    >>> new = scflow.tl.generate(quick, 30, progress=False)
    >>> new.uns["scflow"]["provenance"]["solver"], new.uns["scflow"]["provenance"]["evaluations"]
    ('jump', 1.0)
    """
    flow = teacher(flow_or_adata, "distill")
    loss = chosen(method, DISTILLATIONS, Distillation, "method")
    how = settings(flow, n_trajectories, "n_trajectories", PIECES + 1, guidance, steps, lr, ("jump", draw_steps))
    run = run_of(how, batch_size, device, seed, progress)
    with half_the_cores():
        new = distilled(flow, how, loss, run)
    warn_interrupted(new, caller=3)
    return new
