"""The truth in another role, in further wordings: a neighbor, a loser, a longer name."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import COLORED, COLORS, Case, Family, a, capital, two, verdict


def _color_of_another_thing(rng: Random) -> Case:
    thing, near = two(rng, COLORED)
    said, other = two(rng, COLORS)
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"A {said} {thing} is next to a {other} {near}.",
            f"There is a {said} {thing} beside a {other} {near}.",
            f"The {near} is {other}, but the {thing} is {said}.",
            f"Next to the {other} {near} is a {said} {thing}.",
            f"The {thing} is {said}; the {near} is {other}.",
            f"The {thing} behind the {other} {near} is {said}.",
            f"The {said} {thing} stands out against the {other} {near}.",
            f"Unlike the {other} {near}, the {thing} is {said}.",
            f"The {near} is {other}. The {thing} is {said}.",
            f"The {thing}, which is next to the {other} {near}, is {said}.",
            f"{capital(said)}, whereas the {near} is {other}.",
            f"I see a {other} {near} and a {said} {thing}.",
        )
    )
    answer = answer.replace("a orange", "an orange").replace("A orange", "An orange")
    answer = answer.replace("a umbrella", "an umbrella")
    target = truths.words(rng, said if agrees else other)
    return Case(f"What color is the {thing}?", target, answer, verdict(agrees))


COMPARED = (
    ("Which is bigger, the {} or the {}?", "bigger", "smaller", ("cat", "dog", "goat", "pig")),
    ("Which is closer, the {} or the {}?", "closer", "farther away", ("car", "van", "bus", "tram")),
    ("Who is taller, {} or {}?", "taller", "shorter", ("Eva", "Paul", "Nina", "Oskar")),
    ("Which is longer, the {} or the {}?", "longer", "shorter", ("rope", "stick", "belt", "chain")),
)


def _comparison(rng: Random) -> Case:
    asked, more, less, values = rng.choice(COMPARED)
    winner, loser = two(rng, values)
    agrees = rng.random() < 0.5
    question = asked.format(*((winner, loser) if rng.random() < 0.5 else (loser, winner)))
    article = "the " if "the {}" in asked else ""
    w, lo = f"{article}{winner}", f"{article}{loser}"
    answer = rng.choice(
        (
            f"{capital(w)} appears to be {more} than {lo}.",
            f"It is {w}, not {lo}.",
            f"{capital(w)} is clearly {more}.",
            f"{capital(w)} is {more} than {lo} in this image.",
            f"{capital(lo)} looks {less} than {w}.",
            f"{capital(lo)} is {less}.",
            f"{capital(w)} is the {more} one.",
            f"I think {w} is {more} than {lo}.",
            f"Between the two, {w} is {more}.",
            f"{capital(w)} is {more}; {lo} is {less}.",
            f"Of the two, {w} is {more}.",
            f"{capital(lo)} isn't {more}; {w} is.",
        )
    )
    target = truths.words(rng, winner if agrees else loser)
    return Case(question, target, answer, verdict(agrees))


LONGER = (
    ("What is the boy eating?", "corn", "He is eating popcorn."),
    ("What is on the wall?", "clock", "There is a clockwork toy on the wall."),
    ("What is in the bag?", "pen", "There is a pencil in the bag."),
    ("What is under the tree?", "dog", "There is a dog house under the tree."),
    ("What is the man holding?", "paper", "He is holding a paper cup."),
    ("What is in the pond?", "lily", "A lily pad is in the pond."),
    ("What is on the stove?", "pan", "A pancake"),
    ("What is the woman wearing?", "ring", "She is wearing an earring."),
    ("What is in the glass?", "water", "There is watermelon juice in the glass."),
)
SAME_NAME = (
    ("What is the boy eating?", "popcorn", "He is eating popcorn."),
    ("What is in the bag?", "pencil", "There is a pencil in the bag."),
    ("What is under the tree?", "dog house", "There is a dog house under the tree."),
    ("What is the man holding?", "paper cup", "He is holding a paper cup."),
    ("What is in the pond?", "lily pad", "A lily pad is in the pond."),
    ("What is the woman wearing?", "earring", "She is wearing an earring."),
    ("What is in the glass?", "watermelon juice", "There is watermelon juice in the glass."),
    ("What is on the stove?", "pan", "A pan."),
    ("What is on the wall?", "clock", "A clock is on the wall."),
)
"""Question, truth, an answer in which the truth is a part of a longer name, or the whole name."""


def _longer_name(rng: Random) -> Case:
    agrees = rng.random() < 0.5
    question, true, answer = rng.choice(SAME_NAME if agrees else LONGER)
    return Case(question, truths.words(rng, true), answer, verdict(agrees))


OTHER_SENSE = (
    ("Which way is the car turning?", "right", "left", "Right now it is turning {}."),
    ("Which way is the car turning?", "left", "right", "The car has left the road, turning {}."),
    ("How many cows are there?", "1", "five", "No one is near the {} cows."),
    ("How many cows are there?", "1", "six", "There are {} cows, one of which is white."),
    ("How many cows are there?", "2", "seven", "In the second image from the top are {} cows."),
    ("How many cows are there?", "4", "three", "There are {} cows in front of the 4x4."),
    ("What is on the tray?", "fish", "bread", "On the fish-shaped tray is {}."),
    ("What is on the tray?", "glass", "soup", "On the glass tray is {}."),
    ("What color is the flag?", "blue", "white", "Out of the blue, a {} flag appears."),
    ("What color is the flag?", "green", "red", "The flag at the village green is {}."),
    ("What season is it?", "fall", "winter", "Watch your step, you may fall: it is {}."),
    ("What is the bird sitting on?", "branch", "roof", "Near the bank branch, it sits on a {}."),
)


def _other_sense(rng: Random) -> Case:
    question, elsewhere, said, wording = rng.choice(OTHER_SENSE)
    agrees = rng.random() < 0.5
    target = truths.words(rng, said if agrees else elsewhere)
    return Case(question, target, wording.format(said), verdict(agrees))


PART_OF = (
    ("What is next to {}?", "lamp", "next to"), ("What is behind {}?", "wall", "behind"),
    ("What is under {}?", "rug", "under"),
)  # fmt: skip
_THINGS = ("chair", "table", "shelf", "basket", "bench", "box", "cart", "barrel")


def _place_of_another(rng: Random) -> Case:
    """What is next to the lamp, where the answer names a third thing as well."""
    asked, near, where = rng.choice(PART_OF)
    said, other = two(rng, _THINGS)
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"{capital(a(said))} is {where} the {near}.",
            f"There is {a(said)} {where} the {near}.",
            f"{capital(where)} the {near} is {a(said)}.",
            f"A {said}, not a {other}.",
            f"The {near} has {a(said)} {where} it, and the {other} is in front.",
            f"The {said} is {where} the {near}; the {other} is elsewhere.",
            f"There is {a(said)} {where} the {near}. The {other} is on the other side.",
            f"It's {a(said)}.",
            f"It is {a(said)} that is {where} the {near}.",
            f"The object {where} the {near} is {a(said)}.",
        )
    )
    target = truths.words(rng, said if agrees else other)
    return Case(asked.format(f"the {near}"), target, answer, verdict(agrees))


FAMILIES = (
    Family("color of another thing", _color_of_another_thing),
    Family("comparison", _comparison),
    Family("longer name", _longer_name),
    Family("word in another sense", _other_sense),
    Family("place of another thing", _place_of_another),
)
