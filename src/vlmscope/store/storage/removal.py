"""Removes, moves and replaces files: plain child names only, never through a symbolic link.

A run folder may come from an untrusted source, and the content of its files must not decide what is
deleted. So everything that vlmscope removes or moves uses these functions. The starting folder is
one that the user specified; every name below it is a plain child, is opened relative to its parent
folder, and is refused if it is a symbolic link. Nothing is ever removed recursively: a folder is
removed only after the files that vlmscope itself writes there, and only if it is then empty.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from vlmscope.errors import StoreError, UnreachableError
from vlmscope.store.storage.paths import is_remote, unreachable

LONGEST_NAME = 255
"""Maximum size in bytes of a name in common file systems."""

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def is_child_name(name: object) -> bool:
    """Return whether a name is a plain name: not a path, not ``..``, not empty.

    >>> [is_child_name(name) for name in ("layer_9", "..", ".", "", "a/b", "/etc", None)]
    [True, False, False, False, False, False, False]
    """
    if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name:
        return False
    try:
        if len(os.fsencode(name)) > LONGEST_NAME:
            return False
    except UnicodeEncodeError:
        return False
    return not any(separator in name for separator in (os.sep, os.altsep, "/") if separator)


def make_child_folder(root: Path, *names: str) -> Path:
    """Create a folder below a folder, which may exist; does nothing in an object store.

    Args:
        root: A folder that the user specified; it may be reached through a link.
        *names: Child names below it. All but the last must exist.

    Raises:
        StoreError: A name is not a plain child, a folder on the path is a file or a symbolic link,
            or the operating system refuses.
    """
    _check_names(root, names)
    path = root.joinpath(*names)
    if is_remote(root):
        return path
    try:
        with suppress(FileExistsError):
            path.mkdir()
        with _opened(root, names) as folder:
            if folder is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        why = "is a symbolic link or a file, where a folder is expected" if link else error.strerror
        raise StoreError(f"{path}: {why}; remove it, or give another --out") from error
    return path


def remove_file(root: Path, *names: str) -> None:
    """Remove a file below a folder; does nothing if it does not exist.

    Args:
        root: A folder that the user specified; it may be reached through a link.
        *names: Child names below it, the file's own name last. If the file is a symbolic link, the
            link is removed, not its target.

    Raises:
        StoreError: A name is not a plain child, a folder on the path is a symbolic link, the name
            is a folder, or the operating system refuses.
    """
    _check_names(root, names)
    path = root.joinpath(*names)
    if is_remote(root):
        _remove_object(path)
        return
    with _refusals(path), _opened(root, names[:-1]) as folder:
        if folder is not None:
            _unlink(names[-1], folder)


def remove_folder(root: Path, *names: str, files: Sequence[str]) -> bool:
    """Remove the files that vlmscope writes in a folder, and then the folder if it is empty.

    Args:
        root: A folder that the user specified; it may be reached through a link.
        *names: Child names below it, the folder's own name last.
        files: Names of the files to remove. If there are other files, they and the folder stay.

    Returns:
        Whether the folder was removed.

    Raises:
        StoreError: As ``remove_file``; or the folder is a file, or a symbolic link.
    """
    _check_names(root, names)
    for name in files:
        remove_file(root, *names, name)
    if is_remote(root):
        return True  # an object store has no folders
    path = root.joinpath(*names)
    with _refusals(path), _opened(root, names[:-1]) as folder:
        if folder is None:
            return True
        try:
            os.rmdir(names[-1], dir_fd=folder)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    return True


def move_file(root: Path, source: Sequence[str], target: Sequence[str]) -> Path:
    """Move a file between two folders below a folder, to a free name.

    Args:
        root: A folder that the user specified; it may be reached through a link.
        source: Child names below it, to the file.
        target: Child names of the new path; a number is added if the name is taken.

    Returns:
        The new path.

    Raises:
        FileNotFoundError: There is no such file.
        StoreError: As ``remove_file``; or the file is not a regular file.
    """
    _check_names(root, source)
    _check_names(root, target)
    path = root.joinpath(*source)
    if is_remote(root):
        return _move_object(path, root.joinpath(*target))
    with (
        _refusals(path),
        _opened(root, source[:-1]) as folder,
        _opened(root, target[:-1]) as into,
    ):
        if folder is None or into is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        found = os.stat(source[-1], dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path}: not moved, it is not a regular file; remove it by hand")
        name = _free_name(target[-1], into)
        os.rename(source[-1], name, src_dir_fd=folder, dst_dir_fd=into)
    return root.joinpath(*target[:-1], name)


def _check_names(root: Path, names: Sequence[str]) -> None:
    """Refuse names that are not plain child names."""
    if not names:
        raise StoreError(f"{root}: no name given; a folder itself is never removed or moved")
    for name in names:
        if not is_child_name(name):
            raise StoreError(
                f"{root}: {name!r} is not a plain name inside this folder; files outside are never "
                "removed or moved"
            )


@contextmanager
def _opened(root: Path, names: Sequence[str]) -> Iterator[int | None]:
    """Yield a descriptor of a folder below another; None if it does not exist."""
    descriptor: int | None = None
    try:
        descriptor = os.open(root, _FOLDER)
        for name in names:
            inner = os.open(name, _FOLDER | _NO_LINK, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    except FileNotFoundError:
        if descriptor is not None:
            os.close(descriptor)
        yield None
        return
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unlink(name: str, folder: int) -> None:
    """Remove a name that is not a folder."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _free_name(name: str, folder: int) -> str:
    """Return a free name, which not even a broken link has."""
    taken = set(os.listdir(folder))
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a one-line error; ``FileNotFoundError`` is re-raised."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        # Linux answers ENOTDIR for a link opened as a folder without being followed, others ELOOP.
        link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        why = "a folder on the path is a symbolic link or a file" if link else error.strerror
        raise StoreError(
            f"{path}: cannot be removed or moved: {why or error}; fix it by hand and run the same "
            "command again"
        ) from error


def _remove_object(path: Path) -> None:
    """Remove one object; does nothing if it does not exist."""
    remote = cast("Any", path)
    try:
        remote.fs.rm_file(remote.path)
    except FileNotFoundError:
        return
    except Exception as error:
        raise unreachable(path, error) from error


def _move_object(path: Path, target: Path) -> Path:
    """Copy one object to a free name, and then remove it."""
    number, free = 1, target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.name}.{number}")
    remote = cast("Any", path)
    try:
        remote.fs.cp_file(remote.path, cast("Any", free).path)
    except (FileNotFoundError, UnreachableError):
        raise
    except Exception as error:
        raise unreachable(path, error) from error
    _remove_object(path)
    return free
