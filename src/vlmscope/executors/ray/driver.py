"""The driver on Ray: assigns rows to workers on demand, and replaces dead workers.

    this process                          Ray actors, on any machine of the cluster
    table ──► Dispatcher ── rows ──►      Worker: model, loop, its own shards in the run folder
              progress   ◄── reports ──

Rows and reports go through Ray, vectors do not: the run folder is on a file system shared by all
machines. If this process dies, Ray ends the actors; the next command continues from the published
shards.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import ray

from vlmscope.dataset import InMemory, Table, TableScan, UntilChanged, absolute_data
from vlmscope.errors import InputError, VlmscopeError
from vlmscope.executors.local import NullObserver, Observer, Summary
from vlmscope.executors.manifest import absolute
from vlmscope.executors.measuring import rows_to_measure
from vlmscope.executors.pending import pending_rows
from vlmscope.executors.plan import Outline, as_compared, compare, open_checked
from vlmscope.executors.ray.actors import Member, WorkerPool, first_loaded
from vlmscope.executors.ray.cluster import WorkerResources, cluster, worker_resources
from vlmscope.executors.ray.scheduler import Dispatcher
from vlmscope.executors.ray.worker import Loaded, Report
from vlmscope.executors.request import Request
from vlmscope.row_identity import RowComparison, write_ground_truths
from vlmscope.schema import Failure
from vlmscope.store import (
    Manifest,
    RunWriter,
    ids_written_by,
    team_name,
    wait_for_end,
)

PATIENCE = 30.0
"""Seconds to wait for the actors of a job whose driver was killed, or for a dead actor's lock."""


@dataclass(frozen=True, slots=True)
class RayPlan(Outline):
    """A checked request, and a pool of workers, the first of which has its model loaded."""

    request: Request
    table: Table
    scan: TableScan
    manifest: Manifest
    done: frozenset[str]
    notes: tuple[str, ...]
    family: str
    pool: WorkerPool
    first: tuple[tuple[Member, Loaded], ...]
    comparison: RowComparison = field(default_factory=RowComparison)
    image_tokens: tuple[float, float] = (0, 0)

    @property
    def title(self) -> str:
        """The name of the model's family."""
        return self.family


@contextmanager
def plan_on_ray(
    request: Request,
    *,
    address: str | None = None,
    workers: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[RayPlan]:
    """Connect to a cluster and check everything that can be checked before the first row.

    Args:
        request: The request.
        address: Address of the cluster. None: the one running on this machine, or a new one.
        workers: Number of models. None: the number of GPUs of the cluster, or one.
        note: Receives notes about the table, before a model is loaded.

    Raises:
        InputError: The table or an option is invalid, or there is no such cluster.
        ModelError: The checkpoint cannot be used.
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run has rows made with other settings.
    """
    _check(request, workers)
    request = _valid_anywhere(request)
    table, scan, comparison = open_checked(request, patience=PATIENCE, note=note)
    with cluster(address, workers):
        pool = WorkerPool(
            _for_workers(request), scan, worker_resources(request.loading.device, workers)
        )
        for _ in range(pool.resources.workers):
            pool.start()
        member, loaded = first_loaded(pool)
        done, more = compare(request, scan, loaded.manifest, comparison)
        models = pool.resources.workers
        count = "1 Ray worker" if models == 1 else f"{models} Ray workers"
        of_pool = f"{count}, {_each(pool.resources)} each"
        notes = (of_pool, *loaded.notes, *more)
        first = ((member, loaded),)
        manifest = as_compared(loaded.manifest, comparison)
        measured = rows_to_measure(table, scan, request.spec)
        tokens = ray.get(member.actor.image_tokens.remote(measured)) if measured else (0, 0)
        yield RayPlan(
            request, table, scan, manifest, done, notes, loaded.title, pool, first, comparison,
            tokens,
        )  # fmt: skip


def run_on_ray(
    plan: RayPlan, *, observer: Observer | None = None, stop: Event | None = None
) -> Summary:
    """Capture every row of ``plan`` that is not in the run yet.

    Args:
        plan: The plan, from ``plan_on_ray``.
        observer: Receives published rows.
        stop: Set it to stop after the answers in progress are finished.

    Raises:
        StoreError: The run cannot be written. Published rows are kept.
        TableChangedError: The table changed since it was checked. Rows read before are published.
    """
    start = time.perf_counter()
    driver = team_name(plan.pool.team, "driver")
    with RunWriter(plan.request.out, plan.manifest, driver) as own:
        write_ground_truths(plan.request.out, plan.comparison)
        job = _Job(plan, own, observer or NullObserver(), stop or Event())
        job.run()
    job.rows.raise_error()
    return Summary(
        total=plan.total,
        already_done=len(plan.done),
        captured=job.captured,
        failed=job.failed,
        seconds=time.perf_counter() - start,
        stopped=job.stop.is_set() and job.captured + job.failed < plan.todo,
        batch_size=job.batch_size,
    )


class _Job:
    """The loop of the driver: every answer of a worker is followed by its next call."""

    def __init__(self, plan: RayPlan, own: RunWriter, observer: Observer, stop: Event) -> None:
        self.captured = self.failed = 0
        self.stop = stop
        self._plan = plan
        self._pool = plan.pool
        self._observer = observer
        self._own = own
        done = frozenset(own.done_ids)
        self.rows = UntilChanged(pending_rows(plan.table, plan.request, done, self._record))
        self._dispatcher = Dispatcher(self.rows)
        self._at_rest: deque[tuple[Member, Report]] = deque()
        self._at_work: dict[str, Member] = {}
        self.batch_size = 0

    def run(self) -> None:
        """Assign rows until all are published, or the assigned ones after a stop request."""
        for member, loaded in self._plan.first:
            self._handle(member, loaded)
        while not self._is_over():
            for member, answer in self._pool.answers(seconds=1.0):
                self._handle(member, answer)
        self._close_workers()

    def _is_over(self) -> bool:
        if self.stop.is_set():
            return not self._at_work
        return self._dispatcher.is_over and not self._at_work

    def _handle(self, member: Member, answer: Any) -> None:
        """Handle the answer of a worker."""
        if isinstance(answer, Loaded):
            if not self.stop.is_set():
                went_well = bool(self._plan.done) or self.captured > 0
                self._at_work[member.name] = member
                self._pool.ask(member, "begin", member.name, went_well)
        elif isinstance(answer, Report):
            self._note(member, answer)
            if isinstance(answer.error, VlmscopeError):
                raise answer.error
            if answer.error:
                ray.kill(member.actor)
                self._handle_death(member, answer.error)
            else:
                self._send(member, answer)
        else:
            self._handle_death(member, answer)

    def _note(self, member: Member, report: Report) -> None:
        """Count the published rows in a report."""
        self.batch_size = report.batch_size
        captured = self._dispatcher.finished(member.name, report.captured)
        failed = self._dispatcher.finished(member.name, report.failed)
        if captured:
            self._pool.deaths = 0
        self._count(captured, failed)

    def _count(self, captured: int, failed: int) -> None:
        self.captured += captured
        self.failed += failed
        if captured or failed:
            size = self.batch_size
            self._observer.advance(captured=captured, failed=failed, batch_size=size)
        if failed and self._plan.request.strict:
            self.stop.set()

    def _send(self, member: Member, report: Report) -> None:
        """Send a worker its next rows, or mark it as idle."""
        if self.stop.is_set():
            rows, last = [], True
        else:
            rows = self._dispatcher.take(member.name, report.wanted)
            last = not self._dispatcher.has_more(member.name)
        if rows or not report.idle:
            self._at_work[member.name] = member
            stop = self.stop.is_set()
            self._pool.ask(member, "exchange", rows, last=last, stop=stop)
        else:
            self._at_work.pop(member.name, None)
            self._at_rest.append((member, report))

    def _handle_death(self, member: Member, error: Exception) -> None:
        """Count the rows that a dead worker had published, and reassign the others."""
        self._at_work.pop(member.name, None)
        out = self._plan.request.out
        wait_for_end(out, member.name, patience=PATIENCE)
        self._count(self._dispatcher.finished(member.name, ids_written_by(out, member.name)), 0)
        blamed = self._dispatcher.died(member.name)
        self._record(blamed)
        self._pool.handle_death(error)
        if self.stop.is_set() or not self._dispatcher.has_waiting:
            return
        self._pool.start()
        for _ in range(len(self._at_rest)):
            self._send(*self._at_rest.popleft())

    def _record(self, failures: Sequence[Failure]) -> None:
        """Record rows that no worker will process."""
        self._own.add(failures)
        self._count(0, len(failures))

    def _close_workers(self) -> None:
        """Let the workers pack their rows; those still loading a model are only ended."""
        self._pool.calls.clear()
        for member, _ in self._at_rest:
            self._pool.ask(member, "close")
        while self._pool.calls:
            for member, answer in self._pool.answers(seconds=1.0):
                if isinstance(answer, Report) and isinstance(answer.error, VlmscopeError):
                    raise answer.error
                ray.kill(member.actor)
                wait_for_end(self._plan.request.out, member.name, patience=PATIENCE)


def _check(request: Request, workers: int | None) -> None:
    if not isinstance(request.model, str):
        raise InputError(
            "--model and --ray: the model is loaded here; give its folder or hub id, each worker "
            "loads it"
        )
    if request.shard:
        raise InputError("--shard and --ray: give one of them; Ray distributes the rows itself")
    if request.time_limit is not None:
        raise InputError(
            "--time-limit and --ray: give one of them; Ray workers do not support a time limit"
        )
    if workers is not None and workers < 1:
        raise InputError(f"--actors {workers}: give 1 or more")
    device = request.loading.device
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"--device {device} and --ray: give auto, cpu or cuda; Ray gives each model its own GPU"
        )


def _valid_anywhere(request: Request) -> Request:
    """Return the request with absolute paths: workers start in another folder."""
    loading = request.loading
    family, adapter = loading.family, loading.adapter
    data, model = request.data, request.model
    assert isinstance(model, str)  # noqa: S101 - _check has refused a loaded one
    return replace(
        request,
        data=data if isinstance(data, InMemory) else absolute_data(data),
        model=absolute(model),
        out=request.out.absolute(),
        images=absolute(request.images) if request.images else None,
        loading=replace(
            loading,
            adapter=adapter.absolute() if adapter else None,
            family=Path(family).absolute() if isinstance(family, str | Path) else family,
        ),
    )


def _for_workers(request: Request) -> Request:
    """Return the request without a table in memory: workers receive the rows."""
    data = request.data
    return replace(request, data=data.named()) if isinstance(data, InMemory) else request


def _each(resources: WorkerResources) -> str:
    if resources.gpus:
        return "a GPU"
    return "a processor" if resources.cpus == 1 else f"{resources.cpus} processors"
