"""Tables in which the image of a row may be stored in another row.

Tables with base64 images write a large image once: the other questions about it have the first
one's ``index`` in its cell, whatever column is the id. The images that are referenced are kept in a
temporary file and inserted where they are referenced; memory stays constant. With one image in each
of several columns, a cell refers to the image in its own column of the other row, or to the only
image of that row.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any

from vlmscope.dataset.column_names import INDEX
from vlmscope.dataset.encoded import is_encoded
from vlmscope.dataset.images.cells import ImageCell, has_image_suffix
from vlmscope.dataset.rows.columns import Columns, reference_columns
from vlmscope.dataset.source import Row, Source, reading
from vlmscope.dataset.values import is_blank, shown_name, to_text

_LONGEST_ID = 64
"""Most characters of a cell that may refer to another row."""

_LONGEST_CHAIN = 8
"""Longest chain of references until a row has the image."""

_ONLY = "\0"
"""Key for the only image of a row, whatever its column."""

_FIRST_ROWS = 16
"""Rows that are checked for base64 images."""


class _Images:
    """The images that other rows refer to, by the value of one column.

    Args:
        names: Value of a row without an image → the value it refers to.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._file: IO[bytes] = TemporaryFile(prefix="vlmscope-images-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._where: dict[str, tuple[int, int]] = {}
        self._twice: set[str] = set()
        self._end = 0

    def add(self, key: str, text: str) -> None:
        """Store the image of a row; record values whose rows have different images."""
        if key in self._where:
            if self._read(key) != text:
                self._twice.add(key)
            return
        data = text.encode("utf-8", "surrogatepass")
        self._file.seek(self._end)
        self._file.write(data)
        self._where[key] = self._end, len(data)
        self._end += len(data)

    def get(self, key: str) -> str | None:
        """Return the image that a value refers to; None if there is none.

        Raises:
            _AmbiguousError: There are several.
        """
        for _ in range(_LONGEST_CHAIN):
            if key in self._where or key not in self._names:
                break
            key = self._names[key]
        if key in self._twice:
            raise _AmbiguousError
        return self._read(key) if key in self._where else None

    def _read(self, key: str) -> str:
        start, size = self._where[key]
        self._file.seek(start)
        return self._file.read(size).decode("utf-8", "surrogatepass")


class _AmbiguousError(ValueError):
    """Several rows that an image cell refers to have different images."""


@dataclass(frozen=True)
class SharedImages(Source):
    """A table with references to other rows' images, by index or id, replaced by the images."""

    inner: Source
    """The table."""
    reference_columns: tuple[str, ...]
    """The columns by which an image cell may refer to a row."""
    columns_of_images: tuple[str, ...]
    """The image columns."""
    is_together: bool = False
    """Whether these hold one image each, and the question is about all of them."""
    _kept: dict[tuple[str, str], _Images] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.inner, self.reference_columns, self.columns_of_images, self.is_together
        return SharedImages, given

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

    @property
    def by_content(self) -> bool:  # type: ignore[override]
        """That of the table."""
        return self.inner.by_content

    def origin(self, row: Row) -> str:
        """Return the location of a row as text."""
        return self.inner.origin(row)

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the table."""
        return self.inner.columns()

    def media(self) -> Mapping[str, str]:
        """Return the columns of sounds and videos."""
        return self.inner.media()

    def rows(self) -> Iterator[Row]:
        """Yield the rows, each with its image."""
        for row in self.inner.rows():
            named = self._names_of(row)
            cells = {column: self._image(column, key) for column, key in named.items()}
            cells = {column: cell for column, cell in cells.items() if cell is not None}
            yield row._replace(values={**row.values, **cells}) if cells else row

    def _image(self, own: str, key: str) -> str | ImageCell | None:
        """Return the image that a cell refers to, or its fault; None if it refers to no row.

        Without an ``index`` column, it is unknown which column a reference uses: if two lead to
        different images, none is taken.
        """
        found: dict[str, str] = {}
        kept = self._images()
        for column in self.reference_columns:
            try:
                image = kept[column, own].get(key) if self.is_together else None
                image = kept[column, _ONLY].get(key) if image is None else image
            except _AmbiguousError:
                return ImageCell("", None, flaw=_several_rows(key, column))
            if image is not None:
                found[column] = image
        if len(set(found.values())) > 1:
            return ImageCell("", None, flaw=_several_columns(key, tuple(found)))
        return next(iter(found.values()), None)

    def _images(self) -> Mapping[tuple[str, str], _Images]:
        """Return the images that are referenced, read from the table once.

        Keys are the reference column and the image column; ``_ONLY`` for the only image of a row.
        """
        if self._kept:
            return self._kept
        own = (*self.columns_of_images, _ONLY) if self.is_together else (_ONLY,)
        names: dict[tuple[str, str], dict[str, str]] = {
            (column, each): {} for column in self.reference_columns for each in own
        }
        wanted: set[str] = set()
        for row in self.inner.rows():
            for each, key in self._names_of(row).items():
                wanted.add(key)
                for column in self.reference_columns:
                    chain = names[column, each if self.is_together else _ONLY]
                    chain.setdefault(_key(row.values.get(column)), key)
        kept = {at: _Images(chain) for at, chain in names.items()}
        for row in self.inner.rows():
            stored = self._stored_alone(row)
            for column in self.reference_columns:
                key = _key(row.values.get(column))
                if key in wanted:
                    for each, image in stored.items():
                        kept[column, each].add(key, image)
        self._kept.update(kept)
        return self._kept

    def _stored_alone(self, row: Row) -> dict[str, str]:
        """Return the images of a row by column, and the only one under ``_ONLY``."""
        stored = self._stored(row)
        first = {_ONLY: next(iter(stored.values()))} if stored else {}
        if not self.is_together:
            return first
        return stored | first if len(stored) == 1 else stored

    def _stored(self, row: Row) -> dict[str, str]:
        """Return the images stored in a row, by column."""
        cells = ((column, row.values.get(column)) for column in self.columns_of_images)
        return {name: cell for name, cell in cells if isinstance(cell, str) and is_encoded(cell)}

    def _names_of(self, row: Row) -> dict[str, str]:
        """Return column → the row that it may refer to.

        Empty for a row with its own image, unless each column contains one of several.
        """
        named = {column: self._named(row, column) for column in self.columns_of_images}
        if not any(named.values()) or (not self.is_together and self._stored(row)):
            return {}
        return {column: key for column, key in named.items() if key}

    def _named(self, row: Row, column: str) -> str:
        """Return the row that an image cell may refer to; empty if it is something else."""
        value = row.values.get(column)
        if isinstance(value, str):
            if len(value) > _LONGEST_ID or value in self.missing or has_image_suffix(value):
                return ""
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        return _key(value)


def with_shared_images(source: Source, columns: Columns) -> Source:
    """Return a table whose rows have the images of the rows that they refer to.

    Args:
        source: The table; returned unchanged if its first rows contain no base64.
        columns: Its columns, by role.
    """
    if not columns.images:
        return source
    with reading(source):
        references = reference_columns(columns, source.columns())
        holding = {
            column
            for row in islice(source.rows(), _FIRST_ROWS)
            for column in columns.images
            if isinstance(cell := row.values.get(column), str) and is_encoded(cell)
        }
    if not references or not holding:
        return source
    images = tuple(c for c in columns.images if columns.is_together or c in holding)
    return SharedImages(source, references, images, columns.is_together)


def _several_rows(key: str, column: str) -> str:
    return (
        f"refers to row {shown_name(key)}, and several rows with that {shown_name(column)} contain "
        "different images; write the image itself there"
    )


def _several_columns(key: str, columns: Sequence[str]) -> str:
    return (
        f"refers to row {shown_name(key)}, and by {' and '.join(map(shown_name, columns))} these "
        f"are rows with different images; rename the column with these values to {INDEX!r}, or "
        "write the image itself there"
    )


def _key(value: object) -> str:
    text = "" if is_blank(value) else to_text(value) or ""
    return text.strip().removesuffix(".0")
