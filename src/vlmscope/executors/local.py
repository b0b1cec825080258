"""The executor of this process: one model, three kinds of threads, bounded queues between them.

    preparing threads        this thread            writing thread
    pictures, prompts   ──►  the model         ──►  shards, failures
    up to AHEAD batches      one batch               up to BEHIND batches

Every batch is published before its rows count as done. A stop request ends after the batch in
flight; whatever kills the process, the next run goes on from the published shards.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from vlmscope.executors.ahead import AHEAD, batches_ahead
from vlmscope.executors.plan import Plan
from vlmscope.executors.resilient import ResilientRunner
from vlmscope.executors.sizing import sizer_for
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.store import FailureLog, RunWriter, read_failures

BEHIND = 2
"""Batches that may wait to be written before the model waits for the disk."""


class Observer(Protocol):
    """Who watches a run: the command line's progress bar, or nobody."""

    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        """Take note of rows that were just published or recorded as failed."""


class _Nobody:
    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended."""

    total: int
    """Rows of the table (of its first ``limit`` rows)."""
    already_done: int
    """Of these, rows that an earlier session had captured."""
    captured: int
    """Rows captured now."""
    failed: int
    """Rows that failed now; each is a line of ``failures.jsonl``."""
    seconds: float
    """Wall time of the capture."""
    stopped: bool
    """Whether it ended early, by a stop request or by ``strict``."""


class _Stop(Exception):  # noqa: N818 - not an error
    """Ends the loop: ``strict`` met a failure."""


def run_plan(
    plan: Plan, *, observer: Observer | None = None, stop: threading.Event | None = None
) -> Summary:
    """Capture every row of ``plan`` that the run does not hold yet.

    Args:
        plan: What to do, from ``make_plan``.
        observer: Told about every published batch.
        stop: Set it to stop after the batch in flight.

    Raises:
        StoreError: The run cannot be written. What was published is safe.
    """
    start = time.perf_counter()
    stop = stop or threading.Event()
    tally = _Tally(observer or _Nobody())
    with RunWriter(plan.request.out, plan.manifest) as writer:
        session = _Session(plan, writer, tally)
        try:
            session.run(stop)
        except _Stop:
            stop.set()
    return Summary(
        total=plan.total,
        already_done=len(plan.done),
        captured=tally.captured,
        failed=tally.failed,
        seconds=time.perf_counter() - start,
        stopped=stop.is_set() and tally.captured + tally.failed < plan.todo,
    )


@dataclass(slots=True)
class _Tally:
    observer: Observer
    captured: int = 0
    failed: int = 0

    def add(self, *, captured: int, failed: int, batch_size: int) -> None:
        self.captured += captured
        self.failed += failed
        self.observer.advance(captured=captured, failed=failed, batch_size=batch_size)


class _Session:
    """One run of the loop over the rows still to do."""

    def __init__(self, plan: Plan, writer: RunWriter, tally: _Tally) -> None:
        self._plan = plan
        self._writer = writer
        self._tally = tally
        self._log = FailureLog(plan.request.out)
        self._sizer = sizer_for(plan.vlm, plan.request.batch_size)
        self._runner = ResilientRunner(
            plan.vlm, plan.request.spec, self._sizer, went_well=bool(plan.done)
        )
        self._writing: deque[Future[None]] = deque()

    def run(self, stop: threading.Event) -> None:
        """Capture until the rows or the patience end."""
        with (
            ThreadPoolExecutor(AHEAD, "vlmscope-prepare") as preparing,
            ThreadPoolExecutor(1, "vlmscope-write") as writing,
        ):
            try:
                rows = self._rows_to_do(writing)
                for samples, prepared in batches_ahead(
                    rows, self._sizer, self._runner.prepare, preparing, stop.is_set
                ):
                    pieces = self._runner.run(samples, prepared)
                    del prepared  # if memory runs out, nobody else may hold the batch
                    for results in pieces:
                        self._hand_over(results, writing)
                self._wait_for_writes(keep=0)
            except BaseException:
                preparing.shutdown(wait=False, cancel_futures=True)
                raise

    def _rows_to_do(self, writing: ThreadPoolExecutor) -> Iterator[Sample]:
        """Yield the good rows that are not done; record the bad ones on the way.

        Rows that failed in an earlier session come last, so that they cannot keep the others back.
        """
        done = frozenset(self._writer.done_ids)
        failed = frozenset(read_failures(self._plan.request.out)) - done
        for turn_of_failed in (False, True):
            if turn_of_failed and not failed:
                return
            for row in self._plan.table.rows():
                if row.id in done or (row.id in failed) != turn_of_failed:
                    continue
                if isinstance(row, Failure):
                    self._hand_over([row], writing)
                else:
                    yield row

    def _hand_over(self, results: Sequence[Capture | Failure], writing: ThreadPoolExecutor) -> None:
        """Give results to the writing thread; wait if it is too far behind."""
        self._writing.append(writing.submit(self._write, results))
        self._wait_for_writes(keep=BEHIND)
        if self._plan.request.strict and any(isinstance(item, Failure) for item in results):
            self._wait_for_writes(keep=0)
            raise _Stop

    def _wait_for_writes(self, keep: int) -> None:
        while len(self._writing) > keep:
            self._writing.popleft().result()

    def _write(self, results: Sequence[Capture | Failure]) -> None:
        captures = [item for item in results if isinstance(item, Capture)]
        failures = [item for item in results if isinstance(item, Failure)]
        for failure in failures:
            self._log.add(failure)
        self._writer.add(captures)
        self._tally.add(captured=len(captures), failed=len(failures), batch_size=self._sizer.size)
