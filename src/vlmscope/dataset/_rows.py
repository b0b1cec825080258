"""One row of a table → one ``Sample``, or the reason why not.

A row that cannot be recorded at all (no id) stops the table, ``InputError``; any other flaw is that
row's own, ``RowError``, and the rest goes on.
"""

from __future__ import annotations

import json
import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmscope.dataset._columns import Columns
from vlmscope.dataset._source import Row, Source
from vlmscope.dataset._values import (
    LEFT_OUT,
    is_blank,
    to_json,
    to_target,
    to_text,
    unstorable,
)
from vlmscope.errors import InputError, RowError
from vlmscope.schema import Sample


@dataclass(frozen=True, slots=True)
class ImageCell:
    """What a row says about its image."""

    name: str
    """Name or path as the table gives it; empty where there is none."""
    data: bytes | None
    """The image file itself, where the table holds it."""
    columns: frozenset[str]
    """The columns that said so."""


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows of one table."""

    source: Source
    """The table."""
    columns: Columns
    """Its columns, by role."""
    images: Path
    """The folder that relative image paths start from."""

    def origin(self, row: Row) -> str:
        """Say where a row stands: ``questions.csv line 41``."""
        return f"{self.source.name} {self.source.unit} {row.number}"

    def id(self, row: Row) -> str:
        """Read the id, as it is.

        Raises:
            InputError: it is empty, or no text that a run can hold.
        """
        column = self.columns.id
        value = row.values.get(column)
        text = to_text(value)
        if is_blank(value):
            found = "is empty"
        elif text is None:
            found = f"is a {type(value).__name__}, expected text or a number"
        elif flaw := unstorable(text):
            found = f"{text!r} holds {flaw}"
        else:
            return text
        raise InputError(
            f"{self.origin(row)}: the id in column {column!r} {found}; give the row an id, or "
            "name another column with --map id=COLUMN"
        )

    def key(self, row: Row) -> bytes:
        """Write what tells this row from others, the same for every format.

        Embedded images count by name, or by size where they have none: hashing the bytes of a
        million images would take longer than it is worth.
        """
        image = self._image(row)
        values = row.values
        cells = (
            self.id(row),
            image.name or (len(image.data) if image.data else ""),
            to_text(values.get(self.columns.question)) or "",
            self._target(row) or "",
        )
        return json.dumps(cells).encode() + b"\n"

    def sample(self, row: Row) -> Sample:
        """Read a whole row. Images are not opened.

        Raises:
            InputError: the id is unusable.
            RowError: anything else is, stage ``input``.
        """
        sample_id, origin = self.id(row), self.origin(row)
        question = self._question(row)
        target = self._target(row)
        if target is None:
            raise self._error(row, f"the target in column {self.columns.target!r} is bytes", "text")
        image = self._image(row)
        for what, text in (("question", question), ("target", target), ("image name", image.name)):
            if flaw := unstorable(text):
                raise self._error(row, f"the {what} holds {flaw}", "plain text")
        return Sample(
            id=sample_id,
            image=image.data or self._path(row, image.name),
            question=question,
            target=target,
            metadata=self._metadata(row, image),
            image_id=image.name or sample_id,
            origin=origin,
        )

    def _error(self, row: Row, found: str, expected: str) -> RowError:
        return RowError("input", f"{self.origin(row)}: {found}; write {expected} there")

    def _question(self, row: Row) -> str:
        column = self.columns.question
        value = row.values.get(column)
        if is_blank(value):
            raise self._error(row, f"the question in column {column!r} is empty", "a question")
        text = to_text(value)
        if text is None:
            found = f"the question in column {column!r} is a {type(value).__name__}"
            raise self._error(row, found, "text")
        return text

    def _target(self, row: Row) -> str | None:
        column = self.columns.target
        return "" if column is None else to_target(row.values.get(column), self.source.missing)

    def _image(self, row: Row) -> ImageCell:
        """Find the image: bytes before names, and of each the first column that has one.

        Column by column is not enough: tables in use leave ``image_id`` empty in some rows and
        fill ``image_name`` there.
        """
        name: tuple[str, str] | None = None
        data: tuple[str, bytes] | None = None
        for column in self.columns.images:
            cell_data, cell_name = _split_image(row.values.get(column), self.source.missing)
            if cell_data and data is None:
                data = column, cell_data
            if cell_name and name is None:
                name = column, cell_name
        return ImageCell(
            name=name[1] if name else "",
            data=data[1] if data else None,
            columns=frozenset(found[0] for found in (name, data) if found),
        )

    def _path(self, row: Row, name: str) -> Path:
        if not name:
            columns = " or ".join(repr(column) for column in self.columns.images)
            found = f"no image in column {columns}"
            raise self._error(row, found, "a path, or the bytes of an image file,")
        if "://" in name:
            raise self._error(row, f"the image {name!r} is a URL, which is not fetched", "a path")
        path = Path(name)
        if path.is_absolute():
            return path
        if Path(os.path.normpath(name)).parts[:1] == ("..",):
            raise RowError(
                "input",
                f"{self.origin(row)}: the image path {name!r} leaves the image folder "
                f"{self.images}; pass a folder above it with --images DIR, or write the whole path",
            )
        return self.images / path

    def _metadata(self, row: Row, image: ImageCell) -> dict[str, Any]:
        """Keep every column that is not used as something else in this row."""
        columns = self.columns
        used = {columns.id, columns.question, columns.target, *image.columns}
        plain = {name: to_json(cell) for name, cell in row.values.items() if name not in used}
        return {name: cell for name, cell in plain.items() if cell is not LEFT_OUT}


def _split_image(value: Any, missing: frozenset[str]) -> tuple[bytes | None, str]:
    """Split an image cell into bytes and name; ``{bytes, path}`` is how ``datasets`` stores one."""
    if isinstance(value, dict):
        data, name = value.get("bytes"), value.get("path")
    elif isinstance(value, bytes):
        data, name = value, None
    else:
        data, name = None, value
    text = "" if is_blank(name) else to_text(name) or ""
    return (
        data if isinstance(data, bytes) and data else None,
        "" if text in missing else text,
    )
