"""Warnings about doubtful labels, in one line: the rules of ``auto`` read the answers otherwise.

A scorer for another purpose calls right answers hallucinated, and a column whose 1 means right is
read the wrong way round. The rules cost a third of a millisecond a row, so a sample is looked at.
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
"""Most rows that the rules read."""

FEWEST = 20
"""Rows that both decide, at least, before labels are called inverted."""

MANY = 0.01
"""Share of all rows from which right answers labelled hallucinated are reported."""

WHY = {
    "exact": "as they are worded otherwise than the truth",
    "vqa": "as it is made for open questions and does not read the side of a yes or no",
    "yesno": "as it reads nothing but yes and no",
}
"""Why a scorer's labels differ from those of ``auto``."""


@dataclass(frozen=True)
class Doubt:
    """What is doubtful about labels."""

    text: str
    """One line."""
    rows: int
    """How many rows it is about."""
    estimated: bool = False
    """Whether they are counted in a sample."""


def doubt(
    scorer: str, rows: Iterable[Answered], scores: Sequence[Score], code: Code
) -> Doubt | None:
    """Return what is doubtful about labels; None where nothing is.

    Args:
        scorer: Name of what decided.
        rows: The rows.
        scores: A score of each.
        code: How coded truths are read.
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
        f"right {'is' if number == 1 else 'are'} hallucinated here, {WHY[scorer]}; leave --scorer "
        "out for auto"
    )
    return Doubt(text, number, estimated)


def _other_way_round(rows: Iterable[Answered], scores: Sequence[Score], code: Code) -> Doubt | None:
    seen = _sample([i for i, score in enumerate(scores) if score.hallucinated is not None])
    found = zip(seen, _auto(rows, seen, code), strict=True)
    same = [scores[i].hallucinated == verdict for i, verdict in found if verdict is not None]
    if len(same) < FEWEST or same.count(True) > 0.3 * len(same):
        return None
    text = (
        f"the rules read {same.count(False):,} of {count(len(same), 'answer')} the other way "
        "round: see which cell was read as hallucinated; if it means right, name the column "
        "is_correct, or write hallucinated and faithful"
    )
    return Doubt(text, same.count(False), len(seen) < len(scores))


def _sample(numbers: list[int]) -> list[int]:
    """Return some of the numbers, evenly spread."""
    return numbers[:: -(-len(numbers) // LOOKED_AT) or 1]


def _auto(rows: Iterable[Answered], seen: list[int], code: Code) -> list[bool | None]:
    """Return what the rules say of the rows with these numbers."""
    from vlmscope.score import Auto

    if not seen:
        return []
    wanted = set(seen)
    kept = (row for i, row in enumerate(rows) if i in wanted)
    return [score.hallucinated for score in Auto(code=code)(kept)]
