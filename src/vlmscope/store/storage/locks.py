"""Locks of a run: one writer, or the members of one team; readers need none.

A lock is the operating system's (``flock``), which goes with the process that holds it. Some file
systems have none (FUSE, some network mounts): there a file that is made exclusively stands for it,
with the name of the process that made it. An object store has no locks at all. There every shard is
put under a name that nobody may have taken, so that of two writers of one name the second one is
refused with its first shard.

A plain session writes as ``000``, alone. A rank writes as ``rank_003_of_008`` beside the other
ranks of eight; ranks of six would do the same rows again, and are kept out. Every writer holds a
lock of its name as long as it lives. Locks are looked at and taken under one more lock, the gate,
so that two that exclude each other cannot both come in.
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
from vlmscope.store.storage.paths import check_inside, is_remote, place
from vlmscope.store.storage.removal import remove_file

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


ALONE = "000"
"""The name of a writer that shares the run with nobody."""

GATE = "writers"
"""The lock under which writers come and go."""

_TEAM = "_of_"
_OTHER = frozenset({GATE, "manifest", "index", "failures", "probes", "report"})
"""Locks that say nothing about writers: held for a moment, or by commands that add no rows."""


def rank_name(index: int, count: int) -> str:
    """Return the writer's name of one rank; in their order, so that rows keep it too.

    >>> rank_name(3, 8), rank_name(3, 1200)
    ('rank_003_of_008', 'rank_0003_of_1200')
    """
    width = max(3, len(str(count)))
    return team_name(f"{count:0{width}}", f"rank_{index:0{width}}")


def team_name(team: str, member: str) -> str:
    """Return the writer's name of a member of a team.

    >>> team_name("ray_5f0c", "worker_001")
    'worker_001_of_ray_5f0c'
    """
    return f"{member}{_TEAM}{team}"


def enter(run: Path, writer: str) -> Lock:
    """Take the lock of a writer's name, if nobody writes whom it excludes.

    Raises:
        RunBusyError: Somebody does.
        StoreError: The folder cannot be written.
    """
    lock = lock_of(run, writer)
    with waiting(run, GATE):
        _refuse(run, writer)
        acquire(lock, run)
    return lock


def check_free(run: Path, writer: str = ALONE, *, patience: float = 0) -> None:
    """Raise ``RunBusyError`` if somebody writes the run whom this writer excludes. Makes no run.

    Args:
        run: The run folder.
        writer: Who wants to write.
        patience: Seconds to wait for them to end.
    """
    give_up = time.monotonic() + patience
    while any(True for _ in _locks(run)):
        try:
            with waiting(run, GATE):
                _refuse(run, writer)
        except RunBusyError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.2)
        else:
            return


def writers_at_work(run: Path) -> frozenset[str]:
    """Return the names of those who write the run. To be asked at the gate."""
    return frozenset(name for name in _locks(run) if _is_held(run, name))


def wait_for_end(run: Path, writer: str, *, patience: float) -> bool:
    """Wait until a writer that died has let go of the run; return whether it has.

    Args:
        run: The run folder.
        writer: Its name, which nobody will take again.
        patience: Seconds to wait.
    """
    give_up = time.monotonic() + patience
    while writer in _locks(run) and _is_held(run, writer):
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.05)
    return True


def forget_locks(run: Path, *, besides: str) -> None:
    """Remove the locks of writers that are gone. At the gate, where nobody else writes."""
    for name in _locks(run):
        if name != besides:
            remove_file(run, f"{LOCK_PREFIX}{name}")


def _refuse(run: Path, writer: str) -> None:
    """Refuse a writer beside another of its name, or one of another team."""
    team = _team(writer)
    for name in sorted(writers_at_work(run)):
        if name == writer or not team or _team(name) != team:
            as_whom = "" if name == ALONE else f" (as {name})"
            raise busy(lock_of(run, name), run, f"writing this run{as_whom}")


def _team(writer: str) -> str:
    """Return what the names of those have in common who may write at once; empty for nobody."""
    return writer.partition(_TEAM)[2]


def _locks(run: Path) -> Iterator[str]:
    """Yield the names of which there is a lock, held or not; an object store has none."""
    locks = () if is_remote(run) else place(run).glob(f"{LOCK_PREFIX}*")
    names = (path.name.removeprefix(LOCK_PREFIX) for path in locks)
    return (name for name in names if name not in _OTHER)


def _is_held(run: Path, name: str) -> bool:
    """Return whether somebody has this lock."""
    lock = lock_of(run, name)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise cannot_write(run, error) from error
    lock.release()
    return False
