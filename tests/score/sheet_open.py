"""Open questions: colors, sides, materials, actions, text, and what cannot be told of them."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import (
    COLORED,
    COLORS,
    IMAGE,
    OBJECTS,
    Case,
    Family,
    a,
    bare,
    capital,
    chatty,
    said_and_true,
    two,
    verdict,
    wrapped,
)


def _color(rng: Random) -> Case:
    said, true = said_and_true(rng, COLORS)
    thing = rng.choice(COLORED)
    question = rng.choice(
        ("What color is the {}?", "What is the color of the {}?", "Which color is the {}?")
    ).format(thing)
    target = truths.words(rng, true, f"The {thing} is {true}", f"{a(true)} {thing}")
    sentence = rng.choice(
        (
            f"The {thing} is {said}.",
            f"The {thing} in the image is {said}.",
            f"The color of the {thing} is {said}.",
            f"The {thing} appears to be {said}.",
            f"It's {a(said)} {thing}.",
            f"The image shows {a(said)} {thing}.",
            f"The {thing} is a bright shade of {said}.",
            f"{capital(said)} is the color of the {thing}.",
            f"The {thing} has a {said} color.".replace("a orange", "an orange"),
        )
    )
    answer = bare(rng, said) if rng.random() < 0.3 else wrapped(rng, sentence, said)
    return Case(question, target, answer, verdict(said == true))


def _side(rng: Random) -> Case:
    said, true = said_and_true(rng, ("left", "right"))
    noun, near = (n.one for n in rng.sample(OBJECTS, 2))
    question = rng.choice(
        (
            f"On which side of the image is the {noun}?",
            f"Is the {noun} on the left or the right?",
            f"Which side is the {noun} on?",
        )
    )
    turned = "right" if said == "left" else "left"
    sentence = rng.choice(
        (
            f"The {noun} is on the {said} side of the image.",
            f"The {noun} is located on the {said}.",
            f"It is on the {said}-hand side.",
            f"To the {said}.",
            f"On the {said} side.",
            f"The {noun} is on the {said}, and the {near} is on the {turned}.",
            f"The {noun} is on the {said}, not on the {turned}.",
            f"The correct answer is {said}.",
        )
    )
    answer = bare(rng, said) if rng.random() < 0.2 else wrapped(rng, sentence, said)
    target = truths.words(rng, true, f"The {noun} is on the {true}")
    return Case(question, target, answer, verdict(said == true))


_WORDS_FOR = {
    "material": ("What is the {} made of?", (
        ("wood", "wooden"), ("metal", "metallic"), ("glass", "glass"), ("plastic", "plastic"),
        ("wool", "woolen"), ("leather", "leather"), ("stone", "stone"))),
    "feeling": ("What emotion does the {} show?", (
        ("anger", "angry"), ("happiness", "happy"), ("sadness", "sad"),
        ("surprise", "surprised"), ("boredom", "bored"))),
    "weather": ("What is the weather like {}?", (
        ("rain", "rainy"), ("snow", "snowy"), ("fog", "foggy"), ("sun", "sunny"))),
    "shape": ("What shape is the {}?", (
        ("triangle", "triangular"), ("circle", "circular"), ("rectangle", "rectangular"),
        ("hexagon", "hexagonal"))),
    "pattern": ("What pattern is on the {}?", (
        ("stripes", "striped"), ("dots", "dotted"), ("checks", "checkered"))),
}  # fmt: skip


_SUBJECTS = {
    "material": ("bench", "bowl", "bridge"),
    "feeling": ("man", "woman", "child"),
    "weather": ("here", "in the image"),
    "shape": ("sign", "window", "table"),
    "pattern": ("dress", "curtain", "shirt"),
}


def _word_form(rng: Random) -> Case:
    about = rng.choice(list(_WORDS_FOR))
    asked, pairs = _WORDS_FOR[about]
    said, other = rng.sample(pairs, 2)
    agrees = rng.random() < 0.5
    subject = rng.choice(_SUBJECTS[about])
    noun, adjective = said
    form = rng.choice((noun, adjective))
    sentences = {
        "material": (f"The {subject} is made of {noun}.", f"It is a {adjective} {subject}."),
        "feeling": (f"The {subject} looks {adjective}.", f"The {subject} shows {noun}."),
        "weather": (f"It is {adjective}.", f"It is a {adjective} day."),
        "shape": (f"The {subject} is {adjective}.", f"It is a {noun}."),
        "pattern": (f"The {subject} is {adjective}.", f"The {subject} has {noun} on it."),
    }[about]
    answer = rng.choice((form, capital(form), *sentences, chatty(rng, sentences[0])))
    target = truths.words(rng, rng.choice(said if agrees else other))
    return Case(asked.format(subject), target, answer, verdict(agrees))


_NAMES_OF_ONE_THING = (
    ("couch", "sofa"), ("television", "tv"), ("bicycle", "bike"), ("airplane", "plane"),
    ("cell phone", "mobile phone"), ("motorcycle", "motorbike"), ("refrigerator", "fridge"),
    ("doughnut", "donut"), ("rabbit", "bunny"), ("grey cat", "gray cat"),
)  # fmt: skip


def _synonym(rng: Random) -> Case:
    pair, other = rng.sample(_NAMES_OF_ONE_THING, 2)
    agrees = rng.random() < 0.5
    true, said = rng.sample(pair, 2)
    target = truths.words(rng, true if agrees else rng.choice(other))
    answer = rng.choice(
        (
            said,
            capital(a(said)) + ".",
            f"There is {a(said)} inside the red box.",
            f"It is {a(said)}.",
            f"The red box marks {a(said)}.",
        )
    )
    return Case("What is inside the red box?", target, answer, verdict(agrees))


ACTIONS = (
    ("riding a bike", "riding a bicycle", "rides a bike"),
    ("walking the dog", "walking his dog", "walks the dog"),
    ("reading a newspaper", "reading the newspaper", "reads a newspaper"),
    ("surfing", "surfing on a wave", "surfs"),
    ("cooking", "cooking a meal", "cooks"),
    ("playing tennis", "playing tennis on a court", "plays tennis"),
    ("skiing", "skiing down a slope", "skis down a slope"),
    ("sleeping", "sleeping on a couch", "sleeps"),
    ("brushing his teeth", "brushing his teeth in a bathroom", "brushes his teeth"),
)


def _action(rng: Random) -> Case:
    said, other = rng.sample(ACTIONS, 2)
    agrees = rng.random() < 0.5
    true = (said if agrees else other)[0]
    answer = rng.choice(
        (
            capital(said[0]),
            f"He is {said[0]}.",
            f"The man is {said[1]}.",
            f"The man {said[2]}.",
            f"The man in the image is {said[1]}.",
            chatty(rng, f"The man is {said[0]}."),
            f"The man appears to be {said[0]}.",
        )
    )
    return Case(
        "What is the man doing?", truths.words(rng, true, f"He is {true}"), answer, verdict(agrees)
    )


SIGNS = ("STOP", "EXIT", "Main Street", "Bakery", "No Parking", "Gate 12", "Nordwind", "Open")


def _text_read(rng: Random) -> Case:
    said, true = said_and_true(rng, SIGNS)
    shown = rng.choice((said, said, said.upper(), said.lower(), capital(said.lower())))
    answer = rng.choice(
        (
            shown,
            f'The sign says "{shown}".',
            f"The sign reads '{shown}'.",
            f'"{shown}"',
            f"The text on the sign is **{shown}**.",
            f'It says "{shown}" in large letters.',
            f"The word on the sign is \N{LEFT DOUBLE QUOTATION MARK}{shown}"
            "\N{RIGHT DOUBLE QUOTATION MARK}.",
        )
    )
    question = rng.choice(("What does the sign say?", "What is written on the sign?"))
    return Case(question, truths.words(rng, true), answer, verdict(said == true))


def _self_correction(rng: Random) -> Case:
    said, other = two(rng, COLORS)
    thing = rng.choice(COLORED)
    noun = rng.choice(OBJECTS)
    question = f"What color is the {thing}?"
    wordings = (
        f"{capital(other)}. Wait, no, the {thing} is {said}.",
        f"The {thing} is {other}... no, actually it is {said}.",
        f"{capital(other)}, no, actually {said}.",
        f"I first thought the {thing} was {other}, but it is {said}.",
        f"The {thing} is {other}. Correction: the {thing} is {said}.",
    )
    if rng.random() < 0.4:
        before, after = rng.sample(range(2, 11), 2)
        said, other = str(after), str(before)
        question = f"How many {noun.many} are there?"
        wordings = (
            f"There are {before} {noun.many}. Actually, counting again, there are {after}.",
            f"{before}... wait, {after}.",
            f"{before}, no, {after} {noun.many}.",
            f"I initially counted {before} {noun.many}, but there are actually {after}.",
            f"There are {before} {noun.many}. Sorry, I meant {after}.",
        )
    agrees = rng.random() < 0.5
    target = truths.words(rng, said if agrees else other)
    return Case(question, target, rng.choice(wordings), verdict(agrees))


def _prompt_inside(rng: Random) -> Case:
    said, true = said_and_true(rng, COLORS)
    other = rng.choice([color for color in COLORS if color not in (said, true)])
    thing = rng.choice(COLORED)
    question = rng.choice(
        (f"What color is the {thing}?", f"What color is the {thing}, {true} or {other}?")
    )
    reply = rng.choice((capital(said), f"The {thing} is {said}.", f"{said}."))
    answer = rng.choice(
        (f"USER: {question} ASSISTANT: {reply}", f"USER: <image>\n{question}\nASSISTANT: {reply}",
         f"User: {question}\nAssistant: {reply}", f"Question: {question} Answer: {reply}",
         f"{question} {reply}", f"{question}\n\n{reply}", f"Q: {question}\nA: {reply}",
         f"### Human: {question}\n### Assistant: {reply}")
    )  # fmt: skip
    return Case(question, truths.words(rng, true), answer, verdict(said == true))


def _alternatives(rng: Random) -> Case:
    first, second, third = rng.sample(COLORS, 3)
    thing = rng.choice(COLORED)
    question = f"Is the {thing} {first} or {second}?"
    agrees = rng.random() < 0.5
    other = second if rng.random() < 0.7 else third
    if other == second:
        answer = rng.choice(
            (f"The {thing} is {first}.", f"The {thing} is {first}, not {second}.",
             f"{capital(first)}", f"It is {first} rather than {second}.", f"It's {first}.",
             f"The {thing} is not {second}; it is {first}.")
        )  # fmt: skip
        return Case(
            question, truths.words(rng, first if agrees else second), answer, verdict(agrees)
        )
    answer = rng.choice(
        (f"The {thing} is neither {first} nor {second}. It is {third}.",
         f"The {thing} is {third}.", f"Neither, it is {third}.")
    )  # fmt: skip
    return Case(question, truths.words(rng, third if agrees else first), answer, verdict(agrees))


def _hedge(rng: Random) -> Case:
    true, other = two(rng, COLORS)
    first, second = (true, other) if rng.random() < 0.5 else (other, true)
    thing = rng.choice(COLORED)
    answer = rng.choice(
        (
            f"The {thing} could be {first} or {second}.",
            f"It is either {first} or {second}.",
            f"I'm not sure whether the {thing} is {first} or {second}.",
            f"It is hard to tell if the {thing} is {first} or {second}.",
            f"The {thing} might be {first}, but it might just as well be {second}.",
            f"{capital(first)} or {second}.",
            f"Depending on the light, the {thing} may be {first} or {second}.",
            f"It is difficult to say what color the {thing} is.",
            f"I cannot tell what color the {thing} is.",
        )
    )
    return Case(f"What color is the {thing}?", truths.words(rng, true), answer, None)


def _beside_the_point(rng: Random) -> Case:
    thing = rng.choice(COLORED)
    answer = rng.choice(
        (
            "",
            "...",
            f"The {rng.choice(IMAGE)} shows a busy street with many people.",
            "A man is standing in front of a building.",
            f"The {thing} is next to a tall man.",
            f"What a lovely {thing}!",
            f"What color is the {thing}?",
            f"Let me look at the {thing} in the image.",
            "The image is a photograph that was taken during the day.",
        )
    )
    return Case(f"What color is the {thing}?", truths.words(rng, rng.choice(COLORS)), answer, None)


FAMILIES = (
    Family("color", _color),
    Family("left and right", _side),
    Family("word form", _word_form),
    Family("synonym", _synonym),
    Family("action", _action),
    Family("text read", _text_read),
    Family("self-correction", _self_correction),
    Family("prompt in the answer", _prompt_inside),
    Family("one of two named", _alternatives),
    Family("not to be told: one of two", _hedge),
    Family("not to be told: beside the point", _beside_the_point),
)
