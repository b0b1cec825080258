"""Who does which row: rows handed out as workers ask for them, and taken back from the dead.

Answers differ in length, so nobody is given a share beforehand. Only rows that are in work are
held, and the table is read as it is needed. A row that was in work whenever a worker died is tried
alone; if that kills one more, the row is to blame, and the others are done without it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vlmscope.schema import Failure, Sample, failure_of

DEATHS = 3
"""After so many deaths of workers during a row it is tried alone."""


@dataclass(slots=True)
class _Hand:
    """What one worker has in work."""

    rows: dict[str, Sample] = field(default_factory=dict)
    alone: bool = False


class Dispatcher:
    """Hands rows out.

    Args:
        rows: All rows that are to do; read as they are asked for.
    """

    def __init__(self, rows: Iterator[Sample]) -> None:
        self._rows = rows
        self._back: deque[Sample] = deque()
        self._suspects: deque[Sample] = deque()
        self._hands: dict[str, _Hand] = {}
        self._deaths: Counter[str] = Counter()

    def take(self, worker: str, wanted: int) -> list[Sample]:
        """Return rows for a worker, at most as many as it wants; none while it tries a suspect."""
        hand = self._hands.setdefault(worker, _Hand())
        if hand.alone:
            return []
        if self._suspects and not hand.rows:
            hand.alone, rows = True, [self._suspects.popleft()]
        else:
            rows = []
            while len(rows) < wanted and self._look_ahead():
                rows.append(self._back.popleft())
        hand.rows.update((row.id, row) for row in rows)
        return rows

    def has_more(self, worker: str) -> bool:
        """Return whether this worker may ask again before it has finished what it has."""
        return not self._hands[worker].alone and self._look_ahead()

    def finished(self, worker: str, ids: Iterable[str]) -> int:
        """Take note that a worker's rows are on the disk; return how many of them were in work."""
        hand, known = self._hands.setdefault(worker, _Hand()), 0
        for id_ in ids:
            known += hand.rows.pop(id_, None) is not None
            self._deaths.pop(id_, None)
        hand.alone = hand.alone and bool(hand.rows)
        return known

    def died(self, worker: str) -> list[Failure]:
        """Take the rows of a dead worker back; return the one to blame, if it is known."""
        hand = self._hands.pop(worker, _Hand())
        blamed = []
        for row in hand.rows.values():
            self._deaths[row.id] += 1
            if hand.alone:
                deaths = self._deaths.pop(row.id)
                blamed.append(
                    failure_of(
                        row,
                        "capture",
                        f"the worker died on this row alone, as {deaths - 1} had died with it "
                        "before; memory may have run out, or a library crashed: see Ray's logs",
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
        in_work = any(hand.rows for hand in self._hands.values())
        return not in_work and not self.has_waiting

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a worker."""
        return bool(self._suspects) or self._look_ahead()

    def _look_ahead(self) -> bool:
        """Read a row of the table if none waits; return whether one does."""
        if not self._back and (row := next(self._rows, None)) is not None:
            self._back.append(row)
        return bool(self._back)
