"""The writing thread: writes results while the model runs.

Rows finish one by one. One shard per row would need thousands of ``fsync`` calls; one shard at the
end would be lost in a power cut. So a written batch has about as many rows as a prefill, and no row
waits longer than ``LONGEST_WAIT`` for others.

The model continues while batches are written, until ``BEHIND_BYTES`` are waiting. Answers tend to
finish in groups: a bound of few batches would make the model wait for each group. On a GPU the run
is written by a separate process, because writing would take the interpreter's lock from the thread
that launches the GPU's work; the thread then only waits for that process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

from vlmscope.executors.request import Request
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import set_prompt_time
from vlmscope.schema import Capture, Failure
from vlmscope.store import Manifest, RunWriter, RunWriterProcess, read_manifest

LONGEST_WAIT = 10.0
"""Seconds after which rows are written, however few there are."""

BEHIND = 2
"""Number of batches that may always wait to be written."""

BEHIND_BYTES = 128 * 2**20
"""Bytes of captured vectors that may wait in further batches before the model waits for the disk:
the most that a kill can lose, and a few seconds of writing."""

Results = Sequence[Capture | Failure]


class StrictStop(Exception):  # noqa: N818 - not an error
    """Ends a run after a failure with ``strict``; the failure is already recorded."""


class Rows(Protocol):
    """A run that is open for writing: a ``RunWriter`` or ``RunWriterProcess``."""

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""

    def add(self, results: Results) -> None:
        """Record a batch. When this returns, the batch survives a kill."""

    def release(self) -> None:
        """Let other processes write the run, without packing it."""


class WritingThread:
    """Collects results and writes them on a thread. Used by one other thread at a time.

    Args:
        rows: The run that they are written to.
        thread: A pool of one thread.
        published: Called with every recorded batch, from that thread.
        size: Returns the number of rows of a written batch; called each time.
        strict: Whether a failure ends the run.
        check: Raises an error if results are no longer valid.
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
        """Number of published rows."""

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""
        return self._rows.done_ids

    def put(self, results: Results) -> None:
        """Add results; write them if there are enough, or the first has waited too long.

        Raises:
            ModelChangedError: The model's files were changed.
            StoreError: An earlier batch could not be recorded.
            StrictStop: A row failed and ``strict`` is set. Everything is recorded.
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
        """Start writing the collected results; wait if too many batches are pending.

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
        """Write all results and wait until it is done; re-raises the first write error."""
        self.flush()
        while self._waiting:
            self._waiting.popleft()[0].result()

    def release(self) -> None:
        """Let other processes write the run: this one ends, and adds nothing more."""
        self._rows.release()

    def _are_too_many(self) -> bool:
        waiting = sum(size for _, size in self._waiting)
        return len(self._waiting) > BEHIND and waiting > BEHIND_BYTES

    def _record(self, results: Results) -> None:
        """Write a batch, on the writing thread."""
        self._rows.add(results)
        self.captured += sum(isinstance(item, Capture) for item in results)
        self._published(results)


def _size(results: Results) -> int:
    """Return the size in bytes of the vectors and signals of some results."""
    return sum(
        array.nbytes
        for item in results
        if isinstance(item, Capture)
        for array in (*item.vectors.values(), *item.signals.values())
    )


def _writer_class(
    request: Request, vlm: VisionLanguageModel
) -> type[RunWriter] | type[RunWriterProcess]:
    """Return the writer that a request asks for, which ``auto`` leaves to the model's device."""
    wanted = request.writer
    if wanted == "auto":
        may = not multiprocessing.current_process().daemon
        wanted = "process" if may and vlm.cuda_devices else "thread"
    return RunWriterProcess if wanted == "process" else RunWriter


@contextmanager
def writing(
    request: Request,
    manifest: Manifest,
    vlm: VisionLanguageModel,
    published: Callable[[Results], None],
    *,
    writer: str | None = None,
    size: Callable[[], int] = lambda: 1,
    expected: int | None = None,
) -> Iterator[WritingThread]:
    """Open a run for writing; on exit, wait until everything is written and indexed.

    After an exception, pending results are recorded and the run is released. By default the run is
    written in this process, or in a separate one if the model is on a GPU. A daemonic process may
    have no children.

    Args:
        request: The request.
        manifest: The manifest of the run.
        vlm: The model.
        published: Called with every recorded batch, from one thread.
        writer: The writer name; by default that of the request.
        size: Returns the number of rows of a written batch; called each time.
        expected: Number of results that will be written, if known.

    Raises:
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run was made with other settings.
        StoreError: The run cannot be written. Published rows are kept.
    """
    with (
        _writer_class(request, vlm)(
            request.out, manifest, writer or request.writes_as, expected=expected
        ) as rows,
        ThreadPoolExecutor(1, "vlmscope-write") as thread,
    ):
        # The stored time, if the run is resumed or another rank started it first.
        set_prompt_time(vlm.processor, read_manifest(request.out).model.prompt_time)
        results = WritingThread(
            rows, thread, published, size=size, strict=request.strict, check=vlm.check_files
        )
        try:
            yield results
        except BaseException:
            with suppress(Exception):
                results.flush()
            raise
        results.wait()
