"""What every public function and every noun has in common."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scflow

ROOMS = ("pp", "tl", "pl", "datasets")
FAMILIES = ("paths", "noises", "times", "weights", "couplings", "solvers")
HOUSE = Path(scflow.__file__).parent


def exported(*rooms: str) -> list[Any]:
    """Every function that the rooms offer, and its room."""
    return [
        pytest.param(getattr(module, name), room, id=f"{room}.{name}")
        for room in rooms
        for module in [importlib.import_module(f"scflow.{room}")]
        for name in module.__all__
    ]


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def section(function: Callable[..., Any], title: str) -> str | None:
    """The text under a numpydoc heading."""
    doc = inspect.getdoc(function) or ""
    found = re.search(rf"^{title}\n-{{{len(title)}}}\n(.*?)(?=^\S[^\n]*\n-{{3,}}$|\Z)", doc, re.M | re.S)
    return found and found.group(1)


@pytest.mark.parametrize(("function", "room"), exported(*ROOMS))
def test_one_public_function_a_file_named_after_it(function: Any, room: str) -> None:
    name = function.__name__
    assert inspect.isfunction(function)
    assert function.__module__ == f"scflow.{room}.{name}"
    tree = ast.parse((HOUSE / room / f"{name}.py").read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert public == [name]
    assert importlib.import_module(f"scflow.{room}").__dict__[name] is function


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_of_a_room_is_exported_or_private(room: str) -> None:
    files = {path.stem for path in (HOUSE / room).glob("*.py") if not path.stem.startswith("_")}
    assert files == set(importlib.import_module(f"scflow.{room}").__all__)


@pytest.mark.parametrize(("function", "room"), exported(*ROOMS))
def test_signature(function: Any, room: str) -> None:
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for name, parameter in signature.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, f"{name} has no annotation"
        assert parameter.annotation != "Any", f"{name} says nothing about its type"
        assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), f"{name} swallows misspellings"
        assert not isinstance(parameter.default, (list, dict, set)), f"{name} has a default that can change"
    positional = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 3


@pytest.mark.parametrize(("function", "room"), exported("pp", "tl", "pl"))
def test_first_parameter_is_what_the_verb_works_on(function: Any, room: str) -> None:
    first = next(iter(parameters(function).values()))
    assert first.default is inspect.Parameter.empty
    assert re.search(r"\b(AnnData|Flow)\b", str(first.annotation))


@pytest.mark.parametrize(("function", "room"), exported(*ROOMS))
def test_docstring_names_every_parameter_in_order_and_says_what_is_returned(function: Any, room: str) -> None:
    doc = inspect.getdoc(function) or ""
    summary = doc.partition("\n")[0]
    assert summary.endswith((".", "`.")), "the first line is one sentence"
    assert (section(function, "Returns") or "").strip()
    names = list(parameters(function))
    described = [
        name.strip().split(" ")[0]
        for line in re.findall(r"^(?=\S)(.+)$", section(function, "Parameters") or "", re.M)
        for name in line.split(" : ")[0].split(",")
    ]
    assert described == names


@pytest.mark.parametrize("room", ROOMS)
def test_same_word_same_kind_of_default(room: str) -> None:
    """A seed is 0 and progress is drawn, wherever there is one; the slot is called scflow."""
    # The key of tl.augment and of pp.embed is a column of obs, and no slot of ours.
    own = {("augment", "key"): "cell_type", ("embed", "key"): inspect.Parameter.empty}
    expected = {"seed": 0, "key_added": "scflow", "key": "scflow", "layer": None, "progress": True, "copy": False}
    expected |= {"device": "auto", "ax": None, "return_fig": False, "save": None}
    for case in exported(room):
        function = case.values[0]
        for name, parameter in parameters(function).items():
            if name in expected:
                default = own.get((function.__name__, name), expected[name])
                assert parameter.default == default, f"{function.__name__}({name}=...)"


@pytest.mark.parametrize("path", sorted((HOUSE / "pl").glob("*.py")), ids=lambda path: path.name)
def test_pictures_are_never_shown(path: Path) -> None:
    called = [
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert "show" not in called


@pytest.mark.parametrize("name", importlib.import_module("scflow.pl").__all__)
def test_pictures_take_axes_and_return_them_or_the_figure(name: str) -> None:
    function = getattr(scflow.pl, name)
    assert list(parameters(function))[-3:] == ["ax", "return_fig", "save"]
    annotation = str(inspect.signature(function).return_annotation)
    assert re.search(r"\bAxes\b", annotation)
    assert annotation.endswith(" | Figure")
    assert hasattr(function, "__wrapped__"), "@picture sees to save and return_fig"


REFINED = scflow.matching.paths.Affine
"""The one base that stands on another: any differentiable path can be learnt, but most of what is known of paths
(preconditioning, predictions, weights, rerouting) holds for affine ones."""


def test_the_base_that_stands_on_another_is_abstract_too() -> None:
    assert inspect.isabstract(REFINED)
    assert len(REFINED.__abstractmethods__) == 1
    assert REFINED.__bases__ == (scflow.matching.paths.Path,)


def nouns() -> list[Any]:
    """Every public class of the families of `matching`, less the tuples that a path returns."""
    found = []
    for family in FAMILIES:
        module = importlib.import_module(f"scflow.matching.{family}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            public = kind.__module__ == module.__name__ and not name.startswith("_")
            if public and not issubclass(kind, tuple) and kind is not REFINED:
                found.append(pytest.param(kind, id=f"{family}.{name}"))
    return found


def bases(kind: type) -> list[type]:
    """The classes of scflow that `kind` inherits from."""
    return [base for base in kind.__mro__[1:] if base.__module__.startswith("scflow.") and base is not REFINED]


@pytest.mark.parametrize("kind", nouns())
def test_a_noun_is_abstract_or_a_final_frozen_dataclass(kind: Any) -> None:
    above = bases(kind)
    if inspect.isabstract(kind):
        assert not above, "an abstract base stands on its own"
        return
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert len(above) <= 1, "two levels: the base and what is final"
    assert all(inspect.isabstract(base) for base in above), "what is final is not inherited from"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_one_abstract_base_with_one_abstract_method(family: str) -> None:
    module = importlib.import_module(f"scflow.matching.{family}")
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    abstract = [kind for kind in kinds if inspect.isabstract(kind) and kind is not REFINED]
    assert len(abstract) == 1
    assert len(abstract[0].__abstractmethods__) == 1
    assert any(issubclass(kind, abstract[0]) for kind in kinds if kind is not abstract[0])


def codecs() -> list[Any]:
    """Every codec that is exported: modules, because they hold tensors."""
    kinds = [getattr(scflow.codecs, name) for name in scflow.codecs.__all__]
    return [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, scflow.codecs.Codec)]


@pytest.mark.parametrize("kind", [kind for kind in codecs() if kind is not scflow.codecs.Codec])
def test_a_codec_stands_right_under_the_base(kind: Any) -> None:
    assert not inspect.isabstract(kind)
    assert bases(kind) == [scflow.codecs.Codec]


def test_codecs_have_names_of_their_own() -> None:
    assert inspect.isabstract(scflow.codecs.Codec)
    names = [kind.name for kind in codecs() if kind is not scflow.codecs.Codec]
    assert len(set(names)) == len(names) > 0
