"""``RowReader``: from one row of a table to one ``Sample``, or an error.

A row that cannot be recorded at all (no id) stops the table with ``InputError``; any other fault is
a ``RowError`` of that row alone, and the other rows are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from PIL import Image

from vlmscope.dataset.column_names import image_numbers, is_numbered_image
from vlmscope.dataset.images.cells import (
    ImageCell,
    ImageCells,
    find_images,
    join_images,
    plain_name,
    split_cell,
)
from vlmscope.dataset.images.finding import ImageFinder, shared_folders
from vlmscope.dataset.images.in_memory import InMemoryImage
from vlmscope.dataset.images.locate import EXPECTED, locate_images
from vlmscope.dataset.rows.columns import CATEGORY, Columns
from vlmscope.dataset.source import Row, Source
from vlmscope.dataset.values import (
    DIGEST_BYTES,
    LEFT_OUT,
    CellError,
    cells_as_bytes,
    is_blank,
    kind_name,
    shown_name,
    to_json,
    to_target,
    to_text,
    unstorable,
)
from vlmscope.errors import InputError, RowError
from vlmscope.placeholders import numbered_mark
from vlmscope.schema import LONGEST_ID, Sample

_TEXT = (str, type(None))
"""Value of an image cell that names images, or none."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a row, and its ground truth, which does not identify it."""

    id: str
    question: str
    """Empty if the row has none that a run can store."""
    image_ids: tuple[str, ...]
    """Possible values of ``Sample.image_id``: with several image columns, it depends on which files
    exist.
    """
    target: str | None
    """As ``Sample.target``; None if the table has no ground-truth column."""
    embedded: tuple[bytes | Image.Image, ...] = ()
    """Content of the images, if the table contains them and has no names for them or is in memory.
    """


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows of one table."""

    source: Source
    """The table."""
    columns: Columns
    """Its columns, by role."""
    images: Path
    """Base folder of relative image paths."""
    text_only: bool = False
    """Whether a row without an image is a question without one, rather than a failure."""
    anywhere: bool = False
    """Whether paths of images may lead out of ``images``."""
    finder: ImageFinder = field(init=False, repr=False, compare=False)
    """Finds files in ``images`` whose names in the table differ."""
    above: list[int] = field(init=False, repr=False, compare=False, default_factory=list)
    """Number of leading folders shared by all image names; computed when first needed."""

    def __post_init__(self) -> None:
        """Create the finder for the image folder."""
        object.__setattr__(self, "finder", ImageFinder(self.images))

    def origin(self, row: Row) -> str:
        """Return the location of a row as text: ``questions.csv line 41``."""
        return self.source.origin(row)

    @property
    def plain_id(self) -> str | None:
        """The column of the id, if its value is the id unchanged."""
        return self.columns.id[0] if len(self.columns.id) == 1 else None

    def id(self, row: Row) -> str:
        """Return the id: a column's value, several joined, or the row's number.

        Raises:
            InputError: it is empty, or not a text that a run can store.
        """
        names = self.columns.id
        if not names:
            return f"row_{row.nth}"
        value = row.values.get(names[0])
        if len(names) > 1:
            cells = [row.values.get(name) for name in names]
            texts = ["" if is_blank(cell) else to_text(cell) for cell in cells]
            value = next((c for c, t in zip(cells, texts, strict=True) if t is None), None)
            if value is None:
                value = "_".join(map(str, texts)) if any(texts) else ""
        # Almost all of a million rows: printable ASCII needs no further checks.
        plain = type(value) is str and value.isascii() and value.isprintable() and value.strip()
        if plain and len(str(value)) <= LONGEST_ID:
            return str(value)
        return self._odd_id(row, value)

    def _odd_id(self, row: Row, value: Any) -> str:
        text = to_text(value)
        if is_blank(value):
            found = "is empty"
        elif text is None:
            found = f"is {kind_name(value)}, expected text or a number"
        elif flaw := unstorable(text):
            found = f"{shown_name(text)} contains {flaw}"
        elif (size := len(text.encode())) > LONGEST_ID:
            found = f"{shown_name(text)} has {size:,} bytes, expected at most {LONGEST_ID:,}"
        else:
            return text
        several = len(self.columns.id) > 1
        raise InputError(
            f"{self.origin(row)}: the id in column{'s' if several else ''} "
            f"{', '.join(map(shown_name, self.columns.id))} {found}; give the row an "
            "id, or name another column with --map id=COLUMN, or pass --number-rows"
        )

    def image(self, row: Row) -> ImageCells:
        """Return the row's images, valid or not."""
        columns = self.columns
        if columns.image_patterns:
            return self._made_images(row)
        if columns.is_together:
            return join_images(row.values, columns.images, self.source.missing)
        return find_images(row.values, columns.images, self.source.missing)

    def _made_images(self, row: Row) -> ImageCells:
        """Return the images whose paths are made from other columns; none if one is a gap."""
        values, missing = row.values, self.source.missing
        cells: list[ImageCell] = []
        for pattern in self.columns.image_patterns:
            if pattern.has_gap(values, missing):
                continue
            try:
                cells += [ImageCell(name, None) for name in pattern.fill_each(values, missing)]
            except CellError as error:
                cells.append(ImageCell("", None, flaw=f"{error}; write one there"))
        return ImageCells(tuple(cells), frozenset())

    def _plain_image(self, row: Row) -> str | None:
        """Return the name of the row's image in the common case of one plain name."""
        if self.columns.is_together or not self.columns.images:
            return None
        return plain_name(row.values, self.columns.images, self.source.missing)

    def folders_above(self) -> int:
        """Return the number of leading folders that all image names of the table share."""
        if not self.above:
            names = (
                cell.name
                for row in self.source.rows()
                for cell in self.image(row).images
                if cell.name
            )
            self.above.append(shared_folders(names))
        return self.above[0]

    def image_value(self, row: Row) -> Any:
        """Return the identity of this row's images, as JSON; None without images.

        Embedded images are identified by name, or by size and a hash of their bytes without one.
        """
        name = self._plain_image(row)
        if name is not None:
            return name
        image = self.image(row)
        if not image.images:
            return None
        return image.content_key if self.source.by_content else image.key

    def count_images(self, row: Row) -> int:
        """Return how many images the row has, valid or not."""
        return len(self.image(row).images)

    def key(self, row: Row, sample_id: str, images: Any, question: str | None = None) -> str:
        """Return the identity of this row as bytes, the same for every format.

        Args:
            row: The row.
            sample_id: Its id.
            images: Its ``image_value``.
            question: Its ``question_or_gap``, if already known.
        """
        question = self.question_or_gap(row) if question is None else question
        if images is None:
            images = ""
        cells = (sample_id, images, question, self._target_or_gap(row))
        if not isinstance(images, str):
            return json.dumps(cells) + "\n"
        # The same text, without creating an encoder for each of a million rows.
        return f"[{', '.join(map(encode_basestring_ascii, cells))}]\n"

    def identity(self, row: Row, sample_id: str) -> Identity:
        """Return the identity of a row, also of an invalid row.

        Args:
            row: The row.
            sample_id: Its id.
        """
        try:
            question = self._question(row)
        except RowError:
            question = ""
        target = None if self.columns.target is None else self._target_or_gap(row)
        others = self._names_by_column(row)
        if not others and (name := self._plain_image(row)) is not None:
            return Identity(sample_id, question, (name,), target)
        image = self.image(row)
        names = dict.fromkeys((self._image_id(image, sample_id), *others))
        return Identity(sample_id, question, tuple(names), target, self._embedded(image))

    def _embedded(self, image: ImageCells) -> tuple[bytes | Image.Image, ...]:
        """Return a row's images if their content is part of the row's identity."""
        counts = self.source.by_content
        if not all(cell.data and (counts or not cell.name) for cell in image.images):
            return ()
        return tuple(
            cell.data.image if isinstance(cell.data, InMemoryImage) else cell.data or b""
            for cell in image.images
        )

    def _names_by_column(self, row: Row) -> tuple[str, ...]:
        """Return the names of the row's images in each column that may hold them."""
        columns, missing = self.columns, self.source.missing
        if len(columns.images) < 2 or columns.is_together or columns.image_patterns:
            return ()
        cells = (split_cell(row.values.get(column), missing) for column in columns.images)
        names = (", ".join(cell.name for cell in each if cell.name) for each in cells)
        return tuple(name for name in names if name)

    def digest(self, row: Row) -> bytes:
        """Return a hash of all cells of the row, ``DIGEST_BYTES`` long.

        Unlike the fingerprint it covers metadata too. Embedded images count by their name or hash,
        as they do there.
        """
        cells = row.values
        if not all(type(cells.get(column)) in _TEXT for column in self.columns.images):
            plain = {name: cell for name, cell in cells.items() if name not in self.columns.images}
            cells = {"cells": plain, "images": self.image_value(row)}
        try:
            data = cells_as_bytes(cells)
        except RecursionError:  # metadata is never nested so deeply
            data = self.key(row, self.id(row), self.image_value(row)).encode()
        return blake2b(data, digest_size=DIGEST_BYTES).digest()

    def sample(self, row: Row) -> Sample:
        """Return a row as a ``Sample``. Images are not opened.

        Raises:
            InputError: the id is unusable.
            RowError: anything else is, stage ``input``.
        """
        sample_id, origin = self.id(row), self.origin(row)
        question = self._question(row)
        target = self._target(row)
        image = self._chosen_image(row)
        for what, text in (("question", question), ("target", target), ("image name", image.name)):
            if flaw := unstorable(text):
                raise self._error(row, f"the {what} contains {flaw}", "plain text")
        images = self._images(row, image)
        self._check_numbers(row, question, len(images))
        return Sample(
            id=sample_id,
            image=images if len(images) > 1 else next(iter(images), None),
            question=question,
            target=target,
            metadata=self._metadata(row, image),
            image_id=self._image_id(image, sample_id),
            origin=origin,
        )

    def _error(self, row: Row, found: str, expected: str) -> RowError:
        return RowError("input", f"{self.origin(row)}: {found}; write {expected} there")

    @staticmethod
    def _image_id(image: ImageCells, sample_id: str) -> str:
        return image.name or (sample_id if image.images else "")

    def _question(self, row: Row) -> str:
        template, column = self.columns.question_template, self.columns.question
        what = f"in column {shown_name(column)}" if template is None else "of --question-template"
        try:
            value = row.values.get(column) if template is None else self._made_question(row)
        except CellError as error:
            raise self._error(row, f"the value {error}", "another value") from error
        if is_blank(value) or (isinstance(value, str) and value in self.source.missing):
            raise self._error(row, f"the question {what} is empty", "a question")
        text = to_text(value)
        if text is None:
            found = f"the question {what} is {kind_name(value)}"
            raise self._error(row, found, "text")
        return text

    def _made_question(self, row: Row) -> str | None:
        template = self.columns.question_template
        assert template is not None  # noqa: S101 - for the type checker
        return template.fill(row.values, self.source.missing)

    def question_or_gap(self, row: Row) -> str:
        """Return the question, empty if the row fails because of it."""
        if self.columns.question_template is None:
            return to_text(row.values.get(self.columns.question)) or ""
        try:
            return self._made_question(row) or ""
        except CellError:
            return ""

    def _target(self, row: Row) -> str:
        column = self.columns.target
        if column is None:
            return ""
        try:
            target = to_target(row.values.get(column), self.source.missing)
        except CellError as error:
            raise self._error(
                row, f"the target in column {shown_name(column)} {error}", "text"
            ) from error
        if target is None:
            raise self._error(row, f"the target in column {shown_name(column)} is bytes", "text")
        return target

    def _target_or_gap(self, row: Row) -> str:
        """Return the target, empty if the row fails because of it."""
        try:
            return self._target(row)
        except RowError:
            return ""

    def _images(
        self, row: Row, image: ImageCells
    ) -> tuple[bytes | Path | Image.Image, ...]:  # fmt: skip
        """Return the images: their content in the table, or else their paths."""
        if not image.images and not self.text_only:
            raise self._no_image(row)
        try:
            return locate_images(
                image, self.finder, anywhere=self.anywhere, folders_above=self.folders_above
            )
        except RowError as error:
            raise RowError(error.stage, f"{self.origin(row)}: {error}") from error

    def _chosen_image(self, row: Row) -> ImageCells:
        """Return the row's images; with several columns, those of the column whose files exist.

        The choice does not affect the row's identity: ``image`` does not look at files.
        """
        image = self.image(row)
        columns = self.columns
        if len(columns.images) < 2 or columns.is_together or not image.images:
            return image
        if any(cell.opened or not cell.name or self._is_there(cell.name) for cell in image.images):
            return image
        for column in columns.images:
            cells = split_cell(row.values.get(column), self.source.missing)
            there = all(cell.name and self._is_there(cell.name) for cell in cells)
            if cells and there and column not in image.columns:
                return ImageCells(cells, frozenset([column]))
        return image

    def _check_numbers(self, row: Row, question: str, count: int) -> None:
        """Raise if a question refers to images by number and the columns number them differently.

        The prompt counts existing images: with a gap before it, ``image_3`` is the second.
        """
        if not numbered_mark(question):
            return
        named = self._numbered_columns(row)
        numbers = [number for _, number, images in named for _ in range(images)]
        if named and numbers != list(range(1, count + 1)):
            columns = " and ".join(shown_name(name) for name, _, _ in named)
            raise self._error(
                row,
                f"the question names images by number ({numbered_mark(question)}), and those in "
                f"{columns} are not numbered from 1 without a gap",
                "one image each into the first columns of images",
            )

    def _numbered_columns(self, row: Row) -> list[tuple[str, int, int]]:
        """Return name, number and image count of each numbered image column."""
        columns, missing = self.columns, self.source.missing
        if columns.image_patterns:
            patterns = columns.image_patterns
            each = [next(filter(is_numbered_image, p.columns), p.columns[0]) for p in patterns]
            counts = [int(not p.has_gap(row.values, missing)) for p in patterns]
        else:
            each = list(columns.images) if columns.is_together else []
            counts = [len(split_cell(row.values.get(name), missing)) for name in each]
        numbers = image_numbers(each) or range(1, len(each) + 1)
        return [found for found in zip(each, numbers, counts, strict=True) if found[2]]

    def _is_there(self, name: str) -> bool:
        return "://" not in name and "\0" not in name and (self.images / name).is_file()

    def _no_image(self, row: Row) -> RowError:
        columns = " or ".join(repr(column) for column in self.columns.images)
        if self.columns.image_patterns:
            names = (name for each in self.columns.image_patterns for name in each.columns)
            columns = " or ".join(map(repr, dict.fromkeys(names)))
        found = f"{self.origin(row)}: no image in column {columns}"
        hint = "pass --text-only for questions without an image"
        return RowError("input", f"{found}; {EXPECTED}, or {hint}")

    def _metadata(self, row: Row, image: ImageCells) -> dict[str, Any]:
        """Return every column that has no other role in this row."""
        columns = self.columns
        # Without an image, the image columns are all empty.
        of_image = image.columns if image.images else columns.images
        used = {columns.question, columns.target, *of_image}.difference(columns.kept)
        if len(columns.id) == 1:
            used.add(columns.id[0])
        if columns.category is not None:
            used.add(columns.category)
        cells = (item for item in row.values.items() if item[0] not in used)
        plain = {name: self._plain(row, name, cell) for name, cell in cells}
        if columns.category is not None:
            plain[CATEGORY] = self._category(row, columns.category)
        return {name: cell for name, cell in plain.items() if cell is not LEFT_OUT}

    def _category(self, row: Row, column: str) -> Any:
        category = self._plain(row, column, row.values.get(column))
        if category is LEFT_OUT:
            raise self._error(row, f"the category in column {shown_name(column)} is bytes", "text")
        return category

    def _plain(self, row: Row, name: str, cell: Any) -> Any:
        try:
            return to_json(cell)
        except CellError as error:
            found = f"the value in column {shown_name(name)} {error}"
            raise self._error(row, found, "a plain value") from error
