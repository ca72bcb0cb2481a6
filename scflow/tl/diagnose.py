"""Say what went wrong in a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.flow._diagnosis import Finding, of_cells, of_history
from scflow.tl._options import half_the_cores, whole

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["diagnose"]


def diagnose(
    flow: Flow | AnnData | pd.DataFrame,
    *,
    n_cells: int = 500,
    seed: int = 0,
    key: str = "scflow",
    verbose: bool = True,
) -> pd.DataFrame:
    """Say in plain words which troubles a training had, the figures that show it, and what to do.

    Four troubles are known: the loss does not fall, gradients are NaN, drawn cells are poor, drawn cells are all alike.
    Cautions are what may lead to one of them. The history shows some of this; for the rest a few cells are drawn and
    their spread is compared with that of the training cells. Where training was watched (``watch=`` of
    :func:`scflow.tl.train`), its scores are read, too.

    Parameters
    ----------
    flow
        A flow, the AnnData that it was trained on, or a history alone, such as that of the error that ended a
        training: ``error.history``.
    n_cells
        Cells to draw; 0 draws none.
    seed
        Of the draw.
    key
        Where in `.uns` of an AnnData the flow is.
    verbose
        Print what was found.

    Returns
    -------
    pandas.DataFrame
        One row a finding, with the columns `trouble` ("loss not falling", "nan", "poor samples", "mode collapse",
        "caution"), `seen` and `advice`; without rows where nothing was found.

    Raises
    ------
    InputError
        Where there is no flow or history.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> flow = scflow.tl.train(adata, steps=20, lr=1e-9, progress=False)
    >>> scflow.tl.diagnose(flow, verbose=False)["trouble"].tolist()
    ['loss not falling']
    """
    n = whole(n_cells, "n_cells", least=0)
    found: list[Finding]
    if isinstance(flow, pd.DataFrame):
        found = list(of_history(_checked(flow), {}))
    else:
        flow = flow if isinstance(flow, Flow) else Flow.from_content(_anndata.read_flow(flow, key))
        found = list(of_history(flow.history, flow.provenance))
        with half_the_cores():
            found += list(of_cells(flow, n, whole(seed, "seed", least=0))) if n > 1 else []
    if verbose:
        print("\n".join(f"{f.trouble}: {f.seen} {f.advice}" for f in found) or "Nothing was found.")
    return pd.DataFrame(found, columns=list(Finding._fields))


def _checked(history: pd.DataFrame) -> pd.DataFrame:
    missing = [c for c in ("step", "loss", "gradient_norm", "learning_rate") if c not in history]
    if missing:
        raise InputError(
            f"The history lacks {len(missing)} columns ({', '.join(missing)}). Give flow.history as training made it."
        )
    return history
