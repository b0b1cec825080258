"""Columns that tell the rows of a table apart together, where no single one does."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import islice

from vlmscope.dataset.rows.reader import RowReader
from vlmscope.dataset.values import is_blank, to_text
from vlmscope.errors import InputError

_MOST_ROWS = 20_000
_MOST_COLUMNS = 5
_LONGEST_CELL = 200


def unique_together(reader: RowReader) -> tuple[str, ...]:
    """Return a few columns that no two rows have the same values of; none if there are none.

    Of columns that do equally well the first is taken; those of the id that is there come first,
    those of the image and the truth last.

    Args:
        reader: The table. Of a large one its first rows are looked at.
    """
    columns = reader.columns
    try:
        found = reader.source.columns()
        cells = _cells(reader, found)
    except (InputError, OSError):
        return ()
    chosen = list(columns.id)
    if not cells.keys() >= set(chosen):
        return ()
    rows = max(map(len, cells.values()), default=0)
    last = {columns.target, *columns.images}
    others = [name for name in found if name not in columns.id and name not in last]
    usable = [name for name in (*others, *columns.images) if len(set(cells.get(name, ()))) > 1]
    usable.sort(key=lambda name: name == columns.question)
    while _distinct(cells, chosen) < rows:
        counts = {name: _distinct(cells, [*chosen, name]) for name in usable if name not in chosen}
        if not counts or len(chosen) == _MOST_COLUMNS:
            return ()
        best = max(counts, key=lambda name: counts[name])
        if counts[best] == _distinct(cells, chosen):
            return ()
        chosen.append(best)
    if any("," in name for name in chosen):
        return ()
    return tuple(chosen)


def _cells(reader: RowReader, found: Sequence[str]) -> dict[str, array[int]]:
    """Return a hash of each cell, by column, of the columns that hold short scalars only.

    Rows are read one by one and none is kept: they may hold images.
    """
    cells = {name: array("q") for name in found}
    for row in islice(reader.source.rows(), _MOST_ROWS):
        for name in tuple(cells):
            value = row.values.get(name)
            text = "" if is_blank(value) else to_text(value)
            is_id = name in reader.columns.id  # was scanned as an id, however long
            if text is None or (len(text) > _LONGEST_CELL and not is_id):
                del cells[name]
            else:
                cells[name].append(hash(text))
    return cells


def _distinct(cells: Mapping[str, array[int]], names: Sequence[str]) -> int:
    if not names:
        return 1
    return len(set(zip(*(cells[name] for name in names), strict=True)))
