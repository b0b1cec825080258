"""Threads for tests: begun together, and a deadlock fails the test instead of hanging it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

TIMEOUT = 60.0
"""Seconds after which a thread hangs; nothing here takes more than a few."""


class Worker:
    """A thread that does one thing. It is a daemon: if it hangs, the tests still end."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised by ``result``
            self._error = error

    def result(self, timeout: float = TIMEOUT) -> Any:
        """Return what it returned, or raise what it raised."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "a thread hangs"
        if self._error is not None:
            raise self._error
        return self._result

    def is_done_within(self, seconds: float) -> bool:
        """Return whether it ends in so short a time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do several things in as many threads, begun together; return their results in order."""
    start = threading.Barrier(len(works))

    def after_start(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            start.wait(TIMEOUT)
            return work()

        return run

    return [worker.result() for worker in [Worker(after_start(work)) for work in works]]
