"""The seal of a file: the SHA-256 of all of it, in 512 bytes before HDF5's own.

HDF5 calls that place the user block and every reader of HDF5 passes over it, so the checksum is
published, renamed, moved and copied with the file that it is about. The columns' own digests say
which numbers are damaged; the seal finds any changed byte, in the rows' copies of the strings too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlmscope.store.remote import reading

SEAL_SIZE = 512
"""Bytes of the user block: the least that HDF5 allows."""

_MARK = b"vlmscope sha256 "
_HDF5 = b"\x89HDF\r\n\x1a\n"
_CHUNK = 2**23


def seal_of(image: bytes | memoryview) -> bytes:
    """Return what comes before ``image``, which was made with a user block of its size."""
    return (_MARK + hashlib.sha256(image).hexdigest().encode() + b"\n").ljust(SEAL_SIZE, b"\0")


def seal_on(path: Path) -> bytes:
    """Return the seal of a file, unchecked: what tells its content from any other; empty if none.

    Raises:
        OSError: The file cannot be read.
        UnreachableError: The object store does not answer.
    """
    with reading(path) as file:
        seal = file.read(SEAL_SIZE)
    return seal if seal.startswith(_MARK) else b""


def seal_is_broken(path: Path) -> bool:
    """Return whether a file is not the one that was sealed; False for files of before the seal.

    Raises:
        OSError: The file cannot be read.
        UnreachableError: The object store does not answer.
    """
    with reading(path) as file:
        seal = file.read(SEAL_SIZE)
        if seal.startswith(_HDF5):
            return False  # of a version that had no seal
        if not seal.startswith(_MARK):
            return True  # however long it is
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return bool(seal != (_MARK + digest.hexdigest().encode() + b"\n").ljust(SEAL_SIZE, b"\0"))
