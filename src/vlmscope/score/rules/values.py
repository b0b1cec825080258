"""Rules for answers of one kind: a color, a number, a side, a year, a text, a list, an alternative.

Where the truth is a value of such a kind, the answer is read for the value that it gives to what
was asked about (``attributes``, ``comparison``), not for other values that it names. *The people
are sitting on the benches* answers *Are they sitting or standing?*, as long as the sentence
mentions nothing else before it.
"""

from __future__ import annotations

import re

from vlmscope.score.language.denial import NEGATIVE, hedge_in, plain, sentences
from vlmscope.score.language.lexicon import lemma
from vlmscope.score.language.text import is_figure, is_number, word_set, words
from vlmscope.score.parsing.case import LIGHT, Case
from vlmscope.score.parsing.claims import COLOURS, SIDES
from vlmscope.score.parsing.phrases import SHORT, Words, relation
from vlmscope.score.rules.attributes import attribute_value
from vlmscope.score.rules.comparison import compared_options, winner
from vlmscope.score.scorer import Finding

_LEADING = LIGHT | word_set(
    "all both slightly currently clearly completely fully turned switched wide still now mostly in"
    " on of"
)
_BETWEEN = re.compile(
    r"\b(?:neither|both|between|half|partly|partially|almost|nearly|than|or|some|one|while|but"
    r"|other|others|if|semi)\b"
)
_ENDING = word_set("up down position pose")


def score_alternative(case: Case) -> Finding | None:
    """Compare which of the alternatives of a question a sentence names."""
    offered = case.question.offered
    if case.question.negated or compared_options(case.question):
        return None
    if (
        len(offered) not in (2, 3)
        or len(case.row.target) > 1_000
        or _is_sided(offered)
        or case.doubt
    ):
        return None
    true = {word for truth in case.short_truths for word in truth if word in offered}
    own = [part for part in (words(truth) for truth in case.truths) if true.issuperset(part)]
    said = _named(case, offered)
    if len(true) != 1 or not own or said is None:
        return None
    return Finding(said not in true, f'says "{said}" in {case.shown}, truth {case.truth_shown}')


def _is_sided(offered: frozenset[str]) -> bool:
    """Return whether alternatives are sides, colors or numbers: other rules score these."""
    sides = frozenset().union(*SIDES) - {"on", "off"}
    return bool(offered & (sides | COLOURS)) or any(map(is_figure, offered))


def _named(case: Case, offered: frozenset[str]) -> str | None:
    """Return the one alternative that an answer of one sentence names, or None."""
    line = plain(case.final)
    said = words(case.final)
    if len(sentences(line)) != 1 or len(said) > 20 or _BETWEEN.search(line) or hedge_in(line):
        return None
    found = [at for at, word in enumerate(said) if word in offered]
    if len(found) != 1:
        return None
    [at] = found
    before, after = said[:at], said[at + 1 :]
    if said[at] in ("on", "off") and after:
        return None
    led = all(w in _LEADING or w in case.question.words or lemma(w) in case.question.words
              for w in before)  # fmt: skip
    return said[at] if led and _closed(after, case) else None


def _closed(after: Words, case: Case) -> bool:
    """Return whether the words after an alternative do not change it (*sitting on a bench*)."""
    return (
        not after
        or after[0] in _ENDING
        or re.fullmatch(r"in|on|at|by|near|next|with|behind|under|to", after[0]) is not None
        or all(word in case.question.words for word in after)
    )


SENTENCE = 30
"""Most words of an answer that is searched for the truth; a longer one mentions many things."""

VAGUE_NUMBER = re.compile(
    r"\b(?:at (?:least|most)|(?:more|less|fewer) than|approximately|roughly|nearly|almost|several"
    r"|many|multiple|some|few|couple|dozens|or so|(?:over|about|around|between)"
    r" (?=\d|one|two|three|four|five|six|seven|eight|nine|ten|twenty|a hundred))\b"
)
_JOIN = word_set("and or in on at of from to between years colors")


def score_list(case: Case) -> Finding | None:
    """Score an answer to a question that asks for all of a list."""
    truth = case.truth
    items = [words(item) for item in truth.accepted]
    if not truth.listed:
        items = _joined_items(case)
        if not items:
            return None
    said = words(case.answer)
    named = [item for item in items if contains(said, item)]
    if not named and items and case.question.wants_all and case.is_short and not case.doubt:
        return _names_others(case, items)
    if not named or len(said) > SENTENCE or case.doubt:
        return Finding(None, f"a list that needs a judge: {case.shown}") if named else None
    more = set(said) - {w for item in items for w in item} - case.question.words - LIGHT - _JOIN
    if len(named) == len(items):
        if more:
            return Finding(None, f"names more than the truth: {case.shown}")
        return Finding(False, f"names all of {case.truth_shown}: {case.shown}")
    numeric = all(is_figure(item[0]) for item in items if item)
    if case.question.wants_all:
        return Finding(True, f"names {len(named)} of {len(items)}: {case.shown}")
    if numeric or asks_several(case):
        return Finding(None, f"names {len(named)} of a list of {len(items)}: {case.shown}")
    return None


def _joined_items(case: Case) -> list[Words]:
    """Return the items of a truth in one text (*red and blue*) where the question asks for all."""
    if not case.question.wants_all or len(case.truths) != 1:
        return []
    parts = [words(part) for part in re.split(r",? and |, ?|; ?| & ", case.truths[0])]
    parts = [part for part in parts if part]
    return parts if 1 < len(parts) < 6 and all(len(part) <= SHORT for part in parts) else []


def _names_others(case: Case, items: list[Words]) -> Finding | None:
    """Score an answer that names none of a list."""
    said = [w for w in case.said if w not in LIGHT | _JOIN and w not in case.question.words]
    near = any(
        relation((w,), item, case.question) in ("equal", "close") for w in said for item in items
    )
    if not said or near:
        return None
    return Finding(True, f"names none of {case.truth_shown}: {case.shown}")


def asks_several(case: Case) -> bool:
    """Return whether a question asks for several things (*What are ...?*)."""
    return (
        re.match(r"(?:what|which|who)\b.* (?:are|were|do|have)\b", case.question.asked) is not None
    )


def contains(said: Words, part: Words) -> bool:
    """Return whether the words occur in the answer, in succession."""
    starts = range(len(said) - len(part) + 1)
    return bool(part) and any(said[start : start + len(part)] == part for start in starts)


def score_comparison(case: Case) -> Finding | None:
    """Compare which of two things the answer ranks as taller, older, closer."""
    options = compared_options(case.question)
    if options is None or len(case.truths) != 1:
        return None
    true = words(case.truths[0])
    own = [
        option for option in options if true in (option, (*option, case.question.asked.split()[1]))
    ]
    said = winner(case.final, case.question)
    if len(own) != 1 or said is None:
        return None
    return Finding(said != own[0], f'finds "{" ".join(said)}" ahead in {case.shown}')


def score_year(case: Case) -> Finding | None:
    """Compare the year in which something happens, and not those before or after it."""
    if not re.match(r"(?:in |on )?(?:what|which) year|when\b", case.question.asked):
        return None
    true = {words(truth) for truth in case.truths}
    line = plain(case.final)
    if len(true) != 1 or hedge_in(line) or VAGUE_NUMBER.search(line):
        return None
    [own] = true
    if len(own) != 1 or not re.fullmatch(r"\d{4}", own[0]):
        return None
    parts = re.split(r"[,;.]\s|\s(?=(?:and|but|while|not)\b)", line)
    years = {part: _YEAR.findall(part) for part in parts if not part.startswith("not ")}
    asked = {lemma(words(case.question.asked)[-1])}
    said = {year for part, found in years.items() for year in found if _about(part, asked)}
    if len(said) != 1 or NEGATIVE.search(line.replace("not in", "")):
        return None
    return Finding(said != {own[0]}, f"year {said.pop()} in {case.shown}, truth {case.truth_shown}")


def _about(part: str, asked: set[str]) -> bool:
    """Return whether a part of an answer has all the given verbs, or names nothing at all."""
    said = {lemma(word) for word in words(part) if word not in LIGHT and not is_figure(word)}
    return asked <= said or not said - {"year", "in", "date", "of", "be"}


_YEAR = re.compile(
    r"(?<!after )(?<!before )(?<!by )(?<!until )(?<!since )(?<!than )(?<!from )(?<! to )(?<!till )"
    r"\b([12]\d{3})\b"
)


def score_written_text(case: Case) -> Finding | None:
    """Compare what a sign says, where the question asks for it."""
    if not _ASKS_TEXT.search(case.question.asked) or case.question.yes_no or len(case.truths) != 1:
        return None
    true = words(case.truths[0])
    quoted = {found.strip(" .,!") for found in _QUOTED.findall(case.final)}
    found = None
    if not quoted:
        found = _SAYS.match(plain(case.final))
        named = len(case.said) <= SHORT and not re.match(
            r"\W*(?:an?|the|it"
            r"|there)\b",
            case.final.lower(),
        )
        quoted = {found["text"]} if found else {case.final} if named else set()
    described = not quoted and len(case.said) <= SENTENCE and case.phrase != true
    if described and case.denial is None:
        return Finding(None, f"describes what is written: {case.shown}")
    if len(quoted) != 1 or not true or len(true) > SHORT or hedge_in(plain(case.final)):
        return None
    said = words(quoted.pop())
    if said == true:
        return Finding(False, f'reads "{" ".join(true)}" in {case.shown}')
    if set(said) & set(true) and not found:
        return Finding(None, f"reads more or less than the truth: {case.shown}")
    unread = re.search(
        r"illegible|unread|blurr|unclear|unknown|nothing|\w+thing"
        r"|text",
        " ".join(said),
    )
    if unread or not said or len(said) > SHORT or set(map(lemma, said)) & set(map(lemma, true)):
        return None
    if relation(said, true, case.question) == "close":
        return None
    return Finding(True, f'reads "{" ".join(said)}" in {case.shown}, truth {case.truth_shown}')


_ASKS_TEXT = re.compile(
    r"\b(?:say|says|written|printed|spell\w*|title)\b|\bwhat (?:does|do) .* read\b"
)
_QUOTED = re.compile(r"(?:[\"“]|(?<!\w)['‘])([^\"“”]{1,80}?)(?:[\"”]|['’](?!\w))")
_SAYS = re.compile(
    r"(?:(?:the|this) [\w ]{1,30}|it|that) (?:says|reads|spells|(?<=text on the sign )is"
    r"|(?<=word on the sign )is):? (?P<text>[^,.]{1,40}?)"
    r"(?: in [\w ]{1,30} letters)?[.!]*$"
)


def score_attribute(case: Case) -> Finding | None:
    """Compare the color, number or side that the answer gives to what was asked about."""
    if case.denial:
        return None
    for kind, values in _KINDS.items():
        said_by = [_only_value(truth, kind, case) for truth in case.truths]
        if len(set(said_by)) == 1 and said_by[0] is not None and _asks_for(case, kind, values):
            return _bound(case, kind, said_by[0])
    return None


def _asks_for(case: Case, kind: str, values: frozenset[str]) -> bool:
    """Return whether a question asks for a value of a kind, and the answer is exact."""
    if kind == "number":
        return case.question.counts and not VAGUE_NUMBER.search(plain(case.final))
    named = kind != "color" or "color" in words(case.question.asked)
    return named or bool(case.question.offered & values)


def _bound(case: Case, kind: str, true: str) -> Finding | None:
    """Compare the value that an answer gives to what was asked about with the true one."""
    for text in dict.fromkeys((case.final, case.answer)):
        said = attribute_value(text, case.question, kind)
        if said is None:
            continue
        if said == "":
            if plain(text).startswith("of "):
                return None  # "Of the three people, only the actor was."
            return Finding(None, f"an answer that needs a judge: whose {kind}? {case.shown}")
        if said != true and said.lstrip("0") == true:
            return None  # 07 is 7 in a count, not on a shirt
        shown = f"{kind} {said} in {case.shown}"
        return Finding(said != true, f"{shown}, truth {case.truth_shown}")
    return None


_KINDS = {"color": COLOURS, "side": frozenset(("left", "right")), "number": frozenset[str]()}


def _only_value(truth: str, kind: str, case: Case) -> str | None:
    """Return the value of a kind that is all that a truth says, or None."""
    said = words(truth)
    own = [w for w in said if w in _KINDS[kind] or (kind == "number" and is_number(w))]
    rest = {lemma(w) for w in said if w not in own} - case.question.words - LIGHT
    return own[0] if len(own) == 1 and not rest - {"in", "on", "side", "of"} else None
