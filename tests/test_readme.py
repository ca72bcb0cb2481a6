"""The README's code runs as it is printed, in order, and what it points at is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import anndata
import pytest

from scflow.__main__ import main

HERE = Path(__file__).resolve().parents[1]
TEXT = (HERE / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.usefixtures("short_story")
@pytest.mark.filterwarnings("ignore:.* conditions have fewer than:UserWarning")
def test_the_code_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["new"].n_obs == 350
    assert names["mixture"].obs["cell_type"].tolist() == ["Dendritic", "CD19+ B", "CD34+"]
    assert set(names["dendritic"].obs["cell_type"]) == {"Dendritic"}
    for line in "".join(blocks("sh")).splitlines():
        if line.startswith("python -m scflow "):
            assert main(shlex.split(line)[3:]) == 0, line
    assert set(anndata.read_h5ad("new.h5ad").obs["cell_type"]) == {"CD19+ B"}
    assert Path("scores.csv").is_file()


def test_links_and_pictures_are_there() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", TEXT) if not target.startswith("http")]
    assert [target for target in targets if not (HERE / target).exists()] == []
    pictures = [HERE / target for target in targets if target.endswith(".png")]
    assert len(pictures) >= 2
    assert all(picture.stat().st_size < 200_000 for picture in pictures)


def test_the_commands_are_those_of_the_makefile() -> None:
    makefile = (HERE / "Makefile").read_text(encoding="utf-8")
    asked = re.findall(r"^make (\w+)", "".join(blocks("sh")), re.M)
    assert asked == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in asked)
