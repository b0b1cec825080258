"""Open questions in further wordings: colors, sides, materials, actions, text, other roles."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import (
    COLORED,
    COLORS,
    OBJECTS,
    SCENES,
    Case,
    Family,
    a,
    after_prefix,
    capital,
    said_and_true,
    two,
    verdict,
)


def said_in(rng: Random, sentence: str, value: str) -> str:
    """A sentence as it is, behind other words, in bold, or with a last word."""
    forms = [
        sentence,
        sentence,
        f"In this picture, {after_prefix(sentence)}",
        f"Looking at it closely, {after_prefix(sentence)}",
        f"{sentence} Let me know if you need anything else!",
        f"<think>Let me look.</think>\n{sentence}",
        f'{{"answer": "{value}"}}',
        f"{sentence}\n\nFinal answer: {value}",
        f"The image shows {rng.choice(SCENES)}.\n\n{sentence}",
    ]
    if sentence.count(value) == 1:
        forms.append(sentence.replace(value, f"**{value}**"))
    return rng.choice(forms)


def _color(rng: Random) -> Case:
    said, true = said_and_true(rng, COLORS)
    thing = rng.choice(COLORED)
    question = rng.choice(
        ("What is the {}'s color?", "What color does the {} have?", "Of what color is the {}?",
         "What colour is the {}?")
    ).format(thing)  # fmt: skip
    sentence = rng.choice(
        (
            f"The {thing} looks {said}.",
            f"The {thing}'s color is {said}.",
            f"It appears to be {said}.",
            f"It is a {said} {thing}.".replace("a orange", "an orange"),
            f"The {thing} shown is {said} in color.",
            f"{capital(said)}, I would say.",
            f"I believe the {thing} is {said}.",
            f"The color is {said}.",
            f"You can see that the {thing} is {said}.",
            f"The {thing} seems to be {said} in this image.",
            f"The {thing} is colored {said}.",
            f"The {thing} is mostly {said}.",
            f"The {thing} is a light {said}.",
            f"The {thing} is painted {said}.",
        )
    )
    target = truths.words(rng, true, f"The {thing} is {true}", f"The color is {true}")
    return Case(question, target, said_in(rng, sentence, said), verdict(said == true))


def _side(rng: Random) -> Case:
    said, true = said_and_true(rng, ("left", "right"))
    noun, near = (n.one for n in rng.sample(OBJECTS, 2))
    turned = "right" if said == "left" else "left"
    question = rng.choice(
        (f"Is the {noun} to the left or right of the {near}?",
         f"On which side of the {near} is the {noun}?", f"Where is the {noun}, left or right?")
    )  # fmt: skip
    of = f" of the {near}" if near in question else " side"
    sentence = rng.choice(
        (
            f"The {noun} is to the {said}{of}.",
            f"It's on the {said}.",
            f"{capital(said)} side.",
            f"The {said} side.",
            f"{capital(said)}, not {turned}.",
            f"You can find the {noun} on the {said}.",
            f"The {noun} appears on the {said}.",
            f"The {noun} is positioned to the {said}{of}.",
            f"On the {said}-hand side.",
            f"It is the {said} side.",
            f"The {noun} stands on the {said}, while a tree is on the {turned}.",
        )
    )
    target = truths.words(rng, true, f"The {noun} is on the {true}")
    return Case(question, target, said_in(rng, sentence, said), verdict(said == true))


_FORMS = (
    ("What is the {} made of?", ("fence", "roof", "chair"), (
        ("brick", "bricks"), ("gold", "golden"), ("silk", "silken"), ("cotton", "cotton"),
        ("paper", "paper"), ("steel", "steel"), ("clay", "clay"))),
    ("What mood is the {} in?", ("girl", "player", "king"), (
        ("fear", "fearful"), ("joy", "joyful"), ("disgust", "disgusted"), ("pride", "proud"))),
    ("What is the weather in the {}?", ("picture", "valley"), (
        ("cloud", "cloudy"), ("storm", "stormy"), ("wind", "windy"), ("mist", "misty"))),
    ("What nationality is the {}?", ("player", "flag"), (
        ("Italy", "Italian"), ("Japan", "Japanese"), ("Brazil", "Brazilian"),
        ("Poland", "Polish"))),
)  # fmt: skip


def _word_form(rng: Random) -> Case:
    asked, subjects, pairs = rng.choice(_FORMS)
    subject = rng.choice(subjects)
    said, other = rng.sample(pairs, 2)
    agrees = rng.random() < 0.5
    form = rng.choice(said)
    answer = rng.choice(
        (form, f"{capital(form)}.", f"It is {form}.", f"The answer is {form}.", f"**{form}**",
         f"I think it is {form}.", f"Most likely it is {form}.", f"It looks {form}.",
         f"It seems to be {form}.", f"That would be {form}.")
    )  # fmt: skip
    target = truths.words(rng, rng.choice(said if agrees else other))
    return Case(asked.format(subject), target, answer, verdict(agrees))


SYNONYMS = (
    ("picture", "photograph"), ("hog", "pig"), ("physician", "doctor"),
    ("lorry", "truck"), ("automobile", "car"), ("trousers", "pants"),
    ("taxi", "cab"), ("pullover", "sweater"), ("cellphone", "cell phone"),
    ("child", "kid"), ("eyeglasses", "spectacles"),
)  # fmt: skip
"""Names of one thing, and of several."""


def _synonym(rng: Random) -> Case:
    pair, other = rng.sample(SYNONYMS, 2)
    while {*pair, *other} & {"lorry", "taxi"} and {*pair, *other} & {"automobile"}:
        pair, other = rng.sample(SYNONYMS, 2)  # every taxi is a car
    agrees = rng.random() < 0.5
    true, said = rng.sample(pair, 2)
    answer = rng.choice(
        (
            f"The {said}.",
            f"It shows {a(said)}.",
            f"I see {a(said)}.",
            f"That is {a(said)}.",
            f"The arrow points at {a(said)}.",
            f"The answer is {said}.",
            f"The arrow is pointing at the {said}.",
            f"**{said}**",
            f"It is pointing to {a(said)}.",
            f"In the image, the arrow points at {a(said)}.",
        )
    )
    target = truths.words(rng, true if agrees else rng.choice(other))
    return Case("What does the arrow point at?", target, answer, verdict(agrees))


ACTIONS = (
    ("eating an apple", "eats an apple"), ("painting a fence", "paints a fence"),
    ("playing the guitar", "plays the guitar"), ("washing a car", "washes a car"),
    ("feeding the birds", "feeds the birds"), ("climbing a ladder", "climbs a ladder"),
    ("cutting bread", "cuts bread"), ("talking on the phone", "talks on the phone"),
    ("swimming", "swims"), ("jumping", "jumps"), ("flying a kite", "flies a kite"),
)  # fmt: skip


def _action(rng: Random) -> Case:
    (said, third), other = rng.sample(ACTIONS, 2)
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"She is {said}.",
            f"She's {said}.",
            f"The woman is {said}.",
            f"The woman in the picture is {said}.",
            f"The woman {third}.",
            f"She {third}.",
            f"The woman seems to be {said}.",
            f"It looks like she is {said}.",
            f"{capital(said)}.",
            f"The image shows a woman {said}.",
            f"A woman is {said}.",
        )
    )
    true = said if agrees else other[0]
    target = truths.words(rng, true, f"The woman is {true}")
    return Case("What is the woman doing?", target, answer, verdict(agrees))


SIGNS = ("YIELD", "Sale", "Hotel Nord", "Platform 4", "Do Not Enter", "Welcome", "Lemon Tree Cafe")


def _text_read(rng: Random) -> Case:
    said, true = said_and_true(rng, SIGNS)
    answer = rng.choice(
        (
            f'It reads "{said}".',
            f'The board says: "{said}"',
            f'"{said}" is written on the board.',
            f"'{said}'",
            f"{said}.",
            f'The text reads "{said}" in white letters.',
            f"The board reads {said}.",
            f"It says {said}",
            f'The writing on the board is "{said}".',
            f"**{said}**",
            f'There is a board that says "{said}".',
        )
    )
    question = rng.choice(("What is written on the board?", "What does the board read?"))
    return Case(question, truths.words(rng, true), answer, verdict(said == true))


def _self_correction(rng: Random) -> Case:
    said, other = two(rng, COLORS)
    thing = rng.choice(COLORED)
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"{capital(other)} - no, {said}.",
            f"{capital(other)}, or rather {said}.",
            f"The {thing} is {other}, I mean {said}.",
            f"The {thing} is {other}. Scratch that, it is {said}.",
            f"It is {other}. Sorry, it is {said}.",
            f"It looked {other} at first, but the {thing} is {said}.",
            f"At first I thought it was {other}, but it is actually {said}.",
            f"{capital(other)}. On second thought, {said}.",
            f"{capital(other)}? No, the {thing} is {said}.",
            f"The {thing} is {other}. Hmm, let me look again. The {thing} is {said}.",
            f"I said {other}, but the correct answer is {said}.",
        )
    )
    target = truths.words(rng, said if agrees else other)
    return Case(f"What color is the {thing}?", target, answer, verdict(agrees))


def _prompt_inside(rng: Random) -> Case:
    said, true = said_and_true(rng, COLORS)
    thing = rng.choice(COLORED)
    question = f"What is the color of the {thing}?"
    reply = rng.choice((capital(said), f"It is {said}.", f"The color of the {thing} is {said}."))
    answer = rng.choice(
        (
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>",
            f"<s>[INST] {question} [/INST] {reply}</s>",
            f"### Instruction:\n{question}\n\n### Response:\n{reply}",
            f"user\n{question}\nassistant\n{reply}",
            f"Instruction: {question}\nResponse: {reply}",
            f"**Question:** {question}\n**Answer:** {reply}",
            f"You asked: {question} {reply}",
            f"{question} -> {reply}",
            f"Human: {question}\n\nAssistant: {reply}",
            f"{reply}\n\nUser: What shape is it?\nAssistant: Round.",
            f"{reply}<|im_end|>\n<|im_start|>user\nIs it {true}?<|im_end|>",
        )
    )
    return Case(question, truths.words(rng, true), answer, verdict(said == true))


def _alternatives(rng: Random) -> Case:
    first, second, third = rng.sample(COLORS, 3)
    thing = rng.choice(COLORED)
    question = f"Which color is the {thing}, {first} or {second}?"
    agrees = rng.random() < 0.5
    if rng.random() < 0.7:
        answer = rng.choice(
            (f"Of the two, it is {first}.", f"It's the {first} one.", f"{capital(first)}, I think.",
             f"It is {first} instead of {second}.", f"Definitely {first}.",
             f"The {thing} is {first} and not {second}.", f"{capital(first)}, not {second}.",
             f"It isn't {second}, it's {first}.", f"{capital(first)} rather than {second}.",
             f"Not {second} but {first}.")
        )  # fmt: skip
        target = truths.words(rng, first if agrees else second)
        return Case(question, target, answer, verdict(agrees))
    answer = rng.choice(
        (f"Neither {first} nor {second}, but {third}.", f"None of them: it is {third}.",
         f"It is {third}.", f"Actually, the {thing} is {third}.")
    )  # fmt: skip
    target = truths.words(rng, third if agrees else first)
    return Case(question, target, answer, verdict(agrees))


def _hedge(rng: Random) -> Case:
    first, second = two(rng, COLORS)
    thing = rng.choice(COLORED)
    answer = rng.choice(
        (
            f"It might be {first}.",
            f"Possibly {first}.",
            f"I'm not sure, but maybe {first}.",
            f"{capital(first)} or maybe {second}.",
            f"It may be {first}, I can't tell.",
            f"Either {first} or {second}, the light is poor.",
            f"Perhaps {first}, perhaps {second}.",
            f"It could be {first}.",
            f"I can't decide between {first} and {second}.",
            f"It's not clear whether it is {first}.",
            f"It is {first}, or is it {second}?",
        )
    )
    target = truths.words(rng, rng.choice((first, second)))
    return Case(f"What color is the {thing}?", target, answer, None)


def _beside_the_point(rng: Random) -> Case:
    thing = rng.choice(COLORED)
    answer = rng.choice(
        (
            f"The {thing} is very old.",
            "The color.",
            f"I like the {thing}.",
            f"It is a {thing}.",
            "The image was taken in summer.",
            f"There is a {thing} in the image.",
            f"The {thing} belongs to the man on the left.",
            "Let me see.",
            f"The color of the {thing} is nice.",
            "Sure! I can help with that.",
            f"Two people are looking at the {thing}.",
        )
    )
    target = truths.words(rng, rng.choice(COLORS))
    return Case(f"What color is the {thing}?", target, answer, None)


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
