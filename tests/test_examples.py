"""Every public function and class has an example, and every example gives what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import sparse

import scflow

PUBLIC = ("pp", "tl", "pl", "datasets", "metrics", "nn", "matching", "codecs", "training", "callbacks", "errors")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
Shared = dict[str, Any]

pytestmark = pytest.mark.usefixtures("small_flows")


def parts_of(name: str) -> Iterator[tuple[str, Any]]:
    """What a room offers: functions and classes, those of its public modules too."""
    room = importlib.import_module(name)
    for part in room.__all__:
        found = getattr(room, part)
        if inspect.ismodule(found):
            yield from parts_of(found.__name__)
        elif inspect.isfunction(found) or inspect.isclass(found):
            yield f"{name}.{part}", found


def examples() -> list[Any]:
    """Every docstring of the package that has an example, by the name of what it is of."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    modules = [name for _, name, _ in pkgutil.walk_packages(scflow.__path__, "scflow.") if "__main__" not in name]
    for name in modules:
        for test in finder.find(importlib.import_module(name), name):
            if test.examples:
                found[test.name] = test
    return [pytest.param(test, id=name.removeprefix("scflow.")) for name, test in sorted(found.items())]


@pytest.fixture(scope="module", autouse=True)
def _shorter(small_flows: None) -> Iterator[None]:
    """The codec of counts learns for 20 steps, and few cells are drawn to calibrate on: calls are what is shown."""
    learning = importlib.import_module("scflow.flow._learning")
    fit = learning.fit_counts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_DRAWN", 200)
        patch.setattr(learning, "fit_counts", lambda *args, **given: fit(*args, **given | {"steps": 20}))
        # By its full name: `scflow.pl.umap` is the function. UMAP itself takes long to compile.
        patch.setattr(importlib.import_module("scflow.pl.umap"), "_embedded", _first_genes)
        yield


def _first_genes(real: sparse.csr_matrix, generated: sparse.csr_matrix, seed: int) -> tuple[Any, Any]:
    return real[:, :2].toarray(), generated[:, :2].toarray()


@pytest.fixture(scope="module")
def made(_shorter: None) -> Shared:
    """What the page of the API says that examples may use."""
    cells = scflow.datasets.simulate(n_cells=160, n_genes=40, n_types=3, seed=0)
    adata, held_out = scflow.pp.split(cells, stratify="cell_type", test_size=0.5, seed=0)
    flow = scflow.tl.train(adata, condition="cell_type", steps=20, progress=False)
    new = scflow.tl.generate(flow, 80, progress=False)
    carry = scflow.tl.train(adata, source={"batch": "batch_0"}, steps=20, progress=False)
    return {"adata": adata, "held_out": held_out, "flow": flow, "new": new, "carry": carry}


@pytest.fixture
def shared(made: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """The test's own copies, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    own = {name: thing if isinstance(thing, scflow.Flow) else thing.copy() for name, thing in made.items()}
    tools = {"scflow": scflow, "np": np, "torch": torch, "rng": torch.Generator().manual_seed(0)}
    yield own | tools | {"counts": own["adata"].X.tocsr()}
    plt.close("all")


NEEDS_AN_EXTRA = {"scflow.callbacks.TensorBoard"}


def runs(thing: Any) -> bool:
    """Whether the docstring has an example, and none of its lines is left out."""
    found = doctest.DocTestParser().get_examples(inspect.getdoc(thing) or "")
    return bool(found) and not any(doctest.SKIP in example.options for example in found)


@pytest.mark.parametrize("room", PUBLIC)
def test_everything_public_has_an_example(room: str) -> None:
    public = dict(parts_of(f"scflow.{room}"))
    assert len(public) > 1
    assert [name for name, thing in public.items() if not runs(thing) and name not in NEEDS_AN_EXTRA] == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("test", examples())
def test_an_example_gives_what_it_says(test: doctest.DocTest, shared: Shared) -> None:
    test.globs = {**test.globs, **shared}
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)
