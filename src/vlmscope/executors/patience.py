"""A time limit for what the model does with a batch: a row that hangs must not keep the others.

In three steps, each for what the one before cannot interrupt. At the limit a signal raises
``TooSlowError`` inside the model, wherever Python code of the model or of torch runs; the batch is
then halved like one that raised, down to the row that hangs alone. A call of C that never returns
is ended with the process at twice the limit, by a thread; one that holds the interpreter's lock
too, at three times, by the standard library's ``faulthandler``, which needs no lock.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vlmscope.errors import InputError
from vlmscope.locking import model_lock
from vlmscope.schema import Sample, failure_of
from vlmscope.store import FailureLog

MODEL_STAGE = "model"
"""The stage of a failure whose row took too long: it is tried last, and alone."""

EXIT_CODE = 124
"""What the process ends with where nothing could interrupt the model: that of ``timeout``."""

_AGAIN = 0.05
"""Seconds until the signal comes again, should it have come at a wrong moment."""

_OURS = (
    "vlmscope.engine", "vlmscope.executors", "vlmscope.locking", "vlmscope.model.changes",
    "vlmscope.model.computing",
)  # fmt: skip
"""Not amid their bookkeeping is a batch given up, but in the code that they call."""


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
        self._seconds = seconds
        self._give_up = give_up
        self._armed = False
        self._since = 0.0

    @contextmanager
    def limiting(self) -> Iterator[None]:
        """Raise ``TooSlowError`` inside the block where it takes longer than the limit.

        Who catches it there and goes on has the whole limit again.
        """
        if self._seconds is None:
            yield
            return
        with model_lock():  # the time of other threads' passes is not this one's
            yield from self._clocked(self._seconds)

    def _clocked(self, seconds: float) -> Iterator[None]:
        ended = threading.Event()
        watch = threading.Thread(
            target=self._watch, args=(ended, seconds), name="vlmscope-patience", daemon=True
        )
        before = signal.signal(signal.SIGALRM, self._expire)
        try:
            self._begin(seconds)
            self._armed = True
            watch.start()
            yield
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            ended.set()
            signal.signal(signal.SIGALRM, before)

    def _begin(self, seconds: float) -> None:
        """Start all three clocks."""
        self._since = time.monotonic()
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(3 * seconds, exit=True, file=sys.__stderr__)
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)

    def _expire(self, _signum: int, frame: FrameType | None) -> None:
        """Raise in the code that our engine calls; amid the engine's own, wait for the next."""
        module = frame.f_globals.get("__name__", "") if frame is not None else ""
        if self._armed and self._seconds is not None and not module.startswith(_OURS):
            self._begin(self._seconds)
            raise TooSlowError(f"took longer than --time-limit {self._seconds:g} seconds")

    def _watch(self, ended: threading.Event, seconds: float) -> None:
        while not ended.wait(self._since + 2 * seconds - time.monotonic()):
            if time.monotonic() - self._since >= 2 * seconds:
                self._give_up()
                return


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
    if not seconds > 0:
        raise InputError(f"--time-limit {seconds:g}: give a number of seconds above 0")
    if not hasattr(signal, "setitimer"):
        raise InputError("--time-limit: needs a system with POSIX timers; leave it out here")
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            "--time-limit: works in the main thread of a process only; leave it out, or run the "
            "command vlmscope extract"
        )
