"""The time limit itself; what it does to a run is in ``test_restarts`` and ``tests/faults``."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest

from threads import Worker
from vlmscope.executors import time_limit
from vlmscope.executors.time_limit import TimeLimit
from vlmscope.locking import model_lock


def test_what_takes_too_long_expires_once_and_cannot_end_before_it_is_dealt_with() -> None:
    ended: list[str] = []
    begun = threading.Event()

    def expired() -> None:
        begun.set()
        time.sleep(0.1)
        ended.append("expired")

    limit = TimeLimit(0.3, expired)
    with limit.limiting():
        assert begun.wait(20)
    ended.append("work")
    with limit.limiting():
        time.sleep(0.01)
    time.sleep(0.4)  # between two batches no time counts
    with limit.limiting():
        time.sleep(0.01)
    assert ended == ["expired", "work"]


def test_without_a_limit_nothing_is_started() -> None:
    threads, handler = threading.active_count(), signal.getsignal(signal.SIGALRM)
    with TimeLimit(None).limiting():
        assert threading.active_count() == threads
    with TimeLimit(60).limiting():
        assert threading.active_count() == threads + 1
        assert signal.getsignal(signal.SIGALRM) is handler


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), TimeLimit(60).limiting():
        _ = 1 / 0


def test_the_passes_of_other_threads_do_not_count() -> None:
    """Else the process would end for what another thread does."""
    has_it, expired = threading.Event(), threading.Event()

    def run_long() -> None:
        with model_lock():
            has_it.set()
            time.sleep(0.6)

    other = Worker(run_long)
    assert has_it.wait(10)
    start = time.monotonic()
    with TimeLimit(0.2, expired.set).limiting():
        waited = time.monotonic() - start
        time.sleep(0.02)
    other.result()
    assert waited > 0.45
    assert not expired.is_set()


# Time in which the process is stopped


def hang_in_c(pipe: int) -> None:
    os.write(pipe, b"in")
    ctypes.CDLL(None).sleep(600)


def hang_with_the_lock(pipe: int) -> None:
    os.write(pipe, b"in")
    ctypes.PyDLL(None).sleep(600)


def until_told(pipe: int) -> None:
    os.write(pipe, b"in")
    os.read(pipe, 1)


def hang_in_python(pipe: int) -> None:
    os.write(pipe, b"in")
    while True:
        time.sleep(0.005)


def limited(task: Callable[[int], None], seconds: float, pipe: Connection) -> None:
    """Do a task under a limit, in a process of its own; its exit code says what came of it."""
    limit = TimeLimit(seconds, lambda: os._exit(124))
    with limit.limiting():
        task(pipe.fileno())
    os._exit(0)


@contextmanager
def child(
    task: Callable[[int], None], seconds: float
) -> Iterator[tuple[BaseProcess, Callable[[], None]]]:
    """A process with a task under a limit, and what tells it to end it."""
    context = multiprocessing.get_context("fork")  # at once: nothing has to be imported
    ours, theirs = context.Pipe()
    process = context.Process(target=limited, args=(task, seconds, theirs))
    process.start()
    assert os.read(ours.fileno(), 2) == b"in"
    try:
        yield process, lambda: ours.send_bytes(b"out")
    finally:
        process.kill()
        process.join()


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_stops_take_no_time_and_what_hangs_is_still_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_limit, "_LOCKED", 0.0)
    hangs = {hang_in_python: 124, hang_in_c: 124, hang_with_the_lock: -signal.SIGABRT}
    with ExitStack() as children:
        stopped = {}
        for task in (until_told, *hangs):
            process, end = children.enter_context(child(task, 0.7))
            os.kill(process.pid or 0, signal.SIGSTOP)
            stopped[task] = process, end
        often, end_often = children.enter_context(child(until_told, 1.0))
        for _ in range(22):  # longer together than twice the limit, and each is short
            os.kill(often.pid or 0, signal.SIGSTOP)
            time.sleep(0.1)
            os.kill(often.pid or 0, signal.SIGCONT)
            time.sleep(0.001)
        end_often()
        for process, end in stopped.values():
            os.kill(process.pid or 0, signal.SIGCONT)
            end()
        ends: dict[object, int | None] = {}
        for task, (process, _) in {**stopped, "often": (often, None)}.items():
            process.join(20)
            ends[task] = process.exitcode
    assert ends == {until_told: 0, "often": 0, **hangs}


def hang_until_the_limit(pipe: Connection) -> None:
    """Hang in C, and tell by the exit code whether a signal was noticed at the limit."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    limit = TimeLimit(0.4, lambda: os._exit(5 if limit.asked_to_stop() else 6))
    with limit.limiting():
        os.write(pipe.fileno(), b"in")
        hung = ctypes.CDLL(None)
        while True:  # a sleep ends early at a signal, a kernel does not
            hung.sleep(600)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 5), (signal.SIGCONT, 6)])
def test_who_asks_to_stop_is_heard_though_no_handler_runs(signum: int, code: int) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hang_until_the_limit, args=(theirs,))
    process.start()
    assert os.read(ours.fileno(), 2) == b"in"
    os.kill(process.pid or 0, signum)
    process.join(20)
    assert process.exitcode == code


def lock_for_a_moment() -> None:
    """A call of C that keeps the interpreter's lock, and returns."""
    ctypes.PyDLL(None).usleep(300_000)


def end_at_the_limit(ending: Callable[[], object], pipe: Connection) -> None:
    """Reach a tiny limit, and take much longer than that to end; the exit code says it ended."""

    def expired() -> None:
        ending()
        os._exit(124)

    with TimeLimit(0.005, expired).limiting():
        os.write(pipe.fileno(), b"in")
        lock_for_a_moment()
        time.sleep(60)


def end_of(ending: Callable[[], object]) -> int | None:
    """Return the exit code of a process that reaches its limit and then does ``ending``."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=end_at_the_limit, args=(ending, theirs))
    process.start()
    assert os.read(ours.fileno(), 2) == b"in"
    process.join(20)
    return process.exitcode


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("ending", [lambda: time.sleep(0.3), lock_for_a_moment])
def test_writing_at_the_limit_may_take_longer_than_the_limit(ending: Callable[[], object]) -> None:
    assert end_of(ending) == 124


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_an_end_that_never_comes_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "_ENDING", 0.1)
    assert end_of(lambda: time.sleep(60)) == -signal.SIGABRT
