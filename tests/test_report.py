"""The report is one page that holds what it says, fetches nothing, and runs nothing."""

from __future__ import annotations

import base64
import importlib
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scflow
from scflow import _file
from scflow.__main__ import main
from scflow.errors import FileError, InputError
from scflow.metrics import Row
from scflow.tl._report_looks import training

EVIL = "<script>document.title='run'</script>"
"""A cell type that would run, were it not escaped."""
QUOTED = "\"><img src=x onerror='1'> & T"
VOID = {"br", "hr", "img", "input", "link", "meta"}

Cells = dict[str, AnnData]


class _Reader(HTMLParser):
    """What a page holds: tags with attributes, and text; every tag has to be closed by its own."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style" and data.strip():
            self.texts.append(data)

    def headings(self) -> list[str]:
        return [self.texts[i] for i in range(len(self.texts)) if self.texts[i] in HEADINGS]


HEADINGS = (
    "Verdict",
    "Scores",
    "Scores by condition",
    "Cells",
    "Genes",
    "Genes together",
    "Copies of training cells",
    "Training",
    "Where this comes from",
)


@pytest.fixture(scope="module", autouse=True)
def _quick_pictures() -> Iterator[None]:
    """Coarse ones, and no UMAP, which takes long to compile; by its full name, `scflow.pl.umap` is the function."""

    flat = lambda real, generated, seed: (real[:, :2].toarray(), generated[:, :2].toarray())  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("scflow.pl.umap"), "_embedded", flat)
        patch.setattr("scflow.tl._pictures._DPI", 30)
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around them."""
    monkeypatch.setattr(importlib.import_module("scflow.tl.report"), "looks", lambda *_: [])


@pytest.fixture(scope="module")
def _cells() -> Cells:
    """Training, held-out and further real cells of one law; the latter as if they were drawn."""
    adata = scflow.datasets.simulate(600, 40, 2, seed=3)
    names = dict(zip(adata.obs["cell_type"].cat.categories, (EVIL, QUOTED), strict=True))
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(names)
    train, rest = scflow.pp.split(adata, stratify="cell_type", test_size=0.5)
    real, new = scflow.pp.split(rest, stratify="cell_type", test_size=0.5)
    new.uns["scflow"] = {
        "provenance": {
            "condition": np.array(["cell_type"], dtype=object),
            "solver": "midpoint",
            "guidance": 1.0,
            "note <b>": np.array(["</td><script>x</script>"], dtype=object),
            "guidance_interval": np.array([0.0, 1.0]),
            "interrupted": False,
        }
    }
    return {"real": real, "generated": new, "reference": train}


@pytest.fixture
def cells(_cells: Cells) -> Cells:
    return {name: adata.copy() for name, adata in _cells.items()}


def table(condition: str = EVIL) -> pd.DataFrame:
    """Scores of which one is off."""
    rows = [
        Row("all", "mmd", 0.001, 0.0, 0.1, 0.001, np.nan, -0.002, 0.004),
        Row("all", "forest_auc_genes", 0.8, 0.5, 0.9, 0.3, np.nan, 0.75, 0.85),
        Row(condition, "mmd", 0.2, 0.0, 0.1, 0.2, np.nan, 0.1, 0.3),
        Row(condition, "forest_auc_genes", np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan),
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def page(_cells: Cells, tmp_path_factory: pytest.TempPathFactory) -> str:
    path, before = tmp_path_factory.mktemp("report") / "report.html", plt.get_fignums()
    assert scflow.tl.report(**_cells, scores=table(), path=path) == path
    assert plt.get_fignums() == before  # No figure is left open.
    return path.read_text(encoding="utf-8")


def test_the_page_holds_verdict_tables_pictures_and_provenance(page: str) -> None:
    found = _Reader(page)
    assert found.headings() == [name for name in HEADINGS if name != "Training"]
    for line in scflow.tl.verdict(table()).splitlines():
        assert line in found.texts
    text = " ".join(found.texts)
    assert "150 generated, 150 held-out real, 300 training cells; 40 genes. Written on 2" in text
    assert "MMD at the floor 0.0010 0.000 0.100 −0.0020 to 0.0040" in text
    assert "forest AUC genes off 0.800 0.500 0.900 0.750 to 0.850" in text
    assert f"{EVIL}: 1 of 1 figures off the floor" in text
    assert "forest AUC genes – – – – –" in text
    assert "solver midpoint" in text
    assert "guidance_interval 0, 1" in text
    assert "interrupted no" in text
    assert f"scflow {scflow.__version__}" in text
    assert "seed of scores and pictures 0" in text
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 1 + 3 + 2 + 3 + 2
    assert all(one["alt"] for one in pictures)
    for one in pictures:
        kind, _, content = str(one["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")


def test_nothing_of_the_page_is_elsewhere_or_runs(page: str) -> None:
    found = _Reader(page)
    for tag, attributes in found.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            assert str(attributes.get(name) or "data:").startswith("data:")
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style is not None
    assert not re.search(r"url\(|@import|https?:", style.group(1))
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    assert any(a.get("name") == "viewport" for _, a in found.tags)


def test_labels_are_text_whatever_they_hold(page: str) -> None:
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    text = " ".join(_Reader(page).texts)
    assert "</td><script>x</script>" in text
    assert "note <b>" in text


@pytest.mark.usefixtures("no_pictures")
def test_scores_are_made_where_none_are_given_and_remarks_are_told(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = scflow.tl.score

    def quick(*clouds: AnnData, **given: Any) -> pd.DataFrame:
        # The caller's line is one further away.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = score(*clouds, **given, metrics=["mmd"])
        for one in caught:
            warnings.warn(one.message, one.category, stacklevel=2)
        return found

    monkeypatch.setattr(importlib.import_module("scflow.tl.report"), "score", quick)
    few = cells["generated"]
    kept = np.flatnonzero(few.obs["cell_type"] == EVIL)[:60]
    cells["generated"] = few[np.concatenate([kept, np.flatnonzero(few.obs["cell_type"] == QUOTED)[:5]])].copy()
    with pytest.warns(UserWarning, match="1 of 2 conditions have fewer than 20 cells a side") as caught:
        path = scflow.tl.report(**cells, path=tmp_path / "r.html")
    assert {Path(w.filename).name for w in caught} == {"test_report.py"}
    scores = cells["generated"].uns["scflow_score"]
    assert scores["condition"].unique().tolist() == ["all", EVIL]
    text = " ".join(_Reader(path.read_text(encoding="utf-8")).texts)
    assert scflow.tl.verdict(scores).splitlines()[0] in text
    assert "1 of 2 conditions have fewer than 20 cells a side" in text


def test_without_reference_or_provenance_the_page_says_what_is_missing(cells: Cells, tmp_path: Path) -> None:
    del cells["reference"], cells["generated"].uns["scflow"]
    path = scflow.tl.report(**cells, scores=table(), path=tmp_path / "r.html", condition=None)
    text = " ".join(_Reader(path.read_text(encoding="utf-8")).texts)
    assert "Whether cells are copies can be seen beside the training cells only: give reference=train." in text
    assert "carry no provenance of scflow" in text


@pytest.mark.usefixtures("small_flows")
def test_training_is_shown_where_a_flow_is_at_hand(simulated: AnnData) -> None:
    assert training(None, {"real": simulated}) == []
    flow = scflow.tl.train(simulated, steps=20, progress=False)
    (carried,) = training(None, {"real": simulated})
    (given,) = training(flow, {})
    assert carried == given
    assert "Loss and validation loss during training" in given


def test_the_same_cells_make_the_same_page(cells: Cells, page: str, tmp_path: Path) -> None:
    again = scflow.tl.report(**cells, scores=table(), path=tmp_path / "r.html").read_text(encoding="utf-8")
    dated = re.compile(r"Written on [^.]*\.")
    assert dated.sub("", again) == dated.sub("", page)


@pytest.mark.usefixtures("no_pictures")
def test_the_page_is_there_whole_or_not_at_all(cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(FileError, match=r"report.html' exists. Replace it with overwrite=True"):
        scflow.tl.report(**cells, scores=table(), path=path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match=r"Cannot save to '.*report.html': No space left on device"):
            scflow.tl.report(**cells, scores=table(), path=path, overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"
    scflow.tl.report(**cells, scores=table(), path=path, overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_bytes_replace_a_file_in_one_move(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    _file.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"path": "nowhere/r.html"}, FileError, r"there is no folder 'nowhere'. Make it first"),
        ({"path": "."}, FileError, r"it is a folder. Give the name of a file in it"),
        ({"path": "r.html", "real": "held.h5ad"}, InputError, r"real is a str, not an AnnData. Read the file first"),
        ({"path": "r.html", "reference": 3}, InputError, r"reference is a int, not an AnnData"),
        ({"path": "r.html", "scores": pd.DataFrame()}, InputError, r"0 rows and lacks 7 of 7 columns"),
        ({"path": "r.html", "scores": None, "condition": "cel_type"}, InputError, r"Did you mean 'cell_type'"),
    ],
)
def test_errors_come_before_any_work(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], kind: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        scflow.tl.report(**({"scores": table()} | cells | change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_pictures")
def test_the_shell_writes_it_too(cells: Cells, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, adata in cells.items():
        adata.uns.clear()
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    argv = ["score", *(str(tmp_path / f"{name}.h5ad") for name in ("real", "generated"))]
    argv += ["--reference", str(tmp_path / "reference.h5ad"), "--metrics", "mmd", "gene_means"]
    argv += ["--condition", "cell_type", "--seed", "2", "--out", str(tmp_path / "scores.csv")]
    out = tmp_path / "report.html"
    assert main([*argv, "--report", str(out)]) == 0
    verdict = scflow.tl.verdict(pd.read_csv(tmp_path / "scores.csv"))
    printed = capsys.readouterr().out
    assert verdict in printed
    assert f"saved {out}: the verdict, scores and pictures" in printed
    text = " ".join(_Reader(out.read_text(encoding="utf-8")).texts)
    assert "seed of scores and pictures 2" in text
    assert all(line in text for line in verdict.splitlines())
    # Before any work.
    assert main([*argv, "--overwrite", "--report", str(tmp_path / "report.pdf")]) == 1
    assert "expected a file that ends in '.html'" in capsys.readouterr().err


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_shows_the_page_and_runs_nothing(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    # A script of ours, put in by force, tells what the browser saw: where it ran, the page's policy would be void.
    probe = "<script>document.title = 'run'</script>"
    path.write_text(page.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    argv = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    argv += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    argv += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>Generated cells beside real ones</title>" in shown
    assert shown.count("<script") == 1
    found = _Reader(shown)
    assert found.headings() == [name for name in HEADINGS if name != "Training"]
    assert f"{EVIL}: 1 of 1 figures off the floor" in found.texts
