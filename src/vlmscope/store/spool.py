"""A file for HDF5 to write to that never tells it about a full disk.

When the disk refuses, HDF5 cannot close its file; h5py then prints hundreds of lines and may crash
the process. This file remembers the refusal and takes further writes without keeping them, so HDF5
closes in peace, and we raise the error ourselves. Shards avoid the matter by being built in memory;
an export may be larger than that.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class Spool:
    """The part of a file that h5py's ``fileobj`` driver uses.

    Call ``check`` between rows: it raises what the disk said. Until then reads of lost bytes give
    zeros, which is why a row's worth of writes is the most that should pass between two checks.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def check(self) -> None:
        """Raise the first refusal of the disk, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview) -> int:
        """Write all of it, or pretend to."""
        left = memoryview(data)
        size = left.nbytes
        while left.nbytes and self._error is None:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self._error = error
        return size

    def read(self, size: int) -> bytes:
        """Read a number of bytes; h5py knows a file by this method, and calls ``readinto``."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; beyond the end of the file there are zeros."""
        read = self._file.readinto(buffer) or 0
        memoryview(buffer)[read:] = bytes(len(buffer) - read)
        return len(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()

    def truncate(self, size: int) -> int:
        """Set the length of the file, or pretend to."""
        try:
            self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered, and publishing flushes to the disk."""
