"""Questions about what is not there, and annotators' votes, in further wordings."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_absent import ANIMALS, PLACES
from sheet_forms import (
    ARTIFACTS,
    COLORS,
    NUMBERS,
    SCENES,
    Case,
    Family,
    Noun,
    a,
    after_prefix,
    capital,
    verdict,
)

ABOUT_ABSENT = (
    ("What shape is the {one}?", "The {one} is round.", "Round."),
    ("How many {many} does the man hold?", "He holds two {many}.", "Two"),
    ("What is inside the {one}?", "There is a letter inside the {one}.", "A letter."),
    ("Which side of the {one} is damaged?", "The left side of the {one} is damaged.", "The left."),
    ("Why is the {one} tilted?", "The {one} is tilted because of the wind.", "Because of wind."),
    ("Who does the {one} belong to?", "The {one} belongs to the woman.", "The woman."),
    ("What pattern is on the {one}?", "The {one} has stripes.", "Stripes"),
    ("Does the {one} look new or used?", "The {one} looks used.", "Used."),
    ("What is on top of the {one}?", "A hat is on top of the {one}.", "A hat."),
    ("What is the {one} used for here?", "The {one} is used as a seat.", "As a seat."),
)
TRUE_DENIALS = (
    "There is no {one}",
    "The image doesn't have {a}",
    "No {one} in the image",
    "I can't see {a}",
    "{A} is not in the picture",
    "No {many} are present",
)
DENIALS = (
    "I can't see {a} here.",
    "There's no {one} to be seen.",
    "There are no {many} visible in this image.",
    "I'm sorry, but there is no {one} in the image.",
    "The premise is wrong: there is no {one} in the image.",
    "The image doesn't include {a}.",
    "This image contains no {many}.",
    "{A} does not appear in the image.",
    "There is no {one} present, so I can't answer that.",
    "It looks like there is no {one} in this image.",
    "Actually, there isn't {a} in the image.",
    "No such {one} exists in the image.",
    "I could not spot any {many}.",
    "The {one} you mention is not in the image.",
    "There is nothing like {a} in the image.",
    "What {one}? There is no {one} in the image.",
    "The {one} doesn't exist.",
    "Not a single {one} is visible.",
    "I do not observe {a} in the provided image.",
    "The image shows {scene}, but no {one}.",
)


def _fill(rng: Random, template: str, noun: Noun) -> str:
    color = rng.choice(COLORS)
    return template.format(
        one=noun.one,
        many=noun.many,
        a=a(noun.one),
        A=capital(a(noun.one)),
        color=color,
        scene=rng.choice(SCENES),
    )


def _absent(rng: Random) -> Case:
    noun = rng.choice(ARTIFACTS)
    question, sentence, short = rng.choice(ABOUT_ABSENT)
    target = truths.several(rng, *(_fill(rng, t, noun) for t in TRUE_DENIALS))
    agrees = rng.random() < 0.5
    said = _fill(rng, sentence, noun)
    wrapped = rng.choice(
        ("{s}", "{t}", "In this image, {r}", "{s} It can be seen clearly.", "I think that {r}")
    ).format(s=said, t=_fill(rng, short, noun), r=after_prefix(said))
    answer = _fill(rng, rng.choice(DENIALS), noun) if agrees else wrapped
    return Case(_fill(rng, question, noun), target, answer, verdict(agrees))


def _present(rng: Random) -> Case:
    noun = rng.choice(ARTIFACTS)
    color, other = rng.sample(COLORS, 2)
    target = truths.several(rng, f"The {noun.one} is {color}", capital(color), f"It is {color}")
    agrees = rng.random() < 0.5
    right = (f"It's {color}.", f"The {noun.one} looks {color}.", f"A {color} {noun.one}.")
    wrong = (f"It's {other}.", *(_fill(rng, denial, noun) for denial in DENIALS[:6]))
    answer = rng.choice(right if agrees else wrong)
    return Case(f"What color is the {noun.one}?", target, answer, verdict(agrees))


ZEROS = (
    *("0 of them", "zero of them.", "Nil", "There is not one.", "I see none.", "none at all"),
    *("The number of {many} is 0.", "The number of {many} {place} is zero.", "No {one}."),
    *("None of them are {place}.", "I can't see any {many} {place}.", "There aren't any."),
    *("There are none {place}.", "Not a single {one} is {place}.", "Zero {many} are {place}."),
    *("No {many} {place}.", "I count zero.", "Exactly zero.", "There are no {many} to count."),
)
_SOMES = (
    "{N} {many}.", "I count {n} {many}.", "{N} of them.", "There are {n}.", "I see {n} {many}.",
    "There are {n} {many} {place} in this image.", "The number of {many} is {n}.", "Exactly {n}.",
    "{N} {many} are {place}.", "At least {n} {many} are {place}.",
)  # fmt: skip
ZERO_TRUTHS = (
    "There aren't any {many}",
    "No {many} {place}",
    "0",
    "There are no {many}",
    "Zero {many} can be seen",
)


def _counted(rng: Random, template: str, noun: Noun, place: str, number: int) -> str:
    word = NUMBERS[number]
    return template.format(one=noun.one, many=noun.many, place=place, n=word, N=capital(word))


def _how_many_of_none(rng: Random) -> Case:
    noun, place, number = rng.choice(ANIMALS), rng.choice(PLACES), rng.randint(2, 9)
    agrees = rng.random() < 0.5
    answer = _counted(rng, rng.choice(ZEROS if agrees else _SOMES), noun, place, number)
    said = (_counted(rng, t, noun, place, 0) for t in rng.sample(ZERO_TRUTHS, 2))
    target = truths.several(rng, *said)
    return Case(f"How many {noun.many} are {place}?", target, answer, verdict(agrees))


def _none_of_some(rng: Random) -> Case:
    noun, place, number = rng.choice(ANIMALS), rng.choice(PLACES), rng.randint(2, 9)
    agrees = rng.random() < 0.5
    some = [template for template in _SOMES if not template.startswith("At least")]
    answer = _counted(rng, rng.choice(some if agrees else ZEROS), noun, place, number)
    target = rng.choice((str(number), NUMBERS[number], f"{number} {noun.many}"))
    return Case(f"How many {noun.many} are {place}?", target, answer, verdict(agrees))


OWNED = (
    ("What color is the man's belt?", "belt", "The belt is brown.", "He", "The man", "wearing"),
    ("What does the girl's shirt say?", "shirt", "It says HELLO.", "She", "The girl", "wearing"),
    ("What is on the boy's helmet?", "helmet", "A star.", "He", "The boy", "wearing"),
    ("How big is the woman's bag?", "bag", "The bag is small.", "She", "The woman", "carrying"),
    ("Which hand holds the man's cane?", "cane", "The left hand.", "He", "The man", "holding"),
)


def _not_worn(rng: Random) -> Case:
    question, thing, assumed, pronoun, person, verb = rng.choice(OWNED)
    target = truths.several(
        rng,
        f"{pronoun} is not {verb} {a(thing)}",
        f"{pronoun} has no {thing}",
        f"{person} does not have {a(thing)}",
    )
    agrees = rng.random() < 0.5
    right = rng.choice(
        (
            f"{pronoun} has no {thing}.",
            f"{person} doesn't have {a(thing)}.",
            f"{pronoun} isn't {verb} one.",
            f"{pronoun} is not {verb} any {thing}.",
            f"{person} does not appear to be {verb} {a(thing)}.",
            f"There is no {thing}.",
            f"I can't see {a(thing)}.",
            f"{person} is without {a(thing)}.",
            f"{pronoun} is {verb} no {thing}.",
            f"{person} in the image isn't {verb} {a(thing)}.",
            f"I don't see {person.lower()} {verb} {a(thing)}.",
        )
    )
    wrong = rng.choice((assumed, f"In this image, {after_prefix(assumed)}"))
    return Case(question, target, right if agrees else wrong, verdict(agrees))


NOBODY = (
    "I see nobody in the image.",
    "Nobody.",
    "No one.",
    "There isn't anyone.",
    "There is not a single person in the image.",
    "The image shows no people.",
    "There are no persons in this image.",
    "No person is visible.",
    "I can't see anybody here.",
    "The image does not contain any people.",
    "No people can be seen.",
)
WITHOUT_PEOPLE = (
    ("What is the girl eating?", "There is no girl in the image", "An apple."),
    ("Where is the woman looking?", "There is no woman", "The woman is looking left."),
    ("Who is standing at the door?", "Nobody is standing at the door", "An old man."),
    ("Who is riding the horse?", "No one is riding the horse", "A girl in a red coat."),
    ("What color is the man's coat?", "There is no man in the image", "The coat is black."),
)


def _nobody(rng: Random) -> Case:
    question, target, assumed = rng.choice(WITHOUT_PEOPLE)
    agrees = rng.random() < 0.5
    return Case(question, target, rng.choice(NOBODY) if agrees else assumed, verdict(agrees))


UNKNOWN = (
    ("What is written on the back?", "It says HELLO.", "what is written on the back"),
    ("What is the man thinking?", "He is thinking of home.", "what the man is thinking"),
    ("How much did the car cost?", "It cost $5,000.", "how much the car cost"),
    ("What is the color of the floor?", "The floor is gray.", "the color of the floor"),
    ("Who took the photo?", "Anna took the photo.", "who took the photo"),
)
_NOT_TOLD = (
    "I can't tell {f}.",
    "One cannot tell {f} from the image.",
    "{F} is not shown.",
    "We do not know {f}.",
    "It is unclear {f}.",
    "There is no information about {f}.",
    "It's impossible to say {f}.",
    "The image gives no indication of {f}.",
    "I don't know.",
    "It can't be determined.",
    "You can't tell from this image.",
    "{F} can't be seen.",
)


def _unknown(rng: Random) -> Case:
    question, claimed, fact = rng.choice(UNKNOWN)
    target = truths.several(
        rng,
        f"{capital(fact)} cannot be seen",
        f"It cannot be said {fact}",
        "The image does not tell",
        f"It is unknown {fact}",
        "This cannot be determined",
    )
    agrees = rng.random() < 0.5
    right = rng.choice(_NOT_TOLD).format(f=fact, F=capital(fact))
    wrong = rng.choice((claimed, f"I think that {after_prefix(claimed)}"))
    return Case(question, target, right if agrees else wrong, verdict(agrees))


VOTED = (
    ("Is the dog asleep?", ("yes", "no"), ("{A}!", "{A}, it is." , "Answer: {a}")),
    ("What animal is this?", ("goat", "lamb"), ("It's a {a}.", "A {a}.", "This is a {a}.")),
    ("How many boats are there?", ("5", "6"), ("There are {a}.", "{a} boats.", "I see {a} boats.")),
    ("What is he wearing?", ("suit", "robe"), ("He is wearing a {a}.", "A {a}", "the {a}")),
    ("What room is this?", ("kitchen", "bathroom"), ("This is a {a}.", "The {a}.", "It is a {a}")),
)  # fmt: skip


def _votes(rng: Random) -> Case:
    question, values, wordings = rng.choice(VOTED)
    main, minority = rng.sample(values, 2)
    votes = rng.choice(({main: 10}, {main: 9, minority: 1}, {main: 9, minority: 1}))
    agrees = rng.random() < 0.5
    said = main if agrees else minority
    answer = rng.choice(wordings).format(a=said, A=capital(said)).replace("No, it is.", "No.")
    return Case(question, truths.annotators(rng, votes), answer, verdict(agrees))


UNANSWERABLE = (
    "I can't tell.", "It's too blurry to tell.", "Not possible to say.", "Unknown.",
    "There is not enough information.", "I am unable to determine what this is.", "unsuitable",
    "The image is too dark to tell.", "It is impossible to tell.", "This can't be answered.",
    "The text is not readable.",
)  # fmt: skip


def _votes_unanswerable(rng: Random) -> Case:
    question, answers = rng.choice(
        (
            ("What kind of soup is this?", ("Tomato.", "It is chicken soup.", "noodle soup")),
            ("What does this say?", ('It says "Open".', "Bus 24", "Welcome")),
            ("What color are these pants?", ("Black", "The pants are blue.", "grey")),
        )
    )
    agrees = rng.random() < 0.5
    target = truths.annotators(rng, {"unanswerable": 10})
    return Case(question, target, rng.choice(UNANSWERABLE if agrees else answers), verdict(agrees))


FAMILIES = (
    Family("absent: denial in other words", _absent),
    Family("absent: wrongly denied", _present),
    Family("absent: how many of none", _how_many_of_none),
    Family("absent: none of some", _none_of_some),
    Family("absent: not worn", _not_worn),
    Family("absent: nobody", _nobody),
    Family("absent: unknown from the image", _unknown),
    Family("annotators: majority", _votes),
    Family("annotators: unanswerable", _votes_unanswerable),
)
