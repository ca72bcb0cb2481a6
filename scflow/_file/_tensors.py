"""One kind of file: tensors as safetensors, JSON in the header, a sha256 of both. Never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scflow._file._places import kind_of
from scflow._file._writing import write_bytes
from scflow.errors import FileError

__all__ = ["read", "write"]

_LONGEST_HEADER = 100_000_000
"""Bytes that the format allows: a longer one would be written, and never read."""
_MOST_TENSORS = 100_000
_TYPES = ("BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "F64", "I64", "U64")
"""Those that numpy has too."""
_BEGINNINGS = {
    b"\x89HDF": "an HDF5 file, such as an .h5ad: scflow.Flow.from_content takes what .uns of one holds",
    b"PK": "a zip archive, such as torch.save and numpy.savez make, which may hold a pickle",
    b"\x80": "a pickle, which is never read: it could run anything",
    b"\x89PNG": "a PNG picture",
    b"\x1f\x8b": "a gzip archive",
}


def write(target: Path, kind: str, config: str, tensors: Mapping[str, Any]) -> None:
    """Write tensors and their configuration to `target`, whole or not at all.

    Raises
    ------
    FileError
        Where the disk refuses, or the configuration is longer than a header can be.
    """
    from safetensors.numpy import save as serialized

    header = {"kind": kind, "config": config, "sha256": _digest(config, tensors)}
    content = serialized(dict(tensors), metadata=header)
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST_HEADER:
        raise FileError(
            f"Cannot save to '{target}': names, labels and settings take {length:,} bytes, and a header has room for "
            f"{_LONGEST_HEADER:,}. Most of it are names of genes, or vectors of an embedded condition."
        )
    write_bytes(target, content)


def read(target: Path, kind: str, what: str, check: Callable[[str], object]) -> tuple[str, dict[str, Any]]:
    """The configuration and the tensors of a file of this kind.

    `check` is given the configuration before the digest is compared: a file of a newer format is told from a damaged
    one by it. `what` names the kind in words. Sizes in the header are compared with that of the file before memory is
    taken.

    Raises
    ------
    FileError
        Where the file is missing, cannot be read, is of another kind, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if (found := kind_of(target)) != "a file":
            raise FileError(f"There is no file '{target}'{f': it is {found}' if found else ''}.")
        with safe_open(target, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("kind") != kind:
                raise FileError(f"'{target}' is a safetensors file, but no {what} that scflow saved.")
            tensors = _tensors(file, target)
    except (SafetensorError, OSError) as error:
        raise FileError(f"'{target}' cannot be read as a safetensors file: {error}{_hint(target)}") from error
    config = header.get("config", "")
    check(config)
    if header.get("sha256") != _digest(config, tensors):
        raise FileError(f"'{target}' is damaged: its contents do not match the sha256 in its header.")
    return config, tensors


def _tensors(file: Any, target: Path) -> dict[str, Any]:
    """All tensors, once it is known that there are not too many, of types that numpy has."""
    names = list(file.keys())
    if len(names) > _MOST_TENSORS:
        raise FileError(f"'{target}' has {len(names):,} tensors; expected {_MOST_TENSORS:,} at most.")
    other = [f"{name!r} of {kind}" for name in names if (kind := file.get_slice(name).get_dtype()) not in _TYPES]
    if other:
        raise FileError(f"'{target}' has {len(other)} tensors of types that are never saved ({other[0]}).")
    return {name: file.get_tensor(name) for name in names}


def _hint(target: Path) -> str:
    """What a file seems to be."""
    try:
        with open(target, "rb") as file:
            start = file.read(8)
    except OSError:
        return ""
    if not start:
        return ". It is empty."
    kinds = [kind for beginning, kind in _BEGINNINGS.items() if start.startswith(beginning)]
    return f". It seems to be {kinds[0]}." if kinds else ". It is damaged, not copied whole, or something else."


def _digest(config: str, tensors: Mapping[str, Any]) -> str:
    """The sha256 of the configuration and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
