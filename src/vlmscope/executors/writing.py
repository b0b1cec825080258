"""The writing thread: takes results from the model, and writes them behind it.

Rows end one by one. A shard for each would be a thousand times ``fsync``; a shard only at the end
would be lost in a power cut. So a batch that is written has about as many rows as a prefill, and no
row waits longer than ``LONGEST_WAIT`` for others.

The model goes on while batches are written, but not by more than ``BEHIND_BYTES``. Answers tend to
end in crowds: a bound of few batches would make the model wait for each crowd. On a GPU the run is
written by a process of its own, because writing would take the interpreter's lock from the thread
that launches the GPU's work; the thread then only waits for that process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from vlmscope.executors.request import Request
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import set_prompt_time
from vlmscope.schema import Capture, Failure
from vlmscope.store import Manifest, RunWriter, RunWriterProcess, read_manifest

LONGEST_WAIT = 10.0
"""Seconds after which rows are written however few they are."""

BEHIND = 2
"""Batches that may always wait to be written."""

BEHIND_BYTES = 128 * 2**20
"""Beyond that, captured vectors of so many bytes may wait before the model waits for the disk: what
a kill takes at most, and a few seconds of writing."""

Results = Sequence[Capture | Failure]


class StrictStop(Exception):  # noqa: N818 - not an error
    """Ends a run: ``strict`` met a failure, and it is recorded."""


class Rows(Protocol):
    """A run that is open for writing: a ``RunWriter``, here or in another process."""

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""

    def add(self, results: Results) -> None:
        """Record a batch; a kill cannot take it once this returns."""


class WritingThread:
    """Gathers results and writes them on a thread. One other thread at a time uses it.

    Args:
        rows: The run they go into.
        thread: A pool of one thread.
        published: Told about every recorded batch, from that thread.
        size: How many rows make a batch, asked each time.
        strict: Whether a failure ends the run.
        check: Raises where results cannot be trusted any more.
    """

    def __init__(
        self,
        rows: Rows,
        thread: ThreadPoolExecutor,
        published: Callable[[Results], None],
        *,
        size: Callable[[], int] = lambda: 1,
        strict: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._rows = rows
        self._thread = thread
        self._published = published
        self._size = size
        self._strict = strict
        self._check = check
        self._gathered: list[Capture | Failure] = []
        self._since = time.monotonic()
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self.captured = 0
        """Rows that were published."""

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""
        return self._rows.done_ids

    def put(self, results: Results) -> None:
        """Take results in; write them if they are enough, or the first has waited long.

        Raises:
            ModelChangedError: The model's files were written to.
            StoreError: An earlier batch could not be recorded.
            StrictStop: A row failed, and the run is to end then. All is recorded.
        """
        if not self._gathered:
            self._since = time.monotonic()
        self._gathered += results
        late = time.monotonic() - self._since > LONGEST_WAIT
        if late or len(self._gathered) >= self._size():
            self.flush()
        if self._strict and any(isinstance(item, Failure) for item in results):
            self.wait()
            raise StrictStop

    def flush(self) -> None:
        """Have what there is written; wait if too many batches are on their way already.

        Raises: As ``put``.
        """
        results, self._gathered = self._gathered, []
        if not results:
            return
        self._check()
        self._waiting.append((self._thread.submit(self._record, results), _size(results)))
        while self._waiting and (self._waiting[0][0].done() or self._are_too_many()):
            self._waiting.popleft()[0].result()

    def wait(self) -> None:
        """Have all written, and wait until it is; re-raises the first write error."""
        self.flush()
        while self._waiting:
            self._waiting.popleft()[0].result()

    def _are_too_many(self) -> bool:
        waiting = sum(size for _, size in self._waiting)
        return len(self._waiting) > BEHIND and waiting > BEHIND_BYTES

    def _record(self, results: Results) -> None:
        """Write a batch. This is the writing thread."""
        self._rows.add(results)
        self.captured += sum(isinstance(item, Capture) for item in results)
        self._published(results)


def _size(results: Results) -> int:
    """Return the bytes of the vectors of some results."""
    return sum(
        vector.nbytes
        for item in results
        if isinstance(item, Capture)
        for vector in item.vectors.values()
    )


@contextmanager
def writing(
    request: Request,
    manifest: Manifest,
    vlm: VisionLanguageModel,
    published: Callable[[Results], None],
    *,
    writer: str | None = None,
    size: Callable[[], int] = lambda: 1,
) -> Iterator[WritingThread]:
    """Open a run for writing; on leaving, wait until all is on the disk and indexed.

    Left by an exception, it records what was on its way and lets go of the run. By default the run
    is written in this process, or in one of its own where the model is on a GPU. A daemonic process
    may have no children.

    Args:
        request: What was asked for.
        manifest: What the run will say.
        vlm: The model.
        published: Told about every recorded batch, from one thread.
        writer: The name to write as; by default that of the request.
        size: How many rows make a batch, asked each time.

    Raises:
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run was made with other settings.
        StoreError: The run cannot be written. What was published is safe.
    """
    wanted = request.writer
    if wanted == "auto":
        may = not multiprocessing.current_process().daemon
        wanted = "process" if may and vlm.cuda_devices else "thread"
    opened = RunWriterProcess if wanted == "process" else RunWriter
    with (
        opened(request.out, manifest, writer or request.writes_as) as rows,
        ThreadPoolExecutor(1, "vlmscope-write") as thread,
    ):
        # Of a run that goes on, or that another rank was faster to begin.
        set_prompt_time(vlm.processor, read_manifest(request.out).model.prompt_time)
        results = WritingThread(
            rows, thread, published, size=size, strict=request.strict, check=vlm.check_files
        )
        yield results
        results.wait()
