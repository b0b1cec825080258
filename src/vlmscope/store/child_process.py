"""Child processes that write a run or build its shards: how they are started, and when they end.

They are started by ``spawn`` and import neither torch nor the running script. A terminal or
scheduler sends its signals to every process of a job: the command handles them, its children ignore
them, and end when their parent does, whatever ends it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from types import ModuleType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal or scheduler sends to every process of a job."""


def start(process: SpawnProcess) -> None:
    """Start a process, which calls ``be_child`` first.

    Raises:
        OSError: It cannot be started.
    """
    with _without_main(), _without_signals():
        process.start()


def be_child() -> None:
    """Ignore the signals that the parent handles, and end when it does."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the running script, which a new process would import, with all of its imports.

    A script without a check of ``__name__`` would even run again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_signals() -> Iterator[None]:
    """Block signals in a process that is started here, until it ignores them itself."""
    resource_tracker.ensure_running()  # starting it later would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    """End at once when the parent does, even during a pack or an index: both are rebuilt."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
