"""Truths that are the number or the letter of an option, as in multiple-choice benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from store_support import make_capture, make_manifest
from vlmscope.choice_columns import choice_columns
from vlmscope.labelling import label
from vlmscope.schema import Answered, Sample
from vlmscope.score import Auto, Exact, Scorer, YesNo, read_code, read_option_targets
from vlmscope.score.parsing.options import options_of
from vlmscope.store import RunWriter, open_run

Row = tuple[str, str, str, Mapping[str, Any]]
"""Question, answer, truth, the other columns."""

CUPS = {"choices": ["one cup", "two boats"]}
NUMBERS = {"choices": ["2", "3", "5"]}
WHICH = "Which is there?"
LISTED = f"{WHICH}\nA. one cup\nB. two boats"
ZERO: Row = (WHICH, "One cup.", "0", CUPS)
"""A row that says from where a column counts."""


def labelled(rows: list[Row], scorer: Scorer | None = None) -> tuple[str, list[str]]:
    """Return the outcomes of rows, and why those without a label have none."""
    plain = [Answered(f"q{n}", *row) for n, row in enumerate(rows)]
    truths = read_option_targets(plain)
    read = list(map(truths.resolve, plain))
    scores = list((scorer or Auto(code=read_code(read)))(read))
    why = "; ".join(dict.fromkeys(s.evidence for s in scores if s.hallucinated is None))
    return why, [score.outcome for score in scores]


F, H, U = "faithful", "hallucinated", "unscorable"


@pytest.mark.parametrize("question", [WHICH, LISTED])
def test_a_number_is_read_through_the_choices(question: str) -> None:
    answers = ["Two boats.", "B", "It shows two boats.", "One cup", "A. one cup"]
    rows: list[Row] = [ZERO, *((question, answer, "1", CUPS) for answer in answers)]
    assert labelled(rows) == ("", [F, F, F, F, H, H])
    kettle: list[Row] = [ZERO, (question, "A kettle.", "0", CUPS)]
    assert labelled(kettle)[1] == [F, U], "no option was chosen"


@pytest.mark.parametrize(
    ("other", "truths"),
    [
        ({"choices": ["red", "blue", "green"]}, "012"),
        ({"options": "['red', 'blue', 'green']"}, "012"),
        ({"options": '["red", "blue", "green"]'}, "012"),
        ({"options": "['red' 'blue'\n 'green']"}, "012"),
        ({"Options": ["A. red", "B. blue", "C. green"]}, "ABC"),
        ({"options": "(a) red (b) blue (c) green"}, "abc"),
        ({"choices": "red|blue|green"}, "012"),
        ({"choices": {"A": "red", "B": "blue", "C": "green"}}, "ABC"),
        ({"choices": {"text": ["red", "blue", "green"], "label": ["A", "B", "C"]}}, "ABC"),
        ({"choices": ["red", "blue", "green", None]}, "012"),
        ({"A": "red", "B": "blue", "C": "green", "D": None, "hint": "x"}, "ABC"),
        ({"A": "red", "B": "blue", "C": "green", "D": "nan"}, ["(A)", "B.", "[c]"]),
        ({"choice_a": "red", "choice_b": "blue", "choice_c": "green"}, "ABC"),
        ({"option_A": "red", "option_B": "blue", "option_C": "green"}, "012"),
        ({"option1": "red", "option2": "blue", "option3": "green"}, "123"),
        ({"option 0": "red", "option 1": "blue", "option 2": "green"}, ["0.0", "1.0", "2.0"]),
        ({"choices": ["red", "blue", "green"]}, "123"),
    ],
)
def test_every_form_of_options(other: Mapping[str, Any], truths: list[str]) -> None:
    rows: list[Row] = [("What colour is it?", "Blue.", truth, other) for truth in truths]
    assert labelled(rows) == ("", [H, F, H])
    shown = options_of(other)
    assert shown is not None
    asked = "What colour is it?\n" + "\n".join(
        f"{letter}. {text}" for letter, text in zip("ABC", shown.texts, strict=True)
    )
    rows = [(asked, answer, truth, other) for truth, answer in zip(truths, "ABB", strict=True)]
    assert labelled(rows) == ("", [F, F, H])


def test_a_number_that_may_be_a_count_is_unscorable() -> None:
    alone: Row = ("How many are there?", "5", "2", NUMBERS)
    for rows in ([alone], [alone, ("How many are there?", "2", "2", NUMBERS)]):
        why, found = labelled(rows)
        assert set(found) == {U}
        assert why.startswith("a number that may be an option's or its text: truth")
    assert labelled([alone, ("How many are there?", "2", "2", NUMBERS), ZERO])[1] == [F, H, F]
    texts: Row = (WHICH, "one cup", "one cup", CUPS)
    assert labelled([alone, ("How many are there?", "2", "2", NUMBERS), texts])[1] == [H, F, F]
    both = labelled([texts, ZERO, alone])
    assert both[1] == [F, U, U], "the column has both"
    for other in ({}, {"choices": []}, {"choices": ["x"]}, {"choices": None}, {"A": "x", "C": "y"}):
        assert labelled([("How many are there?", "Two", "2", other)])[1] == [F], other
    far: Row = ("How many are there?", "12", "12", CUPS)
    assert labelled([far])[1] == [F], "no option's number"


def test_numbers_that_count_from_nowhere_are_unscorable() -> None:
    rows: list[Row] = [(WHICH, "Two boats.", "1", CUPS)]
    assert labelled(rows) == ('an option\'s number, counted from 0 or from 1: truth "1"', [U])
    assert labelled([(LISTED, "Two boats.", "1", CUPS)])[1] == [U]
    mixed: list[Row] = [ZERO, (WHICH, "Two boats.", "2", CUPS)]
    assert labelled(mixed)[1] == [U, U], "0 counts from 0, and 2 of 2 from 1"
    broken: list[Row] = [ZERO, (WHICH, "Two boats.", "7", CUPS)]
    assert labelled(broken)[1][0] == U


def test_an_answer_outside_options_that_were_not_shown_is_not_hallucinated() -> None:
    rows: list[Row] = [("Which is a mammal?", "dog", "B", {"options": ["trout", "whale"]})]
    why, found = labelled(rows)
    assert found == [U]
    assert "which the question does not list" in why


def test_options_that_look_like_lists_and_gaps() -> None:
    other = {"choices": ["red; blue", "[1, 2]", "None"]}
    rows: list[Row] = [
        ("Which?", "red; blue", "0", other), ("Which?", "red", "0", other),
        ("Which?", "[1, 2]", "1", other), ("Which?", "None", "2", other),
    ]  # fmt: skip
    assert labelled(rows)[1] == [F, U, F, F]


def test_every_scorer_reads_them() -> None:
    rows: list[Row] = [
        ZERO,
        (WHICH, "two boats", "1", CUPS),
        (WHICH, "B", "1", CUPS),
        (WHICH, "one cup", "1", CUPS),
    ]
    assert labelled(rows, Exact())[1] == [F, F, F, H]
    sides: list[Row] = [("Is it?", "Yes.", truth, {"choices": ["no", "yes"]}) for truth in "01"]
    assert labelled(sides, YesNo())[1] == [H, F]
    assert labelled([(WHICH, "x", "1", CUPS)], YesNo())[0].startswith("an option's number")


def test_numbers_of_options_that_the_question_lists_alone() -> None:
    """Options that are numbers themselves do not leave the whole column unread."""

    def question(options: list[str]) -> str:
        return "Which?\n" + "\n".join(f"{a}. {b}" for a, b in zip("ABC", options, strict=True))

    texts, numbers = question(["a cup", "a boat", "a hat"]), question(["2", "3", "5"])
    rows: list[Row] = [(texts, "B", str(n % 3), {}) for n in range(10)]
    assert labelled([*rows, (numbers, "5", "2", {})])[1][-1] == F
    values: list[Row] = [(numbers, "5", str(2 + n % 2), {}) for n in range(12)]
    assert set(labelled(values)[1]) == {H}


def test_a_run_keeps_its_options(tmp_path: Path) -> None:
    rows = [("Two boats.", "1"), ("One cup.", "1"), ("A cup", "0")]
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add([
            make_capture(n, answer=answer, sample=Sample(f"q{n}", "a", WHICH, truth, CUPS, "a"))
            for n, (answer, truth) in enumerate(rows)
        ])  # fmt: skip
    found = label(open_run(tmp_path / "run"))
    assert [score.hallucinated for score in found.values()][:2] == [False, True]


def test_columns_that_hold_no_options() -> None:
    for names in (["a", "question"], ["B", "C"], ["answer_1", "answer_2"], ["option_b"], ["A"]):
        assert not choice_columns(names).each
    assert choice_columns(["choice_b", "choice_a", "A", "B", "C"]).each == ("A", "B", "C")
