"""The rows of a table that are still to do, in the order to do them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set

from vlmscope.dataset import Table
from vlmscope.executors.ordering import AHEAD_ROWS, same_picture_together
from vlmscope.executors.request import Request
from vlmscope.schema import Failure, Sample
from vlmscope.store import read_failures


def rows_due(
    table: Table, request: Request, done: Set[str], record: Callable[[Sequence[Failure]], None]
) -> Iterator[Sample]:
    """Yield the good rows that are not done; record the bad ones on the way.

    Rows that failed in an earlier session come last, so that they cannot keep the others back.

    Args:
        table: The rows.
        request: What was asked for.
        done: Ids of rows that the run holds.
        record: Takes rows that are not in order.
    """
    done = frozenset(done)
    failed = frozenset(read_failures(request.out)) - done
    # Of a strict session a bad row is not met before its turn.
    rows = _Due(table, 1 if request.strict else AHEAD_ROWS, record)
    yield from rows.of(lambda id_: id_ not in done and id_ not in failed)
    if failed:
        yield from rows.of(lambda id_: id_ in failed)


class _Due:
    """Passes over a table."""

    def __init__(
        self, table: Table, ahead: int, record: Callable[[Sequence[Failure]], None]
    ) -> None:
        self._table = table
        self._ahead = ahead
        self._record = record

    def of(self, is_due: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield the good rows that are due, those about the same picture together.

        Only afterwards are the others left out: so a run that was killed amid the questions about a
        picture goes on in the order of one that was not.
        """
        rows = same_picture_together(self._good_rows(is_due), self._ahead)
        return (row for row in rows if is_due(row.id))

    def _good_rows(self, is_due: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield every good row of the table; record the bad ones that are due as they are met."""
        for row in self._table.rows():
            if isinstance(row, Sample):
                yield row
            elif is_due(row.id):
                self._record([row])
