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
    first: list[str] = []
    sets = []
    for answer in answers:
        number = next((i for i, one in enumerate(first) if same(question, one, answer)), len(first))
        if number == len(first):
            first.append(answer)
        sets.append(number)
    return sets
