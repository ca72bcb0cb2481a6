"""Every public function with every fault that its input can have: done, or refused clearly and before any work."""

from __future__ import annotations

import importlib
import inspect
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from inputs import FAULTS, WHERE, Fault, Recipe, World, has, looks, recipes, world
from matplotlib.axes import Axes
from scipy import sparse
from torch.optim.optimizer import register_optimizer_step_pre_hook

from scflow.errors import FileError, InputError
from scflow.flow import Flow

pytestmark = pytest.mark.usefixtures("small_flows")


@pytest.fixture(scope="module")
def w(small_flows: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world; pictures of UMAPs are made without UMAP, which takes half a minute to compile."""
    folder = tmp_path_factory.mktemp("inputs")
    WHERE[:] = [folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scflow.flow._learning._DRAWN", 256)
        for room in ("umap", "trajectory", "transport", "velocity", "_embedding"):
            module = importlib.import_module(f"scflow.pl.{room}")
            if hasattr(module, "umap_model"):
                patch.setattr(module, "umap_model", lambda n, seed: _Flat())
        patch.setattr("scflow.pl._embedding.umap_model", lambda n, seed: _Flat())
        yield world(folder)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


class _Flat:
    """The first two components in the place of a UMAP."""

    def fit_transform(self, x: Any) -> Any:
        return self.transform(x)

    def transform(self, x: Any) -> Any:
        return np.ascontiguousarray(np.asarray(x)[:, :2])


# What is there before and after.


def fingerprint(value: Any) -> Any:
    """Something that is equal where a value is, to the bit and in its type."""
    if sparse.issparse(value):
        parts = (value.data, value.indices, value.indptr) if hasattr(value, "indptr") else (value.toarray(),)
        return value.format, value.shape, *map(fingerprint, parts)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, repr(value.tolist()) if value.dtype == object else value.tobytes()
    if isinstance(value, pd.DataFrame):
        columns = [(repr(name), fingerprint(value.iloc[:, i])) for i, name in enumerate(value.columns)]
        return repr(list(value.columns)), repr(list(value.index)), columns
    if isinstance(value, pd.Series):
        extra = repr(list(value.cat.categories)) if isinstance(value.dtype, pd.CategoricalDtype) else ""
        return str(value.dtype), extra, repr(list(value))
    if isinstance(value, Mapping):
        return [(str(key), fingerprint(one)) for key, one in value.items()]
    return type(value).__name__, repr(value) if not hasattr(value, "compute") and not hasattr(value, "group") else ""


def state(adata: Any) -> dict[str, Any]:
    """Everything of an AnnData, by slot; of what is not in memory, what it is."""
    if not isinstance(adata, AnnData):
        return {"value": fingerprint(adata)}
    found: dict[str, Any] = {"view": adata.is_view, "X": adata.isbacked or fingerprint(adata.X)}
    for axis in ("obs", "var"):
        frame = getattr(adata, axis)
        if not isinstance(frame, pd.DataFrame):
            continue
        found[f"{axis}_names"] = repr(list(frame.index))
        found |= {f"{axis}/{name}": fingerprint(frame.iloc[:, i]) for i, name in enumerate(frame.columns)}
    for slot in ("uns", "obsm", "varm", "layers", "obsp"):
        found |= {f"{slot}/{key}": fingerprint(value) for key, value in getattr(adata, slot).items()}
    found["raw"] = None if adata.raw is None else fingerprint(adata.raw.X)
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    return {key for key in {*before, *after} if before.get(key, "missing") != after.get(key, "missing")}


def allowed(keys: set[str], recipe: Recipe) -> set[str]:
    """Those that may not change."""
    own = {"view"} if recipe.writes else set()
    return {key for key in keys if key not in own and key not in recipe.writes}


# What comes out, in numbers.


def numbers(value: Any) -> list[Any]:
    """All numbers and labels of a result, in order."""
    if isinstance(value, Flow):
        return [t.detach().numpy() for t in value.field.state_dict().values()]
    if isinstance(value, AnnData):
        order = np.argsort(value.var_names.to_numpy(dtype=str))
        matrices = [*([] if value.X is None else [value.X]), *value.layers.values()]
        return [*(_dense(matrix)[:, order] for matrix in matrices), *map(_dense, value.obsm.values())]
    if isinstance(value, pd.DataFrame):
        return [value.select_dtypes("number").to_numpy(dtype=float)]
    if isinstance(value, Axes):
        lines = [np.asarray(line.get_xydata(), dtype=float) for line in value.get_lines()]
        return [*lines, *(np.asarray(one.get_offsets(), dtype=float) for one in value.collections)]
    if isinstance(value, (list, tuple)):
        return [part for one in value for part in numbers(one)]
    return [] if value is None or hasattr(value, "exists") else [value]


def _dense(values: Any) -> Any:
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return values.astype(float)


def written(adata: Any, recipe: Recipe) -> list[Any]:
    """What was left in the slots, but the flow, which is also returned."""
    found = []
    for slot in recipe.writes:
        part, _, key = slot.partition("/")
        kept = getattr(adata, part)
        if key in kept and not isinstance(kept[key], Mapping):
            values = numbers(kept[key]) if part == "uns" else [_dense(kept[key])]
            found += [values[0][:, np.argsort(adata.var_names.to_numpy(dtype=str))]] if part == "layers" else values
    return found


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, np.ndarray):
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)
        else:
            assert one == other


# The product.


@dataclass
class Outcome:
    """How a call ended."""

    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    steps: int = 0
    caught: tuple[warnings.WarningMessage, ...] = ()


def random_state() -> tuple[bytes, bytes]:
    """The global ones of numpy and torch."""
    return np.random.get_state()[1].tobytes(), torch.random.get_rng_state().numpy().tobytes()  # noqa: NPY002


def run(call: Any) -> Outcome:
    """What comes of a call: its result or error, how long it took, optimiser steps and warnings."""
    found, count = Outcome(), [0]

    def stepped(*_: Any) -> None:
        count[0] += 1

    hook = register_optimizer_step_pre_hook(stepped)
    random = random_state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.process_time()
        try:
            found.result = call()
        except Exception as error:
            found.error = error
        found.seconds = time.process_time() - start
    hook.remove()
    assert random == random_state()
    found.steps, found.caught = count[0], tuple(caught)
    return found


def assert_refused_clearly(outcome: Outcome, *, report: bool = False) -> None:
    """By our own error, that says what was found and what to do, before any work and soon."""
    error = outcome.error
    assert type(error) in (InputError, FileError), f"{type(error).__name__}: {error}"
    message = str(error)
    assert len(message) > 30
    assert message.rstrip().endswith((".", ")")), message
    assert len(re.split(r"[.;:?] ", message)) > 1, f"says no more than what is wrong: {message}"
    assert outcome.steps == 0, "refused after work"
    assert outcome.seconds < (60 if report else 2)


def assert_quiet(outcome: Outcome) -> None:
    """No warning of arithmetic, and none of something that will not work much longer."""
    kinds = (RuntimeWarning, DeprecationWarning, FutureWarning, np.exceptions.ComplexWarning)
    wrong = [w for w in outcome.caught if issubclass(w.category, kinds) and _is_ours(w)]
    assert not wrong, [f"{w.category.__name__}: {w.message} ({w.filename}:{w.lineno})" for w in wrong]


def _is_ours(warning: warnings.WarningMessage) -> bool:
    arithmetic = issubclass(warning.category, (RuntimeWarning, np.exceptions.ComplexWarning))
    return arithmetic or "/scflow/" in warning.filename


def faulty(w: World, recipe: Recipe, fault: Fault) -> Any:
    """The faulty cells, or a skip where AnnData or pandas do not let them be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = fault.make(w.adatas[recipe.base].copy(), recipe)
    if made is None and fault.name != "a None":
        pytest.skip("no such cells can be made with these versions")
    return made


_CLEAN: dict[str, list[Any]] = {}


def clean(w: World, recipe: Recipe, fault: Fault) -> list[Any]:
    """What comes of cells without a fault."""
    if recipe.id not in _CLEAN:
        adata = w.adatas[recipe.base].copy()
        outcome = run(lambda: recipe.call(w, adata))
        assert outcome.error is None, outcome.error
        _CLEAN[recipe.id] = numbers(outcome.result) + written(adata, recipe)
        plt.close("all")
    return _CLEAN[recipe.id]


EVERY = 12
"""One in so many combinations is tried each time, so that every function and every fault are; all of them are slow."""


def product() -> Iterator[Any]:
    """Each function with each fault that it can have."""
    every = recipes()
    for j, fault in enumerate(FAULTS.values()):
        able = [recipe for recipe in every if has(recipe, fault.touches)]
        light = [i for i, recipe in enumerate(able) if recipe.name != "tl.report"]
        for i, recipe in enumerate(able):
            # A report draws for seconds before it looks at the last of its cells.
            heavy = recipe.name == "tl.report" and fault.name != "a number"
            quick = (i + j) % EVERY == 0 or i == light[j % len(light)] or (recipe.name == "tl.report" and not heavy)
            slow = [] if quick and not heavy else [pytest.mark.slow]
            yield pytest.param(recipe, fault, id=f"{recipe.id}-{fault.name}", marks=slow)


PRODUCT = list(product())


@pytest.mark.parametrize(("recipe", "fault"), PRODUCT)
def test_product(w: World, recipe: Recipe, fault: Fault) -> None:
    expected = fault.expected(recipe)
    if not looks(recipe, fault.touches) and fault.touches != "slots":
        expected = {"refused": "either", "same": "accepted"}.get(expected, expected)
    adata = faulty(w, recipe, fault)
    before = state(adata)
    outcome = run(lambda: recipe.call(w, adata))
    moved = changed(before, state(adata))
    assert_quiet(outcome)
    if outcome.error is not None:
        assert expected in ("refused", "either"), f"refused: {type(outcome.error).__name__}: {outcome.error}"
        assert_refused_clearly(outcome, report=recipe.name == "tl.report")
        assert not moved, f"changed: {sorted(moved)}"
        return
    assert expected != "refused", "accepted"
    assert not allowed(moved, recipe), f"changed: {sorted(allowed(moved, recipe))}"
    if expected == "same":
        assert_same(numbers(outcome.result) + written(adata, recipe), clean(w, recipe, fault))


# Options.

NUMBERS: dict[str, Any] = {"half": 2.5, "NaN": float("nan"), "text": "no such thing", "list": [1.5], "object": object()}
SEEDS: dict[str, Any] = {"-1": -1, "2**64": 2**64, "half": 2.5, "text": "5", "None": None}
KEYS: dict[str, Any] = {"slash": "a/b", "empty": "", "number": 5, "spaces": " ", "None": None}


def options() -> Iterator[Any]:
    """Each number, seed and key of each function with each value that it cannot have."""
    seen = set()
    for recipe in recipes():
        if recipe.name in seen:
            continue
        seen.add(recipe.name)
        named = inspect.signature(recipe.function).parameters
        for name, parameter in named.items():
            kind = str(parameter.annotation)
            values = {}
            if name == "seed":
                values = SEEDS
            elif name in ("key_added", "key") and parameter.default == "scflow":
                values = KEYS
            elif re.fullmatch(r"(int|float)( \| (None|str))?", kind):
                values = NUMBERS
            for value, given in values.items():
                if value == "half" and kind.startswith("float"):
                    continue
                yield pytest.param(recipe, name, given, id=f"{recipe.name}-{name}-{value}")


@pytest.mark.parametrize(("recipe", "option", "value"), options())
def test_a_number_a_seed_or_a_key_that_cannot_be_is_refused(w: World, recipe: Recipe, option: str, value: Any) -> None:
    adata = w.adatas[recipe.base].copy()
    before = state(adata)
    outcome = run(lambda: recipe.call(w, adata, **{option: value}))
    assert_quiet(outcome)
    if outcome.error is not None:
        assert type(outcome.error) is InputError, f"{type(outcome.error).__name__}: {outcome.error}"
        assert option in str(outcome.error)
        assert outcome.steps == 0
        assert not changed(before, state(adata))
        return
    # A function that writes nothing and is given the flow has no use for the name.
    assert option in ("key_added", "key"), "accepted"
    assert not recipe.writes, "accepted"


WRONG: dict[str, Any] = {"number": 5, "half": 2.5, "list": [], "dict": {}, "object": object(), "text": "no such thing"}
MEANT = {"progress", "copy", "overwrite", "verbose", "write_layer", "return_fig", "resume"}
"""True or false, which anything is."""


def wrong_kinds() -> Iterator[Any]:
    """Each other option of each function; what an option takes is none of the wrong ones."""
    seen = set()
    for recipe in recipes():
        if recipe.name in seen:
            continue
        seen.add(recipe.name)
        own = {r.argument for r in recipes() if r.name == recipe.name}
        for name, parameter in inspect.signature(recipe.function).parameters.items():
            number = re.fullmatch(r"(int|float)( \| (None|str))?", str(parameter.annotation))
            if (
                name in MEANT | own | {"flow", "seed", "key_added", "key"}
                or number
                or parameter.default is parameter.empty
            ):
                continue
            yield pytest.param(recipe, name, id=f"{recipe.name}-{name}")


@pytest.mark.parametrize(("recipe", "option"), wrong_kinds())
def test_an_option_of_a_wrong_kind_is_refused_or_taken(w: World, recipe: Recipe, option: str) -> None:
    """No error from deep inside; where something odd is a choice, such as an empty list, it works."""
    for value in WRONG.values():
        if isinstance(value, str) and "PathLike" in str(inspect.signature(recipe.function).parameters[option]):
            continue  # a name like any other
        adata = w.adatas[recipe.base].copy()
        before = state(adata)
        outcome = run(lambda adata=adata, value=value: recipe.call(w, adata, **{option: value}))
        if outcome.error is not None:
            assert isinstance(outcome.error, (InputError, FileError)), f"{value!r}: {outcome.error!r}"
            assert outcome.steps == 0
            assert not changed(before, state(adata))


# Nothing is left out.

ROOMS = ("tl", "pp", "pl")


def public() -> list[Any]:
    return [f"{room}.{name}" for room in ROOMS for name in importlib.import_module(f"scflow.{room}").__all__]


@pytest.mark.parametrize("name", public())
def test_every_public_function_has_a_recipe_for_each_argument_that_holds_cells(name: str) -> None:
    """So that a new function cannot be added without the faults."""
    own = [recipe for recipe in recipes() if recipe.name == name]
    assert own, f"say in tests/inputs.py how {name} is called"
    taken = {recipe.argument for recipe in own}
    signature = inspect.signature(own[0].function).parameters
    holding = {p for p, parameter in signature.items() if re.search(r"\bAnnData\b", str(parameter.annotation))}
    # A flow beside the cells is looked for by the same code as in encode and growth; scores as in verdict.
    assert holding - taken <= {"flow", "scores"}, f"no recipe for {sorted(holding - taken)} of {name}"


def test_every_fault_meets_every_function_that_looks_there() -> None:
    quick = [case for case in PRODUCT if not case.marks]
    assert {case.values[1].name for case in quick} == set(FAULTS)
    assert {case.values[0].name for case in quick} == set(public())
