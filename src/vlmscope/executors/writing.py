"""Results on their way to the disk, behind the model: in this process, or through another one.

Rows end one by one. A shard for each would be a thousand times ``fsync``; a shard only at the end
would be lost in a power cut. So a hand-over has about as many rows as a prefill, and none waits
long.

The model goes on while batches are written, but not by more than ``BEHIND_BYTES``. Answers tend to
end in crowds: a bound of few batches would make the model wait for each crowd. On a GPU the run is
written by a process of its own, because writing would take the interpreter's lock from the thread
that launches the GPU's work.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from vlmscope.executors.plan import Plan
from vlmscope.executors.request import Request
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import set_prompt_time
from vlmscope.schema import Capture, Failure
from vlmscope.store import Manifest, read_manifest, recording, recording_apart

PATIENCE = 10.0
"""Seconds after which rows are handed over however few they are."""


class Outbox:
    """Gathers results.

    Args:
        send: Takes a batch of them.
        size: How many make a batch, asked each time.
    """

    def __init__(
        self, send: Callable[[Sequence[Capture | Failure]], None], size: Callable[[], int]
    ) -> None:
        self._send = send
        self._size = size
        self._waiting: list[Capture | Failure] = []
        self._since = time.monotonic()

    def put(self, results: Sequence[Capture | Failure]) -> None:
        """Take results in; hand them over if they are enough, or the first has waited long."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += results
        if len(self._waiting) >= self._size() or time.monotonic() - self._since > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._send(waiting)


BEHIND = 2
"""Batches that may always wait to be written."""

BEHIND_BYTES = 128 * 2**20
"""Beyond that, captured vectors of so many bytes may wait before the model waits for the disk: what
a kill takes at most, and a few seconds of writing."""

Results = Sequence[Capture | Failure]


class StrictStop(Exception):  # noqa: N818 - not an error
    """Ends a run: ``strict`` met a failure, and it is recorded."""


class Recording(Protocol):
    """A run that is open for writing, here or in another process."""

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""

    def add(self, results: Results) -> None:
        """Record a batch; a kill cannot take it once this returns."""


class Writing:
    """Takes results and writes them on a thread, which is idle while another process does the work.

    Args:
        recording: The run they go into.
        thread: A pool of one thread.
        published: Told about every recorded batch, from that thread.
        strict: Whether a failure ends the run.
        check: Raises where results cannot be trusted any more.
    """

    def __init__(
        self,
        recording: Recording,
        thread: ThreadPoolExecutor,
        published: Callable[[Results], None],
        *,
        strict: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._recording = recording
        self._thread = thread
        self._published = published
        self._strict = strict
        self._check = check
        self._waiting: deque[tuple[Future[None], int]] = deque()

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""
        return self._recording.done_ids

    def put(self, results: Results) -> None:
        """Hand results over; wait if too many batches are on their way already.

        Raises:
            ModelChangedError: The model's files were written to.
            StoreError: An earlier batch could not be recorded.
            StrictStop: A row failed, and the run is to end then.
        """
        self._check()
        self._waiting.append((self._thread.submit(self._record, results), _size(results)))
        self._let_pass()
        if self._strict and any(isinstance(item, Failure) for item in results):
            self.wait()
            raise StrictStop

    def wait(self) -> None:
        """Wait until no batch is on its way; re-raises the first write error."""
        while self._waiting:
            self._waiting.popleft()[0].result()

    def _let_pass(self) -> None:
        """Take note of what has arrived; wait while too much is on its way."""
        while self._waiting and (self._waiting[0][0].done() or self._are_too_many()):
            self._waiting.popleft()[0].result()

    def _are_too_many(self) -> bool:
        waiting = sum(size for _, size in self._waiting)
        return len(self._waiting) > BEHIND and waiting > BEHIND_BYTES

    def _record(self, results: Results) -> None:
        self._recording.add(results)
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
def writing(plan: Plan, published: Callable[[Results], None]) -> Iterator[Writing]:
    """Open the run of a plan for writing; on leaving, wait until all is on the disk and indexed.

    Left by an exception, it records what was handed over and lets go of the run.

    Args:
        plan: What is run.
        published: Told about every recorded batch, from one thread.

    Raises:
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run was made with other settings.
        StoreError: The run cannot be written. What was published is safe.
    """
    request = plan.request
    with writing_as(request.writes_as, request, plan.manifest, plan.vlm, published) as results:
        yield results


@contextmanager
def writing_as(
    writer: str,
    request: Request,
    manifest: Manifest,
    vlm: VisionLanguageModel,
    published: Callable[[Results], None],
) -> Iterator[Writing]:
    """Do what ``writing`` does, under a name of one's own.

    By default the run is written in this process, or in one of its own where the model is on a GPU.
    A daemonic process may have no children.
    """
    wanted = request.writer
    if wanted == "auto":
        may = not multiprocessing.current_process().daemon
        wanted = "process" if may and vlm.cuda_devices else "thread"
    record = recording_apart if wanted == "process" else recording
    opened: AbstractContextManager[Recording] = record(request.out, manifest, writer)
    with opened as run, ThreadPoolExecutor(1, "vlmscope-write") as thread:
        # Of a run that goes on, or that another rank was faster to begin.
        set_prompt_time(vlm.processor, read_manifest(request.out).model.prompt_time)
        results = Writing(run, thread, published, strict=request.strict, check=vlm.check_files)
        yield results
        results.wait()
