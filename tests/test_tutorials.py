"""The notebooks as they are committed: executed from the top, tidy, and small. `tutorials/run.py` executes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
MOST_BYTES, MOST_BYTES_OF_ALL = 700_000, 4_000_000
PICTURES = ("image/png", "image/svg+xml", "image/gif")
OF_A_MACHINE = re.compile(
    r"(?<![\w.])/(home|root|Users|work|tmp|var|opt|private)/|site-packages|ipykernel_\d|[A-Z]:\\\\"
)

Cell = dict[str, Any]


def _cells(path: Path) -> list[Cell]:
    cells: list[Cell] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def _code(path: Path) -> list[Cell]:
    return [cell for cell in _cells(path) if cell["cell_type"] == "code"]


def _outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in _code(path) for output in cell["outputs"]]


def test_there_are_nine_and_the_list_has_them() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS] == re.findall(r"\]\((\d\d_\w+\.ipynb)\)", text)
    assert len(NOTEBOOKS) == 9


def test_all_together_are_small() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES_OF_ALL


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_one_is_valid_and_small(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_it_was_executed_from_the_top(path: Path) -> None:
    counts = [cell["execution_count"] for cell in _code(path)]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_nothing_went_wrong_in_it(path: Path) -> None:
    for output in _outputs(path):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
        assert "Warning:" not in "".join(output.get("text", []))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_it_asks_one_question_and_answers_with_a_picture(path: Path) -> None:
    first = _cells(path)[0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).count("?") == 1
    assert any(kind in output.get("data", {}) for output in _outputs(path) for kind in PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_it_names_no_place_of_the_machine_that_ran_it(path: Path) -> None:
    for cell in _cells(path):
        assert not OF_A_MACHINE.search("".join(cell["source"]))
    for output in _outputs(path):
        data = output.get("data", {})
        texts = [output.get("text", []), *(data.get(kind, []) for kind in ("text/plain", "text/html"))]
        for text in texts:
            # Pictures within a page are letters and digits, among which anything can be found.
            found = OF_A_MACHINE.search(re.sub(r"base64,[\w+/=]+", "", "".join(text)))
            assert not found, found


def test_links_between_them_lead_somewhere() -> None:
    for path in NOTEBOOKS:
        for cell in _cells(path):
            if cell["cell_type"] == "markdown":
                for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
                    assert (FOLDER / target).exists(), f"{path.name}: {target}"
