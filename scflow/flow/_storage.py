"""A flow as plain text and arrays, and as one file. Nothing is ever pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow import _file, codecs, nn
from scflow.codecs import Calibration, Codec
from scflow.conditions import Conditions
from scflow.errors import FileError, InputError
from scflow.flow._growth import Growth
from scflow.matching import Displaced, FlowMap, Preconditioned, Shift, noises, paths
from scflow.matching.names import NOISES, PATHS, named
from scflow.training.history import COLUMNS

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["FORMAT", "load", "parts", "save", "to_content"]

FORMAT = 1
_KIND = "scflow.Flow"
_CODECS: dict[str, type[Codec]] = {
    c.name: c for c in (codecs.Standardized, codecs.Quantile, codecs.PCA, codecs.Counts, codecs.Embedding)
}

Arrays = dict[str, NDArray[Any]]


def to_content(flow: Flow) -> dict[str, Any]:
    """The configuration as JSON and all tensors by name."""
    from scflow import __version__

    network = flow.field.network
    names = [name for name, kind in nn.FIELDS.items() if type(network) is kind]
    if not isinstance(network, nn.Field) or not names:
        raise InputError(
            f"A flow whose field is a {type(network).__qualname__} cannot be saved; one with nn.MLP can, or with "
            "nn.Transformer or nn.UNet. Keep flow.field.network.state_dict() and the code that builds it."
        )
    config = {
        "format": FORMAT,
        "scflow": __version__,
        "time": "t=0 is data, t=1 is noise",
        "codec": {"name": flow.codec.name, "settings": flow.codec.settings()},
        "field": {
            "name": names[0],
            "settings": network.settings,
            "map": isinstance(flow.field, FlowMap),
            "displaced": isinstance(flow.field, Displaced),
            **({} if getattr(flow.field, "shift", None) is None else {"shifted": True}),
        },
        "path": _path_config(flow.path),
        "noise": _noise_config(flow.noise),
        "conditions": flow.conditions.to_json(),
        "calibration": None if flow.calibration is None else flow.calibration.settings(),
        "genes": list(flow.genes),
        "provenance": dict(flow.provenance),
        "history": list(flow.history.columns),
    }
    growth = {} if flow.growth is None else flow.growth.tensors()
    tensors = {
        **_prefixed("field", flow.field.state_dict()),
        **({} if flow.raw is None else _prefixed("raw", flow.raw)),
        **_prefixed("codec", flow.codec.state_dict()),
        **({} if flow.calibration is None else _prefixed("calibration", flow.calibration.state_dict())),
        **_prefixed("noise", _noise_tensors(flow.noise)),
        **_prefixed("growth", growth),
        "seen": flow.seen.cpu().numpy(),
        **{f"history.{c}": flow.history[c].to_numpy() for c in flow.history.columns},
    }
    return {"config": json.dumps(config), "tensors": {name: np.ascontiguousarray(t) for name, t in tensors.items()}}


def parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments for the flow that a content describes."""
    config: dict[str, Any] = _parsed(content["config"])
    tensors: Arrays = dict(content["tensors"])
    try:
        with torch.random.fork_rng(devices=[]):  # Networks draw weights before theirs are loaded.
            return _parts(config, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise FileError(f"The flow's configuration and tensors do not fit together: {error}") from error


def _parts(config: dict[str, Any], tensors: Arrays) -> dict[str, Any]:
    codec = _CODECS[config["codec"]["name"]](**config["codec"]["settings"])
    codec.load_state_dict(_chosen("codec", tensors))
    if isinstance(codec, codecs.Quantile):
        codec.steps = _reindexed(codec.steps)
    path = _path(config["path"])
    noise = _noise(config["noise"], tensors)
    state = _chosen("field", tensors)
    unit = torch.ones(codec.dim)
    shift = Shift(state["shift.weight"]) if config["field"].get("shifted", False) else None
    network = nn.FIELDS[config["field"]["name"]](**config["field"]["settings"])
    field: Preconditioned | Displaced | FlowMap
    if config["field"].get("map", False):  # Flows of 0.1.0 are no maps, and do not say so.
        network.take_two_times()
        field = FlowMap(network, unit, unit, shift)
    elif config["field"].get("displaced", False):
        field = Displaced(network, unit, unit, unit, unit, shift)
    else:
        field = Preconditioned(network, path, unit, unit, shift)
    field.load_state_dict(state)
    calibration = None
    if config["calibration"] is not None:
        calibration = Calibration.empty(**config["calibration"])
        calibration.load_state_dict({"sizes": calibration.sizes, **_chosen("calibration", tensors)})  # 0.1.0 had none
        calibration.model, calibration.data = _reindexed(calibration.model), _reindexed(calibration.data)
    growth = _chosen("growth", tensors)  # Flows of time courses alone have some.
    columns = config.get("history", COLUMNS)  # Flows of 0.1.0 do not list theirs.
    history = {column: tensors[f"history.{column}"] for column in columns if f"history.{column}" in tensors}
    return {
        "field": field.eval(),
        "codec": codec.eval(),
        "path": path,
        "noise": noise,
        "conditions": Conditions.from_json(config["conditions"]),
        "seen": torch.from_numpy(np.array(tensors["seen"])),
        "genes": tuple(config["genes"]),
        "calibration": calibration,
        "history": pd.DataFrame(history),
        "provenance": config["provenance"],
        "raw": _chosen("raw", tensors) or None,
        "growth": Growth(**growth) if growth else None,
    }


def _parsed(text: str) -> dict[str, Any]:
    """The configuration, of a format that this version reads."""
    try:
        config = json.loads(text)
        written = int(config["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"This holds no flow: its configuration cannot be read ({error}).") from error
    if written > FORMAT:
        raise FileError(
            f"This flow is of format {written}, from scflow {config.get('scflow', '?')}; this version reads up to "
            f"{FORMAT}. Upgrade: pip install -U scflow-tools"
        )
    return dict(config)


def _path_config(path: paths.Path) -> dict[str, Any]:
    config = named(path, PATHS)
    if config["name"] not in PATHS:
        raise InputError(f"A flow whose path is a {config['name']} of your own cannot be saved.")
    return config


def _path(config: Mapping[str, Any]) -> paths.Affine:
    settings = {name: value for name, value in config.items() if name != "name"}
    return PATHS[config["name"]](**settings)


def _noise_config(noise: noises.Noise) -> dict[str, Any]:
    config = named(noise, NOISES)
    if config["name"] not in NOISES:
        raise InputError(f"A flow whose noise is a {type(noise).__qualname__} of your own cannot be saved.")
    return {setting: value for setting, value in config.items() if not isinstance(value, Tensor)}


def _noise_tensors(noise: noises.Noise) -> dict[str, Tensor]:
    return {setting: value for setting, value in named(noise, NOISES).items() if isinstance(value, Tensor)}


def _noise(config: Mapping[str, Any], tensors: Arrays) -> noises.Noise:
    settings = {setting: value for setting, value in config.items() if setting != "name"}
    return NOISES[config["name"]](**settings, **_chosen("noise", tensors))


def _reindexed(steps: Any) -> Any:
    """Step functions whose look-up keys are made anew from what was loaded."""
    return type(steps)(steps.start, steps.value, steps.cumulative)


def _prefixed(prefix: str, state: Mapping[str, Tensor]) -> Arrays:
    return {f"{prefix}.{name}": tensor.detach().cpu().numpy() for name, tensor in state.items()}


def _chosen(prefix: str, tensors: Arrays) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): torch.from_numpy(np.array(t)) for n, t in tensors.items() if n.startswith(start)}


def save(content: Mapping[str, Any], path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Write a content to a file beside `path`, flush it to the disk and rename it."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileError(f"Cannot save to '{target}': the folder '{target.parent}' does not exist.")
    if target.is_dir():
        raise FileError(f"Cannot save to '{target}': it is a folder. Give the name of a file in it.")
    if target.exists() and not overwrite:
        raise FileError(f"'{target}' exists. Replace it with flow.save({str(path)!r}, overwrite=True).")
    _file.write(target, _KIND, str(content["config"]), dict(content["tensors"]))


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a content from a file, and check it against its digest."""
    config, tensors = _file.read(Path(path), _KIND, "flow", _parsed)
    return {"config": config, "tensors": tensors}
