"""Columns that tell the rows of a table apart together, where no single one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from vlmscope.dataset._rows import RowReader
from vlmscope.dataset._values import is_blank, to_text
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
        rows = [row.values for row in islice(reader.source.rows(), _MOST_ROWS)]
        found = reader.source.columns()
    except (InputError, OSError):
        return ()
    chosen = list(columns.id)
    last = {columns.target, *columns.images}
    others = [name for name in found if name not in columns.id and name not in last]
    usable = [name for name in (*others, *columns.images) if _is_short(rows, name)]
    usable.sort(key=lambda name: name == columns.question)
    while _distinct(rows, chosen) < len(rows):
        counts = {name: _distinct(rows, [*chosen, name]) for name in usable if name not in chosen}
        if not counts or len(chosen) == _MOST_COLUMNS:
            return ()
        best = max(counts, key=lambda name: counts[name])
        if counts[best] == _distinct(rows, chosen):
            return ()
        chosen.append(best)
    if any("," in name for name in chosen):
        return ()
    return tuple(chosen)


def _is_short(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether a column holds short texts only, and one in some row."""
    texts = ["" if is_blank(row.get(name)) else to_text(row.get(name)) for row in rows]
    return any(texts) and all(text is not None and len(text) <= _LONGEST_CELL for text in texts)


def _distinct(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    return len({tuple(str(row.get(name)) for name in names) for row in rows})
