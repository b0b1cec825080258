"""Options that a table has and its questions do not show: said before the model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from vlmscope.choice_columns import MOST_OPTIONS, ChoiceColumns, choice_columns
from vlmscope.dataset.rows.reader import RowReader
from vlmscope.dataset.source import reading
from vlmscope.dataset.values import is_blank, printed_list, shown_name, to_text

_FIRST_ROWS = 50
_MARK = re.compile(r"\s*(?P<number>\d{1,2})(?:\.0)?\s*|\s*[(\[]?[A-Za-z][)\].:]{0,2}\s*", re.ASCII)


def unasked_options(reader: RowReader) -> Iterator[str]:
    """Yield that truths are numbers or letters of options which the questions do not show.

    Args:
        reader: The table; its first rows are looked at.
    """
    columns = reader.columns
    if columns.question_template is not None or columns.target is None:
        return
    with reading(reader.source):
        used = {*columns.id, *columns.images, columns.question, columns.target}
        found = choice_columns(name for name in reader.source.columns() if name not in used)
        if not found.lists and not found.each:
            return
        for row in islice(reader.source.rows(), _FIRST_ROWS):
            truth = to_text(row.values.get(columns.target)) or ""
            mark = _MARK.fullmatch(truth)
            named = _options(row.values, found) if mark else None
            if mark is None or named is None or _are_shown(reader.question_or_gap(row), named[1]):
                continue
            names, options = named
            if truth.strip() not in options:
                what = "number" if mark["number"] else "letter"
                yield (
                    f"{reader.source.name}: the truth {shown_name(truth)} may be the {what} of an "
                    f"option in {shown_name(names[0])}, and the questions do not show the options; "
                    f"pass --question-template '{_template(names)}' to ask with them"
                )
                return


def _options(
    values: Mapping[str, Any], found: ChoiceColumns
) -> tuple[tuple[str, ...], list[str]] | None:
    """Return the columns that hold a row's options, and the options; None for none."""
    for name in found.lists:
        cell = values.get(name)
        cell = printed_list(cell) if isinstance(cell, str) else cell
        texts = _texts(cell) if isinstance(cell, list | tuple) else []
        if len(texts) > 1:
            return (name,), texts
    texts = _texts([values.get(name) for name in found.each])
    return (found.each, texts) if len(texts) > 1 else None


def _texts(cells: list[Any] | tuple[Any, ...]) -> list[str]:
    texts = (to_text(cell) for cell in cells[:MOST_OPTIONS] if not is_blank(cell))
    return [text.strip() for text in texts if text]


def _are_shown(question: str, options: list[str]) -> bool:
    folded = question.casefold()
    return all(option.casefold() in folded for option in options)


def _template(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return rf"{{question}}\n{{{names[0]}:A}}"
    each = (rf"\n{chr(ord('A') + at)}. {{{name}}}" for at, name in enumerate(names))
    return "{question}" + "".join(each)
