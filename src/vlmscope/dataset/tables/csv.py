"""Strict reader of CSV and TSV, with the standard library's ``csv``.

Data-frame libraries guess types (``007`` becomes 7, ``NA`` becomes a missing value) and lose the
line numbers. The ``csv`` module keeps text verbatim and reports the physical line, so a message can
point into the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import dropwhile
from pathlib import Path
from typing import ClassVar

from vlmscope.dataset.source import FileSource, Row
from vlmscope.dataset.tables.dialect import (
    RowShape,
    UndecidedError,
    find_delimiter,
    is_quoted,
    shape_of,
    swallowed_ids,
)
from vlmscope.dataset.tables.text import BYTE_ORDER_MARK, not_utf8, open_text
from vlmscope.dataset.values import shown_name
from vlmscope.errors import InputError

FIELD_LIMIT = 64 * 2**20
"""Most characters of a field. A longer one is an unclosed quote."""

_HINT = re.compile(r"\ufeff?sep=([^\"\r\n])[\r\n]*")
"""Excel's optional first line, which gives the delimiter."""

_JSON = ("{", "[{")
"""Beginning of a file that is not CSV at all."""

_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "vertical bar"}


@dataclass(frozen=True)
class CsvSource(FileSource):
    """A text table with a header. Rows are named by the physical line on which they *start*."""

    unit: ClassVar[str] = "line"
    missing: ClassVar[frozenset[str]] = frozenset({"nan", "NaN"})

    delimiter: str = ","
    """The delimiter of its extension; if the header lacks it, another one is detected."""

    def columns(self) -> tuple[str, ...]:
        """Return the header; an empty file has no columns.

        Raises:
            InputError: As ``rows``; or the file is JSON.
        """
        header = next((fields for _, fields in self._records()), [])
        if header and header[0].startswith(_JSON):
            raise InputError(
                f"{self.name}: begins like JSON, not with names of columns; give it the extension "
                ".json, or .jsonl for one object a line"
            )
        return tuple(_named(header)) if any(name.strip() for name in header) else ()

    def dialect(self) -> tuple[str, bool]:
        """Return the delimiter, and whether quotation marks quote.

        Raises:
            InputError: The file cannot be decoded.
        """
        state = self.path.stat()
        return _dialect(self.path, self.delimiter, (state.st_mtime_ns, state.st_size))

    def _is_spaced(self) -> bool:
        """Return whether a space follows each delimiter of the header."""
        state = self.path.stat()
        return _is_spaced(self.path, self.dialect()[0], (state.st_mtime_ns, state.st_size))

    def rows(self) -> Iterator[Row]:
        """Yield the rows below the header; values are verbatim text. Blank lines are skipped.

        Raises:
            InputError: a row has more or fewer fields than the header, the quoting is broken, or
                the file is not UTF-8.
        """
        records = self._records()
        _, header = next(records, (0, []))
        names = _named(header)
        for line, fields in records:
            if len(fields) != len(header):
                raise InputError(self._ragged(line, fields, header))
            yield Row(line, dict(zip(names, fields, strict=True)))

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield ``(line on which the record starts, fields)``."""
        # The limit is the csv module's only process-wide setting; raising it affects nothing else.
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
        delimiter, quoted = self.dialect()
        line, shape = 1, None
        broken = csv.Error  # also if closed at interpreter exit
        with open_text(self.path) as handle:
            reader = csv.reader(
                handle, delimiter=delimiter, strict=quoted, skipinitialspace=self._is_spaced(),
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            )  # fmt: skip
            try:
                for fields in reader:
                    if line == 1 and fields:
                        fields[0] = fields[0].lstrip(BYTE_ORDER_MARK)
                    if fields and not (line == 1 and _is_hint(fields, delimiter)):
                        shape = shape or shape_of(fields)
                        if reader.line_num > line and self._is_swallowed(fields, delimiter, shape):
                            raise InputError(self._swallowed(line, reader.line_num))
                        yield line, fields
                    line = reader.line_num + 1
            except broken as error:
                raise InputError(
                    f"{self.name} line {line}: broken quoting ({error}); write a field that "
                    "contains "
                    'a quote as "…""…" and close every quote'
                ) from error
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, handle.encoding) from error

    def _is_swallowed(self, fields: list[str], delimiter: str, shape: RowShape) -> bool:
        """Return whether one row is several: its lines look like rows and occur nowhere else."""
        ids = swallowed_ids(fields, delimiter, shape)
        if not ids:
            return False
        state = self.path.stat()
        known = _ids(self.path, delimiter, shape, (state.st_mtime_ns, state.st_size))
        return known.isdisjoint(ids)

    def _swallowed(self, first: int, last: int) -> str:
        return (
            f"{self.name} lines {first} to {last}: a quotation mark opens on the first of these "
            "rows and closes on the last, so that they would be one; write a field that contains a "
            'quotation mark as "…""…", or save a table that has such a text as .jsonl'
        )

    def _ragged(self, line: int, fields: list[str], header: list[str]) -> str:
        mark = self.dialect()[0]
        delimiter = _NAMES.get(mark, repr(mark))
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


def _named(header: list[str]) -> list[str]:
    """Return the names of the columns; several without a name are named by number.

    >>> _named(["", "id"]), _named(["id", "", ""])
    (['', 'id'], ['id', 'Unnamed: 1', 'Unnamed: 2'])
    """
    if header.count("") < 2:
        return header
    return [name or f"Unnamed: {number}" for number, name in enumerate(header)]


def _is_hint(fields: list[str], delimiter: str) -> bool:
    return _HINT.fullmatch(delimiter.join(fields)) is not None


@lru_cache(maxsize=64)
def _dialect(path: Path, declared: str, state: tuple[int, int]) -> tuple[str, bool]:
    """Return the delimiter of a file, and whether its quotation marks quote.

    Args:
        path: The file.
        declared: The delimiter of its extension.
        state: Modification time and size, so that the cache misses if the file changes.
    """
    del state
    with open_text(path) as handle:
        try:
            first = next((line for line in handle if line.strip("\r\n")), "")
            hint = _HINT.fullmatch(first)
            if hint:
                declared = hint[1]
                first = next((line for line in handle if line.strip("\r\n")), "")
            delimiter = find_delimiter(first, declared)
            if delimiter != "\t":
                return delimiter, True
            return delimiter, is_quoted(lambda: _from(path, first), delimiter)
        except UndecidedError as error:
            raise InputError(
                f"{path.name}: the lines of the row with the id {shown_name(str(error))} may be "
                "rows of their own, or the text of one quoted cell, which cannot be decided; save "
                "the table as .jsonl or .parquet"
            ) from error
        except UnicodeDecodeError as error:
            raise not_utf8(path, handle.encoding) from error


@lru_cache(maxsize=64)
def _is_spaced(path: Path, delimiter: str, state: tuple[int, int]) -> bool:
    """Return whether each field of the header but the first begins with a space.

    Args:
        path: The file.
        delimiter: Separator of fields.
        state: Modification time and size, as a cache key.
    """
    del state
    with suppress(csv.Error, UnicodeDecodeError), open_text(path) as handle:
        records = (fields for fields in csv.reader(handle, delimiter=delimiter) if fields)
        header = next((each for each in records if not _is_hint(each, delimiter)), [])
        is_json = bool(header) and header[0].startswith(_JSON)
        return len(header) > 1 and not is_json and all(each[:1] == " " for each in header[1:])
    return False


@lru_cache(maxsize=4)
def _ids(path: Path, delimiter: str, shape: RowShape, state: tuple[int, int]) -> frozenset[str]:
    """Return the ids of a file's rows, read with quoting; empty if there are duplicates.

    Args:
        path: The file.
        delimiter: Separator of fields.
        shape: Gives the position of the id.
        state: Modification time and size, as a cache key.
    """
    del state
    ids: set[str] = set()
    with suppress(csv.Error, UnicodeDecodeError), open_text(path) as handle:
        for fields in csv.reader(handle, delimiter=delimiter):
            if len(fields) == shape.count:
                if fields[shape.id] in ids:
                    return frozenset()
                ids.add(fields[shape.id])
    return frozenset(ids)


def _from(path: Path, first: str) -> Iterator[str]:
    """Yield the lines of a file from a given one on."""
    with open_text(path) as handle:
        yield from dropwhile(lambda line: line != first, handle)
