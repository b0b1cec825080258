"""Error kinds of wrong answers to yes/no questions: false positives and false negatives.

Every wrong answer is labelled hallucinated. Some studies count only answers that claim something
the image does not show: the false positives. The label keeps which of the two an answer is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from vlmscope.schema import Answered, ErrorKind, Score
from vlmscope.score.parsing.question import read_question
from vlmscope.score.parsing.reply import read_reply
from vlmscope.score.stance import YesNo, answer_side, read_stance, yes_no_truth

_ABSENCE = re.compile(r"\b(?:no|nobody|none|nothing|without)\b|\bthere not\b", re.IGNORECASE)
"""In a negated question: *yes* says that something is absent. *Isn't it red?* is read both ways."""


def with_error_kinds(rows: Iterable[Answered], scores: Iterable[Score]) -> Iterator[Score]:
    """Yield scores with the error kind of hallucinated answers to yes/no questions.

    Args:
        rows: The rows, with decoded ground truths (``truth``).
        scores: One score per row, in the same order.
    """
    for row, score in zip(rows, scores, strict=True):
        kind = error_kind(row, score)
        yield replace(score, error_kind=kind) if kind else score


def error_kind(row: Answered, score: Score) -> ErrorKind | None:
    """Return the error kind of an answer; None if it is correct, or the ground truth not yes or no.

    >>> row = Answered("q", "Is there a cup?", "Yes, on the table.", "No")
    >>> [error_kind(row, Score("q", label, "file", "")) for label in (True, False, None)]
    ['affirms', None, None]
    >>> row = Answered("q", "Is no cup there?", "Yes.", "No")
    >>> error_kind(row, Score("q", True, "yesno", ""))
    'denies'
    """
    truth = yes_no_truth(row.target, row.question) if score.hallucinated else None
    if truth is None:
        return None
    other: Literal["yes", "no"] = "no" if truth == "yes" else "yes"
    side = other if score.scorer == YesNo.name else _answer_side(row)
    negated = read_question(row.question).negated
    if side != other or (negated and not _ABSENCE.search(row.question)):
        return "other"
    return "affirms" if (side == "yes") != negated else "denies"


def _answer_side(row: Answered) -> str | None:
    """Return the side that an answer takes, for an answer labelled hallucinated by any scorer."""
    answer, question = read_reply(row.answer or "", row.question), read_question(row.question)
    stance = read_stance(answer) if question.negated else answer_side(answer, question)
    return stance.side if stance else None
