"""Which of two things an answer puts left, right, above, below, before or behind the other.

*The dog is to the right of the man* says that the man is left of the dog. Only sentences about just
the two things of the question are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vlmscope.score.case import Case
from vlmscope.score.denial import DOUBT, hedge_in, plain, sentences
from vlmscope.score.lexicon import lemma
from vlmscope.score.question import IN_IMAGE, Question
from vlmscope.score.scorer import Finding
from vlmscope.score.text import words

_FORMS = {
    "left": r"(?:to the |on the |at the |on |to )?left(?:[- ]hand)?(?: side)? of",
    "right": r"(?:to the |on the |at the |on |to )?right(?:[- ]hand)?(?: side)? of",
    "above": r"above|over|on top of", "below": r"below|under|underneath|beneath",
    "front": r"in front of", "behind": r"behind",
}  # fmt: skip
_REVERSED = {
    "left": "right", "right": "left", "above": "below", "below": "above", "front": "behind",
    "behind": "front",
}  # fmt: skip
_SIDE = "|".join(f"(?P<{name}>{form})" for name, form in _FORMS.items())
_NOUNS = r"(?:the |a |an |this |that |his |her )?(?P<%s>[\w'-]+(?: [\w'-]+){0,3}?)"
_SAYS = re.compile(
    rf"^(?:(?:yes|no|so|well)[,:] )?{_NOUNS % 'one'} (?:is|are|stands?|sits?|lies|appears to be)"
    r" (?:located |positioned |placed |standing |sitting |situated |lying |parked |directly "
    rf"|clearly )*(?:{_SIDE}) {_NOUNS % 'other'}[.!]*$"
)
_AFTER_OR = (
    r"(?: of)? or (?:to the |on the |in )?(?:left|right|above|below|behind|front|over|under)"
    r"(?: side)?(?: of)?"
)
_EITHER = re.compile(
    rf"^(?:is|are) {_NOUNS % 'one'} (?:(?:to|on|at) the |in )?(?:left|right|above|below|front"
    rf"|behind|over|under)(?: side)?{_AFTER_OR} {_NOUNS % 'other'}$"
)
_WHERE = re.compile(
    rf"^(?:where is|(?:on |to )?(?:which|what) side of {_NOUNS % 'of'} is) {_NOUNS % 'one'}"
    rf"(?: (?:relative to|in relation to|compared to|with respect to) {_NOUNS % 'other'})?$"
)


@dataclass(frozen=True)
class Placed:
    """One thing by the side of another."""

    one: str
    side: str
    other: str

    def side_of(self, one: str, other: str) -> str | None:
        """Return on which side of the other thing the one is, or None for other things."""
        if (self.one, self.other) == (one, other):
            return self.side
        return _REVERSED[self.side] if (self.other, self.one) == (one, other) else None


def placed(sentence: str) -> Placed | None:
    """Return what a sentence in the wording of ``plain`` puts where, or None.

    >>> placed("the dog is to the right of the man.")
    Placed(one='dog', side='right', other='man')
    """
    line = " ".join(IN_IMAGE.sub(" ", sentence).split())
    found = _SAYS.match(line.replace(" .", ".")) if len(line) < 300 else None
    if found is None or DOUBT.search(sentence) or hedge_in(sentence):
        return None
    side = next(name for name in _FORMS if found[name])
    return Placed(_noun(found["one"]), side, _noun(found["other"]))


def _noun(part: str) -> str:
    return " ".join(lemma(word) for word in words(part))


def asked_pair(question: Question) -> tuple[str, str] | None:
    """Return the two things between which a question asks for a side, or None."""
    line = " ".join(IN_IMAGE.sub(" ", question.asked).split())
    if found := _EITHER.match(line):
        return _noun(found["one"]), _noun(found["other"])
    if (found := _WHERE.match(line)) and (other := found["other"] or found["of"]):
        return _noun(found["one"]), _noun(other)
    return None


def said_side(text: str, question: Question) -> str | None:
    """Return the side that an answer gives to the first of a question's two things.

    The answer is "" where it puts the two somewhere in a way that is not read; None where it does
    not speak of them.
    """
    pair = asked_pair(question)
    said = sentences(plain(text))
    if pair is None or not said:
        return None
    found = placed(said[0])
    if found is None:
        named = {lemma(word) for word in words(said[0])}
        other = {word for word in pair[1].split() if word not in ("the", "a")}
        first = next((at for at, w in enumerate(words(said[0])) if lemma(w) in other), 99)
        own = next((at for at, w in enumerate(words(said[0])) if lemma(w) in pair[0].split()), 99)
        return "" if other <= named and first < own else None
    side = found.side_of(*pair)
    return side if side and len(said) == 1 else ""


def relative_side(question: Question, sentence: str) -> Literal["yes", "no"] | None:
    """Return the side that a sentence takes to *Is the bottle left of the laptop?*."""
    if not question.yes_no or question.either or question.negated:
        return None
    statement = re.sub(r"^(is|are) ((?:the |a |an )?[\w' -]+?) (?=(?:to|on|at) the (?:left|right)"
                       r"|(?:left|right) of|above|over|below|under|beneath|behind|in front|on top)",
                       r"\2 \1 ", question.asked)  # fmt: skip
    asked, said = placed(statement), placed(sentence)
    if asked is None or said is None:
        return None
    side = said.side_of(asked.one, asked.other)
    if side == asked.side:
        return "yes"
    return "no" if side == _REVERSED[asked.side] else None


def relates(case: Case) -> Finding | None:
    """Compare on which side of another thing an answer puts the one that was asked about."""
    if asked_pair(case.question) is None or len(case.truths[0]) > 300:
        return None
    true = {_truth_side(truth, case.question) for truth in case.truths}
    if len(true) != 1 or None in true or (said := said_side(case.final, case.question)) is None:
        return None
    if not said:
        return Finding(None, f"an answer that needs a judge: which is where? {case.shown}")
    return Finding(said not in true, f"puts it {said} in {case.shown}, truth {case.truth_shown}")


def _truth_side(truth: str, question: Question) -> str | None:
    """Return the side that a truth names: *left*, *to the left of the dog*."""
    if word := re.fullmatch(
        r"(?:(?:to|on|at|in) the |in )?(left|right|above|below|front|behind)(?: side)?(?: of)?",
        plain(truth).strip(" ."),
    ):
        return word[1]
    pair = asked_pair(question)
    found = placed(plain(truth)) or placed(f"the thing is {plain(truth)}")
    if pair is None or found is None:
        return None
    return found.side_of(*pair) or (found.side if found.one == "thing" else None)
