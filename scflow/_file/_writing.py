"""Files and folders that are at their place whole or not at all, whatever ends the process or fills the disk.

What is written goes to a name of its own beside the target, is flushed to the disk, and renamed. The name has 64
random bits, so that neither processes, nor machines that share a disk, nor threads use the same one: of several writers
the last one wins, whole. A file that is replaced keeps its permissions, and a new one has those that the umask leaves.
Links are followed; other hard links to a file that is replaced keep what they had.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from scflow._file._places import followed
from scflow.errors import FileError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["abandoned", "beside", "write_bytes"]

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_AT_ONCE = 32
_DAY = 86_400.0
_HERE, _EXCHANGE = -100, 2
"""Of Linux: paths are relative to the current folder; names are exchanged."""


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file beside `target`, flush it to the disk and rename it: it is there whole, or not at all.

    Raises
    ------
    FileError
        Where the disk refuses, or `target` is a device, a fifo, a socket or a folder.
    """
    with beside(target, needed=len(content)) as made, open(made, "r+b") as file:
        file.write(content)


@contextmanager
def beside(target: Path, *, needed: int | None = None) -> Iterator[Path]:
    """A path beside `target` to write to: it is flushed and renamed at the end, or removed where that fails.

    What was at `target` is there until then. For a path that ends in .zarr it is an empty folder, otherwise an empty
    file: both are to be filled, not made anew.

    Parameters
    ----------
    needed
        How many bytes there will be, where that is known: the message for a full disk says so.

    Raises
    ------
    FileError
        Where the disk refuses, or `target` is a device, a fifo, a socket, or a folder that is no zarr store.
    """
    place = followed(target)
    made = place.with_name(f".{place.name[:40]}.{secrets.token_hex(8)}.part{place.suffix[:20]}")
    try:
        before = stat.S_IMODE(place.stat().st_mode) & 0o777 if place.exists() else None
        _sweep(place)
        with _begun(made, private=before is not None):
            yield made
            _flush(made)
            if before is not None:
                os.chmod(made, before)
            _put(made, place)
    except (OSError, RuntimeError) as error:
        if not (isinstance(error, OSError) or _number(error)):
            raise
        raise _refused(target, made, error, needed) from error
    finally:
        _remove(made)


@contextmanager
def _begun(made: Path, *, private: bool) -> Iterator[None]:
    """A new file or folder that is locked while this lasts, and the owner's alone where it has yet to get its mode."""
    if made.suffix == ".zarr":
        os.mkdir(made, 0o700 if private else 0o777)
        yield
        return
    while True:
        number = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(number, "r+b") as file:
            _lock(file)
            if os.fstat(number).st_nlink:  # else it was swept away before it was locked
                yield
                return


def _lock(file: BinaryIO) -> None:
    """Tell that a file is being written; where a file system knows no locks, nobody hears."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def abandoned(path: Path, *, age: float = 0.0) -> bool:
    """Whether what has a temporary name is left of a process that was killed: nobody has it locked.

    A lock ends with its process. It is not always seen from other machines; hence `age`, in seconds since anything was
    written to it. Where nothing can be known, the answer is no.
    """
    try:
        if path.is_symlink() or time.time() - _written(path) < age:
            return False
        if fcntl is None:
            return True
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(number)
    except OSError:
        return False
    return True


def _written(path: Path) -> float:
    """When something was last written to a file, or to anything in a folder."""
    within = path.rglob("*") if path.is_dir() else ()
    return max(float(one.lstat().st_mtime) for one in (path, *within))


def _sweep(place: Path) -> None:
    """Remove what writers of this very target left a day ago or more, who were killed."""
    name = re.compile(re.escape(f".{place.name[:40]}.") + r"[0-9a-f]{16}\.part" + re.escape(place.suffix[:20]))
    with suppress(OSError), os.scandir(place.parent) as found:
        for entry in found:
            if name.fullmatch(entry.name) and abandoned(Path(entry.path), age=_DAY):
                _remove(Path(entry.path))


def _flush(made: Path) -> None:
    """Everything to the disk itself: a file, or all files of a folder, and the folders that hold them."""
    if not made.is_dir():
        with open(made, "r+b") as file:
            os.fsync(file.fileno())
        return
    # Many at a time: the disk is then told once of what would take it as many turns.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(_flush, (one for one in made.rglob("*") if one.is_file())):
            pass
        for _ in pool.map(_flush_folder, (one for one in (made, *made.rglob("*")) if one.is_dir())):
            pass


def _flush_folder(folder: Path) -> None:
    """The names in a folder to the disk; there are systems and file systems that know no such thing."""
    if os.name != "posix":
        return
    with suppress(PermissionError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(number)


def _put(made: Path, place: Path) -> None:
    """Rename; a folder that is not empty is not replaced in one step, but two names can be exchanged in one."""
    if not (made.is_dir() and place.is_dir()):
        os.replace(made, place)
    elif not _exchanged(made, place):
        old = made.with_name(f"{made.name}.old")
        place.replace(old)
        try:
            made.replace(place)
        except BaseException:
            old.replace(place)
            raise
        _remove(old)
    _flush_folder(place.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names, where the system (Linux) and the file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and not rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _number(error: BaseException) -> int | None:
    """The number of an error of the system; HDF5 has it in the text of errors of other types."""
    found = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None)
    return number if isinstance(number, int) else int(found.group(1)) if found else None


def _refused(target: Path, made: Path, error: BaseException, needed: int | None) -> FileError:
    """The error for a disk that refuses: of a full one, how much is needed and how much is free."""
    number = _number(error)
    if number is None:
        return FileError(f"Cannot save to '{target}': {error}.")
    reason = os.strerror(number) if not getattr(error, "strerror", None) else str(error.strerror)  # type: ignore[attr-defined]
    text = f"Cannot save to '{target}': {reason.splitlines()[0]}."
    if number not in _FULL:
        return FileError(text)
    took = f"{needed:,} bytes are" if needed is not None else f"More than {_size(made):,} bytes are"
    left = f"{shutil.disk_usage(made.parent).free:,} are free in '{made.parent}'"
    most = _most_of_a_file()
    if number == errno.EFBIG and most is not None:
        left = f"a file may have {most:,} (ulimit -f)"
    return FileError(f"{text} {took} needed; {left}. Make room, or give another path.")


def _size(made: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    try:
        return sum(one.stat().st_size for one in ([made] if made.is_file() else made.rglob("*")) if one.is_file())
    except OSError:
        return 0


def _most_of_a_file() -> int | None:
    """The limit of the size of files that this process may write, if there is one."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
