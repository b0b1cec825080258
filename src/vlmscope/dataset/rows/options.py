"""Detection of multiple-choice options that the questions of a table do not show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vlmscope.choice_columns import (
    MOST_OPTIONS,
    ChoiceColumns,
    Options,
    choice_columns,
    row_options,
)
from vlmscope.dataset.rows.reader import RowReader
from vlmscope.dataset.source import reading
from vlmscope.dataset.values import is_blank, printed_list, shown_name, to_text

_FIRST_ROWS = 50
_MOST_ITEMS = 2 * MOST_OPTIONS  # options, and gaps behind them
_MARK = re.compile(r"\s*(?P<number>\d{1,2})(?:\.0)?\s*|\s*[(\[]?[A-Za-z][)\].:]{0,2}\s*", re.ASCII)


def unasked_options(reader: RowReader) -> Iterator[str]:
    """Yield a note if ground truths are numbers or letters of options missing from the questions.

    Args:
        reader: The table; its first rows are checked.
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
            options = _options(row.values, found) if mark else None
            if mark is None or options is None:
                continue
            if _are_shown(reader.question_or_gap(row), options.texts):
                continue
            if truth.strip() not in options.texts:
                what = "number" if mark["number"] else "letter"
                yield (
                    f"{reader.source.name}: the ground truth {shown_name(truth)} may be the {what} "
                    f"of an option in {shown_name(options.columns[0])}, and the questions do not "
                    f"contain the options; pass --question-template '{_template(options.columns)}' "
                    "to ask with them"
                )
                return


def _options(values: Mapping[str, Any], found: ChoiceColumns) -> Options | None:
    """Return a row's options if a question template could show them; else None."""
    return row_options(values, found, items=_listed, text=_text)


def _listed(cell: Any) -> list[str]:
    """Return the items of a cell, as a template reads them."""
    cell = printed_list(cell) if isinstance(cell, str) else cell
    return list(map(_text, cell[:_MOST_ITEMS])) if isinstance(cell, list | tuple) else []


def _text(cell: Any) -> str:
    return "" if is_blank(cell) else (to_text(cell) or "").strip()


def _are_shown(question: str, options: Sequence[str]) -> bool:
    folded = question.casefold()
    return all(option.casefold() in folded for option in options)


def _template(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return rf"{{question}}\n{{{names[0]}:A}}"
    each = (rf"\n{chr(ord('A') + at)}. {{{name}}}" for at, name in enumerate(names))
    return "{question}" + "".join(each)
