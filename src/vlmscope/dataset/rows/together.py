"""Search for columns that identify the rows of a table together, if no single one does."""

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
    """Return a few columns whose combined values are unique; empty if there are none.

    Ties go to the first column; the current id's columns come first, those of the image and the
    ground truth last.

    Args:
        reader: The table. Only the first rows of a large one are checked.
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
    """Return a hash of each cell, by column, for columns of short scalars only.

    Rows are read one by one and none is kept: they may contain images.
    """
    cells = {name: array("q") for name in found}
    for row in islice(reader.source.rows(), _MOST_ROWS):
        for name in tuple(cells):
            value = row.values.get(name)
            text = "" if is_blank(value) else to_text(value)
            is_id = name in reader.columns.id  # already scanned as an id, of any length
            if text is None or (len(text) > _LONGEST_CELL and not is_id):
                del cells[name]
            else:
                cells[name].append(hash(text))
    return cells


def _distinct(cells: Mapping[str, array[int]], names: Sequence[str]) -> int:
    if not names:
        return 1
    return len(set(zip(*(cells[name] for name in names), strict=True)))
