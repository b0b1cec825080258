"""The file that holds an open HDF5 object, wherever it lies: its name, its bytes, its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h5py import h5f

from vlmscope.store.remote import RemoteFile, open_file


def file_name(item: Any) -> str:
    """Return the name of the file that a low-level object lies in, as a person knows it."""
    return str(remote_of(item) or _hdf5_name(item))


def remote_of(item: Any) -> RemoteFile | None:
    """Return the remote file that a low-level object lies in, if it is one."""
    return open_file(_hdf5_name(item))


@contextmanager
def raw_file(item: Any) -> Iterator[Any]:
    """Open the bytes of the file that a low-level object lies in."""
    if remote := remote_of(item):
        yield remote  # whose place HDF5 sets before it reads
        return
    with Path(_hdf5_name(item)).open("rb") as file:
        yield file


def size_of(item: Any) -> int:
    """Return the bytes of the file that a low-level object lies in."""
    remote = remote_of(item)
    return remote.size if remote else Path(_hdf5_name(item)).stat().st_size


def _hdf5_name(item: Any) -> str:
    return str(h5f.get_name(item).decode("utf-8", "surrogateescape"))
