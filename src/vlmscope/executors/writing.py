"""The writing thread: writes results while the model runs.

Rows finish one by one. One shard per row would need thousands of ``fsync`` calls; one shard at the
end would be lost in a power cut. So a written batch has about as many rows as a prefill, and no row
waits longer than ``LONGEST_WAIT`` for others.

The model continues while batches are written, until ``BEHIND_BYTES`` are waiting. Answers tend to
finish in groups: a bound of few batches would make the model wait for each group. On a GPU the run
is written by a separate process, because writing would take the interpreter's lock from the thread
that launches the GPU's work. One thread then sends the batches to that process, and another one
waits for its replies, so that it may work on several batches at once.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

from vlmscope.executors.request import Request
from vlmscope.executors.workers import builders_for
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

    def begin(self, results: Results) -> Any:
        """Start to record a batch, and return what ``finish`` needs."""

    def finish(self, batch: Any) -> None:
        """Wait until the first batch begun is recorded: then it survives a kill."""

    def release(self) -> None:
        """Let other processes write the run, without packing it."""


class WritingThread:
    """Collects results and writes them on a thread. Used by one other thread at a time.

    Args:
        rows: The run that they are written to.
        thread: A pool of one thread, which begins batches.
        published: Called with every recorded batch, from the thread that waits for it.
        size: Returns the number of rows of a written batch; called each time.
        strict: Whether a failure ends the run.
        check: Raises an error if results are no longer valid.
        waiting: A pool of one thread, which waits for batches; by default the same one.
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
        waiting: ThreadPoolExecutor | None = None,
    ) -> None:
        self._rows = rows
        self._begins = thread
        self._waits = waiting or thread
        self._published = published
        self._size = size
        self._strict = strict
        self._check = check
        self._gathered: list[Capture | Failure] = []
        self._since = time.monotonic()
        self._pending: deque[tuple[Future[None], int]] = deque()
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
        begun = self._begins.submit(self._rows.begin, results)
        recorded = self._waits.submit(self._record, begun, results)
        self._pending.append((recorded, _size(results)))
        while self._pending and (self._pending[0][0].done() or self._are_too_many()):
            self._pending.popleft()[0].result()

    def wait(self) -> None:
        """Write all results and wait until it is done; re-raises the first write error."""
        self.flush()
        while self._pending:
            self._pending.popleft()[0].result()

    def release(self) -> None:
        """Let other processes write the run: this one ends, and adds nothing more."""
        self._rows.release()

    def _are_too_many(self) -> bool:
        waiting = sum(size for _, size in self._pending)
        return len(self._pending) > BEHIND and waiting > BEHIND_BYTES

    def _record(self, begun: Future[Any], results: Results) -> None:
        """Wait until a batch is recorded, on the thread for that."""
        self._rows.finish(begun.result())
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


def _is_process(request: Request, vlm: VisionLanguageModel) -> bool:
    """Return whether a separate process writes, which ``auto`` leaves to the model's device."""
    if request.writer != "auto":
        return request.writer == "process"
    return bool(vlm.cuda_devices) and not multiprocessing.current_process().daemon


@contextmanager
def _open_rows(
    request: Request,
    manifest: Manifest,
    vlm: VisionLanguageModel,
    name: str,
    expected: int | None,
    sharing: int,
    meanwhile: Callable[[], None],
) -> Iterator[tuple[Rows, ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Open the run; yield it, a thread that begins batches, and one that waits for them."""
    with ExitStack() as stack:
        rows: RunWriter | RunWriterProcess
        is_process = _is_process(request, vlm)
        if is_process:
            rows = RunWriterProcess(
                request.out,
                manifest,
                name,
                expected=expected,
                builders=builders_for(request, sharing=sharing),
            )
            try:
                rows.start()
                meanwhile()
            except BaseException:
                rows.release()
                raise
        else:
            rows = RunWriter(request.out, manifest, name, expected=expected)
            meanwhile()
        stack.enter_context(rows)
        thread = stack.enter_context(ThreadPoolExecutor(1, "vlmscope-write"))
        if not is_process:  # used by one thread
            yield rows, thread, thread
            return
        yield rows, thread, stack.enter_context(ThreadPoolExecutor(1, "vlmscope-written"))


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
    sharing: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
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
        sharing: Number of models of this job on this machine, if it is not a matter of ranks.
        meanwhile: Called while a separate process starts.

    Raises:
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run was made with other settings.
        StoreError: The run cannot be written. Published rows are kept.
    """
    name = writer or request.writes_as
    opened = _open_rows(request, manifest, vlm, name, expected, sharing, meanwhile)
    with opened as (rows, thread, waiting):
        # The stored time, if the run is resumed or another rank started it first.
        set_prompt_time(vlm.processor, read_manifest(request.out).model.prompt_time)
        results = WritingThread(
            rows,
            thread,
            published,
            size=size,
            strict=request.strict,
            check=vlm.check_files,
            waiting=waiting,
        )
        try:
            yield results
        except BaseException:
            with suppress(Exception):
                results.flush()
            raise
        results.wait()
