"""Questions are true of their scene, and tempting in the way POPE means."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.demo_world.bundle import BUNDLED, TRAINING, questions_about
from tools.demo_world.questions import (
    CATEGORIES,
    Mix,
    Question,
    absent_kind,
    ask,
)
from tools.demo_world.scenes import NUMBERS, Scene, company, description, make_scene, scenes
from tools.demo_world.world import COLOURS, KINDS

ANY = Mix(weights={}, yes_share=0.5, tempting_share=0.5)


def named(text: str, names: object) -> list[str]:
    """The names that occur in a text as words, in its order."""
    return re.findall(rf"\b({'|'.join(names)})\b", text)  # type: ignore[arg-type]


def verdict(scene: Scene, question: Question) -> str | None:
    """Work the right answer out anew from the question's words alone."""
    kind, *others = named(question.text, KINDS) or [""]
    counts, colours = scene.counts(), named(question.text, COLOURS)
    if question.category.startswith("existence-"):
        return "Yes" if counts[kind] else "No"
    if question.category == "colour":
        return scene.only(kind).colour
    if question.category == "colour-check":
        return "Yes" if scene.only(kind).colour == colours[-1] else "No"
    if question.category == "count":
        (noun,) = (k for k in KINDS.values() if re.search(rf"\b{k.plural}\b", question.text))
        return str(counts[noun.name])
    if question.category == "relation":
        one, other = scene.only(kind), scene.only(others[0])
        holds = {
            "to the left of": one.x < other.x, "to the right of": one.x > other.x,
            "above": one.y < other.y, "below": one.y > other.y,
        }  # fmt: skip
        (said,) = (words for words in holds if words in question.text)
        return "Yes" if holds[said] else "No"
    if question.category == "position":
        thing = scene.only(kind)
        halves = {
            "left": thing.x < scene.width / 2, "right": thing.x > scene.width / 2,
            "upper": thing.y < scene.height / 2, "lower": thing.y > scene.height / 2,
        }  # fmt: skip
        said, *or_else = named(question.text, halves)
        if or_else:
            return said if halves[said] else or_else[0]
        return "Yes" if halves[said] else "No"
    return None


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), category=st.sampled_from(CATEGORIES))
def test_the_accepted_answer_is_true_of_the_scene(seed: int, category: str) -> None:
    rng = random.Random(seed)  # noqa: S311
    scene = make_scene(rng)
    question = ask(scene, category, rng, ANY)
    if question is None:
        return
    assert question.category == category
    expected = verdict(scene, question)
    if expected is not None:
        assert question.accepted[0] == expected
    if category in ("false-premise", "insufficient-context"):
        absent = named(question.text, KINDS)
        present = [kind for kind in absent if scene.counts()[kind]]
        assert bool(present) == (category == "insufficient-context")
    first = question.answer.split(",")[0].rstrip(".").lower()
    assert question.answer_type != "yes/no" or first == question.accepted[0].lower()


def test_no_colour_is_asked_for_that_cannot_be_told() -> None:
    rng = random.Random(0)  # noqa: S311
    grey = [scene for scene in scenes(0, "train", 400) if scene.look.grey]
    assert len(grey) > 10
    for scene in grey:
        assert ask(scene, "colour", rng, ANY) is None
        assert ask(scene, "colour-check", rng, ANY) is None
        assert not named(description(scene), COLOURS)
    told = [ask(scene, "insufficient-context", rng, ANY) for scene in grey]
    assert "The picture is in black and white." in {
        question.answer for question in told if question
    }


@pytest.mark.parametrize("how", ["random", "popular", "adversarial", "foreign"])
def test_absent_objects_are_absent(how: str) -> None:
    rng = random.Random(1)  # noqa: S311
    for scene in scenes(0, "train", 300):
        kind = absent_kind(scene, how, rng)
        assert not scene.counts()[kind]
        assert how != "foreign" or KINDS[kind].place != scene.place


def test_adversarial_objects_keep_company_with_what_is_there() -> None:
    rng = random.Random(2)  # noqa: S311
    together = company()

    def closeness(how: str) -> float:
        pairs = [
            sum(together[absent_kind(scene, how, rng), here] for here in scene.counts())
            for scene in scenes(0, "train", 400)
        ]
        return sum(pairs) / len(pairs)

    assert closeness("adversarial") > 3 * closeness("random") > 3 * closeness("foreign")


def test_training_seldom_punishes_a_habit_and_the_bundle_often_does() -> None:
    rng = random.Random(3)  # noqa: S311
    tempting = {}
    for name, mix in (("training", TRAINING), ("bundled", BUNDLED)):
        expected = total = 0
        for scene in scenes(0, "train", 300):
            for question in questions_about(scene, 5, rng, mix.weights, mix):
                absent = [k for k in named(question.text, KINDS) if not scene.counts()[k]]
                total += len(absent)
                expected += sum(KINDS[kind].place == scene.place for kind in absent)
        tempting[name] = expected / total
    assert tempting["bundled"] > 0.4 > 0.1 > tempting["training"]


def test_a_caption_names_everything_once() -> None:
    for scene in scenes(0, "train", 200):
        caption = description(scene)
        for kind, count in scene.counts().items():
            noun = KINDS[kind].plural if count > 1 else kind
            assert re.search(rf"\b{noun}\b", caption), (noun, caption)
            assert count == 1 or f"{NUMBERS[count]} {noun}" in caption


def test_questions_about_a_scene_differ_and_come_in_many_kinds() -> None:
    rng = random.Random(4)  # noqa: S311
    seen: Counter[str] = Counter()
    for scene in scenes(0, "train", 200):
        questions = list(questions_about(scene, 6, rng, BUNDLED.weights, BUNDLED))
        assert len({question.text for question in questions}) == 6
        seen.update(question.category for question in questions)
    assert set(seen) == set(CATEGORIES)
