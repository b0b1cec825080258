"""The default scorer: rules by the kind of ground truth, and a judge for the remaining rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlmscope.schema import Answered, Score
from vlmscope.score.parsing.choices import true_choice
from vlmscope.score.parsing.question import read_question
from vlmscope.score.parsing.truth import Code, accepted_answers
from vlmscope.score.scorer import Scorer
from vlmscope.score.stance import YesNo, yes_no_truth
from vlmscope.score.vqa import Vqa


class Auto:
    """Score rows whose ground truth is yes or no by ``YesNo``, all others by ``Vqa``.

    ``Score.scorer`` names the scorer that decided.

    Args:
        judge: Scorer of the rows that the rules cannot score; None leaves them unscorable.
        code: Coding of the table's ground truths, from ``read_code``; by default a row's question
            determines the meaning of 0 and 1.
    """

    name = "auto"

    def __init__(self, judge: Scorer | None = None, code: Code | None = None) -> None:
        self._judge = judge
        self._code = code or Code()

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        if self._judge is None:
            yield from self._by_rules(rows)
            return
        kept = list(rows)
        scores = list(self._by_rules(kept))
        judged = self._judge(unscorable_rows(kept, scores))
        for score in scores:
            yield next(judged) if score.hallucinated is None else score

    def _by_rules(self, rows: Iterable[Answered]) -> Iterator[Score]:
        yes_no, vqa = YesNo(), Vqa()
        for row in map(self._code.decode, rows):
            by_side = yes_no_truth(row.target, row.question) and not _offered(row)
            yield from (yes_no if by_side else vqa)([row])


def _offered(row: Answered) -> bool:
    """Return whether the ground truth is one of the choices listed in the question."""
    choices = read_question(row.question).choices
    return choices is not None and any(
        true_choice(truth, choices) is not None for truth in accepted_answers(row.target)
    )


def unscorable_rows(rows: Iterable[Answered], scores: Iterable[Score]) -> Iterator[Answered]:
    """Yield the unscorable rows."""
    for row, score in zip(rows, scores, strict=True):
        if score.hallucinated is None:
            yield row
