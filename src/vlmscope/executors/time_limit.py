"""A time limit of the model for a batch, so that a hanging row does not end a long run.

The model is never interrupted from within: an exception at an arbitrary instruction of a library
leaves its state undefined, and cannot reach a C function that never returns. At the limit a thread
writes the captured rows, records the rows in the model, and restarts the command in the same
process id (``os.execv``). The new session tries those rows last, each alone; a row that takes too
long alone stays recorded as failed and is not tried again by this command. ``TRIES`` restarts in
succession without a captured row in between are not caused by a row: then the process ends with
``EXIT_CODE``. A C function that keeps the interpreter's lock blocks that thread too; in that case
``watchdog`` ends the process from outside.

Only the time in which this process runs is counted. No clock measures that, so the thread adds up
short waits; a wait that took longer because the process was stopped by Ctrl-Z or SIGSTOP counts as
a short one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile

from vlmscope.errors import InputError, VlmscopeError, names_options
from vlmscope.executors.journal import MODEL_STAGE
from vlmscope.executors.request import Request
from vlmscope.executors.watchdog import ALIVE, AT_REST, EXPIRED, Watchdog
from vlmscope.locking import model_lock
from vlmscope.schema import Sample, failure_of
from vlmscope.store import FailureLog

EXIT_CODE = 124
"""Exit code of the process if restarting did not help: that of ``timeout``."""

TRIES = 10
"""Maximum number of restarts in succession without a captured row in between."""

_TICKS = 50
"""Short waits that make up the limit."""

_LOCKED = 60.0
"""Seconds beyond the limit at which the watchdog may end the process: a call of C that keeps the
interpreter's lock for so long may still return."""

_ENDING = 600.0
"""Seconds for writing what is captured, and recording the rows in the model, after the limit."""

_VARIABLE = "VLMSCOPE_TIME_LIMIT"
"""Name of the environment variable that tells the restarted process where its ``Restarts`` are: the
process id and the descriptor of an open file without a name. The environment itself has room for
128 KiB, which is eight ids; a file of the run folder could be somebody else's."""


class TimeLimit:
    """Limits the time of successive blocks of work.

    Args:
        seconds: The limit; None for no limit.
        expired: Called from another thread at the limit, to end the process. The limited block
            cannot end before it returns.
    """

    def __init__(self, seconds: float | None, expired: Callable[[], None] = lambda: None) -> None:
        self._seconds = seconds or 0.0
        self._tick = min(max(self._seconds / _TICKS, 0.01), 0.25)
        self._expired = expired
        self._limited = threading.Event()
        self._turn = threading.Lock()
        """Held while a block begins, ends, or is timed, so that it cannot expire after its end."""
        self._ran = 0.0
        """Seconds that this process ran since the current block began."""
        self._watchdog: Watchdog | None = None
        self._signals: socket.socket | None = None
        """Where the numbers of signals can be read, while the main thread is limited."""

    @contextmanager
    def limiting(self) -> Iterator[None]:
        """Limit the time of the block. Passes of other threads do not count."""
        if not self._seconds:
            yield
            return
        with model_lock(), self._hearing_signals():
            self._begin()
            try:
                yield
            finally:
                self._end()

    def asked_to_stop(self) -> bool:
        """Return whether Ctrl-C or SIGTERM came while the work was limited.

        Python's handlers do not run in a main thread that is in a call of C.
        """
        if self._signals is None:
            return False
        with suppress(BlockingIOError):
            return not {signal.SIGINT, signal.SIGTERM}.isdisjoint(self._signals.recv(65_536))
        return False

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            self._signals = ours
            before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)
                self._signals = None

    def _begin(self) -> None:
        with self._turn:
            if self._watchdog is None:
                silent = self._seconds + max(self._seconds, _LOCKED)
                self._watchdog = Watchdog(silent, _ENDING)
                watch = threading.Thread(target=self._watch, args=(self._watchdog,), daemon=True)
                watch.name = "vlmscope-time-limit"
                watch.start()
            self._watchdog.send(ALIVE)
            self._ran = 0.0
            self._limited.set()

    def _end(self) -> None:
        with self._turn:
            self._limited.clear()
            if self._watchdog is not None:
                self._watchdog.send(AT_REST)

    def _watch(self, watchdog: Watchdog) -> None:
        """Count the time and call ``expired`` at the limit, on a separate thread."""
        while self._limited.wait():
            start = time.monotonic()
            time.sleep(self._tick)
            with self._turn:
                if not self._limited.is_set():
                    continue
                watchdog.send(ALIVE)
                self._ran += min(time.monotonic() - start, self._tick)
                if self._ran >= self._seconds:
                    self._ran = 0.0
                    watchdog.send(EXPIRED)
                    self._expired()
                    watchdog.send(ALIVE)


@dataclass(frozen=True, slots=True)
class Restarts:
    """Earlier restarts of the same command by the time limit."""

    hung: tuple[str, ...] = ()
    """Rows that took too long alone. They are recorded as failed."""

    without_progress: int = 0
    """Restarts in succession without a captured row in between."""


def take_restarts() -> Restarts:
    """Return the state that this process left before it restarted, and remove it."""
    process, _, descriptor = os.environ.pop(_VARIABLE, "").partition(":")
    if process != str(os.getpid()):  # else the number is that of some other open file
        return Restarts()
    with suppress(OSError, ValueError, TypeError, KeyError), open(int(descriptor), "rb") as file:  # noqa: PTH123 - a descriptor
        file.seek(0)
        found = json.load(file)
        return Restarts(tuple(map(str, found["hung"])), int(found["without_progress"]))
    return Restarts()


def _leave_restarts(restarts: Restarts) -> None:
    """Leave the state for ``take_restarts``, which reads it after the restart.

    Raises:
        OSError: There is no room for it.
    """
    with ExitStack() as opened:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("vlmscope-restarts")
        else:
            descriptor = os.dup(opened.enter_context(TemporaryFile()).fileno())
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(asdict(restarts)).encode())
    os.set_inheritable(descriptor, True)
    os.environ[_VARIABLE] = f"{os.getpid()}:{descriptor}"


def end_process(
    request: Request, samples: Sequence[Sample], before: Restarts, *, captured: bool, stopping: bool
) -> None:
    """Record the rows in a hanging model, and restart the command.

    The process ends with ``EXIT_CODE`` instead if restarting has not helped, is not possible, or if
    a stop was requested.

    Args:
        request: The request.
        samples: The rows in the model.
        before: Earlier restarts by the time limit.
        captured: Whether this process has published a row.
        stopping: Whether a stop was requested.
    """
    try:
        alone = tuple(sample.id for sample in samples) if len(samples) == 1 else ()
        now = Restarts(before.hung + alone, 0 if captured else before.without_progress + 1)
        again = not stopping and now.without_progress < TRIES
        try:
            _record(request, samples)
        except VlmscopeError as error:  # a session that does not know of them would hang again
            again = False
            _print(f"error: {error}")
        _report(request, samples, again=again, without_progress=now.without_progress)
        if again:
            _restart(now)
    finally:
        os._exit(EXIT_CODE)


def _restart(now: Restarts) -> None:
    """Execute the command line of this process again; return only if that is refused."""
    try:
        _leave_restarts(now)
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execv(sys.executable, command)  # noqa: S606 - the command line of this process
    except OSError as error:
        _print(
            f"error: the command cannot be restarted: {error.strerror or error}; run the same "
            "command again"
        )


def _record(request: Request, samples: Sequence[Sample]) -> None:
    """Record the rows that were in the model: the next session tries them last, and alone."""
    limit = f"took longer than --time-limit {request.time_limit:g} seconds"
    if len(samples) == 1:
        why = f"the model {limit} on this row alone"
    else:
        why = (
            f"was in the model with {len(samples) - 1} others when it {limit}; the same command "
            "tries it last, and alone"
        )
    FailureLog(request.out).add_all([failure_of(sample, MODEL_STAGE, why) for sample in samples])


def _report(
    request: Request, samples: Sequence[Sample], *, again: bool, without_progress: int
) -> None:
    """Print which rows were in the model, and what happens to them."""
    ids = ", ".join(repr(sample.id) for sample in samples)
    line = f"the model took longer than --time-limit {request.time_limit:g} seconds; rows in it: "
    line += ids
    if again:
        action = "is recorded as failed" if len(samples) == 1 else "are tried last, each alone"
        text = f"note: {line}; {'it' if len(samples) == 1 else 'they'} {action}, restarting"
    elif without_progress >= TRIES:
        text = (
            f"error: {line}; this happened {without_progress} times in succession without a "
            "captured row in between: give a longer --time-limit or a smaller --batch-size"
        )
    else:
        text = f"error: {line}; run the same command again, which tries them last, each alone"
    _print(text)


def _print(text: str) -> None:
    """Print a line below the progress bar, if stderr is open."""
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):
            print(f"\n{text}", file=sys.__stderr__, flush=True)


def check_time_limit(request: Request) -> None:
    """Refuse a time limit that is invalid, or cannot be enforced.

    Raises:
        InputError: It is not above 0, the process is not that of the command, or the system is not
            POSIX.
    """
    seconds = request.time_limit
    if seconds is None:
        return
    if not isinstance(seconds, int | float):
        raise InputError(f"--time-limit {seconds!r}: give a number of seconds above 0")
    if not seconds > 0:
        raise InputError(f"--time-limit {seconds:g}: give a number of seconds above 0")
    if not names_options():  # only true in the command
        raise InputError(
            f"--time-limit {seconds:g}: a hanging model is ended together with its process, which "
            "only the command vlmscope extract may do; use the command, or omit the limit"
        )
    if not hasattr(signal, "pthread_sigmask"):
        raise InputError("--time-limit: needs a POSIX system; omit it here")
