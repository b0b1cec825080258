"""CSV and TSV, read by the standard library, strictly.

No data-frame library: those guess types (``007`` becomes 7, ``NA`` becomes a gap) and lose the
line numbers. The ``csv`` module keeps text verbatim and knows the physical line, so a message can
point into the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from typing import ClassVar

from vlmscope.dataset._source import FileSource, Row, not_utf8
from vlmscope.errors import InputError
from vlmscope.regular import open_regular

FIELD_LIMIT = 64 * 2**20
"""Longest field in characters. A longer one is a quote that was never closed."""


@dataclass(frozen=True)
class CsvSource(FileSource):
    """A text table with a header. Rows are named by the physical line on which they *start*."""

    unit: ClassVar[str] = "line"
    missing: ClassVar[frozenset[str]] = frozenset({"nan", "NaN"})

    delimiter: str = ","

    def columns(self) -> tuple[str, ...]:
        """Read the header; an empty file has no columns."""
        return tuple(next((fields for _, fields in self._records()), []))

    def rows(self) -> Iterator[Row]:
        """Read the rows below the header; values are text, verbatim. Blank lines are skipped.

        Raises:
            InputError: a row has more or fewer fields than the header, the quoting is broken, or
                the file is not UTF-8.
        """
        records = self._records()
        _, header = next(records, (0, []))
        for line, fields in records:
            if len(fields) != len(header):
                raise InputError(self._ragged(line, fields, header))
            yield Row(line, dict(zip(header, fields, strict=True)))

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Split the file into ``(line on which the record starts, fields)``."""
        # The limit is the csv module's only, process-wide setting; raising it takes nothing away.
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
        line = 1
        with TextIOWrapper(open_regular(self.path), "utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, delimiter=self.delimiter, strict=True)
            try:
                for fields in reader:
                    if fields:
                        yield line, fields
                    line = reader.line_num + 1
            except csv.Error as error:
                raise InputError(
                    f"{self.name} line {line}: broken quoting ({error}); write a field that holds "
                    'a quote as "…""…" and close every quote'
                ) from error
            except UnicodeDecodeError as error:
                raise not_utf8(self.path) from error

    def _ragged(self, line: int, fields: list[str], header: list[str]) -> str:
        delimiter = {"\t": "tab"}.get(self.delimiter, "comma")
        cause = (
            f"a {delimiter} in a text without quotes: put the text in double quotes"
            if len(fields) > len(header)
            else "a cut line, or a line break in a text without quotes: put the text in double "
            "quotes or complete the line"
        )
        return (
            f"{self.name} line {line}: found {len(fields)} fields, expected {len(header)} as in "
            f"the header; likely {cause}"
        )
