"""Sentences that affirm or contradict what a yes/no question asks, without saying yes or no.

A sentence affirms if it repeats the question's claim word for word, in order, with nothing between
but words that change nothing (*it appears there is **direct contact** between …*), or if it
presents what the question asks about as existing (*A dog sits on the bench.*). It contradicts if
exactly one word conflicts with another of its kind: another number, colour, side, or the opposite
(*clean* for *dirty*). A sentence that denies, hedges, compares or quotes affirms nothing.
"""

from __future__ import annotations

import re
from typing import Literal

from vlmscope.score.language.denial import DOUBT, hedge_in
from vlmscope.score.language.lexicon import is_a, is_part, known, lemma, opposite, same
from vlmscope.score.language.text import is_number, word_set, words
from vlmscope.score.parsing.question import Question, claim_words
from vlmscope.score.parsing.reply import strip_contrast

COLOURS = word_set("red orange yellow green blue purple pink brown black white gray")
SIDES = tuple(
    frozenset(kind.split())
    for kind in (
        "left right", "upper lower", "top bottom", "above below", "front behind", "up down",
        "on off", "over under", "am pm", "north south east west", "morning evening night",
        "inside outside",
    )
)  # fmt: skip

UNREAL = re.compile(
    r"\b(?:like (?!there)|resembl\w+|similar|statue|sculpture|figurine|drawing|painting|mural|toy"
    r"|cartoon|logo|poster|costume|pattern|shaped|says|reads|word|named|called|than|almost|nearly"
    r"|partly|partially|half|supposed|used to|about to|fake|stuffed|replica|silhouette|tattoo)s?\b"
)
"""Words that turn a named object into another one, or an uncertain one."""

_SETTLED = re.compile(
    rf"{UNREAL.pattern}|\b(?:would|not|who|which|where|while|whose|other than|only|but)\b"
)
_BETWEEN = word_set(
    "clearly indeed visible seen shown be very quite sitting standing lying laying seated "
    "resting turn placed located situated parked positioned hanging one that which and well "
    "only single large small big little tall young old also now sit stand lie lay seat rest "
    "place locate situate park position hang wide fully"
)
_DETERMINED = word_set(
    "a an the some several many two three four five six seven eight nine ten 1 2 3 4 5 6 7 8 9 10 "
    "multiple various few and this another both his her its their one visible"
)
_MODIFIERS = (
    word_set(
        "large small big little tall short young old single visible long huge tiny beautiful "
        "modern vintage wooden metal wood plastic open closed empty full striped bright dark light "
        "adult baby male female domestic electric colorful colored round square real different "
        "silver golden beige tan shiny individual additional other"
    )
    | COLOURS
)
_AFTER = re.compile(
    r"(?:is|are|was|were|has|have|in|on|at|of|by|near|next|with|and|or|under|behind|beside"
    r"|between|above"
    r"|below|inside|around|to|from|for|that|which|who|standing|visible|present|can|here|there|as"
    r"|along|against|across|through|over|while|being|shown|seen|parked|placed|appears?|seems?"
    r"|looks?|sits?|stands?|lies|lying|wearing|holding|running|strapped|held|tied|covered|\w+ing|located|situated|positioned"
    r"|mounted|hung|attached|lined|made|filled|seated|displayed|depicted|outside|indoors"
    r"|outdoors|\w+ly"
    r"|off|down|up|out|together|close|far)$"
)
GROUPS = word_set(
    "group pair number lot couple bunch piece slice set herd flock row variety crowd stack pile "
    "plate bowl cup glass bottle kind type family line part section pot vase"
)
_QUOTED = re.compile(r"[\"“”]")

Side = Literal["yes", "no"]


def side_of(question: Question, sentence: str) -> Side | None:
    """Return the side that a sentence in the wording of ``plain`` takes, or None.

    >>> from vlmscope.score.parsing.question import read_question
    >>> side_of(read_question("Is there a dog in the image?"), "there is a dog in the image.")
    'yes'
    >>> side_of(read_question("Is the floor dirty?"), "the floor appears to be clean.")
    'no'
    >>> side_of(read_question("Are there five planes?"), "there is only one plane.")
    'no'
    >>> side_of(read_question("Is there a dog?"), "there is a hot dog on the plate.") is None
    True
    """
    if question.negated or question.either or not question.claim or not question.yes_no:
        return None
    if not question.thing or any(map(is_number, question.thing)):
        sentence = strip_contrast(sentence)
    if " than " in question.asked and _EQUAL.match(sentence):
        return "no"
    if DOUBT.search(sentence) or hedge_in(sentence) or _other_gender(question, sentence):
        return None
    limited = re.sub(
        r"\b(?:only|just|exactly) (?=(?:one|two|three|four|five|six|\d|an? ))", "", sentence
    )
    if found := _compare_count(question, limited):
        return found
    if _SETTLED.search(limited):
        return None
    found = _match_claim(question.claim, _sentence_claim(limited)) or _match_pronoun(
        question, limited
    )
    found = found or _match_head(question, limited)
    if found and not (found == "no" and question.thing):  # a blue cup does not exclude a red one
        return found
    return "yes" if question.thing and shows(question.thing, limited) else None


_EQUAL = re.compile(
    r"^(?:they|both|the (?:two|2)?|these) ?(?:[\w'-]+ ){0,4}?(?:are|have|look|appear)"
    r" (?:of |to be |all |both |exactly |actually )*(?:the )?(?:same|equal|identical)\b"
    r"(?! (?:color|colour|shape|type))"
    r"(?: (?:in )?(?:size|length|height|width|level|brightness|number|amount))?[.!]*$"
)
"""*They are the same size*: none of two is larger."""


def _other_gender(question: Question, sentence: str) -> bool:
    """Return whether a sentence about *her* answers a question about a man, or vice versa."""
    found = re.match(r"(?:(?:the )?(she|her|woman|girl)|(?:the )?(he|his|man|boy))\b", sentence)
    if found and found[found.lastindex or 1] in question.words:
        return False
    other = _MEN if found and found[1] else _WOMEN
    return bool(found) and not other.isdisjoint(question.words)


_MEN = word_set("man boy gentleman he his him guy")
_WOMEN = word_set("woman girl lady she her")


def _sentence_claim(sentence: str) -> tuple[str, ...]:
    sentence = re.sub(
        r"^(?:(?:yes|no|based on|in|from|according to|judging by|looking at) ?[^,]{0,60}, )+",
        "",
        sentence,
    )
    return claim_words(sentence)


def _match_claim(claim: tuple[str, ...], tokens: tuple[str, ...]) -> Side | None:
    """Compare a claim with a sentence, word by word in order."""
    at = 0
    contrary = 0
    started = False
    for word in claim:
        while (
            at < len(tokens) and not _matches(word, tokens[at]) and not _conflict(word, tokens[at])
        ):
            if tokens[at] not in _BETWEEN and not (tokens[at] in _MODIFIERS and _is_head(word)):
                return None
            at += 1
        if at == len(tokens):
            return None
        contrary += not _matches(word, tokens[at])
        started = True
        at += 1
    if not started or contrary > 1:
        return None
    if contrary:
        alone = len(claim) > 1 or len(tokens) == 1
        return "no" if alone and not set(claim) & set(tokens[at:]) else None
    rest = tokens[at:]
    if (
        rest
        and rest[0] in ("and", "or")
        and not (is_part(claim[-1], "n") and claim[-1] not in COLOURS)
    ):
        return None  # "black and white"
    if rest and not _AFTER.match(rest[0]) and rest[0] not in _BETWEEN and _is_head(claim[-1]):
        return None  # "a dog house"
    return "yes"


_ITS_SUBJECT = re.compile(r"(?:it|they|he|she|this|that|these|those) ")
_ITS_OBJECT = re.compile(r" (?:it|them|there|one)[.!]*$")
_DEFINITE = re.compile(r"\w+ (?:the|this|that|his|her|its|their|these|those) ")


def _match_pronoun(question: Question, sentence: str) -> Side | None:
    """Compare a claim with a sentence whose subject or last noun is *it*."""
    claim, tokens = question.claim, _sentence_claim(sentence)
    if _ITS_SUBJECT.match(sentence) and _DEFINITE.match(question.asked) and len(claim) > 1:
        if len(claim) == 2 and (len(tokens) != 1 or not is_part(claim[1], "a")):
            return None
        return _match_claim(claim[1:], tokens) if is_part(claim[0], "n") else None
    if _ITS_OBJECT.search(sentence) and len(claim) > 2 and is_part(claim[-1], "n"):
        return (
            "yes"
            if _match_claim(claim[:-1], tokens) == "yes" and len(tokens) == len(claim) - 1
            else None
        )
    return None


def _match_head(question: Question, sentence: str) -> Side | None:
    """Compare a claim with a sentence about *the napkin* instead of *the napkin on the table*."""
    claim = question.claim
    if len(claim) < 4 or claim[1] not in ("in", "on", "of", "under", "behind", "near"):
        return None
    if not re.match(rf"the {re.escape(claim[0])}s? (?:is|are) ", sentence):
        return None
    simple = re.match(r"(?:is|are) the [\w-]+ \w+ (?:the |an? )?[\w-]+ [\w-]+$", question.asked)
    return _match_claim((claim[0], *claim[3:]), _sentence_claim(sentence)) if simple else None


def _is_head(word: str) -> bool:
    return not is_number(word)


def _matches(asked: str, word: str) -> bool:
    """Return whether a word of a sentence equals a word of the claim, or is a kind of it."""
    if asked == word:
        return True
    if is_number(asked) or is_number(word) or len(asked) < 2:
        return False
    if asked in COLOURS or word in COLOURS:
        return False
    return is_part(asked, "n") and is_part(word, "n") and (same(asked, word) or is_a(word, asked))


def _conflict(asked: str, word: str) -> bool:
    """Return whether two words exclude each other."""
    if asked == word:
        return False
    if is_number(asked) and is_number(word):
        return True
    if asked in COLOURS and word in COLOURS:
        return True
    return opposite(asked, word) or any(asked in kind and word in kind for kind in SIDES)


def _compare_count(question: Question, sentence: str) -> Side | None:
    """Compare the numbers of what a question counts: *five planes*, *there is one plane*."""
    claim = tuple(word for word in question.thing if word not in ("only", "just", "exactly"))
    numbers = [word for word in claim if is_number(word)]
    if len(numbers) != 1 or claim[0] != numbers[0] or len(claim) < 2:
        return None
    tokens = tuple(word if is_number(word) else lemma(word) for word in words(sentence))
    noun = claim[1:]
    for at in range(1, len(tokens)):
        part = tokens[at : at + len(noun)]
        if len(part) == len(noun) and all(map(_matches, noun, part)) and is_number(tokens[at - 1]):
            if "than" in tokens or "least" in tokens or "most" in tokens or "about" in tokens:
                return None
            return "yes" if tokens[at - 1] == numbers[0] else "no"
    return None


def shows(thing: tuple[str, ...], sentence: str) -> bool:
    """Return whether a sentence presents an object as existing."""
    if _QUOTED.search(sentence) or len(thing) > 3 or any(map(is_number, thing)):
        return False
    tokens = words(sentence)
    if lemma(thing[-1]) == "person" and len(thing) == 1 and re.search(r"\bpeople\b", sentence):
        return True
    size = len(thing)
    for at in range(len(tokens)):
        for length in {size, 1} if size > 1 else (1, 2):
            part = tokens[at : at + length]
            if len(part) == length and _is_thing(thing, part) and _stands_alone(tokens, at, length):
                return True
    return False


def _is_thing(thing: tuple[str, ...], part: tuple[str, ...]) -> bool:
    one, other = " ".join(thing), " ".join(part)
    if tuple(map(lemma, part)) == thing:
        return True
    if len(thing) == 1 == len(part) or known(one) or known(other):
        other = lemma(other)
        return other not in COLOURS and is_part(other, "n") and is_a(other, one)
    return False


def _stands_alone(tokens: tuple[str, ...], at: int, length: int) -> bool:
    """Return whether words are a noun phrase by themselves, with a determiner or an adjective."""
    after = tokens[at + length] if at + length < len(tokens) else ""
    if after and not _AFTER.match(after):
        return False
    if (
        after.endswith("ing")
        and is_part(after, "n")
        and is_part("".join(tokens[at + length + 1 :][:1]), "n")
    ):
        return False  # "a car parking lot"
    before = at
    while before and tokens[before - 1] in _MODIFIERS:
        if known(" ".join(tokens[before - 1 : at + length])) and tokens[before - 1] not in COLOURS:
            return False
        before -= 1
    if before == 0:
        return True
    last = tokens[before - 1]
    if last == "of":
        if lemma(tokens[before - 2]) in (
            "image",
            "picture",
            "photo",
        ):  # "This is an image of a dog"
            return before < 5 and tokens[0] in ("this", "it", "image", "picture", "photo")
        return before > 1 and lemma(tokens[before - 2]) in GROUPS
    return (
        last in _DETERMINED
        or is_number(last)
        or last.endswith("ing")
        or last in ("beside", "near", "behind", "under", "above", "below", "on", "in")
        or (last == "to" and tokens[before - 2 : before - 1] in (("next",), ("close",)))
        or last in ("is", "are", "see", "with", "shows", "contains")
        or last
        in ("show", "contain", "includes", "features", "include", "depicts", "has", "holding")
    )
