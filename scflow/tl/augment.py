"""Real cells, and new ones where types are rare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scflow import _anndata, _keys
from scflow.conditions import as_column
from scflow.errors import InputError, listed, nearest
from scflow.flow import CALIBRATIONS, Flow
from scflow.tl._options import device_of, one_of, whole
from scflow.tl.generate import generate
from scflow.tl.train import train

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["augment"]


def augment(
    adata: AnnData,
    key: str = "cell_type",
    *,
    target: str | float | None = None,
    n_obs: int | Mapping[str, int] | None = None,
    flow: Flow | AnnData | None = None,
    layer: str | None = None,
    space: str = "auto",
    steps: int | None = None,
    calibration: str = "balanced",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
) -> AnnData:
    """Put new cells beside real ones, so that rare types are rare no more: real and synthetic cells in one AnnData.

    For training a classifier, say. Split off the cells that it is tested on first: synthetic cells are made of all
    cells given here. They hold what the flow learnt of a type from its real cells and from those of other types; they
    are no new measurements, and no statistical test may count them.

    Parameters
    ----------
    adata
        Cells with raw counts, sparse or dense, in `.X` or in `layer`. No synthetic ones.
    key
        The column of `.obs` with the categories to add to.
    target
        ``"balance"`` brings every category up to as many cells as the largest has, a number above 0 and at most 1 to
        that share of it, rounded up. Either this or `n_obs` has to be given.
    n_obs
        How many cells to add: of each category, such as ``{"Delta": 200}``; or in all, in the real cells' shares.
    flow
        What to draw from: a flow with `key` among its conditions, or an AnnData that :func:`scflow.tl.train` left one
        in. ``None`` trains one on `adata` with ``condition=key``, and leaves it there as `train` does, so that
        ``flow=adata`` serves the next call. Its other conditions are drawn as they occur with the category.
    layer
        Where the counts are; by default `.X`, or `.layers["counts"]` where `.X` holds no counts.
    space, steps
        Options of :func:`scflow.tl.train`, where a flow is trained; for more of them, train one.
    calibration
        As in :func:`scflow.tl.generate`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        Of all random numbers of this call. The global random state is not touched.
    progress
        Show progress bars.
    key_added
        The slots' name, and what synthetic cells are called.

    Returns
    -------
    AnnData
        The real cells as they are in `adata`, with all that they have, and the synthetic ones below, category by
        category, named "scflow-0", "scflow-1", ... They differ in `.obs["scflow_synthetic"]`, true or false;
        `.uns["scflow_augment"]` tells where the synthetic ones come from. Those have

        - `.X` and layers in the same units and container: counts, counts normalised to a total, or log1p of these
          (where genes were dropped after normalising, to the median total of the genes at hand). NaN in layers in any
          other units, and that takes the room of a dense matrix;
        - in `.obs` `key` and the flow's other conditions. Other columns are NaN or NA: those of whole numbers and truth
          values get pandas' nullable types, of the same width;
        - NaN in `.obsm`, and no edges in the graphs of `.obsp`;
        - values in `.raw`, where that has no other genes; otherwise the result has no `.raw`, and a warning says so.

        Without `flow`, `adata` itself gets the slots that :func:`scflow.tl.train` writes; nothing else is changed.

    Raises
    ------
    InputError
        Where neither or both of `target` and `n_obs` are given, nothing would be added, `key` is not in `.obs`, holds
        numbers or lacks values, a category is not known, the flow has no such condition or other genes, `.X` is in
        units that new cells cannot have, or cells are synthetic already.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, n_types=2, proportions=[0.9, 0.1], seed=0)
    >>> more = scflow.tl.augment(adata, target="balance", steps=20, progress=False)
    >>> more.obs["scflow_synthetic"].groupby(more.obs["cell_type"], observed=True).agg(["size", "sum"]).values.tolist()
    [[182, 0], [182, 164]]
    """
    _check_real(adata, _keys.slots(key_added).synthetic)
    sizes = _sizes(adata, key)
    known = None if flow is None else _flow(flow, key_added, key, adata, space, steps)
    wanted = _wanted(sizes, target, n_obs, key, known)
    start = whole(seed, "seed", least=0)
    one_of(calibration, CALIBRATIONS, "calibration")
    device_of(device)
    units = _anndata.read_units(adata, layer)
    if known is None:
        known = train(
            adata,
            condition=key,
            layer=layer,
            space=space,
            steps=steps,
            device=device,
            seed=start,
            progress=progress,
            key_added=key_added,
        )
    labels = pd.DataFrame({key: np.repeat(np.array(list(wanted), dtype=object), list(wanted.values()))})
    drawn: AnnData = generate(
        known, len(labels), condition=labels, calibration=calibration, device=device, seed=start, progress=progress
    )
    return _anndata.joined(
        adata,
        sparse.csr_matrix(drawn.layers[_keys.COUNTS][:, drawn.var_names.get_indexer(adata.var_names)]),
        drawn.obs,
        units,
        provenance={**drawn.uns[_keys.FLOW]["provenance"], "key": key},
        key_added=key_added,
    )


def _check_real(adata: AnnData, column: str) -> None:
    """Raise where cells are synthetic already: a flow that learns from its own cells learns its own faults."""
    _anndata.checked(adata)
    if column not in adata.obs:
        return
    n = int((adata.obs[column].astype(str) != "False").sum())
    if n:
        raise InputError(
            f"{n} of {adata.n_obs} cells are not False in adata.obs[{column!r}]: they are synthetic already. Give the "
            f"real ones: adata[adata.obs[{column!r}] == False].copy()."
        )


def _sizes(adata: AnnData, key: str) -> dict[Any, int]:
    """How many cells each category has, those that occur."""
    values = as_column(_anndata.obs_column(adata, key), key)
    if not isinstance(values.dtype, pd.CategoricalDtype):
        raise InputError(
            f"obs[{key!r}] holds numbers ({values.nunique()} different ones in {adata.n_obs} cells), and there are no "
            f"categories to add to. Name a column of labels, or make it one: "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].astype(str).astype('category')."
        )
    return {label: int(n) for label, n in values.value_counts(sort=False).items()}


def _flow(flow: Flow | AnnData, slot: str, key: str, adata: AnnData, space: str, steps: int | None) -> Flow:
    """The flow that was given, once it is known to draw these genes by this condition."""
    found = flow if isinstance(flow, Flow) else Flow.from_content(_anndata.read_flow(flow, slot, name="flow"))
    if space != "auto" or steps is not None:
        raise InputError(
            f"space={space!r} and steps={steps!r} are about training, and flow={found!r} is trained already. Leave "
            "them out, or leave flow out."
        )
    names = found.conditions.names
    if dict(zip(names, found.conditions.inputs, strict=True)).get(key, 0) == 0:
        has = f"It has {listed(names)}" if names else "It has none"
        raise InputError(
            f"The flow has no condition {key!r} with categories.{nearest(key, names)} {has}. Train one with it, "
            f"scflow.tl.train(adata, condition={key!r}), or leave flow out."
        )
    if not found.codec.has_counts:
        raise InputError("The flow lives in an embedding and draws no counts. Train one on counts, or leave flow out.")
    lacking = adata.var_names.difference(found.genes, sort=False)
    if len(lacking):
        raise InputError(
            f"The flow lacks {len(lacking)} of the {adata.n_vars} genes of adata ({listed(lacking)}). Keep those that "
            "it has: adata = adata[:, adata.var_names.isin(flow.genes)].copy()."
        )
    return found


def _wanted(sizes: Mapping[Any, int], target: Any, n_obs: Any, key: str, flow: Flow | None) -> dict[Any, int]:
    """How many cells to add, by category: those that get any."""
    if (target is None) == (n_obs is None):
        raise InputError(
            f"target={target!r} and n_obs={n_obs!r} were given, and exactly one of them says how many cells to add: "
            f"target='balance', or n_obs={{{str(next(iter(sizes)))!r}: 200}}."
        )
    if target is not None:
        asked = _up_to(sizes, target)
    elif isinstance(n_obs, Mapping):
        text = {str(label): label for label in sizes}  # "2" is the category 2, as in tl.generate.
        asked = {text.get(str(label), label): whole(n, f"n_obs[{label!r}]", least=0) for label, n in n_obs.items()}
    else:
        asked = _in_shares(sizes, whole(n_obs, "n_obs"))
    wanted = {label: n for label, n in asked.items() if n}
    _check_known(wanted, sizes, key, flow)
    if not wanted:
        raise InputError(
            f"Nothing to add: {f'target={target!r}' if n_obs is None else f'n_obs={n_obs!r}'} asks for no cells beyond "
            f"those of the {len(sizes)} categories of obs[{key!r}], which have {min(sizes.values())} to "
            f"{max(sizes.values())}. Say how many to add: n_obs={{{str(next(iter(sizes)))!r}: 200}}."
        )
    return wanted


def _up_to(sizes: Mapping[Any, int], target: Any) -> dict[Any, int]:
    """What each category lacks to be as large as the largest, or a share of it."""
    share = 1.0 if isinstance(target, str) and target == "balance" else target
    is_share = isinstance(share, (int, float, np.number)) and not isinstance(share, bool) and 0 < share <= 1
    if not is_share:
        raise InputError(
            f"target={target!r} is neither 'balance' nor a share of the largest category, above 0 and at most 1."
            f"{nearest(target, ['balance'])} For a number of cells give n_obs={{{str(next(iter(sizes)))!r}: 200}}."
        )
    # 0.1 * 30 is a little above 3, which is not to become 4.
    most = math.ceil(round(float(share) * max(sizes.values()), 6))
    return {label: max(0, most - n) for label, n in sizes.items()}


def _in_shares(sizes: Mapping[Any, int], n: int) -> dict[Any, int]:
    """`n` cells in the shares of the real ones, each rounded up or down."""
    ends = np.cumsum(list(sizes.values())) / sum(sizes.values())
    return dict(zip(sizes, np.diff(np.rint(n * ends).astype(int), prepend=0).tolist(), strict=True))


def _check_known(wanted: Mapping[Any, int], sizes: Mapping[Any, int], key: str, flow: Flow | None) -> None:
    """Raise where a category cannot be drawn."""
    if flow is not None:
        column = flow.conditions.columns[flow.conditions.names.index(key)]
        column.encode(list(wanted))
        return
    unknown = [label for label in wanted if label not in sizes]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(wanted)} categories asked for are not in obs[{key!r}] ({listed(unknown)})."
            f"{nearest(unknown[0], sizes)} It has {listed(sizes, most=20)}."
        )
