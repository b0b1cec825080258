"""Longer names for the truth: *a large truck* is a truck; whether it is a pickup, no truth tells.

A longer name means the truth where what it adds is an adjective of size, age or color, or where
annotators gave both.
"""

from __future__ import annotations

import re

from vlmscope.score.case import Case
from vlmscope.score.claims import COLOURS
from vlmscope.score.lexicon import is_part, known, lemma, same
from vlmscope.score.phrases import Words, relation
from vlmscope.score.text import is_figure, word_set, words

_PLAIN = (
    word_set("large small big little tall short young old tiny huge long single beautiful cute new")
    | COLOURS
) - {"orange"}
_PARTS = word_set("slice piece")
_BRAND = re.compile(r"\b(?:brand|company|make|manufacturer|logo)\b")


def is_refined(case: Case, phrase: Words, truth: Words) -> bool:
    """Return whether a phrase is a longer name for the truth.

    >>> from vlmscope.schema import Answered
    >>> case = Case(Answered("q", "What is it?", "", "truck"))
    >>> [is_refined(case, tuple(said.split()), ("truck",)) for said in (
    ...     "large truck", "pickup truck", "toy truck", "truck stop")]
    [True, False, False, False]
    """
    size = len(truth)
    if len(phrase) <= size or any(map(is_figure, truth)) or not COLOURS.isdisjoint(truth):
        return False
    if phrase[:size] == truth:
        kept = phrase[size:]
        return set(kept) <= _PARTS or (len(kept) == 1 and bool(_BRAND.search(case.question.asked)))
    if not all(map(same, phrase[-size:], truth)) or not is_part(lemma(truth[-1]), "n"):
        return False
    more = phrase[:-size]
    if any(word in case.question.words and word in COLOURS for word in more):
        return False
    return set(more) <= _PLAIN and not known(" ".join(phrase))


def is_voted(case: Case, answer: Words) -> bool:
    """Return whether an answer that few annotators gave says what an accepted one says.

    *$2.50* says what *2.50* does, *a Santa hat* what *hat* does; *red and black* says more.
    """
    accepted = [words(known_) for known_ in case.truths]
    if "and" in answer:
        parts = words(" ".join(answer).replace(" and ", " ; "))
        at = answer.index("and")
        return len(parts) > 1 and answer[:at] in accepted and answer[at + 1 :] in accepted
    for truth in accepted:
        if not truth or not COLOURS.isdisjoint(truth) or truth in (("yes",), ("no",)):
            continue
        if relation(answer, truth, case.question) == "equal":
            return True
        figure = is_figure(truth[0]) and len(truth) == 1 and not any(map(is_figure, answer[1:]))
        if figure and answer[0] == truth[0] and len(answer) > 1:
            return True
        if not figure and len(answer) > len(truth) and answer[-len(truth) :] == truth:
            return True
    return False
