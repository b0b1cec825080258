"""Files of an object store: read in ranges as HDF5 needs them, written at once or not at all."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

from vlmscope.errors import RunBusyError
from vlmscope.regular import MOST_OF_A_DOCUMENT, check_size, open_regular, read_regular
from vlmscope.store.storage.paths import is_remote, unreachable

BLOCK = 2**20
"""Bytes of a cached block: HDF5 reads the headers of columns in many small pieces."""

_BLOCKS = 16
_COMPARED = 2**20

Identity = tuple[str | int, ...]
"""A value that changes when the file of a path is replaced."""

_NUMBERS = itertools.count()

_OPEN: WeakValueDictionary[str, RemoteFile] = WeakValueDictionary()
"""HDF5's name of a file → the open file, so that the file of a dataset can be found."""


class RemoteFile(io.RawIOBase):
    """An object that HDF5 reads as a file. Published files never change, so blocks are cached.

    Args:
        path: A URL, as returned by ``place``.

    Raises:
        FileNotFoundError: There is no such object.
        UnreachableError: The store does not answer.
    """

    def __init__(self, path: Path) -> None:
        remote = cast("Any", path)
        self._path, self._fs, self._at = path, remote.fs, 0
        self.identity = identity_of(path)
        """A value that changes when the object is replaced."""
        self.size = int(self.identity[-1])
        """Bytes."""
        self.failure: BaseException | None = None
        """The error of the store, if there was one: HDF5 would report a damaged file instead."""
        self._block = lru_cache(_BLOCKS)(self._read_block)
        self._number = next(_NUMBERS)
        _OPEN[_name(self)] = self

    def __repr__(self) -> str:
        """Return a unique name for this open file, which HDF5 uses to identify it."""
        return f"{self._path}#{self._number}"

    def __str__(self) -> str:
        return str(self._path)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the position in the file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current position; small pieces come from cached blocks."""
        start, end = self._at, min(self._at + len(buffer), self.size)
        if end <= start:
            return 0
        data = self._fetch(start, end) if end - start >= BLOCK else self._from_blocks(start, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _from_blocks(self, start: int, end: int) -> bytes:
        """Return a piece smaller than a block, which is in one block or two."""
        first = start // BLOCK
        found = b"".join(self._block(number) for number in range(first, (end - 1) // BLOCK + 1))
        return found[start - first * BLOCK : end - first * BLOCK]

    def _read_block(self, number: int) -> bytes:
        return self._fetch(number * BLOCK, min((number + 1) * BLOCK, self.size))

    def _fetch(self, start: int, end: int) -> bytes:
        try:
            found: bytes = self._fs.cat_file(cast("Any", self._path).path, start=start, end=end)
            if len(found) != end - start:  # the process that screens the file waits for all bytes
                raise OSError(
                    f"{len(found):,} of {end - start:,} bytes; the object was replaced while it "
                    "was read"
                )
        except MemoryError:
            raise
        except Exception as error:
            self.failure = error
            raise OSError(f"{self._path}: {error}") from error
        return found


def identity_of(path: Path) -> Identity:
    """Return a value that changes when the file of a path is replaced; its size is the last item.

    Raises:
        FileNotFoundError: There is no such file.
        UnreachableError: The store does not answer.
    """
    if not is_remote(path):
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
    remote = cast("Any", path)
    try:
        info = remote.fs.info(remote.path)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise unreachable(path, error) from error
    changed = info.get("ETag") or info.get("etag") or info.get("LastModified") or ""
    return str(changed or info.get("created", "")), int(info["size"])


def open_file(name: str) -> RemoteFile | None:
    """Return the open remote file with this HDF5 name, if there is one."""
    return _OPEN.get(name)


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Open a local or remote file for reading bytes.

    Raises:
        OSError: It does not exist or cannot be read.
        UnreachableError: The store does not answer.
    """
    with remote_file(path) if is_remote(path) else open_regular(path) as file:
        yield file


def read_document(path: Path, most: int = MOST_OF_A_DOCUMENT) -> bytes:
    """Return the content of a local or remote file.

    Args:
        path: The file.
        most: Maximum size in bytes.

    Raises:
        OSError: It does not exist, cannot be read, or is larger.
        UnreachableError: The store does not answer.
    """
    if not is_remote(path):
        return read_regular(path, most)
    with remote_file(path) as file:
        check_size(file.size, most, str(path))
        return file.readall()


@contextmanager
def remote_file(path: Path) -> Iterator[RemoteFile]:
    """Open a remote file; errors of the store are raised as such, not as those of HDF5.

    Raises:
        FileNotFoundError: There is no such object.
        UnreachableError: The store does not answer.
    """
    file = RemoteFile(path)
    try:
        yield file
    except Exception:
        if isinstance(file.failure, FileNotFoundError):
            raise file.failure from None  # removed since: a part that its writer has merged
        if file.failure is not None:
            raise unreachable(path, file.failure) from file.failure
        raise


def put(path: Path, data: bytes, *, exclusive: bool) -> None:
    """Write an object, at once or not at all.

    Args:
        path: The object.
        data: Its complete content.
        exclusive: Whether to fail if an object of this name exists.

    Raises:
        RunBusyError: Such an object exists, with other content.
        UnreachableError: The store does not answer, or refuses the write.
    """
    remote = cast("Any", path)
    try:
        remote.fs.pipe_file(remote.path, data, mode="create" if exclusive else "overwrite")
    except FileExistsError as error:
        if _is_this(path, data):  # the reply to our own request was lost, and it was sent again
            return
        raise RunBusyError(
            f"{path}: already written by another process: another vlmscope is writing this run; "
            "wait for it to end, or give another --out"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise unreachable(path, error) from error


def _is_this(path: Path, data: bytes) -> bool:
    """Return whether an object has this content; the beginning of a shard contains its seal."""
    remote = cast("Any", path)
    try:
        if int(remote.fs.info(remote.path)["size"]) != len(data):
            return False
        beginning = data[:_COMPARED]
        return bool(remote.fs.cat_file(remote.path, start=0, end=len(beginning)) == beginning)
    except Exception:  # noqa: BLE001 - every store has exceptions of its own
        return False


def _name(file: RemoteFile) -> str:
    """Return HDF5's name of a file object."""
    return repr(file).encode("ascii", "replace").decode()
