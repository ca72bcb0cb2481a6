"""How good cells are for how many evaluations of the field."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scflow import _anndata, _keys
from scflow.errors import InputError, listed, names_of
from scflow.flow import CALIBRATIONS, Flow, Sampling
from scflow.flow._learning import drawn_to_calibrate
from scflow.matching import FlowMap
from scflow.matching import solvers as methods
from scflow.matching.names import SOLVERS, chosen, named
from scflow.metrics.catalogue import METRICS, known
from scflow.metrics.yardstick import Yardstick
from scflow.tl._options import device_of, half_the_cores, one_of, positive, whole

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["steps"]

_METRICS = ("forest_auc_genes", "forest_auc_components", "mmd", "wasserstein")
_EVALUATIONS = (1, 2, 4, 8, 24, 50)


@dataclass(frozen=True)
class _Way:
    """One way of drawing from one flow."""

    flow: str
    solver: methods.Solver
    shift: float
    steps: int


def steps(
    flows: Flow | AnnData | Mapping[str, Flow],
    real: AnnData,
    *,
    reference: AnnData,
    solvers: str | Sequence[str | methods.Solver | tuple[str, float]] = "auto",
    evaluations: Sequence[int] = _EVALUATIONS,
    metrics: str | Sequence[str] = _METRICS,
    calibration: str = "balanced",
    layer: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    key_added: str = "scflow",
) -> pd.DataFrame:
    """Score the cells of flows by how many evaluations of the field they are drawn with.

    For each flow, solver and number of evaluations one cell is drawn for each cell of `real`, under its conditions and
    from the same noise, and compared with one half of `real` as :func:`scflow.tl.score` does; the other half gives the
    floor. Counts are calibrated anew for every way of drawing: each is judged by what it can do.

    Parameters
    ----------
    flows
        A flow, an AnnData that :func:`scflow.tl.train` left one in, or several flows by name, such as
        ``{"original": flow, "reflowed": straight, "distilled": quick}``.
    real
        Held-out real cells: none of them may have been trained on.
    reference
        The training cells, which make the space of the comparison.
    solvers
        Names of solvers, solvers, or pairs of a name and a shift such as ``("adams", 3.0)``. ``"auto"`` takes all that
        suit a flow: jumps for a flow map; for others Euler, midpoint, Heun, RK4, Adams, Adams with a shift of 3, and
        dopri5 (tolerance 1e-3) where torchdiffeq is installed.
    evaluations
        How many; a solver that evaluates the field twice a step takes half as many steps, and is left out where they
        do not divide. What chooses its own steps comes once, with the number that it took.
    metrics
        Names of :func:`scflow.tl.score`'s metrics.
    calibration
        As in :func:`scflow.tl.generate`. ``"none"`` leaves counts as the codec draws them, which tells more of the flow
        itself.
    layer
        Where the counts are, in both; otherwise `.X`, or `.layers["counts"]` where `.X` holds no counts.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        The same seed gives the same table.
    progress
        Show a progress bar.
    key_added
        The slot's name.

    Returns
    -------
    pandas.DataFrame
        One row a flow, solver, number of evaluations and metric. Also written to `real.uns["scflow_steps"]`, which
        :func:`scflow.pl.steps` draws. Columns: `flow`, `solver`, `shift`, `evaluations`, `metric`, `value`, `floor`,
        and `low`, `high`, the 95 % interval of the value.

    Raises
    ------
    InputError
        For counts, conditions, solvers or metrics that are not known or do not fit, a flow in an embedding, or fewer
        than 20 cells a side.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.simulate(n_cells=200, n_genes=50, seed=0)
    >>> train, held_out = scflow.pp.split(adata)
    >>> flow = scflow.tl.train(train, steps=20, progress=False)
    >>> table = scflow.tl.steps(
    ...     flow, held_out, reference=train, solvers=["euler"], evaluations=[1, 2], metrics="mmd", progress=False
    ... )
    >>> table["evaluations"].tolist()
    [1.0, 2.0]
    """
    several = _flows(flows)
    names = known(metrics)
    counts = [int(whole(n, "evaluations")) for n in names_of(evaluations, "evaluations")]
    ways = [way for name, flow in several.items() for way in _ways(name, flow, solvers, counts)]
    if not ways:
        raise InputError(
            f"None of evaluations={counts} can be had from solvers={solvers!r}: a step of midpoint or Heun takes 2, of "
            "RK4 4. Use evaluations=[4, 8]."
        )
    base = Sampling(
        device=device_of(device),
        seed=whole(seed, "seed", least=0),
        calibration=one_of(calibration, CALIBRATIONS, "calibration"),
    )
    cells = {name: _counts(flow, real, layer, "real") for name, flow in several.items()}
    first = next(iter(several))
    with half_the_cores():
        found = _counts(several[first], reference, layer, "reference")
        labels = _labels(several[first], real, "real")
        compared = any(METRICS[name].needs_labels for name in names)
        training = _labels(several[first], reference, "reference") if compared else None
        yardstick = Yardstick.of(cells[first], found, names, labels=labels, reference_labels=training, seed=base.seed)
        rows = [row for way in _shown(ways, progress) for row in _rows(way, several, real, yardstick, base)]
    table = pd.DataFrame(rows)
    _anndata.write_table(real, table, _keys.slots(key_added).steps)
    return table


def _flows(flows: Flow | AnnData | Mapping[str, Flow]) -> dict[str, Flow]:
    """Flows by name, all of the same genes."""
    if isinstance(flows, Flow):
        several = {"flow": flows}
    elif isinstance(flows, Mapping):
        several = {str(name): flow for name, flow in flows.items()}
    else:
        several = {"flow": Flow.from_content(_anndata.read_flow(flows, name="flows"))}
    wrong = [name for name, flow in several.items() if not isinstance(flow, Flow)]
    if wrong or not several:
        what = f"{listed(wrong)} of {len(several)} are none" if wrong else "there are none"
        raise InputError(f"flows has to hold flows by name; {what}. Give {{'original': flow}}.")
    genes = next(iter(several.values())).genes
    for name, flow in several.items():
        if not flow.codec.has_counts:
            raise InputError(f"The flow {name!r} lives in an embedding and draws no counts, which is what is scored.")
        if flow.genes != genes:
            raise InputError(
                f"The flow {name!r} has {len(flow.genes)} genes, and not those {len(genes)} of the first one. Compare "
                "flows of the same genes."
            )
    return several


def _ways(name: str, flow: Flow, asked: Any, evaluations: Sequence[int]) -> Iterator[_Way]:
    """The ways of drawing from a flow."""
    for solver, shift in _solvers(flow, asked):
        if solver.adaptive:
            yield _Way(name, solver, 1.0, 1)
            continue
        for n in evaluations:
            if n % solver.evaluations == 0:
                yield _Way(name, solver, shift, n // solver.evaluations)


def _solvers(flow: Flow, asked: Any) -> list[tuple[methods.Solver, float]]:
    """Solvers and shifts."""
    jumps = isinstance(flow.field, FlowMap)
    if isinstance(asked, str) and asked == "auto":
        if jumps:
            return [(methods.Jump(), 1.0)]
        plain = ["euler", "midpoint", "heun", "rk4", "adams"]
        there = importlib.util.find_spec("torchdiffeq") is not None
        adaptive = [(methods.Dopri5(rtol=1e-3, atol=1e-3), 1.0)] if there else []
        return [*((SOLVERS[name](), 1.0) for name in plain), (methods.Adams(), 3.0), *adaptive]
    found = []
    for one in [asked] if isinstance(asked, methods.Solver) else names_of(asked, "solvers"):
        solver, shift = one if isinstance(one, tuple) else (one, 1.0)
        method = chosen(solver, SOLVERS, methods.Solver, "solvers")
        # Several flows, some of them maps, are asked for the same solvers.
        if method.jumps <= jumps:
            found.append((method, positive(shift, "shift")))
    return found


def _rows(
    way: _Way, flows: Mapping[str, Flow], real: AnnData, yardstick: Yardstick, base: Sampling
) -> Iterator[dict[str, Any]]:
    """Draw in one way, and measure."""
    flow = flows[way.flow]
    sampling = replace(base, solver=way.solver, shift=way.shift, steps=way.steps)
    if base.calibration != "none":
        n = drawn_to_calibrate(flow.codec.dim)
        flow = flow.recalibrated(n_drawn=n, sampling=replace(sampling, seed=base.seed + 1))
    request = _anndata.read_conditions(real, list(flow.conditions.names)) if len(flow.conditions) else None
    drawn = flow.draw(real.n_obs, request, sampling)
    assert drawn.counts is not None
    for metric, estimate in yardstick.measure(drawn.counts).items():
        yield {
            "flow": way.flow,
            "solver": named(way.solver, SOLVERS)["name"],
            "shift": way.shift,
            "evaluations": drawn.evaluations,
            "metric": metric,
            "value": estimate.value,
            "floor": yardstick.floor[metric].value,
            "low": estimate.low,
            "high": estimate.high,
        }


def _counts(flow: Flow, adata: AnnData, layer: str | None, name: str) -> sparse.csr_matrix:
    """Counts of the flow's genes, in its order."""
    _anndata.checked(adata, name=name)
    counts = _anndata.read_counts(adata, layer, name=name, for_training=False)
    return sparse.csr_matrix(counts[:, _anndata.match_genes(adata, flow.genes, name=name)])


def _labels(flow: Flow, adata: AnnData, name: str) -> NDArray[np.str_] | None:
    """The combination of conditions with labels that each cell is of, where the flow has any."""
    names = [column.name for column in flow.conditions.columns if column.cardinality]
    if not names:
        return None
    parts = [_anndata.obs_column(adata, column, name=name).astype(str).to_numpy(dtype=str) for column in names]
    return np.array([", ".join(of) for of in zip(*parts, strict=True)], dtype=np.str_)


def _shown(ways: Sequence[_Way], progress: bool) -> Iterator[_Way]:
    """The ways, with a progress bar."""
    from tqdm.auto import tqdm

    yield from tqdm(ways, desc="ways of drawing", unit="way", disable=None if progress else True)
