"""Notes about a table that are not errors, shown before a model is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from os import listdir
from os.path import lexists
from pathlib import Path

from vlmscope.dataset.column_names import suggestion
from vlmscope.dataset.images.cells import ImageCell, ImageCells
from vlmscope.dataset.images.locate import locate_images
from vlmscope.dataset.rows.columns import Columns
from vlmscope.dataset.rows.options import unasked_options
from vlmscope.dataset.rows.reader import RowReader
from vlmscope.dataset.rows.shared_images import SharedImages
from vlmscope.dataset.source import Source, reading
from vlmscope.dataset.table import Table, TableScan
from vlmscope.dataset.tables.csv import CsvSource
from vlmscope.dataset.tables.json import JsonListSource
from vlmscope.dataset.tables.several import SeveralSource
from vlmscope.dataset.values import shown_name
from vlmscope.errors import RowError, join_names

FIRST_ROWS = 2_000
"""Number of rows whose image files are looked up one by one."""

MOST_ROWS = 100_000
"""Number of rows whose image files are looked up, after the first ones in folder listings."""


def table_notes(table: Table, scan: TableScan) -> Iterator[str]:
    """Yield notes about a table: how it is read, and what its rows lack.

    Args:
        table: The table. The images of its first rows are checked for existence.
        scan: The scan of all its rows.
    """
    reader = table.reader
    yield from _on_format(reader.source)
    if reader.columns.target is None:
        yield _no_truth(reader.columns, reader.source)
    if scan.without_image and not reader.text_only:
        rows = "1 row has" if scan.without_image == 1 else f"{scan.without_image:,} rows have"
        yield (
            f"{rows} no image and will fail, of {scan.rows:,}; pass --text-only if they are "
            "questions without an image"
        )
    yield from _on_columns(reader.columns)
    yield from unasked_options(reader)
    yield from _on_placeholders(scan)
    yield from _on_images(table, scan)


def _on_format(source: Source) -> Iterator[str]:
    """Yield what was detected about the file beyond its extension."""
    if isinstance(source, SharedImages):
        source = source.inner
    if isinstance(source, SeveralSource):
        yield f"{source.name}: {len(source.parts)} tables are read as one"
        source = source.parts[0]
    with reading(source):
        key = source.stand_under() if isinstance(source, JsonListSource) else ""
        if key:
            yield f"{source.name}: the rows are those under {key!r} (--records {key})"
        if isinstance(source, CsvSource):
            delimiter, is_quoted = source.dialect()
            if delimiter != source.delimiter:
                yield f"{source.name}: the fields are separated by {delimiter!r}"
            if not is_quoted:
                yield f"{source.name}: quotation marks in it are read as text, not as quoting"


def _no_truth(columns: Columns, source: Source) -> str:
    """Yield a note if no ground truth is mapped: labels need one, hours after the start."""
    with reading(source):
        found = source.columns()
    patterns = [*columns.image_patterns, columns.question_template]
    made = {name for pattern in patterns if pattern is not None for name in pattern.columns}
    used = {*columns.id, *columns.images, columns.question, *made}
    others = [name for name in found if name not in used]
    lacks = f"{source.name}: no column with the ground truth, which labels need"
    guess = suggestion("target", others)
    if guess:
        return (
            f"{lacks}; if it is {shown_name(guess)}, pass --map target={shlex.quote(guess)} now, "
            f"or --target {shlex.quote(guess)} to vlmscope label later"
        )
    if others:
        return (
            f"{lacks}; if it is one of {join_names(others, 20)}, pass --map target=COLUMN now, or "
            "--target COLUMN to vlmscope label later"
        )
    return f"{lacks}; vlmscope label --labels FILE reads labels from a file instead"


def _on_columns(columns: Columns) -> Iterator[str]:
    """Yield which columns of numbered images are ignored because another column has the image."""
    others = columns.left_out
    if others:
        each = ",".join(("image", *others))
        yield (
            f"{join_names(others, 10)} {'is' if len(others) == 1 else 'are'} not used: images are "
            f"taken from {join_names(columns.images)}; pass --map image={each} to use all of them"
        )


def _on_placeholders(scan: TableScan) -> Iterator[str]:
    """Yield which questions fail for their placeholders with any model."""
    marks = scan.marks
    if marks.nameless:
        yield (
            f"{_questions(marks.nameless, scan)} a placeholder such as {marks.first_nameless!r} "
            "and will fail: it does not number its image, and the images come before "
            "the question; remove it, or number it as in '<image 1>'"
        )
    if marks.missing:
        yield (
            f"{_questions(marks.missing, scan)} a placeholder such as {marks.first_missing!r} and "
            "will fail: the row has no image of that number; images are counted from 1"
        )


def _questions(count: int, scan: TableScan) -> str:
    number = "1 question" if count == 1 else f"{count:,} questions"
    return f"{number} of {scan.rows:,} {'contains' if count == 1 else 'contain'}"


def _on_images(table: Table, scan: TableScan) -> Iterator[str]:
    """Yield how the names of images are resolved."""
    reader = table.reader
    folder = _ImageFolder(reader.images)
    failing = _Failing(reader)
    looked = 0
    holds_images = False
    with reading(reader.source):
        for row in islice(reader.source.rows(), min(MOST_ROWS, scan.rows)):
            # Reading images embedded in the table takes long, and gives no names.
            if looked == FIRST_ROWS and holds_images:
                break
            looked += 1
            value = reader.image_value(row)
            if isinstance(value, str) and value and folder.has(value):
                continue
            image = reader.image(row)
            if any(cell.opened or cell.flaw or not cell.name for cell in image.images):
                holds_images = True
                continue
            names = [cell.name for cell in image.images]
            gone = [name for name in names if "\0" not in name and not folder.has(name)]
            failing.add(cell for cell in image.images if cell.name in gone)
    every = "1 row" if scan.rows == 1 else f"{scan.rows:,} rows"
    where = every if looked >= scan.rows else f"the first {looked:,} rows"
    found = reader.finder.found
    if found:
        name, path = next(iter(found.items()))
        several = f"{len(found):,} image names are not exact paths"
        yield (
            f"{'1 image name is not an exact path' if len(found) == 1 else several}; the only "
            f"matching file is used{':' if len(found) == 1 else ', such as'} "
            f"{shown_name(str(path.relative_to(reader.images)), 200)} for {shown_name(name, 200)}"
        )
    yield from failing.notes(where)


@dataclass
class _Failing:
    """Images whose rows will fail: missing files, and names that are refused."""

    reader: RowReader
    missing: list[str] = field(default_factory=list)
    """Names without a file, however they are interpreted."""
    refused: dict[str, list[str]] = field(default_factory=dict)
    """What names are instead of a path in the folder → the names."""

    def add(self, cells: Iterable[ImageCell]) -> None:
        """Add images whose names are not in the folder."""
        for cell in cells:
            if kind := self._refusal(cell):
                self.refused.setdefault(kind, []).append(cell.name)
            elif self.reader.finder.find(cell.name, self.reader.folders_above) is None:
                self.missing.append(cell.name)

    def _refusal(self, cell: ImageCell) -> str:
        """Return what a name is that is always refused; else an empty text."""
        if "://" in cell.name:
            return "URL"
        if cell.medium:
            return cell.medium.removeprefix("a ")
        reader = self.reader
        try:
            locate_images(
                ImageCells((cell,), frozenset()), reader.finder,
                anywhere=reader.anywhere, folders_above=reader.folders_above,
            )  # fmt: skip
        except RowError:
            return "path out of the image folder"
        return ""

    def notes(self, where: str) -> Iterator[str]:
        """Yield the number of images of either kind.

        Args:
            where: Description of the rows.
        """
        if self.missing:
            one = len(self.missing) == 1
            images = "1 image" if one else f"{len(self.missing):,} images"
            first = f"{':' if one else ', the first of them'} {shown_name(self.missing[0], 200)}"
            yield (
                f"{images} of {where} {'is' if one else 'are'} not in {self.reader.images}{first}; "
                "correct --images or the path"
            )
        if self.refused:
            kinds = ", ".join(
                f"{len(names):,} {_plural(kind, len(names))} ({shown_name(names[0])})"
                for kind, names in self.refused.items()
            )
            yield f"images of {where} that are not supported, and whose rows will fail: {kinds}"


def _plural(kind: str, number: int) -> str:
    first, _, rest = kind.partition(" ")
    return kind if number == 1 else f"{first}s {rest}".strip()


class _ImageFolder:
    """Existence checks in a folder; many are done by listings, which takes a tenth of the time.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked = 0
        self._last = ""
        self._listings: dict[str, frozenset[str]] = {}

    def has(self, name: str) -> bool:
        """Return whether a path exists in the folder."""
        if name == self._last:  # questions about one image tend to be close together
            return True
        if "\0" in name or not self._is_there(name):
            return False
        self._last = name
        return True

    def _is_there(self, name: str) -> bool:
        self._asked += 1
        if self._asked > FIRST_ROWS:
            inner, _, last = name.rpartition("/")
            if inner not in self._listings:
                self._listings[inner] = _names_in(self._folder / inner)
            if last in self._listings[inner]:
                return True
        return lexists(self._folder / name)


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(listdir(folder))  # noqa: PTH208 - names are wanted, of many files
    except OSError:
        return frozenset()
