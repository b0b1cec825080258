"""Sentences that claim nothing: denials, refusals and hedges, and what they are about.

A denial (*There is no kettle in the picture.*) is an answer like any other and may be right or
wrong. A hedge (*It might be red.*) is never evidence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmscope.score.text import words

NEGATIVE = re.compile(r"\b(?:no|not|never|nothing|none|nobody|neither|nor|without)\b")
"""A negative word, in the wording of ``plain``."""

_PICTURE = r"(?:picture|image|photo|photograph|scene|painting|drawing|figure)"
_LEARN = r"(?:tell|told|say|said|determine[d]?|know|known|confirm(?:ed)?|identif(?:y|ied)|answer)"

_UNTOLD = re.compile(
    rf"\b(?:i|you|we|it|one|this|that) (?:can|could|do|does) not (?:be |really |quite )*{_LEARN}\b"
    rf"|\b(?:hard|difficult|impossible|unable|not (?:possible|able)|no way|not enough \w+) to "
    rf"(?:be )?{_LEARN}\b"
    rf"|^(?:i am |it is |that is )?(?:not (?:known|clear|sure|certain)|unclear|unknown|no idea)\b"
    rf"|\b(?:can|could) not be {_LEARN}\b|\bnot enough (?:information|detail|context)\w*"
)

HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|might|may (?:be|have|not|well)|could (?:be|have|also))\b"
    r"|\b(?:not|un)(?: \w+)? ?(?:sure|certain|clear)\b|\bunclear\b|\bdepends\b"
    rf"|\bwhether\b|{_UNTOLD.pattern}"
)
"""Words that take a statement back."""

_LEANING = re.compile(r"\b(?:probably|likely|unlikely|presumably|i guess)\b")

_ABSENT = re.compile(
    r"^(?:no, |(?:i am )?sorry, (?:but )?|in (?:the|this) \w+, )?"
    r"(?:there (?:is|are|was|were) (?:no|not)\b"
    r"|i (?:do|can|could) not (?:see|find|spot|detect|notice|observe)\b"
    rf"|(?:the |this |that )?{_PICTURE} (?:does not (?:show|contain|include|depict|feature|have)"
    r"|(?:shows|contains|includes|depicts|features|has) no)\b)"
)
_NO_THING = re.compile(  # "No kettle is visible", "The kettle is not in the picture"
    r"^(?:in (?:the|this) \w+, )?"
    r"(?:no (?P<no>(?:\w+ ){1,3})(?:is|are|was|were|can be)"
    r"|(?P<not>(?:[\w'-]+ ){1,6})(?:is|are|was|were|can) not(?: be)?)"
    rf" (?:visible|seen|shown|present|depicted|there|here|in (?:the|this) {_PICTURE})\b"
)

_EMPTY_WORDS = (
    "a an the any some this that these those it its they them he she i you we one there here "
    "is are was were be been am do does did has have had can could would will to of in at by "
    "for from with appear appears seem seems look looks visible present shown seen depicted "
    "think believe suggests suggest indicates indicate see picture image photo photograph "
    "scene painting drawing figure really actually clearly all 1"  # 1: "one" in the normal form
)
_EMPTY = frozenset(_EMPTY_WORDS.split())


@dataclass(frozen=True, slots=True)
class Denial:
    """What a sentence says is not there, or not to be told."""

    things: tuple[str, ...]
    """Words for what is not there; empty where the sentence says that the answer cannot be told."""

    @property
    def untold(self) -> bool:
        """Whether it says only that the answer cannot be told."""
        return not self.things


def read_denial(text: str) -> Denial | None:
    """Return what a text of one sentence denies, or None where it is no plain denial.

    >>> read_denial("There is no kettle in the picture.")
    Denial(things=('kettle',))
    >>> read_denial("The red kettle isn't visible.")
    Denial(things=('red', 'kettle'))
    >>> read_denial("The picture does not show that."), read_denial("I can't tell.")
    (Denial(things=()), Denial(things=()))
    >>> read_denial("The kettle is not red.") is None
    True
    """
    said = sentences(text)
    if len(said) != 1:
        return None
    if _UNTOLD.search(said[0]):
        return Denial(())
    if found := _ABSENT.match(said[0]):
        return Denial(content(clause(said[0][found.end() :])))
    found = _NO_THING.match(said[0])
    return Denial(content(found["no"] or found["not"])) if found else None


def hedge_in(sentence: str) -> str | None:
    """Return the words that take a whole sentence back, ``probably`` included."""
    found = HEDGE.search(sentence) or _LEANING.search(sentence)
    return found[0] if found else None


def plain(text: str) -> str:
    """Return a text in lower case, without emphasis, its contractions written out.

    >>> plain("**No**, there isn’t; it can't be.")
    'no, there is not; it can not be.'
    """
    line = re.sub(r"[*_#`>\"“”]", "", text.lower().replace("’", "'"))
    line = re.sub(r"\bain'?t\b", "is not", line)
    line = re.sub(r"\b(?:can'?t|cannot)\b", "can not", line)
    line = re.sub(r"\bwon't\b", "will not", line)
    negated = r"\b(is|are|was|were|do|does|did|has|have|had|could|would|should)n'?t\b"
    line = re.sub(negated, r"\1 not", line)
    line = re.sub(r"\b(it|there|that|he|she|what|who)'s\b", r"\1 is", line)
    line = re.sub(r"\b(they|we|you|there)'re\b", r"\1 are", line)
    return re.sub(r"\bi'm\b", "i am", line)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in the wording of ``plain``.

    >>> sentences("No. 5 is red; it isn't blue! Yes")
    ['no. 5 is red', 'it is not blue!', 'yes']
    """
    parts = re.split(r"(?<=[.!?])\s+(?!\d)|[\n;]+", plain(text))
    return [" ".join(part.split()) for part in parts if re.search(r"\w", part)]


def clause(text: str) -> str:
    """Return what stands before the next comma, dash or *but*.

    >>> clause("there is no cup, but a plate")
    'there is no cup'
    """
    return re.split(r"[,:–—(]|\s-\s|(?<=\w)\s+(?:but|and|so|because)\b", text, maxsplit=1)[0]


def content(text: str) -> tuple[str, ...]:
    """Return the words that name something."""
    return tuple(word for word in words(text) if word not in _EMPTY)
