"""Synonyms, antonyms and hypernyms of English words, from WordNet 3.0.

``words.txt.gz`` is a table made of WordNet by ``scripts/wordnet_table.py``; it contains its
licence. It is read once, when the first word is looked up (a fifth of a second, 40 MB). A word has
several senses and a scorer cannot determine which one applies, so there are two functions: ``same``
is called before an answer is accepted and uses the most frequent senses, ``related`` before one is
rejected and uses all of them.

Words are in the normal form of ``text``; several words make one term with spaces between them.
"""

from __future__ import annotations

import gzip
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

_DEPTH = 12
"""Levels of hypernyms that are searched."""

_CACHED = 1 << 15

_COMMON = {
    "fridge": "refrigerator", "motorbike": "motorcycle", "bunny": "rabbit", "lady": "woman",
    "ladies": "woman", "bunnies": "rabbit", "telly": "television", "smart phone": "smartphone",
    "photo": "picture", "photograph": "picture", "donut": "doughnut",
    "hair drier": "hair dryer", "grey": "gray", "tshirt": "t shirt",
}  # fmt: skip
"""Spellings missing in WordNet, and everyday names that it treats as hyponyms."""


class _Table(NamedTuple):
    words: dict[str, str]
    """The numbers of each word's senses by part of speech (n, a, v): ``n17,30;v8``."""
    above: list[str]
    """The numbers of each sense's hypernyms."""
    opposites: frozenset[str]
    derived: frozenset[str]
    forms: dict[str, str]


@cache
def _table() -> _Table:
    packed = (files("vlmscope.score.language") / "words.txt.gz").read_bytes()
    text = gzip.decompress(packed).decode()
    _, words, above, opposites, derived, forms = text.split("\n\n")
    return _Table(
        dict(line.split(":") for line in words.split("\n")),
        above.split("\n"),
        frozenset(opposites.split("\n")),
        frozenset(derived.split("\n")),
        dict(line.split(":") for line in forms.split("\n")),
    )


@lru_cache(_CACHED)
def _senses(word: str) -> dict[str, tuple[int, ...]]:
    """Return the senses of a word by part of speech, the most frequent first."""
    line = _table().words.get(word)
    parts = line.split(";") if line else ()
    return {part[0]: tuple(map(int, part[1:].split(","))) for part in parts}


def _above(sense: int) -> list[int]:
    line = _table().above[sense]
    return [] if line == "-" else list(map(int, line.split(",")))


@lru_cache(_CACHED)
def lemma(word: str) -> str:
    """Return a word's base form: singular of a noun, infinitive of a verb.

    >>> [lemma(word) for word in ("children", "knives", "glasses", "running", "is", "qwertys")]
    ['child', 'knife', 'glass', 'run', 'be', 'qwerty']
    """
    table = _table()
    word = _COMMON.get(word, word)
    if " " in word and word not in table.words and (joined := word.replace(" ", "")) in table.words:
        return joined
    if word in table.forms:
        return table.forms[word]
    if len(word) < 4:
        plural = len(word) == 3 and word[-1] == "s" and word not in table.words
        return word[:-1] if plural and word[:-1] in table.words else word
    first, space, last = word.rpartition(" ")
    bases = [base for base in _bases(last) if base in table.words]
    if bases:
        return first + space + bases[0]
    if last in table.words or last.endswith(("ss", "us", "is")):
        return word
    return word.removesuffix("s") if last.endswith("s") else word


def _bases(word: str) -> list[str]:
    """Return the possible base forms of a regular form."""
    found: list[str] = []
    if word.endswith("ies") and len(word) > 4:
        found += [word[:-3] + "y", word[:-1]]
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        found += [word[:-1], word[:-2]]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.append(word[:-1])
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            base = word.removesuffix(ending)
            twice = base[:-1] if base[-1] == base[-2] and base[-1] not in "ls" else base
            found += [base[:-1] if twice != base else base + "e", base]
            found += [base[:-1] + "y"] if base[-1] == "i" else []
            found = [b for b in found if is_part(b, "v")]
    return found


def is_part(word: str, parts: str) -> bool:
    """Return whether a word may be one of some parts of speech: n, a, v.

    >>> is_part("large", "a"), is_part("dog", "a"), is_part("dog", "nv")
    (True, False, True)
    """
    return any(part in parts for part in _senses(word))


@lru_cache(_CACHED)
def _ranked(term: str) -> dict[int, int]:
    """Return the senses of a term, with the rank of each in its part of speech."""
    found: dict[int, int] = {}
    for word in dict.fromkeys((lemma(term), term)):
        for keys in _senses(word).values():
            for rank, key in enumerate(keys):
                found[key] = min(rank, found.get(key, rank))
    if not found and " " in term:  # a "potted plant" is a plant, but not every plant is one
        return {key: rank + 2 for key, rank in _ranked(term.rpartition(" ")[2]).items()}
    return found


@lru_cache(_CACHED)
def _kinds(term: str, most: int) -> frozenset[int]:
    """Return the first senses of a term and their hypernyms, except the most general ones."""
    found: set[int] = set()
    todo = {key for key, rank in _ranked(term).items() if rank < most}
    for _ in range(_DEPTH):
        found |= todo
        todo = {above for key in todo for above in _above(key)} - found
    return frozenset(found) - _general()


@cache
def _general() -> frozenset[int]:
    """Return the senses near the root."""
    terms = "thing object artifact entity whole matter abstraction attribute state act group unit"
    return frozenset(key for term in terms.split() for key in _senses(term)["n"][:1])


def same(one: str, other: str) -> bool:
    """Return whether two terms are synonyms in their most frequent senses.

    >>> same("tv", "television"), same("sofa", "couches"), same("airplane", "plane")
    (True, True, True)
    >>> same("cup", "plate"), same("dog", "animal")
    (False, False)
    """
    if lemma(one) == lemma(other):
        return True
    if {lemma(one), lemma(other)} == {"bike", "motorcycle"}:
        return False  # WordNet has them as one; more often a bike is a bicycle
    ranks, others = _ranked(one), _ranked(other)
    return any(key in others and rank + others[key] <= 1 for key, rank in ranks.items())


def related(one: str, other: str) -> bool:
    """Return whether two terms may be synonyms, or one may include the other.

    >>> related("dog", "animal"), related("wood", "wooden"), related("dog", "cat")
    (True, True, False)
    """
    if lemma(one) == lemma(other) or forms_of_one(one, other):
        return True
    return not _kinds(one, 9).isdisjoint(_ranked(other)) or not _kinds(other, 9).isdisjoint(
        _ranked(one)
    )


def is_a(one: str, other: str) -> bool:
    """Return whether a term is a hyponym of another one.

    >>> is_a("man", "person"), is_a("person", "man"), is_a("cup", "plate")
    (True, False, False)
    """
    if same(one, other):
        return True
    first = [key for key, rank in _ranked(other).items() if not rank]
    return not _kinds(one, 1).isdisjoint(first)


def opposite(one: str, other: str) -> bool:
    """Return whether two words are antonyms, which exclude each other.

    >>> opposite("clean", "dirty"), opposite("open", "closed"), opposite("clean", "red")
    (True, True, False)
    """
    return ":".join(sorted((one, other))) in _table().opposites


def forms_of_one(one: str, other: str) -> bool:
    """Return whether one is a noun and the other the adjective made of it.

    >>> forms_of_one("wooden", "wood"), forms_of_one("anger", "angry")
    (True, True)
    """
    if _verb_bases(one) & _verb_bases(other):
        return True
    pairs = _table().derived
    for first, second in ((one, other), (lemma(one), other), (one, lemma(other))):
        if ":".join(sorted((first, second))) in pairs:
            return True
        short, long = sorted((first, second), key=len)
        if is_part(short, "n") and is_part(long, "a") and long in _adjectives(short):
            return True
        if long == short + "om" and is_part(short, "a"):  # boredom
            return True
    return False


@lru_cache(_CACHED)
def _verb_bases(word: str) -> frozenset[str]:
    """Return the verbs of which a word is a form in *s*, *ing* or *ed*."""
    bases = [*_bases(word), word.removesuffix("s")] if word.endswith(("s", "ing", "ed")) else []
    return frozenset(base for base in bases if base != word and is_part(base, "v"))


def _adjectives(noun: str) -> tuple[str, ...]:
    """Return adjectives that may be made of a noun: *wooden*, *sunny*, *striped*."""
    stem = noun.removesuffix("e")
    twice = noun + noun[-1]
    return (
        noun + "en", noun + "y", twice + "y", stem + "y", noun + "ed", stem + "ed", twice + "ed",
        noun + "ered", noun + "ful",
    )  # fmt: skip


def known(term: str) -> bool:
    """Return whether WordNet has a term, as ``hot dog``."""
    return bool(_senses(term) or _senses(lemma(term)))
