"""Tables in which the image of a row may stand in another row.

A table that holds its images as base64 writes a large one once: the other questions about it hold
the first one's id in its place. The images that are named so are kept in a temporary file, and put
where they are named; memory stays flat.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any

from vlmscope.dataset._columns import Columns
from vlmscope.dataset._encoded import is_encoded
from vlmscope.dataset._pictures import has_image_suffix
from vlmscope.dataset._source import Row, Source, reading
from vlmscope.dataset._values import is_blank, to_text

_LONGEST_ID = 64
"""Characters of a cell that may name another row."""

_LONGEST_CHAIN = 8
"""Rows that may name one another until one holds the image."""

_FIRST_ROWS = 16
"""Rows that are looked at for an image in base64."""


class _Images:
    """The images that other rows name, by id.

    Args:
        names: Id of a row that holds no image → the id that it names.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._file: IO[bytes] = TemporaryFile(prefix="vlmscope-images-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._where: dict[str, tuple[int, int]] = {}
        self._end = 0

    def add(self, key: str, text: str) -> None:
        if key in self._where:
            return
        data = text.encode("utf-8", "surrogatepass")
        self._file.seek(self._end)
        self._file.write(data)
        self._where[key] = self._end, len(data)
        self._end += len(data)

    def get(self, key: str) -> str | None:
        for _ in range(_LONGEST_CHAIN):
            if key in self._where or key not in self._names:
                break
            key = self._names[key]
        if key not in self._where:
            return None
        start, size = self._where[key]
        self._file.seek(start)
        return self._file.read(size).decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class SharedImages(Source):
    """A table whose rows are given the images that they name by the id of another row."""

    inner: Source
    """The table."""
    id_column: str
    """Its column of ids."""
    columns_of_images: tuple[str, ...]
    """Its columns that hold images."""
    _kept: list[_Images] = field(default_factory=list, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedImages, (self.inner, self.id_column, self.columns_of_images)

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here, and never set elsewhere
        """That of the table."""
        return self.inner.name

    @property
    def unit(self) -> str:  # type: ignore[override]
        """That of the table."""
        return self.inner.unit

    @property
    def missing(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the table."""
        return self.inner.missing

    def columns(self) -> tuple[str, ...]:
        """Name the columns of the table."""
        return self.inner.columns()

    def media(self) -> Mapping[str, str]:
        """Name the columns of sounds and videos."""
        return self.inner.media()

    def rows(self) -> Iterator[Row]:
        """Read the rows, each with its image."""
        for row in self.inner.rows():
            named = {column: self._named(row, column) for column in self.columns_of_images}
            if not any(named.values()):
                yield row
                continue
            images = self._images()
            found = {column: images.get(key) for column, key in named.items() if key}
            cells = {column: text for column, text in found.items() if text is not None}
            yield row._replace(values={**row.values, **cells}) if cells else row

    def _images(self) -> _Images:
        """Return the images that are named, read from the table once."""
        if not self._kept:
            names = {
                _key(row.values.get(self.id_column)): key
                for row in self.inner.rows()
                for column in self.columns_of_images
                if (key := self._named(row, column))
            }
            images, wanted = _Images(names), set(names.values())
            for row in self.inner.rows():
                key = _key(row.values.get(self.id_column))
                if key not in wanted:
                    continue
                for column in self.columns_of_images:
                    value = row.values.get(column)
                    if isinstance(value, str) and is_encoded(value):
                        images.add(key, value)
                        break
            self._kept.append(images)
        return self._kept[0]

    def _named(self, row: Row, column: str) -> str:
        """Return the id that an image cell may be; empty where it is something else."""
        value = row.values.get(column)
        if isinstance(value, str):
            if len(value) > _LONGEST_ID or value in self.missing or has_image_suffix(value):
                return ""
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        return _key(value)


def with_shared_images(source: Source, columns: Columns) -> Source:
    """Return a table whose rows have the images of the rows that they name.

    Args:
        source: The table. One that holds no base64 in its first rows is given back as it is.
        columns: Its columns, by role.
    """
    if len(columns.id) != 1 or not columns.images or columns.is_together:
        return source
    with reading(source):
        for row in islice(source.rows(), _FIRST_ROWS):
            cells = (row.values.get(column) for column in columns.images)
            if any(isinstance(cell, str) and is_encoded(cell) for cell in cells):
                return SharedImages(source, columns.id[0], columns.images)
    return source


def _key(value: object) -> str:
    text = "" if is_blank(value) else to_text(value) or ""
    return text.strip().removesuffix(".0")
