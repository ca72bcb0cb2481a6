"""The same seed gives the same flow, whatever is shown, kept or told on the way, and no global seed is touched."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from children import SETTINGS, State, cells, same_flow
from scipy import sparse

import scflow
from scflow.flow import Flow
from scflow.training import Checkpoint

pytestmark = pytest.mark.usefixtures("small_flows")

QUICK: dict[str, Any] = {**SETTINGS, "steps": 24, "space": "genes", "noise": "gaussian"}
RANDOM = ("random", "numpy", "torch")


@pytest.fixture(scope="module")
def flow(small_flows: None) -> Flow:
    return scflow.tl.train(cells(), **QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {"progress": True},
        {"callbacks": [lambda row: random.random()]},
        {"checkpoint": 1},
        {"checkpoint": 5},
        {"profile": True},
        {"key_added": "other"},
    ],
    ids=lambda options: "".join(f"{key} {value}" for key, value in options.items())[:20],
)
def test_what_is_shown_kept_or_told_changes_nothing(options: dict[str, Any], flow: Flow, tmp_path: Path) -> None:
    if "checkpoint" in options:
        options = {"checkpoint": Checkpoint(tmp_path / "run", every=options["checkpoint"])}
    if "profile" in options:
        options = {"profile": tmp_path / "trace.json"}
    assert not same_flow(scflow.tl.train(cells(), **{**QUICK, **options}), flow)


def test_global_seeds_change_nothing_and_stay(flow: Flow) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    assert not same_flow(scflow.tl.train(cells(), **QUICK), flow)


def test_types_and_containers_of_counts_change_nothing(flow: Flow) -> None:
    """CSR as int32, int64 and float64, CSC, dense; categories in another order of the table are the same cells."""
    makers: list[Callable[[Any], Any]] = [
        lambda x: x.astype(np.int32),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float64),
        sparse.csc_matrix,
        lambda x: x.toarray().astype(np.float32),
    ]
    for make in makers:
        adata = cells()
        adata.X = make(sparse.csr_matrix(adata.X))
        assert not same_flow(scflow.tl.train(adata, **QUICK), flow)


def test_text_and_categories_are_the_same_condition(flow: Flow) -> None:
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype(object)
    assert not same_flow(scflow.tl.train(adata, **QUICK), flow)


# Global random state.


def calls(adata: AnnData, flow: Flow, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """A call of each public function that draws, fits or writes."""
    import matplotlib.pyplot as plt

    half, other = adata[:100].copy(), adata[100:].copy()
    new = scflow.tl.generate(flow, 100, progress=False)
    scored = scflow.tl.score(half, new, reference=other, condition=None, metrics=("mmd", "gene_means"))
    quick = {"progress": False}
    return {
        "tl.train": lambda: scflow.tl.train(adata.copy(), **QUICK),
        "tl.generate": lambda: scflow.tl.generate(flow, 50, **quick),
        "tl.score": lambda: scflow.tl.score(half, new, reference=other, condition=None, metrics=("mmd",)),
        "tl.verdict": lambda: scflow.tl.verdict(scored),
        "tl.encode": lambda: scflow.tl.encode(half.copy(), flow, **quick),
        "tl.log_prob": lambda: scflow.tl.log_prob(half[:20].copy(), flow, **quick),
        "tl.interpolate": lambda: scflow.tl.interpolate(flow, half[:10].copy(), other[:10].copy(), n=2, **quick),
        "tl.reflow": lambda: scflow.tl.reflow(flow, n_pairs=100, steps=3, **quick),
        "tl.distill": lambda: scflow.tl.distill(flow, n_trajectories=100, steps=3, **quick),
        "tl.diagnose": lambda: scflow.tl.diagnose(flow),
        "tl.steps": lambda: scflow.tl.steps(
            flow, half.copy(), reference=other, metrics=("mmd",), evaluations=(2,), **quick
        ),
        "tl.augment": lambda: scflow.tl.augment(adata.copy(), flow=flow, n_obs={"type_2": 5}, **quick),
        "pp.split": lambda: scflow.pp.split(adata.copy()),
        "pp.log1p_standardize": lambda: scflow.pp.log1p_standardize(adata.copy()),
        "datasets.simulate": lambda: scflow.datasets.simulate(50, 20, 2, seed=0),
        "pl.history": lambda: (scflow.pl.history(flow), plt.close("all")),
        "pl.umap": lambda: (scflow.pl.umap(half, new), plt.close("all")),
        "pl.correlation": lambda: (scflow.pl.correlation(half, new), plt.close("all")),
    }


def test_no_function_touches_the_global_random_states(flow: Flow, tmp_path: Path) -> None:
    for name, call in calls(cells(), flow, tmp_path).items():
        before = State.now()
        try:
            call()
        except (TypeError, scflow.errors.InputError) as error:
            pytest.fail(f"{name}: {error}")
        left = [part for part in before.differences() if part in RANDOM]
        assert not left, f"{name} leaves another state of {left}"


def test_every_function_that_has_a_seed_is_called_above(flow: Flow, tmp_path: Path) -> None:
    rooms = {"tl": scflow.tl, "pp": scflow.pp, "datasets": scflow.datasets}
    seeded = {
        f"{room}.{name}"
        for room, module in rooms.items()
        for name in module.__all__
        if "seed" in inspect.signature(getattr(module, name)).parameters
    }
    elsewhere = {"tl.transport", "tl.trajectory", "tl.velocity", "tl.growth", "tl.report"}
    assert seeded - elsewhere <= calls(cells(), flow, tmp_path).keys()
