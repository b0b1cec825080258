"""What the families of answer sheets share: rows, words of a small world, and wrappers of chat.

A fact of this world (an object is there or not, a count, a colour) is drawn first; the truth is
rendered from the fact and the answer from what the model is made to say. The verdict follows from
comparing the two, never from reading the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Verdict = Literal["faithful", "hallucinated"] | None
"""What a careful reader says; None where it cannot be told."""


@dataclass(frozen=True, slots=True)
class Row:
    """A question, its truth as a file holds it, an answer, and the verdict on the answer."""

    kind: str
    question: str
    target: str
    answer: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Case:
    """A row before it is known which family drew it."""

    question: str
    target: str
    answer: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of rows and the function that draws one."""

    kind: str
    draw: Callable[[Random], Case]


@dataclass(frozen=True, slots=True)
class Noun:
    """A countable thing."""

    one: str
    many: str


def verdict(agrees: bool) -> Verdict:
    return "faithful" if agrees else "hallucinated"


def a(noun: str) -> str:
    """``noun`` with its article.

    >>> a("dog"), a("umbrella")
    ('a dog', 'an umbrella')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def after_prefix(sentence: str) -> str:
    """``sentence`` as it continues one that has begun: no capital, unless it starts with "I"."""
    return sentence if sentence[:2] in ("I ", "I'") else sentence[:1].lower() + sentence[1:]


def two(rng: Random, values: Sequence[str]) -> tuple[str, str]:
    """Two different values: the true one, and another."""
    first, second = rng.sample(values, 2)
    return first, second


def said_and_true(rng: Random, values: Sequence[str]) -> tuple[str, str]:
    """What the model says and what is true: equal in half of the draws."""
    true, other = two(rng, values)
    return (true if rng.random() < 0.5 else other), true


_IRREGULAR = {"knife": "knives", "mouse": "mice", "sheep": "sheep", "goose": "geese"}


def plural(noun: str) -> str:
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "ch", "sh", "x")):
        last += "es"
    else:
        last += "s"
    return f"{head} {last}".strip()


OBJECTS = tuple(
    Noun(name, plural(name))
    for name in (
        *("dog", "cat", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "bird"),
        *("car", "bus", "train", "truck", "boat", "airplane", "bicycle", "motorcycle"),
        *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "umbrella"),
        *("backpack", "handbag", "tie", "suitcase", "frisbee", "snowboard", "kite", "skateboard"),
        *("surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon"),
        *("bowl", "banana", "apple", "sandwich", "orange", "carrot", "pizza", "donut", "cake"),
        *("chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop"),
        *("mouse", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
        *("refrigerator", "book", "clock", "vase", "teddy bear", "toothbrush"),
    )
)
"""Objects that POPE asks for."""

ARTIFACTS = tuple(
    noun
    for noun in OBJECTS[10:]
    if noun.one not in ("banana", "apple", "sandwich", "orange", "carrot", "pizza", "donut", "cake")
)
"""Objects that somebody made: they have a brand, a material, an age."""

SCENES = (
    "a quiet beach at sunset",
    "a snowy mountain slope",
    "a green field under a cloudy sky",
    "a narrow alley between brick walls",
    "a wooden pier that leads into the water",
    "a man in a blue jacket who is smiling at the camera",
    "a group of people standing in front of a building",
)
"""What else an image may show: none of the objects, and none of the things with a color."""

SPOTS = (
    "in the background",
    "in the foreground",
    "on the left side of the image",
    "on the right side of the image",
    "near the center of the image",
)

COLORS = (
    *("red", "blue", "green", "yellow", "black", "white", "brown", "orange", "purple", "pink"),
    "gray",
)

COLORED = (
    *("car", "hat", "ball", "kite", "umbrella", "bus", "chair", "shirt", "door", "vase", "boat"),
    *("backpack", "mug", "scarf", "bicycle"),
)

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)

IMAGE = ("image", "image", "image", "picture", "photo")
"""What models call it; mostly "image"."""

PREFIXES = (
    "Sure! ",
    "Certainly! ",
    "Great question! ",
    "Thank you for the question. ",
    "Based on the image, ",
    "Based on the image provided, ",
    "In the image, ",
    "According to the image, ",
    "From the image, ",
    "Looking at the image, ",
    "Upon closer inspection, ",
    "From what I can see, ",
    "After examining the image, I can confirm that ",
    "It appears that ",
    "As can be seen in the image, ",
)

SUFFIXES = (
    "",
    "",
    " I hope this helps!",
    " Let me know if you have any other questions.",
    " Is there anything else you would like to know?",
    " This can be seen clearly in the image.",
)

_CLAUSES = ("I can confirm that ", "It appears that ")


def chatty(rng: Random, sentence: str) -> str:
    """``sentence`` with the words a chat model puts around it.

    Prefixes that subordinate ("It appears that") stand before whole clauses only: the sentence
    must not begin with "yes" or "no".
    """
    starts = ("yes", "no,", "no.", "no -", "no\n", "i ", "it ")
    interjects = sentence.lower().startswith(starts) or " appear" in sentence or " seem" in sentence
    prefixes = [p for p in PREFIXES if not (interjects and p.endswith(_CLAUSES))]
    prefix = rng.choice(prefixes)
    body = sentence if prefix.rstrip().endswith(("!", ".")) else after_prefix(sentence)
    return prefix + body + rng.choice(SUFFIXES)


def finish(rng: Random, answer: str) -> str:
    """The answer with the small noise of real files: typographic apostrophes, blank edges."""
    if rng.random() < 0.2:
        answer = re.sub(r"(?<=\w)'(?=\w)", "\N{RIGHT SINGLE QUOTATION MARK}", answer)
    before, after = rng.choice(("",) * 6 + (" ", "\n")), rng.choice(("",) * 7 + ("\n",))
    return before + answer + after


def wrapped(rng: Random, sentence: str, value: str) -> str:
    """A sentence that says ``value``, as it is, in bold, with chat around it, or explained."""
    form = rng.randrange(8)
    if form == 0:
        return chatty(rng, sentence)
    if form == 1 and sentence.count(value) == 1:
        return sentence.replace(value, f"**{value}**")
    if form == 2:
        return f"{sentence} This can be seen clearly in the image."
    if form == 3:
        return f"The image shows {rng.choice(SCENES)}. {sentence}"
    if form == 4:
        return f"1. Look at the image.\n2. {sentence}\n\n**Answer:** {value}"
    return sentence


def bare(rng: Random, value: str) -> str:
    """``value`` alone, in the forms of short answers."""
    return rng.choice(
        ("{0}", "{1}", "{1}.", "{0}.", "**{1}**", "Answer: {0}", "The answer is {0}.", "It is {0}.")
    ).format(value, capital(value))
