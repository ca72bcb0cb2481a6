"""What others rely on: MuData by modality, workflows, the entry in the registry of scverse, the package's own facts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import scflow
from scflow.errors import InputError

HOUSE = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((HOUSE / ".github" / "workflows").glob("*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE = (HOUSE / "docs" / "ecosystem.md").read_text(encoding="utf-8")


def read(path: Path) -> Any:
    # YAML 1.1 reads the key `on` as True.
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# MuData


@pytest.mark.usefixtures("small_flows")
def test_a_modality_of_a_mudata_keeps_its_flow(tmp_path: Path) -> None:
    mudata = pytest.importorskip("mudata", reason="mudata is in the extra 'test'")
    mdata = mudata.MuData(
        {"rna": scflow.datasets.simulate(200, 30, 3, seed=0), "prot": scflow.datasets.simulate(200, 5, 2)}
    )
    with pytest.raises(
        InputError, match=r"adata is a MuData, .* 2 modalities: 'rna', 'prot'.*counts of genes: adata\['rna'\]"
    ):
        scflow.tl.train(mdata, steps=5, progress=False)
    flow = scflow.tl.train(mdata["rna"], condition="cell_type", steps=5, progress=False)
    mdata.write(tmp_path / "cells.h5mu")
    back = mudata.read_h5mu(tmp_path / "cells.h5mu")
    assert "scflow" not in back["prot"].uns
    first, second = (scflow.tl.generate(of, 7, progress=False).layers["counts"] for of in (flow, back["rna"]))
    assert (first != second).nnz == 0


# Workflows


def test_the_workflows_are_there() -> None:
    assert {"build", "docs", "release", "test", "tutorials"} <= {path.stem for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_yaml_that_may_do_little(path: Path) -> None:
    flow = read(path)
    assert flow["permissions"] == {"contents": "read"}
    assert flow.get("on", flow.get(True)), "says when it runs"
    for job in flow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        assert set(job.get("permissions", {})) <= {"id-token"}
        for step in job["steps"]:
            if "uses" in step:
                assert re.search(r"@(v\d+|release/v\d+)$", step["uses"]), "pinned by the major version"
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False
            # What others write, such as a title, would run as a command.
            assert "${{" not in step.get("run", "")


def test_the_right_to_publish_is_that_of_one_job_on_a_tag() -> None:
    release = read(HOUSE / ".github" / "workflows" / "release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert "permissions" not in release["jobs"]["build"]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "password" not in str(publish)
    assert "checkout" not in str(publish), "what it publishes was built and checked before"


def test_every_python_of_the_classifiers_is_tested() -> None:
    jobs = read(HOUSE / ".github" / "workflows" / "test.yml")["jobs"]
    tested = jobs["newest"]["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert set(named) <= set(tested)
    assert PROJECT["requires-python"] == f">={tested[0]}"


# The registry of scverse


def test_the_entry_of_the_registry_says_what_the_package_says() -> None:
    entry = read(HOUSE / "docs" / "ecosystem" / "meta.yaml")
    assert entry["install"] == {"pypi": PROJECT["name"]}
    assert entry["license"] == PROJECT["license"]
    assert entry["version"] == scflow.__version__
    assert len(entry["tags"]) == len(set(entry["tags"])) > 0
    known = {"name", "description", "install", "primary_category", "tags", "license", "language", "version",
             "test_command", "category"}  # fmt: skip
    left = set(yaml.safe_load(re.search(r"  ```yaml\n(.*?)  ```", PAGE, re.S).group(1)))  # type: ignore[union-attr]
    assert set(entry) == known
    assert {"project_home", "documentation_home", "contact"} <= left, "required, and the owner's to fill"


def test_the_page_names_files_that_are_there() -> None:
    for name in re.findall(r"`((?:LICENSE|CHANGELOG\.md|tests/|tutorials/|[\w./-]+\.yml))`", PAGE):
        places = [HOUSE / name, HOUSE / ".github" / "workflows" / name]
        assert any(place.exists() for place in places), name


@pytest.mark.usefixtures("small_flows")
def test_the_code_of_the_page_runs() -> None:
    pytest.importorskip("mudata", reason="mudata is in the extra 'test'")
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
        exec(compile(block, "ecosystem.md", "exec"), {})


# The package


def test_the_package_is_typed() -> None:
    assert (Path(scflow.__file__).parent / "py.typed").read_text() == ""
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_every_extra_has_a_purpose_that_is_told() -> None:
    for extra in ("hub", "lazy", "adaptive", "test"):
        assert PROJECT["optional-dependencies"][extra]
