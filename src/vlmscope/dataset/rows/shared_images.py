"""Tables in which the image of a row may stand in another row.

A table that holds its images as base64 writes a large one once: the other questions about it hold
the first one's ``index`` in its place, whatever column is the id. The images that are named so are
kept in a temporary file, and put where they are named; memory stays flat. Of a table with one image
in each of several columns, a cell names the image in its own column of the other row, or the only
one that this row holds.
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
"""Characters of a cell that may name another row."""

_LONGEST_CHAIN = 8
"""Rows that may name one another until one holds the image."""

_ONLY = "\0"
"""Stands for the column of the only image that a row holds."""

_FIRST_ROWS = 16
"""Rows that are looked at for an image in base64."""


class _Images:
    """The images that other rows name, by the value of one column.

    Args:
        names: Value of a row that holds no image → the value that it names.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._file: IO[bytes] = TemporaryFile(prefix="vlmscope-images-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._where: dict[str, tuple[int, int]] = {}
        self._twice: set[str] = set()
        self._end = 0

    def add(self, key: str, text: str) -> None:
        """Keep the image of a row; note where several rows of one value hold different ones."""
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
        """Return the image that a value leads to; None where it leads to none.

        Raises:
            _AmbiguousError: It leads to several.
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
    """Several rows of the value that an image cell names hold different images."""


@dataclass(frozen=True)
class SharedImages(Source):
    """A table whose rows are given the images that they name by another row's index or id."""

    inner: Source
    """The table."""
    reference_columns: tuple[str, ...]
    """Its columns that an image cell may name a row by."""
    columns_of_images: tuple[str, ...]
    """Its columns that hold images."""
    is_together: bool = False
    """Whether these hold one image each, all of them the question's."""
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
        """Say where a row of the table stands."""
        return self.inner.origin(row)

    def columns(self) -> tuple[str, ...]:
        """Name the columns of the table."""
        return self.inner.columns()

    def media(self) -> Mapping[str, str]:
        """Name the columns of sounds and videos."""
        return self.inner.media()

    def rows(self) -> Iterator[Row]:
        """Read the rows, each with its image."""
        for row in self.inner.rows():
            named = self._names_of(row)
            cells = {column: self._image(column, key) for column, key in named.items()}
            cells = {column: cell for column, cell in cells.items() if cell is not None}
            yield row._replace(values={**row.values, **cells}) if cells else row

    def _image(self, own: str, key: str) -> str | ImageCell | None:
        """Return the image that a cell names, or what is wrong with it; None where it names no row.

        By which column it is named is not known where the table has no ``index``: where two lead
        to different images none is taken.
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
        """Return the images that are named, read from the table once.

        By column of reference and column of images; under ``_ONLY`` those that a row has alone.
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
            held = self._held_alone(row)
            for column in self.reference_columns:
                key = _key(row.values.get(column))
                if key in wanted:
                    for each, image in held.items():
                        kept[column, each].add(key, image)
        self._kept.update(kept)
        return self._kept

    def _held_alone(self, row: Row) -> dict[str, str]:
        """Return the images of a row, by column, as others may name them; the only one by none."""
        held = self._held(row)
        first = {_ONLY: next(iter(held.values()))} if held else {}
        if not self.is_together:
            return first
        return held | first if len(held) == 1 else held

    def _held(self, row: Row) -> dict[str, str]:
        """Return the images that a row holds itself, by column."""
        cells = ((column, row.values.get(column)) for column in self.columns_of_images)
        return {name: cell for name, cell in cells if isinstance(cell, str) and is_encoded(cell)}

    def _names_of(self, row: Row) -> dict[str, str]:
        """Return column → the row that it may name.

        Nothing of a row that holds its own image, unless each column holds one of several.
        """
        named = {column: self._named(row, column) for column in self.columns_of_images}
        if not any(named.values()) or (not self.is_together and self._held(row)):
            return {}
        return {column: key for column, key in named.items() if key}

    def _named(self, row: Row, column: str) -> str:
        """Return the row that an image cell may name; empty where it is something else."""
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
        f"names row {shown_name(key)}, and several rows with that {shown_name(column)} hold "
        "different images; write the image itself there"
    )


def _several_columns(key: str, columns: Sequence[str]) -> str:
    return (
        f"names row {shown_name(key)}, and by {' and '.join(map(shown_name, columns))} these are "
        f"rows with different images; rename the column that it names rows by to {INDEX!r}, or "
        "write the image itself there"
    )


def _key(value: object) -> str:
    text = "" if is_blank(value) else to_text(value) or ""
    return text.strip().removesuffix(".0")
