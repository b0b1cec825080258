"""A time limit for what the model does with a batch: a row that hangs must not keep the others.

In three steps, each for what the one before cannot interrupt. At the limit a signal raises
``TooSlowError`` inside the model, wherever Python code of the model or of torch runs; the batch is
then halved like one that raised, down to the row that hangs alone. A call of C that never returns
is ended with the process at twice the limit, by a thread; one that holds the interpreter's lock
too, at three times, by another process: ``watchdog``.

Only the time in which this process runs counts. No clock tells that, so a thread adds up short
waits; one that took longer than it should, because the process was stopped meanwhile by Ctrl-Z or
SIGSTOP, counts as a short one.

What is noted of the rows in work, so that a session after a kill knows of them.
``store.InProgress`` is such a journal; where nobody would read one, nothing is noted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from vlmscope.errors import InputError
from vlmscope.executors.watchdog import ALIVE, AT_REST, Watchdog
from vlmscope.locking import model_lock
from vlmscope.schema import Sample, failure_of
from vlmscope.store import FailureLog

PREPARE_STAGE = "prepare"
"""What a row is in while its images are loaded and its prompt is made."""

MODEL_STAGE = "model"
"""What a row is in while it is in the model; and the stage of a failure whose row took too long
there, or with which the process died. Such a row is tried last, and alone."""


class Journal(Protocol):
    """Where it is noted which rows are in work: see ``store.InProgress``."""

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Take note that work on some rows begins."""

    def leave(self, ids: Iterable[str]) -> None:
        """Take note that nothing is done to some rows for now."""

    def finish(self, ids: Iterable[str]) -> None:
        """Take note that some rows are done, whatever came of them."""


class NoJournal:
    """A journal that nobody reads."""

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Ignore it."""

    def leave(self, ids: Iterable[str]) -> None:
        """Ignore it."""

    def finish(self, ids: Iterable[str]) -> None:
        """Ignore it."""


EXIT_CODE = 124
"""What the process ends with where nothing could interrupt the model: that of ``timeout``."""

_TICKS = 50
"""Short waits that make up the limit."""

_REST = 5.0
"""Seconds without anything to limit after which nobody watches any more."""

_OURS = (
    "vlmscope.engine", "vlmscope.executors", "vlmscope.locking", "vlmscope.model.computing",
    "vlmscope.model.computing",
)  # fmt: skip
"""A batch is interrupted in the code that they call, not during their own bookkeeping."""


class TooSlowError(Exception):
    """A batch took longer than the time limit."""


class Patience:
    """Limits the time of one piece of work after another.

    Args:
        seconds: The limit; None for none.
        give_up: Called from another thread at twice the limit; to end the process.

    Raises:
        InputError: There is a limit, and no signal can enforce it here.
    """

    def __init__(self, seconds: float | None, give_up: Callable[[], None] = lambda: None) -> None:
        check_patience(seconds)
        self._seconds = seconds or 0.0
        self._tick = min(max(self._seconds / _TICKS, 0.01), 0.25)
        self._give_up = give_up
        self._ran = 0.0
        """Seconds that this process ran while it was limited. Only the thread that watches adds."""
        self._began = 0.0
        """What ``_ran`` was when the present limit began. Only the main thread sets it."""
        self._limited = False
        self._wake = threading.Event()
        self._turn = threading.Lock()
        """Held to begin, to end, and to send a signal: none comes after the end."""
        self._watchdog: Watchdog | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Patience:
        """A copy counts for itself; locks and threads are not copied."""
        return Patience(self._seconds or None, self._give_up)

    @contextmanager
    def limiting(self) -> Iterator[None]:
        """Raise ``TooSlowError`` inside the block where it takes longer than the limit.

        Who catches it there and goes on has the whole limit again.
        """
        if not self._seconds:
            yield
            return
        with model_lock():  # the time of other threads' passes is not this one's
            yield from self._clocked()

    def _clocked(self) -> Iterator[None]:
        before = signal.signal(signal.SIGALRM, self._expire)
        try:
            self._begin()
            yield
        finally:
            self._end()
            signal.signal(signal.SIGALRM, before)

    def _begin(self) -> None:
        """Have the time counted from now on."""
        with self._turn:
            if self._watchdog is None:
                self._watchdog = Watchdog(3 * self._seconds)
                thread = threading.Thread(target=self._watch, args=(self._watchdog,), daemon=True)
                thread.name = "vlmscope-patience"
                thread.start()
            self._watchdog.say(ALIVE)
            self._began = self._ran
            self._limited = True
            self._wake.set()

    def _end(self) -> None:
        """Have it counted no longer; a signal that has been sent comes to nothing."""
        self._limited = False
        with self._turn:
            if self._watchdog is not None:
                self._watchdog.say(AT_REST)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        if signal.SIGALRM in signal.sigpending():
            signal.sigwait([signal.SIGALRM])
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _expire(self, _signum: int, frame: FrameType | None) -> None:
        """Raise in the code that our engine calls; within the engine, wait for the next call."""
        module = frame.f_globals.get("__name__", "") if frame is not None else ""
        late = self._ran - self._began >= self._seconds
        if late and self._limited and not module.startswith(_OURS):
            self._began = self._ran
            raise TooSlowError(f"took longer than --time-limit {self._seconds:g} seconds")

    def _watch(self, watchdog: Watchdog) -> None:
        """Count the time, and act when it is over. This is a thread of its own."""
        gave_up = -1.0
        while self._is_wanted(watchdog):
            last = time.monotonic()
            while self._limited:
                time.sleep(self._tick)
                now = time.monotonic()
                self._ran += min(now - last, self._tick)
                last, began = now, self._began
                self._remind(watchdog, late=self._ran - began >= self._seconds)
                if self._ran - began >= 2 * self._seconds and gave_up != began:
                    gave_up = began
                    self._give_up()

    def _remind(self, watchdog: Watchdog, *, late: bool) -> None:
        """Give a sign of life; and the signal that raises, if it is time."""
        with self._turn:
            if self._limited:
                watchdog.say(ALIVE)
                if late:
                    signal.pthread_kill(_main(), signal.SIGALRM)

    def _is_wanted(self, watchdog: Watchdog) -> bool:
        """Wait for something to limit; if nothing comes for long, let go of the other process."""
        while not self._limited:
            self._wake.clear()
            if self._limited or self._wake.wait(_REST):
                continue
            with self._turn:
                if not self._limited:
                    self._watchdog = None
                    watchdog.close()
                    return False
        return True


def _main() -> Any:
    return threading.main_thread().ident


def end_process(run: Path, samples: Sequence[Sample]) -> None:
    """Record the rows that are in a model which cannot be interrupted, and end the process.

    The next session tries such rows last, and each alone, so that it finds which of them it was.
    """
    why = (
        "was in the model when it could not be interrupted at twice the --time-limit; the same "
        "command tries it last, and alone"
    )
    try:
        log = FailureLog(run)
        for sample in samples:
            log.add(failure_of(sample, MODEL_STAGE, why))
    finally:
        ids = ", ".join(repr(sample.id) for sample in samples)
        line = f"error: the model hangs and cannot be interrupted; rows in it: {ids}"
        print(f"{line}; run the same command again", file=sys.__stderr__, flush=True)
        os._exit(EXIT_CODE)


def check_patience(seconds: float | None) -> None:
    """Refuse a time limit that is none, or that nothing here can enforce.

    Raises:
        InputError: It is not above 0, this is not the main thread, or the system has no timer.
    """
    if seconds is None:
        return
    if not isinstance(seconds, int | float):
        raise InputError(f"--time-limit {seconds!r}: give a number of seconds above 0")
    if not seconds > 0:
        raise InputError(f"--time-limit {seconds:g}: give a number of seconds above 0")
    if not hasattr(signal, "setitimer"):
        raise InputError("--time-limit: needs a system with POSIX timers; leave it out here")
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            "--time-limit: works in the main thread of a process only; leave it out, or run the "
            "command vlmscope extract"
        )
