"""Yes or no? Reads the side that an answer takes, and scores answers to yes/no questions.

Keyword rules made the labels that this package replaces wrong: *no* was found in *now* and *snow*,
*The floor appears to be clean* was taken for *No*, and what no rule knew was labelled faithful.
Here an answer takes a side only where its own words say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from vlmscope.schema import Answered, Score
from vlmscope.score.denial import HEDGE, NEGATIVE, clause, content, hedge_in, plain, sentences
from vlmscope.score.scorer import Finding, excerpt
from vlmscope.score.text import accepted_answers, stem, words


@dataclass(frozen=True, slots=True)
class Stance:
    """The side that an answer takes."""

    side: Literal["yes", "no", "unclear"]
    """``unclear`` where it hedges or contradicts itself."""
    evidence: str
    """The words that say so."""
    about: tuple[str, ...] = ()
    """What a sentence without *yes* or *no* negates: it answers only a question about just that."""


_YES = r"yes|yeah|yep|yup|correct|true"
_NO = (
    r"no|nope|nah|incorrect|false|not (?:really|quite|exactly|at all)|"
    r"(?:absolutely|certainly|definitely|of course) not"
)
_OPENING = re.compile(
    r"^(?:(?:so|well|oh|ok|okay|hmm|sorry|assistant)\b[,:!]? *)?"
    r"(?:.{0,80}?\banswer(?: to (?:the|your) question)? ?(?:is|would be|:):? *"
    r"|[^,]{1,60}, (?=(?:yes|no)\b))?"
)
# "No" is an answer before a mark, an end or a subject; before a noun it belongs to the sentence.
_LEAD = re.compile(
    rf"(?:(?P<yes>{_YES})|(?P<no>{_NO}))"
    r"(?=$|[,.!:\-–—)]|(?<=yes) (?!or\b)|(?<=no) (?:i|it|there|th[ei]\w*|that|he|she|we|you|but)\b)"
)
_AND_NO = re.compile(r"^\W*(?:yes\W+(?:and|but) no|no\W+(?:and|but) yes)\b")
_TURN = r"\b(?:but|actually|rather|wait|however|though)\b.*\b"
_AGREES = re.compile(
    r"(?:yes, )?(?:it|this|that|they|he|she|there|i|we|you) "
    r"(?:is|are|was|were|does|do|did|has|have|can|am)|i (?:think|believe) so"
)
_NEGATION = re.compile(
    r"\b(?:is|are|was|were|am|do|does|did|has|have|had|can|could|would|will|should)(?: \w+)? not\b"
    r"(?! only)|\b(?:is|are|was|were|be|has|have|had|shows?|contains?|see) no\b"
    r"|^(?:(?:in|from|based on|judging by) [^,]{1,40}, )?"
    r"(?:no(?!\.? ?(?:doubt|problem|worries|\d))|not(?! only)|nothing|none|nobody|neither|never)\b"
)
_NOBODY = re.compile(r"\b(?:nobody|no one)\b")
_BRANCH = re.compile(
    r"\b(?:who|which|that|whose|where|when|because|if|whether|although|while|but|than)\b"
)


def read_stance(text: str) -> Stance | None:
    """Return the side that an answer takes, or None where it takes none.

    The first *yes* or *no* that stands as an answer decides; the opposite one, or a hedge in the
    clause that follows, makes it unclear. Without either, the first sentence is *no* if it is
    negated once, in its main clause. No sentence is *yes* only because it is not negated.

    >>> read_stance("No, the cup is red.").side, read_stance("Yes, but actually no.").side
    ('no', 'unclear')
    >>> read_stance("The image does not appear to be lit by a full moon.")
    Stance(side='no', evidence='does not', about=('lit', 'full', 'moon'))
    >>> read_stance("It is snowing now.") is None
    True
    """
    said = sentences(text)
    leads = [lead for sentence in said if (lead := _lead(sentence))]
    if leads:
        sides = {lead.side for lead in leads}
        return leads[0] if len(sides) == 1 else Stance("unclear", "yes and no")
    return _unled(said[0]) if said else None


def _lead(sentence: str) -> Stance | None:
    """Read the *yes* or *no* that opens a sentence, if one does."""
    if found := _AND_NO.search(sentence):
        return Stance("unclear", found[0].strip())
    opening = _OPENING.match(sentence)
    start = opening.end() if opening else 0
    lead = _LEAD.match(sentence, start) or _LEAD.match(sentence)
    if lead is None or re.match(r"no\. ?\d", sentence[lead.start() :]):
        return None
    side: Literal["yes", "no"] = "yes" if lead["yes"] else "no"
    rest = clause(sentence[lead.end() :].lstrip(" ,.!:-–—)"))
    if hedge := HEDGE.search(f"{sentence[: lead.start()]} {rest}"):
        return Stance("unclear", f"{lead[0]} … {hedge[0]}")
    turned = re.search(_TURN + ("(?:no|not)" if side == "yes" else "yes") + r"\b", sentence)
    against = NEGATIVE.search(rest) if side == "yes" else re.search(r"\byes\b", rest)
    if found := turned or against:
        return Stance("unclear", f"{lead[0]} … {found[0]}")
    return Stance(side, lead[0])


def _unled(sentence: str) -> Stance | None:
    """Read a sentence without *yes* or *no*."""
    if hedge := hedge_in(sentence):
        return Stance("unclear", hedge)
    if _AGREES.fullmatch(sentence.rstrip(" .!")):
        return Stance("yes", sentence.rstrip(" .!"))
    negation = _NEGATION.search(sentence)
    if negation is None or _BRANCH.search(sentence[: negation.start()]):
        return None
    if len(NEGATIVE.findall(sentence)) > 1:
        return Stance("unclear", "negated twice")
    about = content(clause(sentence[negation.end() :]))
    if _NOBODY.search(sentence):
        about = ("person", *about)
    return Stance("no", negation[0], about)


class YesNo:
    """Scores answers whose truth is yes or no.

    The label is true where the answer takes the other side than the truth. The question is never
    searched for a verdict; it can only prevent one: a sentence without *yes* or *no* that negates
    anything the question did not ask is unscorable.
    """

    name = "yesno"

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        for row in rows:
            yield _judge(row).score(row, self.name)


def yes_no_truth(target: object) -> Literal["yes", "no"] | None:
    """Return the side that a ground truth takes, or None where it is no answer to yes or no.

    >>> [yes_no_truth(truth) for truth in ("Yes", "no.", "y, e, s", "No; It isn't lit.", "1", "")]
    ['yes', 'no', 'yes', 'no', None, None]
    >>> yes_no_truth("Yes; No"), yes_no_truth("No kettle is there.")
    (None, None)
    """
    sides = {
        lead.side
        for answer in accepted_answers(target)
        for sentence in sentences(answer)[:1]
        if (lead := _lead(sentence))
    }
    side = sides.pop() if len(sides) == 1 else None
    return None if side == "unclear" else side


def _judge(row: Answered) -> Finding:
    if not accepted_answers(row.target):
        return Finding(None, "no ground truth")
    truth = yes_no_truth(row.target)
    if truth is None:
        return Finding(None, f"truth is not yes or no: {excerpt(row.target)}")
    answer = row.answer or ""
    if not words(answer):
        return Finding(None, "no answer")
    stance = read_stance(answer)
    if stance is None:
        return Finding(None, f"takes no side: {excerpt(answer)}")
    if stance.side == "unclear":
        return Finding(None, f"hedges or contradicts itself: {excerpt(stance.evidence)}")
    if stance.about and not _asked(stance.about, row.question):
        return Finding(None, f"negates what was not asked: {excerpt(answer)}")
    side = f"{stance.side}, truth {truth}: {excerpt(stance.evidence)}"
    return Finding(stance.side != truth, f"says {side}")


def _asked(about: tuple[str, ...], question: str) -> bool:
    """Return whether a question, not itself negated, asks about all of these words."""
    asked = {stem(word) for word in words(plain(question))}
    return not NEGATIVE.search(plain(question)) and {stem(word) for word in about} <= asked
