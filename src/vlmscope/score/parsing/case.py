"""``Case``: a row with everything that the rules for open questions use, parsed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vlmscope.schema import Answered
from vlmscope.score.language.denial import (
    DOUBT,
    NEGATIVE,
    Denial,
    hedge_in,
    plain,
    read_denial,
    sentences,
)
from vlmscope.score.language.lexicon import lemma
from vlmscope.score.language.text import is_figure, word_set, words
from vlmscope.score.parsing.phrases import SHORT, Words, answer_phrase
from vlmscope.score.parsing.question import Question, read_question
from vlmscope.score.parsing.reply import (
    calculation_result,
    final_answer,
    read_reply,
    strip_contrast,
    strip_frame,
)
from vlmscope.score.parsing.truth import Truth, read_truth
from vlmscope.score.scorer import excerpt

CAPTION = word_set("picture image photo scene")
"""Words of an answer that describes the image rather than naming one thing."""

LIGHT = word_set(
    "it is are was were be been this that these those they there he she his her its their i we you "
    "appear appears seem seems look looks like to see can has have had do does did being called"
    " named "
    "shown visible picture image photo scene shows depicts contains says reads displays"
    " indicates sign text "
    "word words clock time label answer correct object item so therefore thus "
    "final right best clearly total exactly just only also"
)
"""Words before or after an answer that carry no content."""


_UNITS_OF_RESULTS = word_set("cm cm² m m² km mm mm² in total units unit degrees square centimeters")


@dataclass(frozen=True)
class Case:
    """A row with everything that the rules use."""

    row: Answered

    @cached_property
    def truth(self) -> Truth:
        """What the ground truth accepts."""
        return read_truth(self.row.target)

    @cached_property
    def question(self) -> Question:
        """What the question asks."""
        return read_question(self.row.question)

    @cached_property
    def answer(self) -> str:
        """The answer without a repeated prompt."""
        return strip_frame(read_reply(self.row.answer or "", self.row.question))

    @cached_property
    def final(self) -> str:
        """The conclusion of the answer, else the whole answer."""
        found = final_answer(self.answer) or self._result()
        return strip_contrast(found if found and words(found) else self.answer)

    def _result(self) -> str | None:
        """Return the result of a calculation, if the ground truth is a number."""
        if not all(map(is_figure, words(self.truths[0])[:1] if self.truths else ())):
            return None
        found = calculation_result(self.answer)
        tokens = words(found) if found else ()
        if sum(map(is_figure, tokens)) != 1:
            return None
        rest = {word for word in tokens if not is_figure(word)} - LIGHT - _UNITS_OF_RESULTS
        return found if all(lemma(word) in self.question.words for word in rest) else None

    @property
    def truths(self) -> tuple[str, ...]:
        """The accepted answers."""
        return self.truth.accepted

    @cached_property
    def short_truths(self) -> tuple[Words, ...]:
        """The short accepted answers as words; of a sentence, its answering phrase."""
        found = []
        for truth in self.truths:
            tokens = words(truth)
            if len(tokens) > SHORT or (len(sentences(truth)) == 1 and " " in truth):
                phrase = None if read_denial(truth) else answer_phrase(truth, self.question)
                if len(tokens) > SHORT and (DOUBT.search(plain(truth)) or hedge_in(plain(truth))):
                    phrase = None
                found += [phrase] if phrase and len(phrase) <= SHORT else []
            if 0 < len(tokens) <= SHORT:
                found.append(tokens)
        return tuple(dict.fromkeys(found))

    @cached_property
    def tokens(self) -> Words:
        """The words of the answer."""
        return words(self.final)

    @cached_property
    def phrase(self) -> Words | None:
        """The phrase of the answer that answers the question."""
        return answer_phrase(self.final, self.question)

    @property
    def is_short(self) -> bool:
        """Whether the answer names one thing, rather than describing the image."""
        return len(self.tokens) <= SHORT and not CAPTION & set(self.tokens)

    @cached_property
    def doubt(self) -> str | None:
        """The word that negates or retracts the answer."""
        line = plain(self.final)
        negative = NEGATIVE.search(line)
        return hedge_in(line) or (negative[0] if negative else None)

    @cached_property
    def denial(self) -> Denial | None:
        """What the answer denies."""
        return read_denial(self.answer)

    @cached_property
    def denied(self) -> tuple[Denial, ...]:
        """What the accepted answers deny."""
        found = tuple(d for truth in self.truths if (d := read_denial(truth)))
        return (*found, Denial((), unanswerable=True)) if self.truth.unanswerable else found

    @property
    def truth_doubted(self) -> bool:
        """Whether an accepted answer is negative or hedged: it may deny in other words."""
        lines = [plain(truth) for truth in self.truths]
        return any(DOUBT.search(line) or hedge_in(line) for line in lines)

    @property
    def shown(self) -> str:
        """The start of the answer, for evidence."""
        return excerpt(self.answer or "")

    @property
    def truth_shown(self) -> str:
        """The start of the first accepted answer, for evidence."""
        return excerpt(self.truths[0])
