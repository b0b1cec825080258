"""Answer sheets: generated questions, truths and answers whose verdict is known by construction.

They measure the rule-based scorers, and were written without reading them: the wordings are those
of benchmark files and of vision-language models. ``python tests/score/answer_sheets.py [seed]``
prints how ``Auto`` does on each kind.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random

import sheet_absent
import sheet_choices
import sheet_misleading
import sheet_numbers
import sheet_open
import sheet_pope
import sheet_votes
import sheet_yes_no
from sheet_forms import Case, Family, Row, Verdict, finish

from vlmscope.schema import Answered, Score

__all__ = [
    "KINDS",
    "POPE_KINDS",
    "Row",
    "Verdict",
    "answered",
    "outcome",
    "pope_in_sentences",
    "rows_of",
    "sheet",
    "table",
]

_FAMILIES: Mapping[str, Family] = {
    family.kind: family
    for family in (
        *sheet_yes_no.FAMILIES,
        *sheet_numbers.FAMILIES,
        *sheet_open.FAMILIES,
        *sheet_misleading.FAMILIES,
        *sheet_votes.FAMILIES,
        *sheet_choices.FAMILIES,
        *sheet_absent.FAMILIES,
    )
}

KINDS = tuple(_FAMILIES)
"""Every kind of rows."""

POPE_KINDS = tuple(sheet_pope.POPE)
"""The kinds that ``pope_in_sentences`` draws from."""


def rows_of(kind: str, seed: int, size: int) -> list[Row]:
    """``size`` rows of one kind; the same rows for the same seed."""
    return [_row(kind, _FAMILIES[kind].draw, f"{kind}/{seed}/{i}") for i in range(size)]


def sheet(seed: int, size: int) -> list[Row]:
    """``size`` rows of all kinds in turn; the same rows for the same seed."""
    by_kind = [rows_of(kind, seed, -(-size // len(KINDS))) for kind in KINDS]
    return [row for turn in zip(*by_kind, strict=True) for row in turn][:size]


def pope_in_sentences(seed: int, size: int) -> list[Row]:
    """``size`` rows "Is there a <object> in the image?" with answers of every sentence form.

    The truth is plain "yes" or "no" as in POPE's files, and every answer can be scored.
    """
    rows = []
    for i in range(size):
        kind = POPE_KINDS[i % len(POPE_KINDS)]
        rows.append(_row(kind, partial(sheet_pope.pope, kind), f"pope/{seed}/{i}"))
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


def _main(score: Callable[[Iterable[Answered]], Iterable[Score]], seed: int) -> None:
    for rows in (sheet(seed, 60 * len(KINDS)), pope_in_sentences(seed, 1_100)):
        rows = sorted(rows, key=lambda row: row.kind)
        sys.stdout.write(table(rows, list(score(answered(rows)))) + "\n\n")


if __name__ == "__main__":
    from vlmscope.score import Auto

    _main(Auto(), int(sys.argv[1]) if len(sys.argv) > 1 else 0)
