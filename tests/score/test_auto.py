"""The default scorer: who decides what, and the judge for the rest."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Iterable, Iterator
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.demo_world.verdict import judge as demo_verdict
from vlmscope import score as package
from vlmscope.schema import Answered, Score
from vlmscope.score import Auto, Exact, Scorer, Vqa, YesNo


class FakeJudge:
    """Says hallucinated to every row but the ones about the weather; remembers what it read."""

    name = "judge"

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        for row in rows:
            self.read.append(row.id)
            verdict = None if "weather" in row.question else True
            yield Score(row.id, verdict, self.name, "as I see it")


ROWS = [
    Answered("yes", "Is there a cup?", "Yes.", "y, e, s"),
    Answered("hedge", "Is there a cup?", "Maybe.", "Yes"),
    Answered("open", "What is it?", "a dog", "cat"),
    Answered("long", "What is it?", "A bright day.", "The sun is out and shines on a field."),
    Answered("weather", "How is the weather?", "It is mild, I think.", "sunny"),
]


def test_the_truth_chooses_the_scorer() -> None:
    scores = {score.id: score for score in Auto()(ROWS)}
    assert list(scores) == [row.id for row in ROWS]
    assert [score.scorer for score in scores.values()] == ["yesno", "yesno", "vqa", "vqa", "vqa"]
    outcomes = [score.outcome for score in scores.values()]
    assert outcomes == ["faithful", "unscorable", "hallucinated", "unscorable", "unscorable"]


def test_the_judge_gets_what_the_rules_leave_in_order() -> None:
    judge = FakeJudge()
    scores = {score.id: score for score in Auto(judge)(iter(ROWS))}
    assert list(scores) == [row.id for row in ROWS]
    assert judge.read == ["hedge", "long", "weather"]
    assert [score.scorer for score in scores.values()] == [
        "yesno",
        "judge",
        "vqa",
        "judge",
        "judge",
    ]
    assert scores["weather"].outcome == "unscorable"
    assert scores["hedge"].outcome == "hallucinated"


def test_scorers_are_scorers() -> None:
    assert package.__all__ == sorted(package.__all__)
    assert all(isinstance(s, Scorer) for s in (Auto(), YesNo(), Exact(), Vqa(), FakeJudge()))


texts = st.one_of(st.text(), st.sampled_from(["Yes", "no.", "red", "There is no cup.", "y, e, s"]))


@given(st.lists(st.tuples(texts, texts, texts), max_size=6), st.booleans())
def test_every_row_gets_one_score_in_order(drawn: list[tuple[str, str, str]], judged: bool) -> None:
    rows = [Answered(str(i), *texts) for i, texts in enumerate(drawn)]
    scores = list(Auto(FakeJudge() if judged else None)(rows))
    assert [score.id for score in scores] == [row.id for row in rows]
    assert all(score.evidence for score in scores)


def demo_questions() -> list[dict[str, str]]:
    text = (files("vlmscope") / "demo" / "questions.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.first(1)
@pytest.mark.parametrize("shift", [0, 1, 7])
def test_the_forms_of_the_demo_are_judged_as_its_own_rule_does(shift: int) -> None:
    """Every demo question with a true answer to itself, and to another one of its category."""
    for kind in sorted({question["category"] for question in demo_questions()}):
        rows = [question for question in demo_questions() if question["category"] == kind]
        answered = [
            Answered(own["question_id"], own["question"], said, own["gt_answer"])
            for own, other in zip(rows, rows[shift:] + rows[:shift], strict=True)
            if (said := other["gt_answer"].split("; ")[0 if shift else -1])
        ]
        for row, score, own in zip(answered, Auto()(answered), rows, strict=True):
            right, _ = demo_verdict(row.answer or "", row.target, own["answer_type"])
            assert score.hallucinated in (None, not right), (row, score)
            assert shift or score.hallucinated is False, (row, score)


SAID = (
    "in the image picture . , no yes a cat red three 3 not is there of left right visible - wait "
    "because than dog and or ( ) A B answer : option it I think"
)
WORDS = tuple(SAID.split())
ASKED = (
    ("What is it?", "red"), ("How many cats are there?", "3"), ("Is there a cat?", "no"),
    ("Where is the cat?", "left"), ("Which? (A) cat (B) dog", "B"),
    ("Is the cat left or right?", "right"), ("What animals are there?", "['cat', 'dog']"),
    ("What is written there?", "?"),
)  # fmt: skip


def test_any_words_get_a_verdict() -> None:
    """What is cut off by a small limit of tokens too: it is often a phrase without its end."""
    rng = random.Random(0)  # noqa: S311  no secret is drawn
    for _ in range(2000):
        question, truth = rng.choice(ASKED)
        said = " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 9)))
        [score] = Auto()([Answered("q", question, said, truth)])
        assert score.evidence
    for said in ("In the image", "In this picture,", "Visible in the image."):
        for question, truth in ASKED[:2]:
            [score] = Auto()([Answered("q", question, said, truth)])
            assert score.outcome == "unscorable", said


def test_white_space_takes_no_time() -> None:
    start = time.process_time()
    for space in (" ", "\n", "\t"):
        list(Auto()([Answered("q", "What is it?", space * 20_000 + "red", "red")]))
    assert time.process_time() - start < 1
