"""Publishing a file: all of it or none of it.

The bytes go to a hidden file beside the target, are flushed to the disk, and take the target's
name by one atomic rename; the folder is flushed last. Whoever finds the name finds a whole file,
whatever was killed. An object store needs none of that: it has a whole object, or none. Nothing
else in a run records progress.

Every hidden file has a name of its own, made exclusively, so that two processes that publish one
name never write into one file: the later rename counts. The name says which process made it, and
who publishes the same name later removes what a dead one left.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from vlmscope.errors import StoreError
from vlmscope.store.storage.object_store import Identity, identity_of, put
from vlmscope.store.storage.paths import is_remote

_LONGEST_NAME = 180
"""Characters of a target's name in that of its hidden file; a file system allows 255 bytes."""

_OLD = 24 * 3600.0
"""Seconds after which a hidden file of an unknown process is a leftover."""

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
"""What file systems without ``fsync`` of files or folders answer (FUSE, some network mounts)."""

_PUBLISHED: dict[Identity, None] = {}
"""What tells each file that this process published from any later one of its name."""

_REMEMBERED = 2**16


def publish(path: Path, *pieces: bytes, exclusive: bool = False) -> None:
    """Write the pieces, one after the other, to ``path`` atomically and durably.

    Args:
        path: The file.
        pieces: Its bytes.
        exclusive: Whether nobody else may have published it: asked of an object store, where there
            are no locks. In a folder a lock has seen to it.

    Raises:
        RunBusyError: Somebody else has published it.
        StoreError: The disk or the store refuses.
    """
    if is_remote(path):
        put(path, b"".join(pieces), exclusive=exclusive)
        return
    with publishing(path, clear_leftovers=not exclusive) as temporary, temporary.open("wb") as file:
        file.writelines(pieces)


def publish_together(files: Mapping[Path, bytes]) -> None:
    """Write several files: all are whole on the disk before the first takes its name.

    A kill before the first rename leaves what was there; between two renames lie microseconds. In
    an object store the files are put one after the other, in the order given.

    Args:
        files: Path → bytes; the file that readers look for first comes last.

    Raises:
        StoreError: The disk or the store refuses. Unless a rename is refused, nothing is changed.
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
    """Yield a hidden path to write to; on leaving, give it the name ``path``.

    If anything fails, the hidden file is removed and ``path`` stays as it was. A refusal by the
    operating system becomes a ``StoreError``. Of an object store the hidden file is a local one.

    Args:
        path: The file.
        clear_leftovers: Whether to remove what killed processes left of earlier attempts at it.
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


def is_published_here(identity: Identity) -> bool:
    """Return whether this process published a file, which nobody has changed since."""
    return identity in _PUBLISHED


def _note(path: Path) -> None:
    """Remember a file that was just published."""
    with suppress(OSError):
        _PUBLISHED[identity_of(path)] = None
    while len(_PUBLISHED) > _REMEMBERED:
        del _PUBLISHED[next(iter(_PUBLISHED))]


def remove_leftovers(path: Path) -> None:
    """Remove hidden files of this name whose process is dead, or unknown and a day old.

    What cannot be told or removed stays: a later attempt tries again.
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

    A file system that has no such call is taken as it is: the rename is atomic all the same, and
    what survives a power cut is the file system's to say. A folder that may not be listed cannot be
    flushed either.
    """
    if is_remote(path):
        return  # what an object store has, it has kept
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
    """Return the one line a person sees when the disk refuses."""
    return StoreError(
        f"{path}: cannot be written: {error.strerror or error}; everything published before is "
        f"safe, {_remedy(error)} and run the same command again"
    )


def _remedy(error: OSError) -> str:
    """Return what to do about a refusal, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "fix the folder's permissions"
    return "mend that, or give a folder on another file system,"


@contextmanager
def _saying_what(path: Path) -> Iterator[None]:
    """Turn a refusal by the operating system into one line about ``path``."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _new_temporary(path: Path) -> Path:
    """Make an empty hidden file beside the target, exclusively, and return its path."""
    owner = f"{_process_space()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{_shortened(path.name)}.{owner}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return temporary


def _shortened(name: str) -> str:
    """Return a file's name, cut where its hidden file's would be too long.

    >>> _shortened("run.json"), len(_shortened("é" * 200)) < 100
    ('run.json', True)
    """
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 4]}-{sha256(os.fsencode(name)).hexdigest()[:16]}"


@cache
def _process_space() -> str:
    """Return what tells process ids that mean the same: this boot, and the namespace of ids.

    A folder may be shared by machines and containers, whose process ids say nothing here.
    """
    told = [os.uname().nodename]
    with suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        told.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("\0".join(told).encode()).hexdigest()[:8]


def _is_dead(space: str, process: int) -> bool:
    """Return whether a process is known to be gone."""
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
    """Remove a hidden file; an error here must not hide the one that brought us here."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
