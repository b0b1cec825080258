"""Open questions: the normal form, irregular truths, and the rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmscope.schema import Answered, Score
from vlmscope.score import Exact, Vqa, accepted_answers, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Cat.", "cat"), ("two", "2"), ("Zero!", "0"), ("none", "0"), ("twelve", "12"),
        ("don't", "dont"), ("isn’t", "isnt"), ("black-and-white", "black and white"),
        ("1,000", "1000"), ("3.0", "3"), ("grey", "gray"), ("a  cup\nof tea", "cup of tea"),
        ('"stop"', "stop"), ("u.s.", "us"),
    ],
)  # fmt: skip
def test_the_same_in_normal_form(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("its", "it's"), ("2.5", "25"), ("-5", "5"), ("cup", "cups"), ("a", "b"), ("well", "we'll")],
)
def test_not_the_same_in_normal_form(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("target", "answers"),
    [
        ("red", ("red",)),
        ("3; three; There are three cups.", ("3", "three", "There are three cups.")),
        ("red;;red; blue ", ("red", "blue")),
        ("['a', \"it's\"]", ("a", "it's")),
        ('["a", "b"]', ("a", "b")),
        ("['red' 'dark red']", ("red", "dark red")),
        ("[red, blue]", ("red", "blue")),
        ('[{"answer": "net", "answer_id": 1}, {"answer": "nets"}]', ("net", "nets")),
        ("[1, 2]", ("1", "2")),
        ("y, e, s", ("yes",)),
        ("N, O", ("no",)),
        ("3, 5", ("3, 5",)),
        ("A, C", ("A, C",)),
        ("tree, sky", ("tree, sky",)),
        ("No", ("No",)),
        *((empty, ()) for empty in ("", "  ", "nan", "NaN", "null", "<NA>", ";", "[]", "[null]")),
        (None, ()),
        (float("nan"), ()),
    ],
)
def test_accepted_answers(target: object, answers: tuple[str, ...]) -> None:
    assert accepted_answers(target) == answers


DENIAL = "There is no kettle in the picture."
RULES = [
    # equal
    ("What is it?", "The cup.", "cup; mug", "faithful", "is the truth"),
    ("How many?", "Three", "3", "faithful", "is the truth"),
    ("What colour is it?", DENIAL, DENIAL + "; The picture is in black and white.", "faithful",
     "is the truth"),
    # a short truth in an answer
    ("What colour is the cup?", "The cup is red.", "red", "faithful", "red"),
    ("How many cups?", "There are two cups.", "2", "faithful", "2"),
    ("Where?", "It is on the kitchen table.", "kitchen table", "faithful", "kitchen table"),
    ("What colour is it?", "It is not red.", "red", "unscorable", "negates"),
    ("What colour is it?", "It isn't red.", "red", "unscorable", "negates"),
    ("What colour is it?", "It might be red.", "red", "unscorable", "hedges"),
    ("What colour is it?", "It is red or blue.", "red", "unscorable", "rival"),
    ("How many dogs?", "Two dogs and three cats.", "2", "faithful", "number 2"),
    ("How many dogs?", "There are at least two dogs.", "2", "unscorable", "inexact"),
    ("Is it left or right?", "It is left, or right.", "left", "unscorable", "rival"),
    ("What is it?", "It is " + "very " * 40 + "red", "red", "unscorable", "long answer"),
    ("What is it?", "It is a very tall redwood.", "red", "unscorable", "judge"),
    # denials and refusals
    ("What colour is the bus?", "There is no bus in the picture.", "orange; The bus is orange.",
     "hallucinated", "denies what is there"),
    ("How many benches?", "There are no benches.", "1; one", "hallucinated", "denies"),
    ("How many benches?", "There are no benches.", "0", "faithful", "0"),
    ("How many benches?", "There is no bench.", "0; zero; There are no benches.", "faithful",
     "denies what the truth denies"),
    ("What colour is the bus?", "There is no car.", "orange", "unscorable", "something else"),
    ("What colour is the kettle?", "I don't see a kettle.", DENIAL, "faithful", "truth denies"),
    ("What colour is the kettle?", "No kettle is visible.", DENIAL, "faithful", "truth denies"),
    ("What is the dog doing?", "There is no dog.", "The dog isn't visible", "faithful", "denies"),
    ("What is the dog doing?", "There is no dog.", "It shows a cat in a field.", "unscorable",
     "something else"),
    ("What colour is the kettle?", "There is no cup.", DENIAL, "unscorable", "something else"),
    ("Who owns it?", "I cannot tell.", "The picture does not show that.", "faithful", "told"),
    ("Who owns it?", "I cannot tell.", "the man", "unscorable", "refuses"),
    ("Who owns it?", "Not enough information", "the man", "unscorable", "refuses"),
    # claims against a denial
    ("What colour is the kettle?", "The kettle is white.", DENIAL, "hallucinated", "claims"),
    ("What colour is the kettle?", "White.", DENIAL, "hallucinated", "claims"),
    ("What colour is the kettle?", "Yes.", DENIAL, "unscorable", "judge"),
    ("What colour is the kettle?", "I see a cup, not a kettle.", DENIAL, "unscorable", "negates"),
    ("What colour is the kettle?", "The picture shows a garden.", DENIAL, "unscorable", "judge"),
    ("How many trees?", "There is one tree.", "0; zero; There are no trees.", "hallucinated", ""),
    # rivals
    ("What colour is the cup?", "The cup is blue.", "red; The cup is red.", "hallucinated", "blue"),
    ("Is it in the left or the right half?", "It is in the left half.", "right", "hallucinated",
     "left"),
    ("How many cups?", "There is one cup.", "2; two", "hallucinated", "1"),
    ("How many cups?", "There are several cups.", "2; two", "unscorable", "no number"),
    ("How many people?", "A group of people with one man.", "5", "unscorable", "judge"),
    ("How many people?", "It is one of them.", "1", "unscorable", "another role"),
    ("How many people?", "There is one.", "1", "faithful", "1"),
    ("What time is it?", "It is 11:30.", "10:30", "hallucinated", "11:30"),
    ("What time is it?", "The clock shows 10:30.", "10:30", "faithful", "10:30"),
    ("What is left of the red car?", "The red car is next to a bus.", "blue bus", "unscorable",
     "judge"),
    ("What colour is it?", "It is a dark maroon shade.", "red", "unscorable", "overlaps"),
    ("What colour is it?", "It is wooden.", "red", "unscorable", "judge"),
    # short against short
    ("What is it?", "a dog", "cat", "hallucinated", "dog"),
    ("How many?", "4", "5", "hallucinated", "4"),
    ("How many?", "Several", "5", "unscorable", "no number"),
    ("What is it?", "dogs", "dog", "faithful", "dog"),
    ("What is it?", "a dog collar", "dog", "hallucinated", "dog collar"),
    ("What is it?", "Nothing", "dog", "unscorable", "judge"),
    ("What is it?", "Yes", "dog", "unscorable", "open question"),
    # options
    ("Which?", "(B)", "B", "faithful", ""),
    ("Which?", "B. a dog", "B", "faithful", "option"),
    ("Which?", "C", "A", "hallucinated", "option"),
    ("Which?", "a dog", "A", "unscorable", "no option"),
    # for a judge
    ("What does it say?", "stop", "It tells the driver to stop here.", "unscorable", "judge"),
    ("What is it?", "cat", "nan", "unscorable", "no ground truth"),
    ("What is it?", "cat", "?!", "unscorable", "no ground truth"),
    ("What is it?", " ", "cat", "unscorable", "no answer"),
    ("What is it?", None, "cat", "unscorable", "no answer"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer", "target", "outcome", "why"), RULES)
def test_the_rules(question: str, answer: str | None, target: str, outcome: str, why: str) -> None:
    [found] = Vqa()([Answered("q", question, answer, target)])
    assert found.outcome == outcome, found
    assert why in found.evidence, found
    assert found.scorer == "vqa"


@pytest.mark.parametrize(
    ("answer", "target", "outcome"),
    [
        ("Two.", "2", "faithful"), ("The cup is red.", "red", "hallucinated"),
        ("", "red", "unscorable"), ("red", "", "unscorable"), ("mug", "cup; mug", "faithful"),
    ],
)  # fmt: skip
def test_exact(answer: str, target: str, outcome: str) -> None:
    [found] = Exact()([Answered("q", "What is it?", answer, target)])
    assert (found.outcome, found.scorer) == (outcome, "exact")
    assert found.evidence


pieces = st.sampled_from(
    [*"[]'\"(),.;A2", "red", "blue", "three", "there", "is", "no", "not", "cup", "the", "maybe"]
)
texts = st.one_of(st.text(), st.lists(pieces).map(" ".join))
rows = st.builds(
    Answered, st.uuids().map(str), texts, st.one_of(st.none(), texts), texts, st.just({})
)


@given(st.lists(rows, max_size=5))
def test_every_row_gets_one_score_in_order(given_rows: list[Answered]) -> None:
    for scorer in (Exact(), Vqa()):
        scores: list[Score] = list(scorer(given_rows))
        assert [score.id for score in scores] == [row.id for row in given_rows]
        assert all(score.evidence for score in scores)


@given(texts)
def test_an_answer_equal_to_the_truth_is_faithful(text: str) -> None:
    [score] = Vqa()([Answered("q", "?", text, text.replace(";", " "))])
    assert score.hallucinated is not True
