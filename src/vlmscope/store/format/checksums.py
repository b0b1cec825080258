"""Checksums of the columns of a shard, and of a complete file (its seal).

A column is returned only if it is unchanged: damaged numbers are never read as data. Every column
has the SHA-256 of its values as an attribute. The first read of a column in a process computes the
hash again, at 1.7 GB a second; later reads of the same file do not.

The seal of a file is the SHA-256 of all of its bytes, stored in the 512 bytes before the HDF5 data.
HDF5 calls this the user block and every reader skips it, so the checksum is published, renamed,
moved and copied together with its file. The digests of the columns show which numbers are damaged;
the seal detects any changed byte, also in the rows' copies of the strings.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5s
from numpy.typing import NDArray

from vlmscope.errors import StoreError
from vlmscope.store.format.hdf5_links import file_name, remote_of
from vlmscope.store.storage.object_store import reading

_DIGEST = b"sha256"
"""Name of the attribute."""

_Identity = tuple[str | int, ...]
_INTACT: dict[str, tuple[_Identity, set[str]]] = {}
"""Path of a file → the identity of the file, and the columns that were verified."""


_LOCK = threading.Lock()

_REMEMBERED = 512
"""Maximum number of files in the cache; the oldest are removed first."""


def digest(values: NDArray[Any] | Sequence[str] | Sequence[NDArray[Any]]) -> str:
    """Return the SHA-256 of a column's values.

    For an array, of its bytes in row order; for strings, of their UTF-8 bytes, each followed by a
    NUL; for lists, of their bytes, each preceded by its length as int64.

    >>> digest(["a", "b"]) == hashlib.sha256(b"a" + bytes(1) + b"b" + bytes(1)).hexdigest()
    True
    """
    if isinstance(values, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, str):  # then all are: joining them takes a tenth of the time
            return hashlib.sha256("\0".join((*values, "")).encode()).hexdigest()
        total.update(np.int64(len(value)).tobytes() + value.tobytes())
    return total.hexdigest()


def read_column(column: Any, rows: slice = slice(None)) -> Any:
    """Return rows of a column: strings and lists as a list, numbers as an array.

    Raises:
        StoreError: The values differ from what was written.
    """
    if _is_known(column):
        return _values(column, rows)
    try:
        values = _values(column, slice(None))
    except (OSError, ValueError, RuntimeError) as error:
        raise _damaged(column) from error
    _confirm(column, values)
    return values[rows]


def confirm(column: Any, values: Any) -> None:
    """Raise ``StoreError`` if the values of a complete column differ from what was written."""
    if not _is_known(column):
        _confirm(column, values)


def _confirm(column: Any, values: Any) -> None:
    if digest(values) != _digest_on(column):
        raise _damaged(column)
    name = _file_of(column)
    now = _identity(column, name)
    if now is None:
        return
    with _LOCK:
        identity, intact = _INTACT.get(name, (None, set()))
        known = intact if identity == now else set()
        _INTACT[name] = (now, known | {column.name})
        while len(_INTACT) > _REMEMBERED:
            del _INTACT[next(iter(_INTACT))]


def forget(paths: Iterable[Path]) -> None:
    """Remove deleted files from the cache; a long run deletes thousands."""
    with _LOCK:
        for path in paths:
            _INTACT.pop(str(path), None)


def is_intact(column: Any) -> bool:
    """Return whether a column matches its digest, without using the cache.

    Text that cannot be decoded counts as damage.
    """
    try:
        return bool(digest(_values(column, slice(None))) == column.attrs["sha256"])
    except (OSError, KeyError, ValueError, RuntimeError):
        return False


def _digest_on(column: Any) -> Any:
    """Return the digest that is stored with a column, by the low-level API: a fifth of the time."""
    if not h5a.exists(column.id, _DIGEST):
        return None
    attribute = h5a.open(column.id, _DIGEST)
    kind = h5py.check_string_dtype(attribute.dtype)
    if attribute.shape != () or kind is None or kind.length is not None:
        return column.attrs.get("sha256")  # vlmscope writes none of these
    text = np.empty((), attribute.dtype)
    attribute.read(text)
    return text.item().decode("utf-8", "surrogateescape")


def _values(column: Any, rows: slice) -> Any:
    dtype = column.dtype
    texts, lists = h5py.check_string_dtype(dtype), h5py.check_vlen_dtype(dtype)
    if rows == slice(None) and (texts is None or texts.length is None):
        # The complete column, by the low-level API: h5py's takes several times as long.
        values = np.empty(column.shape, dtype)
        if values.size:
            column.id.read(h5s.ALL, h5s.ALL, values)
        if texts:
            return [text.decode(texts.encoding) for text in values.tolist()]
        return list(values) if lists else values
    if texts:
        return column.asstr()[rows].tolist()
    return list(column[rows]) if lists else column[rows]


def _is_known(column: Any) -> bool:
    file = _file_of(column)
    identity, intact = _INTACT.get(file, (None, frozenset[str]()))
    return bool(intact) and column.name in intact and identity == _identity(column, file)


def _identity(column: Any, file: str) -> _Identity | None:
    """Return a value that changes when the file is replaced or written; None without a file."""
    if remote := remote_of(column.id):
        return remote.identity
    try:
        found = os.stat(file)  # noqa: PTH116 - a hot path
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _file_of(column: Any) -> str:
    """Return the name of a column's file, without creating the objects of ``column.file``."""
    return file_name(column.id)


def _damaged(column: Any) -> StoreError:
    path = column.name.lstrip("/").partition("/")[2]  # below _columns or _tokens
    return StoreError(
        f"{_file_of(column)}: column {path} is damaged; 'vlmscope verify RUN --files' lists all "
        "damage, the same extract command with --redo-damaged captures its rows again"
    )


SEAL_SIZE = 512
"""Size in bytes of the user block: the smallest that HDF5 allows."""

_MARK = b"vlmscope sha256 "
_CHUNK = 2**23


def seal_of(image: bytes | memoryview) -> bytes:
    """Return the seal of ``image``: the bytes that fill the user block in front of it."""
    return (_MARK + hashlib.sha256(image).hexdigest().encode() + b"\n").ljust(SEAL_SIZE, b"\0")


def seal_on(path: Path) -> bytes:
    """Return the seal of a file without verifying it, empty if there is none.

    The seal identifies the content of the file.

    Raises:
        OSError: The file cannot be read.
        UnreachableError: The object store does not answer.
    """
    with reading(path) as file:
        seal = file.read(SEAL_SIZE)
    return seal if seal.startswith(_MARK) else b""


def seal_is_broken(path: Path) -> bool:
    """Return whether a file's content does not match its seal.

    Raises:
        OSError: The file cannot be read.
        UnreachableError: The object store does not answer.
    """
    with reading(path) as file:
        seal = file.read(SEAL_SIZE)
        if not seal.startswith(_MARK):
            return True  # whatever its length
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return bool(seal != (_MARK + digest.hexdigest().encode() + b"\n").ljust(SEAL_SIZE, b"\0"))
