"""Locks of a run. Readers need none; who may write at once, ``sharing`` decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlmscope.errors import RunBusyError
from vlmscope.store.inside import check_inside
from vlmscope.store.publish import cannot_write

_PATIENCE = 600.0  # seconds: an index of a million rows takes a minute or two


def lock_of(run: Path, name: str, *, timeout: float = 0) -> FileLock:
    """Return a lock that is not tied to the thread that takes it."""
    check_inside(run)
    return FileLock(run / f".lock-{name}", timeout=timeout, thread_local=False)


def acquire(lock: FileLock, run: Path) -> None:
    """Take the lock, or say who has it. A folder that is gone is not made again."""
    try:
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
