r"""Patterns: texts with columns in braces, for image paths and questions with options.

The braces contain a column's name and, after a colon, its format: ``{image_id:012d}`` is a number
of twelve digits, ``{options:A}`` are options with letters, one a line. Nothing else is looked up,
so a table can insert its own values only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmscope.dataset.column_names import KNOWN
from vlmscope.dataset.values import (
    CellError,
    is_blank,
    kind_name,
    printed_list,
    shown_name,
    to_text,
)
from vlmscope.errors import InputError, join_names

_IMAGE = frozenset(KNOWN["image"])
_PART = re.compile(r"\{\{|\}\}|\{(?P<inside>[^{}]*)\}|[{}]")
_NUMBER = re.compile(r"(?P<fill>0?)(?P<width>\d{0,3})d")
_WHOLE = re.compile(r"\s*([+-]?\d{1,30})(?:\.0+)?\s*")
_LETTERS = "A"
_MOST_OPTIONS = 26


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot for the value of a column."""

    column: str
    """The column."""
    spec: str
    """Its format: empty, ``A`` or a number's width such as ``012d``."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text with slots. Made by ``parse_pattern``."""

    parts: tuple[str | Slot, ...]
    """Plain text and slots, in order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, each once."""
        named = (part.column for part in self.parts if isinstance(part, Slot))
        return tuple(dict.fromkeys(named))

    def fill(self, values: Mapping[str, Any], missing: frozenset[str]) -> str | None:
        """Return the text for a row; None if every column is a gap.

        Args:
            values: The row.
            missing: Texts that mean "no value" in this format.

        Raises:
            CellError: A value does not fit the format.
        """
        has_value = False
        texts = []
        for part in self.parts:
            if isinstance(part, Slot):
                value = values.get(part.column)
                gap = _is_gap(value, missing)
                has_value |= not gap
                texts.append("" if gap else _written(value, part))
            else:
                texts.append(part)
        return "".join(texts) if has_value else None

    def fill_each(self, values: Mapping[str, Any], missing: frozenset[str]) -> list[str]:
        """Return the texts for a row: one for each item, if a column contains a list.

        Raises:
            CellError: A value does not fit the format, or several columns hold lists.
        """
        found = {name: _items(values.get(name)) for name in self.columns}
        lists = {name: items for name, items in found.items() if items is not None}
        if len(lists) > 1:
            names = " and ".join(map(shown_name, lists))
            raise CellError(f"in columns {names} are lists, expected a list in one of them")
        if not lists:
            return [self.fill(values, missing) or ""]
        [(name, items)] = lists.items()
        if any(_is_gap(item, missing) for item in items):
            raise CellError(f"in column {shown_name(name)} is a list with a gap, expected none")
        return [self.fill({**values, name: item}, missing) or "" for item in items]

    def has_gap(self, values: Mapping[str, Any], missing: frozenset[str]) -> bool:
        """Return whether one of its columns is a gap in a row."""
        return any(_is_gap(values.get(column), missing) for column in self.columns)


def _items(value: Any) -> Sequence[Any] | None:
    """Return the items of a list, also one printed as text; None for anything else."""
    found = printed_list(value) if isinstance(value, str) else value
    return found if isinstance(found, list | tuple) else None


def _is_gap(value: Any, missing: frozenset[str]) -> bool:
    """Return whether a cell is empty."""
    return is_blank(value) or (isinstance(value, str) and value in missing)


def parse_pattern(
    text: str,
    found: Sequence[str],
    roles: Mapping[str, str | None],
    option: str,
    table: str,
    *,
    escapes: bool = False,
) -> Pattern:
    r"""Parse a pattern with the columns of a table.

    Args:
        text: The pattern; ``{{`` and ``}}`` are braces.
        found: The table's columns.
        roles: Field → column, for names that are not columns.
        option: The option it was given by, for messages.
        table: The table's name, for messages.
        escapes: Whether ``\n`` is a line break and ``\t`` a tab, as in a question; in a path a
            backslash is part of it.

    Raises:
        InputError: A brace is not closed, a column is missing, or a format is unknown.

    >>> pattern = parse_pattern("a_{n:03d}.png", ["n"], {}, "--image-pattern", "t.csv")
    >>> pattern.fill({"n": 7}, frozenset())
    'a_007.png'
    """
    parts: list[str | Slot] = []
    at = 0
    for match in _PART.finditer(text):
        parts.append(text[at : match.start()])
        at = match.end()
        inside = match["inside"]
        if inside is not None:
            parts.append(_slot(inside, found, roles, f"{option} {text!r}", table))
        elif match[0] in ("{{", "}}"):
            parts.append(match[0][0])
        else:
            raise InputError(
                f"{option} {text!r}: a brace is not closed; write a column as {{column}}, and a "
                "plain brace twice"
            )
    parts.append(text[at:])
    if not any(isinstance(part, Slot) for part in parts):
        raise InputError(
            f"{option} {text!r}: names no column; write at least one in braces, as in "
            f"{{{found[0] if found else 'column'}}}"
        )
    if escapes:
        parts = [
            part.replace("\\n", "\n").replace("\\t", "\t") if isinstance(part, str) else part
            for part in parts
        ]
    return Pattern(tuple(part for part in parts if part))


def _slot(
    inside: str, found: Sequence[str], roles: Mapping[str, str | None], what: str, table: str
) -> Slot:
    if inside in found:
        return Slot(inside, "")
    name, _, spec = inside.rpartition(":") if ":" in inside else (inside, "", "")
    column = name if name in found else roles.get("image" if name in _IMAGE else name)
    if column is None:
        raise InputError(
            f"{what}: {table} has no column {name!r}; columns found: {join_names(found)}"
        )
    if re.fullmatch(r"0\d{1,3}", spec):
        spec += "d"
    if spec and spec != _LETTERS and not _NUMBER.fullmatch(spec):
        raise InputError(
            f"{what}: {spec!r} is not a format; give a number's width as in {{{name}:012d}}, or "
            f"{{{name}:A}} for options with letters"
        )
    return Slot(column, spec)


def _written(value: Any, slot: Slot) -> str:
    if slot.spec == _LETTERS:
        return _with_letters(value, slot)
    if slot.spec:
        return _digits(value, slot)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas: whole numbers of a column with gaps
    if isinstance(value, list | tuple):
        texts = [to_text(item) for item in value]
        if all(text is not None for text in texts):
            return ", ".join(map(str, texts))
    text = to_text(value)
    if text is None:
        raise CellError(f"in column {shown_name(slot.column)} is {kind_name(value)}, expected text")
    return text


def _digits(value: Any, slot: Slot) -> str:
    number = value if isinstance(value, int) else None
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    if isinstance(value, str) and (found := _WHOLE.fullmatch(value)):
        number = int(found[1])
    if number is None or isinstance(value, bool) or abs(number) >= 10**30:
        shown = shown_name(value) if isinstance(value, str) else kind_name(value)
        raise CellError(
            f"in column {shown_name(slot.column)} is {shown}, expected a whole number for "
            f"{slot.spec!r}"
        )
    return format(number, slot.spec)


def _with_letters(value: Any, slot: Slot) -> str:
    """Return options one a line, each with its letter, from a list or a printed list."""
    options = printed_list(value) if isinstance(value, str) else value
    if not isinstance(options, list | tuple) or len(options) > _MOST_OPTIONS:
        shown = shown_name(value) if isinstance(value, str) else kind_name(value)
        raise CellError(
            f"in column {shown_name(slot.column)} is {shown}, expected a list of at most "
            f"{_MOST_OPTIONS} options"
        )
    given = list(options)
    while given and is_blank(given[-1]):  # lists of fixed length are padded with gaps
        given.pop()
    texts = [None if is_blank(option) else to_text(option) for option in given]
    if None in texts:
        at = texts.index(None)
        found = "a gap" if is_blank(given[at]) else kind_name(given[at])
        raise CellError(
            f"in column {shown_name(slot.column)} is a list with {found} at {at + 1}, expected text"
        )
    return "\n".join(f"{chr(ord('A') + n)}. {text}" for n, text in enumerate(texts))
