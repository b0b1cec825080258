"""Handing rows out: each is done once, whoever dies, and one that kills is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmscope.executors.ray.scheduler import DEATHS, Dispatcher
from vlmscope.schema import Sample


def rows(number: int, read: list[str] | None = None) -> Iterator[Sample]:
    for i in range(number):
        if read is not None:
            read.append(f"q{i}")
        yield Sample(f"q{i}", f"{i}.png", "?", origin=f"t.csv line {i + 2}")


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def test_rows_are_read_as_they_are_asked_for() -> None:
    read: list[str] = []
    dispatcher = Dispatcher(rows(10**6, read))
    for _ in range(1000):
        assert dispatcher.finished("a", ids(dispatcher.take("a", 2))) == 2
        assert dispatcher.has_more("a")
    assert len(read) <= 2001
    assert dispatcher.finished("a", ["q0"]) == 0  # told twice


def test_the_rows_of_a_dead_worker_are_given_to_another() -> None:
    dispatcher = Dispatcher(rows(5))
    first = ids(dispatcher.take("a", 3))
    assert ids(dispatcher.take("b", 9)) == ["q3", "q4"]
    assert not dispatcher.has_more("b")
    dispatcher.finished("a", first[:1])
    assert dispatcher.died("a") == []
    assert ids(dispatcher.take("b", 9)) == ["q1", "q2"]
    assert not dispatcher.is_over
    dispatcher.finished("b", ["q1", "q2", "q3", "q4"])
    assert dispatcher.is_over


def test_a_suspect_is_tried_alone_and_then_blamed() -> None:
    dispatcher = Dispatcher(rows(4))
    for death in range(DEATHS):
        assert ids(dispatcher.take(f"w{death}", 2)) == ["q0", "q1"]
        assert dispatcher.died(f"w{death}") == []
    assert ids(dispatcher.take("x", 9)) == ["q0"]
    assert not dispatcher.has_more("x")
    assert dispatcher.take("x", 9) == []
    assert ids(dispatcher.take("y", 9)) == ["q1"]
    dispatcher.finished("y", ["q1"])
    assert ids(dispatcher.take("y", 9)) == ["q2", "q3"]
    [failure] = dispatcher.died("x")
    assert failure.id == "q0"
    assert failure.error.startswith("t.csv line 2: the worker died on this row alone, after 3")
    assert failure.stage == "model", "a later run tries it last, and alone"
    dispatcher.finished("y", ["q2", "q3"])
    assert dispatcher.is_over


@given(
    poison=st.sets(st.integers(0, 11), max_size=3),
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_every_row_ends_once(poison: set[int], moves: list[tuple[int, int]]) -> None:
    """Workers that die of poisonous rows, and now and then for no reason (a move of 5)."""
    dispatcher, ended = Dispatcher(rows(12)), Counter[str]()
    hands: dict[str, list[str]] = {}
    lives = [0, 0, 0]
    bad = {f"q{i}" for i in poison}
    patient = [(i % 3, 2) for i in range(300)]
    for number, wanted in [*moves, *patient]:
        name = f"w{number}.{lives[number]}"
        hand = hands.setdefault(name, [])
        hand += ids(dispatcher.take(name, wanted))
        if wanted == 5 or bad & set(hand[:2]):
            ended.update(failure.id for failure in dispatcher.died(name))
            lives[number] += 1
        elif hand:
            ended.update(hand[:2])
            assert dispatcher.finished(name, hand[:2]) == len(hand[:2])
            del hand[:2]
    assert dispatcher.is_over
    assert ended == Counter({f"q{i}": 1 for i in range(12)})


@pytest.mark.parametrize("number", [0, 1])
def test_few_rows(number: int) -> None:
    dispatcher = Dispatcher(rows(number))
    assert dispatcher.is_over == (number == 0)
    assert len(dispatcher.take("a", 4)) == number
    assert not dispatcher.has_more("a")
