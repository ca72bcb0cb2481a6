"""Stored flows made wrong on purpose, whole by their digest, and what may become of one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scflow.errors import FileError, InputError
from scflow.flow import Flow, Sampling, _storage

DATA = Path(__file__).parent.parent / "data"
TYPES = ("float32", "float64", "int64", "int8", "bool", "float16", "uint8")
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 10**9, 2**63, 10**30, -1e308, 1e-300, float("nan"), float("inf"), "", "x", "__class__",
    "../../etc/passwd", "<script>", "\ud800", [], {}, [1, "a"], [[1], [2, 3]], ["a", "a"], {"name": "mlp"}, "y" * 5000,
)  # fmt: skip
"""What a value of the configuration is replaced by."""

Step = tuple[int, int, int]
"""What is done, where, and with what; each is taken modulo what there is."""


def seeds() -> list[dict[str, Any]]:
    """The contents to start from."""
    return [_storage.load(path) for path in sorted(DATA.glob("format-*/*.safetensors"))]


def mutated(content: dict[str, Any], steps: Iterable[Step]) -> dict[str, Any]:
    """A content after some steps; the one that is given stays as it is."""
    config, tensors = json.loads(content["config"]), dict(content["tensors"])
    config["conditions"] = json.loads(config["conditions"])
    for kind, where, what in steps:
        if kind % 8 < 4:
            _in_config(config, kind % 4, where, what)
        else:
            _in_tensors(tensors, kind % 4, where, what)
    if not isinstance(config.get("conditions"), str):
        config["conditions"] = json.dumps(config.get("conditions"))
    return {"config": json.dumps(config), "tensors": tensors}


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every container and key in it."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    found = [(node, key) for key in keys]
    for key in keys:
        found += _places(node[key])
    return found


def _in_config(config: dict[str, Any], kind: int, where: int, what: int) -> None:
    """Replace a value, drop one, add one, or put one in the place of another."""
    places = _places(config)
    if not places:
        return
    node, key = places[where % len(places)]
    if kind == 1:
        del node[key]
    elif kind == 2 and isinstance(node, dict):
        node["".join(str(key)[::-1])] = copy.deepcopy(VALUES[what % len(VALUES)])
    elif kind == 3:
        other, its = places[what % len(places)]
        node[key] = copy.deepcopy(other[its])
    else:
        node[key] = copy.deepcopy(VALUES[what % len(VALUES)])


def _in_tensors(tensors: dict[str, Any], kind: int, where: int, what: int) -> None:
    """Another type, another shape, another value, or another name; or none."""
    if not tensors:
        return
    name = sorted(tensors)[where % len(tensors)]
    array = np.array(tensors.pop(name))
    if kind == 0:
        with np.errstate(all="ignore"):
            tensors[name] = array.astype(TYPES[what % len(TYPES)])
    elif kind == 1:
        flat = array.reshape(-1)
        tensors[name] = (flat[: what % (len(flat) + 1)], array[None], flat, np.concatenate([flat, flat]))[what % 4]
    elif kind == 2 and array.size:
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            flat[what % len(flat)] = np.array((np.nan, np.inf, -1, 1e30, -1e38, 2**40, 0)[what % 7]).astype(array.dtype)
        tensors[name] = flat.reshape(array.shape)
    elif what % 3:
        tensors[f"{name}{what % 10}"] = array


def survived(content: Any) -> str:
    """What became of a content: ``"refused"``, or ``"drawn"``. Anything but a documented error is raised."""
    try:
        flow = Flow.from_content(content)
    except FileError:
        return "refused"
    try:
        repr(flow)
        flow.draw(3, sampling=Sampling(steps=2, solver=flow.usual.solver))
    except (FileError, InputError):
        return "refused when it drew"
    return "drawn"
