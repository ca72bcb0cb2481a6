"""A flow out of plain text and arrays, which may be anybody's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scflow import codecs, nn
from scflow.codecs import Calibration, Codec
from scflow.conditions import Conditions
from scflow.errors import FileError, InputError, listed
from scflow.flow._checking import (
    arrays_of,
    check_facts,
    check_field,
    check_growth,
    check_noise,
    check_raw,
    check_seen,
    check_steps,
    fitted,
    texts,
    unit_interval,
)
from scflow.flow._growth import Growth
from scflow.matching import Displaced, FlowMap, Preconditioned, Shift, noises, paths
from scflow.matching.names import NOISES, PATHS
from scflow.training.history import COLUMNS

__all__ = ["FORMAT", "parsed", "parts"]

FORMAT = 1
_LONGEST = 600
"""Characters of what a message says of a content."""
_CODECS: dict[str, type[Codec]] = {
    c.name: c for c in (codecs.Standardized, codecs.Quantile, codecs.PCA, codecs.Counts, codecs.Embedding)
}

Arrays = dict[str, NDArray[Any]]


def parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments for the flow that a content describes.

    The content may be anybody's: see :mod:`scflow.flow._checking`. Names in it are looked up in tables, nowhere else.

    Raises
    ------
    FileError
        Where it is none of a flow, or what it says and what it holds do not fit together.
    """
    if not isinstance(content, Mapping):
        raise FileError(f"This holds no flow: it is a {type(content).__name__}.")
    config: dict[str, Any] = parsed(content.get("config"))
    try:
        with torch.random.fork_rng(devices=[]):  # Networks draw weights before theirs are loaded.
            return _parts(config, arrays_of(content.get("tensors")))
    except MemoryError:
        raise
    except Exception as error:
        # Whatever a content that is none leads to, from a missing name to numbers that overflow: it is at fault.
        told = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise FileError(f"The flow's configuration and tensors do not fit together: {told[:_LONGEST]}") from error


def _parts(config: dict[str, Any], tensors: Arrays) -> dict[str, Any]:
    conditions = Conditions.from_json(config["conditions"])
    codec = _codec(config["codec"], tensors, conditions)
    path = _path(config["path"])
    noise = _noise(config["noise"], tensors, codec.dim, sum(conditions.widths))
    field = _field(config["field"], tensors, path, codec.dim, conditions)
    raw = _chosen("raw", tensors) or None
    check_raw(raw, field)
    seen = torch.from_numpy(np.array(tensors["seen"]))
    check_seen(seen, conditions)
    return {
        "field": field.eval(),
        "codec": codec.eval(),
        "path": path,
        "noise": noise,
        "conditions": conditions,
        "seen": seen,
        "genes": _genes(config["genes"], codec),
        "calibration": _calibration(config["calibration"], tensors, codec.n_genes),
        "history": _history(config, tensors),
        "provenance": check_facts(config["provenance"]),
        "raw": raw,
        "growth": _growth(tensors, codec.dim),
    }


def _codec(config: Mapping[str, Any], tensors: Arrays, conditions: Conditions) -> Codec:
    state, settings = _chosen("codec", tensors), dict(config["settings"])
    if config["name"] == codecs.Quantile.name:
        check_steps(state, "steps")
    codec = fitted(lambda: _CODECS[config["name"]](**settings), state, "codec")
    for name in ("target_sum", "clip"):
        unit_interval(settings.get(name, 1.0), name, least=1e-300, most=1e300)
    for name in ("kl", "thinning"):
        unit_interval(settings.get(name, 0.5), name, most=1.0 if name == "thinning" else 1e300)
    if settings.get("counts", "poisson") not in ("stochastic", "round", "poisson", "negative_binomial"):
        raise InputError(f"counts={settings['counts']!r} is not known.")
    for name in ("cardinalities", "answers"):
        known = settings.get(name)
        if known and tuple(known) != conditions.cardinalities:
            raise InputError(f"the codec's {name} are {listed(known)}; the conditions have {conditions.cardinalities}.")
    if isinstance(codec, codecs.Quantile):
        codec.steps = _reindexed(codec.steps)
    return codec


def _field(
    config: Mapping[str, Any], tensors: Arrays, path: paths.Affine, dim: int, conditions: Conditions
) -> Preconditioned | Displaced | FlowMap:
    state, settings = _chosen("field", tensors), dict(config["settings"])
    check_field(settings, len(state))
    unit_interval(settings.get("dropout", 0.0), "dropout")
    told = (settings["dim"], tuple(settings["cardinalities"]))
    if told != (dim, conditions.inputs):
        raise InputError(
            f"the field takes {told[0]} coordinates and conditions {told[1]}; there are {dim} and {conditions.inputs}."
        )

    def build() -> Preconditioned | Displaced | FlowMap:
        unit = torch.ones(dim)
        shift = Shift(torch.zeros(sum(conditions.widths), dim)) if config.get("shifted", False) else None
        network = nn.FIELDS[config["name"]](**settings)
        if config.get("map", False):  # Flows of 0.1.0 are no maps, and do not say so.
            network.take_two_times()
            return FlowMap(network, unit, unit, shift)
        if config.get("displaced", False):
            return Displaced(network, unit, unit, unit, unit, shift)
        return Preconditioned(network, path, unit, unit, shift)

    field = fitted(build, state, "field")
    if isinstance(field.network, nn.Transformer):
        field.network.arrange(field.network.order.clone())  # which raises where it is no order
    return field


def _calibration(settings: Mapping[str, Any] | None, tensors: Arrays, n_genes: int) -> Calibration | None:
    if settings is None:
        return None
    state = _chosen("calibration", tensors)
    if "sizes" not in state:  # 0.1.0 had none
        state["sizes"] = torch.zeros(1 + len(state["groups"]), dtype=torch.int64)
    if settings["n_genes"] != n_genes:
        raise InputError(f"the calibration is of {settings['n_genes']} genes, and the codec has {n_genes}.")
    for name in ("model", "data"):
        check_steps(state, name)
    calibration = fitted(lambda: Calibration.empty(**settings), state, "calibration")
    calibration.model, calibration.data = _reindexed(calibration.model), _reindexed(calibration.data)
    return calibration


def _genes(names: Any, codec: Codec) -> tuple[str, ...]:
    genes = texts(names, "genes")
    if len(genes) != codec.n_genes or len(set(genes)) < len(genes):
        raise InputError(f"there are {len(set(genes))} different names in {len(genes)} of {codec.n_genes} genes.")
    return genes


def _history(config: Mapping[str, Any], tensors: Arrays) -> pd.DataFrame:
    columns = texts(config.get("history", COLUMNS), "columns of the history")  # Flows of 0.1.0 do not list theirs.
    history = {column: tensors[f"history.{column}"] for column in columns if f"history.{column}" in tensors}
    if any(values.ndim != 1 for values in history.values()):
        raise InputError("a column of the history is no list of numbers.")
    return pd.DataFrame(history)


def _growth(tensors: Arrays, dim: int) -> Growth | None:
    state = _chosen("growth", tensors)  # Flows of time courses alone have some.
    if not state:
        return None
    growth = Growth(**state)
    check_growth(growth, dim)
    return growth


def parsed(text: Any) -> dict[str, Any]:
    """The configuration, of a format that this version reads."""
    try:
        config = json.loads(text)
        written = int(config["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise FileError(f"This holds no flow: its configuration cannot be read ({str(error)[:_LONGEST]}).") from error
    if written > FORMAT:
        raise FileError(
            f"This flow is of format {written}, from scflow {str(config.get('scflow', '?'))[:20]}; this version reads "
            f"up to {FORMAT}. Upgrade: pip install -U scflow-tools"
        )
    if written < 1:
        raise FileError(f"This holds no flow: its format is {written}, and the first one was 1.")
    return dict(config)


def _path(config: Mapping[str, Any]) -> paths.Affine:
    settings = {name: value for name, value in config.items() if name != "name"}
    return PATHS[config["name"]](**settings)


def _noise(config: Mapping[str, Any], tensors: Arrays, dim: int, n_conditions: int) -> noises.Noise:
    settings = {setting: value for setting, value in config.items() if setting != "name"}
    for setting, value in settings.items():
        unit_interval(value, f"the noise's {setting}", most=1e6)
    held = _chosen("noise", tensors)
    check_noise(held, dim, n_conditions)
    return NOISES[config["name"]](**settings, **held)


def _reindexed(steps: Any) -> Any:
    """Step functions whose look-up keys are made anew from what was loaded."""
    return type(steps)(steps.start, steps.value, steps.cumulative)


def _chosen(prefix: str, tensors: Arrays) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): torch.from_numpy(np.array(t)) for n, t in tensors.items() if n.startswith(start)}
