"""What a flow says of itself: on a line, in a notebook, on a card, on a hub."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import scflow
from scflow.conditions import Conditions
from scflow.errors import FileError, InputError
from scflow.flow import Flow

pytestmark = pytest.mark.usefixtures("small_flows")

HOSTILE = "<script>alert('x')</script> & \"B\" | `c` $d$ *e*"


@pytest.fixture(scope="module")
def flow(small_flows: None) -> Flow:
    adata = scflow.datasets.simulate(200, 30, 3, seed=0)
    adata.obs["age"] = np.linspace(20, 60, 200)
    adata.obs["passed"] = np.arange(200) % 2 == 0
    return scflow.tl.train(adata, condition=["cell_type", "age", "passed"], steps=20, progress=False)


@pytest.fixture(scope="module")
def hostile(flow: Flow) -> Flow:
    """Every name that a user can choose is markup."""
    frame = pd.DataFrame({HOSTILE: pd.Categorical([HOSTILE, "b"])})
    facts = {**flow.provenance, "layer": HOSTILE, "source": {HOSTILE: [HOSTILE]}, "target": {"a": "</code>"}}
    conditions = Conditions.from_frame(frame)
    return replace(flow, conditions=conditions, genes=(HOSTILE, *flow.genes[1:]), provenance=facts)


def scores() -> pd.DataFrame:
    rows = [("all", "mmd", 0.002, 0.0, 0.01, -0.001, 0.004), ("B|x", "forest_auc_genes", 0.6, 0.5, 0.9, 0.55, 0.65)]
    return pd.DataFrame(rows, columns=["condition", "metric", "value", "floor", "trivial", "low", "high"])


# A line, and a notebook


def test_repr_says_what_how_well_and_how_to_draw(flow: Flow) -> None:
    first, quality, line = repr(flow).splitlines()
    assert first.startswith("Flow(space='counts', 30 genes, cell_type, age, passed; 200 cells, 20 steps, ")
    best = flow.history["validation_loss"].idxmin()
    assert quality == f"  how well: validation loss {flow.history['validation_loss'].min():.3f} at step {best + 1}"
    assert line == "  draw: scflow.tl.generate(flow, 1_000, condition={'cell_type': 'type_0'})"


@pytest.mark.parametrize("name", ["cell_type", "passed"])
def test_the_line_that_draws_draws(flow: Flow, name: str) -> None:
    columns = tuple(column for column in flow.conditions.columns if column.name == name)
    line = repr(replace(flow, conditions=Conditions(columns))).splitlines()[-1].removeprefix("  draw: ")
    request = re.search(r"condition=(\{.*\})", line)
    assert request is not None
    asked = eval(request.group(1), {})
    assert flow.draw(2, asked).counts.shape == (2, 30)


def test_repr_tells_the_way_of_a_flow_between_cells_and_of_a_course(flow: Flow) -> None:
    carrying = replace(
        flow, provenance={**flow.provenance, "source": {"drug": ["ctrl"]}, "target": {"drug": ["A", "B"]}}
    )
    assert repr(carrying).endswith("draw: scflow.tl.transport(adata, flow)")
    assert "from drug &#x27;ctrl&#x27; to drug &#x27;A&#x27;, &#x27;B&#x27;" in carrying._repr_html_()
    told = {"column": "day", "times": [0.0, 2.0, 5.0], "group": [], "groups": []}
    course = replace(flow, provenance={**flow.provenance, "course": told})
    assert repr(course).endswith("draw: scflow.tl.transport(adata, flow, to=1)")
    assert "a time course by &#x27;day&#x27;, at 0, 2, 5" in course._repr_html_()
    bare = replace(flow, conditions=Conditions(), history=pd.DataFrame(), provenance={})
    assert repr(bare).endswith("how well: no validation cells\n  draw: scflow.tl.generate(flow, 1_000)")
    assert "an unknown number of cells" in bare._repr_html_()


def test_scores_of_a_watched_training_are_told(flow: Flow) -> None:
    watched = flow.history.assign(mmd=[np.nan] * (len(flow.history) - 1) + [0.02], mmd_floor=0.01)
    assert "MMD 0.020 (floor 0.010)" in repr(replace(flow, history=watched))


class Page(HTMLParser):
    """Tags, text, and whether each tag is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        if tag != "polyline":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "polyline":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_notebook_shows_text_alone_of_what_comes_from_outside(hostile: Flow) -> None:
    page = Page(hostile._repr_html_())
    assert page.open == []
    known = {"div", "strong", "table", "tr", "th", "td", "p", "code", "details", "summary", "svg", "polyline"}
    assert page.tags <= known
    assert not any(name.startswith("on") for name in page.names)
    assert page.names <= {"class", "style", "viewbox", "width", "height", "role", "aria-label", "points", "fill",
                          "stroke", "stroke-width", "stroke-opacity"}  # fmt: skip
    assert HOSTILE in page.text


def test_a_notebook_keeps_its_own_colours_and_opens_details(flow: Flow) -> None:
    text = flow._repr_html_()
    assert not re.search(r"#[0-9a-fA-F]{3,6}\b|:\s*(white|black)\b", text.replace("&#x27;", ""))
    assert text.count("<details>") == 3
    assert "<details open" not in text
    assert text.count("<polyline") == 2
    assert "age</th>" in text
    assert len(text) < 10_000


# The card


def test_the_card_says_what_a_stranger_has_to_know(flow: Flow) -> None:
    text = flow.card(
        scores=scores(), license="CC-BY-4.0", about="Cells of [a study](https://example.org).", repo_id="l/f"
    )
    top, body = text.removeprefix("---\n").split("\n---\n", 1)
    data = yaml.safe_load(top)
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "scflow"
    assert {"single-cell", "flow-matching"} <= set(data["tags"])
    for words in (
        "# f", "Cells of [a study](https://example.org).", "200 cells", "30 genes", 'pip install "scflow-tools[hub]"',
        "flow = scflow.Flow.from_hub('l/f')", "3 labels", "numbers, 40 ± ", "## Limits", "anonymisation",
        "| all | MMD | 0.0020 \\[−0.0010, 0.0040\\] | 0.000 | 0.010 |",
        r"| B\|x | forest AUC genes |", '"n_cells": 200',
    ):  # fmt: skip
        assert words in body, words
    plain = flow.card()
    assert "license" not in yaml.safe_load(plain.removeprefix("---\n").split("\n---\n")[0])
    assert "No scores were given" in plain
    assert 'scflow.Flow.load("flow.safetensors")' in plain


def test_the_code_of_a_card_is_python(flow: Flow, hostile: Flow) -> None:
    for one in (flow, hostile):
        for block in re.findall(r"^```python\n(.*?)^```$", one.card(), re.M | re.S):
            compile(block, "card", "exec")


def test_names_of_others_are_no_markup_of_the_card(hostile: Flow) -> None:
    text = hostile.card(repo_id="l/<b>")
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", text, flags=re.M | re.S)
    assert "<script" not in re.sub(r"\\<", "", outside)
    assert r"\<script\>" in outside
    assert r"\`c\`" in outside


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"license": "my own!"}, "license='my own!' is no identifier of a licence. Expected one such as 'cc-by-4.0'"),
        ({"license": "mit\nx: y"}, "is no identifier of a licence"),
        ({"license": ""}, "is no identifier of a licence"),
        ({"scores": pd.DataFrame({"metric": ["mmd"]})}, r"scores has 1 rows and lacks 6 of 7 columns \('condition'"),
    ],
)
def test_a_card_refuses(flow: Flow, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        flow.card(**given)


# The hub


class Hub:
    """Repositories in memory, as huggingface_hub shows them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: list[str | None] = []
        self.commits: list[str] = []
        self.module: Any = ModuleType("huggingface_hub")
        self.module.HfApi = self.api
        self.module.hf_hub_download = self.download

    def api(self, *, token: str | None = None) -> Any:
        self.tokens.append(token)
        return SimpleNamespace(create_repo=self.create, upload_folder=self.upload)

    def create(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert (repo_type, exist_ok) == ("model", True)
        if "/" not in repo_id:
            raise RuntimeError("403 Forbidden: no rights\n(Request ID: 1)")
        self.private.setdefault(repo_id, private)
        self.repositories.setdefault(repo_id, {})

    def upload(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str) -> Any:
        assert repo_type == "model"
        self.commits.append(commit_message)
        self.repositories[repo_id] |= {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{len(self.commits)}")

    def download(self, repo_id: str, filename: str, *, repo_type: str, revision: str | None, token: str | None) -> str:
        self.tokens.append(token)
        if repo_id not in self.repositories or revision == "gone":
            raise OSError("404 Client Error.\n\nRepository Not Found")
        path = self.folder / filename
        path.write_bytes(self.repositories[repo_id][filename])
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub.module)
    return hub


def test_a_shared_flow_comes_back_bit_by_bit_with_its_card(flow: Flow, hub: Hub) -> None:
    link = flow.push_to_hub("lab/pbmc", license="mit", scores=scores(), about="Ours.", token="t", message="first")
    assert link == "https://hub/lab/pbmc/commit/1"
    assert sorted(hub.repositories["lab/pbmc"]) == ["README.md", "flow.safetensors"]
    assert hub.private == {"lab/pbmc": True}, "to show cells to everyone is asked for"
    assert hub.repositories["lab/pbmc"]["README.md"].decode() == flow.card(
        scores=scores(), license="mit", about="Ours.", repo_id="lab/pbmc"
    )
    found = Flow.from_hub("lab/pbmc", token="u")
    assert hub.tokens == ["t", "u"]
    for name, tensor in flow.field.state_dict().items():
        assert torch.equal(found.field.state_dict()[name], tensor)
    assert repr(found) == repr(flow)
    flow.push_to_hub("lab/open", license="mit", private=False)
    assert hub.private["lab/open"] is False


def test_a_file_from_the_hub_is_read_as_any_other(flow: Flow, hub: Hub) -> None:
    flow.push_to_hub("lab/pbmc", license="mit")
    content = bytearray(hub.repositories["lab/pbmc"]["flow.safetensors"])
    content[-1] ^= 1
    hub.repositories["lab/pbmc"]["flow.safetensors"] = bytes(content)
    with pytest.raises(FileError, match="is damaged: its contents do not match the sha256"):
        Flow.from_hub("lab/pbmc")
    hub.repositories["lab/pbmc"]["flow.safetensors"] = b"\x80\x04K\x01."  # a pickle
    with pytest.raises(FileError, match="cannot be read as a safetensors file"):
        Flow.from_hub("lab/pbmc")


def test_what_the_hub_refuses_is_told_with_what_mends_it(flow: Flow, hub: Hub) -> None:
    with pytest.raises(
        FileError, match=r"did not take the flow as 'pbmc': RuntimeError: 403 Forbidden: no rights. Check the"
    ):
        flow.push_to_hub("pbmc", license="mit")
    with pytest.raises(
        FileError, match=r"from 'lab/no' \(flow.safetensors\): OSError: 404 Client Error. Check .*hf auth"
    ):
        Flow.from_hub("lab/no")
    with pytest.raises(FileError, match="from 'lab/no' at 'gone'"):
        Flow.from_hub("lab/no", revision="gone")
    with pytest.raises(InputError, match="is no identifier of a licence"):
        flow.push_to_hub("lab/no", license="all mine")
    assert hub.repositories == {}


def test_the_licence_is_asked_for(flow: Flow, hub: Hub) -> None:
    with pytest.raises(TypeError, match="license"):
        flow.push_to_hub("lab/pbmc")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="license='' is no identifier"):
        flow.push_to_hub("lab/pbmc", license=None)  # type: ignore[arg-type]


def test_without_huggingface_hub_the_extra_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: flow.push_to_hub("a/b", license="mit"), lambda: Flow.from_hub("a/b")):
        with pytest.raises(InputError, match=r"huggingface_hub is not installed.*pip install 'scflow-tools\[hub\]'"):
            call()


def test_the_fake_hub_is_called_as_the_real_one_can_be() -> None:
    real = pytest.importorskip("huggingface_hub", reason="huggingface_hub is in the extra 'hub'")
    given = {"repo_id": "a/b", "repo_type": "model"}
    inspect.signature(real.HfApi).bind(token=None)
    inspect.signature(real.HfApi.create_repo).bind(None, private=True, exist_ok=True, **given)
    inspect.signature(real.HfApi.upload_folder).bind(None, folder_path="x", commit_message="m", **given)
    inspect.signature(real.hf_hub_download).bind("a/b", "f", repo_type="model", revision=None, token=None)
