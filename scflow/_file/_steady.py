"""A file that takes whatever it is given, for a library that does not survive a full disk."""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ["Steady"]


class Steady:
    """A file for HDF5 to write to (``h5py.File(Steady(file), "w")``), whose writes never fail.

    Where a write fails, HDF5 cannot be closed any more: it raises again, and what is collected afterwards ends the
    process. So what the disk refuses is kept in memory, where HDF5 finds it, and the error is raised by `check`. That
    is to be asked often, because all that comes later is kept too.

    Parameters
    ----------
    file
        Open for reading and writing, unbuffered.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at = file, 0
        self._end = os.fstat(file.fileno()).st_size
        self._kept: list[tuple[int, bytes]] = []
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise what the disk raised, if it did."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, by the end of what was given and not of what the disk took."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def write(self, content: bytes) -> int:
        """Take all of it."""
        begin, left = self._at, memoryview(content).cast("B")
        size = len(left)
        if self._error is None:
            try:
                self._file.seek(begin)
                while len(left):
                    left = left[self._file.write(left) :]
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._kept.append((begin, bytes(content)))
        self._at = begin + size
        self._end = max(self._end, self._at)
        return size

    def readinto(self, buffer: bytearray) -> int:
        """What was written here, wherever it is."""
        out = memoryview(buffer).cast("B")
        begin, size = self._at, min(len(out), max(0, self._end - self._at))
        self._file.seek(begin)
        got = self._file.read(size)
        out[: len(got)], out[len(got) : size] = got, bytes(size - len(got))
        for at, content in self._kept:
            first, last = max(at, begin), min(at + len(content), begin + size)
            if first < last:
                out[first - begin : last - begin] = content[first - at : last - at]
        self._at = begin + size
        return size

    def read(self, size: int) -> bytes:
        """The same; h5py knows a file by this."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def truncate(self, size: int | None = None) -> int:
        """Give the file a size."""
        self._end = self._at if size is None else size
        if self._error is None:
            try:
                self._file.truncate(self._end)
            except OSError as error:
                self._error = error
        return self._end

    def flush(self) -> None:
        """Nothing is buffered."""
