"""The phrase that answers a question, and whether two phrases have the same meaning.

*The man is holding a red cup.* answers *What is the man holding?* by *red cup*: the words that
remain when those of the question are removed from both ends. If other words remain as well, there
is no phrase. Two phrases are ``equal``, ``contrary`` (of one kind, but excluding each other:
numbers, colours, sides, opposites, letters, units), ``close`` (possibly the same) or ``different``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from vlmscope.score.language.denial import sentences
from vlmscope.score.language.lexicon import (
    forms_of_one,
    is_part,
    known,
    lemma,
    opposite,
    related,
    same,
)
from vlmscope.score.language.text import is_figure, is_number, word_set, words
from vlmscope.score.parsing.claims import COLOURS, SIDES
from vlmscope.score.parsing.question import IN_IMAGE, Question

Words = tuple[str, ...]
Relation = Literal["equal", "contrary", "close", "different"]

SHORT = 3
"""Most words of a phrase that is compared as a whole."""

_CUT = re.compile(
    r",? (?:i (?:think|believe|guess|suppose)\b|compared (?:to|with)|in comparison (?:to|with)"
    r"|in contrast to|as opposed to|rather than|"
    r"instead of|unlike|versus|vs\.?|than|because|since|due to|as it|as they)\b"
)
_LEAD = re.compile(
    r"^(?:because (?:of )?|"
    r"(?:based on|in|from|according to|judging by|looking at|on|at|as)\b [^,]{1,60}, |(?:so"
    r"|therefore"
    r"|thus|hence|yes|well|overall|sure|certainly|it (?:appears|seems|looks)(?: that| like)?"
    r"|i (?:think|believe)(?: that)?|the (?:correct |right |final |best )?answer(?: is|:)"
    r"|(?:correct |final )?answer:|(?:the |this )?(?:picture|image|photo|scene) (?:shows"
    r"|depicts|features|contains)"
    r")[,:!]* )+"
)
_AROUND = word_set(
    "it is are was were be been this that these those they there he she his her him its their i we "
    "you appear appears seem seems look looks like to see can what which who has have had do"
    " does did "
    "being called named shown visible picture image photo scene s as exactly answer correct"
    " color says reads displays indicates shows sign text word words clock time label object item"
)
_THAT_IS = re.compile(
    r"(?<=\w) (?:that|which) (?:is|are) (?=(?:in|on|at|under|behind|next|beside|near|above|below) )"
)
_PREPOSITIONS = word_set(
    "of in on at by with for from to under behind near next between above below inside outside "
    "over across along around into through during and or that which who while but is are was were"
    " has have "
    "as"
)
_LOCATIVE = word_set("in on at of by from around near to during")
_NONE: frozenset[str] = frozenset()
_TRAILING = word_set("color in picture image photo here there total shown visible")
_UNITS = {
    name: unit
    for unit, names in {
        "mm": "millimeter millimeters millimetre millimetres",
        "km": "kilometer kilometers kilometre kilometres",
        "cm": "centimeter centimeters centimetre centimetres cms",
        "m": "meter meters metre metres", "kg": "kilogram kilograms kilo kilos kgs",
        "g": "gram grams gramme grammes", "mg": "milligram milligrams",
        "ml": "milliliter milliliters millilitre millilitres", "l": "liter liters litre litres",
        "in": "inch inches", "ft": "foot feet", "mi": "mile miles", "lb": "pound pounds lbs",
        "oz": "ounce ounces", "s": "second seconds sec secs", "min": "minute minutes mins",
        "h": "hour hours hr hrs", "mph": "mph", "cm²": "cm2", "m²": "m2",
        "km²": "km2", "mm²": "mm2", "°": "degree degrees",
    }.items()
    for name in (unit, *names.split())
}  # fmt: skip
_NUMBER = re.compile(
    r"(?P<sign>-?)(?P<money>[$€£¥]?)(?P<root>\d*√)?(?P<value>\d+(?:\.\d+)?(?:/\d+)?)(?P<unit>[%°]?)"
)
_PLAIN_UNITS = word_set("years year old square cubic units unit times points oclock") | set(_UNITS)
_HALVES = frozenset(("am", "pm"))
_PERCENT = re.compile(r"percent|%|proportion|\brate\b|share of|probability")
_DIGITS = re.compile(
    r"\bhow many\b|\bdigits?\b|\bsum\b|\btotal\b|\bcount\b|\bnumber of\b|\bhow much\b|\bage\b"
)
_MONEY = re.compile(r"\b(?:dollars?|euros?|pounds?|cents?|money|cost\w*|pric\w+|pay|worth)\b")
_AREA = re.compile(r"\barea\b|\bsquare\b|\bsurface\b|\bsize\b")


def answer_phrase(text: str, question: Question) -> Words | None:
    """Return the phrase of a sentence that answers a question, or None if there is none.

    >>> from vlmscope.score.parsing.question import read_question
    >>> held = read_question("What is the man holding?")
    >>> answer_phrase("The man is holding a red cup.", held), answer_phrase("A cup.", held)
    (('red', 'cup'), ('cup',))
    >>> answer_phrase("The man beside the cup is holding a phone.", held) is None
    True
    """
    parts = sentences(text)
    if len(parts) != 1:
        return None
    return _phrase(parts[0], question)


@lru_cache(1 << 14)
def _phrase(sentence: str, question: Question) -> Words | None:
    line = _LEAD.sub("", sentence).strip()
    cut = None if " than" in question.asked else _CUT.search(line)
    line = IN_IMAGE.sub(" ", line[: cut.start()] if cut else line)
    line = _THAT_IS.sub(" ", line)
    tokens = words(re.sub(r"[\"“”]", "", line))
    asked = question.words - question.offered
    start, end = 0, len(tokens)
    locative = _LOCATIVE if question.locates else _NONE
    while (
        start < end
        and (
            tokens[start] in locative
            or _is_from_question(tokens[start], asked)
            or (tokens[start] in asked and any(map(is_figure, tokens[start + 1 : end])))
        )
        and not _is_answer(tokens, start, question)
    ):
        start += 1
    while end > start + 1 and _is_from_question(tokens[end - 1], asked | _TRAILING, last=True):
        end -= 1
    core = tokens[start:end]
    if not core:
        return tokens if 0 < len(tokens) <= SHORT else None
    if any(word in _PREPOSITIONS for word in core) or reverses_roles(tokens[:start], question):
        return None
    return core


def reverses_roles(before: Words, question: Question) -> bool:
    """Return whether the words before a phrase exchange its role with that of the question's words.

    *The cup is left of the plate* does not state what is left of the cup; *The dog chases the cat*
    does not state who chases the dog.
    """
    if not before or question.locates or question.either:
        return False
    last = before[-1]
    if last in _PREPOSITIONS - {"is", "are", "was", "were", "has", "have", "as"}:
        return not question.asked.endswith(f" {last}")
    if not question.about_subject or last in ("is", "are", "was", "were"):
        return False
    known = _AROUND | question.kind
    return any(word in question.words and word not in known for word in before)


def _is_from_question(word: str, asked: frozenset[str], last: bool = False) -> bool:
    if is_figure(word):
        return False
    if word in asked or (not last and word in _AROUND):
        return True
    return lemma(word) in asked or any(
        forms_of_one(word, other) for other in asked if other[0] == word[0]
    )


def _is_answer(tokens: Words, at: int, question: Question) -> bool:
    """Return whether a word of the question starts the answer (*left or right?*)."""
    return tokens[at] in question.offered


def relation(phrase: Words, truth: Words, question: Question) -> Relation:
    """Return the relation of two phrases.

    >>> from vlmscope.score.parsing.question import read_question
    >>> what = read_question("What is it?")
    >>> relation(("sofa",), ("couch",), what), relation(("dog",), ("cat",), what)
    ('equal', 'different')
    >>> relation(("50%",), ("$50",), what), relation(("vitamin", "c"), ("vitamin", "a"), what)
    ('contrary', 'contrary')
    """
    if phrase == truth:
        return "equal"
    if not phrase or not truth:
        return "close"  # one of them is empty
    if (
        _is_letter(phrase[-1])
        and _is_letter(truth[-1])
        and {*phrase[:-1], *truth[:-1]} <= question.words
    ):
        return "equal" if phrase[-1] == truth[-1] else "contrary"  # "Gate C"
    if "number" in phrase[:1] and len(phrase) == 2 and is_figure(phrase[1]):
        phrase = phrase[1:]
    if _HALVES.isdisjoint(phrase) or _HALVES.isdisjoint(truth):  # 10:30 am and 10:30
        phrase, truth = _without(phrase, _HALVES), _without(truth, _HALVES)
    numbers = _compare_numbers(phrase, truth, question)
    if numbers:
        return numbers
    return _compare_words(phrase, truth, question)


def _compare_words(phrase: Words, truth: Words, question: Question) -> Relation:
    """Compare two phrases that are not numbers."""
    if len(phrase) == 1 == len(truth) and {*phrase, *truth} <= question.offered:
        return "contrary"
    phrase, truth = _without_kind_words(phrase), _without_kind_words(truth)
    if phrase == truth or _same_words(phrase, truth):
        return "equal"
    if _is_contrary(phrase, truth):
        return "contrary"
    if _may_be_same(phrase, truth, question):
        return "close"
    return "different"


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word.isalpha()


def _without(phrase: Words, left_out: frozenset[str]) -> Words:
    return tuple(word for word in phrase if word not in left_out) or phrase


def _without_kind_words(phrase: Words) -> Words:
    """Return a phrase without words such as *color* or *kind* (*red in color*)."""
    kept = tuple(
        w
        for w in phrase
        if w
        not in (
            "color",
            "colored",
            "very",
            "made",
            "of",
            "in",
            "type",
            "kind",
            "his",
            "her",
            "its",
            "their",
            "hand",
        )
    )
    return kept or phrase


def _same_words(phrase: Words, truth: Words) -> bool:
    if len(phrase) == len(truth):
        if all(_same(one, other) for one, other in zip(phrase, truth, strict=True)):
            return True
        reordered = sorted(phrase) == sorted(truth) and not any(map(is_number, phrase[:-1]))
        if reordered and "than" not in phrase:
            return True
    one, other = " ".join(phrase), " ".join(truth)
    unspaced_equal = one.replace(" ", "") == other.replace(" ", "")
    return unspaced_equal or (same(one, other) and COLOURS.isdisjoint({*phrase, *truth}))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if is_figure(one) or is_figure(other) or len(one) < 2 or len(other) < 2:
        return False
    if one in COLOURS or other in COLOURS or opposite(one, other):
        return False
    return same(one, other) or forms_of_one(one, other)


def _is_contrary(phrase: Words, truth: Words) -> bool:
    """Return whether two phrases differ in one word that conflicts with another."""
    if len(phrase) == len(truth):
        pairs = [(a, b) for a, b in zip(phrase, truth, strict=True) if not _same(a, b)]
        if len(pairs) == 1 and conflict(*pairs[0]):
            return True
    for kind in (COLOURS, *SIDES):
        own, named = kind.intersection(truth), kind.intersection(phrase)
        if len(own) == 1 and len(named) == 1 and own != named:
            return True
    return False


def conflict(one: str, other: str) -> bool:
    """Return whether two words of one kind exclude each other."""
    if is_figure(one) and is_figure(other):
        return _shape(one) == _shape(other) and _number_of(one) != _number_of(other)
    if len(one) == 1 == len(other):
        return one != other
    if one in COLOURS and other in COLOURS:
        return True
    if one in _UNITS and other in _UNITS:
        return _UNITS[one] != _UNITS[other]
    return opposite(one, other) or any(one in kind and other in kind for kind in SIDES)


def _number_of(figure: str) -> str:
    """Return a rank as its number, and any other figure unchanged."""
    return re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", figure)


def _is_rank_of(one: str, other: str) -> bool:
    """Return whether one figure is a rank and the other its number: the 3rd floor is floor 3."""
    return is_figure(one) and one != other and _number_of(one) == _number_of(other)


def _shape(figure: str) -> str:
    """Return the notation of a figure: 10:30 and 1/2 are not of one kind."""
    return re.sub(r"\d+", "9", re.sub(r"\.|(?:st|nd|rd|th)$", "", figure))


def _verb_stem(word: str) -> str:
    return re.sub(r"(?<=\w{3})(?:ing|e?s|ed|e)$", "", word)


_NATION = re.compile(r"\b(?:nationality|country|language|nation)\b")


def _may_be_same(phrase: Words, truth: Words, question: Question) -> bool:
    """Return whether two phrases may have the same meaning."""
    one, other = " ".join(phrase), " ".join(truth)
    if set(map(lemma, phrase)) & set(map(lemma, truth)):
        return not is_other_compound(other, one)
    if len(phrase) == 1 == len(truth) and is_figure(phrase[0]) and is_figure(truth[0]):
        return True
    if {_verb_stem(word) for word in phrase} & {_verb_stem(word) for word in truth}:
        return True  # "skis" and "skiing"
    if related(one, other) or any(related(a, b) for a in phrase for b in truth if a not in COLOURS):
        return True
    pairs = enumerate(zip(one, other, strict=False))
    shared = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    least = 3 if _NATION.search(question.asked) else 4
    similar = shared >= least and shared * 5 >= len(min(one, other, key=len)) * 2
    if similar and " " not in one + other and not is_other_compound(other, one):
        return True
    unspaced_one, unspaced = one.replace(" ", ""), other.replace(" ", "")
    short, long = sorted((unspaced_one, unspaced), key=len)
    if is_other_compound(other, one):
        return False
    both_known = len(phrase) == 1 == len(truth) and known(one) and known(other)
    return len(short) > 3 and (short in long or (_distance_one(short, long) and not both_known))


_CONTAINERS = word_set("cup bottle can glass bowl box bag jar pot plate slice piece case")


def is_other_compound(short: str, long: str) -> bool:
    """Return whether a term starts with another word, but names something else.

    >>> is_other_compound("bus", "bus stop"), is_other_compound("cup", "cupcake")
    (True, True)
    >>> is_other_compound("fire", "fire"), is_other_compound("dog", "dogs")
    (False, False)
    """
    if not long.startswith(short) or lemma(long) == lemma(short) or short in COLOURS:
        return False
    noun = is_part(lemma(long), "n") and not is_part(lemma(long), "a")
    noun = noun and long.rpartition(" ")[2] not in _CONTAINERS
    return noun and known(short) and not related(short, long)


def _distance_one(one: str, other: str) -> bool:
    """Return whether two words differ in one letter, as two spellings may."""
    if len(other) - len(one) > 1 or one.isdigit():
        return False
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return one[at:] == other[at + 1 :] or one[at + 1 :] == other[at + 1 :]


def _compare_numbers(phrase: Words, truth: Words, question: Question) -> Relation | None:
    """Compare two phrases that are numbers, with their units."""
    if len(phrase) == 1 == len(truth) and _is_rank_of(phrase[0], truth[0]) and not question.counts:
        return "equal"
    phrase = _without_unit(phrase, truth, question)
    one, other = _measure(phrase), _measure(truth)
    if one is None or other is None:
        return None
    if one[1] in _LENGTHS and other[1] in _LENGTHS:
        return _converted(one, other)
    if {one[1], other[1]} == {"", "%"} and _hundredfold(one, other):
        return "equal"
    if one[0] != other[0]:
        return "contrary"
    if one[1] == other[1]:
        plain_zero = not re.match(r"0\d", phrase[0]) and not re.match(r"0\d", truth[0])
        return (
            "equal"
            if plain_zero or phrase[0] == truth[0] or _DIGITS.search(question.text)
            else "close"
        )
    return _compare_units(one[1], other[1], question)


def _compare_units(one: str, other: str, question: Question) -> Relation:
    """Return the relation of equal numbers with different units: 50 and 50%."""
    unit = one or other
    if one and other:
        return "contrary"
    if unit.endswith("2") and not _AREA.search(question.text):
        return "close"
    if unit == "%":
        return "equal" if _PERCENT.search(question.text) else "close"
    if unit in ("$", "€", "£", "¥") and question.counts and not _MONEY.search(question.text):
        return "close"
    return "contrary" if "√" in unit else "equal"


def _without_unit(phrase: Words, truth: Words, question: Question) -> Words:
    """Return a number without its unit (*30 years old*), if the ground truth has no unit."""
    if len(truth) > 1 or len(phrase) < 2 or not is_number(phrase[0]):
        return phrase
    units = _PLAIN_UNITS | question.words
    return phrase[:1] if units.issuperset(phrase[1:]) else phrase


def _hundredfold(one: tuple[Fraction, str], other: tuple[Fraction, str]) -> bool:
    """Return whether one number is a fraction and the other the same value in percent."""
    share, percent = (one, other) if other[1] else (other, one)
    return 0 < share[0] < 1 and share[0] * 100 == percent[0]


_LENGTHS = {
    "mm": Fraction(1, 1000), "cm": Fraction(1, 100), "m": Fraction(1), "km": Fraction(1000),
}  # fmt: skip


def _converted(one: tuple[Fraction, str], other: tuple[Fraction, str]) -> Relation:
    equal = one[0] * _LENGTHS[one[1]] == other[0] * _LENGTHS[other[1]]
    return "equal" if equal else "contrary"


def _measure(phrase: Words) -> tuple[Fraction, str] | None:
    """Return the value and the unit of a phrase that is a number."""
    found = _NUMBER.fullmatch(phrase[0]) if phrase else None
    if found is None or len(phrase) > 2 or len(phrase[0]) > 40:
        return None
    if len(phrase) == 2 and phrase[1] not in _UNITS:
        return None
    number, _, denominator = found["value"].partition("/")
    if denominator and not int(denominator):
        return None
    value = Fraction(number) / (int(denominator) if denominator else 1)
    unit = found["money"] + (found["root"] or "") + found["unit"]
    unit += _UNITS[phrase[1]] if len(phrase) == 2 else ""
    return (-value if found["sign"] else value), unit
