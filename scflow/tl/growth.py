"""How many descendants cells have at the next time point of a course."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scflow import _anndata
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.tl._course import Trip
from scflow.tl._following import flow_of
from scflow.tl._options import half_the_cores

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["growth"]


def growth(
    adata: AnnData,
    flow: Flow | AnnData | None = None,
    *,
    layer: str | None = None,
    key_added: str = "scflow",
    copy: bool = False,
) -> AnnData | None:
    """How many descendants cells have at the next time point of a course, relative to the mean of their time point.

    By the plans between time points that the flow was trained on (``scflow.tl.train(adata, course="day")``): above 1
    where cells proliferate, below where they die. What a plan cannot tell is a cell that moved from one that died while
    others proliferated: the price of growth decides, `reach` in ``coupling=scflow.matching.couplings.Unbalanced(...)``.
    A time point's cells are a sample, so how many there are in all says nothing, and the mean is 1. With groups, those
    of a group have as many on average as its share of the cells grows by.

    Parameters
    ----------
    adata
        Cells with their times and groups in `.obs`: counts of the flow's genes, or the embedding that it lives in. They
        need not be those that it was trained on.
    flow
        The flow, or an AnnData that was left one in `.uns[key_added]`; by default `adata` itself.
    layer
        Where the counts are; by default `.X`, or `.layers["counts"]` where `.X` holds no counts.
    key_added
        The slots' name.
    copy
        Return a copy with the results, and leave `adata` as it is.

    Returns
    -------
    AnnData or None
        Sets `.obs["scflow_growth"]`: NaN at the last time point, and in groups that have no cells at the next one.

    Raises
    ------
    InputError
        Where the flow is of no time course, times or groups are missing or outside of it, or genes are not there.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> adata.obs["day"] = [float(i % 3) for i in range(adata.n_obs)]
    >>> flow = scflow.tl.train(adata, course="day", steps=20, progress=False)
    >>> scflow.tl.growth(adata, flow)
    >>> int(adata.obs["scflow_growth"].isna().sum()) == int((adata.obs["day"] == 2).sum())
    True
    """
    _anndata.checked(adata)
    found = flow_of(flow, adata, key_added)
    if found.course is None:
        raise InputError(
            "This flow is of no time course, and knows of no descendants. Train one: "
            "scflow.tl.train(adata, course='day')."
        )
    trip = Trip.of(adata, found, found.course, layer)
    with half_the_cores():
        values = trip.growth()
    adata = adata.copy() if copy else adata
    _anndata.write_growth(adata, values, key_added)
    return adata if copy else None
