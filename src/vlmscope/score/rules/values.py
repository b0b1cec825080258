"""Rules for answers of one kind: a color, a number, a side, a year, a text, a list, an alternative.

If the ground truth is a value of such a kind, only the value that the answer gives to the object
asked about is compared (``attributes``, ``comparison``), not other values that it mentions. *The
people are sitting on the benches* answers *Are they sitting or standing?*, if the sentence mentions
nothing else before it.
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
    """Compare the alternative that a sentence names (*red or green?*) with the ground truth."""
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
    truth_words = {word for truth in case.short_truths for word in truth if word in offered}
    truths = [
        part for part in (words(truth) for truth in case.truths) if truth_words.issuperset(part)
    ]
    named = _named(case, offered)
    if len(truth_words) != 1 or not truths or named is None:
        return None
    return Finding(
        named not in truth_words, f'says "{named}" in {case.shown}, truth {case.truth_shown}'
    )


def _is_sided(offered: frozenset[str]) -> bool:
    """Return whether alternatives are sides, colors or numbers: other rules score these."""
    sides = frozenset().union(*SIDES) - {"on", "off"}
    return bool(offered & (sides | COLOURS)) or any(map(is_figure, offered))


def _named(case: Case, offered: frozenset[str]) -> str | None:
    """Return the one alternative that an answer of one sentence names, or None."""
    line = plain(case.final)
    tokens = words(case.final)
    if len(sentences(line)) != 1 or len(tokens) > 20 or _BETWEEN.search(line) or hedge_in(line):
        return None
    found = [at for at, word in enumerate(tokens) if word in offered]
    if len(found) != 1:
        return None
    [at] = found
    before, after = tokens[:at], tokens[at + 1 :]
    if tokens[at] in ("on", "off") and after:
        return None
    led = all(w in _LEADING or w in case.question.words or lemma(w) in case.question.words
              for w in before)  # fmt: skip
    return tokens[at] if led and _leaves_unchanged(after, case) else None


def _leaves_unchanged(after: Words, case: Case) -> bool:
    """Return whether the words after an alternative do not change it (*sitting on a bench*)."""
    return (
        not after
        or after[0] in _ENDING
        or re.fullmatch(r"in|on|at|by|near|next|with|behind|under|to", after[0]) is not None
        or all(word in case.question.words for word in after)
    )


SENTENCE = 30
"""Most words of an answer searched for the ground truth; longer ones mention many objects."""

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
    tokens = words(case.answer)
    named = [item for item in items if contains(tokens, item)]
    if not named and items and case.question.wants_all and case.is_short and not case.doubt:
        return _names_others(case, items)
    if not named or len(tokens) > SENTENCE or case.doubt:
        return Finding(None, f"the list needs a judge: {case.shown}") if named else None
    more = set(tokens) - {w for item in items for w in item} - case.question.words - LIGHT - _JOIN
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
    """Return the items of a ground truth (*red and blue*) if the question asks for all."""
    if not case.question.wants_all or len(case.truths) != 1:
        return []
    parts = [words(part) for part in re.split(r",? and |, ?|; ?| & ", case.truths[0])]
    parts = [part for part in parts if part]
    return parts if 1 < len(parts) < 6 and all(len(part) <= SHORT for part in parts) else []


def _names_others(case: Case, items: list[Words]) -> Finding | None:
    """Score an answer that names none of a list."""
    others = [w for w in case.tokens if w not in LIGHT | _JOIN and w not in case.question.words]
    near = any(
        relation((w,), item, case.question) in ("equal", "close") for w in others for item in items
    )
    if not others or near:
        return None
    return Finding(True, f"names none of {case.truth_shown}: {case.shown}")


def asks_several(case: Case) -> bool:
    """Return whether a question asks for several things (*What are ...?*)."""
    return (
        re.match(r"(?:what|which|who)\b.* (?:are|were|do|have)\b", case.question.asked) is not None
    )


def contains(tokens: Words, part: Words) -> bool:
    """Return whether the words of a part occur in the answer, in succession."""
    starts = range(len(tokens) - len(part) + 1)
    return bool(part) and any(tokens[start : start + len(part)] == part for start in starts)


def score_comparison(case: Case) -> Finding | None:
    """Compare which of two objects the answer ranks as taller, older, closer."""
    options = compared_options(case.question)
    if options is None or len(case.truths) != 1:
        return None
    truth = words(case.truths[0])
    matching = [
        option for option in options if truth in (option, (*option, case.question.asked.split()[1]))
    ]
    ranked = winner(case.final, case.question)
    if len(matching) != 1 or ranked is None:
        return None
    return Finding(ranked != matching[0], f'finds "{" ".join(ranked)}" ahead in {case.shown}')


def score_year(case: Case) -> Finding | None:
    """Compare the year of an event, ignoring years that it is before or after."""
    if not re.match(r"(?:in |on )?(?:what|which) year|when\b", case.question.asked):
        return None
    truths = {words(truth) for truth in case.truths}
    line = plain(case.final)
    if len(truths) != 1 or hedge_in(line) or VAGUE_NUMBER.search(line):
        return None
    [truth] = truths
    if len(truth) != 1 or not re.fullmatch(r"\d{4}", truth[0]):
        return None
    parts = re.split(r"[,;.]\s|\s(?=(?:and|but|while|not)\b)", line)
    years = {part: _YEAR.findall(part) for part in parts if not part.startswith("not ")}
    asked = {lemma(words(case.question.asked)[-1])}
    named = {year for part, found in years.items() for year in found if _about(part, asked)}
    if len(named) != 1 or NEGATIVE.search(line.replace("not in", "")):
        return None
    return Finding(
        named != {truth[0]}, f"year {named.pop()} in {case.shown}, truth {case.truth_shown}"
    )


def _about(part: str, asked: set[str]) -> bool:
    """Return whether a part of an answer contains all the given verbs, or names nothing."""
    stems = {lemma(word) for word in words(part) if word not in LIGHT and not is_figure(word)}
    return asked <= stems or not stems - {"year", "in", "date", "of", "be"}


_YEAR = re.compile(
    r"(?<!after )(?<!before )(?<!by )(?<!until )(?<!since )(?<!than )(?<!from )(?<! to )(?<!till )"
    r"\b([12]\d{3})\b"
)


def score_written_text(case: Case) -> Finding | None:
    """Compare the text on a sign, if the question asks for it."""
    if not _ASKS_TEXT.search(case.question.asked) or case.question.yes_no or len(case.truths) != 1:
        return None
    truth = words(case.truths[0])
    quoted = {found.strip(" .,!") for found in _QUOTED.findall(case.final)}
    found = None
    if not quoted:
        found = _SAYS.match(plain(case.final))
        named = len(case.tokens) <= SHORT and not re.match(
            r"\W*(?:an?|the|it"
            r"|there)\b",
            case.final.lower(),
        )
        quoted = {found["text"]} if found else {case.final} if named else set()
    described = not quoted and len(case.tokens) <= SENTENCE and case.phrase != truth
    if described and case.denial is None:
        return Finding(None, f"describes what is written: {case.shown}")
    if len(quoted) != 1 or not truth or len(truth) > SHORT or hedge_in(plain(case.final)):
        return None
    tokens = words(quoted.pop())
    if tokens == truth:
        return Finding(False, f'reads "{" ".join(truth)}" in {case.shown}')
    if set(tokens) & set(truth) and not found:
        return Finding(None, f"reads more or less than the truth: {case.shown}")
    unread = re.search(
        r"illegible|unread|blurr|unclear|unknown|nothing|\w+thing"
        r"|text",
        " ".join(tokens),
    )
    if (
        unread
        or not tokens
        or len(tokens) > SHORT
        or set(map(lemma, tokens)) & set(map(lemma, truth))
    ):
        return None
    if relation(tokens, truth, case.question) == "close":
        return None
    return Finding(True, f'reads "{" ".join(tokens)}" in {case.shown}, truth {case.truth_shown}')


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
    """Compare the color, number or side that the answer gives to the object asked about."""
    if case.denial:
        return None
    for kind, values in _KINDS.items():
        truth_values = [_only_value(truth, kind, case) for truth in case.truths]
        if (
            len(set(truth_values)) == 1
            and truth_values[0] is not None
            and _asks_for(case, kind, values)
        ):
            return _compare_value(case, kind, truth_values[0])
    return None


def _asks_for(case: Case, kind: str, values: frozenset[str]) -> bool:
    """Return whether a question asks for a value of a kind and the answer is exact."""
    if kind == "number":
        return case.question.counts and not VAGUE_NUMBER.search(plain(case.final))
    named = kind != "color" or "color" in words(case.question.asked)
    return named or bool(case.question.offered & values)


def _compare_value(case: Case, kind: str, truth: str) -> Finding | None:
    """Compare the value that an answer gives to the object asked about with the ground truth."""
    for text in dict.fromkeys((case.final, case.answer)):
        given = attribute_value(text, case.question, kind)
        if given is None:
            continue
        if given == "":
            if plain(text).startswith("of "):
                return None  # "Of the three people, only the actor was."
            return Finding(None, f"the answer needs a judge: whose {kind}? {case.shown}")
        if given != truth and given.lstrip("0") == truth:
            return None  # 07 is 7 in a count, not on a shirt
        shown = f"{kind} {given} in {case.shown}"
        return Finding(given != truth, f"{shown}, truth {case.truth_shown}")
    return None


_KINDS = {"color": COLOURS, "side": frozenset(("left", "right")), "number": frozenset[str]()}


def _only_value(truth: str, kind: str, case: Case) -> str | None:
    """Return the value of a kind if a ground truth consists of it, else None."""
    tokens = words(truth)
    found = [w for w in tokens if w in _KINDS[kind] or (kind == "number" and is_number(w))]
    rest = {lemma(w) for w in tokens if w not in found} - case.question.words - LIGHT
    return found[0] if len(found) == 1 and not rest - {"in", "on", "side", "of"} else None
