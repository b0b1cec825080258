"""What the user should know of a table before a model is loaded, and is no error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from os.path import lexists

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
from vlmscope.placeholders import image_mark

FIRST_ROWS = 2_000
"""Rows that are looked at."""


def table_notes(table: Table, scan: TableScan) -> Iterator[str]:
    """Yield what the user should know of a table: how it is read, and what its rows lack.

    Args:
        table: The table. Of its rows the first ones are looked at, and of their images only
            whether they are there.
        scan: What is in it.
    """
    reader = table.reader
    yield from _on_format(reader.source)
    if reader.columns.target is None:
        yield _no_truth(reader.columns, reader.source)
    if scan.without_picture and not reader.text_only:
        rows = "1 row has" if scan.without_picture == 1 else f"{scan.without_picture:,} rows have"
        yield (
            f"{rows} no image and will fail, of {scan.rows:,}; pass --text-only if they are meant "
            "to be questions about none"
        )
    yield from _on_rows(table)


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


def _on_rows(table: Table) -> Iterator[str]:
    """Yield what the first rows show."""
    reader = table.reader
    marked: list[str] = []
    missing: list[str] = []
    with reading(reader.source):
        for row in islice(reader.source.rows(), min(FIRST_ROWS, table.limit or FIRST_ROWS)):
            if mark := image_mark(reader.question_or_gap(row)):
                marked.append(mark)
            image = reader.image(row)
            if any(cell.opened or cell.flaw or not cell.name for cell in image.pictures):
                continue
            names = [cell.name for cell in image.pictures]
            if all(lexists(reader.images / name) for name in names if "\0" not in name):
                continue
            missing += _not_found(reader, names)
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
        images = "1 image is" if len(missing) == 1 else f"{len(missing):,} images are"
        yield (
            f"among the first rows {images} not in {reader.images}, the first of them "
            f"{shown_name(missing[0], 200)}; correct --images or the path"
        )
    if marked:
        number = "1 question holds" if len(marked) == 1 else f"{len(marked):,} questions hold"
        yield (
            f"among the first rows {number} a placeholder such as {marked[0]!r} and will "
            "fail: the image stands before the question; remove the placeholders"
        )


def _not_found(reader: RowReader, names: list[str]) -> list[str]:
    """Return the names that lead to no file, in whatever way they are read."""
    return [name for name in names if reader.finder.find(name, reader.folders_above) is None]
