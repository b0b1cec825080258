"""The rule-based scorers on generated answer sheets, kind by kind, and the sheets themselves."""

from __future__ import annotations

import ast
import json
import time
from collections import Counter
from functools import cache

import pytest
from answer_sheets import (
    KINDS,
    POPE_KINDS,
    Row,
    answered,
    outcome,
    pope_in_sentences,
    rows_of,
    sheet,
    table,
)

from vlmscope.schema import Score
from vlmscope.score import Auto

SEED = 2026
UNDECIDED = tuple(kind for kind in KINDS if kind.startswith("not to be told"))
DECIDED = tuple(kind for kind in KINDS if kind not in UNDECIDED)

SCORABLE = 0.87
"""Share of the rows with a verdict that is scored, in every kind that is not listed here."""

SCORABLE_IN: dict[str, float] = {
    "absent: denial in other words": 0.82,
    "absent: how many of none": 0.76,
    "absent: unknown from the image": 0.85,
    "action": 0.83,
    "choice: index": 0.45,
    "longer name": 0.75,
    "number form": 0.86,
    "place of another thing": 0.6,
    "synonym": 0.72,
    "word form": 0.78,
    "word in another sense": 0.6,
    "yes and no: synonym": 0.7,
    "yes and no: the opposite": 0.82,
}
"""What the rules score today of kinds that they do not read well yet: to be raised, never lowered.

An option's number of one row alone may count from 0 or from 1: half of these cannot be scored.
"""


@cache
def _outcomes(kind: str) -> list[tuple[Row, str]]:
    rows = rows_of(kind, SEED, 80)
    scores = Auto()(answered(rows))
    return [(row, outcome(row, score)) for row, score in zip(rows, scores, strict=True)]


def _with(kind: str, what: str) -> list[Row]:
    return [row for row, is_ in _outcomes(kind) if is_ == what]


@pytest.mark.first(24)
@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_is_scored_wrong(kind: str) -> None:
    wrong = _with(kind, "wrong")
    assert not wrong, f"{len(wrong)} of 80, among them {wrong[:3]}"


@pytest.mark.parametrize("kind", DECIDED)
def test_answers_with_a_verdict_are_scored(kind: str) -> None:
    left = _with(kind, "left")
    share = 1 - len(left) / 80
    bound = SCORABLE_IN.get(kind, SCORABLE)
    assert share >= bound, f"{share:.2f} of at least {bound}, left are {left[:3]}"


@pytest.mark.exhaustive
def test_pope_in_sentences_is_scored_right() -> None:
    rows = pope_in_sentences(SEED, 1_000)
    scores = list(Auto()(answered(rows)))
    found = Counter(outcome(row, score) for row, score in zip(rows, scores, strict=True))
    assert found["wrong"] == 0, "\n" + table(rows, scores)
    assert found["right"] >= 0.999 * len(rows), "\n" + table(rows, scores)


@pytest.mark.exhaustive
def test_few_of_all_are_wrong() -> None:
    rows = sheet(SEED + 1, 2_100)
    scores = list(Auto()(answered(rows)))
    found = Counter(outcome(row, score) for row, score in zip(rows, scores, strict=True))
    assert found["wrong"] <= 0.0005 * len(rows), "\n" + table(rows, scores)
    assert found["right"] >= 0.93 * len(rows), "\n" + table(rows, scores)


def test_a_sheet_is_the_same_for_the_same_seed_and_holds_every_kind() -> None:
    rows = sheet(1, 700)
    assert rows == sheet(1, 700)
    assert rows[:300] == sheet(1, 300)
    assert rows != sheet(2, 700)
    counts = Counter(row.kind for row in rows)
    assert len(KINDS) >= 25
    assert set(counts) == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert Counter(row.kind for row in pope_in_sentences(1, 60)).keys() == set(POPE_KINDS)


@pytest.mark.first(16)
@pytest.mark.parametrize("kind", DECIDED)
def test_both_verdicts_are_about_as_frequent(kind: str) -> None:
    verdicts = Counter(row.verdict for row in rows_of(kind, 5, 300))
    assert verdicts.keys() == {"faithful", "hallucinated"}
    assert 100 <= verdicts["faithful"] <= 200


def test_what_cannot_be_told_has_no_verdict() -> None:
    assert UNDECIDED
    for kind in UNDECIDED:
        assert {row.verdict for row in rows_of(kind, 5, 50)} == {None}


@pytest.mark.exhaustive
def test_no_row_is_drawn_with_two_verdicts() -> None:
    verdicts: dict[tuple[str, str, str], set[object]] = {}
    for row in [*sheet(7, 5_000), *pope_in_sentences(7, 1_500)]:
        same = (row.question, row.target.lower(), row.answer.strip())
        verdicts.setdefault(same, set()).add(row.verdict)
    assert len(verdicts) > 4_000
    assert not [same for same, given in verdicts.items() if len(given) > 1]


def test_pope_has_a_verdict_on_every_row_and_plain_truths() -> None:
    rows = pope_in_sentences(3, 2_000)
    for row in rows:
        assert row.verdict is not None
        assert row.target in ("yes", "no")
        assert row.question.startswith("Is there a")
        assert row.question.endswith(" in the image?")
    assert len({(row.question, row.answer) for row in rows}) > 1_500


def test_annotators_are_written_as_json_python_and_numpy_print_them() -> None:
    parsers = Counter[str]()
    for row in rows_of("annotators: majority", 4, 200):
        if "array(" in row.target or "' '" in row.target or "}\n {" in row.target:
            parsers["numpy"] += 1
            continue
        try:
            json.loads(row.target)
            parsers["json"] += 1
        except json.JSONDecodeError:
            ast.literal_eval(row.target)
            parsers["python"] += 1
    assert all(parsers[form] > 20 for form in ("numpy", "json", "python"))


def test_a_large_sheet_is_made_in_seconds() -> None:
    start = time.process_time()
    sheet(6, 3_000)
    assert time.process_time() - start < 3


def test_the_table_counts_by_kind() -> None:
    rows = [
        Row("a", "?", "yes", "Yes", "faithful"),
        Row("a", "?", "yes", "No", "hallucinated"),
        Row("a", "?", "yes", "Hm", None),
        Row("b", "?", "yes", "Yes", "faithful"),
        Row("b", "?", "yes", "Hm", None),
    ]
    decided = (False, False, None, None, True)
    scores = [Score(str(i), says, "x", "") for i, says in enumerate(decided)]
    lines = [line.split() for line in table(rows, scores).splitlines()]
    assert lines == [
        ["kind", "rows", "right", "wrong", "left"],
        ["a", "3", "2", "1", "0"],
        ["b", "2", "0", "1", "1"],
        ["all", "5", "2", "2", "1"],
    ]
