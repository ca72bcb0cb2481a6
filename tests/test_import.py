"""`import scflow` costs next to nothing, and everything public is there on first use."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import scflow

HEAVY = ("anndata", "matplotlib", "numpy", "ot", "pandas", "scanpy", "scipy", "sklearn", "torch")


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_import_costs_under_a_tenth_of_a_cpu_second() -> None:
    pytest.importorskip("resource", reason="CPU time of a process is measured by the resource module")
    code = (
        "import resource\n"
        "def cpu():\n"
        "    use = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    return use.ru_utime + use.ru_stime\n"
        "before = cpu()\n"
        "import scflow\n"
        "print(cpu() - before)\n"
    )
    # The least of three: the first may compile, and a busy machine only ever adds.
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_import_loads_no_heavy_package() -> None:
    code = f"import json, sys, scflow; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert json.loads(python(code)) == []


def test_listing_the_names_loads_no_heavy_package() -> None:
    code = f"import json, sys, scflow; dir(scflow); print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert json.loads(python(code)) == []


@pytest.mark.parametrize("name", scflow.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(scflow)
    found = getattr(scflow, name)
    assert found is not None
    if inspect.ismodule(found):
        assert found.__name__ == f"scflow.{name}"
        assert found.__doc__


def test_flow_is_the_class() -> None:
    from scflow.flow import Flow

    assert scflow.Flow is Flow


def test_unknown_name_is_an_attribute_error_that_python_can_mend() -> None:
    with pytest.raises(AttributeError, match="module 'scflow' has no attribute 'tll'") as caught:
        scflow.tll  # noqa: B018
    assert caught.value.name == "tll"
    assert caught.value.obj is scflow


def test_version_is_that_of_the_distribution() -> None:
    assert version("scflow-tools") == scflow.__version__
