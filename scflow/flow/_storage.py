"""A flow as plain text and arrays, and as one file. Nothing is ever pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scflow import _file, nn
from scflow.errors import FileError, InputError
from scflow.flow._restoring import FORMAT, parsed, parts
from scflow.matching import Displaced, FlowMap, noises, paths
from scflow.matching.names import NOISES, PATHS, named

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["FORMAT", "checked_place", "load", "parts", "save", "to_content"]

_KIND = "scflow.Flow"

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


def _path_config(path: paths.Path) -> dict[str, Any]:
    config = named(path, PATHS)
    if config["name"] not in PATHS:
        raise InputError(f"A flow whose path is a {config['name']} of your own cannot be saved.")
    return config


def _noise_config(noise: noises.Noise) -> dict[str, Any]:
    config = named(noise, NOISES)
    if config["name"] not in NOISES:
        raise InputError(f"A flow whose noise is a {type(noise).__qualname__} of your own cannot be saved.")
    return {setting: value for setting, value in config.items() if not isinstance(value, Tensor)}


def _noise_tensors(noise: noises.Noise) -> dict[str, Tensor]:
    return {setting: value for setting, value in named(noise, NOISES).items() if isinstance(value, Tensor)}


def _prefixed(prefix: str, state: Mapping[str, Tensor]) -> Arrays:
    return {f"{prefix}.{name}": tensor.detach().cpu().numpy() for name, tensor in state.items()}


def save(content: Mapping[str, Any], path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Write a content to a file beside `path`, flush it to the disk and rename it."""
    target = checked_place(path, overwrite=overwrite)
    _file.write(target, _KIND, str(content["config"]), dict(content["tensors"]))


def checked_place(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Where a flow is to be saved, once it is known that it can be.

    Raises
    ------
    FileError
        Where it is a folder, a device, a fifo or a socket, is there already and `overwrite` is false, or its folder is
        not there or cannot be written to.
    """
    target = Path(path).expanduser()
    if not target.parent.is_dir():
        raise FileError(f"Cannot save to '{target}': the folder '{target.parent}' does not exist.")
    if target.is_dir():
        raise FileError(f"Cannot save to '{target}': it is a folder. Give the name of a file in it.")
    if target.exists() and not overwrite:
        raise FileError(f"'{target}' exists. Replace it with flow.save({str(path)!r}, overwrite=True).")
    _file.check_place(target)
    return target


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a content from a file, and check it against its digest."""
    config, tensors = _file.read(Path(path).expanduser(), _KIND, "flow", parsed)
    return {"config": config, "tensors": tensors}
