"""What a run is of: the fingerprint of its data, and every setting that its result depends on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from scflow.conditions import Conditions
from scflow.training import Run
from scflow.training.stored import Stored

if TYPE_CHECKING:
    from scflow.flow._learning import Recipe

__all__ = ["described", "fingerprint", "identity"]

_CHUNK = 1 << 20


def identity(
    data: sparse.csr_matrix | NDArray[Any] | Stored,
    genes: Sequence[str],
    conditions: Conditions,
    condition: Tensor | None,
    recipe: Recipe,
    run: Run,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """A description as JSON types; two runs with the same one go the same way.

    Parameters
    ----------
    data
        Counts ``[n_cells, n_genes]`` or coordinates ``[n_cells, dim]``; counts that are elsewhere bring a fingerprint.
    settings
        What else the result depends on, such as how counts were preprocessed.
    """
    names = hashlib.sha256("\n".join(genes).encode()).hexdigest()
    held = hashlib.sha256(run.validation.cpu().numpy().tobytes()).hexdigest()
    numbers = data.fingerprint if isinstance(data, Stored) else fingerprint(data)
    table = fingerprint(np.zeros((0, 0)) if condition is None else condition.cpu().numpy())
    return {
        "data": {
            "cells or their counts": [int(data.shape[0]), int(data.shape[1]), numbers],
            "genes": names,
            "conditions of the cells": [table, described(conditions.to_json())],
        },
        "condition": list(conditions.names),
        "batch_size": run.batch_size,
        "processes": run.workers.size,
        "seed": run.seed,
        "validation": [len(run.validation), held],
        "precision": run.precision,
        "device": run.device.type,
        **{field.name: described(getattr(recipe, field.name)) for field in fields(recipe)},
        **settings,
    }


def fingerprint(data: sparse.csr_matrix | NDArray[Any]) -> str:
    """The sha256 of the numbers, whatever types they and their indices are kept in."""
    sha = hashlib.sha256(f"{tuple(int(n) for n in data.shape)}".encode())
    if sparse.issparse(data):
        matrix = sparse.csr_matrix(data)
        for part in (matrix.indptr, matrix.indices):
            _update(sha, part, np.int64)
        _update(sha, matrix.data, np.float64)
    else:
        _update(sha, np.ravel(np.asarray(data)), np.float64)
    return sha.hexdigest()


def _update(sha: Any, numbers: NDArray[Any], kind: type) -> None:
    for start in range(0, len(numbers), _CHUNK):
        sha.update(np.ascontiguousarray(numbers[start : start + _CHUNK], dtype=kind).tobytes())


def described(value: Any) -> Any:
    """Objects as JSON types: a dataclass by its name and fields, a network by its weights, others by their kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        return fingerprint(np.asarray(value.cpu() if isinstance(value, Tensor) else value).reshape(-1, 1))
    if isinstance(value, nn.Module):
        return {"name": type(value).__qualname__, **{k: described(v) for k, v in value.state_dict().items()}}
    if isinstance(value, functools.partial):
        return {"name": described(value.func), "args": described(value.args), **described(value.keywords)}
    if is_dataclass(value):
        return {"name": type(value).__qualname__, **{f.name: described(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
