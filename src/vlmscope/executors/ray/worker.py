"""The code of a Ray actor: one model that processes the rows it receives.

    exchange, called again and again        this worker's own thread
    rows in, what is on the disk out  ──►   the same loop as a session of one process

The rows come in small portions, a few batches ahead of the model, so that it never waits and yet
no worker sits on rows that another could do. The worker writes its own shards into the run.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from vlmscope.dataset import TableScan
from vlmscope.errors import VlmscopeError, naming_options
from vlmscope.executors.batching import BatchSizer, sizer_for
from vlmscope.executors.measuring import mean_image_tokens
from vlmscope.executors.plan import load_checked
from vlmscope.executors.request import Request
from vlmscope.executors.runner import Loop, kernels_of_run
from vlmscope.executors.workers import keep_for, make_workers
from vlmscope.executors.writing import StrictStop, writing
from vlmscope.model import VisionLanguageModel
from vlmscope.model.elementwise import ElementwiseKernels
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.store import Manifest

BATCHES_AHEAD = 2
"""Batches of rows that wait in a worker."""

HEARTBEAT = 0.5
"""Seconds after which an exchange returns although nothing happened."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker returns once its model is loaded."""

    manifest: Manifest
    title: str
    """The name of the model's family."""
    notes: tuple[str, ...]
    """Notes for the user."""


@dataclass(frozen=True, slots=True)
class Report:
    """The progress of a worker since the last exchange."""

    captured: tuple[str, ...]
    """Ids of rows that were published."""

    failed: tuple[str, ...]
    """Ids of rows whose failure was recorded."""

    wanted: int
    """Number of rows that the worker can take."""
    batch_size: int
    idle: bool
    """Whether all rows sent to it are published or recorded."""

    error: Exception | None = None
    """The error that ended the work: as it is if it is ours, else a text with its traceback."""


class Worker:
    """A model that processes rows. Its methods are called by one caller, one after the other.

    Args:
        request: The request; its paths must be valid on this machine.
        scan: The scan of the table; the ids are not needed.
        command: Whether the job was started by the command line: failures then name its options.
        sharing: Number of models of the job on this machine.
    """

    def __init__(
        self, request: Request, scan: TableScan, *, command: bool = False, sharing: int = 1
    ) -> None:
        self._naming = naming_options(command)
        self._naming.__enter__()  # until this process ends
        self._request = request
        self._scan = scan
        self._sharing = sharing
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._queue: deque[Sample] = deque()
        self._last = False  # no rows are known to follow those in the queue
        self._closing = False
        self._idle = True
        self._captured: list[str] = []
        self._failed: list[str] = []
        self._error: Exception | None = None

    def load(self) -> Loaded:
        """Load the model.

        Raises:
            InputError: The model does not support the request.
            ModelError: The checkpoint cannot be used.
        """
        workers = make_workers(self._request, sharing=self._sharing)
        self._vlm, self._manifest, notes = load_checked(self._request, self._scan)
        self._workers = keep_for(self._vlm, workers, self._request)
        return Loaded(self._manifest, self._vlm.family.title, notes)

    def image_tokens(self, samples: Sequence[Sample]) -> tuple[float, float]:
        """Return the mean number of image tokens of some rows: see ``mean_image_tokens``."""
        return mean_image_tokens(samples, self._vlm, self._request.spec)

    def begin(self, writer: str, went_well: bool) -> Report:
        """Start processing, and writing the run.

        Args:
            writer: The writer name of this worker.
            went_well: Whether rows of this run succeeded before.
        """
        vlm, request = self._vlm, self._request
        self._sizer = sizer_for(vlm, request.batch_size, answers=request.spec.answers)
        arguments = (writer, vlm, self._sizer, went_well)
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        self._thread.start()
        return self._report()

    def exchange(self, rows: Sequence[Sample], *, last: bool, stop: bool = False) -> Report:
        """Add rows, and return when there is progress, or after ``HEARTBEAT`` seconds.

        Args:
            rows: Rows to process.
            last: No rows follow for now: finish those in the queue instead of waiting for more.
            stop: Finish the answers in progress and drop rows that are not started.
        """
        with self._changed:
            self._queue.extend(rows)
            self._idle = self._idle and not rows
            self._last = last or stop
            if stop:
                self._stop.set()
                self._queue.clear()
            self._changed.notify_all()
            self._changed.wait_for(self._has_news, HEARTBEAT)
        return self._report()

    def close(self) -> Report:
        """End the work; the published rows are packed when this returns."""
        with self._changed:
            self._closing = self._last = True
            self._changed.notify_all()
        self._thread.join()
        return self._report()

    def _has_news(self) -> bool:
        needs_rows = not self._last and len(self._queue) <= self._sizer.size
        return needs_rows or self._idle or self._error is not None

    def _wanted(self) -> int:
        return max(0, BATCHES_AHEAD * self._sizer.size - len(self._queue))

    def _report(self) -> Report:
        with self._changed:
            captured, self._captured = self._captured, []
            failed, self._failed = self._failed, []
            return Report(
                captured=tuple(captured),
                failed=tuple(failed),
                wanted=self._wanted(),
                batch_size=self._sizer.size,
                idle=self._idle,
                error=self._error,
            )

    def _work(
        self, writer: str, vlm: VisionLanguageModel, sizer: BatchSizer, went_well: bool
    ) -> None:
        """Process rows until the end, on the worker's own thread."""
        request, published = self._request, self._published
        kernels: list[ElementwiseKernels] = []
        rows = self._scan.rows
        try:
            with (
                self._workers or nullcontext(),
                writing(
                    request,
                    self._manifest,
                    vlm,
                    published,
                    writer=writer,
                    size=lambda: sizer.size,
                    sharing=self._sharing,
                    meanwhile=lambda: kernels.append(kernels_of_run(vlm, rows)),
                ) as results,
            ):
                loop = Loop(
                    vlm,
                    request,
                    results,
                    sizer,
                    went_well=went_well,
                    stop=self._stop,
                    rows=rows,
                    workers=self._workers,
                    kernels=kernels[0],
                )
                while self._await_rows():
                    try:
                        loop.run(self._rows())
                        results.wait()
                    except StrictStop:
                        self._stop.set()
                    self._rest()
        except BaseException as error:  # noqa: BLE001 - reported to the caller
            with self._changed:
                self._error = _sendable(error)
                self._changed.notify_all()

    def _await_rows(self) -> bool:
        """Wait for rows or the end; return whether there are rows."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return bool(self._queue)

    def _rows(self) -> Iterator[Sample]:
        """Yield rows until none follow for now."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._last)
                if not self._queue:
                    return
                row = self._queue.popleft()
                self._changed.notify_all()
            yield row

    def _rest(self) -> None:
        """Become idle, unless more rows have arrived in the meantime."""
        with self._changed:
            if self._stop.is_set():
                self._queue.clear()
            self._idle = not self._queue
            self._changed.notify_all()

    def _published(self, results: Sequence[Capture | Failure]) -> None:
        with self._changed:
            for item in results:
                if isinstance(item, Failure):
                    self._failed.append(item.id)
                else:
                    self._captured.append(item.sample.id)


def _sendable(error: BaseException) -> Exception:
    if isinstance(error, VlmscopeError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))
