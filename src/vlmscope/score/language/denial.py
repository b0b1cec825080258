"""Sentences that claim nothing: denials, refusals and hedges, and their subjects.

A denial (*There is no kettle in the picture.*) is an answer like any other and may be right or
wrong. A hedge (*It might be red.*) is never evidence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from vlmscope.score.language.lexicon import lemma
from vlmscope.score.language.text import join_initials, words

NEGATIVE = re.compile(r"\b(?:no|not|never|nothing|none|nobody|neither|nor|without)\b")
"""A negative word, in text normalised by ``plain``."""

DOUBT = re.compile(
    rf"{NEGATIVE.pattern}|\b(?:missing|absent|absence|lack(?:s|ing|ed)?|devoid|void|unable"
    rf"|fail(?:s|ed)?"
    r"|false|untrue|cannot|can't|nowhere|zero|invisible|hidden|obscured|hardly|barely|scarcely"
    r"|rarely|seldom"
    r"|unknown|instead|rather|except|impossible|sorry|imaginary|fictional|nonexistent|non-existent"
    r"|doubt\w*|free of|out of (?:view|frame|sight)|if|unless|were it)\b"
)
"""A word by which a sentence may deny something in a way that no rule here covers."""

_IMAGE = (
    r"(?:picture|image|photo|photograph|scene|painting|drawing|figure|illustration|frame|shot)s?"
)
_LEARN = (
    r"(?:tell|told|say|said|determine[d]?|know|known|confirm(?:ed)?|identif(?:y|ied)|answer(?:ed)?"
    r"|specif(?:y|ied)|ascertain(?:ed)?|infer(?:red)?|judge[d]?|establish(?:ed)?|make out|made out"
    r"|be sure|discern(?:ed)?|read|recogni[sz]ed?)"
)
_UNANSWERABLE = re.compile(
    rf"\b(?:i|you|we|it|one|this|that) (?:can|could|do|does) not (?:be |really |quite |clearly )*"
    rf"{_LEARN}\b"
    rf"|\b(?:hard|difficult|impossible|unable|not (?:possible|able)|no way|not enough \w+) to "
    rf"(?:be )?{_LEARN}\b"
    rf"|^(?:i am |it is |that is )?(?:not (?:known|clear|sure|certain)|unclear|unknown|no idea"
    rf"|unanswerable|not answerable|unsuitable(?: image)?|indeterminate|undetermined)\b"
    rf"|\b(?:can|could) not be {_LEARN}\b|\bnot enough (?:information|detail|context)\w*"
    r"|\bnot (?:provide|contain|give|have|offer|include) (?:enough|sufficient|any) (?:information"
    r"|context|details?|indication|evidence|clues?)\b"
    rf"|\bdo not know\b|\bno (?:information|indication|way)\b|\bis insufficient\b"
    rf"|\binsufficient (?:information|context|detail)\w*|^too (?:blurry|dark|blurred)\b"
    r"|\bnot (?:specified|stated|mentioned|provided|given|indicated)\b"
)
_UNKNOWN = re.compile(  # "the length of her dress is unknown"
    r"^(?P<x>(?:[\w'-]+ ){1,8})(?:is|are|was|were|remains?) (?:not |un)(?:known|clear|certain"
    r"|readable"
    r"|legible|identifiable|recogni[sz]able|(?:possible|determinable)|disclosed|determined)\b"
    rf"|^(?P<y>(?:[\w'-]+ ){{1,8}})(?:is|are) (?:illegible|blurry|too \w+ to {_LEARN}|obscured"
    rf"|hidden"
    rf"|impossible to {_LEARN}|hard to {_LEARN}|difficult to {_LEARN})\b"
    rf"|^(?P<z>(?:[\w'-]+ ){{1,8}})(?:can|could) not be {_LEARN}\b"
)
_INCAPABLE = re.compile(
    r"\b(?:can not|not able to|unable to|do not have the ability to) (?:actually |directly"
    r" )?(?:view|see"
    r"|access|process|analy[sz]e|interpret|open|display|assist|help|provide|fulfil)(?: with)?"
    r"(?: (?:the|this|that|your|any|an|a|or|and|images|image|pictures|picture|photos|photo|files"
    r"|requests?|visual content|visuals|attached|provided|it|you))*\W*(?:$|as |because |since "
    r"|directly|but )"
    r"|\b(?:as an ai|language model|i am an ai|text[- ]based)\b|\bno image (?:was |has been |is )?"
    r"(?:provided|attached|uploaded|given)|\bplease (?:provide|upload|share)\b"
)

HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|might|may (?:be|have|not|well)|could (?:be|have|also))\b"
    r"|\b(?:not|un)(?: \w+)? ?(?:sure|certain|clear)\b|\bunclear\b|\bdepends\b"
    rf"|\b(?:possible|conceivable|plausible|chance) that\b|\bwhether\b|{_UNANSWERABLE.pattern}"
)
"""Words that retract a statement."""

_LEANING = re.compile(r"\b(?:probably|likely|unlikely|presumably|i guess)\b")

_BE = r"(?:is|are|was|were)"
_SEE = (
    r"(?:see|find|spot|detect|notice|observe|locate|identify|discern|make out|recogni[sz]e"
    r"|perceive)"
)
_SHOW = (
    r"(?:show|contain|include|depict|feature|have|display|present|portray|hold|capture|possess"
    r"|reveal|illustrate)"
)
_SEEN = (
    r"(?:visible|seen|shown|present|depicted|pictured|displayed|included|featured|there|here|found"
    rf"|spotted|detected|portrayed|evident|apparent|existent|discernible|in (?:the|this) {_IMAGE}"
    r"|in (?:view|sight|frame)|on display|part of|available|observed|identified|located)"
)
_ANY = r"(?:(?:a|an|any|the|such|single|actual|actually|such a|sign of|signs of|evidence of) )*"
_WHO = r"(?:i|you|we|one)"
_LEAD = re.compile(
    r"^(?:no[,.:]? (?=(?:the|there|it|i|he|she|they|we|this|in|a|an) )|none[,.:] |zero[,.:] "
    r"|0[,.:] "
    r"|(?:i am |i'm )?sorry,? (?:but )?"
    r"|(?:in|from|based on|according to|judging by|looking at|within|upon|on) [^,]{1,60}, "
    r"|(?:however|unfortunately|actually|so|therefore|thus|well|but|and|also|additionally"
    r"|specifically|overall|currently|apparently|yet|indeed|in fact|the answer is|answer)[,:]? "
    r"|it (?:appears|seems|looks)(?: that| like| as if| as though)? (?=there|the|no|he|she)"
    r"|(?:i|we) (?:think|believe|would say)(?: that)? |(?:because|since|as) (?=there|the|no)"
    rf"|(?:the|this) {_IMAGE} (?:shows|suggests|indicates) that )+"
)
_ABSENT = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^there {_BE} (?:actually |really |currently |clearly )?(?:no|not|0|zero|never)"
        rf"(?! (?:way|doubt|information|indication|enough)\b) {_ANY}(?P<x>.+)",
        rf"^there (?:do|does|did) not (?:appear|seem|look) to be {_ANY}(?P<x>.+)",
        rf"^there (?:appears?|seems?)(?: to be)? (?:no|0|zero) {_ANY}(?P<x>.+)",
        rf"^{_WHO} (?:do|did) not (?:actually |really |clearly )?{_SEE} {_ANY}(?P<x>.+)",
        rf"^{_WHO} (?:can |could )?{_SEE} (?:no|0|zero) {_ANY}(?P<x>.+)",
        rf"^{_WHO} (?:am |was |are |were )?(?:unable to|not able to|fail to|failed to|can not"
        rf"|could not)"
        rf" (?:actually |really |clearly )?{_SEE} {_ANY}(?P<x>.+)",
        rf"^(?:unable to|can not|could not) {_SEE} {_ANY}(?P<x>.+)",
        rf"^(?:the |this |that )?(?:\w+ )?{_IMAGE} (?:do|does) not (?:actually |really "
        rf"|clearly )?"
        rf"(?:appear to |seem to )?{_SHOW} {_ANY}(?P<x>.+)",
        rf"^(?:the |this |that )?(?:\w+ )?{_IMAGE} (?:has|{_SHOW}s?) (?:no|0|zero)"
        rf" {_ANY}(?P<x>.+)",
        rf"^(?:the |this |that )?(?:\w+ )?{_IMAGE} (?:{_BE}|appears to be|seems to be)"
        rf" (?:completely |"
        rf"entirely |totally )?(?:devoid of|void of|free of|lacking(?: in)?|without|missing"
        rf"|empty of)"
        rf" {_ANY}(?P<x>.+)",
        rf"^(?:the |this |that )?(?:\w+ )?{_IMAGE} lacks {_ANY}(?P<x>.+)",
        rf"^(?:no|0|zero|not an?|not any) (?P<x>(?:[\w'-]+ ){{1,6}}?)(?:{_BE}|can be|could be"
        rf"|appears?"
        rf"|exists?)(?: to be)?(?: (?:actually |clearly )?{_SEEN}\b|$|[.,!])",
        rf"^(?P<x>(?:[\w'-]+ ){{1,8}}?)(?:{_BE}|can|could) not (?:actually |clearly |even |be"
        rf" )*{_SEEN}\b",
        rf"^(?P<x>(?:[\w'-]+ ){{1,8}}?)(?:{_BE}|appears? to be|seems? to be)(?: completely|"
        rf" entirely"
        r"| clearly| actually)? (?:missing|absent|nowhere|invisible|non-?existent|out of"
        r" (?:view|frame|sight))\b(?! (?:a|an|some|its|his|her|their|one|two|\w+s)\b)",
        rf"^(?P<x>(?:[\w'-]+ ){{1,8}}?)(?:do|does) not (?:appear|exist|seem to be {_SEEN}"
        rf"|appear to be {_SEEN})(?=$|[.,!]| in\b| on\b| at\b| here\b)",
    )
)
_POSSESSIVE = re.compile(
    r"^(?P<who>(?:he|she|it|they|(?:the|this|that|these|his|her) (?:[\w'-]+ ){0,3}?[\w'-]+)) "
    r"(?:(?:do|does) not (?:seem to |appear to )?(?:have|wear|hold|carry|possess|own)"
    rf"|(?:has|have|wears?|holds?|carries) no|(?:{_BE}) without|lacks?"
    rf"|(?:{_BE}) not (?:wearing|holding|carrying|having|using|riding)) {_ANY}(?P<x>.+)"
)
_BARE = re.compile(
    rf"^(?:no|0|zero|not any|without any|without) {_ANY}(?!.*\b(?:is|are|was|were|has|have"
    rf"|can)\b)(?P<x>(?:[\w'-]+ ?){{1,4}})[.!]*$"
)
_NONE_IS = re.compile(
    r"^none of the [\w ]{1,60}? (?:is|are) (?:an?"
    r" )?(?P<x>(?!\w+ing\b)[\w-]+)[.!]*$"
)
_MENTIONED = re.compile(
    r"\b(?:mention|assum|suppos|ask)\w*(?: about| that there is)? (?:an?|any|the|some)"
    r" (?P<x>[\w' -]{1,40}), but"
    r" (?:there (?:is|are) (?:none|no such \w+)|i (?:do not )?(?:see|find) (?:none|no such \w+"
    r"|one|any))"
)
"""*You mention a cup, but there is none*."""

_NO_ONE = re.compile(r"\b(?:no one|nobody|no people|no persons?)\b")
_LIMIT = re.compile(
    r"\s(?:in|on|at|of|by|near|to|for|from|with|that|which|who|where|visible|present|shown|seen"
    r"|here"
    r"|there|depicted|anywhere|under|behind|between|beside|next|above|below|inside|around|being"
    r"|\w{2,}ing|to be)\b"
)

_EMPTY_WORDS = (
    "a an the any some this that these those it its they them he she i you we one there here "
    "is are was were be been am do does did has have had can could will would to of in at by "
    "for from with appear appears seem seems look looks visible present shown seen depicted "
    "think believe suggests suggest indicates indicate see picture image photo photograph "
    "scene painting drawing figure really actually clearly all anywhere at either "
    "her his their my your 1"  # "one" in the normal form
)
_EMPTY = frozenset(_EMPTY_WORDS.split())


@dataclass(frozen=True, slots=True)
class Denial:
    """The objects that a sentence denies, or the question that it leaves unanswered."""

    things: tuple[str, ...]
    """Words for what is absent or unknown; empty if the sentence does not name it."""

    head: str = ""
    """The noun among them that names the object."""

    unanswerable: bool = False
    """Whether it states that the question cannot be answered."""

    incapable: bool = False
    """Whether it states that the model cannot answer, which is no claim about the image."""

    owner: tuple[str, ...] = ()
    """The person or object that lacks it."""


def read_denial(text: str) -> Denial | None:
    """Return what a text denies, or None if it is not a plain denial.

    The first sentence must deny; or the second, if the first is about something else.

    >>> read_denial("There is no kettle in the picture.")
    Denial(things=('kettle',), head='kettle', unanswerable=False, incapable=False, owner=())
    >>> read_denial("The red kettle isn't visible.").things
    ('red', 'kettle')
    >>> read_denial("The image does not show that.").unanswerable
    True
    >>> read_denial("I can't tell.").unanswerable
    True
    >>> read_denial("The kettle is missing from the image.").head
    'kettle'
    >>> read_denial("I am unable to view images.").incapable
    True
    >>> read_denial("The kettle is not red.") is None
    True
    """
    parts = sentences(text[:4_000])
    for at, sentence in enumerate(parts[:2]):
        if (denial := deny(sentence)) and not _TAKEN_BACK.search(sentence):
            others = {lemma(word) for part in parts[:at] for word in words(part)}
            return None if denial.head in others else denial
    return None


_TAKEN_BACK = re.compile(
    r"\b(?:but|though|although|however|yet)\b.*\b(?:it|they|he|she|one|seems?|appears?)\b"
)


@lru_cache(1 << 14)
def deny(sentence: str) -> Denial | None:
    """Return what a sentence, normalised by ``plain``, denies."""
    if _INCAPABLE.search(sentence):
        return Denial((), unanswerable=True, incapable=True)
    body = _LEAD.sub("", sentence)
    if found := _UNKNOWN.match(body):
        return _denial(next(part for part in found.groups() if part), unanswerable=True)
    if found := _ABSENT[0].match(body):  # before a consequence of it: "so it cannot be told"
        return _denial(found["x"])
    if "," in body and _POSSESSIVE.match(clause(body)):  # "…, so I cannot answer"
        return _lacked(clause(body))
    unanswerable = _UNANSWERABLE.search(sentence) is not None
    if unanswerable and not _NO_ONE.search(sentence):
        return Denial((), unanswerable=True)
    for pattern in _ABSENT:
        if found := pattern.match(body):
            return _denial(found["x"], unanswerable=bool(_CAN_NOT_SEE.match(body)))
    if _POSSESSIVE.match(body):
        return _lacked(body)
    return _deny_without_subject(body)


def _lacked(body: str) -> Denial | None:
    """Return what a person or an object lacks."""
    found = _POSSESSIVE.match(body)
    denial = _denial(found["x"]) if found else None
    return replace(denial, owner=content(found["who"])) if found and denial else None


def _deny_without_subject(body: str) -> Denial | None:
    """Return what a sentence without a subject denies."""
    if found := _BARE.match(body) or _NONE_IS.match(body) or _MENTIONED.search(body):
        return _denial(found["x"])
    if found := re.match(r"(?:there (?:is|was) )?(?:no one|nobody)\b", body):
        return Denial(("person", *content(clause(body[found.end() :]))), "person")
    return None


_CAN_NOT_SEE = re.compile(rf"^(?:we|you|one) (?:can|could) not {_SEE} the .* of\b")


_PROPERTY = re.compile(
    r"\b(?:color|colour|length|name|number|type|kind|size|brand|text|age|height|shape)s? of "
    r"|'s (?:color|colour|length|name|size|brand|age|height|shape)\b"
)


def _denial(part: str, unanswerable: bool = False) -> Denial | None:
    """Return the denial of what a part of a sentence names."""
    part = clause(part)
    unanswerable = (
        unanswerable
        or re.match(
            r"(?:what|when|where|who|how|which|why"
            r"|whether)\b",
            part,
        )
        is not None
    )
    if found := re.match(r"(?:one|people|persons?|anyone|anybody)\b", part):
        return Denial(("person", *content(part[found.end() :])), "person", unanswerable)
    if re.match(
        r"(?:only|just|longer|other|more|doubt|anything|nothing|reason|need|way|many|much|enough"
        r"|all"
        r"|every|always|exactly|entirely|too|very)\b",
        part,
    ):
        return None
    things = content(part)
    own = content(_LIMIT.split(f" {part}", maxsplit=1)[0]) or things
    unanswerable = unanswerable or _PROPERTY.search(part) is not None
    return Denial(things, lemma(own[-1]) if own else "", unanswerable or not things)


def hedge_in(sentence: str) -> str | None:
    """Return the words that retract a whole sentence, including ``probably``."""
    found = HEDGE.search(sentence) or _LEANING.search(sentence)
    return found[0] if found else None


def plain(text: str) -> str:
    """Return a text in lower case, without emphasis, its contractions written out.

    >>> plain("**No**, there isn’t; it can't be.")
    'no, there is not; it can not be.'
    """
    return _plain(text) if len(text) > _LONG else _cached_plain(text)


def _plain(text: str) -> str:
    line = join_initials(_EMPHASIS.sub("", text.lower().replace("’", "'")))
    if "'" in line or _APOSTROPHE_LEFT_OUT.search(line):
        for pattern, form in _CONTRACTIONS:
            line = pattern.sub(form, line)
    return line


_LONG = 2_000
_cached_plain = lru_cache(1 << 14)(_plain)

_EMPHASIS = re.compile(r"[*_#`>\"“”]")
_APOSTROPHE_LEFT_OUT = re.compile(r"nt\b|cannot")
_CONTRACTIONS = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r"\bain'?t\b", "is not"),
        (r"\b(?:can'?t|cannot)\b", "can not"),
        (r"\bwon't\b", "will not"),
        (r"\b(is|are|was|were|do|does|did|has|have|had|could|would|should)n'?t\b", r"\1 not"),
        (r"\b(it|there|that|he|she|what|who)'s\b", r"\1 is"),
        (r"\b(they|we|you|there)'re\b", r"\1 are"),
        (r"\bi'm\b", "i am"),
    )
)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, normalised by ``plain``.

    >>> sentences("No. 5 is red; it isn't blue! Yes")
    ['no. 5 is red', 'it is not blue!', 'yes']
    """
    return list(_sentences(text) if len(text) > _LONG else _cached_sentences(text))


def _sentences(text: str) -> tuple[str, ...]:
    parts = _BREAK.split(plain(text))
    return tuple(" ".join(part.split()) for part in parts if _WORD.search(part))


_cached_sentences = lru_cache(1 << 14)(_sentences)
_BREAK = re.compile(r"(?<=[.!?])\s+(?!\d)|[\n;]+")
_WORD = re.compile(r"\w")


def clause(text: str) -> str:
    """Return the text before the next comma, dash or *but*.

    >>> clause("there is no cup, but a plate")
    'there is no cup'
    """
    return re.split(r"[,:–—(]|\s-\s|(?<=\w)\s+(?:but|and|so|because)\b", text, maxsplit=1)[0]


def content(text: str) -> tuple[str, ...]:
    """Return the words that name something."""
    return tuple(word for word in words(text) if word not in _EMPTY)
