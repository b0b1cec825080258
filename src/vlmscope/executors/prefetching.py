"""The next batches are prepared while the model runs.

Each batch is prepared by a thread, or by a worker process that a thread waits for (``workers``).
How many are ahead of the model is limited in batches and in bytes: images of some families become
12 MB of tiles each.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from vlmscope.engine import Batch
from vlmscope.executors.batching import BatchSizer
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import Failure

Prepared = tuple[list[Batch], list[Failure]]

AHEAD = 2
"""Batches prepared ahead of a model on a CPU; and beside those that worker processes prepare."""

AHEAD_OF_A_GPU = 8
"""Maximum number of batches prepared ahead of a GPU, where half of the processors are idle."""


LARGEST_AHEAD = 4 * 2**30
"""Bytes of prepared inputs ahead of the model, ``AHEAD`` batches always."""


def batches_to_prepare(vlm: VisionLanguageModel) -> int:
    """Return how many batches to prepare ahead of a model, each on its own thread."""
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
    """Yield rows and their batch, while the next batches are prepared.

    No reference to a yielded batch is kept, so that its memory can be freed. While the size is
    still small nothing is prepared ahead, because it would have the old size.

    Args:
        rows: Rows to prepare.
        sizer: The batch size.
        prepare: Makes a batch of rows.
        preparing: Threads for it.
        stopped: Called before each batch; returns whether to end.
        ahead: Batches prepared ahead.
    """
    queue: deque[tuple[list[Row], Future[Prepared | Exception]]] = deque()
    exhausted = False
    fits = ahead
    while not stopped():
        while not exhausted and len(queue) < (min(fits, ahead) if sizer.worth_preparing else 1):
            size = sizer.size  # it may change while the rows are drawn
            chunk = list(islice(rows, size))
            exhausted = len(chunk) < size
            if chunk:
                queue.append((chunk, preparing.submit(prepare, chunk)))
        if not queue:
            return
        if size := _bytes_of(queue[0][1].result()):
            fits = max(AHEAD, LARGEST_AHEAD // size)
        yield _await(queue.popleft())


def _bytes_of(prepared: Prepared | Exception) -> int:
    """Return the size of a prepared batch."""
    if isinstance(prepared, Exception):
        return 0
    return sum(batch.nbytes for batch in prepared[0])


def _await(
    waiting: tuple[list[Row], Future[Prepared | Exception]],
) -> tuple[list[Row], Prepared | Exception]:
    """Return a prepared batch, without keeping a reference to it."""
    rows, future = waiting
    return rows, future.result()
