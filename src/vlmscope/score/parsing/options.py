"""Ground truths that are an option's number or letter, resolved by the row's options column.

Multiple-choice benchmarks keep their options in separate columns: ScienceQA, AI2D and A-OKVQA as a
list with the number of the correct one, SEED-Bench and MMBench as one column per letter, MMMU as
the text of a list. Without them, the ground truth ``1`` is read as a count and ``B`` cannot be
read.

A number is an option's number only if the whole column supports it: an option may itself be a
number (*2*, *3*, *5* with the ground truth 2). A row that remains ambiguous is unscorable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

from vlmscope.choice_columns import MOST_OPTIONS, Options, choice_columns, row_options
from vlmscope.schema import Answered
from vlmscope.score.language.text import words
from vlmscope.score.parsing.choices import Choices, read_choices
from vlmscope.score.parsing.question import read_question
from vlmscope.score.parsing.truth import printed_items, read_truth
from vlmscope.score.scorer import excerpt

LETTERS = tuple(ascii_lowercase[:MOST_OPTIONS])
"""Letters of the options."""

MAX_EITHER_PER_INDEX = 4
"""Most numbers that may be an option's text or its index, per number that can only be an index."""

_NUMBER = re.compile(r"\s*(\d{1,2})(?:\.0)?\s*", re.ASCII)
_LETTER = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]{0,2}\s*")
_LETTERED = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]\s*(?P<text>.*)", re.DOTALL)
_MOST_ITEMS = 2 * MOST_OPTIONS
"""Most items of a list that are read: options, and empty cells after them."""

_TEXTS = ("text", "texts", "choices", "options")
_SEPARATORS = ("\n", "|", ";")
_GAPS = frozenset(("", "nan", "null", "<na>"))


def options_of(metadata: Mapping[str, Any]) -> Options | None:
    """Return the options in the other columns of a row; None if there are none.

    >>> options_of({"choices": ["one cup", "two boats"], "hint": ""}).texts
    ('one cup', 'two boats')
    >>> options_of({"options": "['red', 'blue']"}).texts, options_of({"A": "red", "B": "blue"})
    (('red', 'blue'), Options(texts=('red', 'blue'), columns=('A', 'B'), first=None))
    """
    found = row_options(metadata, choice_columns(metadata), items=_texts, text=_text)
    if found is None or len(found.columns) > 1:
        return found
    return replace(found, texts=_unlettered(found.texts))


def _texts(cell: Any) -> tuple[str, ...]:
    """Return the options in a cell: a list, a record of them, or a text that prints either."""
    if isinstance(cell, str):
        items = printed_items(cell.strip()) if cell.strip() else None
        if items is None:
            return _listed(cell)
        cell = items[0] if len(items) == 1 and isinstance(items[0], dict) else items
    if isinstance(cell, Mapping):
        listed = next((cell[name] for name in _TEXTS if isinstance(cell.get(name), list)), None)
        cell = [cell[key] for key in sorted(cell)] if listed is None else listed
    if not isinstance(cell, list | tuple):
        return ()
    return tuple(_text(item) for item in cell[:_MOST_ITEMS])


def _listed(text: str) -> tuple[str, ...]:
    """Return the options listed in a text, with letters or separators."""
    if choices := read_choices(text):
        return choices.texts
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.split(separator)]
        if 2 <= len(parts) <= MOST_OPTIONS and all(parts):
            return tuple(parts)
    return ()


def _text(cell: Any) -> str:
    """Return one option as text; empty for an empty cell or a value that is not text."""
    if isinstance(cell, str | int | float):
        text = str(cell).strip()
        return "" if text.lower() in _GAPS else text
    return ""


def _unlettered(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return options without their leading letters (*A. a cup*), if all have one."""
    found = [_LETTERED.fullmatch(text) for text in texts]
    if all(
        each and each[1].lower() == letter for each, letter in zip(found, LETTERS, strict=False)
    ):
        return tuple(each["text"] for each in found if each)
    return texts


@dataclass(frozen=True, slots=True)
class OptionTargets:
    """How the ground truths of a table name options. Created by ``read_option_targets``."""

    numbers: str = ""
    """Meaning of a number: ``index``, ``text``, ``unknown``, or ``base`` for an index that counts
    from 0 or from 1; empty if no ground truth is a number."""
    first: int = 0
    """The index of the first option."""
    rows: int = 0
    """Number of rows whose ground truth is the number of an option."""
    column: str = ""
    """The column that contains the options."""

    @property
    def summary(self) -> str:
        """How numbers were read, as one line; empty if they are not indices of options.

        >>> OptionTargets("index", 0, 2, "choices").summary
        "truth 0 = the first of 'choices' in 2 rows"
        """
        if self.numbers != "index" or not self.rows:
            return ""
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"truth {self.first} = the first of {self.column!r} in {rows}"

    def resolve(self, row: Answered) -> Answered:
        """Return a row whose ground truth is the option's text instead of its number or letter.

        >>> row = Answered("q", "Which?", "A boat.", "1", {"choices": ["cup", "boat"]})
        >>> OptionTargets("index").resolve(row).target
        'boat'
        """
        options = options_of(row.metadata)
        if options is None or not isinstance(row.target, str):
            return row
        choices = read_question(row.question).choices
        if found := _NUMBER.fullmatch(row.target):
            return self._resolve_number(row, int(found[1]), options, choices)
        at = _letter_index(row.target, options)
        return row if at is None or choices else _with_option(row, options, at, None)

    def _resolve_number(
        self, row: Answered, number: int, options: Options, choices: Choices | None
    ) -> Answered:
        texts = options.texts
        reading = _reading(number, options)
        if self.numbers == "index":
            at = number - self.first
            if not 0 <= at < len(texts):
                return _unreadable(row, f"the number of none of {len(texts)} options")
            return _with_option(row, options, at, choices)
        if self.numbers in ("", "text") or reading == "neither":
            return row
        if self.numbers == "base":
            return row if choices and reading == "index" else _unreadable(row, _BASE)
        is_text = self.numbers == "mixed" and reading == "text"
        return row if is_text else _unreadable(row, _COUNT)


_COUNT = "a number that may be an option's or its text"
_BASE = "an option's number, counted from 0 or from 1"


def _unreadable(row: Answered, why: str) -> Answered:
    return replace(row, target="", unreadable=f"{why}: truth {excerpt(row.target)}")


def _with_option(row: Answered, options: Options, at: int, choices: Choices | None) -> Answered:
    """Return a row whose ground truth is an option: its letter, if the question lists them."""
    text = options.texts[at]
    if choices is None:
        plain = read_truth(text).accepted == (text,)
        target = text if plain else json.dumps([text], ensure_ascii=False)
        return replace(row, target=target, options=options.texts)
    shown = _index_of(text, choices.texts)
    if shown is None and len(choices.texts) != len(options.texts):
        return _unreadable(row, "an option that the question does not list")
    return replace(row, target=f"({choices.letters[at if shown is None else shown]})")


def _index_of(text: str, texts: Iterable[str]) -> int | None:
    """Return the index of the option equal to a text; None if none or several are."""
    tokens = words(text)
    found = [at for at, option in enumerate(texts) if words(option) == tokens] if tokens else []
    return found[0] if len(found) == 1 else None


def _letter_index(target: str, options: Options) -> int | None:
    """Return the index for a letter; None if it is not a letter, or is itself an option."""
    found = _LETTER.fullmatch(target)
    if found is None or _index_of(target, options.texts) is not None:
        return None
    at = LETTERS.index(found[1].lower())
    return at if at < len(options.texts) else None


def _reading(number: int, options: Options) -> str:
    """Return the possible meanings of a number: ``index``, ``text``, ``either`` or ``neither``."""
    is_index = number <= len(options.texts)
    is_text = any(_is_text_of(text, number) for text in options.texts)
    if is_text:
        return "either" if is_index else "text"
    return "index" if is_index else "neither"


def _is_text_of(text: str, number: int) -> bool:
    """Return whether an option is the number; *none*, which the rules compare as 0, is not."""
    return words(text) == (str(number),) and text.strip(" .").casefold() not in ("no", "none")


def read_option_targets(rows: Iterable[Answered]) -> OptionTargets:
    """Return how the ground truths of a table name options, determined from all of its rows.

    >>> rows = [
    ...     Answered("a", "Which?", "", "0", {"choices": ["cup", "boat"]}),
    ...     Answered("b", "How many?", "", "1", {"choices": ["1", "2"]}),
    ... ]
    >>> read_option_targets(rows).summary
    "truth 0 = the first of 'choices' in 2 rows"
    """
    found: dict[str, int] = dict.fromkeys(("index", "text", "either", "neither"), 0)
    zero = last = False
    columns: dict[str, None] = {}
    declared: int | None = None
    for row in rows:
        options = options_of(row.metadata)
        if options is None or not isinstance(row.target, str) or not row.target.strip():
            continue
        match = _NUMBER.fullmatch(row.target)
        if match is None:
            found["text"] += _index_of(row.target, options.texts) is not None
            continue
        number = int(match[1])
        found[_reading(number, options)] += 1
        columns.setdefault(options.columns[0])
        declared = options.first if declared is None else declared
        zero |= number == 0
        last |= number == len(options.texts)
    if not columns:
        return OptionTargets()
    column, count = next(iter(columns)), found["index"] + found["either"]
    if found["index"] and found["text"]:
        return OptionTargets("mixed", column=column)
    if found["index"] and not found["neither"]:
        if (zero and last) or MAX_EITHER_PER_INDEX * found["index"] < found["either"]:
            return OptionTargets("unknown", column=column)
        first = 0 if zero else 1 if last else declared
        return OptionTargets("base" if first is None else "index", first or 0, count, column)
    return OptionTargets("text" if found["text"] else "unknown", column=column)
