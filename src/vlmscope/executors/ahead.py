"""Batches prepared ahead of the model, on threads of their own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from vlmscope.executors.resilient import Prepared
from vlmscope.executors.sizing import BatchSizer
from vlmscope.model import VisionLanguageModel

AHEAD = 2
"""Batches prepared ahead of a model on a CPU, each on a thread of its own."""

AHEAD_OF_A_GPU = 8
"""The most that are prepared ahead of a GPU, where half of the processors have nothing else to do.
"""


def batches_to_prepare(vlm: VisionLanguageModel) -> int:
    """Return how many batches to prepare ahead of a model, each on a thread of its own."""
    if not vlm.cuda_devices:
        return AHEAD
    return max(AHEAD, min(AHEAD_OF_A_GPU, (os.cpu_count() or AHEAD) // 2))


Row = TypeVar("Row")


def batches_ahead(
    rows: Iterator[Row],
    sizer: BatchSizer,
    prepare: Callable[[list[Row]], Prepared | Exception],
    preparing: ThreadPoolExecutor,
    stopped: Callable[[], bool] = lambda: False,
    ahead: int = AHEAD,
) -> Iterator[tuple[list[Row], Prepared | Exception]]:
    """Yield rows and their batch, the next ones being prepared meanwhile.

    No reference to a yielded batch is kept: if memory runs out, nobody else may hold it. While the
    size is still small nothing is prepared ahead, for it would have the size of before.

    Args:
        rows: What to prepare.
        sizer: How many at a time.
        prepare: Makes a batch of rows.
        preparing: Threads for it, as many as ``ahead``.
        stopped: Asked before each batch whether to end.
        ahead: Batches prepared ahead.
    """
    queue: deque[tuple[list[Row], Future[Prepared | Exception]]] = deque()
    exhausted = False
    while not stopped():
        while not exhausted and len(queue) < (ahead if sizer.worth_preparing else 1):
            size = sizer.size  # it may change while the rows are drawn
            chunk = list(islice(rows, size))
            exhausted = len(chunk) < size
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
