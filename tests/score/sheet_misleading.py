"""Answers in which the truth stands in another role: a neighbor, a loser, a longer name."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import COLORED, COLORS, Case, Family, a, capital, two, verdict


def _color_of_another_thing(rng: Random) -> Case:
    thing, neighbor = two(rng, COLORED)
    said, other = two(rng, COLORS)
    agrees = rng.random() < 0.5
    target = truths.words(rng, said if agrees else other)
    question, answer = rng.choice(
        (
            (
                f"What color is the {thing}?",
                f"The {thing} is {said} and the {neighbor} is {other}.",
            ),
            (f"What color is the {thing}?", f"{capital(said)}. The {neighbor} is {other}."),
            (
                f"What color is the {thing}?",
                f"The {other} {neighbor} is next to {a(said)} {thing}.",
            ),
            (
                f"What color is the {thing} next to the {other} {neighbor}?",
                f"The {thing} next to the {other} {neighbor} is {said}.",
            ),
            (
                f"What color is the {thing}?",
                f"The {thing} is {said}, while the {neighbor} beside it is {other}.",
            ),
            (
                f"What color is the {thing}?",
                f"While the {neighbor} is {other}, the {thing} is {said}.",
            ),
            (f"What color is the {thing}?", f"The {thing} is {said}, not {other}."),
            (
                f"Is the {thing} next to the {neighbor} {said} or {other}?",
                f"The {thing} next to the {neighbor} is {said}.",
            ),
        )
    )
    return Case(question, target, answer, verdict(agrees))


COMPARED = (
    ("Which is taller, the {} or the {}?", "taller", "shorter", ("tree", "lamp", "tower", "pole")),
    (
        "Which is heavier, the {} or the {}?",
        "heavier",
        "lighter",
        ("box", "bag", "crate", "barrel"),
    ),
    ("Which car is faster, the {} one or the {} one?", "faster", "slower", COLORS),
    ("Who is older, {} or {}?", "older", "younger", ("Anna", "Carl", "Maria", "Tom", "Lena")),
    ("Which crop costs more, {} or {}?", "more expensive", "cheaper", ("rice", "corn", "wheat")),
)


def _comparison(rng: Random) -> Case:
    asked, more, less, values = rng.choice(COMPARED)
    winner, loser = two(rng, values)
    agrees = rng.random() < 0.5
    first, second = (winner, loser) if rng.random() < 0.5 else (loser, winner)
    question = asked.format(first, second)
    article = "the " if "the {}" in asked else ""
    one = " car" if "car" in asked else ""
    w, lo = f"{article}{winner}{one}", f"{article}{loser}{one}"
    answer = rng.choice(
        (
            f"{capital(w)} is {more} than {lo}.",
            f"{capital(w)} is {more} than {lo}.",
            f"Compared to {lo}, {w} is {more}.",
            f"{capital(w)}, not {lo}.",
            f"{capital(w)} is {more}, while {lo} is {less}.",
            f"{capital(w)} is {more}.",
            f"{capital(w)}",
            f"{capital(lo)} is {less} than {w}.",
            f"{capital(lo)} is not as {_positive(more)} as {w}.",
        )
    )
    target = truths.words(rng, winner if agrees else loser)
    return Case(question, target, answer, verdict(agrees))


def _positive(comparative: str) -> str:
    """The adjective that ``comparative`` comes from.

    >>> _positive("heavier"), _positive("more expensive")
    ('heavy', 'expensive')
    """
    if comparative.startswith("more "):
        return comparative.removeprefix("more ")
    stem = comparative.removesuffix("er")
    return stem[:-1] + "y" if stem.endswith("i") else stem


LONGER = (
    ("What is the man standing next to?", "bus", "He is standing next to a bus stop."),
    ("What is on the plate?", "apple", "There is a pineapple on the plate."),
    ("What is on the plate?", "egg", "An eggplant"),
    ("What animal is in the cage?", "cat", "There is a caterpillar in the cage."),
    ("What is the girl holding?", "ball", "She is holding a balloon."),
    ("What is on the table?", "cup", "A cupcake"),
    ("What is the man sitting under?", "tree", "He is sitting under a street lamp."),
    ("What is on the desk?", "key", "A keyboard"),
    ("What is in the garage?", "car", "A cart"),
    ("Which city is named on the map?", "York", "The map shows New York."),
    ("What is the man pointing at?", "fire", "He is pointing at a fire hydrant."),
    ("What is on the bread?", "butter", "There is peanut butter on the bread."),
    ("What is on the shelf?", "book", "A bookend"),
    ("Which sport is shown?", "tennis", "The sport is table tennis."),
    ("What is the name of the shop?", "Green", 'The shop is called "Greenfield".'),
)  # fmt: skip
"""Question, truth, an answer in which the truth is part of a longer name."""


SAME_NAME = (
    ("What is the man standing next to?", "bus", "He is standing next to a bus."),
    ("What is on the plate?", "apple", "There is an apple on the plate."),
    ("What animal is in the cage?", "cat", "There is a cat in the cage."),
    ("What is the girl holding?", "ball", "She is holding a ball."),
    ("Which city is named on the map?", "New York", "The map shows New York."),
    ("What is the man pointing at?", "fire hydrant", "He is pointing at a fire hydrant."),
    ("Which sport is shown?", "table tennis", "The sport is table tennis."),
    ("What is on the bread?", "peanut butter", "There is peanut butter on the bread."),
)


def _longer_name(rng: Random) -> Case:
    agrees = rng.random() < 0.5
    question, true, answer = rng.choice(SAME_NAME if agrees else LONGER)
    return Case(question, truths.words(rng, true), answer, verdict(agrees))


OTHER_SENSE = (
    ("Which way does the arrow point?", "right", "left", "The right answer is {}."),
    ("Which way does the arrow point?", "right", "left", "You are right, it points {}."),
    ("How many dogs are there?", "1", "two", "One can see {} dogs in the image."),
    ("How many dogs are there?", "1", "three", "One of the dogs is brown. There are {} dogs."),
    ("How many boats are there?", "2", "four", "The two-story house is next to {} boats."),
    ("What fruit is in the bowl?", "orange", "banana", "There is a {} in the orange bowl."),
    ("What fruit is in the bowl?", "orange", "pear", "The orange bowl holds a {}."),
    ("What is the cup made of?", "glass", "plastic", "The cup next to the glass is made of {}."),
    ("What month is on the calendar?", "May", "June", "The calendar may be old, but it shows {}."),
)
"""Question, a word that the wording uses in another sense, what is said, and the wording."""


def _other_sense(rng: Random) -> Case:
    question, elsewhere, said, wording = rng.choice(OTHER_SENSE)
    agrees = rng.random() < 0.5
    target = truths.words(rng, said if agrees else elsewhere)
    return Case(question, target, wording.format(said), verdict(agrees))


FAMILIES = (
    Family("color of another thing", _color_of_another_thing),
    Family("comparison", _comparison),
    Family("longer name", _longer_name),
    Family("word in another sense", _other_sense),
)
