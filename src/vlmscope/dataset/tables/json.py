"""Readers of JSON: one object a line (JSONL), or one document with all objects.

JSON has no header. The columns are all keys of all rows, in order of first appearance: the first
row may lack an optional key. Finding them takes one more pass, seconds for a million rows.

A value that nests too deep, or a number that is too long, is cut short in the text: enough is left
for ``values`` to refuse it as the failure of one row.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlmscope.dataset.source import FileSource, Row
from vlmscope.dataset.tables.records import find_records
from vlmscope.dataset.tables.text import (
    BYTE_ORDER_MARK,
    decoded,
    encoding_of,
    not_utf8,
    open_bytes,
    open_text,
    plain_suffix,
)
from vlmscope.dataset.values import shown_name
from vlmscope.errors import InputError
from vlmscope.jsontext import DEEPEST, cut_json

_LEVELS = DEEPEST + 4
"""Most levels parsed: values of one level more than is allowed, in a row, in a list of rows, which
may be two levels deep in a document.
"""

_SPACE = re.compile(r"\s*")

_FIRST_LINE = 16 * 2**20
"""Characters of the first line that are read to distinguish JSONL from a document."""


class _RepeatedKeyError(Exception):
    """A key appears twice in one object; ``json`` would silently take the last."""

    def at(self, where: str) -> InputError:
        """Return the error of a table."""
        return InputError(
            f"{where}: the key {shown_name(str(self))} appears twice in one object; keep one of "
            "them"
        )


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in found if keys.count(key) > 1))
    return found


@dataclass(frozen=True)
class JsonSource(FileSource):
    """Base of both readers: objects become rows, keys become columns."""

    def columns(self) -> tuple[str, ...]:
        """Return the keys of all rows; a file without rows has no columns."""
        return tuple(dict.fromkeys(key for row in self.rows() for key in row.values))

    def rows(self) -> Iterator[Row]:
        """Yield the objects in order.

        Raises:
            InputError: something is not JSON, not an object, or not UTF-8.
        """
        for number, value in self._values():
            if not isinstance(value, dict):
                raise InputError(
                    f"{self.name} {self.unit} {number}: found {type(value).__name__}, expected an "
                    'object; write each row as {"question_id": …, "image": …, "question": …}'
                )
            yield Row(number, value)

    @abstractmethod
    def _values(self) -> Iterator[tuple[int, Any]]:
        """Yield all values, numbered from 1."""

    def _parse(self, text: str, where: str, remedy: str) -> Any:
        try:
            return _loads(text)
        except (ValueError, RecursionError):  # it may be valid JSON that only nests too deep
            text = cut_json(text, _LEVELS)
        except _RepeatedKeyError as error:
            raise error.at(where) from error
        try:
            return _loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: is not JSON ({error}); {remedy}") from error
        except _RepeatedKeyError as error:
            raise error.at(where) from error


@dataclass(frozen=True)
class JsonLinesSource(JsonSource):
    """One JSON object a line; blank lines are skipped."""

    unit: ClassVar[str] = "line"

    def _values(self) -> Iterator[tuple[int, Any]]:
        remedy = "write one complete object on each line, or name a file with one list .json"
        with open_text(self.path, newline="\n") as handle:
            try:
                for number, raw in enumerate(handle, start=1):
                    line = raw.strip().lstrip(BYTE_ORDER_MARK)
                    if line:
                        yield number, self._parse(line, f"{self.name} line {number}", remedy)
            except UnicodeDecodeError as error:
                raise not_utf8(self.path, handle.encoding) from error


@dataclass(frozen=True)
class JsonListSource(JsonSource):
    """One JSON document with the rows. It is parsed at once: for large tables use JSONL."""

    unit: ClassVar[str] = "item"

    records: str | None = None
    """Key of the rows, several joined by dots; None: detected if unambiguous."""

    def _values(self) -> Iterator[tuple[int, Any]]:
        yield from enumerate(self._found()[0], start=1)

    def stand_under(self) -> str:
        """Return the key of the rows; empty if they are the document itself."""
        return self._found()[1]

    def _found(self) -> tuple[list[Any], str]:
        with open_bytes(self.path) as handle:
            data = handle.read()
        try:
            text = decoded(data)
        except UnicodeDecodeError as error:
            raise not_utf8(self.path, encoding_of(data[:4])) from error
        return find_records(self._document(text), self.records, self.name)

    def _document(self, text: str) -> Any:
        """Return the value of a text; several objects one after another are a list."""
        if not text.strip():
            return []
        text = text.lstrip(BYTE_ORDER_MARK)
        try:
            return _loads(text)
        except json.JSONDecodeError as error:
            several = _one_after_another(text) if error.msg == "Extra data" else None
        except (ValueError, RecursionError, _RepeatedKeyError):
            several = None
        remedy = "correct it, or name a file with one object a line .jsonl"
        return self._parse(text, self.name, remedy) if several is None else several


def _one_after_another(text: str) -> list[Any] | None:
    """Return the objects of a text with several of them, as ``jq`` prints; else None."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found: list[Any] = []
    at = 0
    try:
        while (at := _SPACE.match(text, at).end()) < len(text):  # type: ignore[union-attr]
            value, at = decoder.raw_decode(text, at)
            found.append(value)
    except (ValueError, RecursionError, _RepeatedKeyError):
        return None
    return found if all(isinstance(value, dict) for value in found) else None


def open_json(path: Path, records: str | None = None) -> JsonLinesSource | JsonListSource:
    """Return the reader for a JSON file: one object a line, or one document.

    The first line decides, whatever the extension is.

    Args:
        path: The file.
        records: The key of the rows in a document.

    Raises:
        InputError: It cannot be decoded, or ``records`` is given for lines.
    """
    if not _holds_lines(path):
        return JsonListSource(path, records)
    if records is not None:
        raise InputError(
            f"--records {records}: {path.name} contains one object a line, not a document with "
            "records under a key; leave it out"
        )
    return JsonLinesSource(path)


def _holds_lines(path: Path) -> bool:
    with open_text(path, newline="\n") as handle:
        try:
            lines = iter(lambda: handle.readline(_FIRST_LINE), "")
            first = next((line.strip() for line in lines if line.strip()), "")
            first = first.lstrip(BYTE_ORDER_MARK)
            if plain_suffix(path) in (".jsonl", ".ndjson"):
                return not first.startswith("[") and first != "{"
            has_more = any(line.strip() for line in lines)
        except UnicodeDecodeError as error:
            raise not_utf8(path, handle.encoding) from error
    return has_more and _is_object(first)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
