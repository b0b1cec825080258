"""Locks of a run. Readers need none; who may write at once, ``sharing`` decides.

A lock is the operating system's (``flock``), which goes with the process that holds it. Some file
systems have none (FUSE, some network mounts): there a file that is made exclusively stands for it,
with the name of the process that made it. An object store has no locks at all. There every shard is
put under a name that nobody may have taken, so that of two writers of one name the second one is
refused with its first shard.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, SoftFileLock, Timeout

from vlmscope.errors import RunBusyError, StoreError
from vlmscope.store.inside import check_inside
from vlmscope.store.place import is_remote
from vlmscope.store.publish import cannot_write

LOCK_PREFIX = ".lock-"
"""Beginning of a lock file's name in a run folder."""

_MARKER_PREFIX = ".marker-"
"""Beginning of the name of the file that stands for a lock where there is no ``flock``."""

_PATIENCE = 600.0  # seconds: an index of a million rows takes a minute or two

_NO_FLOCK = frozenset(
    {errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
)
"""What file systems without ``flock`` answer."""


class Lock(Protocol):
    """What is used of a lock."""

    @property
    def is_locked(self) -> bool:
        """Whether it is held."""
        ...

    def acquire(self) -> object:
        """Take it."""
        ...

    def release(self) -> None:
        """Let go of it."""
        ...


class _FolderLock:
    """A lock in a folder: by ``flock``, or by a marker file where the file system has none.

    Whoever has ``flock`` looks for a marker too, for of two machines on one mount one may lack it.
    The other way round it is no help: who lacks ``flock`` cannot see who holds it.
    """

    def __init__(self, run: Path, name: str, timeout: float) -> None:
        self._native = FileLock(run / f"{LOCK_PREFIX}{name}", timeout=timeout, thread_local=False)
        self._marker = SoftFileLock(
            run / f"{_MARKER_PREFIX}{name}", timeout=timeout, thread_local=False
        )

    @property
    def is_locked(self) -> bool:
        return self._native.is_locked or self._marker.is_locked

    @property
    def marker(self) -> Path:
        """The file that stands for the lock where there is no ``flock``."""
        return Path(self._marker.lock_file)

    def acquire(self) -> None:
        try:
            self._native.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in _NO_FLOCK:
                raise
            self._marker.acquire()
            return
        if self.marker.exists():
            try:
                self._marker.acquire()  # takes over one whose process is gone
            except BaseException:
                self._native.release()
                raise
            self._marker.release()

    def release(self) -> None:
        self._native.release()
        self._marker.release()


@dataclass(slots=True)
class _NoLock:
    """Stands for a lock where there are none: everybody gets it."""

    is_locked: bool = False

    def acquire(self) -> None:
        self.is_locked = True

    def release(self) -> None:
        self.is_locked = False


def lock_of(run: Path, name: str, *, timeout: float = 0) -> Lock:
    """Return a lock that is not tied to the thread that takes it."""
    if is_remote(run):
        return _NoLock()
    check_inside(run)
    return _FolderLock(run, name, timeout)


def acquire(lock: Lock, run: Path) -> None:
    """Take the lock, or say who has it. A folder that is gone is not made again."""
    try:
        if not is_remote(run):
            run.stat()
        lock.acquire()
    except Timeout as error:
        raise busy(lock, run, "writing this run") from error
    except OSError as error:
        raise cannot_write(run, error) from error


@contextmanager
def waiting(run: Path, name: str) -> Iterator[None]:
    """Hold a lock that is only ever held for a short time."""
    lock = lock_of(run, name, timeout=_PATIENCE)
    acquire(lock, run)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(folder: Path, name: str, doing: str) -> Iterator[None]:
    """Hold a lock while several files are replaced that belong together; nobody waits for it.

    Args:
        folder: Where the files are: a folder of ours, as the lock stays in it.
        name: The lock's name.
        doing: What the other one is doing, if there is one: ``saving probes here``.

    Raises:
        RunBusyError: Another process holds it.
        StoreError: The folder cannot be written.
    """
    lock: Lock = _NoLock()
    if not is_remote(folder):
        lock = _FolderLock(folder, name, timeout=0)
        for path in (folder / f"{LOCK_PREFIX}{name}", folder / f"{_MARKER_PREFIX}{name}"):
            if path.is_symlink():
                raise StoreError(f"{path}: is a symbolic link, where a lock is expected; remove it")
    try:
        lock.acquire()
    except Timeout as error:
        raise busy(lock, folder, doing) from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def busy(lock: Lock, folder: Path, doing: str) -> RunBusyError:
    """Return the error for a lock that somebody else holds: what they do, and what to do."""
    stale = ""
    if isinstance(lock, _FolderLock) and lock.marker.exists():
        stale = f"; if none is (it was killed on another machine), remove {lock.marker}"
    return RunBusyError(
        f"{folder}: another vlmscope is {doing}; wait for it to end, or give another --out{stale}"
    )
