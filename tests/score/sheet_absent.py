"""Questions about what is not there, as in HaloQuest: denials, zeros, and what is unknown."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import (
    ARTIFACTS,
    COLORS,
    NUMBERS,
    OBJECTS,
    SCENES,
    Case,
    Family,
    Noun,
    a,
    capital,
    chatty,
    verdict,
)

ABOUT_ABSENT = (
    ("What color is the {one}?", "The {one} is {color}.", "{Color}."),
    ("What color is the {one} in the image?", "The {one} in the image is {color}.", "{Color}"),
    ("What is written on the {one}?", 'The {one} says "Nordwind".', '"Nordwind"'),
    ("Who is next to the {one}?", "A man is next to the {one}.", "A man in a {color} shirt."),
    ("What is the {one} made of?", "The {one} is made of wood.", "Wood"),
    ("What brand is the {one}?", "The brand of the {one} is Nordwind.", "Nordwind"),
    ("Is the {one} old or new?", "The {one} looks new.", "New"),
    ("Where is the {one}?", "The {one} is behind the man.", "Behind the man."),
    ("How big is the {one}?", "The {one} is quite small.", "It is very big."),
)
"""Question, and two answers that take its object for granted."""

TRUE_DENIALS = (
    "There is no {one} in the image",
    "No {one} is visible",
    "There isn't {a} in the image",
    "The image does not show {a}",
    "{A} cannot be seen",
    "There are no {many}",
)

DENIALS = (
    "There is no {one} in the image.",
    "There is not {a} in the image.",
    "There isn't {a} in this image.",
    "There are no {many} in the image.",
    "I don't see {a} in the image.",
    "I do not see any {many}.",
    "I cannot find {a} in the image.",
    "I am unable to locate {a} in the image.",
    "No {one} is visible.",
    "No {many} can be seen in the image.",
    "The image does not contain {a}.",
    "The image doesn't show any {one}.",
    "The {one} is missing from the image.",
    "{A} is absent from the image.",
    "{A} is not present in the image.",
    "The image is devoid of {many}.",
    "The image lacks {a}.",
    "There does not appear to be {a} in the image.",
    "There doesn't seem to be {a}.",
    "The {one} is nowhere to be seen.",
    "The question mentions {a}, but there is none in the image.",
    "There is no {one} in the image. The image shows {scene}.",
    "The image shows {scene}. There is no {one}.",
    "Unfortunately, the image contains no {one}.",
    "You mention {a}, but I see no such object here.",
    "This image does not have {a} in it.",
)

_ASSUMED = (
    "{s}",
    "{s}",
    "{t}",
    "{s} There is no other object next to it.",
    "{s} No people are visible.",
    "Based on the image, {r}",
    "{s} It does not look damaged.",
)


def _fill(rng: Random, template: str, noun: Noun) -> str:
    color = rng.choice(COLORS)
    return template.format(
        one=noun.one,
        many=noun.many,
        a=a(noun.one),
        A=capital(a(noun.one)),
        color=color,
        Color=capital(color),
        scene=rng.choice(SCENES),
    )


def _absent(rng: Random) -> Case:
    noun = rng.choice(ARTIFACTS)
    question, sentence, short = rng.choice(ABOUT_ABSENT)
    target = truths.several(rng, *(_fill(rng, t, noun) for t in TRUE_DENIALS))
    agrees = rng.random() < 0.5
    if agrees:
        answer = _fill(rng, rng.choice(DENIALS), noun)
        if rng.random() < 0.2 and not answer.startswith(("Unfortunately", "It ", "You")):
            answer = chatty(rng, answer)
    else:
        said = _fill(rng, sentence, noun)
        answer = rng.choice(_ASSUMED).format(
            s=said, t=_fill(rng, short, noun), r=said[0].lower() + said[1:]
        )
    return Case(_fill(rng, question, noun), target, answer, verdict(agrees))


def _present(rng: Random) -> Case:
    """The reverse: what is asked about is there, and the answer may deny it."""
    noun = rng.choice(ARTIFACTS)
    color, other = rng.sample(COLORS, 2)
    target = truths.several(rng, f"The {noun.one} is {color}", capital(color), f"It is {color}")
    if rng.random() < 0.5:
        answer = rng.choice((f"The {noun.one} is {color}.", f"{capital(color)}.", color))
        return Case(f"What color is the {noun.one}?", target, answer, "faithful")
    wrong = f"The {noun.one} is {other}."
    denial = _fill(rng, rng.choice(DENIALS[:4]), noun)
    answer = rng.choice((wrong, denial))
    return Case(f"What color is the {noun.one}?", target, answer, "hallucinated")


PLACES = ("on the roof", "in the garden", "on the street", "under the bridge", "behind the fence")

ZERO_TRUTHS = (
    "There are no {many} {place}",
    "There are zero {many}",
    "0",
    "zero",
    "None",
    "No {many} can be seen",
    "There are none",
)

ZEROS = (
    *("0", "0.", "Zero", "zero", "Zero.", "None", "None.", "none", "**0**", "**None**"),
    *("Zero {many}.", "0 {many}", "No {many}.", "No {many}", "There are none."),
    *("There are 0 {many} {place}.", "There are zero {many} {place}.", "The answer is 0."),
    *("There are no {many} {place}.", "There aren't any {many} {place}.", "Answer: 0"),
    *("I do not see any {many} {place}.", "No {many} are visible.", "The answer is zero."),
    *("There is not a single {one} {place}.", "I count 0 {many}.", "There is no {one} {place}."),
    *("The image does not show any {many}.", "None of the animals {place} are {many}."),
    *("There are no {many} {place}. The image shows {scene}.", "\\boxed{{0}}"),
)

ANIMALS = tuple(noun for noun in OBJECTS[:10])


def _how_many_of_none(rng: Random) -> Case:
    noun, place = rng.choice(ANIMALS), rng.choice(PLACES)
    number = rng.randint(2, 9)

    def fill(template: str) -> str:
        return _fill(rng, template.replace("{place}", place), noun)

    truth = truths.several(rng, *(fill(t) for t in rng.sample(ZERO_TRUTHS, 2)))
    agrees = rng.random() < 0.5
    some = rng.choice((str(number), NUMBERS[number], capital(NUMBERS[number])))
    answer = fill(rng.choice(ZEROS)) if agrees else rng.choice(
        (some, f"{some} {noun.many}", f"There are {some.lower()} {noun.many} {place}.",
         f"There are {some.lower()} {noun.many}. No people are visible.", f"{some}.",
         f"I can see {some.lower()} {noun.many} {place}.", f"There is one {noun.one} {place}.")
    )  # fmt: skip
    return Case(f"How many {noun.many} are {place}?", truth, answer, verdict(agrees))


def _none_of_some(rng: Random) -> Case:
    """How many there are, where there are some: "none" is wrong."""
    noun, place = rng.choice(ANIMALS), rng.choice(PLACES)
    number = rng.randint(2, 9)
    agrees = rng.random() < 0.5

    def fill(template: str) -> str:
        return _fill(rng, template.replace("{place}", place), noun)

    true = rng.choice((str(number), NUMBERS[number], f"There are {NUMBERS[number]} {noun.many}"))
    answer = fill(rng.choice(ZEROS))
    if agrees:
        some = rng.choice((str(number), NUMBERS[number]))
        answer = rng.choice((some, f"There are {some} {noun.many} {place}.", f"{some} {noun.many}"))
    return Case(f"How many {noun.many} are {place}?", true, answer, verdict(agrees))


OWNED = (
    ("What does the man's hat say?", "hat", 'The hat says "GO".', "He", "The man"),
    ("What color is the woman's scarf?", "scarf", "The scarf is red.", "She", "The woman"),
    ("What color is the boy's tie?", "tie", "The tie is blue.", "He", "The boy"),
    ("What logo is on the girl's backpack?", "backpack", "It is a star.", "She", "The girl"),
    ("How long is the man's coat?", "coat", "The coat is long.", "He", "The man"),
)


def _not_worn(rng: Random) -> Case:
    question, thing, assumed, pronoun, person = rng.choice(OWNED)
    verb = "carrying" if thing == "backpack" else "wearing"
    target = truths.several(
        rng,
        f"{pronoun} is not {verb} {a(thing)}",
        f"{pronoun} does not have {a(thing)}",
        f"There is no {thing}",
        f"{pronoun} is without {a(thing)}",
    )
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"{person} is not {verb} {a(thing)}.",
            f"{person} isn't {verb} {a(thing)}.",
            f"{pronoun} does not have {a(thing)}.",
            f"{person} in the image has no {thing}.",
            f"{person} is not {verb} a {thing}, so I cannot answer the question.",
            f"There is no {thing} in the image.",
            f"No {thing} is visible.",
            f"I don't see {a(thing)} on {person.lower()}.",
        )
        if agrees
        else (assumed, f"Based on the image, {assumed[0].lower()}{assumed[1:]}")
    )
    return Case(question, target, answer, verdict(agrees))


def _nobody(rng: Random) -> Case:
    question, target, assumed = rng.choice(
        (
            ("What is the woman wearing?", "There is no woman in the image", "A blue dress."),
            ("What is the man holding?", "There is no man", "The man is holding a book."),
            ("How old is the boy?", "There is no boy in the image", "He looks about ten."),
            ("Who is sitting on the bench?", "No one is sitting on the bench", "A young woman."),
            ("Who is driving the bus?", "Nobody is driving the bus", "A man in a blue shirt."),
        )
    )
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            "There is no one in the image.",
            "There is nobody in the image.",
            "No one is visible in the image.",
            "There are no people in the image.",
            "I don't see anyone in the image.",
            "Nobody can be seen.",
            "There isn't anybody in the image.",
        )
    )
    return Case(question, target, answer if agrees else assumed, verdict(agrees))


UNKNOWN = (
    ("What is behind the closed door?", "A kitchen is behind the door.", "what is behind the door"),
    ("What time does the shop open?", "The shop opens at nine.", "when the shop opens"),
    ("What is the name of the dog?", "The dog is called Max.", "the name of the dog"),
    ("Where is the woman going?", "She is going to work.", "where the woman is going"),
    ("How long is her dress?", "Her dress reaches to her ankles.", "the length of her dress"),
    ("What is in the closed box?", "There are books in the box.", "what is in the box"),
    ("How old is the bridge?", "The bridge is 100 years old.", "the age of the bridge"),
)


def _unknown(rng: Random) -> Case:
    question, claimed, fact = rng.choice(UNKNOWN)
    target = truths.several(
        rng,
        f"We cannot see {fact}",
        f"It is impossible to tell {fact}",
        "It cannot be determined from the image",
        f"The image does not show {fact}",
        "There is not enough information to answer",
    )
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"It is not possible to tell {fact} from the image.",
            f"The image does not provide enough information to determine {fact}.",
            f"It is impossible to determine {fact}.",
            f"I cannot tell {fact} from this image.",
            f"{capital(fact)} is unknown.",
            f"{capital(fact)} cannot be determined from the image.",
            "This cannot be answered from the image alone.",
            f"The image does not show {fact}.",
            f"There is no way to know {fact} from the image.",
            f"{capital(fact)} is not visible in the image.",
        )
        if agrees
        else (claimed, f"Based on the image, {claimed[0].lower()}{claimed[1:]}")
    )
    return Case(question, target, answer, verdict(agrees))


FAMILIES = (
    Family("absent: denial in other words", _absent),
    Family("absent: wrongly denied", _present),
    Family("absent: how many of none", _how_many_of_none),
    Family("absent: none of some", _none_of_some),
    Family("absent: not worn", _not_worn),
    Family("absent: nobody", _nobody),
    Family("absent: unknown from the image", _unknown),
)
