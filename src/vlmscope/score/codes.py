"""Truths in code: what 0 and 1, or an option's number, mean in a whole column.

One row tells by its question: to *Is there a cup?* 1 is *yes*, to *How many cups?* it is one. Where
every truth of a table is 0 or 1, the column tells for statements too (*There is a cup.*), and
whether the options of a question are counted from 0 or from 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vlmscope.schema import Answered
from vlmscope.score.question import Question, read_question

FEWEST = 10
"""Rows of a column from which its code is read."""

_NUMBER = re.compile(r"\s*(\d{1,2})(?:\.0)?\s*", re.ASCII)


@dataclass(frozen=True)
class Code:
    """How the coded truths of a column are read."""

    yes_no: bool = False
    """Whether 1 is yes and 0 is no, whatever the form of the question."""

    first_option: int | None = None
    """The number of the first option; None where truths are no numbers of options."""

    rows: int = 0
    """Rows whose truth is read so."""

    @property
    def told(self) -> str:
        """How the column was read, for its reader; empty where truths are no code.

        >>> Code(yes_no=True, rows=240).told
        'truth 1 = yes, 0 = no in 240 rows'
        """
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        if self.rows and self.first_option is not None:
            return f"truth {self.first_option} = the first option in {rows}"
        return f"truth 1 = yes, 0 = no in {rows}" if self.rows else ""

    def decode(self, row: Answered) -> Answered:
        """Return a row with its truth in words.

        >>> code = Code(first_option=0)
        >>> code.decode(Answered("q", "Which? (A) red (B) blue", "B", "1")).target
        '(b)'
        """
        found = _NUMBER.fullmatch(row.target) if isinstance(row.target, str) else None
        if found is None:
            return row
        number = int(found[1])
        question = read_question(row.question)
        if self.first_option is not None and question.choices:
            at = number - self.first_option
            letters = question.choices.letters
            return replace(row, target=f"({letters[at]})") if 0 <= at < len(letters) else row
        if self.yes_no and number < 2 and not _says_otherwise(question):
            return replace(row, target="yes" if number else "no")
        return row


def read_code(rows: Iterable[Answered]) -> Code:
    """Return how a table's truths are coded, read from all of its rows.

    >>> rows = [Answered(str(n), "Is it red?", "Yes", str(n % 2)) for n in range(12)]
    >>> read_code(rows).told
    'truth 1 = yes, 0 = no in 12 rows'
    """
    numbers: Counter[int] = Counter()
    sides = options = total = coded = last = 0
    for row in rows:
        found = _NUMBER.fullmatch(row.target) if isinstance(row.target, str) else None
        total += bool(str(row.target).strip())
        if found is None:
            continue
        number = int(found[1])
        question = read_question(row.question)
        if question.choices and _NUMBERED.isdisjoint(question.choices.said):
            options += 1
            numbers[number] += 1
            last += number == len(question.choices.texts)
        elif number < 2 and not _says_otherwise(question):
            sides += 1
            coded += question.yes_no and not question.either
    if options >= FEWEST and options == total and not (numbers[0] and last):
        first = 0 if numbers[0] else 1 if last else None
        return Code(first_option=first, rows=options if first is not None else 0)
    whole = sides == total >= FEWEST
    return Code(yes_no=whole, rows=sides if whole else coded)


_NUMBERED = frozenset((str(number),) for number in range(100))


def _says_otherwise(question: Question) -> bool:
    """Return whether a question asks for something else than yes or no."""
    return question.counts or question.either or _OPEN.match(question.asked) is not None


_OPEN = re.compile(r"(?:what|which|who|whom|whose|where|when|why|how)\b")
