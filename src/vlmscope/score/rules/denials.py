"""Rules for answers and ground truths that deny, refuse, count none, or reject a premise.

*The bear is not eating a fish* is the ground truth of *What kind of fish is the bear eating?*: an
answer that states this is faithful, one that names a fish is hallucinated. *There is nothing on the
table* contradicts any positive ground truth.
"""

from __future__ import annotations

import re

from vlmscope.score.language.denial import (
    DOUBT,
    NEGATIVE,
    Denial,
    content,
    deny,
    hedge_in,
    plain,
    sentences,
)
from vlmscope.score.language.lexicon import is_a, lemma, related, same
from vlmscope.score.language.text import is_number, word_set, words
from vlmscope.score.parsing.case import CAPTION, LIGHT, Case
from vlmscope.score.parsing.phrases import Words
from vlmscope.score.parsing.presence import presence
from vlmscope.score.parsing.question import read_question
from vlmscope.score.scorer import Finding

_NOT = re.compile(r"\b(?:is|are|was|were|do|does|did|has|have|can) not (?:\w+ly )?(?P<verb>\w+)\b")
_LONGEST = 300
_ANY = word_set("not no any anything nothing so something anyone at all in it one")
_TURNS = re.compile(
    r"\b(?:actually|only|but|instead|empty|blank|other|except|else|if|just|though|however|unusual"
    r"|special|particular|specific|much)\b"
)
_FINDS_NOTHING = re.compile(
    r"\bnothing\b|\bnot (?:\w+ ){0,3}anything\b|\bno (?:objects?|items?|things?)\b"
)
_EMPTY = re.compile(
    r"^(?:the|his|her|their|its) (?P<x>[\w' -]{1,40}?) (?:is|are) (?:completely )?empty$"
)


def score_rejected_premise(case: Case) -> Finding | None:
    """Score an answer against ground truths that negate the verb of the question."""
    short = [truth for truth in case.truths if len(truth) < _LONGEST]
    verbs = {verb for truth in short if (verb := _negated_verb(truth, case))}
    parts = sentences(case.answer)
    if not verbs or not parts or any(deny(s) and hedge_in(s) for s in parts[:1]):
        return _score_no_such_thing(case)
    first = parts[0]
    own = {lemma(word) for word in content(first)}
    known = case.question.words | {lemma(w) for truth in short for w in words(truth)}
    if len(NEGATIVE.findall(first)) == 1 and not hedge_in(first) and not _TURNS.search(first):
        clause = first.split(",")[0].rstrip(" .!")
        about = {lemma(word) for word in content(clause)} - _ANY
        negation = _NOT.search(clause)
        negated = lemma(negation["verb"]) in verbs if negation else clause.endswith(" nothing")
        if negated and about & verbs and about <= known:
            return Finding(False, f"denies what the truth denies: {case.truth_shown}")
    if found := _score_no_such_thing(case):
        return found
    if case.denied or DOUBT.search(first) or hedge_in(first) or _TURNS.search(first):
        return None
    if len(parts) == 1 and (own & verbs or case.is_short):
        bare = words(case.answer) in (("yes",), ("no",))
        return None if bare else Finding(True, f"claims {case.shown}, truth {case.truth_shown}")
    return None


def _negated_verb(truth: str, case: Case) -> str | None:
    """Return the verb that a ground truth negates, if the question is about nothing else."""
    line = plain(truth).strip(" .")
    found = _NOT.search(line)
    if found is None or len(sentences(truth)) != 1 or hedge_in(line) or "," in line:
        return None
    if len(NEGATIVE.findall(line)) != 1 or case.question.yes_no:
        return None
    about = {lemma(word) for word in content(line)} - _ANY
    verb = lemma(found["verb"])
    return verb if verb in case.question.words and about <= case.question.words else None


def _score_no_such_thing(case: Case) -> Finding | None:
    """Score an answer that denies, in any clause, the object that a ground truth denies."""
    parts = sentences(case.answer)
    for denied in case.denied:
        if denied.unanswerable or denied.owner or not denied.head or len(denied.head) < 3:
            continue
        asked = read_question(f"Is there a {denied.head}?")
        sides = {presence(asked, sentence) for sentence in parts[:4]} - {None}
        shown = re.search(rf"\bno (?:\w+ ){{0,2}}{re.escape(denied.head)}", plain(case.answer))
        claimed = case.question.kind & set(words(case.answer)) - set(denied.things)
        if sides == {"no"} and shown and not claimed and denied.head in case.question.words:
            return Finding(False, f"denies what the truth denies: {case.truth_shown}")
    return None


def score_nothing_found(case: Case) -> Finding | None:
    """Score *There is nothing on the table* against a ground truth that names something."""
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
    if len(words(line)) > 2 and _FINDS_NOTHING.search(line) and len(NEGATIVE.findall(line)) == 1:
        if all(w in asked or lemma(w) in asked for w in words(line)):
            return Finding(True, f"says there is nothing: {case.shown}, truth {case.truth_shown}")
        return None
    found = _EMPTY.match(line)
    placed = re.search(rf"\b(?:in|on|inside) (?:the |his |her )?{re.escape(found['x'])}\b",
                       case.question.asked) if found else None  # fmt: skip
    if placed:
        return Finding(True, f"says there is nothing: {case.shown}, truth {case.truth_shown}")
    return None


def says_not_visible(case: Case) -> bool:
    """Return whether an answer states that what is asked for is not visible."""
    denial, line = case.denial, plain(case.answer)
    if denial is None or denial.incapable or len(sentences(case.answer)) != 1:
        return False
    seen = re.search(r"\b(?:visible|see|seen|shown|readable|legible|clear|find|found)\b", line)
    about = {lemma(word) for word in denial.things}
    return bool(seen and about) and all(
        word in case.question.words or any(same(word, w) for w in case.question.words if len(w) > 3)
        for word in about
    )


YES_NO_WORDS = tuple(
    (word,) for word in ("yes", "no", "yeah", "yep", "nope", "correct", "true", "false")
)
_NOTHING = (("0",), ("nothing",), ("no", "1"), ("nobody",))
_PREPOSITIONS = word_set("on in at of to with by for from under behind near")


def score_denial(case: Case) -> Finding | None:
    """Score an answer that is a denial or a refusal."""
    denial = case.denial
    if denial is None:
        return _score_nothing(case)
    if denial.incapable:
        return Finding(None, f"refuses to answer: {case.shown}")
    if case.truth.unanswerable and says_not_visible(case):
        return Finding(False, f"cannot be seen, the truth is no answer: {case.shown}")
    if same_denial := next((d for d in case.denied if _denies_same(denial, d, case)), None):
        what = (
            "cannot be told, says the truth too"
            if same_denial.unanswerable
            else "denies what the truth denies"
        )
        return Finding(False, f"{what}: {case.truth_shown}")
    if denial.unanswerable:
        return Finding(None, f"refuses to answer: {case.shown}")
    if not _all_asked(denial.owner, case.question.words):
        return Finding(None, f"denies something else: {case.shown}")
    asked = case.question.words
    if ("0",) in case.short_truths and _all_asked(denial.things, asked):
        return Finding(False, f"denies what the truth counts as 0: {case.shown}")
    truth_words = {lemma(word) for truth in case.truths for word in words(truth)}
    known = truth_words | (asked if case.short_truths else frozenset())
    if case.denied and (found := score_claim(case)) and found.hallucinated:
        return found
    doubted = case.truth_doubted or case.question.negated
    if doubted or not _all_asked(denial.things, known):
        return Finding(None, f"denies something else: {case.shown}")
    return Finding(True, f"denies what is there: {case.shown}, truth {case.truth_shown}")


def _denies_same(denial: Denial, other: Denial, case: Case) -> bool:
    """Return whether an answer denies the same as the ground truth."""
    if other.unanswerable and not other.things:
        return denial.unanswerable
    if other.unanswerable and denial.unanswerable and not denial.things and not denial.incapable:
        return True
    if not denial.things or not other.head:
        return False
    known = case.question.words | {lemma(word) for word in other.things}
    if denial.unanswerable or other.unanswerable:
        return (
            denial.unanswerable and other.unanswerable and set(map(lemma, denial.things)) <= known
        )
    if same(denial.head, other.head) or (denial.head == "person" and _is_person(other.head)):
        return _all_asked(denial.things, known)
    return set(map(lemma, denial.things)) <= set(map(lemma, other.things))


def _is_person(noun: str) -> bool:
    """Return whether a noun names a person, and not also a device (*toaster*, *printer*)."""
    things = ("device", "appliance", "vehicle", "container", "furniture")
    return is_a(noun, "person") and (
        noun in _PEOPLE or not any(related(noun, thing) for thing in things)
    )


_PEOPLE = word_set("man woman boy girl child baby person player driver rider worker")


def _score_nothing(case: Case) -> Finding | None:
    """Score *0*, *none*, *zero goats* against a ground truth that denies what is counted."""
    if not case.denied or not (case.question.counts or case.tokens in _NOTHING):
        return None
    zero = "0" in case.tokens and not any(is_number(w) and w != "0" for w in case.tokens)
    heads = {denied.head for denied in case.denied}
    counted = case.question.counted
    about = any(head == counted or is_a(head, counted) or is_a(counted, head) for head in heads)
    if case.question.counts and zero and not about and case.tokens[0] == "0":
        return Finding(None, f"counts none of something else: {case.shown}")
    if (
        case.question.counts
        and zero
        and about
        and len(case.tokens) <= 12
        and not hedge_in(plain(case.final))
    ):
        asked = case.question.words | heads | LIGHT | {"0"}
        if all(word in asked or lemma(word) in asked for word in case.tokens):
            return Finding(False, f"counts none, as the truth denies it: {case.truth_shown}")
    if case.tokens in _NOTHING[2:] and "person" in {
        *heads,
        *(h for h in heads if is_a(h, "person")),
    }:
        return Finding(False, f"denies what the truth denies: {case.truth_shown}")
    if case.tokens in _NOTHING:
        return Finding(None, f"names nothing: {case.shown}")
    return None


def score_claim(case: Case) -> Finding | None:
    """Score a claim against ground truths that are denials."""
    if not case.denied:
        return None
    line = _claim_sentence(case)
    if (
        DOUBT.search(line)
        or hedge_in(line)
        or re.search(r"\b(?:actually|only|but|empty|blank|0|n/a)\b", line)
    ):
        return Finding(None, f"truth is a denial, the answer negates or hedges: {case.shown}")
    stems = {lemma(word) for word in words(line.replace("'s", ""))}
    heads = [denied.head for denied in case.denied if denied.head and not denied.unanswerable]
    about = any(head in stems for head in heads)
    if "person" in heads and case.question.asked.startswith("who"):
        doing = {w for w in case.question.words if len(w) > 3} - {"person"}
        named = any(is_a(word, "person") for word in stems)
        about = about or (named and ("be" not in stems or doing <= stems))
    named = case.truth.unanswerable and line.startswith(("this is a", "it is a", "that is a"))
    short = (case.is_short or case.phrase or named) and words(case.answer) not in YES_NO_WORDS
    if not CAPTION & stems and (about or (short and len(case.tokens) <= 12)):
        return Finding(True, f"claims {case.shown}, truth {case.truth_shown}")
    return None


def _claim_sentence(case: Case) -> str:
    """Return the sentence that claims what the ground truth denies, else the whole answer.

    Denials of other things in further sentences (*No people are visible.*) do not retract it.
    """
    parts = sentences(case.answer)
    heads = {denied.head for denied in case.denied if denied.head and not denied.unanswerable}
    own = [part for part in parts if heads & {lemma(w) for w in words(part.replace("'s", ""))}]
    number = case.question.counted in heads and parts and any(map(is_number, words(parts[0])))
    if len(parts) < 2 or (own != parts[:1] and not number):
        return plain(case.answer)
    later = " ".join(parts[1:])
    if hedge_in(later) or _TAKES_BACK.search(later):
        return plain(case.answer)
    return parts[0]


_TAKES_BACK = re.compile(
    r"\b(?:but|however|actually|wait|though|sorry|mistake|it is (?:an?|the|not (?:an?|the|there"
    r"|in|on"
    r"|real|visible|seen|shown|present|part))|they are not (?:there|real|visible|seen))\b"
)


def _all_asked(things: Words, known: frozenset[str] | set[str]) -> bool:
    """Return whether all words, or kinds of them, are among the known words."""
    return all(
        word in known
        or lemma(word) in known
        or word in _PREPOSITIONS
        or any(is_a(other, word) for other in known if len(other) > 2)
        for word in things
    )
