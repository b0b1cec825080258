"""The rows of a table that are still to do, in the order to do them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set

from vlmscope.dataset import Place, Table
from vlmscope.errors import TableChangedError
from vlmscope.executors.ordering import AHEAD_ROWS, same_picture_together
from vlmscope.executors.patience import MODEL_STAGE
from vlmscope.executors.request import Request
from vlmscope.schema import Failure, Sample
from vlmscope.store import read_failures

BAD_ROWS = 256
"""Bad rows of the table that are recorded together: each hand-over is flushed to the disk."""


def suspects_of(request: Request, done: Set[str]) -> dict[str, Failure]:
    """Return the rows that took too long in an earlier session, and what is known of them."""
    failed = read_failures(request.out)
    return {id_: f for id_, f in failed.items() if f.stage == MODEL_STAGE and id_ not in done}


def rows_apart(table: Table, request: Request, suspects: Mapping[str, Failure]) -> Iterator[Sample]:
    """Yield some rows that are good, those that were tried least often first."""
    if suspects:
        rows = _Due(table, request, lambda _: None).of(lambda id_: id_ in suspects)
        yield from sorted(rows, key=lambda row: suspects[row.id].attempt)


def rows_due(
    table: Table,
    request: Request,
    done: Set[str],
    record: Callable[[Sequence[Failure]], None],
    *,
    apart: Set[str] = frozenset(),
) -> Iterator[Sample]:
    """Yield the good rows that are not done; record the bad ones on the way.

    Rows that failed in an earlier session come last, so that they cannot keep the others back.

    Args:
        table: The rows.
        request: What was asked for.
        done: Ids of rows that the run holds.
        record: Takes rows that are not in order.
        apart: Ids of rows that are not to be among them.

    Raises:
        TableChangedError: The table is not the one that was checked. Rows that were read and wait
            for others about their image are lost then, except where rows were only appended.
    """
    done = frozenset(done)
    failed = frozenset(read_failures(request.out)) - done - apart
    rows = _Due(table, request, record, done)
    yield from rows.of(lambda id_: id_ not in done and id_ not in failed and id_ not in apart)
    if failed:
        yield from rows.of(lambda id_: id_ in failed)
    if rows.appended is not None:
        raise rows.appended


class _Due:
    """Passes over a table."""

    def __init__(
        self,
        table: Table,
        request: Request,
        record: Callable[[Sequence[Failure]], None],
        done: Set[str] = frozenset(),
    ) -> None:
        self._table = table
        self._done = done
        # Of a strict session a bad row is not met before its turn, and recorded at once.
        self._ahead = 1 if request.strict else AHEAD_ROWS
        self._together = 1 if request.strict else BAD_ROWS
        self._record = record
        self.appended: TableChangedError | None = None
        """Set where more rows followed on those that were checked."""

    def of(self, is_due: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield the good rows that are due, those about the same picture together.

        Only afterwards are the others left out: so a run that was killed amid the questions about a
        picture goes on in the order of one that was not.
        """
        rows = same_picture_together(self._good_rows(is_due), self._ahead)
        return (row for row in rows if isinstance(row, Sample) and is_due(row.id))

    def _good_rows(self, is_due: Callable[[str], bool]) -> Iterator[Sample | Place]:
        """Yield every good row, or its place; record the bad rows that are due, many at once."""
        bad: list[Failure] = []
        for row in self._rows():
            if not isinstance(row, Failure):
                yield row
            elif is_due(row.id):
                bad.append(row)
                if len(bad) >= self._together:
                    self._record(bad)
                    bad = []
        if bad:
            self._record(bad)

    def _rows(self) -> Iterator[Sample | Failure | Place]:
        """Yield every row. That others were appended is no reason to lose those that wait."""
        try:
            yield from self._table.rows_and_places(self._done)
        except TableChangedError as error:
            if not error.appended:
                raise
            self.appended = error
