"""The color, number or side that an answer gives to the object asked about.

*The red hat is next to a brown bus* gives the bus the color brown, *five bears next to eight
couches* counts eight couches, *The clock is on the right, and the sink on the left* puts the clock
on the right. An answer is split into clauses; in each, a value belongs to the noun after it, else
to the subject of the clause, else to the last object mentioned. If a value belongs to nothing, or
the object has two, no value is returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from vlmscope.score.language.denial import NEGATIVE, hedge_in, plain, sentences
from vlmscope.score.language.lexicon import is_a, is_part, lemma, same
from vlmscope.score.language.text import is_number, word_set, words
from vlmscope.score.parsing.claims import COLOURS, SIDES
from vlmscope.score.parsing.question import Question
from vlmscope.score.rules.comparison import adjective_of

_SPLIT = re.compile(
    r"\s*[;!?]\s*|\s*[,:]\s+|\s+[-–—]+\s+|\s*—\s*|\.\s+"
    r"|\s+(?=(?:but|while|whereas|although|though|however|because|since|so|rather than|instead of"
    r"|as opposed to|unlike|compared (?:to|with)|(?:and )?not|and (?:the|it|there|an?|i|its|they)"
    r"|for a total)\b)"
)
_JOINED = re.compile(r"^(?:and|but|so|while|whereas|although|though|however|also|then|thus|yes) ")
_CONTRASTED = re.compile(
    r"^(?:and |but )?(?:not(?! only| just| very| all)|rather than|instead of|as opposed to|unlike"
    r"|compared (?:to|with)|neither)\b"
)
_NOT_FACTUAL = re.compile(
    r"\b(?:if|unless|would|could|should|might|used to|no longer|not (?:only|just|all|very)|never"
    r"|almost|nearly|looks? like a|except|supposed|half|partly|either|everything|all but|nothing"
    r"|same"
    r"|each|every|per|another|plus|more|extra|\d(?:st|nd|rd|th)|third|no (?=\w+ (?:is|are)))\b"
    r"|\b(?:redd|blu|green|yellow|brown|purpl|pink|gr[ae]y|black|whit|orang)e?ish\b"
)
_QUOTED = re.compile(r"[\"“”]")
_TURNED = re.compile(r"\b(?:look|fac|turn|point|walk|mov|driv|head)(?:s|es|ed|ing)?\b")
_IDIOMS = re.compile(
    r"\bright now\b|\b(?:you|that) (?:are|is) right\b|\ball right\b|\bthe right (?:answer|one)\b"
    r"|\b(?:has|have|had) left\b|\bleft over\b|\bright (?:away|there|here|in|next|beside|behind)\b"
    r"|\b(?:(?:is|are) )?neither [\w-]+ nor [\w-]+\b"
    r"|\b(?:i would|i'd) say\b|(?<=\d) of (?:them|these|those)\b|(?<=[a-z]) of (?:them|these"
    r"|those)\b"
    r"|\b(?:each other|one another)\b"
    r"|\bone (?:can|could|may|sees|of)\b|\bout of the blue\b|\bno\. ?(?=\d)|[*_`]"
    r"|\b\d+(?: ?[+×x*-] ?\d+)+ ?(?:=|is|equals) ?"
)
_LISTED = re.compile(r"(?<=\w)(?::| -| –) an? [^\d.:;]{1,80}[.!]*\s*$")
"""The list after a count: *three people: a man, a woman, and a child*."""

_VERBS = word_set(
    "is are was were be look looks appear appears seem seems has have had stands stand sits lies "
    "shows show turns points faces can"
)
_STOP = _VERBS | word_set(
    "in on at of by near next to for from with behind under above below beside between inside "
    "outside over and or that which who while as than it its there this these those they here "
    "not around against through across into onto along i you we one located visible also both "
    "parked placed positioned standing sitting total altogether only exactly only just seen"
)
_PRONOUNS = word_set("it this that they these those he she its their color one there")
_PREPOSITIONS = word_set(
    "in on at of by near next to for from with behind under above below beside between inside "
    "outside over around against after before since until during"
)
_HUES = word_set("color colored colour hue shade tone one ones hand side part half")
_TOTALS = word_set("total altogether sum all")
_NONE_IS = re.compile(
    r"none of (?:the|these|those) [\w ]{1,60}? (?:is|are) (?:an?"
    r" )?(?P<x>[\w-]+)[.!]*$"
)
_OF_COLOR = re.compile(r"\b(?P<c>\w+) is the colou?r of (?:the |this |that )?(?P<x>[\w ]+)")
_THING = (
    re.compile(
        r"(?:of )?(?:what|which) colou?r(?: is| are| was| were| does| do)? (?P<x>[^,?]+?)"
        r"(?: have| has)?(?:,|$)"
    ),
    re.compile(r"what (?:is|was) the colou?r of (?P<x>[^,?]+)"),
    re.compile(r"what (?:is|are|was) (?P<x>[^,?]+?)'s? colou?r$"),
    re.compile(r"(?:on |to )?(?:which|what) (?:side|half|part)(?: of [^,?]+?)? (?:is|are)"
    r" (?P<x>[^,?]+)"),
    re.compile(r"where (?:is|are) (?P<x>[^,?]+)"),
    re.compile(r"(?:which|what) (?:way|direction) (?:is|does|do|are) (?P<x>[^,?]+)"),
    re.compile(r"(?:is|are) (?P<x>[^,?]+)"),
)  # fmt: skip
_ARTICLE = re.compile(r"^(?:the|a|an|this|that|these|those|his|her|its|their|my) ")


@dataclass
class _Reading:
    """The values found in an answer, collected clause by clause."""

    values: list[str] = field(default_factory=list)
    """Values that the answer gives to the object."""

    parts: list[str] = field(default_factory=list)
    """Numbers without a noun, at a position: *five on the left*."""

    totals: list[str] = field(default_factory=list)
    unsure: bool = False
    subject: str | None = None
    """The last subject."""


def asked_thing(question: Question) -> str:
    """Return the noun whose color or side is asked for, or "".

    >>> from vlmscope.score.parsing.question import read_question
    >>> [asked_thing(read_question(text)) for text in (
    ...     "What color is the small kite on the left?", "Is the mug red or blue?")]
    ['kite', 'mug']
    """
    for pattern in _THING:
        if found := pattern.match(question.asked):
            part = words(_ARTICLE.sub("", found["x"]))
            named: list[str] = []
            for word in part:
                if word in _STOP or (word in COLOURS and named) or word in ("left", "right"):
                    break
                named.append(word)
            noun = named[-1] if named else ""
            if noun.endswith("ing") and len(named) > 1:
                noun = named[-2]
            return lemma(noun)
    return ""


def attribute_value(text: str, question: Question, kind: str) -> str | None:
    """Return the one value of a kind that an answer gives to what was asked about.

    None if it gives no such value; "" if it is unclear what the value belongs to.

    Args:
        text: The answer.
        question: The question.
        kind: ``color``, ``number`` or ``side``.

    >>> from vlmscope.score.parsing.question import read_question
    >>> bus = read_question("What color is the bus?")
    >>> attribute_value("The red hat is next to a brown bus.", bus, "color")
    'brown'
    >>> couches = read_question("How many couches are there?")
    >>> attribute_value("There are five bears next to eight couches.", couches, "number")
    '8'
    """
    thing = question.counted if kind == "number" else asked_thing(question)
    if (none := _NONE_IS.match(plain(text).strip())) and kind == "number":
        return "0" if thing and lemma(words(none["x"])[-1]) == thing else ""
    text = _LISTED.sub("", text) if kind == "number" else text
    line = _IDIOMS.sub(" ", plain(text).replace("(", " ").replace(")", " "))
    if not thing or len(line) > 600:
        return None
    if question.negated or _QUOTED.search(text.strip(' ."“”')) or hedge_in(line):
        return ""
    other = {found[0] for found in _NOT_FACTUAL.finditer(line)} - question.words
    if "?" in line or other or (kind == "side" and _is_about_direction(line, question)):
        return ""
    read = _read(line, question, thing, kind)
    return "" if read.unsure else _one_value(read)


def _read(line: str, question: Question, thing: str, kind: str) -> _Reading:
    """Read the clauses of an answer one after the other."""
    read = _Reading()
    for sentence in sentences(line):
        for clause in _SPLIT.split(sentence):
            contrasted = clause and _CONTRASTED.match(clause)
            if contrasted and contrasted[0].endswith("not"):
                read.unsure = read.unsure or not any(_values(words(clause), kind))
            if clause and not contrasted:
                clause = _JOINED.sub("", clause)
                if _is_of_other_instance(clause, question, thing, kind):
                    read.unsure = True
                _read_clause(clause, thing, kind, read)
    return read


def _is_about_direction(line: str, question: Question) -> bool:
    """Return whether a line states where something looks or moves, unlike the question."""
    return bool(_TURNED.search(line)) and not _TURNED.search(question.asked)


def is_about_another(text: str, question: Question) -> bool:
    """Return whether an answer is about another object than the one asked about.

    >>> from vlmscope.score.parsing.question import read_question
    >>> collar = read_question("What color is the dog's collar?")
    >>> is_about_another("The dog is brown.", collar), is_about_another("It is red.", collar)
    (True, False)
    """
    thing = asked_thing(question)
    tokens = [words(part) for sentence in sentences(text) for part in _SPLIT.split(sentence)]
    subjects = {
        _subject(tuple(w.removesuffix("'s") for w in part), thing) for part in tokens if part
    }
    return bool(thing) and not subjects <= {None, "", thing, *COLOURS}


def _is_of_other_instance(clause: str, question: Question, thing: str, kind: str) -> bool:
    """Return whether a clause is about another instance of the object than the question."""
    tokens, asked = words(clause), words(question.asked)
    owners = {word for word in tokens if word.endswith("'s")}
    own = {word for word in asked if word.endswith("'s")}
    if own and owners and not owners & own:
        return True
    if kind != "number" and own and not owners and (subject := _subject(tokens, thing)):
        people = {lemma(word.removesuffix("'s")) for word in own}
        if subject not in {thing, *people}:
            return True
    for one in tokens:
        for side in SIDES:
            if kind != "side" and one in side and one not in asked and side.intersection(asked):
                return True
    if any(map(_is_superlative, asked)):
        before = [tokens[at - 1] for at in range(1, len(tokens)) if lemma(tokens[at]) == thing]
        if any(w not in asked and (_is_superlative(w) or is_part(w, "a")) for w in before):
            return True
    return kind == "number" and _counts_others(tokens, question, thing)


def _is_superlative(word: str) -> bool:
    return word.endswith("est") and adjective_of(f"{word.removesuffix('est')}er") is not None


def _counts_others(tokens: tuple[str, ...], question: Question, thing: str) -> bool:
    """Return whether a clause counts only some of the objects, or others too (*a puppy*)."""
    asked = words(question.asked)
    if any(_is_kind(lemma(word), thing) for word in tokens):
        return True
    for at, word in enumerate(tokens[:-1]):
        behind = lemma(tokens[at + 1])
        if is_number(word) and thing not in map(lemma, tokens[at + 1 : at + 4]):
            noun = is_part(behind, "n") and not is_part(behind, "a")
            if noun and behind in question.words and behind not in asked[:2]:
                return True
    named = [at for at, word in enumerate(tokens) if lemma(word) == thing]
    colours = COLOURS.intersection(tokens) - set(asked)
    limits = _limiting_words(asked, thing)
    own = {lemma(word) for word in tokens}
    if _VERBS.isdisjoint(tokens) and all(w in _STOP or is_number(w) or lemma(w) in question.words
                                       for w in tokens):  # fmt: skip
        limits = set()  # "3 people" answers how many people wear hats
    named = named if any(map(is_number, tokens)) else []
    return bool(named) and bool(colours or (limits and not limits & own))


def _is_kind(noun: str, thing: str) -> bool:
    """Return whether a noun names a kind of an object: *puppy* of *dog*."""
    if noun == thing or len(noun) < 3 or not is_part(noun, "n"):
        return False
    return is_a(noun, thing) and not same(noun, thing)


def _limiting_words(asked: tuple[str, ...], thing: str) -> set[str]:
    """Return the words by which a question limits what it counts: *brown dogs*, *wearing hats*."""
    found = set()
    for word in asked:
        if word in _PREPOSITIONS:
            break
        noun = lemma(word)
        if noun != thing and word not in _STOP | {"how", "many", "do", "does", "count", "number"}:
            found.add(noun)
    return found - {
        "be",
        "visible",
        "see",
        "show",
        "image",
        "picture",
        "what",
        "different",
        "total",
    }


def _one_value(read: _Reading) -> str | None:
    """Return the value on which the clauses agree."""
    if read.totals:
        total = set(read.totals)
        counted = [int(n) for n in (*read.values, *read.parts) if n.isdigit() and n not in total]
        fits = not counted or str(sum(counted)) in total
        return read.totals[0] if len(total) == 1 and fits else ""
    values = set(read.values)
    if len(values) != 1:
        return "" if values else None
    [value] = values
    if read.parts and sum(int(n) for n in read.parts if n.isdigit()) != _integer(value):
        return ""
    return value


def _integer(value: str) -> int:
    return int(value) if value.isdigit() else -1


def _read_clause(clause: str, thing: str, kind: str, read: _Reading) -> None:
    """Read the values of one clause."""
    found = _OF_COLOR.search(clause) if kind == "color" else None
    if found and found["c"] in COLOURS and lemma(words(found["x"])[-1]) == thing:
        read.values.append(found["c"])
        return
    tokens = tuple(word.removesuffix("'s") for word in words(clause))
    subject = _subject(tokens, thing)
    for at in _values(tokens, kind):
        owner = _owner(tokens, at, thing, kind)
        if owner == "subject":
            owner = _resolve_subject(subject, thing, read)
            if owner == "thing" and subject is None and not _is_fragment(tokens, kind):
                owner = "unsure"
        if kind == "number":
            _count(tokens, at, owner, read)
        elif owner == "thing":
            read.values.append(tokens[at])
        elif owner == "unsure":
            read.unsure = True
    if NEGATIVE.search(clause) and _names(tokens, thing) and kind != "number":
        read.unsure = True
    read.subject = subject if subject not in (None, "") else read.subject


def _is_fragment(tokens: tuple[str, ...], kind: str) -> bool:
    """Return whether a clause without a verb consists of a value and little else."""
    more = [
        word for word in tokens
        if word not in COLOURS | _HUES | _PRONOUNS | _PREPOSITIONS | _TOTALS | _STOP
        and not word.endswith("ly") and not is_number(word) and word not in _FILLERS
    ]  # fmt: skip
    return not more or kind != "color"


_FILLERS = word_set(
    "dark light bright pale deep answer answers final think believe say yes no well maybe left"
    " right go pick choose image picture"
)


def _values(tokens: tuple[str, ...], kind: str) -> Iterator[int]:
    for at, word in enumerate(tokens):
        if (
            (kind == "color" and word in COLOURS)
            or (kind == "side" and word in ("left", "right"))
            or (kind == "number" and is_number(word))
        ):
            yield at


def _names(tokens: tuple[str, ...], thing: str) -> bool:
    return any(lemma(word) == thing or same(word, thing) for word in tokens)


def _subject(tokens: tuple[str, ...], thing: str) -> str | None:
    """Return the noun that a clause is about: "" for a pronoun, None if it has none."""
    verb = next((at for at, word in enumerate(tokens) if word in _VERBS), None)
    if verb is None:
        return None
    before = tokens[:verb]
    if before[:2] in (("color", "of"), ("number", "of")) or before[:3] == ("total", "number", "of"):
        before = before[before.index("of") + 1 :]
    named: list[str] = []
    for word in before:
        if word in _PREPOSITIONS or word in ("that", "which", "who"):
            break
        named.append(word)
    while named and (named[-1] in _PRONOUNS or named[-1].endswith("ly")):
        named.pop()
    if not named or named[-1] in ("i", "you", "we", "image", "picture", "photo"):
        return ""
    noun = lemma(named[-1])
    return thing if same(noun, thing) else noun


def _resolve_subject(subject: str | None, thing: str, read: _Reading) -> str:
    """Return the owner of a clause's value: its subject, or the object its pronoun refers to."""
    if subject == thing:
        return "thing"
    if subject:
        return "other"
    return "thing" if read.subject in (None, thing) else "unsure"


def _owner(tokens: tuple[str, ...], at: int, thing: str, kind: str) -> str:
    """Return the owner of a value: thing, other, or subject if no noun follows it."""
    following: list[str] = []
    for word in tokens[at + 1 : at + 5]:
        if word in _STOP or is_number(word) or (kind == "color" and word in COLOURS):
            break
        following.append(word)
    if not following or following[0] in _HUES or following[0].endswith("ly"):
        if kind != "side" and at and tokens[at - 1] in _PREPOSITIONS - {"of"} and not following:
            return "other"  # "the girl in blue", "born after 1945"
        return "subject"
    for index, word in enumerate(following[: 3 if kind == "number" else 2]):
        if not _names((word,), thing):
            continue
        behind = following[index + 1] if index + 1 < len(following) else ""
        compound = is_part(lemma(behind), "n") and not behind.endswith(("ing", "ed"))
        return "other" if behind and compound else "thing"
    if kind == "number" and any(is_a(word, thing) for word in following):
        return "unsure"  # "three poodles" are not all the dogs
    if "ones" in following or "one" in following:
        return "unsure" if kind == "number" else "other"
    if kind == "color" and not is_part(lemma(following[0]), "n"):
        return "subject"
    return "other"


def _count(tokens: tuple[str, ...], at: int, owner: str, read: _Reading) -> None:
    """Record a number and what it counts."""
    following = tokens[at + 1] if at + 1 < len(tokens) else ""
    number = tokens[at]
    if owner == "other":
        return
    if at and tokens[at - 1] in ("number", "no", "room", "page", "version", "line"):
        owner = "unsure"
    if (
        owner == "unsure"
        or following == "of"
        or (at and tokens[at - 1] in ("than", "least", "most"))
    ):
        read.unsure = True
    elif not _TOTALS.isdisjoint(tokens):
        read.totals.append(number)
    elif following in _PREPOSITIONS and owner == "thing" and read.values:
        read.parts.append(number)
    else:
        read.values.append(number)
