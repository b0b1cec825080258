"""One-line warnings about doubtful labels, which differ from the rules of ``auto``.

A scorer for another purpose labels correct answers as hallucinated, and a column in which 1 means
correct is read inverted. The rules take a third of a millisecond per row, so a sample is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmscope.cli.output import count

if TYPE_CHECKING:
    from vlmscope.schema import Answered, Score
    from vlmscope.score import Code

LOOKED_AT = 1_000
"""Maximum number of rows that the rules are applied to."""

FEWEST = 20
"""Minimum number of rows decided by both before labels are reported as inverted."""

MANY = 0.01
"""Share of all rows above which correct answers labelled hallucinated are reported."""

WHY = {
    "exact": "because they are worded differently from the ground truth",
    "vqa": "because it is made for open questions and does not interpret yes and no",
    "yesno": "because it reads only yes and no",
}
"""Why a scorer's labels differ from those of ``auto``."""


@dataclass(frozen=True)
class Doubt:
    """A doubt about labels."""

    text: str
    """The warning, in one line."""

    rows: int
    """Number of rows concerned."""

    estimated: bool = False
    """Whether the number is estimated from a sample."""


def doubt(
    scorer: str, rows: Iterable[Answered], scores: Sequence[Score], code: Code
) -> Doubt | None:
    """Return a doubt about labels, or None.

    Args:
        scorer: Name of the scorer.
        rows: The rows.
        scores: The score of each row.
        code: How coded ground truths are read.
    """
    if scorer in WHY:
        return _right_but_hallucinated(scorer, rows, scores, code)
    return _other_way_round(rows, scores, code) if scorer in ("column", "file") else None


def _right_but_hallucinated(
    scorer: str, rows: Iterable[Answered], scores: Sequence[Score], code: Code
) -> Doubt | None:
    hallucinated = [i for i, score in enumerate(scores) if score.hallucinated]
    seen = _sample(hallucinated)
    right = sum(verdict is False for verdict in _auto(rows, seen, code))
    number = round(right * len(hallucinated) / len(seen)) if seen else 0
    if not number or number < MANY * len(scores):
        return None
    estimated = len(seen) < len(hallucinated)
    text = (
        f"{scorer}: {'about ' if estimated else ''}{count(number, 'answer')} that auto reads as "
        f"right {'is' if number == 1 else 'are'} labelled hallucinated, {WHY[scorer]}; omit "
        "--scorer to use auto"
    )
    return Doubt(text, number, estimated)


def _other_way_round(rows: Iterable[Answered], scores: Sequence[Score], code: Code) -> Doubt | None:
    seen = _sample([i for i, score in enumerate(scores) if score.hallucinated is not None])
    found = zip(seen, _auto(rows, seen, code), strict=True)
    same = [scores[i].hallucinated == verdict for i, verdict in found if verdict is not None]
    if len(same) < FEWEST or same.count(True) > 0.3 * len(same):
        return None
    text = (
        f"the rules label {same.count(False):,} of {count(len(same), 'answer')} the opposite "
        "way: check which cell was read as hallucinated; if it means right, name the column "
        "is_correct, or use the cells hallucinated and faithful"
    )
    return Doubt(text, same.count(False), len(seen) < len(scores))


def _sample(numbers: list[int]) -> list[int]:
    """Return some of the numbers, evenly spread."""
    return numbers[:: -(-len(numbers) // LOOKED_AT) or 1]


def _auto(rows: Iterable[Answered], seen: list[int], code: Code) -> list[bool | None]:
    """Return the labels that the rules give to the rows with these numbers."""
    from vlmscope.score import Auto

    if not seen:
        return []
    wanted = set(seen)
    kept = (row for i, row in enumerate(rows) if i in wanted)
    return [score.hallucinated for score in Auto(code=code)(kept)]
