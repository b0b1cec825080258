"""Finished rows are written together: enough of them, or when the first has waited long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from vlmscope.executors import writing
from vlmscope.executors.writing import LONGEST_WAIT, Results, StrictStop, WritingThread
from vlmscope.schema import Failure


def row(name: str) -> Failure:
    return Failure(name, "?", "capture", "x")


class Disk:
    """A run that is open for writing, and what came into it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.full = False
        self.done_ids: frozenset[str] = frozenset()

    def begin(self, results: Results) -> None:
        self.batches.append([item.id for item in results])  # type: ignore[union-attr]
        if self.full:
            raise OSError

    def finish(self, _: None) -> None: ...

    def release(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the time; nobody waits for it."""
    now = [100.0]
    monkeypatch.setattr(writing, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


class Gathering:
    """The writing thread, and a batch size that may change."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.disk, self.size, self._pool = Disk(), 1, pool
        self.results = self.new()

    def new(self, **options: Any) -> WritingThread:
        return WritingThread(
            self.disk, self._pool, lambda _: None, size=lambda: self.size, **options
        )

    def put(self, *names: str) -> None:
        self.results.put([row(name) for name in names])

    @property
    def written(self) -> list[list[str]]:
        self._pool.submit(int).result()  # what was handed over before is written
        return self.disk.batches


@pytest.fixture
def box(clock: Any) -> Iterator[Gathering]:
    with ThreadPoolExecutor(1) as pool:
        yield Gathering(pool)


def test_rows_wait_until_they_are_enough(box: Gathering) -> None:
    box.size = 3
    box.put("a")
    box.put()
    box.put("b")
    assert box.written == []
    box.put("c", "d")
    assert box.written == [["a", "b", "c", "d"]]
    box.put("e")
    assert len(box.written) == 1


def test_the_size_is_asked_each_time(box: Gathering) -> None:
    box.put("a")
    box.size = 2
    box.put("b")
    assert box.written == [["a"]]
    box.size = 1
    box.put()
    assert box.written == [["a"], ["b"]]


def test_no_row_waits_long(box: Gathering, clock: Callable[[float], None]) -> None:
    """It is counted from when the first of them came, not from the last batch."""
    box.size = 100
    clock(3 * LONGEST_WAIT)
    box.put("a")
    clock(0.7 * LONGEST_WAIT)
    box.put("b")
    assert box.written == []
    clock(0.7 * LONGEST_WAIT)
    box.put("c")
    assert box.written == [["a", "b", "c"]]
    box.put("d")
    assert len(box.written) == 1


def test_what_is_left_is_written_once(box: Gathering) -> None:
    box.size = 100
    box.results.flush()
    assert box.written == []  # nothing is no batch
    box.put("a")
    box.results.wait()
    box.results.flush()
    assert box.written == [["a"]]


def test_rows_that_were_written_in_vain_are_not_written_again(box: Gathering) -> None:
    """The error ends the run; a flush on the way out must not write them twice."""
    box.disk.full, box.size = True, 100
    box.put("a")
    with pytest.raises(OSError):  # noqa: PT011 - any
        box.results.wait()
    box.results.wait()
    assert box.written == [["a"]]


def test_a_failure_under_strict_ends_when_all_before_it_is_written(box: Gathering) -> None:
    box.size, box.results = 100, box.new(strict=True)
    with pytest.raises(StrictStop):
        box.put("a")
    assert box.disk.batches == [["a"]]


def test_of_results_that_cannot_be_trusted_none_is_written(box: Gathering) -> None:
    def check() -> None:
        raise RuntimeError("rewritten")

    box.results = box.new(check=check)
    with pytest.raises(RuntimeError, match="rewritten"):
        box.put("a")
    box.results.wait()
    assert box.written == []


def test_batches_are_begun_while_others_are_waited_for() -> None:
    """They are reported when they are recorded, in order."""

    class Slow(Disk):
        may_finish = threading.Event()

        def finish(self, _: None) -> None:
            assert self.may_finish.wait(20)

    disk, published = Slow(), list[Results]()
    with ThreadPoolExecutor(1) as begins, ThreadPoolExecutor(1) as waits:
        results = WritingThread(disk, begins, published.append, waiting=waits)
        for name in "abc":
            results.put([row(name)])
        begins.submit(int).result()
        assert disk.batches == [["a"], ["b"], ["c"]]
        assert not published
        disk.may_finish.set()
        results.wait()
    assert published == [[row("a")], [row("b")], [row("c")]]
