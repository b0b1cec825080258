"""Answers to open questions: equal to the truth, at odds with it, or a matter for a judge.

``Exact`` is the field's accuracy: any other wording is wrong. ``Vqa`` compares answers and truths
in the same normal form and goes further only where little can go wrong. Its rules, the first that
applies decides:

1. An answer equal to an accepted one is faithful.
2. So is one of at most ``SENTENCE`` words that contains a short accepted answer. It is unscorable
   if it is negated or hedged as well, or names a rival: another number, colour or side.
3. A denial (*There is no cup.*) is faithful to a denial of the same and to the truth 0. It is
   hallucinated if it denies what the truth speaks of or, where that is short, the question. A
   refusal (*I cannot tell.*) is faithful where the truth is one, else unscorable: it contradicts
   nothing.
4. Where the truth is a denial, an answer that speaks of the thing as there is hallucinated, and so
   is any short answer.
5. One sentence that names exactly one rival of a short truth, and not the truth, is hallucinated;
   a number only where it counts what the question asks about.
6. A short answer that shares no word with a short truth is hallucinated, as in the field.
7. Everything else is unscorable: a long truth or a long answer needs a judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from vlmscope.schema import Answered, Score
from vlmscope.score.denial import NEGATIVE, Denial, hedge_in, plain, read_denial, sentences
from vlmscope.score.scorer import Finding, excerpt
from vlmscope.score.text import accepted_answers, is_number, stem, words

SHORT = 3
"""Most words of an answer that is compared as a whole."""

CLAUSE = 12
"""Most words of a sentence whose one number, colour or side is taken for its answer."""

SENTENCE = 30
"""Most words of an answer that is searched for the truth; a longer one mentions many things."""

_COLOURS = "red orange yellow green blue purple pink brown black white gray"
_KINDS = tuple(
    frozenset(kind.split())
    for kind in (_COLOURS, "left right", "upper lower", "top bottom", "above below", "yes no")
)
_VAGUE_NUMBER = re.compile(
    r"\b(?:at (?:least|most)|(?:more|less|fewer) than|over|about|around|approximately|roughly"
    r"|nearly|almost|several|many|multiple|some|few)\b"
)
_OPTION = re.compile(r"\(?([a-h])(?:[).:,]|$)")

_CAPTION = frozenset(("picture", "image", "photo", "scene", "shows"))
_BARE = (("yes",), ("no",))

Words = tuple[str, ...]


class Exact:
    """Scores by equality in the normal form: faithful if any accepted answer is equal."""

    name = "exact"

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        for row in rows:
            case = _Case(row)
            finding = _missing(case) or _equal(case) or Finding(True, f"is not {case.truth_shown}")
            yield finding.score(row, self.name)


class Vqa:
    """Scores by the rules above."""

    name = "vqa"

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        for row in rows:
            case = _Case(row)
            found = (rule(case) for rule in _RULES)
            finding = next((finding for finding in found if finding), None)
            yield (finding or _undecided(case)).score(row, self.name)


@dataclass(frozen=True)
class _Case:
    """A row with what the rules look at."""

    row: Answered

    @cached_property
    def truths(self) -> tuple[str, ...]:
        return accepted_answers(self.row.target)

    @cached_property
    def short_truths(self) -> tuple[Words, ...]:
        """The accepted answers that are short, in words."""
        return tuple(w for truth in self.truths if 0 < len(w := words(truth)) <= SHORT)

    @cached_property
    def said(self) -> Words:
        """The answer in words."""
        return words(self.row.answer or "")

    @property
    def is_short(self) -> bool:
        """Whether the answer names one thing, rather than says what is to be seen."""
        return len(self.said) <= SHORT and not _CAPTION & set(self.said)

    @cached_property
    def doubt(self) -> str | None:
        """The word that negates the answer or takes it back."""
        line = plain(self.row.answer or "")
        negative = NEGATIVE.search(line)
        return hedge_in(line) or (negative[0] if negative else None)

    @cached_property
    def denial(self) -> Denial | None:
        """What the answer denies."""
        return read_denial(self.row.answer or "")

    @cached_property
    def denied(self) -> tuple[Denial, ...]:
        """What the accepted answers deny."""
        return tuple(d for truth in self.truths if (d := read_denial(truth)))

    @property
    def truth_doubted(self) -> bool:
        """Whether an accepted answer is negative or hedged: it may deny in words of its own."""
        lines = [plain(truth) for truth in self.truths]
        return any(NEGATIVE.search(line) or hedge_in(line) for line in lines)

    @property
    def shown(self) -> str:
        return excerpt(self.row.answer or "")

    @property
    def truth_shown(self) -> str:
        return excerpt(self.truths[0])


def _missing(case: _Case) -> Finding | None:
    if not any(words(truth) for truth in case.truths):
        return Finding(None, "no ground truth")
    return None if case.said else Finding(None, "no answer")


def _equal(case: _Case) -> Finding | None:
    for truth in case.truths:
        if words(truth) == case.said:
            return Finding(False, f"is the truth {excerpt(truth)}")
    return None


def _option(case: _Case) -> Finding | None:
    """Compare the letters of a multiple-choice question: *(B)*, *B. a dog*."""
    letters = {truth.lower() for truth in case.truths}
    if not all(re.fullmatch("[a-h]", letter) for letter in letters):
        return None
    chosen = _OPTION.match(plain(case.row.answer or "").strip())
    if chosen is None:
        return Finding(None, f"chooses no option: {case.shown}")
    return Finding(chosen[1] not in letters, f"option {chosen[1]}, truth {case.truth_shown}")


def _mentions(case: _Case) -> Finding | None:
    """Look for a short accepted answer in the answer."""
    truth = next((truth for truth in case.short_truths if _contains(case.said, truth)), None)
    if truth is None:
        return None
    found = f'"{" ".join(truth)}" in {case.shown}'
    if len(case.said) > SENTENCE:
        return Finding(None, f"a long answer that mentions the truth: {found}")
    if case.doubt and case.doubt not in truth:
        return Finding(None, f"mentions the truth, but negates or hedges: {found}")
    if any(is_number(word) for word in truth) and _VAGUE_NUMBER.search(
        plain(case.row.answer or "")
    ):
        return Finding(None, f"an inexact number: {found}")
    if truth == ("1",) and not _counts(case, "1"):  # "one of them", "the one that"
        return Finding(None, f"a one that may count nothing: {found}")
    if rivals := _rivals(case):
        return Finding(None, f"names the truth and a rival: {', '.join(rivals)}; {found}")
    return Finding(False, f"says {found}")


def _denies(case: _Case) -> Finding | None:
    """Weigh an answer that is a denial or a refusal."""
    if case.denial is None:
        return None
    if case.denial.untold:
        if any(denied.untold for denied in case.denied):
            return Finding(False, f"cannot be told, says the truth too: {case.truth_shown}")
        return Finding(None, f"refuses to answer: {case.shown}")
    things = _stems(case.denial.things)
    if any(things <= _stems(denied.things) for denied in case.denied):
        return Finding(False, f"denies what the truth denies: {case.truth_shown}")
    if ("0",) in case.short_truths and things <= _stems(words(case.row.question)):
        return Finding(False, f"denies what the truth counts as 0: {case.shown}")
    asked = words(case.row.question) if case.short_truths else ()
    spoken_of = _stems((*asked, *(word for truth in case.truths for word in words(truth))))
    if case.truth_doubted or not things <= spoken_of:
        return Finding(None, f"denies something else: {case.shown}")
    return Finding(True, f"denies what is there: {case.shown}, truth {case.truth_shown}")


def _claims(case: _Case) -> Finding | None:
    """Weigh a claim against truths that are denials."""
    if not case.denied:
        return None
    if case.doubt:
        return Finding(None, f"truth is a denial, the answer negates or hedges: {case.shown}")
    said = _stems(case.said)
    about = any(d.things and _stems(d.things) <= said for d in case.denied)
    if about or (case.is_short and case.said not in _BARE):
        return Finding(True, f"claims {case.shown}, truth {case.truth_shown}")
    return None


def _competes(case: _Case) -> Finding | None:
    """Look for the one number, colour or side that a sentence names in the truth's place."""
    if case.doubt or len(case.said) > CLAUSE or len(sentences(case.row.answer or "")) > 1:
        return None
    rivals = _rivals(case)
    if len(rivals) != 1 or _VAGUE_NUMBER.search(plain(case.row.answer or "")):
        return None
    if is_number(rivals[0]) and not _counts(case, rivals[0]):
        return None
    return Finding(True, f'says "{rivals[0]}" in {case.shown}, truth {case.truth_shown}')


def _differs(case: _Case) -> Finding | None:
    """Compare two short answers as wholes."""
    if case.doubt or not case.short_truths or not case.is_short:
        return None
    known = {stem(word) for truth in case.short_truths for word in truth}
    if known & _stems(case.said):
        return Finding(None, f"overlaps with the truth {case.truth_shown}: {case.shown}")
    numeric = all(any(map(is_number, truth)) for truth in case.short_truths)
    if numeric and not any(map(is_number, case.said)):
        return Finding(None, f"names no number: {case.shown}")
    if case.said in _BARE:
        return Finding(None, f"a yes or no to an open question: {case.shown}")
    return Finding(True, f"says {case.shown}, truth {case.truth_shown}")


_RULES: tuple[Callable[[_Case], Finding | None], ...] = (
    _missing, _equal, _option, _mentions, _denies, _claims, _competes, _differs
)  # fmt: skip


def _undecided(case: _Case) -> Finding:
    if case.short_truths:
        return Finding(None, f"an answer that needs a judge: {case.shown}")
    return Finding(None, f"a truth that needs a judge: {case.truth_shown}")


def _contains(said: Words, part: Words) -> bool:
    """Return whether the words stand in the answer, one after the other."""
    starts = range(len(said) - len(part) + 1)
    return any(said[start : start + len(part)] == part for start in starts)


def _stems(said: Words) -> frozenset[str]:
    return frozenset(map(stem, said))


def _counts(case: _Case, number: str) -> bool:
    """Return whether the number stands last, or before what the question asks about."""
    after = case.said[case.said.index(number) + 1 :][:1]
    return _stems(after) <= _stems(words(case.row.question))


def _rivals(case: _Case) -> list[str]:
    """Return the words of the answer that are of the truth's kind, but not the truth.

    What the question names is no answer (*What stands left of the red car?*), unless it names the
    truth too and so offers a choice.
    """
    true = {word for truth in case.short_truths for word in truth}
    asked = set(words(case.row.question))
    rivals: list[str] = []
    for kind in (is_number, *(kind.__contains__ for kind in _KINDS)):
        own = set(filter(kind, true))
        offered = set() if own & asked else asked
        named = (word for word in case.said if kind(word) and word not in own | offered)
        rivals += named if own else ()
    return list(dict.fromkeys(rivals))
