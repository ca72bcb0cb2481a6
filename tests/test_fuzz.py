"""What strangers send: nothing of it is run, no memory taken for what it claims, and one documented error raised."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scflow
from scflow import _anndata
from scflow.conditions import Conditions
from scflow.errors import FileError, InputError
from scflow.flow import Flow, _storage
from scflow.tl._page import details, facts, page, paragraph, pictures, section, sentences, table
from scflow.tl._pictures import Picture
from scflow.training import Checkpoint, Checkpoints

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from mutations import DATA, mutated, seeds, survived

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

LONG = bool(os.environ.get("SCFLOW_FUZZ"))
"""Set by ``make fuzz``: other examples at every run, and a hundred times as many."""
PROFILE = hypothesis.settings(
    max_examples=10_000 if LONG else 100,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
STEPS = st.lists(st.tuples(*[st.integers(0, 2**16 - 1)] * 3), min_size=1, max_size=4)
SEEDS = seeds()


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return _storage.load(DATA / "format-1" / "embedding.safetensors")


# ---- mutations


@PROFILE
@hypothesis.given(st.integers(0, len(SEEDS) - 1), STEPS)
def test_a_wrong_flow_is_refused_or_draws(seed: int, steps: list[tuple[int, int, int]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survived(mutated(SEEDS[seed], steps))


@PROFILE
@hypothesis.given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(np.zeros((2, 0))),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(
        st.sampled_from(["config", "tensors", "parts", "vectors", "separator", "none", "n_cells", "clip", "x/%"]), one
    ),
    max_leaves=8,
))  # fmt: skip
def test_anything_in_uns_raises_what_is_documented(found: Any) -> None:
    slots = ("scflow", "scflow_pp", "scflow_embed", "scflow_score")
    adata = AnnData(np.eye(3, dtype=np.float32), uns=dict.fromkeys(slots, found))
    for read in (
        lambda: Flow.from_content(_anndata.read_flow(adata)),
        lambda: _anndata.read_preprocessing(adata),
        lambda: _anndata.read_parts(adata),
        lambda: _anndata.read_scores(adata),
    ):
        try:
            read()
        except (FileError, InputError):
            continue


@pytest.mark.parametrize("path", sorted((DATA / "corpus").glob("*.json")), ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    """Each file has a flow, what was done to it, and once led to another error than a documented one."""
    told = json.loads(path.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survived(mutated(_storage.load(DATA / told["flow"]), told["steps"]))


# ---- sizes


def changed(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """With other values in the configuration, by path: ``field__settings__depth``."""
    config = json.loads(content["config"])
    for name, value in changes.items():
        *way, last = name.split("__")
        node = config
        for step in way:
            node = node[step]
        node[last] = value
    return {**content, "config": json.dumps(config)}


HUGE = [
    {"field__settings__width": 10**9},
    {"field__settings__depth": 10**9},
    {"field__settings__dim": 10**12},
    {"field__settings__cardinalities": [3] * 200_000},
    {"field__settings__cardinalities": [-(10**12)]},
    {"field": {"name": "unet", "settings": {"dim": 2, "levels": 10**9, "cardinalities": [2]}}},
    {"codec": {"name": "counts", "settings": {"n_genes": 10**6, "hidden": 10**6}}},
    {"codec": {"name": "pca", "settings": {"n_genes": 10**6, "n_components": 10**6}}},
    {"codec": {"name": "embedding", "settings": {"dim": 10**11}}},
    {"codec": {"name": "quantile", "settings": {"n_genes": 10**9, "n_steps": 10**11}}},
    {"calibration": {"n_genes": 0, "n_groups": 10**9, "model": 10**11, "data": 1}},
    {"provenance__draw_solver": "euler", "provenance__draw_steps": 10**9},
]

CHILD = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
from scflow.errors import FileError
from scflow.flow import Flow, _storage
content, cases = _storage.load(sys.argv[1]), json.loads(sys.stdin.read())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
for case in cases:
    start = time.perf_counter()
    try:
        Flow.from_content({**content, "config": case})
        sys.exit("loaded: " + case[:300])
    except FileError:
        assert time.perf_counter() - start < 5, case[:300]
print("good")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is limited on Linux")
def test_sizes_are_compared_before_memory_is_taken(content: dict[str, Any]) -> None:
    """In a process that can have 300 MB more."""
    cases = [changed(content, **one)["config"] for one in HUGE]
    cases += ["[" * 100_000 + "]" * 100_000, '{"format": 1e400}', '{"format": 0}', '{"format": 1}', "1" * 10_000]
    cases += [changed(content, conditions="[" * 100_000)["config"]]
    argv = [sys.executable, "-c", CHILD, str(DATA / "format-1" / "embedding.safetensors")]
    done = subprocess.run(argv, input=json.dumps(cases), capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "good", done.stderr[-2000:]


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    entry = {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}
    wrong = [
        {"x": entry},
        {"x": {**entry, "shape": [-1], "data_offsets": [0, 4]}},
        {"x": {**entry, "shape": [2**63, 2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}, "__metadata__": {"kind": "scflow.Flow"}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"kind": 3}},
        {"__metadata__": {"kind": "scflow.Flow", "config": "x"}},
    ]
    for header in wrong:
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
        with pytest.raises(FileError):
            Flow.load(path)
    path.write_bytes((200_000_000).to_bytes(8, "little") + b" " * 100)
    with pytest.raises(FileError):
        Flow.load(path)


# ---- nothing is run


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_never_read(content: dict[str, Any], tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "flow.safetensors"
    evil = pickle.dumps(Evil(mark))
    path.write_bytes(evil)
    with pytest.raises(FileError, match="a pickle, which is never read"):
        Flow.load(path)
    np.savez(path.with_suffix(".npz"), x=np.array([Evil(mark)], dtype=object))
    with pytest.raises(FileError, match="a zip archive"):
        Flow.load(path.with_suffix(".npz"))
    name = "field.network.last.weight"
    for value in (np.array([Evil(mark)], dtype=object), np.frombuffer(evil, "V1"), evil, Evil(mark), [Evil(mark)]):
        adata = AnnData(np.eye(2), uns={"scflow": {**content, "tensors": {**content["tensors"], name: value}}})
        with pytest.raises((FileError, InputError)):
            Flow.from_content(_anndata.read_flow(adata))
    assert not mark.exists()


def test_a_zarr_store_with_a_pickle_runs_nothing(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    mark, path = tmp_path / "ran", tmp_path / "cells.zarr"
    for filters, compressor in (([{"id": "pickle"}], None), ([{"id": "vlen-utf8"}, {"id": "pickle"}], None)):
        (path / "obs").mkdir(parents=True, exist_ok=True)
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        shape = {"shape": [3], "chunks": [3], "dtype": "|O", "fill_value": None, "order": "C", "zarr_format": 2}
        (path / "obs" / ".zarray").write_text(json.dumps(shape | {"filters": filters, "compressor": compressor}))
        (path / "obs" / "0").write_bytes(pickle.dumps(Evil(mark)))
        with pytest.raises(Exception, match=r"pickle|Pickle"):
            zarr.open_group(path, mode="r")["obs"][...]
    assert not mark.exists()


def test_no_module_reads_what_can_run() -> None:
    wrong = re.compile(
        r"\bpickle\.\w|import pickle|torch\.load\(|joblib|allow_pickle=True|(?<![.\w])(eval|exec)\(|yaml\.load"
    )
    root = Path(scflow.__file__).parent
    found = [path.name for path in root.rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_names_in_a_file_lead_nowhere(content: dict[str, Any]) -> None:
    for name in ("__class__", "os.system", "../mlp", "Module", "MLP", "transformer\0"):
        for place in ("field__name", "codec__name", "path__name", "noise__name"):
            with pytest.raises(FileError):
                Flow.from_content(changed(content, **{place: name}))
    for settings in ({"forward": 1}, {"__init__": 1}, {"settings": {}}, {"self": 1}):
        with pytest.raises(FileError):
            Flow.from_content(changed(content, field__settings={"dim": 2, "cardinalities": [2], **settings}))


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "categorical", "name": "a", "categories": ["x", "x"], "kind": "string"},
        {"type": "categorical", "name": "a", "categories": ["x"], "kind": "integer"},
        {"type": "categorical", "name": "a", "categories": ["x"], "kind": "os"},
        {"type": "categorical", "name": 3, "categories": ["x"], "kind": "string"},
        {"type": "continuous", "name": "a", "mean": 0, "sd": 0},
        {"type": "continuous", "name": "a", "mean": float("nan"), "sd": 1},
        {"type": "module", "name": "a", "mean": 0, "sd": 1},
    ],
)
def test_conditions_that_are_none(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Conditions.from_json(json.dumps([entry]))


def test_a_strangers_checkpoint_is_refused(tmp_path: Path) -> None:
    from scflow import _file

    for config in ('{"format": 1}', '{"format": 1, "run": 3}', "[" * 100_000, '{"format": 1e400}', '{"format": "x"}'):
        folder = tmp_path / str(abs(hash(config)))
        folder.mkdir()
        _file.write(folder / "flow-00000001.safetensors", "scflow.Checkpoint", config, {"x": np.zeros(1)})
        with pytest.raises((FileError, InputError)):
            Checkpoints(Checkpoint(folder), {"seed": 1}, resume=True)


# ---- pages


EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"


def test_every_part_of_a_page_escapes_what_it_is_given() -> None:
    picture = Picture(EVIL, EVIL, 3)
    body = [
        paragraph(EVIL, EVIL), sentences(EVIL), table([EVIL], [[EVIL, EVIL]], [EVIL]), facts({EVIL: EVIL}),
        details(EVIL, paragraph(EVIL)), pictures([picture]),
    ]  # fmt: skip
    text = page(EVIL, [section(EVIL, *body)])
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;") == 16


def test_scores_of_a_stranger_are_text_in_a_report(tmp_path: Path) -> None:
    adata = scflow.datasets.simulate(60, 12, 2, seed=0)
    adata.obs[EVIL] = adata.obs.pop("cell_type")
    adata.var_names = [f"{EVIL}{i}" for i in range(12)]
    adata.uns["scflow"] = {"provenance": {EVIL: EVIL, "n": {EVIL: [EVIL]}}}
    row = {"condition": EVIL, "metric": EVIL, "value": 1.0, "floor": 0.0, "trivial": 2.0, "low": 0.0, "high": 1.0}
    scores = pd.DataFrame([{**row, "condition": "all", "metric": "mmd"}, {**row, "metric": "mmd"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("scflow.tl.report"), "looks", lambda *_: [])
        path = scflow.tl.report(adata, adata.copy(), scores=scores, condition=None, path=tmp_path / "r.html")
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
