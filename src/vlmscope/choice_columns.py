"""Multiple-choice options of a table: which columns hold them, by name, and those of a row.

Benchmarks keep options in one column of lists (``choices``, ``options``), or in one column per
option: ``A`` to ``D``, ``choice_a`` to ``choice_d``, ``option1`` to ``option4``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MOST_OPTIONS = 26
"""One for each letter of the alphabet."""

_LISTS = frozenset(
    (
        "choices", "options", "candidates", "choicelist", "optionlist", "answerchoices",
        "answeroptions", "multiplechoices", "mcoptions", "mcchoices", "multiplechoiceoptions",
    )
)  # fmt: skip
_EACH = re.compile(r"(?P<stem>(?:choice|option|opt|candidate)s?[ _-]?)(?P<mark>[a-z]|\d{1,2})")


@dataclass(frozen=True, slots=True)
class ChoiceColumns:
    """The columns of options. Made by ``choice_columns``."""

    lists: tuple[str, ...] = ()
    """Columns that may hold the options as a list, in the order of the table."""
    each: tuple[str, ...] = ()
    """Columns that hold one option each, in the order of their letters or numbers."""
    first: int | None = None
    """The number of the first of ``each``; None where they have letters."""


def choice_columns(names: Iterable[str]) -> ChoiceColumns:
    """Return the columns of options among a table's columns.

    >>> choice_columns(["question", "B", "A", "answer"]).each, choice_columns(["Choices"]).lists
    (('A', 'B'), ('Choices',))
    >>> choice_columns(["option2", "option1"])
    ChoiceColumns(lists=(), each=('option1', 'option2'), first=1)
    """
    return _find(tuple(names))


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one row."""

    texts: tuple[str, ...]
    """Their texts, in order."""
    columns: tuple[str, ...]
    """The column that holds them, or those that hold one each: more than there are options, where
    other rows have more."""
    first: int | None = None
    """The number of the first one; None where their columns have no numbers."""


def row_options(
    values: Mapping[str, Any],
    columns: ChoiceColumns,
    *,
    items: Callable[[Any], Sequence[str]],
    text: Callable[[Any], str],
) -> Options | None:
    """Return the options of a row; None where it has fewer than two, or a gap between them.

    Lists of one length are filled up with gaps: those at the end are no options.

    Args:
        values: The row's cells by column.
        columns: Which of them hold options.
        items: Returns what a cell lists, one text each; nothing where it is no list.
        text: Returns the option in a cell, empty where there is none.
    """
    for name in columns.lists:
        if (texts := _without_gaps(items(values.get(name)))) is not None:
            return Options(texts, (name,))
    texts = _without_gaps([text(values.get(name)) for name in columns.each])
    return None if texts is None else Options(texts, columns.each, columns.first)


def _without_gaps(texts: Sequence[str]) -> tuple[str, ...] | None:
    """Return two or more texts without trailing gaps; None for fewer, or with a gap between them.

    >>> _without_gaps(["red", "blue", "", ""]), _without_gaps(["red", "", "blue"])
    (('red', 'blue'), None)
    """
    kept = list(texts)
    while kept and not kept[-1]:
        kept.pop()
    return tuple(kept) if 2 <= len(kept) <= MOST_OPTIONS and all(kept) else None


@lru_cache(maxsize=256)
def _find(names: tuple[str, ...]) -> ChoiceColumns:
    lists = tuple(name for name in names if re.sub(r"[^a-z]", "", name.casefold()) in _LISTS)
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        plain = name.strip().casefold()
        found = _EACH.fullmatch(plain)
        stem, mark = (found["stem"], found["mark"]) if found else ("", plain)
        if found or (len(plain) == 1 and plain.isascii() and plain.isalpha()):
            stems.setdefault(stem, {}).setdefault(mark, name)
    series = (_series(marks) for marks in stems.values())
    each, first = max(series, key=lambda found: len(found[0]), default=((), None))
    return ChoiceColumns(lists, each, first)


def _series(marks: dict[str, str]) -> tuple[tuple[str, ...], int | None]:
    """Return the columns whose marks are consecutive from A, 0 or 1; none for fewer than two.

    Args:
        marks: Letter or number → column.
    """
    letters = [chr(ord("a") + number) for number in range(MOST_OPTIONS)]
    numbers = {int(mark): name for mark, name in marks.items() if mark.isdecimal()}
    first = 0 if 0 in numbers else 1
    by_letter = _unbroken([marks.get(letter) for letter in letters])
    by_number = _unbroken([numbers.get(first + at) for at in range(MOST_OPTIONS)])
    if len(by_letter) >= 2:
        return by_letter, None
    return (by_number, first) if len(by_number) >= 2 else ((), None)


def _unbroken(columns: Iterable[str | None]) -> tuple[str, ...]:
    found: list[str] = []
    for column in columns:
        if column is None:
            break
        found.append(column)
    return tuple(found)
