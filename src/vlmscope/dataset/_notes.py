"""What the user should know of a table before a model is loaded, and is no error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from os import listdir
from os.path import lexists
from pathlib import Path

from vlmscope.dataset._columns import Columns
from vlmscope.dataset._csv import CsvSource
from vlmscope.dataset._fields import suggestion
from vlmscope.dataset._json import JsonListSource
from vlmscope.dataset._rows import RowReader
from vlmscope.dataset._several import SeveralSource
from vlmscope.dataset._shared_images import SharedImages
from vlmscope.dataset._source import Source, reading
from vlmscope.dataset._table import Table, TableScan
from vlmscope.dataset._values import shown_name
from vlmscope.errors import listed

FIRST_ROWS = 2_000
"""Rows whose images' files are looked for one by one."""

MOST_ROWS = 100_000
"""Rows whose images' files are looked for: behind the first ones in listings of their folders."""


def table_notes(table: Table, scan: TableScan) -> Iterator[str]:
    """Yield what the user should know of a table: how it is read, and what its rows lack.

    Args:
        table: The table. Of the images of its first rows it is looked at whether they are there.
        scan: What is in it, of all rows.
    """
    reader = table.reader
    yield from _on_format(reader.source)
    if reader.columns.target is None:
        yield _no_truth(reader.columns, reader.source)
    if scan.without_image and not reader.text_only:
        rows = "1 row has" if scan.without_image == 1 else f"{scan.without_image:,} rows have"
        yield (
            f"{rows} no image and will fail, of {scan.rows:,}; pass --text-only if they are meant "
            "to be questions about none"
        )
    yield from _on_columns(reader.columns)
    yield from _on_placeholders(scan)
    yield from _on_images(table, scan)


def _on_format(source: Source) -> Iterator[str]:
    """Yield what was found out about the file and not said by its name."""
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
                yield f"{source.name}: quotation marks in it are read as text, they quote nothing"


def _no_truth(columns: Columns, source: Source) -> str:
    """Say that no truth is mapped: labels need one, and hours later nobody remembers."""
    with reading(source):
        found = source.columns()
    used = {*columns.id, *columns.images, columns.question}
    others = [name for name in found if name not in used]
    guess = suggestion("target", others)
    named = f"; {shown_name(guess)} may be it: pass --map target={guess}" if guess else (
        f"; columns left: {listed(others, 20)}" if others else ""
    )  # fmt: skip
    return (
        f"{source.name}: no column of the truth, which labels need{named}; or name the column "
        "afterwards with vlmscope label --target"
    )


def _on_columns(columns: Columns) -> Iterator[str]:
    """Yield which columns of numbered images are left out, as another column holds the image."""
    others = columns.left_out
    if others:
        each = ",".join(("image", *others))
        yield (
            f"{listed(others, 10)} {'is' if len(others) == 1 else 'are'} not shown, the images are "
            f"taken from {listed(columns.images)}; pass --map image={each} to show all of them"
        )


def _on_placeholders(scan: TableScan) -> Iterator[str]:
    """Yield which questions fail for their placeholders, whatever the model is."""
    marks = scan.marks
    if marks.nameless:
        yield (
            f"{_questions(marks.nameless, scan)} a placeholder such as {marks.first_nameless!r} "
            "and will fail: it does not say which image it stands for, and the images stand before "
            "the question; remove it, or number it as in '<image 1>'"
        )
    if marks.missing:
        yield (
            f"{_questions(marks.missing, scan)} a placeholder such as {marks.first_missing!r} and "
            "will fail: the row has no image of that number; images are counted from 1"
        )


def _questions(count: int, scan: TableScan) -> str:
    number = "1 question" if count == 1 else f"{count:,} questions"
    return f"{number} of {scan.rows:,} {'holds' if count == 1 else 'hold'}"


def _on_images(table: Table, scan: TableScan) -> Iterator[str]:
    """Yield what becomes of the names of images."""
    reader = table.reader
    folder = _ImageFolder(reader.images)
    missing: list[str] = []
    looked = 0
    holds_images = False
    with reading(reader.source):
        for row in islice(reader.source.rows(), min(MOST_ROWS, scan.rows)):
            # To read images that lie in the table takes long, and says nothing of names.
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
            missing += _not_found(reader, gone)
    every = "1 row" if scan.rows == 1 else f"{scan.rows:,} rows"
    where = every if looked >= scan.rows else f"the first {looked:,} rows"
    found = reader.finder.found
    if found:
        name, path = next(iter(found.items()))
        number = (
            "1 name of an image is" if len(found) == 1 else f"{len(found):,} names of images are"
        )
        yield (
            f"{number} not the path of a file, and the one file that fits was taken: for "
            f"{shown_name(name, 200)} {shown_name(str(path.relative_to(reader.images)), 200)}"
        )
    if missing:
        images = "1 image" if len(missing) == 1 else f"{len(missing):,} images"
        yield (
            f"{images} of {where} {'is' if len(missing) == 1 else 'are'} not in {reader.images}, "
            f"the first of them {shown_name(missing[0], 200)}; correct --images or the path"
        )


class _ImageFolder:
    """Says which files are in a folder; of many it reads listings, which takes a tenth of the time.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked = 0
        self._last = ""
        self._listings: dict[str, frozenset[str]] = {}

    def has(self, name: str) -> bool:
        """Return whether something is at a path in the folder."""
        if name == self._last:  # questions about one image tend to be near
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


def _not_found(reader: RowReader, names: list[str]) -> list[str]:
    """Return the names that lead to no file, in whatever way they are read."""
    return [name for name in names if reader.finder.find(name, reader.folders_above) is None]
