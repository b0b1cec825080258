"""Atomic publishing of files: completely or not at all.

The bytes are written to a hidden file in the target's folder and flushed to the disk, then the file
is renamed atomically to the target; the folder is flushed last. A reader that finds the name finds
a complete file, whichever process was killed. An object store needs none of this: an object is
complete, or does not exist. Nothing else in a run records progress.

Every hidden file has a unique name and is created exclusively, so that two processes that publish
the same name never write to the same file: the later rename wins. The name contains the process
that created it, and the next process that publishes the same name removes the leftovers of dead
ones.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from vlmscope.errors import StoreError
from vlmscope.store.storage.object_store import Identity, identity_of, put
from vlmscope.store.storage.paths import is_remote

_LONGEST_NAME = 180
"""Bytes of the target's name in the name of its hidden file; a file system allows 255 in all."""

_OLD = 24 * 3600.0
"""Seconds after which a hidden file of an unknown process is a leftover."""

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
"""Errors of file systems without ``fsync`` for files or folders (FUSE, some network mounts)."""

_PUBLISHED: dict[Identity, None] = {}
"""Identities of the files that this process published."""

_REMEMBERED = 2**16


def publish(path: Path, *pieces: bytes, exclusive: bool = False) -> None:
    """Write the pieces, one after the other, to ``path`` atomically and durably.

    Args:
        path: The file.
        pieces: Its bytes.
        exclusive: Whether to fail if the name exists. Used in an object store, which has no locks;
            in a folder a lock ensures it.

    Raises:
        RunBusyError: Another process has published it.
        StoreError: The disk or the store refuses the write.
    """
    if is_remote(path):
        put(path, b"".join(pieces), exclusive=exclusive)
        return
    with publishing(path, clear_leftovers=not exclusive) as temporary, temporary.open("wb") as file:
        file.writelines(pieces)


def publish_together(files: Mapping[Path, bytes]) -> None:
    """Write several files: all are complete on the disk before the first is renamed.

    A kill before the first rename changes nothing; there are microseconds between two renames. In
    an object store the files are written one after the other, in the given order.

    Args:
        files: Path → bytes; the file that readers open first comes last.

    Raises:
        StoreError: The disk or the store refuses the write. Unless a rename fails, nothing is
            changed.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            if is_remote(path):
                put(path, data, exclusive=False)
                continue
            with _saying_what(path):
                written[path] = _new_temporary(path)
                written[path].write_bytes(data)
                sync(written[path])
        for path, temporary in written.items():
            with _saying_what(path):
                temporary.replace(path)
        for folder in {path.parent for path in written}:
            with _saying_what(folder):
                sync(folder)
    finally:
        for temporary in written.values():
            _discard(temporary)
    for path in written:
        remove_leftovers(path)


@contextmanager
def publishing(path: Path, *, clear_leftovers: bool = True) -> Iterator[Path]:
    """Yield a hidden path to write to; on exit, rename it to ``path``.

    If anything fails, the hidden file is removed and ``path`` is unchanged. An ``OSError`` becomes
    a ``StoreError``. For an object store the hidden file is a local one.

    Args:
        path: The file.
        clear_leftovers: Whether to remove hidden files of killed processes for the same path.
    """
    if is_remote(path):
        with TemporaryDirectory(prefix="vlmscope-") as folder:
            local = Path(folder, path.name)
            yield local
            put(path, local.read_bytes(), exclusive=False)
        return
    temporary: Path | None = None
    try:
        with _saying_what(path):
            temporary = _new_temporary(path)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
            _note(path)
    finally:
        if temporary is not None:
            _discard(temporary)
    if clear_leftovers:
        remove_leftovers(path)


def rename(path: Path, target: Path) -> None:
    """Give a published local file another name in its folder, atomically and durably.

    Args:
        path: The file.
        target: A name that no file has; a lock ensures it.

    Raises:
        StoreError: The disk refuses it.
    """
    with _saying_what(target):
        path.replace(target)
        sync(target.parent)
    _note(target)


def is_published_here(identity: Identity) -> bool:
    """Return whether this process published a file that has not been changed since."""
    return identity in _PUBLISHED


def note_published(identities: Iterable[Identity]) -> None:
    """Record files that the process has published for which this one reads them."""
    _PUBLISHED.update(dict.fromkeys(identities))
    while len(_PUBLISHED) > _REMEMBERED:
        del _PUBLISHED[next(iter(_PUBLISHED))]


def _note(path: Path) -> None:
    """Record the identity of a file that was just published."""
    with suppress(OSError):
        note_published([identity_of(path)])


def remove_leftovers(path: Path) -> None:
    """Remove hidden files of this name whose process is dead, or unknown and a day old.

    Files that cannot be identified or removed stay for a later attempt.
    """
    wanted = re.compile(rf"\.{re.escape(_shortened(path.name))}\.(\w+)-(\d+)-\w+\.tmp")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            found = wanted.fullmatch(entry.name)
            if found and not entry.is_dir(follow_symlinks=False):
                made = entry.stat(follow_symlinks=False).st_mtime
                if _is_dead(found[1], int(found[2])) or time.time() - made > _OLD:
                    _discard(Path(entry.path))


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk. Needs POSIX: elsewhere a folder cannot be opened.

    A file system without such a call is accepted: the rename is still atomic, but what survives a
    power cut depends on the file system. A folder that may not be listed cannot be flushed either.
    """
    if is_remote(path):
        return  # an object is durable once it is written
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Flush an open file to the disk, where the file system has such a call."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the one-line error for a failed write."""
    return StoreError(
        f"{path}: cannot be written: {error.strerror or error}; everything published before is "
        f"safe, {_remedy(error)} and run the same command again"
    )


def _remedy(error: OSError) -> str:
    """Return the remedy for a failed write, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "fix the folder's permissions"
    return "fix the cause, or give a folder on another file system,"


@contextmanager
def _saying_what(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a one-line error about ``path``."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _new_temporary(path: Path) -> Path:
    """Create an empty hidden file in the target's folder, exclusively, and return its path."""
    owner = f"{_process_space()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{_shortened(path.name)}.{owner}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return temporary


def _shortened(name: str) -> str:
    """Return a file's name, shortened if the name of its hidden file would be too long.

    >>> _shortened("run.json"), len(_shortened("é" * 200)) < 100
    ('run.json', True)
    """
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 4]}-{sha256(os.fsencode(name)).hexdigest()[:16]}"


@cache
def _process_space() -> str:
    """Return a hash of the scope in which process ids are unique: this boot and id namespace.

    A folder may be shared by machines and containers, whose process ids are not comparable.
    """
    scope = [os.uname().nodename]
    with suppress(OSError):
        scope.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        scope.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("\0".join(scope).encode()).hexdigest()[:8]


def _is_dead(space: str, process: int) -> bool:
    """Return whether a process is known to have ended."""
    if space != _process_space():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _discard(temporary: Path) -> None:
    """Remove a hidden file; an error here must not hide the original one."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
