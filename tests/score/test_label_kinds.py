"""Answers of every kind that a rule once misread, with a reader's verdict.

``label_cases.jsonl`` holds question, truth, answer and what a careful reader says: H hallucinated,
F faithful, U cannot be told. No verdict may be another than the reader's; what the rules leave
unscorable is counted, so that it does not grow unseen.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmscope.schema import Answered
from vlmscope.score import Auto, read_code

CASES = Path(__file__).parent / "label_cases.jsonl"
LEFT = {
    "affirming and denying sentences": 3,
    "denial in other words": 4,
    "forms and synonyms": 2,
    "further sentences, open": 4,
    "loser of a comparison": 1,
    "number forms": 1,
    "sentences of HaloQuest": 2,
    "sentences of MathVista": 1,
    "word used elsewhere": 2,
    "zero = none": 3,
}
"""Decidable cases of each kind that the rules leave, at most."""


def read_cases() -> dict[str, list[dict[str, str]]]:
    kinds: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in CASES.read_text("utf-8").splitlines():
        case = json.loads(line)
        kinds[case["kind"]].append(case)
    return kinds


KINDS = read_cases()


def verdicts(rows: list[tuple[str, str, str]]) -> list[str]:
    """The verdicts on questions, truths and answers."""
    answered = [Answered(str(n), q, answer, truth) for n, (q, truth, answer) in enumerate(rows)]
    letter = {True: "H", False: "F", None: "U"}
    return [letter[score.hallucinated] for score in Auto()(answered)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_verdict_is_another_than_the_readers(kind: str) -> None:
    cases = KINDS[kind]
    found = verdicts([(c["question"], c["ground_truth_answer"], c["answer"]) for c in cases])
    wrong = [
        (case, verdict)
        for case, verdict in zip(cases, found, strict=True)
        if verdict not in ("U", case["reader"])
    ]
    left = sum(v == "U" != case["reader"] for case, v in zip(cases, found, strict=True))
    assert not wrong
    assert left <= LEFT.get(kind, 0), f"{left} of {len(cases)} left"


def test_every_kind_has_cases_that_are_decided_either_way() -> None:
    assert len(KINDS) >= 15
    for kind, cases in KINDS.items():
        assert len({case["reader"] for case in cases}) > 1, kind
        assert len(cases) >= 7 or kind == "self-correction", kind


OBJECTS = {
    "dog": "dogs", "person": "people", "dining table": "dining tables", "cell phone": "cell phones",
    "hot dog": "hot dogs", "knife": "knives", "vase": "vases", "tv": "tvs", "mouse": "mice",
    "traffic light": "traffic lights", "orange": "oranges", "sheep": "sheep", "skis": "skis",
}  # fmt: skip
QUESTIONS = (
    "Is there a {one} in the image?", "Is there a {one} in this picture? Please answer yes or no.",
    "Does the image contain a {one}?", "Can you see a {one} in the image?",
    "Are there any {many} in the image?",
)  # fmt: skip
THERE = (
    "Yes", "Yes, there is a {one}.", "There is a {one} in the image.", "There are two {many}.",
    "Several {many} are visible in the image.", "A {one} is on the left side of the image.",
    "The image shows a {one}.", "I can see a {one} in the image.", "It does.", "Absolutely.",
    "It looks like there is a {one} in the image.", "**Yes**, there is a {one}.", "Answer: yes",
    "In the picture, there is a {one} next to a wall.", "There is at least one {one}.",
    "User: Is there a {one} in the image?\nAssistant: There is a {one} in the image.",
)  # fmt: skip
NOT_THERE = (
    "No", "No, there is no {one}.", "There are no {many} in the image.", "None.", "Nope.",
    "No {one} is visible in the image.", "A {one} is not present in the image.", "No {many}.",
    "The image does not contain a {one}.", "I don't see any {many}.", "The image lacks a {one}.",
    "The {one} is missing from the image.", "The image is devoid of {many}.", "It does not.",
    "I am unable to find a {one} in the image.", "There does not appear to be a {one}.",
    "The {one} is nowhere to be seen.", "There are zero {many}.", "There isn't a single {one}.",
    "The image shows a street. There is no {one} in it.", "The image shows no {many}.",
)  # fmt: skip


@pytest.mark.parametrize("one", OBJECTS)
def test_sentences_about_what_is_there_are_all_decided(one: str) -> None:
    """POPE in sentences: what a model says, in every form, to a question of every form."""
    rows, wanted = [], []
    for number, form in enumerate((*THERE, *NOT_THERE)):
        question = QUESTIONS[number % len(QUESTIONS)].format(one=one, many=OBJECTS[one])
        for truth in ("yes", "no"):
            rows.append((question, truth, form.format(one=one, many=OBJECTS[one])))
            wanted.append("F" if (truth == "yes") == (form in THERE) else "H")
    found = verdicts(rows)
    assert not [row for row, got, want in zip(rows, found, wanted, strict=True) if got != want]


def test_a_column_of_codes_is_read_as_a_whole() -> None:
    statements = [Answered(str(n), "There is a cup.", "Yes.", str(n % 2)) for n in range(20)]
    code = read_code(statements)
    assert code.summary == "truth 1 = yes, 0 = no in 20 rows"
    assert [s.hallucinated for s in Auto(code=code)(statements)][:2] == [True, False]
    assert {s.hallucinated for s in Auto()(statements)} == {None}
    counts = [Answered(str(n), "How many cups are there?", "One.", str(n % 2)) for n in range(20)]
    assert not read_code(counts).summary
    assert [s.hallucinated for s in Auto(code=read_code(counts))(counts)][:2] == [True, False]


@pytest.mark.parametrize("first", [0, 1])
def test_option_numbers_are_counted_from_where_the_column_says(first: int) -> None:
    question = "Which colour is it?\n(A) red\n(B) blue\n(C) green"
    rows = [Answered(str(n), question, "(B) blue", str(first + n % 3)) for n in range(12)]
    code = read_code(rows)
    assert code.summary == f"truth {first} = the first option in 12 rows"
    assert [s.hallucinated for s in Auto(code=code)(rows)][:3] == [True, False, True]


def test_option_numbers_that_fit_both_ways_are_left() -> None:
    question = "Which colour is it?\n(A) red\n(B) blue\n(C) green"
    rows = [Answered(str(n), question, "(B) blue", str(1 + n % 2)) for n in range(12)]
    code = read_code(rows)
    assert not code.summary
    assert {s.hallucinated for s in Auto(code=code)(rows)} == {None}


PIECES = [
    "a ", "no ", "not ", "(", "(A) ", "User:\n", "$", "1", "yes but ", "\n ", "answer is ", "'",
    "[", "{", "['a', ", "in the image, ", "there is no ", "than ", "or ", "é", "\ud800", "-",
    "choices: ", "half past ", "twenty ", "array(", "<think>", "\\boxed{",
]  # fmt: skip


@pytest.mark.first(3)
@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_take_no_more_than_their_length(piece: str) -> None:
    """Answers, questions and truths of 20,000 characters, on which a pattern might hang."""
    long = piece * (20_000 // len(piece))
    began = time.process_time()
    rows = [
        Answered("answer", "Is there a dog?", long, "yes"),
        Answered("question", long + "?", "Yes, there is a dog.", "yes"),
        Answered("truth", "What is the man holding?", "a cup", long),
    ]
    assert len(list(Auto()(rows))) == 3
    assert time.process_time() - began < 3


texts = st.one_of(
    st.text(),
    st.lists(st.sampled_from([case["answer"] for cases in KINDS.values() for case in cases])).map(
        " ".join
    ),
)


@given(texts, texts, st.one_of(st.none(), texts))
def test_any_text_gets_a_verdict(question: str, truth: str, answer: str | None) -> None:
    [score] = Auto()([Answered("q", question, answer, truth)])
    assert score.evidence


def halves() -> Iterator[tuple[str, str]]:
    for cases in KINDS.values():
        for case in cases:
            yield case["question"], case["answer"]


def test_no_answer_is_hallucinated_that_is_the_truth_itself() -> None:
    rows = [(question, answer, answer) for question, answer in halves() if ";" not in answer]
    assert "H" not in verdicts(rows)
