"""Rules for multiple choice: which option an answer chooses, by letter, number or words.

If the question lists its options, both the ground truth and the answer are read as one of them. If
not, a ground truth that is a letter is compared with the letter of the answer.
"""

from __future__ import annotations

import re
from string import ascii_lowercase as LETTERS  # noqa: N812 - the letters of options

from vlmscope.score.language.denial import sentences
from vlmscope.score.language.text import words
from vlmscope.score.parsing.case import Case
from vlmscope.score.parsing.choices import Choices, choose, chosen_letter, true_choice
from vlmscope.score.parsing.phrases import SHORT, relation
from vlmscope.score.scorer import Finding
from vlmscope.score.stance import yes_no_choice

_LETTER = re.compile(r"\(?([a-jA-J])[).:]?|\[([a-jA-J])\]")
_MARKED = re.compile(r"^\s*[\"'*]*\(?([A-Ja-j])[).:]\s+(?P<text>\S.*)$")


def score_choice(case: Case) -> Finding | None:
    """Compare choices if the question lists them."""
    choices = case.question.choices
    if choices is None:
        return score_unlisted(case) if case.row.options else _score_letter(case)
    truth_indices = {true_choice(truth, choices) for truth in case.truths}
    if None in truth_indices and (found := _score_number(case, choices)):
        return found
    if None in truth_indices:
        return None if all(len(words(truth)) > 1 for truth in case.truths) else _score_letter(case)
    chosen = choose(case.answer, choices)
    if chosen.index is None and (side := yes_no_choice(case.answer, case.row.question, choices)):
        return Finding(
            choices.tokens.index((side,)) not in truth_indices, f"says {side}: {case.shown}"
        )
    if chosen.index is None:
        return Finding(None, f"{chosen.why}: {case.shown}")
    return Finding(chosen.index not in truth_indices, f"{chosen.why}, truth {case.truth_shown}")


def score_unlisted(case: Case) -> Finding | None:
    """Compare options that the question does not list, by their words or a single letter."""
    options = case.row.options
    choices = Choices("", tuple(LETTERS[: len(options)]), options)
    truth_tokens = [words(truth) for truth in case.truths]
    chosen = choose(case.answer, choices)
    if chosen.index is None:
        return None
    return Finding(
        choices.tokens[chosen.index] not in truth_tokens, f"{chosen.why}, truth {case.truth_shown}"
    )


def _score_number(case: Case, choices: Choices) -> Finding | None:
    """Compare a choice with an option's number, which may count from 0 or from 1."""
    if len(case.truths) != 1 or not re.fullmatch(r"\s*\d{1,2}\s*", case.truths[0], re.ASCII):
        return None
    number = int(case.truths[0])
    chosen = choose(case.answer, choices)
    if chosen.index is None or number >= len(choices.texts):
        return None
    if chosen.index not in (number, number - 1):
        return Finding(True, f"{chosen.why}, truth number {number}, counted from 0 or from 1")
    return Finding(None, f"options counted from 0 or from 1: {case.shown}")


def _score_letter(case: Case) -> Finding | None:
    """Compare the letters of options that the question does not list: *(B)*, *B. a dog*."""
    found = [_LETTER.fullmatch(truth.strip()) for truth in case.truths]
    letters = {(one[1] or one[2]).lower() for one in found if one}
    if not all(found) or not letters:
        return _score_lettered_text(case)
    chosen = chosen_letter(case.answer, tuple("abcdefghij"))
    if not chosen and case.phrase and len(case.phrase[-1]) == 1:
        chosen = case.phrase[-1]
    if not chosen:
        return Finding(None, f"chooses no option: {case.shown}")
    return Finding(chosen not in letters, f"option {chosen}, truth {case.truth_shown}")


def _score_lettered_text(case: Case) -> Finding | None:
    """Compare an option with its letter (*(D) Soft / Uniform*) with a ground truth in words."""
    marked = _MARKED.match(case.final)
    tokens = words(marked["text"]) if marked else ()
    if not tokens or not case.short_truths or len(tokens) > 5:
        return None
    if any(relation(tokens, truth, case.question) == "equal" for truth in case.short_truths):
        return Finding(False, f"says {case.shown}")
    if case.doubt or len(sentences(marked["text"] if marked else "")) > 1:
        return None
    if any(set(truth) < set(tokens) for truth in case.short_truths) and len(tokens) <= SHORT:
        return Finding(True, f"a longer name than the truth {case.truth_shown}: {case.shown}")
    return None
