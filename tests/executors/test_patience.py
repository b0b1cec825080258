"""The time limit itself; what it does to a run is in ``tests/faults``."""

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
from vlmscope.errors import InputError
from vlmscope.executors.time_limit import Patience, TooSlowError
from vlmscope.locking import model_lock


def hang(seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


def test_what_takes_too_long_is_interrupted() -> None:
    patience, start = Patience(0.1), time.monotonic()
    with pytest.raises(TooSlowError, match=r"longer than --time-limit 0\.1"), patience.limiting():
        hang()
    assert time.monotonic() - start < 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with patience.limiting():
        time.sleep(0.01)
    time.sleep(0.2)  # nothing is left that could raise


def test_who_goes_on_within_the_block_has_the_limit_again() -> None:
    with Patience(0.1).limiting():
        for _ in range(2):
            with pytest.raises(TooSlowError):
                hang()
        time.sleep(0.01)


def test_without_a_limit_nothing_is_set() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with Patience(None).limiting():
        assert signal.getsignal(signal.SIGALRM) is before
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def compute_in_c(seconds: int) -> None:
    """Be as good as a kernel that takes so long: no signal ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    try:
        ctypes.CDLL(None).sleep(seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def test_at_twice_the_limit_the_other_thread_gives_up() -> None:
    gave_up = threading.Event()
    with pytest.raises(TooSlowError), Patience(0.2, gave_up.set).limiting():
        compute_in_c(2)  # a loaded machine lets the counting thread run late
    assert gave_up.is_set()


def test_a_limit_is_refused_where_no_signal_comes() -> None:
    said: list[str] = []

    def elsewhere() -> None:
        try:
            Patience(1.0)
        except InputError as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    [line] = said
    assert line.startswith("time_limit: works in the main thread of a process only")


def test_the_passes_of_other_threads_do_not_count() -> None:
    """Else a row would be given up, or the process ended, for what another thread does."""
    has_it, gave_up = threading.Event(), threading.Event()

    def run_long() -> None:
        with model_lock():
            has_it.set()
            time.sleep(0.6)

    other = Worker(run_long)
    assert has_it.wait(10)
    start = time.monotonic()
    with Patience(0.2, gave_up.set).limiting():
        waited = time.monotonic() - start
        time.sleep(0.02)
    other.result()
    assert waited > 0.45
    assert not gave_up.is_set()


# Time in which the process is stopped


def hang_in_c(pipe: int) -> None:
    os.write(pipe, b"in")
    compute_in_c(600)


def hang_with_the_lock(pipe: int) -> None:
    os.write(pipe, b"in")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    ctypes.PyDLL(None).sleep(600)


def until_told(pipe: int) -> None:
    os.write(pipe, b"in")
    os.read(pipe, 1)


def hang_in_python(pipe: int) -> None:
    os.write(pipe, b"in")
    hang(600)


def limited(task: Callable[[int], None], seconds: float, pipe: Connection) -> None:
    """Do a task under a limit, in a process of its own; its exit code says what came of it."""
    patience = Patience(seconds, lambda: os._exit(124))
    try:
        with patience.limiting():
            task(pipe.fileno())
    except TooSlowError:
        os._exit(3)
    os._exit(0)


@contextmanager
def child(
    task: Callable[[int], None], seconds: float
) -> Iterator[tuple[BaseProcess, Callable[[], None]]]:
    """A process that is amid a task under a limit, and what tells it to end it."""
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


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_stops_take_no_time_and_what_hangs_is_still_caught() -> None:
    hangs = {hang_in_python: 3, hang_in_c: 124, hang_with_the_lock: -signal.SIGABRT}
    with ExitStack() as children:
        stopped = {}
        for task in (until_told, *hangs):
            process, end = children.enter_context(child(task, 0.7))
            os.kill(process.pid or 0, signal.SIGSTOP)
            stopped[task] = process, end
        often, end_often = children.enter_context(child(until_told, 1.0))
        for _ in range(31):  # longer together than three times the limit, and each is short
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
