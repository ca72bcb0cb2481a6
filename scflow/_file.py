"""Files written whole or not at all; one kind: tensors as safetensors, JSON in the header, a sha256. Never a pickle."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scflow.errors import FileError, listed

__all__ = ["beside", "checked_target", "is_zarr", "read", "write", "write_bytes"]


def write(target: Path, kind: str, config: str, tensors: Mapping[str, Any]) -> None:
    """Write tensors and their configuration to `target`, whole or not at all.

    Raises
    ------
    FileError
        Where the disk refuses.
    """
    from safetensors.numpy import save as serialized

    header = {"kind": kind, "config": config, "sha256": _digest(config, tensors)}
    write_bytes(target, serialized(dict(tensors), metadata=header))


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file beside `target`, flush it to the disk and rename it: it is there whole, or not at all.

    Raises
    ------
    FileError
        Where the disk refuses.
    """
    written = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            written = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(written, 0o666 & ~mask)
        os.replace(written, target)
    except OSError as error:
        raise FileError(f"Cannot save to '{target}': {error.strerror or error}.") from error
    finally:
        if written is not None and os.path.exists(written):
            os.unlink(written)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to: it is renamed at the end, or removed where that fails.

    What was at `target` is there until then.
    """
    made, old = (target.with_name(f".{target.name}.{os.getpid()}{end}{target.suffix}") for end in ("", ".old"))
    try:
        yield made
        if target.is_dir():
            # A folder is not replaced in one step, unless it is empty.
            target.replace(old)
        made.replace(target)
    finally:
        if old.exists() and not target.exists():
            old.replace(target)
        for path in (made, old):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def checked_target(path: str | os.PathLike[str], suffixes: Sequence[str], *, overwrite: bool) -> Path:
    """Where a file, or a zarr store in a folder, is to be written, once it is known that it can be.

    Raises
    ------
    FileError
        Where it ends otherwise, is there and `overwrite` is False or it is something else, or its folder is not there
        or cannot be written to.
    """
    target = Path(path).expanduser()
    if target.suffix not in suffixes:
        raise FileError(f"'{target}' ends in {target.suffix!r}; expected a path that ends in {listed(suffixes)}.")
    if target.is_dir() and not is_zarr(target):
        raise FileError(f"Cannot write to '{target}': it is a folder. Give another path.")
    if target.exists() and not overwrite:
        raise FileError(f"'{target}' exists. Replace it with overwrite=True, or give another path.")
    if not target.parent.is_dir():
        raise FileError(f"Cannot write to '{target}': there is no folder '{target.parent}'. Make it first.")
    try:
        # Permissions alone do not tell: file systems are read-only, and disks full.
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise FileError(f"Cannot write to '{target}': {error.strerror or error}. Give another path.") from None
    return target


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store of this ending, which may be replaced as a file may."""
    return path.suffix == ".zarr" and any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def read(target: Path, kind: str, what: str, check: Callable[[str], object]) -> tuple[str, dict[str, Any]]:
    """The configuration and the tensors of a file of this kind.

    `check` is given the configuration before the digest is compared: a file of a newer format is told from a damaged
    one by it. `what` names the kind in words.

    Raises
    ------
    FileError
        Where the file is missing, cannot be read, is of another kind, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not target.is_file():
        raise FileError(f"There is no file '{target}'.")
    try:
        with safe_open(target, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("kind") != kind:
                raise FileError(f"'{target}' is a safetensors file, but no {what} that scflow saved.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileError(f"'{target}' cannot be read as a safetensors file: {error}") from error
    config = header.get("config", "")
    check(config)
    if header.get("sha256") != _digest(config, tensors):
        raise FileError(f"'{target}' is damaged: its contents do not match the sha256 in its header.")
    return config, tensors


def _digest(config: str, tensors: Mapping[str, Any]) -> str:
    """The sha256 of the configuration and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
