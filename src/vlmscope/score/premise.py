"""Truths that deny what a question takes for granted, and answers that find nothing.

*The bear is not eating a fish* is the truth of *What kind of fish is the bear eating?*: an answer
that says so is faithful, one that names a fish is hallucinated. *There is nothing on the table*
denies whatever a positive truth names there.
"""

from __future__ import annotations

import re

from vlmscope.score.case import LIGHT, Case
from vlmscope.score.denial import DOUBT, NEGATIVE, content, deny, hedge_in, plain, sentences
from vlmscope.score.lexicon import lemma, same
from vlmscope.score.presence import presence
from vlmscope.score.question import read_question
from vlmscope.score.scorer import Finding
from vlmscope.score.text import word_set, words

_NOT = re.compile(r"\b(?:is|are|was|were|do|does|did|has|have|can) not (?:\w+ly )?(?P<verb>\w+)\b")
_LONGEST = 300
_ANY = word_set("not no any anything nothing so something anyone at all in it one")
_TURNS = re.compile(
    r"\b(?:actually|only|but|instead|empty|blank|other|except|else|if|just|though|however|unusual"
    r"|special|particular|specific|much)\b"
)
_NOTHING = re.compile(
    r"\bnothing\b|\bnot (?:\w+ ){0,3}anything\b|\bno (?:objects?|items?|things?)\b"
)
_EMPTY = re.compile(
    r"^(?:the|his|her|their|its) (?P<x>[\w' -]{1,40}?) (?:is|are) (?:completely )?empty$"
)


def denies_premise(case: Case) -> Finding | None:
    """Weigh an answer against truths that negate the verb of the question."""
    short = [truth for truth in case.truths if len(truth) < _LONGEST]
    verbs = {verb for truth in short if (verb := _negated_verb(truth, case))}
    said = sentences(case.answer)
    if not verbs or not said or any(deny(s) and hedge_in(s) for s in said[:1]):
        return _no_such_thing(case)
    first = said[0]
    own = {lemma(word) for word in content(first)}
    known = case.question.words | {lemma(w) for truth in short for w in words(truth)}
    if len(NEGATIVE.findall(first)) == 1 and not hedge_in(first) and not _TURNS.search(first):
        clause = first.split(",")[0].rstrip(" .!")
        about = {lemma(word) for word in content(clause)} - _ANY
        undone = _NOT.search(clause)
        negated = lemma(undone["verb"]) in verbs if undone else clause.endswith(" nothing")
        if negated and about & verbs and about <= known:
            return Finding(False, f"denies what the truth denies: {case.truth_shown}")
    if found := _no_such_thing(case):
        return found
    if case.denied or DOUBT.search(first) or hedge_in(first) or _TURNS.search(first):
        return None
    if len(said) == 1 and (own & verbs or case.is_short):
        bare = words(case.answer) in (("yes",), ("no",))
        return None if bare else Finding(True, f"claims {case.shown}, truth {case.truth_shown}")
    return None


def _negated_verb(truth: str, case: Case) -> str | None:
    """Return the verb that a truth negates, where the question asks about nothing else."""
    line = plain(truth).strip(" .")
    found = _NOT.search(line)
    if found is None or len(sentences(truth)) != 1 or hedge_in(line) or "," in line:
        return None
    if len(NEGATIVE.findall(line)) != 1 or case.question.yes_no:
        return None
    about = {lemma(word) for word in content(line)} - _ANY
    verb = lemma(found["verb"])
    return verb if verb in case.question.words and about <= case.question.words else None


def _no_such_thing(case: Case) -> Finding | None:
    """Weigh an answer that denies, in any clause, the thing that a truth denies."""
    said = sentences(case.answer)
    for denied in case.denied:
        if denied.untold or denied.owner or not denied.head or len(denied.head) < 3:
            continue
        asked = read_question(f"Is there a {denied.head}?")
        sides = {presence(asked, sentence) for sentence in said[:4]} - {None}
        shown = re.search(rf"\bno (?:\w+ ){{0,2}}{re.escape(denied.head)}", plain(case.answer))
        claimed = case.question.kind & set(words(case.answer)) - set(denied.things)
        if sides == {"no"} and shown and not claimed and denied.head in case.question.words:
            return Finding(False, f"denies what the truth denies: {case.truth_shown}")
    return None


def finds_nothing(case: Case) -> Finding | None:
    """Weigh *There is nothing on the table* against a truth that names something."""
    if len(case.answer) > _LONGEST or not case.short_truths:
        return None
    line = plain(case.final).strip(" .!")
    if case.denied or case.truth_doubted or case.question.negated or case.question.yes_no:
        return None
    if not re.match(r"(?:what|who|which)\b", case.question.asked) or hedge_in(line):
        return None
    if len(sentences(case.answer)) != 1 or _TURNS.search(line.replace("empty", "")):
        return None
    asked = case.question.words | LIGHT | _ANY | {"on", "of", "with"}
    if len(words(line)) > 2 and _NOTHING.search(line) and len(NEGATIVE.findall(line)) == 1:
        if all(w in asked or lemma(w) in asked for w in words(line)):
            return Finding(True, f"finds nothing: {case.shown}, truth {case.truth_shown}")
        return None
    found = _EMPTY.match(line)
    placed = re.search(rf"\b(?:in|on|inside) (?:the |his |her )?{re.escape(found['x'])}\b",
                       case.question.asked) if found else None  # fmt: skip
    if placed:
        return Finding(True, f"finds nothing: {case.shown}, truth {case.truth_shown}")
    return None


def unseen(case: Case) -> bool:
    """Return whether an answer says that what is asked for is not to be seen."""
    denial, line = case.denial, plain(case.answer)
    if denial is None or denial.incapable or len(sentences(case.answer)) != 1:
        return False
    seen = re.search(r"\b(?:visible|see|seen|shown|readable|legible|clear|find|found)\b", line)
    about = {lemma(word) for word in denial.things}
    return bool(seen and about) and all(
        word in case.question.words or any(same(word, w) for w in case.question.words if len(w) > 3)
        for word in about
    )
