"""Locks of a run: one writer, or the members of one team; readers need no lock.

A lock is one of the operating system (``flock``), which is released when its process ends. Some
file systems have none (FUSE, some network mounts): there a marker file is used instead, which is
created exclusively and contains the process that created it. An object store has no locks at all.
There every shard is written on the condition that its name is free, so that of two writers with the
same name the second is refused with its first shard.

A plain session writes as ``000``, alone. A rank writes as ``rank_003_of_008`` together with the
other ranks of eight; ranks of six would process the same rows again, and are refused. Every writer
holds a lock with its name as long as it is open. Locks are checked and acquired under one more
lock, the gate, so that two writers that exclude each other cannot both start.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, SoftFileLock, Timeout

from vlmscope.errors import RunBusyError, StoreError
from vlmscope.store.storage.atomic import cannot_write
from vlmscope.store.storage.paths import as_path, check_inside, is_remote
from vlmscope.store.storage.removal import remove_file

LOCK_PREFIX = ".lock-"
"""Beginning of a lock file's name in a run folder."""

_MARKER_PREFIX = ".marker-"
"""Beginning of the name of the marker file that is used as a lock if there is no ``flock``."""

_TIMEOUT = 600.0  # seconds: an index of a million rows takes a minute or two

_NO_FLOCK = frozenset(
    {errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
)
"""Errors of file systems without ``flock``."""


class Lock(Protocol):
    """The interface of a lock."""

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock."""
        ...

    def acquire(self) -> object:
        """Acquire the lock."""
        ...

    def release(self) -> None:
        """Release the lock."""
        ...


class _FolderLock:
    """A lock in a folder: by ``flock``, or by a marker file where the file system has none.

    A process with ``flock`` checks for a marker too, because another machine on the same mount may
    lack ``flock``. The reverse is not possible: without ``flock``, its holders cannot be detected.
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
        """The marker file that is used as the lock if there is no ``flock``."""
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
                self._marker.acquire()  # takes over a marker whose process has ended
            except BaseException:
                self._native.release()
                raise
            self._marker.release()

    def release(self) -> None:
        self._native.release()
        self._marker.release()


@dataclass(slots=True)
class _NoLock:
    """A lock that can always be acquired, for stores without locks."""

    is_locked: bool = False

    def acquire(self) -> None:
        self.is_locked = True

    def release(self) -> None:
        self.is_locked = False


def lock_of(run: Path, name: str, *, timeout: float = 0) -> Lock:
    """Return a lock that is not bound to the thread that acquires it."""
    if is_remote(run):
        return _NoLock()
    check_inside(run)
    return _FolderLock(run, name, timeout)


def acquire(lock: Lock, run: Path) -> None:
    """Acquire the lock of a run, or raise ``RunBusyError``. A missing folder is not created."""
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
    """Hold a lock, waiting for it: for locks that are only held for a short time."""
    lock = lock_of(run, name, timeout=_TIMEOUT)
    acquire(lock, run)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(folder: Path, name: str, doing: str) -> Iterator[None]:
    """Hold a lock, without waiting for it, while several files are replaced together.

    Args:
        folder: The folder of the files, one of vlmscope's own: the lock file stays in it.
        name: The name of the lock.
        doing: What another holder of the lock is doing, for the message: ``saving probes here``.

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
    """Return the error for a lock that another process holds, with what it is doing."""
    stale = ""
    if isinstance(lock, _FolderLock) and lock.marker.exists():
        stale = f"; if none is (it was killed on another machine), remove {lock.marker}"
    return RunBusyError(
        f"{folder}: another vlmscope is {doing}; wait for it to end, or give another --out{stale}"
    )


ALONE = "000"
"""The name of a writer that does not share the run with others."""

GATE = "writers"
"""Name of the lock under which writers start and end."""

_TEAM = "_of_"
_OTHER = frozenset({GATE, "manifest", "index", "failures", "probes", "detectors", "report"})
"""Locks that are not those of writers: held briefly, or by commands that add no rows."""


def rank_name(index: int, count: int) -> str:
    """Return the writer name of one rank; the names sort by rank, and so do the rows.

    >>> rank_name(3, 8), rank_name(3, 1200)
    ('rank_003_of_008', 'rank_0003_of_1200')
    """
    width = max(3, len(str(count)))
    return team_name(f"{count:0{width}}", f"rank_{index:0{width}}")


def team_name(team: str, member: str) -> str:
    """Return the writer name of a member of a team.

    >>> team_name("ray_5f0c", "worker_001")
    'worker_001_of_ray_5f0c'
    """
    return f"{member}{_TEAM}{team}"


def enter(run: Path, writer: str) -> Lock:
    """Acquire the lock of a writer, unless a writer is active that it excludes.

    Raises:
        RunBusyError: Such a writer is active.
        StoreError: The folder cannot be written.
    """
    lock = lock_of(run, writer)
    with waiting(run, GATE):
        _refuse(run, writer)
        acquire(lock, run)
    return lock


def check_free(run: Path, writer: str = ALONE, *, patience: float = 0) -> None:
    """Raise ``RunBusyError`` if a writer is active that this one excludes. Creates no run.

    Args:
        run: The run folder.
        writer: The name of the new writer.
        patience: Seconds to wait for the others to end.
    """
    deadline = time.monotonic() + patience
    while any(True for _ in _locks(run)):
        try:
            with waiting(run, GATE):
                _refuse(run, writer)
        except RunBusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)
        else:
            return


def writers_at_work(run: Path) -> frozenset[str]:
    """Return the names of the active writers of a run. Call it while holding the gate."""
    return frozenset(name for name in _locks(run) if _is_held(run, name))


def wait_for_end(run: Path, writer: str, *, patience: float) -> bool:
    """Wait until the lock of a dead writer is released; return whether it is.

    Args:
        run: The run folder.
        writer: The name of the writer, which is never used again.
        patience: Seconds to wait.
    """
    deadline = time.monotonic() + patience
    while writer in _locks(run) and _is_held(run, writer):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def forget_locks(run: Path, *, besides: str) -> None:
    """Remove the lock files of ended writers. Call it at the gate, if no other writer is active."""
    for name in _locks(run):
        if name != besides:
            remove_file(run, f"{LOCK_PREFIX}{name}")


def _refuse(run: Path, writer: str) -> None:
    """Refuse a writer if one of the same name, or of another team, is active."""
    team = _team(writer)
    for name in sorted(writers_at_work(run)):
        if name == writer or not team or _team(name) != team:
            writer_name = "" if name == ALONE else f" (as {name})"
            raise busy(lock_of(run, name), run, f"writing this run{writer_name}")


def _team(writer: str) -> str:
    """Return the team in a writer name: members of a team may write at once; empty if none."""
    return writer.partition(_TEAM)[2]


def _locks(run: Path) -> Iterator[str]:
    """Return the names of the lock files of writers, held or not; an object store has none."""
    locks = () if is_remote(run) else as_path(run).glob(f"{LOCK_PREFIX}*")
    names = (path.name.removeprefix(LOCK_PREFIX) for path in locks)
    return (name for name in names if name not in _OTHER)


def _is_held(run: Path, name: str) -> bool:
    """Return whether a process holds this lock."""
    lock = lock_of(run, name)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise cannot_write(run, error) from error
    lock.release()
    return False
