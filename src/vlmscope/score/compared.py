"""Which of two things an answer finds ahead, where *Which is taller, A or B?* is asked.

*The pole is shorter than the tree*, *The pole is not as tall as the tree* and *The tree, not the
pole* all say that the tree is taller.
"""

from __future__ import annotations

import re
from typing import Literal

from vlmscope.score.denial import NEGATIVE, hedge_in, plain, sentences
from vlmscope.score.lexicon import is_part, opposite, same
from vlmscope.score.question import Question
from vlmscope.score.text import words

Words = tuple[str, ...]

_TWO = re.compile(
    r"(?P<ask>(?:which|who|what)\b[^,]*), (?:the |an? )?(?P<a>[\w' -]{1,40}?),? or (?:the |an? )?"
    r"(?P<b>[\w' -]{1,40})$"
)
_SPLIT = re.compile(
    r"\s*[;:]\s*|,\s+|\s+[-–—]+\s+"
    r"|\s+(?=(?:but|while|whereas|although|though|because|(?:and )?not (?!as|so)|and (?:the|it)"
    r"|rather"
    r" than|instead of|as opposed to|compared (?:to|with)|in comparison|unlike)\b)"
)
_CONTRASTED = re.compile(
    r"^(?:and )?(?:not|rather than|instead of|as opposed to|compared (?:to|with)|in comparison"
    r"|unlike)\b"
)
_FRAGMENT = re.compile(
    r"(?:(?:it|that|the answer|the correct answer) (?:is|would be) )?(?:clearly |definitely )?"
    r"(?:the )?(?P<x>[\w' -]+?)(?: is| does| did| was)?"
)
_NOT_AS = re.compile(r"\bnot (?:as|so) (?P<x>\w+) as\b")
_EVEN = re.compile(r"\b(?:equal\w*|same|both|neither|identical|as \w+ as|tie[ds]?)\b")
_IF = re.compile(r"\b(?:if|unless|would|were to|used to|should)\b")
_IRREGULAR = {
    "better": "good", "worse": "bad", "farther": "far", "further": "far", "less": "less",
    "more": "more", "fewer": "less", "older": "old", "elder": "old",
}  # fmt: skip
_MORE = {("more", "expensive"): 1, ("more", "cheap"): -1, ("more", "less"): -1}
_APART = frozenset(
    frozenset(pair.split("/"))
    for pair in ("big/small", "large/small", "big/little", "close/far", "near/far", "more/less",
                 "expensive/cheap", "high/low", "warm/cold", "hot/cold", "young/old", "new/old")
)  # fmt: skip


def compared_options(question: Question) -> tuple[Words, Words] | None:
    """Return the two things that a question compares, in words, or None."""
    found = _TWO.match(question.asked)
    if found is None or _degree(words(found["ask"])) is None:
        return None
    one, other = (words(re.sub(r" ones?$", "", found[name].strip())) for name in "ab")
    return (one, other) if one and other and one != other else None


def winner(text: str, question: Question) -> Words | None:
    """Return which of the two things an answer finds more of what is asked, or None.

    >>> from vlmscope.score.question import read_question
    >>> taller = read_question("Which is taller, the tree or the pole?")
    >>> winner("The pole is shorter than the tree.", taller)
    ('tree',)
    """
    options = compared_options(question)
    found = _TWO.match(question.asked)
    line = plain(text)
    if options is None or found is None or len(line) > 400 or hedge_in(line):
        return None
    if question.negated or _IF.search(line):
        return None
    asked = _degree(words(found["ask"]))
    won = set()
    for sentence in sentences(line):
        clauses = [part for part in _SPLIT.split(sentence.rstrip(" .!")) if part]
        for clause in clauses:
            if (
                clause != clauses[-1] and clause.endswith((" is", " does", " was"))
            ) or _CONTRASTED.match(clause):
                continue
            said = _of_clause(clause, options, asked or "")
            if said == "unclear":
                return None
            if said is not None:
                won.add(int(said))
    return options[won.pop()] if len(won) == 1 else None


def _of_clause(
    clause: str, options: tuple[Words, Words], asked: str
) -> int | Literal["unclear"] | None:
    """Return the number of the option that a clause finds ahead, "unclear", or None."""
    if found := _NOT_AS.search(clause):
        named = _named(words(clause[: found.start()]), options)
        sign = _sign(asked, found["x"])
        if named is None or not sign:
            return "unclear"
        return 1 - named if sign > 0 else named
    if _EVEN.search(clause):
        return "unclear"
    said = words(re.split(r" than\b", clause, maxsplit=1)[0])
    degree = _degree(said)
    if degree is None:
        fragment = _FRAGMENT.fullmatch(clause)
        return _named(words(fragment["x"]), options, whole=True) if fragment else None
    sign = _sign(asked, degree)
    at = next(i for i, word in enumerate(said) if adjective_of(word) or word in ("more", "less"))
    named = _named(said[:at], options)
    if named is None:
        named = _named(said[at + 1 :], options)
    if not sign or named is None:
        return "unclear" if named is not None else None
    if NEGATIVE.search(clause):
        return None
    return named if sign > 0 else 1 - named


def _named(said: Words, options: tuple[Words, Words], whole: bool = False) -> int | None:
    """Return which one of the options some words name, or None for none or both."""
    found = []
    for number, option in enumerate(options):
        starts = range(len(said) - len(option) + 1)
        if (said == option) if whole else any(said[i : i + len(option)] == option for i in starts):
            found.append(number)
    return found[0] if len(found) == 1 else None


def _degree(said: Words) -> str | None:
    """Return the adjective of the first comparative among some words, or None."""
    for at, word in enumerate(said):
        if word in ("more", "less"):
            following = said[at + 1] if at + 1 < len(said) else ""
            if is_part(following, "a"):
                return following if word == "more" else f"-{following}"
            return word
        if base := adjective_of(word):
            return base
    return None


def adjective_of(word: str) -> str | None:
    """Return the adjective of a comparative in *er*, or None.

    >>> [adjective_of(word) for word in ("taller", "heavier", "bigger", "closer", "tower")]
    ['tall', 'heavy', 'big', 'close', None]
    """
    if word in _IRREGULAR and word not in ("more", "less"):
        return _IRREGULAR[word]
    if not word.endswith("er") or len(word) < 5:
        return None
    stem = word.removesuffix("er")
    bases = [stem, stem + "e", stem[:-1] if stem[-1] == stem[-2] else "", stem[:-1] + "y"]
    bases = bases if stem.endswith("i") else bases[:3]
    return next((base for base in bases if base and is_part(base, "a")), None)


def _sign(asked: str, said: str) -> int:
    """Return 1 where two adjectives mean the same, -1 for the opposite, else 0.

    ``-expensive`` is *less expensive*.
    """
    if asked.startswith("-") or said.startswith("-"):
        turned = asked.startswith("-") != said.startswith("-")
        sign = _sign(asked.removeprefix("-"), said.removeprefix("-"))
        return -sign if turned else sign
    if asked == said or (asked, said) in _MORE:
        return _MORE.get((asked, said), 1)
    if opposite(asked, said) or frozenset((asked, said)) in _APART:
        return -1
    return 1 if same(asked, said) else 0
