"""The executor of this process: one model, three kinds of threads, bounded queues between them.

    preparing threads,       this thread            writing thread,
    or processes       ──►   the model      ──►     or process
    images, prompts          one batch              shards, failures
    some batches ahead                              up to BEHIND_BYTES

Every batch is published before its rows count as done. After a stop request the answers in progress
are finished; if the process is killed, the next session continues from the published shards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from vlmscope.dataset import UntilChanged
from vlmscope.errors import TableChangedError
from vlmscope.executors.batching import BatchSizer, sizer_for
from vlmscope.executors.pending import (
    isolated_groups,
    killed_by,
    killed_or_hung_ids,
    pending_rows,
    suspects_of,
)
from vlmscope.executors.plan import Plan, make_plan
from vlmscope.executors.request import Request
from vlmscope.executors.runner import Loop, kernels_of_run
from vlmscope.executors.time_limit import Restarts, take_restarts
from vlmscope.executors.writing import StrictStop, WritingThread, writing
from vlmscope.model.elementwise import ElementwiseKernels
from vlmscope.row_identity import write_ground_truths
from vlmscope.schema import Capture, Failure
from vlmscope.store import InProgress, read_failures


class Observer(Protocol):
    """Receives the progress of a run, such as the progress bar of the command line."""

    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        """Report rows that were just published or recorded as failed."""


class NullObserver:
    """An observer that ignores the progress."""

    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a session."""

    total: int
    """Rows of the table (of its first ``limit`` rows)."""
    already_done: int
    """Of these, rows captured by earlier sessions."""

    captured: int
    """Rows captured in this session."""

    failed: int
    """Rows that failed in this session; each has a line in ``failures.jsonl``."""
    seconds: float
    """Wall time of the capture."""
    stopped: bool
    """Whether the session ended early, by a stop request or by ``strict``."""

    batch_size: int = 0
    """Rows per prefill at the end of the session: with ``auto``, the size that was found."""


@contextmanager
def planned_here(
    request: Request, *, note: Callable[[str], None] | None = None
) -> Iterator[tuple[Plan, Callable[..., Summary]]]:
    """Make a plan for one model in this process, and return it and ``run_plan`` for it.

    At the end its processes of workers are closed, also if the plan was not run.

    Args:
        request: The request.
        note: As for ``make_plan``.
    """
    plan = make_plan(request, note=note)
    try:
        yield plan, partial(run_plan, plan)
    finally:
        if plan.workers is not None:
            plan.workers.close()


def run_plan(
    plan: Plan, *, observer: Observer | None = None, stop: threading.Event | None = None
) -> Summary:
    """Capture every row of ``plan`` that is not in the run yet.

    Args:
        plan: The plan, from ``make_plan``.
        observer: Receives every published batch.
        stop: Set it to stop after the answers in progress are finished.

    Raises:
        StoreError: The run cannot be written. Published rows are kept.
        TableChangedError: The table changed since it was checked. Rows read before are published.
    """
    start = time.perf_counter()
    stop = stop or threading.Event()
    restarts = take_restarts()
    spec, wanted = plan.request.spec, plan.request.batch_size
    sizer = sizer_for(plan.vlm, wanted, answers=spec.answers)
    tally = _Tally(observer or NullObserver(), sizer)
    changed = _write_rows(plan, tally, restarts, stop)
    if changed is not None:
        raise changed
    return Summary(
        total=plan.total,
        already_done=len(plan.done),
        captured=tally.captured,
        failed=tally.failed,
        seconds=time.perf_counter() - start,
        stopped=stop.is_set() and tally.captured + tally.failed < plan.todo,
        batch_size=sizer.size,
    )


def _write_rows(
    plan: Plan, tally: _Tally, restarts: Restarts, stop: threading.Event
) -> TableChangedError | None:
    """Open the run and capture the rows of a plan; set ``stop`` at the first failure if ``strict``.

    Returns:
        The error if the table changed since it was checked, else None.
    """
    sizer, request = tally.sizer, plan.request
    kernels: list[ElementwiseKernels] = []

    def get_kernels() -> None:
        if plan.todo:
            kernels.append(kernels_of_run(plan.vlm, plan.todo))

    with (
        plan.workers or nullcontext(),
        writing(
            request,
            plan.manifest,
            plan.vlm,
            tally.add,
            size=lambda: sizer.size,
            expected=plan.todo,
            meanwhile=get_kernels,
        ) as results,
        InProgress(request.out, request.writes_as) as journal,
    ):
        write_ground_truths(request.out, plan.comparison)
        try:
            if hung := _hung_before(request, restarts):
                tally.add(hung)
                if request.strict:
                    raise StrictStop
            return _run_rows(plan, results, sizer, journal, restarts, stop, *kernels)
        except StrictStop:
            stop.set()
    return None


def _hung_before(request: Request, restarts: Restarts) -> list[Failure]:
    """Return the failures of hanging rows that this command recorded before it restarted."""
    if not restarts.hung:
        return []
    recorded = read_failures(request.out)
    return [recorded[id_] for id_ in restarts.hung if id_ in recorded]


def _run_rows(
    plan: Plan,
    results: WritingThread,
    sizer: BatchSizer,
    journal: InProgress,
    restarts: Restarts,
    stop: threading.Event,
    kernels: ElementwiseKernels | None = None,
) -> TableChangedError | None:
    """Capture the rows of a plan; those with which an earlier session died come last, one by one.

    A session that identifies the row that killed the last one tries neither that row nor others
    recorded in the same way: it completes, and the next session tries them again.

    Returns:
        The error if the table changed since it was checked, else None.
    """
    table, request = plan.table, plan.request
    suspects, left_out = _record_killers(plan, results, journal, restarts)
    if not plan.todo:  # avoids a pass over a table of a million rows
        return None
    loop = Loop(
        plan.vlm,
        request,
        results,
        sizer,
        went_well=bool(plan.done),
        stop=stop,
        journal=journal,
        restarts=restarts,
        rows=plan.todo,
        workers=plan.workers,
        kernels=kernels,
    )
    excluded = left_out.union(suspects)
    rows = UntilChanged(
        pending_rows(table, request, results.done_ids, results.put, excluded=excluded)
    )
    loop.run(rows)
    if rows.is_whole:
        loop.run_isolated(isolated_groups(table, suspects))
    return rows.error


def _record_killers(
    plan: Plan, results: WritingThread, journal: InProgress, restarts: Restarts
) -> tuple[Mapping[str, int], frozenset[str]]:
    """Record the rows that killed earlier sessions as failed, and begin the journal.

    Returns:
        The rows to try last, as from ``suspects_of``, and the ids of rows not to try.
    """
    killers = killed_by(plan.table, journal.blamed if plan.todo else {})
    left_out = killed_or_hung_ids(plan.request) if killers else frozenset()
    left_out |= {failure.id for failure in killers}.union(restarts.hung)
    suspects = suspects_of(plan.request, results.done_ids, journal.suspects, left_out)
    try:
        if killers:
            results.put(killers)
            results.wait()
    finally:
        journal.start(suspects)
    return suspects, left_out


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
