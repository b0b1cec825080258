"""Opening of regular files only: runs, checkpoints and tables are read from nothing else.

Reading a pipe or a socket may block forever, a device such as ``/dev/zero`` never ends, and a
sparse file of terabytes fills the memory. A downloaded folder may contain any of them. All errors
are ``OSError``, as those of ``open`` are.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

MOST_OF_A_DOCUMENT = 64 * 2**20
"""Most bytes of a JSON document written by vlmscope; typical ones have some kilobytes."""

MOST_OF_A_TEXT = 2**30
"""Most bytes of a JSON file or template of a checkpoint; tokenizers have some 30 MB."""

_TEXTS = (".jinja", ".json")
_NEEDED = (*_TEXTS, ".arrow", ".bin", ".model", ".parquet", ".safetensors", ".txt")
"""Suffixes of the files that make up a checkpoint or a saved dataset."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(OSError):
    """The path exists and is not a regular file."""


class PointerError(OSError):
    """The file is a Git LFS pointer, not the content."""


LFS_POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer, which stands for a file that was not fetched."""

LARGEST_POINTER = 1024
"""Most bytes of a Git LFS pointer, by its specification."""


def is_pointer(head: bytes) -> bool:
    """Return whether a file that begins like this is a Git LFS pointer.

    >>> is_pointer(b"version https://git-lfs.github.com/spec/v1"), is_pointer(b"version 2")
    (True, False)
    """
    return head.startswith(LFS_POINTER)


def _found_pointer(path: str | os.PathLike[str]) -> str:
    folder = os.path.dirname(os.fspath(path)) or "."  # noqa: PTH120 - takes whatever os.open takes
    return f"is a Git LFS pointer, not the file itself: run 'git lfs pull' in {folder}"


def check_regular(path: str | os.PathLike[str]) -> os.stat_result:
    """Raise unless a path is a regular file; for libraries that open files themselves.

    Returns:
        The file's ``stat`` result.

    Raises:
        NotRegularError: It is a pipe, a socket or a device.
        PointerError: It is a Git LFS pointer.
        OSError: It is missing, a folder, or a small file without read permission.
    """
    found = os.stat(path)  # noqa: PTH116 - takes whatever os.open takes
    _check(found, path)
    if 0 < found.st_size <= LARGEST_POINTER:
        open_regular(path).close()
    return found


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading bytes, without ever blocking on anything else.

    Raises:
        NotRegularError: It is a pipe, a socket or a device.
        PointerError: It is a Git LFS pointer.
        OSError: It is missing, a folder, or without read permission.
    """
    _check(os.stat(path), path)  # noqa: PTH116 - some devices do something when they are opened
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        _check(state, path)
        if 0 < state.st_size <= LARGEST_POINTER and is_pointer(os.pread(descriptor, 64, 0)):
            raise PointerError(errno.EINVAL, _found_pointer(path), os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_to_append(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file for reading and appending, unbuffered; create it if it is missing.

    Links are refused, symbolic and hard: writing through one would change another file.

    Raises:
        NotRegularError: It is a symbolic link, has another name (a hard link), or is no file.
        OSError: It is a folder, or without write permission.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        found = "is a symbolic link, expected a file; remove it"
        raise NotRegularError(errno.EINVAL, found, os.fspath(path)) from error
    try:
        state = os.fstat(descriptor)
        _check(state, path)
        if state.st_nlink > 1:
            found = "has another name too (a hard link), which would change with it; copy it"
            raise NotRegularError(errno.EINVAL, found, os.fspath(path))
        return FileIO(descriptor, "a+")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int = MOST_OF_A_DOCUMENT) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        most: Largest size in bytes.

    Raises:
        OSError: As ``open_regular``; or it is larger.
    """
    with open_regular(path) as file:
        check_size(os.fstat(file.fileno()).st_size, most, path)
        data = file.read(most + 1)
    check_size(len(data), most, path)
    return data


def check_size(size: int, most: int, path: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` for a file that is larger than any of its kind."""
    if size > most:
        found = f"has {size:,} bytes, expected at most {most:,}"
        raise OSError(errno.EFBIG, found, os.fspath(path))


def check_folder(folder: str | os.PathLike[str], *, depth: int = 1) -> None:
    """Check the files of a folder before a library opens any of them.

    Args:
        folder: The folder.
        depth: How many levels of subfolders are checked.

    Raises:
        OSError: There is a pipe, a socket, a device, a Git LFS pointer or a huge JSON file in it.
    """
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        try:
            state = entry.stat()
        except OSError:  # a broken link, or opening it reports the error
            continue
        if stat.S_ISDIR(state.st_mode):
            if depth and os.access(entry.path, os.R_OK | os.X_OK):  # else no library reads it
                check_folder(entry.path, depth=depth - 1)
            continue
        _check(state, entry.path)
        if 0 < state.st_size <= LARGEST_POINTER and Path(entry.name).suffix in _NEEDED:
            _check_fetched(entry.path)
        if Path(entry.name).suffix in _TEXTS:
            check_size(state.st_size, MOST_OF_A_TEXT, entry.path)


def _check_fetched(path: str) -> None:
    """Raise for a Git LFS pointer; a file that cannot be read fails when it is opened."""
    try:
        open_regular(path).close()
    except PointerError:
        raise
    except OSError:
        return


def _check(state: os.stat_result, path: str | os.PathLike[str]) -> None:
    kind = stat.S_IFMT(state.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind != stat.S_IFREG:
        found = f"is {_KINDS.get(kind, 'no file')}, expected a file"
        raise NotRegularError(errno.EINVAL, found, os.fspath(path))
