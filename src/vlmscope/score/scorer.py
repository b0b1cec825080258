"""``Scorer``: the interface of scorers, which yield one verdict for each row.

A wrong label is worse than a missing one, because probes learn it. Every scorer therefore has a
third outcome, unscorable, and every rule in this package uses it in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from vlmscope.schema import Answered, Score


@runtime_checkable
class Scorer(Protocol):
    """Reads rows and yields one ``Score`` for each, in the same order.

    The evidence of an unscorable row starts with a reason that all rows of its kind share, followed
    by ``: `` and details of the row. Summaries count the reasons.
    """

    @property
    def name(self) -> str:
        """Name of the scorer, as in ``Score.scorer``."""

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""


class Finding(NamedTuple):
    """The result of a rule: a score without its row."""

    hallucinated: bool | None
    evidence: str
    labelled: bool = True

    def score(self, row: Answered, scorer: str) -> Score:
        """Return the finding as the row's score."""
        return Score(row.id, self.hallucinated, scorer, self.evidence, self.labelled)


def excerpt(text: str, limit: int = 60) -> str:
    """Return the start of a text on one line, in quotation marks, for evidence.

    >>> excerpt("Yes, there is  a cup."), excerpt("a long story", 8)
    ('"Yes, there is a cup."', '"a long…"')
    """
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= limit else f'"{line[: limit - 1].rstrip()}…"'
