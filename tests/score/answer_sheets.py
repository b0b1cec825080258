"""Answer sheets: generated questions, truths and answers whose verdict is known by construction.

They measure the rule-based scorers, and were written without reading them: the wordings are those
of benchmark files and of vision-language models. ``python tests/score/answer_sheets.py`` prints how
``Auto`` does on each kind; it takes a seed and a batch of wordings.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import Literal

import sheet_absent
import sheet_choices
import sheet_misleading
import sheet_more_absent
import sheet_more_choices
import sheet_more_misleading
import sheet_more_numbers
import sheet_more_open
import sheet_more_yes_no
import sheet_numbers
import sheet_open
import sheet_pope
import sheet_pope_more
import sheet_votes
import sheet_yes_no
from sheet_forms import Case, Row, Verdict, finish

from vlmscope.schema import Answered, Score

__all__ = [
    "KINDS",
    "POPE_KINDS",
    "Row",
    "Verdict",
    "answered",
    "kinds_of",
    "outcome",
    "pope_in_sentences",
    "rows_of",
    "sheet",
    "table",
]

FIRST = (
    *sheet_yes_no.FAMILIES,
    *sheet_numbers.FAMILIES,
    *sheet_open.FAMILIES,
    *sheet_misleading.FAMILIES,
    *sheet_votes.FAMILIES,
    *sheet_choices.FAMILIES,
    *sheet_absent.FAMILIES,
)
"""The first wordings."""

MORE = (
    *sheet_more_yes_no.FAMILIES,
    *sheet_more_numbers.FAMILIES,
    *sheet_more_open.FAMILIES,
    *sheet_more_misleading.FAMILIES,
    *sheet_more_choices.FAMILIES,
    *sheet_more_absent.FAMILIES,
)
"""Wordings that were written later, when the rules had been mended by the first."""

Batch = Literal["first", "more", "all"]
_BATCHES = {"first": FIRST, "more": MORE, "all": FIRST + MORE}
_POPE = {"first": sheet_pope.POPE, "more": sheet_pope_more.POPE}

KINDS = tuple(dict.fromkeys(family.kind for family in FIRST + MORE))
"""Every kind of rows."""

POPE_KINDS = tuple(dict.fromkeys((*sheet_pope.POPE, *sheet_pope_more.POPE)))
"""The kinds that ``pope_in_sentences`` draws from."""


def rows_of(kind: str, seed: int, size: int, batch: Batch = "all") -> list[Row]:
    """``size`` rows of one kind, of its wordings in turn; the same rows for the same seed."""
    draws = [family.draw for family in _BATCHES[batch] if family.kind == kind]
    numbers = range(size if draws else 0)
    return [_row(kind, draws[i % len(draws)], f"{kind}/{seed}/{i}") for i in numbers]


def kinds_of(batch: Batch) -> list[str]:
    """The kinds that have wordings in a batch."""
    return list(dict.fromkeys(family.kind for family in _BATCHES[batch]))


def sheet(seed: int, size: int, batch: Batch = "all") -> list[Row]:
    """``size`` rows of all kinds in turn; the same rows for the same seed."""
    kinds = kinds_of(batch)
    by_kind = [rows_of(kind, seed, -(-size // len(kinds)), batch) for kind in kinds]
    return [row for turn in zip(*by_kind, strict=True) for row in turn][:size]


def pope_in_sentences(seed: int, size: int, batch: Batch = "all") -> list[Row]:
    """``size`` rows "Is there a <object> in the image?" with answers of every sentence form.

    The truth is plain "yes" or "no" as in POPE's files, and every answer can be scored.
    """
    chosen = [_POPE[name] for name in _POPE if batch in ("all", name)]
    drawn = [pair for answering in chosen for pair in answering.items()]
    rows = []
    for i in range(size):
        kind, answering = drawn[i % len(drawn)]
        rows.append(_row(kind, partial(sheet_pope.pope, answering), f"pope/{seed}/{i}"))
    return rows


def _row(kind: str, draw: Callable[[Random], Case], seed: str) -> Row:
    rng = Random(seed)  # noqa: S311  no secret is drawn
    case = draw(rng)
    return Row(kind, case.question, case.target, finish(rng, case.answer), case.verdict)


def answered(rows: Iterable[Row]) -> list[Answered]:
    """The rows as a scorer takes them."""
    return [Answered(str(i), r.question, r.answer, r.target) for i, r in enumerate(rows)]


def outcome(row: Row, score: Score) -> str:
    """``right``, ``wrong``, or ``left``: unscorable although there is a verdict.

    A row that cannot be told is right only where it is left unscorable.
    """
    if score.hallucinated is None:
        return "right" if row.verdict is None else "left"
    said = "hallucinated" if score.hallucinated else "faithful"
    return "right" if said == row.verdict else "wrong"


def table(rows: Sequence[Row], scores: Sequence[Score]) -> str:
    """How the scores do, kind by kind: rows, right, wrong, left."""
    counts: dict[str, Counter[str]] = {}
    for row, score in zip(rows, scores, strict=True):
        counts.setdefault(row.kind, Counter())[outcome(row, score)] += 1
    counts["all"] = sum(counts.values(), Counter())
    lines = [f"{'kind':42} {'rows':>6} {'right':>6} {'wrong':>6} {'left':>6}"]
    for kind, of in counts.items():
        numbers = (of.total(), of["right"], of["wrong"], of["left"])
        lines.append(f"{kind:42} " + " ".join(f"{n:6}" for n in numbers))
    return "\n".join(lines)


def _main(score: Callable[[Iterable[Answered]], Iterable[Score]], seed: int, batch: Batch) -> None:
    sheets = (sheet(seed, 60 * len(kinds_of(batch)), batch), pope_in_sentences(seed, 1_100, batch))
    for rows in sheets:
        rows = sorted(rows, key=lambda row: row.kind)
        sys.stdout.write(table(rows, list(score(answered(rows)))) + "\n\n")


if __name__ == "__main__":
    from vlmscope.score import Auto

    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("seed", type=int, nargs="?", default=0)
    given.add_argument("batch", choices=list(_BATCHES), nargs="?", default="all")
    asked = given.parse_args()
    _main(Auto(), asked.seed, asked.batch)
