"""Finished rows are handed over together: enough of them, or when the first has waited long."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vlmscope.executors import writing
from vlmscope.executors.writing import PATIENCE, Outbox
from vlmscope.schema import Failure


def row(name: str) -> Failure:
    return Failure(name, "?", "capture", "x")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the time; nobody waits for it."""
    now = [100.0]
    monkeypatch.setattr(writing, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


@pytest.fixture
def sent() -> list[list[str]]:
    return []


@pytest.fixture
def made(sent: list[list[str]], clock: Any) -> Callable[[int], tuple[Outbox, list[int]]]:
    def make(size: int) -> tuple[Outbox, list[int]]:
        sizes = [size]
        box = Outbox(lambda rows: sent.append([item.id for item in rows]), lambda: sizes[0])  # type: ignore[union-attr]
        return box, sizes

    return make


def test_rows_wait_until_they_are_enough(made: Any, sent: list[list[str]]) -> None:
    box, _ = made(3)
    box.put([row("a")])
    box.put([])
    box.put([row("b")])
    assert sent == []
    box.put([row("c"), row("d")])
    assert sent == [["a", "b", "c", "d"]]
    box.put([row("e")])
    assert len(sent) == 1


def test_the_size_is_asked_each_time(made: Any, sent: list[list[str]]) -> None:
    box, sizes = made(1)
    box.put([row("a")])
    sizes[0] = 2
    box.put([row("b")])
    assert sent == [["a"]]
    sizes[0] = 1
    box.put([])
    assert sent == [["a"], ["b"]]


def test_no_row_waits_long(
    made: Any, sent: list[list[str]], clock: Callable[[float], None]
) -> None:
    """It is counted from when the first of them came, not from the last hand-over."""
    box, _ = made(100)
    clock(3 * PATIENCE)
    box.put([row("a")])
    clock(0.7 * PATIENCE)
    box.put([row("b")])
    assert sent == []
    clock(0.7 * PATIENCE)
    box.put([row("c")])
    assert sent == [["a", "b", "c"]]
    box.put([row("d")])
    assert len(sent) == 1


def test_what_is_left_is_flushed_once(made: Any, sent: list[list[str]]) -> None:
    box, _ = made(100)
    box.flush()
    assert sent == []  # nothing is no batch
    box.put([row("a")])
    box.flush()
    box.flush()
    assert sent == [["a"]]


def test_rows_that_were_sent_in_vain_are_not_sent_again(made: Any) -> None:
    """The writer's error ends the run; a flush on the way out must not write them twice."""
    tried: list[int] = []

    def full_disk(rows: Any) -> None:
        tried.append(len(rows))
        raise OSError

    box = Outbox(full_disk, lambda: 1)
    with pytest.raises(OSError):  # noqa: PT011 - any
        box.put([row("a")])
    box.flush()
    assert tried == [1]
