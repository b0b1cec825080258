"""Which columns of the table the results are broken down by, and known before the answer.

A column says of what kind a question is: its category, source, domain. Columns with these names are
taken where they have a few values; others where they are asked for, because a column with another
name may hold what was found out later, the label among it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlmscope.errors import InputError
from vlmscope.sweeps.data import LeftOut, ProbeData
from vlmscope.sweeps.table_columns import NEVER, shown

DEFAULT_COLUMNS = ("category", "answer_type", "source", "type", "domain")
"""Columns that are taken without being asked for."""

MOST_VALUES = 50
"""Most different values of a column."""

FEWEST_ROWS = 2
"""Rows that two of its values must have, at least."""


def with_columns(data: ProbeData, by: Sequence[str] | None = None) -> ProbeData:
    """Return the rows with the columns to break results down by, known before the answer.

    Args:
        data: The rows, with every column of their table.
        by: Names of columns; by default those of ``DEFAULT_COLUMNS`` that can be used.

    Raises:
        InputError: There is no such column, or it cannot be used.
    """
    if by is None:
        names = [n for n in DEFAULT_COLUMNS if n in data.columns and not _fault(data.columns[n])]
    else:
        names = list(dict.fromkeys(by))
        for name in names:
            _check(name, data)
    tells = [n for n in names if n != "category" and _tells_label(data.columns[n], data)]
    known = ("category", "answer_type", *tells)
    extra = {name: data.columns[name] for name in names if name not in known}
    return replace(
        data,
        by=tuple(names),
        facts=replace(data.facts, columns=extra),
        left_out=(*data.left_out, *(_told(name, data) for name in tells if name != "answer_type")),
    )


def _check(name: str, data: ProbeData) -> None:
    """Refuse a column that is none, or cannot be used."""
    usable = [other for other, cells in data.columns.items() if not _fault(cells)]
    fault = _fault(data.columns[name]) if name in data.columns else "is no column of the table"
    if name in NEVER:
        fault = "says the question, its image, the answer or the label"
    if fault:
        there = ", ".join(map(shown, usable)) or "none"
        raise InputError(f"--by: {name!r} {fault}; columns that can be used: {there}")


def _fault(cells: Sequence[str]) -> str:
    """Return why a column cannot be used, or an empty text.

    >>> _fault(["a", "a", "b", "b", ""]), _fault(["a", "a", "b"])
    ('', 'has 1 value with 2 rows or more, expected 2 to 50 such values')
    """
    counts = Counter(cell for cell in cells if cell)
    if len(counts) > MOST_VALUES:
        return f"has {len(counts):,} different values, expected 2 to {MOST_VALUES}"
    often = sum(count >= FEWEST_ROWS for count in counts.values())
    if often < 2:
        noun = "value" if often == 1 else "values"
        return (
            f"has {often} {noun} with {FEWEST_ROWS} rows or more, expected 2 to {MOST_VALUES} "
            "such values"
        )
    return ""


def _tells_label(cells: Sequence[str], data: ProbeData) -> bool:
    """Return whether each value has one outcome only, as a column made of the labels would."""
    seen: dict[str, set[bool]] = {}
    for cell, truth in zip(cells, data.truth.tolist(), strict=True):
        seen.setdefault(cell, set()).add(truth)
    return all(len(outcomes) == 1 for outcomes in seen.values())


def _told(name: str, data: ProbeData) -> LeftOut:
    return LeftOut(
        f"column {shown(name)}",
        int(np.sum([bool(cell) for cell in data.columns[name]])),
        "each of its values has one outcome, so it may be made of the labels; it does not count "
        "as known before the answer",
    )
