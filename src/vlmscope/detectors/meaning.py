"""Whether two answers to a question mean the same, and sets of answers with the same meaning.

Semantic entropy needs entailment between answers. For short answers, vlmscope's own rules compare
them as an answer with a ground truth; for sentences, a model for natural language inference
decides (``nli``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from vlmscope.schema import Answered
from vlmscope.score import Auto, normalise

SameMeaning = Callable[[str, str, str], bool]
"""Question, one answer, another → whether the two mean the same."""


Asked = tuple[str, str, str]
"""Question, one answer, another."""


def prepare(same: SameMeaning, asked: Sequence[Asked]) -> None:
    """Announce comparisons, which are made one by one afterwards.

    A comparison with a method ``prepare`` is told, so that a model can decide them in batches.
    """
    announce = getattr(same, "prepare", None)
    if announce is not None:
        announce(asked)


@lru_cache(maxsize=1 << 16)
def by_rules(question: str, one: str, other: str) -> bool:
    """Return whether two short answers mean the same, by the rules that label answers.

    They do if they are equal in normal form, or if each is faithful to the other as the ground
    truth. What the rules cannot decide is another meaning.

    >>> by_rules("Is there a cat?", "Yes.", "Yes, there is a cat."), by_rules("Which?", "a", "b")
    (True, False)
    """
    if normalise(one) == normalise(other):
        return True
    rows = [Answered("", question, one, other), Answered("", question, other, one)]
    return all(score.hallucinated is False for score in Auto()(rows))


def meaning_sets(question: str, answers: Sequence[str], same: SameMeaning) -> list[int]:
    """Return the number of the set of each answer, from 0: answers of a set mean the same.

    As in the paper (Kuhn et al. 2023), an answer is compared with the first one of each set.

    >>> meaning_sets("Which?", ["a", "b", "A."], by_rules)
    [0, 1, 0]
    """
    return sets_of_rows([(question, answers)], same)[0]


def sets_of_rows(rows: Sequence[tuple[str, Sequence[str]]], same: SameMeaning) -> list[list[int]]:
    """Return ``meaning_sets`` of each question and its answers.

    The first answers of all rows are compared, then the second ones, and so on, so that a model
    can decide the comparisons of many rows in batches.
    """
    first: list[list[str]] = [[] for _ in rows]
    sets: list[list[int]] = [[] for _ in rows]
    for turn in range(max((len(answers) for _, answers in rows), default=0)):
        now = [i for i, (_, answers) in enumerate(rows) if turn < len(answers)]
        prepare(same, [(rows[i][0], one, rows[i][1][turn]) for i in now for one in first[i]])
        for i in now:
            question, answer = rows[i][0], rows[i][1][turn]
            new = len(first[i])
            number = next((n for n, one in enumerate(first[i]) if same(question, one, answer)), new)
            if number == new:
                first[i].append(answer)
            sets[i].append(number)
    return sets
