"""The executor of this process: one model, three kinds of threads, bounded queues between them.

    preparing threads        this thread            writing thread, or process
    pictures, prompts   ──►  the model         ──►  shards, failures
    some batches ahead       one batch              up to BEHIND_BYTES

Every batch is published before its rows count as done. A stop request ends when what is being
answered is finished; whatever kills the process, the next run goes on from the published shards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from vlmscope.engine import CaptureSession
from vlmscope.executors.ahead import batches_ahead, batches_to_prepare
from vlmscope.executors.ordering import AHEAD_ROWS, same_picture_together
from vlmscope.executors.outbox import Outbox
from vlmscope.executors.patience import MODEL_STAGE, Patience, end_process
from vlmscope.executors.plan import Plan
from vlmscope.executors.resilient import ResilientRunner
from vlmscope.executors.sizing import BatchSizer, rows_at_once, sizer_for
from vlmscope.executors.writing import StrictStop, Writing, writing
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.store import read_failures

BAD_ROWS = 256
"""Bad rows of the table that are recorded together."""


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


def run_plan(
    plan: Plan, *, observer: Observer | None = None, stop: threading.Event | None = None
) -> Summary:
    """Capture every row of ``plan`` that the run does not hold yet.

    Args:
        plan: What to do, from ``make_plan``.
        observer: Told about every published batch.
        stop: Set it to stop when what is being answered is finished.

    Raises:
        StoreError: The run cannot be written. What was published is safe.
    """
    start = time.perf_counter()
    stop = stop or threading.Event()
    spec, wanted = plan.request.spec, plan.request.batch_size
    sizer = sizer_for(plan.vlm, wanted, answers=spec.max_new_tokens > 0)
    tally = _Tally(observer or _Nobody(), sizer)
    with writing(plan, tally.add) as results:
        try:
            _Session(plan, results, sizer).run(stop)
        except StrictStop:
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
    sizer: BatchSizer
    captured: int = 0
    failed: int = 0

    def add(self, results: Sequence[Capture | Failure]) -> None:
        failed = sum(isinstance(item, Failure) for item in results)
        captured = len(results) - failed
        self.failed += failed
        self.captured += captured
        self.observer.advance(captured=captured, failed=failed, batch_size=self.sizer.size)


class _Session:
    """One run of the loop over the rows still to do."""

    def __init__(self, plan: Plan, results: Writing, sizer: BatchSizer) -> None:
        self._plan = plan
        self._writing = results
        self._sizer = sizer
        spec, rows = plan.request.spec, rows_at_once(plan.vlm, plan.request.batch_size)
        self._runner = ResilientRunner(
            plan.vlm,
            spec,
            sizer,
            went_well=bool(plan.done),
            session=CaptureSession(plan.vlm, spec, rows),
            patience=Patience(
                plan.request.time_limit,
                lambda: end_process(plan.request.out, self._runner.in_model),
            ),
        )
        failed = read_failures(plan.request.out)
        self._suspects = {id_: f for id_, f in failed.items() if f.stage == MODEL_STAGE}
        self._strict = plan.request.strict
        self._outbox = Outbox(results.put, lambda: sizer.size)

    def run(self, stop: threading.Event) -> None:
        """Capture until the rows or the patience end."""
        ahead = batches_to_prepare(self._plan.vlm)
        with ThreadPoolExecutor(ahead, "vlmscope-prepare") as preparing:
            try:
                rows = self._rows_to_do()
                for samples, prepared in batches_ahead(
                    rows, self._sizer, self._runner.prepare, preparing, stop.is_set, ahead
                ):
                    pieces = self._runner.run(samples, prepared)
                    del prepared  # if memory runs out, nobody else may hold the batch
                    self._put(pieces)
                self._finish()
                self._run_suspects(stop)
            except StrictStop:
                preparing.shutdown(wait=False, cancel_futures=True)
                with suppress(StrictStop):
                    self._finish()  # what is being answered is as good as done
                raise
            except BaseException:
                preparing.shutdown(wait=False, cancel_futures=True)
                with suppress(Exception):
                    self._outbox.flush()
                raise

    def _put(self, pieces: Iterator[list[Capture | Failure]]) -> None:
        """Hand results over as they come."""
        for results in pieces:
            self._outbox.put(results)
            if self._strict and any(isinstance(item, Failure) for item in results):
                self._outbox.flush()

    def _run_suspects(self, stop: threading.Event) -> None:
        """Try the rows that hung, each alone: the one that hangs again must not keep the others."""
        if not self._suspects:
            return
        rows = self._rows_of(lambda id_: id_ in self._suspects)
        for sample in sorted(rows, key=lambda row: self._suspects[row.id].attempt):
            if stop.is_set():
                return
            self._put(self._runner.run([sample]))
            self._finish()

    def _finish(self) -> None:
        """Answer what is being answered, and hand everything over."""
        for results in self._runner.drain():
            self._outbox.put(results)
        self._outbox.flush()

    def _rows_to_do(self) -> Iterator[Sample]:
        """Yield the good rows that are not done; record the bad ones on the way.

        Rows that failed in an earlier session come last, so that they cannot keep the others back.
        Those that hung come after all of these.
        """
        done = frozenset(self._writing.done_ids)
        self._suspects = {id_: f for id_, f in self._suspects.items() if id_ not in done}
        failed = frozenset(read_failures(self._plan.request.out)) - done - self._suspects.keys()
        yield from self._rows_of(
            lambda id_: id_ not in done and id_ not in failed and id_ not in self._suspects
        )
        if failed:
            yield from self._rows_of(lambda id_: id_ in failed)

    def _rows_of(self, is_due: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield the good rows that are due, those about the same picture together.

        Only afterwards are the others left out: so a run that was killed amid the questions about a
        picture goes on in the order of one that was not.
        """
        ahead = 1 if self._strict else AHEAD_ROWS  # a bad row is not met before its turn
        rows = same_picture_together(self._good_rows(is_due), ahead)
        return (row for row in rows if is_due(row.id))

    def _good_rows(self, is_due: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield every good row of the table; record the bad ones that are due, many at once.

        Each hand-over is flushed to the disk, which takes milliseconds.
        """
        bad: list[Failure] = []
        for row in self._plan.table.rows():
            if isinstance(row, Sample):
                yield row
            elif is_due(row.id):
                bad.append(row)
                if self._strict or len(bad) >= BAD_ROWS:
                    self._writing.put(bad)
                    bad = []
        if bad:
            self._writing.put(bad)
