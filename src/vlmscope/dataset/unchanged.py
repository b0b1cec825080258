"""Comparison of the rows that are read with those that were checked.

A table is read more than once: checked before the model is loaded, which takes minutes, then read
row by row for as long as the run takes. A run is recorded under the fingerprint of the table that
was checked, so a row that has changed by then must not get into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from vlmscope.dataset.rows.reader import RowReader
from vlmscope.dataset.source import Row
from vlmscope.dataset.values import DIGEST_BYTES
from vlmscope.errors import InputError, TableChangedError

RowT = TypeVar("RowT")

_REMEDY = "run again to continue with the changed table, or restore it first"


class Unchanged:
    """Compares one pass over a table with the scan, row by row.

    Args:
        reader: The table.
        ids: The expected ids of the pass, in order.
        digests: Their ``RowReader.digest``, joined.
    """

    def __init__(self, reader: RowReader, ids: tuple[str, ...], digests: bytes) -> None:
        self._reader = reader
        self._ids = ids
        self._digests = digests
        self._read = 0

    def check_id(self, row: Row, sample_id: str) -> None:
        """Compare the id of the next row only.

        Raises:
            TableChangedError: It differs, or no further row was expected.
        """
        if self._read == len(self._ids):
            found = f"{self._reader.origin(row)}: question {sample_id!r} was appended"
            raise TableChangedError(self._say(found), appended=True)
        expected = self._ids[self._read]
        if sample_id != expected:
            found = f"{self._reader.origin(row)}: found question {sample_id!r} where {expected!r}"
            raise TableChangedError(self._say(f"{found} was; the table has changed"))
        self._read += 1

    def check(self, row: Row, sample_id: str) -> None:
        """Compare the next row.

        Raises:
            TableChangedError: It has changed.
        """
        self.check_id(row, sample_id)
        start = (self._read - 1) * DIGEST_BYTES
        if self._reader.digest(row) != self._digests[start : start + DIGEST_BYTES]:
            found = f"{self._reader.origin(row)}: question {sample_id!r} has changed"
            raise TableChangedError(self._say(found))

    def check_end(self) -> None:
        """Raise ``TableChangedError`` if rows are missing at the end."""
        if self._read < len(self._ids):
            expected = self._ids[self._read]
            name = self._reader.source.name
            raise TableChangedError(
                self._say(f"{name}: ends before question {expected!r}; the table has changed")
            )

    def unreadable(self, error: InputError) -> TableChangedError:
        """Return the error for a table that cannot be read any further, though it was before."""
        return TableChangedError(self._say(f"{error}; the table has changed"))

    @staticmethod
    def _say(found: str) -> str:
        return f"{found} since it was checked; {_REMEDY}"


class UntilChanged(Iterator[RowT]):
    """Rows up to the first change of the table.

    Iteration ends there as at the end of the table, so that the rows read before are finished and
    published.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: Iterator[RowT]) -> None:
        self._rows = rows
        self.error: TableChangedError | None = None
        """The change, if there was one."""

    def __next__(self) -> RowT:
        try:
            return next(self._rows)
        except TableChangedError as error:
            self.error = error
            raise StopIteration from None

    @property
    def is_whole(self) -> bool:
        """Whether all checked rows were read unchanged."""
        return self.error is None or self.error.appended

    def raise_error(self) -> None:
        """Raise ``error``, if there is one."""
        if self.error is not None:
            raise self.error
