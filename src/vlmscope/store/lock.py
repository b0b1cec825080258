"""Locks of a run. Readers need none; who may write at once, ``sharing`` decides.

An object store has no locks. There every shard is put under a name that nobody may have taken, so
that of two writers of one name the second one is refused with its first shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from vlmscope.errors import RunBusyError
from vlmscope.store.inside import check_inside
from vlmscope.store.place import is_remote
from vlmscope.store.publish import cannot_write

_PATIENCE = 600.0  # seconds: an index of a million rows takes a minute or two


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
    return FileLock(run / f".lock-{name}", timeout=timeout, thread_local=False)


def acquire(lock: Lock, run: Path) -> None:
    """Take the lock, or say who has it. A folder that is gone is not made again."""
    try:
        if not is_remote(run):
            run.stat()
        lock.acquire()
    except Timeout as error:
        raise RunBusyError(
            f"{run}: another vlmscope is writing this run; wait for it to end, "
            "or give another --out"
        ) from error
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
