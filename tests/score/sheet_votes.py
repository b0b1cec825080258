"""Truths that are ten annotators' answers, as VQAv2 and VizWiz have them."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import Case, Family, capital, two, verdict

VOTED = (
    ("Is there a fork on the table?", ("no", "yes"), ("{A}", "{A}.", "{a}")),
    ("Is the stove on?", ("yes", "no"), ("{A}", "{A}.", "The answer is {a}.")),
    ("What color is the wall?", ("white", "beige"), ("{A}", "The wall is {a}.", "It is {a}.")),
    ("How many people are there?", ("3", "4"), ("{a}", "There are {a} people.", "{a} people")),
    ("What is on the plate?", ("pizza", "pasta"), ("{A}", "There is {a} on the plate.", "{a}")),
)


def _votes(rng: Random) -> Case:
    question, values, wordings = rng.choice(VOTED)
    main, minority = two(rng, values)
    votes = rng.choice(({main: 10}, {main: 9, minority: 1}, {main: 9, minority: 1}))
    if "yes" not in values and "3" not in values and rng.random() < 0.3:
        votes = {main: 8, minority: 1, "unanswerable": 1}
    agrees = rng.random() < 0.5
    said = main if agrees else minority
    answer = rng.choice(wordings).format(a=said, A=capital(said))
    return Case(question, truths.annotators(rng, votes), answer, verdict(agrees))


def _votes_shared(rng: Random) -> Case:
    question, (first, second), third, sentence = rng.choice(
        (
            ("What color is the car?", ("silver", "gray"), "red", "The car is {}."),
            ("What is the man drinking?", ("soda", "coke"), "water", "He is drinking {}."),
            ("What is this?", ("remote", "remote control"), "calculator", "This is a {}."),
            ("What kind of dog is this?", ("collie", "sheepdog"), "poodle", "It is a {}."),
        )
    )
    more = rng.randint(4, 6)
    agrees = rng.random() < 0.5
    said = rng.choice((first, second)) if agrees else third
    target = truths.annotators(rng, {first: more, second: 10 - more})
    answer = rng.choice((said, capital(said), sentence.format(said), f"**{capital(said)}**"))
    return Case(question, target, answer, verdict(agrees))


UNANSWERABLE = (
    "unanswerable", "Unanswerable.", "It is not possible to tell from this image.",
    "The image is too blurry to tell.", "This cannot be determined from the image.",
    "I cannot tell what this is from the image.", "The question cannot be answered.",
    "The image does not provide enough information to answer the question.",
)  # fmt: skip


def _votes_unanswerable(rng: Random) -> Case:
    question, answers = rng.choice(
        (
            ("What flavor is this?", ("Vanilla", "It is strawberry yogurt.", "chocolate")),
            ("What color is this shirt?", ("Blue", "The shirt is red.", "green")),
            ("What does the label say?", ('The label says "Milk".', "Tomato soup", "Coca Cola")),
            ("What is this?", ("A can of beans.", "This is a keyboard.", "phone")),
        )
    )
    rest = rng.choice(({}, {}, {"unsuitable image": 1}))
    target = truths.annotators(rng, {"unanswerable": 10 - sum(rest.values()), **rest})
    agrees = rng.random() < 0.5
    answer = rng.choice(UNANSWERABLE if agrees else answers)
    return Case(question, target, answer, verdict(agrees))


FAMILIES = (
    Family("annotators: majority", _votes),
    Family("annotators: two answers", _votes_shared),
    Family("annotators: unanswerable", _votes_unanswerable),
)
