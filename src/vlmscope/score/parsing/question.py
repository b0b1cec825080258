"""Kind and subject of a question: yes or no, how many, which of several, all of a list.

Parsed once per question. ``claim`` is the question as a statement: the words that an answer in a
sentence must contain to affirm it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from vlmscope.score.language.denial import NEGATIVE, plain
from vlmscope.score.language.lexicon import lemma
from vlmscope.score.language.text import is_number, word_set, words
from vlmscope.score.parsing.choices import Choices, read_choices

IMAGE = (
    r"(?:picture|image|photo|photograph|scene|painting|drawing|figure|illustration|shot|frame"
    r"|snapshot)s?"
)
IN_IMAGE = re.compile(
    rf"\b(?:(?:anywhere |visible |shown |seen |present |depicted )?(?:in|on|within|from|of) "
    rf"(?:the|this|that|my|these|those) (?:given |provided |attached |above )?{IMAGE}\b"
    r"|(?:visible|here|at all)(?=\W*$))"
)
_AUX = r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might|must)"
_ASKS = re.compile(rf"^{_AUX}\b")
_WH = re.compile(r"\b(?:what|which|who|whom|whose|where|when|why|how)\b")
_EMBEDDED = re.compile(
    r"^(?:can|could|would|do|will) you (?:please )?(?:tell|say|see|know|describe|identify|name|list"
    r"|count|explain|read)(?: me| us)? (?=(?:what|which|who|whom|whose|where|when|why|how)\b)"
)
_INSTRUCTION = re.compile(
    r"(?:please )?(?:answer|respond|reply)\b.{0,20}\b(?:yes|no|word|phrase|letter|option|number)\b"
    r"[^?]*$|^(?:hint|note):[^\n]*\n|^question: ",
    re.MULTILINE,
)
_COUNT = re.compile(r"\bhow many\b|\bwhat (?:is|are) the (?:total )?number of\b|^count\b")
_ALL = re.compile(
    r"\b(?:which|what|name|list|give|identify|mention) (?:the )?(?:two|three|four|five|six|\d) "
    r"|\bbetween (?:which|what)\b|^(?:please )?(?:list|enumerate)\b|\bname (?:all|the|every|each)\b"
    r"|\blist (?:all|the|every|each)\b|^(?:what|which|who) are\b|\b(?:all|both) (?:of )?the\b"
    r"|\bwhat all\b"
)
_EXISTS = re.compile(
    rf"^(?:is|are|was|were) there (?:not )?(?:a |an |any |some |the )?(?P<a>.+)$"
    rf"|^(?:do|does|can|could|did) (?:you|one|we|i) (?:not )?(?:see|find|spot|notice|observe"
    rf"|detect)"
    r" (?:a |an |any |some |the )?(?P<b>.+)$"
    rf"|^(?:do|does) (?:the|this|that) {IMAGE} (?:not )?(?:show|contain|include|depict|feature|have"
    r"|display|present)(?: a| an| any| some| the)? (?P<c>.+)$"
    r"|^(?:is|are|can|could|was|were) (?:a |an |any |some |the )?(?P<d>.+?) (?:be )?(?:visible|seen"
    r"|shown|present|depicted|displayed|featured|pictured|found)"
    rf"(?: (?:anywhere )?(?:in|on) (?:the|this) {IMAGE})?$"
    rf"|^(?:is|are) (?:a |an |any |some )(?P<e>.+?) (?:there|in (?:the|this) {IMAGE})$"
)
_LIGHT = word_set(
    "a an the is are was were be been being am do does did will would can could has have had "
    "it its they them their there here this that these those he she his her him i you we one "
    "appear appears seem seems look looks to indeed clearly actually really definitely currently "
    "also so as visible present shown seen depicted just 0 any some"
) - {"one", "0", "as", "just"}
_LOCATES = re.compile(
    r"where|when|(?:in|on|at|under|during) (?:which|what)|(?:what|which) (?:time|year|month|day"
    r"|date|room"
    r"|place|city|country|state|street|side|season|century|part|direction|hand|location|half)"
)
_OF_SUBJECT = re.compile(
    rf"(?:who|what|which(?: [\w'-]+){{1,3}}?|what [\w'-]+) (?:{_AUX} )?(?:\w+ing|\w+ed|\w+s|to"
    rf" the|on|in|under"
    r"|behind|next|above|below|near|beside|between|inside|at|with|over|in front)\b"
)
_OF_OBJECT = re.compile(
    rf"(?:who|what|which(?: [\w'-]+){{0,3}}?|what(?: [\w'-]+){{0,3}}?) {_AUX} (?:(?:the|a|an"
    rf"|this|that|these|those"
    r"|his|her|its|their|my|your|it|he|she|they|you|we|there|all|both|each|most)\b|[\w'-]+"
    r" \w+ing\b)"
)
_ANYONE = frozenset(("anyone", "anybody", "someone", "somebody"))
_MEMORY = 1 << 14
_LONGEST = 8_000
"""Most characters of a prompt that are read."""

_LONGEST_ASKED = 1_000


@dataclass(frozen=True)
class Question:
    """A parsed question."""

    asked: str
    """The question itself, normalised by ``plain``, without choices and instructions."""

    text: str
    """The whole prompt, normalised."""

    choices: Choices | None
    """The choices listed in it."""

    @cached_property
    def yes_no(self) -> bool:
        """Whether it asks for yes or no."""
        return _ASKS.match(self.asked) is not None

    @property
    def either(self) -> bool:
        """Whether it names alternatives (*green or red?*)."""
        return re.search(r"\bor\b(?! not)", self.asked) is not None

    @cached_property
    def counts(self) -> bool:
        """Whether it asks how many."""
        return _COUNT.search(self.asked) is not None

    @cached_property
    def wants_all(self) -> bool:
        """Whether it asks for all of a list."""
        return _ALL.search(self.asked) is not None

    @cached_property
    def negated(self) -> bool:
        """Whether it is negated (*Isn't it red?*)."""
        return NEGATIVE.search(_CONTRASTED.sub("", self.asked)) is not None

    @cached_property
    def words(self) -> frozenset[str]:
        """The base forms of all words of the prompt."""
        tokens = words(self.text) + words(re.sub(r"'s?\b", " ", self.text))
        person = {"person"} if not _ANYONE.isdisjoint(tokens) else set()
        return frozenset(map(lemma, tokens)) | frozenset(tokens) | person

    @cached_property
    def offered(self) -> frozenset[str]:
        """The words around *or*: alternatives of which the answer names one."""
        listed = self.asked
        if _WH.match(listed) and ", " in listed:  # "Which is longer, the dress or the shirt?"
            listed = listed.split(", ", 1)[1]
        found = re.findall(r"([\w'-]+),? or (?:the |an? )?([\w'-]+)", listed)
        commas = re.findall(r"([\w'-]+), (?=[\w' -]{1,40},? or\b)", listed)
        return frozenset(words(" ".join([*commas, *(word for pair in found for word in pair)])))

    @cached_property
    def thing(self) -> tuple[str, ...]:
        """The object whose existence is asked for (*Is there a red cup?*); else empty."""
        found = _EXISTS.match(self.asked) if self.yes_no else None
        part = next((part for part in found.groups() if part), "") if found else ""
        return claim_words(part)

    @cached_property
    def claim(self) -> tuple[str, ...]:
        """The words of the question as a statement."""
        return self.thing or claim_words(_ASKS.sub("", self.asked))

    @cached_property
    def locates(self) -> bool:
        """Whether it asks where or when, so that the answer may begin with a preposition."""
        return _LOCATES.match(self.asked) is not None

    @cached_property
    def about_subject(self) -> bool:
        """Whether it asks who does or is something (*Who chases the dog?*)."""
        return _OF_SUBJECT.match(self.asked) is not None and not _OF_OBJECT.match(self.asked)

    @cached_property
    def kind(self) -> frozenset[str]:
        """The noun after *which* or *what*, which may start an answer (*Point A*, *Vitamin C*)."""
        found = re.match(
            rf"(?:which|what) ((?:[\w'-]+ ){{1,4}}?)(?:{_AUX}\b|(?=\w+(?:s|ed)\b))", self.asked
        )
        return frozenset(words(found[1])) if found else frozenset()

    @cached_property
    def counted(self) -> str:
        """The noun counted by *how many*, in its base form."""
        found = re.search(r"\bhow many (?:of (?:the|these|those) )?(.+)", self.asked) or re.search(
            r"\bnumber of (.+)|^count (?:all )?(?:the )?(.+)", self.asked
        )
        noun = ""
        for word in words(found[1] or found[found.re.groups]) if found else ():
            if _AFTER_NOUN.match(word) or (noun and word.endswith(("ing", "ed"))):
                break
            noun = word
        return lemma(noun)


_CONTRASTED = re.compile(r", (?:and )?not (?:an? |the )?[\w' -]{1,40}$")
_AFTER_NOUN = re.compile(
    r"(?:is|are|was|were|do|does|did|can|could|has|have|had|will|would|in|on|of|at|by|for|from|with"
    r"|that|there|you|does|who|which|to|be|between|under|behind|near|next|above|below|inside|than"
    r"|not|shown|visible|born|more|fewer|less)$"
)


def read_question(text: str) -> Question:
    """Return a parsed question.

    >>> asked = read_question("According to the map, does the current flow through Norway?")
    >>> asked.yes_no, asked.claim
    (True, ('current', 'flow', 'through', 'norway'))
    >>> read_question("Is there a red cup in the image?").thing
    ('red', 'cup')
    >>> read_question("How many dots are in each group?").counted
    'dot'
    """
    return _read(text[:_LONGEST])


@lru_cache(_MEMORY)
def _read(text: str) -> Question:
    choices = read_choices(text)
    stem = choices.stem if choices else text
    stem = _INSTRUCTION.sub(" ", plain(stem))
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", stem) if part.strip()]
    asked = next((part for part in reversed(parts) if part.endswith("?")), "")
    asked = asked or next((part for part in parts if _ASKS.match(part) or _WH.match(part)), "")
    asked = " ".join((asked or (parts[-1] if parts else "")).split()).rstrip("?!. ")
    asked = _without_introduction(asked[:_LONGEST_ASKED])
    return Question(_EMBEDDED.sub("", asked), plain(text), choices)


def _without_introduction(asked: str) -> str:
    """Return a question without its introduction (*According to the map, does …*)."""
    if _ASKS.match(asked) or _WH.match(asked):
        return asked
    found = re.search(rf", (?:so )?(?={_AUX}\b|(?:what|which|who|where|when|why|how)\b)", asked)
    return asked[found.end() :] if found else asked


def claim_words(text: str) -> tuple[str, ...]:
    """Return the base forms of the content words of a statement, including prepositions."""
    text = IN_IMAGE.sub(" ", plain(text).rstrip("?.! "))
    return tuple(
        word if is_number(word) else lemma(word) for word in words(text) if word not in _LIGHT
    )
