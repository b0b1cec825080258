"""Assigns rows to workers on demand, and reassigns those of dead workers.

Answers differ in length, so there are no fixed shares. Only rows in progress are in memory, and the
table is read as needed. A row that was in progress at several deaths of workers is tried alone; if
the worker dies again, the row is the cause, and is recorded as failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vlmscope.executors.journal import MODEL_STAGE
from vlmscope.schema import Failure, Sample, failure_of

DEATHS = 3
"""Number of deaths of workers during a row after which the row is tried alone."""


@dataclass(slots=True)
class _Assignment:
    """The rows in progress of one worker."""

    rows: dict[str, Sample] = field(default_factory=dict)
    alone: bool = False


class Dispatcher:
    """Assigns rows to workers.

    Args:
        rows: All rows to process; read on demand.
    """

    def __init__(self, rows: Iterator[Sample]) -> None:
        self._rows = rows
        self._back: deque[Sample] = deque()
        self._suspects: deque[Sample] = deque()
        self._assigned: dict[str, _Assignment] = {}
        self._deaths: Counter[str] = Counter()

    def take(self, worker: str, wanted: int) -> list[Sample]:
        """Return rows for a worker, at most ``wanted``; none while it tries a suspect."""
        current = self._assigned.setdefault(worker, _Assignment())
        if current.alone:
            return []
        if self._suspects and not current.rows:
            current.alone, rows = True, [self._suspects.popleft()]
        else:
            rows = []
            while len(rows) < wanted and self._look_ahead():
                rows.append(self._back.popleft())
        current.rows.update((row.id, row) for row in rows)
        return rows

    def has_more(self, worker: str) -> bool:
        """Return whether this worker may take more rows before its current ones are finished."""
        return not self._assigned[worker].alone and self._look_ahead()

    def finished(self, worker: str, ids: Iterable[str]) -> int:
        """Record that a worker's rows are published; return how many of them were in progress."""
        current, known = self._assigned.setdefault(worker, _Assignment()), 0
        for id_ in ids:
            known += current.rows.pop(id_, None) is not None
            self._deaths.pop(id_, None)
        current.alone = current.alone and bool(current.rows)
        return known

    def died(self, worker: str) -> list[Failure]:
        """Take back the rows of a dead worker; return the failure of the row that caused it."""
        current = self._assigned.pop(worker, _Assignment())
        blamed = []
        for row in current.rows.values():
            self._deaths[row.id] += 1
            if current.alone:
                deaths = self._deaths.pop(row.id)
                blamed.append(
                    failure_of(
                        row,
                        MODEL_STAGE,
                        f"the worker died on this row alone, after {deaths - 1} others had died "
                        "with it; memory may have run out, or a library crashed: see Ray's logs",
                    )
                )
            elif self._deaths[row.id] >= DEATHS:
                self._suspects.append(row)
            else:
                self._back.append(row)
        return blamed

    @property
    def is_over(self) -> bool:
        """Whether every row is finished."""
        in_progress = any(current.rows for current in self._assigned.values())
        return not in_progress and not self.has_waiting

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a worker."""
        return bool(self._suspects) or self._look_ahead()

    def _look_ahead(self) -> bool:
        """Read a row of the table if none is waiting; return whether one is."""
        if not self._back and (row := next(self._rows, None)) is not None:
            self._back.append(row)
        return bool(self._back)
