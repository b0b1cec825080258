"""Parquet, through pyarrow, a few rows at a time.

Batches are small because a row may hold a whole picture: 64 pictures are some megabytes, a row
group of them may be gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlmscope.dataset._source import FileSource, Row, one_line
from vlmscope.errors import InputError

BATCH_ROWS = 64
"""Rows turned into Python values at a time."""


@dataclass(frozen=True)
class ParquetSource(FileSource):
    """A Parquet file. Rows are counted from 1."""

    def columns(self) -> tuple[str, ...]:
        """Read the schema.

        Raises:
            InputError: the file is no Parquet file, or pyarrow is missing.
        """
        pyarrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(self.path) as file:
                return tuple(file.schema_arrow.names)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def rows(self) -> Iterator[Row]:
        """Read the rows; values are Python's own types, pictures are bytes or ``{bytes, path}``.

        Raises:
            InputError: the file is damaged, or pyarrow is missing.
        """
        pyarrow, parquet = _pyarrow()
        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(number, values)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error, after=number) from error

    def _unreadable(self, error: Exception, after: int = 0) -> InputError:
        place = f"{self.name} after row {after}" if after else self.name
        return InputError(
            f"{place}: cannot be read as Parquet ({one_line(error)}); write the file again, or "
            "give it the extension of what it holds"
        )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "reading Parquet needs pyarrow, which is not installed; pip install pyarrow"
        ) from error
    return pyarrow, pyarrow.parquet
