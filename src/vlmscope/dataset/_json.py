"""JSON: one object a line (JSONL), or one list of objects.

JSON has no header. The columns are every key that any row has, in order of first appearance: a
first row that happens to lack an optional key must not hide it. Finding them costs one more pass,
seconds for a million rows.

A value that nests too deep, or a number that is too long, is cut short where it stands: enough is
left for ``_values`` to refuse it as the failure of one row.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from vlmscope.dataset._source import FileSource, Row, not_utf8
from vlmscope.errors import InputError
from vlmscope.jsontext import DEEPEST, cut_json
from vlmscope.regular import open_regular

_LEVELS = DEEPEST + 2
"""Levels that are read: a list of rows, and a row, hold values of one level more than may be."""


@dataclass(frozen=True)
class _JsonSource(FileSource):
    """What both kinds share: objects become rows, keys become columns."""

    def columns(self) -> tuple[str, ...]:
        """Collect the keys of all rows; a file without rows has no columns."""
        return tuple(dict.fromkeys(key for row in self.rows() for key in row.values))

    def rows(self) -> Iterator[Row]:
        """Read the objects in order.

        Raises:
            InputError: something is no JSON, no object, or not UTF-8.
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
        """Read whatever values stand there, numbered from 1."""

    def _parse(self, text: bytes, place: str, remedy: str) -> Any:
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(self.path) from error
        try:
            return json.loads(decoded)
        except (ValueError, RecursionError):  # is it JSON that only nests too deep?
            decoded = cut_json(decoded, _LEVELS)
        try:
            return json.loads(decoded)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: is not JSON ({error}); {remedy}") from error


@dataclass(frozen=True)
class JsonLinesSource(_JsonSource):
    """One JSON object a line; blank lines are skipped."""

    unit: ClassVar[str] = "line"

    def _values(self) -> Iterator[tuple[int, Any]]:
        remedy = "write one whole object on each line, or name a file with one list .json"
        with open_regular(self.path) as handle:
            for number, raw in enumerate(handle, start=1):
                line = (_without_bom(raw) if number == 1 else raw).strip()
                if line:
                    yield number, self._parse(line, f"{self.name} line {number}", remedy)


@dataclass(frozen=True)
class JsonListSource(_JsonSource):
    """One JSON list of objects. It is parsed whole: for large tables use JSONL."""

    unit: ClassVar[str] = "item"

    def _values(self) -> Iterator[tuple[int, Any]]:
        remedy = "mend it, or name a file with one object a line .jsonl"
        with open_regular(self.path) as handle:
            text = _without_bom(handle.read())
        found = self._parse(text, self.name, remedy)
        if not isinstance(found, list):
            raise InputError(
                f"{self.name}: found {type(found).__name__}, expected a list of objects; save the "
                "list itself, or name a file with one object a line .jsonl"
            )
        yield from enumerate(found, start=1)


def _without_bom(text: bytes) -> bytes:
    return text.removeprefix(b"\xef\xbb\xbf")
