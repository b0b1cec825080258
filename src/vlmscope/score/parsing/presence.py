"""Whether a sentence states that an object exists: clause by clause, mention by mention.

*While there is a cat, there is no dog* denies the dog and affirms the cat; *It is a dog, not a cat*
affirms the dog. A sentence is rewritten to a few canonical forms (*None of the objects is a dog*
becomes *there is no dog*) and split into clauses. Each clause that names the object affirms it,
denies it, or leaves it open: with a condition, in a comparison, in a drawing, under two negations,
with an exception (*no other dogs*), or denied in one location only (*no dog on the table*). If one
clause leaves it open or two disagree, nothing is decided here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from vlmscope.score.language.denial import DOUBT, NEGATIVE, deny, hedge_in
from vlmscope.score.language.lexicon import is_a, lemma, same
from vlmscope.score.language.text import is_number, words
from vlmscope.score.parsing.claims import UNREAL, shows
from vlmscope.score.parsing.question import Question

Reading = Literal["yes", "no", "found", "none", "sought", "open"]
"""What a clause states about the object: that it exists or not, that one or none was found (*I
found none*), that it was looked for; ``open`` if it names the object and states none of these."""

_IMAGE = r"(?:picture|image|photo|photograph|scene|frame|view|shot|snapshot)s?"
_IN = rf"(?:in|on|within|from|of) (?:the|this|that) (?:\w+ )?{_IMAGE}"
_SHOW = (
    r"(?:shows?|contains?|includes?|depicts?|features?|has|have|displays?|presents?|portrays?"
    r"|captures?)"
)
_SEE = r"(?:see|find|spot|detect|notice|observe|locate|identify|discern|make out|recogni[sz]e)"
_A = r"(?:a single|even one|even an?|an?|any|one(?! of\b|.{0,20} but\b))"

_LEAD = re.compile(
    r"^(?:(?:yes|no|sure|certainly|indeed|of course|absolutely|well|okay|ok|so|thus|therefore|hence"
    r"|however|unfortunately|fortunately|actually|in fact|overall|in addition|additionally|also"
    r"|moreover|furthermore|clearly|in short|in summary|finally|next|first|and|but|still|sadly"
    r"|correct|right|great|that is (?:correct|right|true)|you are right|exactly|hello|hi"
    r"|oh)\b[,:!.] *"
    r"|(?:in|from|based on|according to|judging by|looking|within|upon|on|after|having|as|to answer"
    r"|given|with) (?:[^,]{1,60})?, "
    r"|(?:i|we) (?:can|could) (?:clearly )?(?:confirm|say|tell|see|state)(?: you)? that "
    r"|i (?:would|'d) (?:also )?(?:say|answer|argue)(?: that)? |i am (?:quite |very |fairly"
    r" )?(?:sure"
    r"|certain|confident)(?: that)? |(?:i|we) (?:think|believe|find)(?: that)? (?=there|the|no"
    r"|an? )"
    r"|it is (?:true|clear|evident|obvious|apparent|correct|certain|safe to say)(?: that)? "
    r"|it (?:appears|seems|looks)(?: that| like| as if| as though)? (?=there|the|an?|no|i|you) ?"
    rf"|(?:the|this) {_IMAGE} (?:clearly )?(?:shows|suggests|indicates|confirms) that "
    r"|the (?:correct |right |final )?answer is(?: that)?:? |(?:i|we) also )+"
)
"""Words before a statement that do not change it."""

_FORMS = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r" in this (?:kitchen|bathroom|bedroom|living room|dining room|room|office|scene|setting"
         r"|restaurant|store|park)\b", ""),
        (r"\bnot among the (?:visible |listed )?(?:appliances|objects|items|animals|vehicles|things"
         r")\b", "not visible"),
        (r"\b(?:there is )?no (?:doubt|question|denying)(?: about (?:it|that))?(?: that\b|,"
         r"|(?=\W*$))",
         ""),
        (r"\bwithout (?:a |any )?(?:doubt|question),?", ""),
        (r"\bnot only (is|are) there\b", r"there \1"),
        (r"\bnot only (?:do|does|can) ", ""),
        (r"(?<!it is )\bnot only ", ""),
        (r"\bbut also\b", "and also"),
        (r" after all\b", ""),
        (r",? (?:and|but) (?:i )?found only (?=an? )", ", i found none, only "),
        (r"\b(?:certainly|definitely|surely|obviously|undoubtedly) (?!not\b)", ""),
        (r"\bthere (?:happens|happen|appears|seems) to be\b", "there is"),
        (r"\b(?:you|we|one)(?: will|'ll| would|'d| may) (?:also )?(?:see|find|notice"
         r"|spot)\b", "i see"),
        (rf"\b(the {_IMAGE}) (?:captures|presents|portrays|displays|holds|has)\b", r"\1 shows"),
        (r"\bno (?:trace of|hint of|such (?:object|thing|item) as) (?:an? |any )?", "no "),
        (r"\bnowhere (?:is|are) there (?:an? |any )", "there is no "),
        (r"\b(?:it is )?(?:not hard|not difficult|easy|hard not) to (?:spot|see|find|miss) the ",
         "i see the "),
        (r"\b(?:(?:you|one) can not|(?:it is )?(?:hard|impossible) to) (?:miss|overlook) the ",
         "i see the "),
        (r"(?<!nowhere) to be (?:found|seen)\b", ""),
        (r"\b(?:there (?:is|are) )?(?:(?:not anything|nothing) but|(?:not anything|nothing|no"
         r" [\w ]{1,20}?)"
         r" (?:other than|than|except|besides)) (an?|one|two|some|several) ", r"there is \1 "),
        (r"\bwhat (?:looks like|appears to be|seems to be|resembles) an? (.{1,40}?) is (?:actually"
         r"|really|in fact) (an? .+)", r"there is \2, no \1"),
        (rf"\bit (?:do|does|did) not (?:look|seem|appear)(?: like| as if| as though| that)? there"
         rf" (?:is|are) {_A} ", "there is no "),
        (rf"\bthere (?:do|does|did) not (?:look|seem|appear)(?: like there (?:is|are)| to be)"
         rf" {_A} ",
         "there is no "),
        (rf"\b(?:i|we) (?:do|would|did) not (?:think|believe|say)(?: that)? there (?:is|are|was)"
         rf" {_A}"
         r" ", "there is no "),
        (rf"\bit is (?:not (?:true|the case|correct)|false|untrue|incorrect) that (?:there (?:is"
         r"|are)"
         rf"|the {_IMAGE} {_SHOW}) {_A} ", "there is no "),
        (rf"\b(?:none of the (?:\w+ )?(?:objects?|things?|items?|animals?|vehicles?|elements?)"
         r"|nothing)"
         rf"(?: (?:{_IN}|here|visible|shown))? (?:is|are|looks like|resembles) {_A} ",
         "there is no "),
        (rf"\bthere (?:is|are) nothing(?: (?:{_IN}|here|visible|shown))? (?:that (?:looks like"
         r"|resembles"
         rf"|is)|like|resembling|similar to) {_A} ", "there is no "),
        (rf"\bneither {_A} ((?:[\w'-]+ ){{1,3}})nor (?:{_A} )?", r"no \1, no "),
        (rf"\b(there (?:is|are)|i (?:do|can|could)|{_SHOW}) not {_A} ", r"\1 no "),
        (rf"(?<![\w'-])not {_A} ", "no "),
        (rf"\b(?:do|does|did|can|could) not ((?:really |clearly |actually )?(?:{_SEE}|{_SHOW}))"
         rf" {_A} ",
         r"\1 no "),
    )
)  # fmt: skip
"""Wordings, and the canonical forms to which they are rewritten."""

_NOUN = r"(?!(?:no|an?|the|there|it|they|is|are|or|and|but|just|only) )[\w'-]+"
_NONE_OF_SEVERAL = re.compile(
    rf"\b(no (?:[\w'-]+ ){{0,2}}[\w'-]+)(?:, ({_NOUN}(?: {_NOUN})?))?,? or (?:{_A} )?(?=[\w'-])"
)
_SPLIT = re.compile(
    r"\s*[;:,()]\s*|\s+[-–—]+\s+|\s*—\s*"
    r"|\s+(?=(?:but|while|whereas|although|though|however|yet|rather than|instead of|except|besides"
    r"|apart from|aside from|other than|as opposed to|unlike)\b)"
    r"|\s+(?=and (?:it|they|he|she|there|i|the|this|no|not|neither|also)\b)"
)
_JOINED = re.compile(
    r"^(?:(?:and|but|or|nor|so|then|also|yes|while|whereas|although|though|even though|however|yet"
    r"|there is also|instead(?! of)) )+"
)
_CONTRASTED = re.compile(r"^(?:rather than|instead of|as opposed to) ")
_EXCEPTION = re.compile(r"^(?:except|besides|apart from|aside from|other than|unlike)\b")
_RELATIVE = re.compile(
    r"\b(?:who|which|where|whose|whom|when|because|since|that(?! (?:there|the|an?|no|i|you|it"
    r"|this) ))"
    r"\b"
)
_NOT_FACTUAL = re.compile(
    r"\b(?:if|unless|whether|would|should|ought|suppos\w+|imagin\w+|assum\w+|doubt\w*|question\w*"
    r"|rumou?r\w*|pretend\w*|dream\w*|wish\w*|hop(?:e|ing)|want\w*|claim\w*|wonder\w*|asks?|asked"
    r"|deny|denies|as if|as though|no longer|used to|about to|until|before|after|next time)\b"
)
"""Words of a sentence that does not describe the actual image."""

_SOUGHT = re.compile(
    r"\b(?:look(?:s|ed|ing)? (?:for|like)|search\w*|seek\w*|expect\w*|mention\w*|need\w*|check\w*"
    r"|compar\w+|resembl\w+|remind\w*|miss\w*|lack\w*|call(?:s|ed)|describ\w+|similar|possible"
    r"|chance"
    r"|sign says|without|part of an?|half)\b"
)
_PROPERTY = re.compile(
    r"\b(?:its|their|his|her|how|where|which|why|when|what(?! (?:it|that|this|they|the object)"
    r" (?:is|are"
    r"|was)\b)|the (?:text|color|number|brand|name|letters?|words?))\b"
)
"""Properties of an object that may be unknown although the object itself is visible."""

_EXCEPTED = re.compile(
    r"\b(?:clearly|fully|properly|completely|well)[.!]*$|\b(?:other|another|else|more|only|just"
    r"|but|longer|additional|further|such thing|exactly|real"
    r"|actual|complete|whole|entire|except|besides|than)\b"
)
_EXISTS = re.compile(
    rf"^(?:there (?:is|are|was|were|appears?|seems?|exists?)\b|(?:it|this|that|these|those)"
    r" (?:is|are)"
    rf" (?:an?|two|three|some|several|just|only|actually)\b|(?:i|you|we|one) (?:can |could |only"
    r" |do )*"
    rf"{_SEE}\b|(?:i|we) (?:found|saw|spotted)\b|(?:the|this|that) (?:\w+ )?{_IMAGE} (?:does "
    r"|only |just"
    rf" |clearly )*{_SHOW}\b|it (?:{_SHOW})\b"
    rf"|(?:the|this|that) (?:only )?(?:object|animal|thing|item|vehicle|one|creature|device"
    r"|fruit|food)s?"
    rf"\b.* (?:is|are) (?:an?|some)\b|what .* is an?\b"
    rf"|(?:just |only |simply )?(?:an?|one|two|three|some|several|many) [\w' -]{{1,40}}$"
    rf"|[\w' -]{{1,60}} (?:is|are|can be|appears?) (?:\w+ )?(?:visible|seen|present|shown|there"
    r"|here"
    rf"|displayed|depicted|{_IN})\b)"
)
"""A clause that states what exists: next to it, *no dog* and *not a dog* deny the dog."""

_PREDICATE = re.compile(r"\b(?:visible|seen|present|shown|there|here|displayed|depicted)\b")
_ELLIPTIC = re.compile(
    r"^(?:an?|the|any) (?P<x>[\w' -]{1,30}?) (?:is|are|can|could|do|does) not(?: be)?[.!]*$"
)
_PRONOUN = re.compile(r"^(?:it|they|he|she|this|that|these|those)\b")
_RETRACTED = re.compile(
    r"\bnot (?:be )?(?:really |actually |clearly |fully )*(?:real|visible|seen|present|shown"
    r"|there|here"
    rf"|alive|in (?:the|this)|part of|actually|an? )|\bonly (?:an?|part)\b|\bis (?:actually"
    r"|really) an?"
    rf"\b|{UNREAL.pattern}"
)
"""Words that retract the object in a clause about *it*."""

_NONE_FOUND = re.compile(
    r"^(?:(?:i|we) )?(?:could |can |do |did )*(?:(?:find|found|see|saw|spot(?:ted)?"
    r"|detect(?:ed)?) none"
    r"|not (?:find|see|spot|detect) (?:one|any))[.!]*$|^there (?:is|are) (?:none|not one|not any)"
    rf"(?: (?:{_IN}|here|visible))?[.!]*$|^none (?:is|are|can be) (?:visible|seen|present|there"
    r"|shown"
    r"|found)\b"
)
_ONE_FOUND = re.compile(
    r"^(?:(?:i|we) )?(?:(?:can|could|do|did) )?(?:find|found|see|saw|spot(?:ted)?|detect(?:ed)?)"
    r" (?:one|two|some|several)\b(?! of\b)(?P<a>.*)$|^there (?:is|are) (?:one|two|some|several)\b"
    r"(?! of\b)(?P<b>.*)$"
)
_WHERE = re.compile(
    rf"^(?: (?:{_IN}|in|on|at|near|behind|next|to|the|this|left|right|side|hand|of|{_IMAGE}|center"
    r"|middle|background|foreground|here|there|after all|top|bottom|corner|front|back"
    r"|visible))*[.!]*$"
)
_INDEFINITE = re.compile(r"\b(?:an?|any|no) ((?:[\w'-]+ ?){1,3})")


def presence(
    question: Question, sentence: str, before: str = ""
) -> Literal["yes", "no", "unclear"] | None:
    """Return whether a sentence normalised by ``plain`` states that the object exists.

    Args:
        question: The question.
        sentence: A sentence of the answer.
        before: The sentences before it; *there is none* refers to the object named last.

    >>> from vlmscope.score.parsing.question import read_question
    >>> asked = read_question("Is there a dog in the image?")
    >>> [presence(asked, said) for said in (
    ...     "while there is a cat in the image, there is no dog.",
    ...     "it is a dog, not a cat, that can be seen in the background.",
    ...     "there are no other dogs besides the two.")]
    ['no', 'yes', 'unclear']
    """
    thing = question.thing
    if not thing or len(thing) > 3 or any(map(is_number, thing)):
        return None
    if question.negated or question.either or len(sentence) > 600:
        return None
    return _read(question, sentence, before[-600:])


@lru_cache(1 << 13)
def _read(question: Question, sentence: str, before: str) -> Literal["yes", "no", "unclear"] | None:
    line = canonical(sentence)
    if _NOT_FACTUAL.search(line):
        return None
    clauses = [clause for clause in _SPLIT.split(line) if clause and re.search(r"\w", clause)]
    readings: list[Reading] = []
    for at, clause in enumerate(clauses):
        if hedge_in(clause) and not _PROPERTY.search(clause):
            return None
        found = _read_pronoun(question.thing, [before, *clauses[:at]], clause)
        found = found or _read_clause(question, clauses, at)
        if found:
            readings.append(found)
    return _combine(set(readings), line, clauses)


def _combine(
    readings: set[Reading], line: str, clauses: list[str]
) -> Literal["yes", "no", "unclear"] | None:
    """Return the combined reading of a sentence's clauses."""
    sides = {"yes" if one in ("yes", "found") else "no" for one in readings - {"sought", "open"}}
    if "sought" in readings and readings.isdisjoint(("found", "none")):
        readings.add("open")
    if len(sides) == 2 or ("open" in readings and (sides or DOUBT.search(line))):
        return "unclear"
    if not sides or "open" in readings:
        return None
    if "no" in sides and any(map(_EXCEPTION.match, clauses[1:])):
        return "unclear"
    return "yes" if "yes" in sides else "no"


def canonical(sentence: str) -> str:
    """Return a sentence without its introduction and with negations in canonical form.

    >>> canonical("looking at the image, none of the objects in the image is a dog.")
    'there is no dog.'
    """
    line = _LEAD.sub("", " ".join(sentence.split()))
    for pattern, form in _FORMS:
        line = pattern.sub(form, line)
    for _ in range(3):
        line = _NONE_OF_SEVERAL.sub(
            lambda found: f"{found[1]}{f', no {found[2]}' if found[2] else ''}, no ", line
        )
    return _LEAD.sub("", line.strip(" ,"))


def _read_clause(question: Question, clauses: list[str], at: int) -> Reading | None:
    """Return what one clause of a sentence states about the object."""
    thing, raw = question.thing, clauses[at]
    clause = _JOINED.sub("", raw).rstrip(" .!?")
    flipped = re.match(
        r"(?:but |and )?(?:just|only|simply|merely) (?=an?|one|two|three|some|the)", clause
    )
    if flipped and at:
        clause = clause[flipped.end() :]
    if found := _CONTRASTED.match(clause):
        clause = f"no {re.sub(rf'^{_A} ', '', clause[found.end() :])}"
    if not _names(thing, clause):
        return "open" if at and _PRONOUN.match(clause) and _RETRACTED.search(clause) else None
    if _EXCEPTION.match(clause):
        return "open"
    if DOUBT.search(clause):
        return _read_negative(question, clauses, at, clause)
    own = _RELATIVE.split(clause, maxsplit=1)[0]
    if _SOUGHT.search(clause):
        return "sought"
    if UNREAL.search(clause) or not shows(thing, own):
        return "open"
    bare = not re.match(r"(?:just|only|an?|one|two|three|some|several|many|with)\b", clause)
    if at and bare and NEGATIVE.search(_JOINED.sub("", clauses[at - 1])) and " " not in clause:
        return "open"  # "no cats, dogs"
    if (
        at
        and re.match(r"(?:an?|some|one|the) [\w' -]+$", clause)
        and not (flipped or raw.startswith("but"))
    ):
        negative = NEGATIVE.search(clauses[at - 1]) is not None
        return "open" if negative and not re.match(r"no\b", clauses[at - 1]) else "yes"
    return "yes"


def _names(thing: tuple[str, ...], clause: str) -> bool:
    """Return whether a clause contains the object's noun or a synonym of it."""
    head = thing[-1]
    return any(
        word == head or lemma(word) == head or same(word, head)
        for word in words(clause)
    ) or " ".join(thing) in clause  # fmt: skip


def _read_negative(question: Question, clauses: list[str], at: int, clause: str) -> Reading:
    """Return what a clause with a negation states about the object that it names."""
    thing = question.thing
    own = _RELATIVE.split(clause, maxsplit=1)
    if not DOUBT.search(own[0]) and len(own) > 1:  # "a dog that is not moving"
        retracted = _RETRACTED.search(clause) or UNREAL.search(clause) or _SOUGHT.search(clause)
        return "yes" if shows(thing, own[0]) and not retracted else "open"
    if len(DOUBT.findall(clause)) > 1 or _EXCEPTED.search(clause):
        return "open"
    if found := re.match(r"the ([\w' -]+?) (?:is|are) not \w+ing\b", clause):
        return "yes" if shows(thing, f"the {found[1]}") else "open"
    if (found := _ELLIPTIC.match(clause)) and at and _PREDICATE.search(clauses[at - 1]):
        return "no" if _names_only_thing(question, found["x"]) else "open"
    found = re.match(r"(?:no|without(?: any| an?)?) (?P<x>.+)$", clause)
    if found and not re.search(r"\b(?:is|are|can|could|appears?|exists?)\b", found["x"]):
        others = [part for i, part in enumerate(clauses) if i != at]
        is_existential = any(_EXISTS.match(_JOINED.sub("", part).rstrip(" .!")) for part in others)
        is_existential = is_existential or not others or any(map(deny, others))
        return "no" if is_existential and _names_only_thing(question, found["x"]) else "open"
    if found := re.match(r"(?:it|this|that) is no (?P<x>[\w' -]+)$", clause):  # "but a wolf"
        following = clauses[at + 1] if at + 1 < len(clauses) else ""
        contrast = re.match(r"(?:but )?(?:it is |an? )", following)
        return "no" if contrast and _names_only_thing(question, found["x"]) else "open"
    denial = deny(clause)
    if denial is None or denial.unanswerable or denial.owner or not denial.head:
        return "open"
    return "no" if _covers_thing(question, denial.head, denial.things) else "open"


def _names_only_thing(question: Question, part: str) -> bool:
    """Return whether a part of a sentence names the object and nothing else."""
    denial = deny(f"there is no {part}")
    return denial is not None and _covers_thing(question, denial.head, denial.things)


def _covers_thing(question: Question, head: str, things: tuple[str, ...]) -> bool:
    """Return whether a denial covers the object, or a whole kind that includes it."""
    own = question.thing
    if same(" ".join(things), " ".join(own)):
        return True
    if lemma(head) != own[-1] and not is_a(" ".join(own), head) and not is_a(own[-1], head):
        return False
    return all(
        lemma(word) in own or word in own or any(is_a(other, word) for other in own)
        for word in things
    )


def _read_pronoun(thing: tuple[str, ...], before: list[str], clause: str) -> Reading | None:
    """Read *there is none* and *I found one*, if the object was named last, or is the only one."""
    clause = _JOINED.sub("", clause).rstrip(" .!?")
    none, one = _NONE_FOUND.match(clause), _ONE_FOUND.match(clause)
    if not none and not (one and _WHERE.match(one["a"] or one["b"] or "")):
        return None
    named = _INDEFINITE.findall(" , ".join(before))
    if named and not _names(thing, named[-1]):
        return None
    return "none" if none else "found"
