"""How far batches are prepared ahead of the model: a number of them, and a number of bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from vlmscope.executors import prefetching
from vlmscope.executors.batching import BatchSizer
from vlmscope.executors.prefetching import AHEAD, batches_ahead


@pytest.mark.parametrize(
    ("nbytes", "most"), [(0, 6), (10, 6), (250, 4), (400, AHEAD), (5_000, AHEAD)]
)
def test_large_batches_are_not_prepared_far_ahead(
    nbytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetching, "LARGEST_AHEAD", 1000)
    begun: list[int] = []

    def prepare(rows: list[int]) -> Any:
        begun.extend(rows)
        return [SimpleNamespace(nbytes=nbytes)], []

    with ThreadPoolExecutor(1) as thread:
        ahead = []
        batches = batches_ahead(iter(range(40)), BatchSizer(1), prepare, thread, ahead=6)
        for taken, _ in enumerate(batches, 1):
            thread.submit(int).result()  # after those submitted before
            ahead.append(len(begun) - taken)
    assert len(begun) == 40
    # Their size is known from the first one on; what was begun before stays.
    assert max(ahead) == 5
    assert set(ahead[8:30]) == {most - 1}


def test_an_error_and_an_unknown_size_end_nothing() -> None:
    error = ValueError("no size")

    with ThreadPoolExecutor(1) as thread:
        found = list(batches_ahead(iter([1, 2, 3]), BatchSizer(1), lambda _: error, thread))
    assert found == [([1], error), ([2], error), ([3], error)]
