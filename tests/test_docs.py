"""What the pages say: code runs, commands are understood, links lead somewhere, and every public name is there."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pydoc
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import matplotlib.pyplot as plt
import pytest

import scflow
from scflow._cli.parser import build_parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")]
PAGES = sorted(page for page in DOCS.rglob("*.md") if not {"tutorials", "_build", "generated"} & set(page.parts))
TEXTS = {page: page.read_text(encoding="utf-8") for page in [*PAGES, *ELSEWHERE]}
NAMES = sorted(set(re.findall(r"`(scflow(?:\.\w+)+)`", TEXTS[DOCS / "guide.md"])))


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Names


def test_the_guide_names_its_rooms() -> None:
    assert len(NAMES) > 40


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_guide_exists(name: str) -> None:
    assert pydoc.locate(name) is not None


def listed(page: Path) -> set[str]:
    """What a page of the API lists, by full names."""
    found, module = set(), ""
    for line in TEXTS[page].splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            found.add(f"{module}.{line.strip()}")
    return found


def offered(name: str) -> Iterator[str]:
    """The functions and classes that a room offers, those of its public modules too."""
    room = importlib.import_module(name)
    for part in room.__all__:
        thing = getattr(room, part)
        if inspect.ismodule(thing):
            yield from offered(thing.__name__)
        elif inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"{name}.{part}"


ROOMS = [name for name in scflow.__all__ if inspect.ismodule(getattr(scflow, name))]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_its_page_of_the_api(room: str) -> None:
    assert sorted(set(offered(f"scflow.{room}")) - listed(DOCS / "api" / f"{room}.md")) == []


def test_the_api_lists_what_exists() -> None:
    names = {name for page in (DOCS / "api").glob("*.md") for name in listed(page)} - {"scflow.flow.Flow"}
    assert len(names) > 150
    assert [name for name in sorted(names) if pydoc.locate(name) is None] == []


# Code


def fenced(text: str) -> Iterator[tuple[str, str]]:
    """The blocks of a page, each with its language."""
    language, block = None, ""
    for line in text.splitlines(keepends=True):
        fence = re.match(r"```(.*)", line)
        if fence and language is None:
            language, block = fence.group(1).strip(), ""
        elif fence and language is not None:
            yield language, block
            language = None
        else:
            block += line


def code(text: str, *languages: str) -> list[str]:
    return [block for language, block in fenced(text) if language in languages]


WITH_CODE = [page for page in TEXTS if code(TEXTS[page], "python") and page.name != "README.md"]


@pytest.fixture(scope="module")
def two_sides() -> Any:
    cells = scflow.datasets.simulate(240, 40, 3, seed=0)
    cells.obs["drug"] = ["ctrl", "A", "B", "A+B", "C", "ctrl"] * 40
    return scflow.pp.split(cells, stratify="cell_type", test_size=0.5, seed=0)


@pytest.mark.usefixtures("small_flows", "short_story")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=ids)
def test_the_code_of_a_page_runs_in_order(
    page: Path, two_sides: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few steps, and with `adata`, `held_out` and `controls` where a page does not make its own."""
    monkeypatch.chdir(tmp_path)
    adata, held_out = (cells.copy() for cells in two_sides)
    names: dict[str, Any] = {"scflow": scflow, "adata": adata, "held_out": held_out, "__name__": "page"}
    names["controls"] = adata[adata.obs["drug"] == "ctrl"].copy()
    for block in code(TEXTS[page], "python"):
        exec(compile(block, ids(page), "exec", dont_inherit=True), names)
    plt.close("all")


@pytest.mark.parametrize("page", TEXTS, ids=ids)
def test_code_of_other_tools_is_python_at_least(page: Path) -> None:
    for block in code(TEXTS[page], "{code-block} python"):
        ast.parse(block)


# Commands


def commands() -> list[Any]:
    """Every call of scflow or of a benchmark, in a block of its own or within a line."""
    found = []
    for page, text in TEXTS.items():
        lines = "".join(code(text, "sh", "bash", "")).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`(python (?:tests/benchmarks/|-m scflow \w+ )[^`\n]+)`", text)
        for line in dict.fromkeys(lines):
            if called := re.search(r"-m scflow (.*)|^python (tests/benchmarks/.*)", line.strip()):
                found.append(pytest.param(*called.groups(), id=f"{ids(page)}: {line.strip()[:60]}"))
    return found


class Understood(Exception):
    """The options were read, and nothing has been done yet."""


@pytest.mark.parametrize(("ours", "benchmark"), commands())
def test_a_command_is_understood(ours: str | None, benchmark: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if ours is not None:
        asked = shlex.split(ours, comments=True)
        if {"--help", "--version"} & set(asked):
            with pytest.raises(SystemExit, match=r"^0$"):
                build_parser().parse_args(asked)
        else:
            assert build_parser().parse_args(asked).command == asked[0]
        return
    script, *options = shlex.split(benchmark or "", comments=True)
    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> NoReturn:
        parse(self, args, namespace)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(str(ROOT / script).rpartition("/")[0])
    with pytest.raises(Understood):
        runpy.run_path(str(ROOT / script), run_name="__main__")


# Links


def anchors(page: Path) -> set[str]:
    """The headings of a page as they are linked to."""
    text = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```(?!\{).*?^```$", "", TEXTS[page], flags=re.M | re.S)
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            parts = urlsplit(target)
            whole = parts.scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", parts.netloc)
            lost += [] if whole else [target]
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        known = anchors(file) if file in TEXTS else set()
        lost += [] if file.exists() and (not anchor or anchor in known) else [target]
    assert lost == []


@pytest.mark.parametrize("page", TEXTS, ids=ids)
def test_a_page_speaks_of_no_machine(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|tmp|home|root|Users)/\S*", TEXTS[page]) == []


# Promises


def promised() -> list[tuple[str, str]]:
    """File and function of every test that the page on reliability names; without a file, that of the one before."""
    found, file = [], ""
    for given, name in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", TEXTS[DOCS / "reliability.md"]):
        file = given or file
        found.append((file, name))
    return found


def test_every_promise_is_kept_by_a_test_that_is_there() -> None:
    assert len(promised()) > 40
    missing = [
        f"{file}::{name}"
        for file, name in promised()
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert missing == []
    rows = [line for line in TEXTS[DOCS / "reliability.md"].splitlines() if line.startswith("| ") and "::" in line]
    assert all(re.search(r"`test_\w+\.py::", row) for row in rows)
