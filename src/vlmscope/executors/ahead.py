"""Batches prepared ahead of the model, on threads of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from vlmscope.executors.resilient import Prepared
from vlmscope.executors.sizing import BatchSizer

AHEAD = 2
"""Batches prepared ahead of the model, each on a thread of its own."""

Row = TypeVar("Row")


def batches_ahead(
    rows: Iterator[Row],
    sizer: BatchSizer,
    prepare: Callable[[list[Row]], Prepared | Exception],
    preparing: ThreadPoolExecutor,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[list[Row], Prepared | Exception]]:
    """Yield rows and their batch, the next ones being prepared meanwhile.

    No reference to a yielded batch is kept: if memory runs out, nobody else may hold it. While the
    size still grows nothing is prepared ahead, for it would have the size of before.

    Args:
        rows: What to prepare.
        sizer: How many at a time.
        prepare: Makes a batch of rows.
        preparing: Threads for it, ``AHEAD`` of them.
        stopped: Asked before each batch whether to end.
    """
    queue: deque[tuple[list[Row], Future[Prepared | Exception]]] = deque()
    exhausted = False
    while not stopped():
        while not exhausted and len(queue) < (AHEAD if sizer.settled else 1):
            chunk = list(islice(rows, sizer.size))
            exhausted = len(chunk) < sizer.size
            if chunk:
                queue.append((chunk, preparing.submit(prepare, chunk)))
        if not queue:
            return
        yield _await(queue.popleft())


def _await(
    waiting: tuple[list[Row], Future[Prepared | Exception]],
) -> tuple[list[Row], Prepared | Exception]:
    """Return a prepared batch, without keeping a reference to it."""
    rows, future = waiting
    return rows, future.result()
