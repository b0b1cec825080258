"""The workers of a job on Ray: they are started, called, and replaced when they die."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from vlmscope.dataset import TableScan
from vlmscope.errors import StoreError, VlmscopeError, names_options
from vlmscope.executors.ray.cluster import WorkerResources
from vlmscope.executors.ray.worker import Loaded, Worker
from vlmscope.executors.request import Request
from vlmscope.store import team_name

DEATHS_IN_A_ROW = 10
"""Number of deaths without a captured row in between after which the job fails."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker of the pool."""

    name: str
    """Its writer name."""
    actor: Any


@dataclass(slots=True)
class WorkerPool:
    """The workers, and the pending call of each."""

    request: Request
    scan: TableScan
    resources: WorkerResources
    team: str = field(default_factory=lambda: f"ray_{uuid.uuid4().hex[:8]}")
    calls: dict[Any, Member] = field(default_factory=dict)
    started: int = 0
    deaths: int = 0
    """Number of deaths since a row was last captured."""

    def start(self) -> None:
        """Start a worker and let it load its model."""
        options = {"num_gpus": self.resources.gpus, "num_cpus": self.resources.cpus}
        known = replace(self.scan, ids=(), digests=b"")
        actor = (
            ray.remote(Worker)
            .options(**options)
            .remote(
                self.request,
                known,
                command=names_options(),
                sharing=self.resources.workers_per_node,
            )
        )
        name = team_name(self.team, f"worker_{self.started:03d}")
        self.started += 1
        self.ask(Member(name, actor), "load")

    def ask(self, member: Member, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of a worker; ``answers`` yields the return value."""
        self.calls[getattr(member.actor, method).remote(*arguments, **options)] = member

    def answers(self, seconds: float) -> Iterator[tuple[Member, Any]]:
        """Yield the next return value within so many seconds, or the error of a dead worker."""
        ready, _ = ray.wait(list(self.calls), num_returns=1, timeout=seconds)
        for call in ready:
            member = self.calls.pop(call)
            try:
                answer = ray.get(call)
            except RayTaskError as error:
                if isinstance(error.cause, VlmscopeError):
                    raise error.cause from None
                raise
            except RayError as error:
                yield member, error
            else:
                yield member, answer

    def handle_death(self, error: Exception) -> None:
        """Count a death; raise if the limit is reached."""
        self.deaths += 1
        if self.deaths < DEATHS_IN_A_ROW:
            return
        if not isinstance(error, RayError):
            raise error
        raise StoreError(
            f"{self.deaths} Ray workers died one after the other without a captured row: memory "
            "may have run out, or a library crashed, see Ray's logs. Published rows are kept, "
            "run the same command again to continue"
        ) from error


def first_loaded(pool: WorkerPool) -> tuple[Member, Loaded]:
    """Wait for the first worker whose model is loaded; replace those that die in the meantime.

    Raises:
        InputError: The model does not support the request.
        ModelError: The checkpoint cannot be used.
        StoreError: Too many workers died.
    """
    while True:
        for member, answer in pool.answers(seconds=1.0):
            if isinstance(answer, Loaded):
                return member, answer
            pool.handle_death(answer)
            pool.start()
