"""Who may write a run at once: one writer, or the members of one team.

A plain session writes as ``000``, alone. A rank writes as ``rank_003_of_008`` beside the other
ranks of eight; ranks of six would do the same rows again, and are kept out. Every writer holds a
lock of its name as long as it lives. Locks are looked at and taken under one more lock, the gate,
so that two that exclude each other cannot both come in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from vlmscope.errors import RunBusyError
from vlmscope.store.lock import LOCK_PREFIX, Lock, acquire, busy, lock_of, waiting
from vlmscope.store.place import is_remote, place
from vlmscope.store.publish import cannot_write
from vlmscope.store.removal import remove_file

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
