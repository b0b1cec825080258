"""Which of two things an answer names: as the taller one, or as the one on the left.

Comparatives: *The pole is shorter than the tree*, *The pole is not as tall as the tree* and *The
tree, not the pole* all state that the tree is taller.

Relative positions: *The dog is to the right of the man* states that the man is left of the dog.
Only sentences about exactly the two objects of the question are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vlmscope.score.language.denial import DOUBT, NEGATIVE, hedge_in, plain, sentences
from vlmscope.score.language.lexicon import is_part, lemma, opposite, same
from vlmscope.score.language.text import words
from vlmscope.score.parsing.case import Case
from vlmscope.score.parsing.question import IN_IMAGE, Question
from vlmscope.score.scorer import Finding

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
_EQUAL = re.compile(r"\b(?:equal\w*|same|both|neither|identical|as \w+ as|tie[ds]?)\b")
_IF = re.compile(r"\b(?:if|unless|would|were to|used to|should)\b")
_IRREGULAR = {
    "better": "good", "worse": "bad", "farther": "far", "further": "far", "less": "less",
    "more": "more", "fewer": "less", "older": "old", "elder": "old",
}  # fmt: skip
_MORE = {("more", "expensive"): 1, ("more", "cheap"): -1, ("more", "less"): -1}
_OPPOSITES = frozenset(
    frozenset(pair.split("/"))
    for pair in ("big/small", "large/small", "big/little", "close/far", "near/far", "more/less",
                 "expensive/cheap", "high/low", "warm/cold", "hot/cold", "young/old", "new/old")
)  # fmt: skip


def compared_options(question: Question) -> tuple[Words, Words] | None:
    """Return the words of the two objects that a question compares, or None."""
    found = _TWO.match(question.asked)
    if found is None or _degree(words(found["ask"])) is None:
        return None
    one, other = (words(re.sub(r" ones?$", "", found[name].strip())) for name in "ab")
    return (one, other) if one and other and one != other else None


def winner(text: str, question: Question) -> Words | None:
    """Return which of the two objects an answer ranks higher on the property asked for, or None.

    >>> from vlmscope.score.parsing.question import read_question
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
    winners = set()
    for sentence in sentences(line):
        clauses = [part for part in _SPLIT.split(sentence.rstrip(" .!")) if part]
        for clause in clauses:
            if (
                clause != clauses[-1] and clause.endswith((" is", " does", " was"))
            ) or _CONTRASTED.match(clause):
                continue
            ranked = _rank_in_clause(clause, options, asked or "")
            if ranked == "unclear":
                return None
            if ranked is not None:
                winners.add(int(ranked))
    return options[winners.pop()] if len(winners) == 1 else None


def _rank_in_clause(
    clause: str, options: tuple[Words, Words], asked: str
) -> int | Literal["unclear"] | None:
    """Return the number of the option that a clause ranks higher, "unclear", or None."""
    if found := _NOT_AS.search(clause):
        named = _named(words(clause[: found.start()]), options)
        sign = _sign(asked, found["x"])
        if named is None or not sign:
            return "unclear"
        return 1 - named if sign > 0 else named
    if _EQUAL.search(clause):
        return "unclear"
    tokens = words(re.split(r" than\b", clause, maxsplit=1)[0])
    degree = _degree(tokens)
    if degree is None:
        fragment = _FRAGMENT.fullmatch(clause)
        return _named(words(fragment["x"]), options, exact=True) if fragment else None
    sign = _sign(asked, degree)
    at = next(i for i, word in enumerate(tokens) if adjective_of(word) or word in ("more", "less"))
    named = _named(tokens[:at], options)
    if named is None:
        named = _named(tokens[at + 1 :], options)
    if not sign or named is None:
        return "unclear" if named is not None else None
    if NEGATIVE.search(clause):
        return None
    return named if sign > 0 else 1 - named


def _named(tokens: Words, options: tuple[Words, Words], exact: bool = False) -> int | None:
    """Return which of the options some words name, or None if they name none or both."""
    found = []
    for number, option in enumerate(options):
        starts = range(len(tokens) - len(option) + 1)
        if (
            (tokens == option)
            if exact
            else any(tokens[i : i + len(option)] == option for i in starts)
        ):
            found.append(number)
    return found[0] if len(found) == 1 else None


def _degree(tokens: Words) -> str | None:
    """Return the adjective of the first comparative among some words, or None."""
    for at, word in enumerate(tokens):
        if word in ("more", "less"):
            following = tokens[at + 1] if at + 1 < len(tokens) else ""
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


def _sign(asked: str, stated: str) -> int:
    """Return 1 if two adjectives are synonyms, -1 if they are antonyms, else 0.

    ``-expensive`` is *less expensive*.
    """
    if asked.startswith("-") or stated.startswith("-"):
        reverses = asked.startswith("-") != stated.startswith("-")
        sign = _sign(asked.removeprefix("-"), stated.removeprefix("-"))
        return -sign if reverses else sign
    if asked == stated or (asked, stated) in _MORE:
        return _MORE.get((asked, stated), 1)
    if opposite(asked, stated) or frozenset((asked, stated)) in _OPPOSITES:
        return -1
    return 1 if same(asked, stated) else 0


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
class RelativePosition:
    """The position of one object relative to another."""

    one: str
    side: str
    other: str

    def side_of(self, one: str, other: str) -> str | None:
        """Return on which side of ``other`` the object ``one`` is, or None for other objects."""
        if (self.one, self.other) == (one, other):
            return self.side
        return _REVERSED[self.side] if (self.other, self.one) == (one, other) else None


def read_position(sentence: str) -> RelativePosition | None:
    """Return the relative position stated by a sentence normalised by ``plain``, or None.

    >>> read_position("the dog is to the right of the man.")
    RelativePosition(one='dog', side='right', other='man')
    """
    line = " ".join(IN_IMAGE.sub(" ", sentence).split())
    found = _SAYS.match(line.replace(" .", ".")) if len(line) < 300 else None
    if found is None or DOUBT.search(sentence) or hedge_in(sentence):
        return None
    side = next(name for name in _FORMS if found[name])
    return RelativePosition(_noun(found["one"]), side, _noun(found["other"]))


def _noun(part: str) -> str:
    return " ".join(lemma(word) for word in words(part))


def asked_pair(question: Question) -> tuple[str, str] | None:
    """Return the two objects whose relative position a question asks for, or None."""
    line = " ".join(IN_IMAGE.sub(" ", question.asked).split())
    if found := _EITHER.match(line):
        return _noun(found["one"]), _noun(found["other"])
    if (found := _WHERE.match(line)) and (other := found["other"] or found["of"]):
        return _noun(found["one"]), _noun(other)
    return None


def answered_side(text: str, question: Question) -> str | None:
    """Return the side that an answer gives to the first of a question's two objects.

    "" if it relates the two in a way that is not covered; None if it does not mention them.
    """
    pair = asked_pair(question)
    parts = sentences(plain(text))
    if pair is None or not parts:
        return None
    found = read_position(parts[0])
    if found is None:
        named = {lemma(word) for word in words(parts[0])}
        other = {word for word in pair[1].split() if word not in ("the", "a")}
        first = next((at for at, w in enumerate(words(parts[0])) if lemma(w) in other), 99)
        own = next((at for at, w in enumerate(words(parts[0])) if lemma(w) in pair[0].split()), 99)
        return "" if other <= named and first < own else None
    side = found.side_of(*pair)
    return side if side and len(parts) == 1 else ""


def relative_side(question: Question, sentence: str) -> Literal["yes", "no"] | None:
    """Return the side that a sentence takes on *Is the bottle left of the laptop?*."""
    if not question.yes_no or question.either or question.negated:
        return None
    statement = re.sub(r"^(is|are) ((?:the |a |an )?[\w' -]+?) (?=(?:to|on|at) the (?:left|right)"
                       r"|(?:left|right) of|above|over|below|under|beneath|behind|in front|on top)",
                       r"\2 \1 ", question.asked)  # fmt: skip
    asked, stated = read_position(statement), read_position(sentence)
    if asked is None or stated is None:
        return None
    side = stated.side_of(asked.one, asked.other)
    if side == asked.side:
        return "yes"
    return "no" if side == _REVERSED[asked.side] else None


def score_relative_position(case: Case) -> Finding | None:
    """Compare the side on which an answer places the object asked about with the ground truth."""
    if asked_pair(case.question) is None or len(case.truths[0]) > 300:
        return None
    truth_sides = {_truth_side(truth, case.question) for truth in case.truths}
    if (
        len(truth_sides) != 1
        or None in truth_sides
        or (side := answered_side(case.final, case.question)) is None
    ):
        return None
    if not side:
        return Finding(None, f"the answer needs a judge: which is where? {case.shown}")
    return Finding(
        side not in truth_sides, f"puts it {side} in {case.shown}, truth {case.truth_shown}"
    )


def _truth_side(truth: str, question: Question) -> str | None:
    """Return the side that a ground truth names: *left*, *to the left of the dog*."""
    if word := re.fullmatch(
        r"(?:(?:to|on|at|in) the |in )?(left|right|above|below|front|behind)(?: side)?(?: of)?",
        plain(truth).strip(" ."),
    ):
        return word[1]
    pair = asked_pair(question)
    found = read_position(plain(truth)) or read_position(f"the thing is {plain(truth)}")
    if pair is None or found is None:
        return None
    return found.side_of(*pair) or (found.side if found.one == "thing" else None)
