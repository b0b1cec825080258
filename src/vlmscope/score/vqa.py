"""Answers to open questions: equal to the ground truth, contradicting it, or left to a judge.

``Exact`` is exact-match accuracy: any other wording is wrong. ``Vqa`` compares answers and ground
truths in the same normal form and goes further only where the risk of a wrong label is small. The
first rule that applies decides:

1. Where the question lists choices, or the ground truth is an option's letter: which is chosen
   (``choices``).
2. An answer equal to an accepted one is faithful; of a list whose question asks for all of it,
   all must be named.
3. A denial (*There is no cup.*) is faithful to a denial of the same and to the ground truth 0, and
   so is 0 to a denial of what is counted. A denial is hallucinated if it denies what the ground
   truth is about or, if that is short, what the question is about. A refusal (*I cannot tell.*) is
   faithful if the ground truth is one, else unscorable: it contradicts nothing.
4. Where the ground truth is a denial, an answer that presents the thing as there is hallucinated,
   and so is any short answer, except one with a word that may deny.
5. The phrase that answers the question (``phrases``) is compared with that of the ground truth: an
   equal one is faithful; another number, colour, side, letter or unit is hallucinated, and so is a
   short phrase that has nothing in common with a short ground truth, in words or in WordNet.
6. A longer answer is faithful if it names the ground truth in the role that the question asks
   about, and no other value of its kind. Named in another role, it is unscorable.
7. Everything else is unscorable: a long ground truth or a long answer needs a judge.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from vlmscope.schema import Answered, Score
from vlmscope.score.language.denial import NEGATIVE, hedge_in, plain, sentences
from vlmscope.score.language.lexicon import is_a, is_part, lemma
from vlmscope.score.language.text import is_figure, word_set, words
from vlmscope.score.parsing.case import CAPTION, LIGHT, Case
from vlmscope.score.parsing.claims import COLOURS, GROUPS, SIDES
from vlmscope.score.parsing.phrases import SHORT, Relation, Words, relation, reverses_roles
from vlmscope.score.parsing.question import IN_IMAGE
from vlmscope.score.rules.attributes import is_about_another
from vlmscope.score.rules.comparison import compared_options, score_relative_position
from vlmscope.score.rules.compatible import (
    allows_other_answers,
    is_longer_name,
    means_accepted_answer,
)
from vlmscope.score.rules.denials import (
    YES_NO_WORDS,
    score_claim,
    score_denial,
    score_nothing_found,
    score_rejected_premise,
)
from vlmscope.score.rules.multiple_choice import score_choice
from vlmscope.score.rules.values import (
    SENTENCE,
    VAGUE_NUMBER,
    asks_several,
    contains,
    score_alternative,
    score_attribute,
    score_comparison,
    score_list,
    score_written_text,
    score_year,
)
from vlmscope.score.scorer import Finding, excerpt

_LOCATIVE = word_set("in on at of by from around near to during")
_POSED = word_set("lying laying sitting standing resting located placed parked hanging")
_LINKS = word_set("of in on for at")
_VERBS = word_set("is are was were has have does do can will that which who")
_OR_AND = frozenset(("and", "or"))
_TURN = re.compile(r"\b(?:no|wait|actually|rather|sorry|correction|instead|hmm|however|but)\b")
_AFTER = word_set(
    "in on at of by with for from to is are was were has have and or that which who while as under "
    "behind near next between above below inside outside over beside it this because since"
    " there here "
    "visible standing sitting lying being can"
)


class Exact:
    """Score by equality in the normal form: faithful if any accepted answer is equal."""

    name = "exact"

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        for row in rows:
            case = Case(row)
            finding = _score_missing(case) or _score_equal(case) or _score_letter(case)
            finding = finding or Finding(True, f"is not {case.truth_shown}")
            yield finding.score(row, self.name)


class Vqa:
    """Score by the rules of this module."""

    name = "vqa"

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        for row in rows:
            case = Case(row)
            found = (rule(case) for rule in _RULES)
            finding = next((finding for finding in found if finding), None)
            if finding and finding.hallucinated and row.options and not score_choice(case):
                finding = Finding(None, f"{_UNASKED}: {case.shown}")
            yield (finding or _undecided(case)).score(row, self.name)


_UNASKED = "chooses none of the options, which the question does not list"


def _score_letter(case: Case) -> Finding | None:
    """Accept the letter of the true option if the question does not list the options."""
    is_letter = len(words(case.answer)) == 1 == len(words(case.answer)[0])
    return score_choice(case) if case.row.options and is_letter else None


def _score_missing(case: Case) -> Finding | None:
    if case.row.unreadable:
        return Finding(None, case.row.unreadable)
    if not any(words(truth) for truth in case.truths):
        if case.truth.voted:
            return Finding(None, "annotators do not agree")
        return Finding(None, "no ground truth")
    return None if words(case.answer) else Finding(None, "no answer")


def _score_equal(case: Case) -> Finding | None:
    tokens = words(case.answer)
    if case.truth.listed and (case.question.wants_all or asks_several(case)):
        return None
    for truth in case.truths:
        if words(truth) == tokens or words(truth) == case.tokens:
            return Finding(False, f"is the truth {excerpt(truth)}")
    return None


_PEOPLE = {
    "woman": ("man", "boy"), "girl": ("man", "boy", "woman"), "lady": ("man", "boy"),
    "man": ("woman", "girl", "lady"), "boy": ("woman", "girl", "man"),
}  # fmt: skip


def _score_other_person(case: Case) -> Finding | None:
    """Leave an answer about a man unscored if the question is about a woman, and vice versa."""
    asked = re.match(r"(?:is|are|was|what \w+|what|where|how) .*?\b(\w*man|girl|lady|boy)\b",
                     case.question.asked)  # fmt: skip
    person = re.match(r"(?:the|a) (man|woman|girl|boy|lady) (?:is|was|has|wears|holds)\b",
                    plain(case.final))  # fmt: skip
    if not asked or not person or person[1] in case.question.words:
        return None
    if person[1] in _PEOPLE.get(asked[1], ()):
        return Finding(None, f"speaks of another person: {case.shown}")
    return None


def _score_few_votes(case: Case) -> Finding | None:
    """Score an answer given by few annotators."""
    phrase = case.phrase or case.tokens
    for few, verdict in ((case.truth.rejected, True), (case.truth.doubtful, None)):
        for answer in few:
            if words(answer) in (case.tokens, phrase):
                if not case.doubt and means_accepted_answer(case, words(answer)):
                    return Finding(False, f"another name for an accepted answer: {case.shown}")
                near = (relation(phrase, words(known), case.question) for known in case.truths)
                if verdict and not {"equal", "close"}.isdisjoint(near):
                    verdict = None
                why = "one annotator against many" if verdict else "annotators disagree"
                return Finding(verdict, f"{why}: {case.shown}")
    return None


def _score_by_phrase(case: Case) -> Finding | None:
    """Compare the phrase that answers the question with the short ground truths."""
    if not case.short_truths:
        return None
    line = plain(case.final)
    phrase = case.phrase
    if phrase is None or len(phrase) > 5:
        return None
    relations = {relation(phrase, truth, case.question): truth for truth in case.short_truths}
    if VAGUE_NUMBER.search(line) and any(map(is_figure, phrase)):
        return Finding(None, f"an inexact number: {case.shown}")
    if hedge_in(line) or (NEGATIVE.search(line) and not _negative_truth(case)):
        return None
    return _score_phrase(case, phrase, relations) if _counts(case, phrase) else None


def _score_phrase(case: Case, phrase: Words, relations: Mapping[Relation, Words]) -> Finding | None:
    """Score a phrase by its relation to the ground truths."""
    if _contradicts_itself(case):
        return Finding(None, f"says one thing and another: {case.shown}")
    if "equal" in relations:
        return Finding(False, f'says "{" ".join(relations["equal"])}" in {case.shown}')
    if words(case.answer) in YES_NO_WORDS:
        return Finding(None, f"a yes or no to an open question: {case.shown}")
    if any(rel == "close" for rel in relations) or _near_votes(case, phrase):
        return _score_overlap(case, phrase)
    if case.question.counts and not any(map(is_figure, phrase)):
        return Finding(None, f"names no number: {case.shown}")
    if "contrary" in relations or len(phrase) <= SHORT:
        return _score_other_phrase(case, phrase)
    return None


def _score_other_phrase(case: Case, phrase: Words) -> Finding | None:
    numeric = all(any(map(is_figure, truth)) for truth in case.short_truths)
    if numeric and not any(map(is_figure, phrase)):
        return Finding(None, f"names no number: {case.shown}")
    if CAPTION & set(case.tokens) and len(case.tokens) <= SHORT and not any(map(is_figure, phrase)):
        return None
    offered = case.question.offered & set(phrase)
    others = set(phrase) - offered - case.question.words
    of_another = offered and any(is_part(lemma(w), "nv") and not is_part(w, "a") for w in others)
    if case.question.negated or compared_options(case.question) or of_another:
        return Finding(None, f"the answer needs a judge: {case.shown}")
    if _side_or_colour(case) and (
        is_about_another(case.final, case.question)
        or set(phrase) - COLOURS - _SHADES - case.question.words - {"left", "right", "side"}
    ):
        return Finding(None, f"the answer needs a judge: {case.shown}")
    if numeric and (_AROUND_YEAR.search(plain(case.final)) or not is_figure(phrase[0])):
        return Finding(None, f"the answer needs a judge: {case.shown}")
    if _EXCLUSIVE.search(case.question.asked) and any(
        phrase[0][:2] == truth[0][:2] for truth in case.short_truths
    ):
        return Finding(None, f"may be another form of the truth {case.truth_shown}: {case.shown}")
    colours = all(len(truth) == 1 and truth[0] in COLOURS for truth in case.short_truths)
    if colours and not COLOURS.intersection(phrase):
        return Finding(None, f"the answer needs a judge: names no basic color: {case.shown}")
    if _adjectives_beside(case, phrase) or allows_other_answers(case, phrase):
        return Finding(None, f"may be right beside the truth {case.truth_shown}: {case.shown}")
    if case.truth_doubted and any(NEGATIVE.search(plain(truth)) for truth in case.truths):
        return None
    shown = " ".join(phrase)
    return Finding(True, f'says "{shown}" in {case.shown}, truth {case.truth_shown}')


def _adjectives_beside(case: Case, phrase: Words) -> bool:
    """Return whether a phrase consists of adjectives that are compatible with the ground truth."""
    return (
        not _EXCLUSIVE.search(case.question.asked)
        and all(is_part(word, "a") and not is_part(word, "n") for word in phrase)
        and not any(
            relation(phrase, truth, case.question) == "contrary" for truth in case.short_truths
        )
    )


def _side_or_colour(case: Case) -> bool:
    sides = COLOURS | {"left", "right"}
    return all(len(truth) == 1 and truth[0] in sides for truth in case.short_truths)


_SHADES = word_set("dark light bright deep pale color colored")
_AROUND_YEAR = re.compile(r"\b(?:after|before|since|until|by) [12]\d{3}\b")
_EXCLUSIVE = re.compile(r"\bshape\b|\bmade of\b|\bmaterial\b|\b(?:emotion|mood|feeling)\b")
"""Questions whose answers exclude each other, even adjectives."""


def _score_overlap(case: Case, phrase: Words) -> Finding | None:
    """Score a phrase that overlaps with a ground truth; a shade of the same colour is equal."""
    for truth in case.short_truths:
        if is_longer_name(case, phrase, truth):
            return Finding(False, f'says "{" ".join(phrase)}" in {case.shown}')
        if len(truth) == 1 and truth[0] in COLOURS and truth[0] in phrase:
            others = set(phrase) - set(truth)
            if others <= {"dark", "light", "bright", "deep", "pale", "mostly", "very", "solid"}:
                return Finding(False, f'says "{truth[0]}" in {case.shown}')
    if case.is_short or len(phrase) <= SHORT:
        mention = _score_mention(case)
        if mention and mention.hallucinated is False and len(words(case.answer)) > len(phrase):
            return mention
        return Finding(None, f"overlaps with the truth {case.truth_shown}: {case.shown}")
    return None


def _contradicts_itself(case: Case) -> bool:
    """Return whether an answer of several sentences contradicts itself."""
    parts = sentences(case.answer)
    return len(parts) > 1 and any(_TURN.search(sentence) for sentence in parts[1:])


def _near_votes(case: Case, phrase: Words) -> bool:
    few = (*case.truth.doubtful, *case.truth.rejected)
    return any(relation(phrase, words(a), case.question) in ("equal", "close") for a in few)


def _negative_truth(case: Case) -> bool:
    return any(NEGATIVE.search(plain(truth)) for truth in case.truths)


def _score_mention(case: Case) -> Finding | None:
    """Look for a short accepted answer in the answer."""
    tokens = case.tokens
    truth = next((truth for truth in case.short_truths if contains(tokens, truth)), None)
    if truth is None:
        return None
    found = f'"{" ".join(truth)}" in {case.shown}'
    if len(words(case.answer)) > SENTENCE and case.final == case.answer:
        return Finding(None, f"a long answer that mentions the truth: {found}")
    if case.doubt and case.doubt not in truth:
        return Finding(None, f"mentions the truth, but negates or hedges: {found}")
    if any(map(is_figure, truth)) and VAGUE_NUMBER.search(plain(case.final)):
        return Finding(None, f"an inexact number: {found}")
    if _contradicts_itself(case):
        return Finding(None, f"says one thing and another: {found}")
    if rivals := _rivals(case):
        return Finding(None, f"names the truth and a rival: {', '.join(rivals)}; {found}")
    if not any(_answers_by(case, words(part), truth) for part in _parts(case.final)):
        return _score_only_one(case, truth) or Finding(
            None, f"names the truth in another role: {found}"
        )
    return Finding(False, f"says {found}")


def _parts(text: str) -> list[str]:
    """Return the clauses of a text's sentences that a comma, a colon or a bracket ends."""
    lines = (IN_IMAGE.sub(" ", sentence) for sentence in sentences(text))
    return [
        part for sentence in lines for part in re.split(r"[,:()—–]\s|\s[—–-]\s", sentence) if part
    ]


def _answers_by(case: Case, tokens: Words, truth: Words) -> bool:
    """Return whether a clause names the ground truth in the role that the question asks about."""
    asked = case.question.words - case.question.offered
    for at in range(len(tokens) - len(truth) + 1):
        if tokens[at : at + len(truth)] != truth:
            continue
        before, after = tokens[:at], tokens[at + len(truth) :]
        if "than" in before or (before and before[0] == "of"):
            continue
        if before[-1:] == ("of",) and lemma("".join(before[-2:-1])) in GROUPS:
            before = before[:-2]  # "a slice of pizza"
        locative = _LOCATIVE | _POSED if case.question.locates else frozenset()
        led = all(
            w in asked or w in LIGHT or w in locative or lemma(w) in asked
            or (w in _LINKS and at + 1 < len(before) and lemma(before[at + 1]) in asked)
            for at, w in enumerate(before)
        )  # fmt: skip
        led = led and not reverses_roles(before, case.question)
        closed = not after or after[0] in _AFTER or after[0] in asked or lemma(after[0]) in asked
        echoed = all(w in asked or w in LIGHT or lemma(w) in asked for w in after)
        joined = len(after) > 1 and after[0] in _OR_AND and after[1] not in asked
        figure = any(map(is_figure, truth))
        if figure and not _counts_at(case, tokens, at + len(truth)):
            continue
        doing = truth[-1].endswith("ing") and "doing" in asked
        fragment = not before and _VERBS.isdisjoint(after)
        fragment = fragment and (not after or echoed or after[0] in _AFTER)
        if led and (closed or doing) and not joined and (echoed or before or figure or fragment):
            return True
    return False


def _counts(case: Case, phrase: Words) -> bool:
    """Return whether the number of a phrase counts what the question counts."""
    tokens = case.tokens
    numbers = [word for word in phrase if is_figure(word)]
    if not numbers or numbers[0] not in tokens:
        return True
    at = tokens.index(numbers[0])
    if at and tokens[at - 1] == "of" and len(tokens) > 3:
        return False
    return _counts_at(case, tokens, at + 1)


def _counts_at(case: Case, tokens: Words, at: int) -> bool:
    """Return whether a number before a word counts what the question asks about."""
    after = tokens[at : at + 3]
    if not after or not case.question.counted or after[0] in _AFTER - {"of"}:
        return True
    if after[0] == "of":
        return False
    noun = case.question.counted
    for word, behind in itertools.pairwise(after):
        if lemma(word) == noun and behind not in _AFTER and is_part(lemma(behind), "n"):
            return behind.endswith(("ing", "ed"))  # "three dog houses"
    return any(lemma(word) == noun or is_a(word, noun) for word in after) or (
        lemma(after[0]) not in case.question.words and not is_part(lemma(after[0]), "n")
    )


def _score_only_one(case: Case, truth: Words) -> Finding | None:
    """Read *Of the three people, only the actor was* as one."""
    if not case.question.counts or truth == ("1",):
        return None
    line = plain(case.final)
    if re.search(
        r"^of (?:the|these|those) .*\bonly (?:the|one|a) \w+ (?:is|was|has|had|did|does)\b", line
    ):
        return Finding(True, f"counts one: {case.shown}, truth {case.truth_shown}")
    return None


def _score_which(case: Case) -> Finding | None:
    """Read the side in *the bottom match* as the answer to *which match*."""
    asked = re.match(r"which (\w+)\b", case.question.asked)
    if not asked or case.doubt or len(sentences(case.final)) > 1:
        return None
    sides = frozenset().union(*SIDES) | {
        "middle",
        "center",
        "first",
        "last",
        "second",
        "1st",
        "2nd",
        "3rd",
    }
    truths = [truth[0] for truth in case.short_truths if len(truth) == 1 and truth[0] in sides]
    tokens = case.tokens
    named = {tokens[at] for at in range(len(tokens) - 1)
             if tokens[at + 1] == asked[1] and tokens[at] in sides}  # fmt: skip
    if truths and len(named) == 1 and not named & set(truths):
        return Finding(
            True, f'says "{named.pop()} {asked[1]}" in {case.shown}, truth {case.truth_shown}'
        )
    return None


_RULES: tuple[Callable[[Case], Finding | None], ...] = (
    _score_missing, score_choice, _score_equal, score_written_text, score_list, _score_few_votes,
    _score_other_person, score_comparison, score_relative_position, score_attribute, score_year,
    score_rejected_premise, score_denial, score_claim, score_nothing_found, score_alternative,
    _score_by_phrase, _score_which, _score_mention,
)  # fmt: skip


def _undecided(case: Case) -> Finding:
    if case.short_truths:
        return Finding(None, f"the answer needs a judge: {case.shown}")
    return Finding(None, f"the ground truth needs a judge: {case.truth_shown}")


def _rivals(case: Case) -> list[str]:
    """Return the words of the answer that are of the ground truth's kind, but not the ground truth.

    A word of the question is not an answer (*What stands left of the red car?*), unless it is
    offered as a choice.
    """
    truth_words = {word for truth in case.short_truths for word in truth}
    asked = case.question.words - case.question.offered
    rivals: list[str] = []
    for kind in (is_figure, COLOURS.__contains__, *(kind.__contains__ for kind in SIDES)):
        own = set(filter(kind, truth_words))
        named = (word for word in case.tokens if kind(word) and word not in own | asked)
        rivals += named if own else ()
    return list(dict.fromkeys(rivals))
