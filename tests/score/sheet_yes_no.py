"""Other questions of yes and no: echoes, opposites, codes, and what cannot be told."""

from __future__ import annotations

from functools import partial
from random import Random

import sheet_truths as truths
from sheet_forms import (
    COLORED,
    COLORS,
    NUMBERS,
    OBJECTS,
    Case,
    Family,
    Noun,
    a,
    after_prefix,
    two,
    verdict,
)
from sheet_pope import (
    POPE,
    STATEMENT,
    WORD_AND_SENTENCE,
    Answering,
    any_plain,
    fill,
    pope,
    question_for,
)

HEDGES = (
    "It is difficult to tell whether there is {a} in the {image}.",
    "I am not sure if there is {a} in the {image}.",
    "I'm not certain whether that is {a} or {b}.",
    "It is unclear whether the {image} contains {a}.",
    "There may or may not be {a} in the {image}.",
    "I cannot determine whether there is {a} in the {image}.",
    "The {image} is too blurry to say if there is {a}.",
    "Maybe, maybe not. The {image} is very dark.",
    "Without more context, it is hard to say if there is {a} in the {image}.",
)


CONTRADICTIONS = (
    "Yes, there is no {one} in the {image}.",
    "No, there is {a} in the {image}.",
    "Yes and no.",
    "There is {a} in the {image}. There is no {one} in the {image}.",
    "Yes. The {image} does not contain {a}.",
    "No. {A} can be seen {spot}.",
)


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I cannot view images.",
    "I am unable to view images, but I can answer questions about text.",
    "As an AI language model, I cannot see images.",
    "I'm not able to process the image. Please upload it again.",
    "Sorry, I can't assist with this request.",
    "I do not have access to the image. Could you describe it?",
    "No image was provided. Please share the image and I will be happy to help.",
    "I don't see an image attached to your message.",
)


INSTRUCTIONS = (
    "",
    "",
    "",
    " Please answer yes or no.",
    " Answer the question using a single word or phrase.",
    "\nPlease answer with yes or no, then explain.",
)
"""What MME and the evaluation scripts of LLaVA put behind a question."""


def instructed(answering: Answering, rng: Random) -> Case:
    """POPE with the truths of other files, and an instruction behind the question."""
    case = pope(answering, rng)
    question = case.question + rng.choice(INSTRUCTIONS)
    target = truths.yes_no(rng, case.target == "yes")
    answer = case.answer.replace(case.question, question)  # where the answer repeats it
    return Case(question, target, answer, case.verdict)


def _coded(rng: Random) -> Case:
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    return Case(
        question_for(noun),
        truths.coded(rng, yes),
        any_plain(rng, noun, said),
        verdict(said == yes),
    )


def _boolean(rng: Random) -> Case:
    """A column of booleans, as JSON and Parquet files have them."""
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    target = rng.choice((str(yes), str(yes).lower()))
    return Case(question_for(noun), target, any_plain(rng, noun, said), verdict(said == yes))


def _truth_in_sentences(rng: Random) -> Case:
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    target = truths.several(
        rng,
        *(fill(rng, template, noun) for template in rng.sample(WORD_AND_SENTENCE[not yes][:4], 2)),
        "Yes" if yes else "No",
        fill(rng, STATEMENT[not yes][0], noun).removesuffix("."),
    )
    return Case(question_for(noun), target, any_plain(rng, noun, said), verdict(said == yes))


LOOKALIKES = (
    ("dog", "There is a hot dog on the plate."),
    ("bear", "There is a teddy bear on the bed."),
    ("bus", "There is a bus stop next to the road."),
    ("cat", "A caterpillar is visible on the leaf."),
    ("car", "There is a carpet on the floor."),
    ("apple", "There is a pineapple on the table."),
    ("cup", "The image shows a cupcake."),
    ("pen", "There is a penguin in the image."),
    ("tie", "A tiger can be seen in the image."),
    ("mouse", "There is a mouse pad on the desk."),
    ("horse", "A seahorse is visible in the image."),
)
"""An object, and a sentence that names another whose name holds it."""


def _only_another(rng: Random) -> Case:
    """What else is there says nothing about what was asked for."""
    if rng.random() < 0.5:
        asked, answer = rng.choice(LOOKALIKES)
        return Case(
            f"Is there {a(asked)} in the image?",
            truths.yes_no(rng, rng.random() < 0.5),
            answer,
            None,
        )
    noun = rng.choice(OBJECTS)
    wordings = ("There is {b} {spot}.", "The {image} shows {scene}.", "{B} is {spot}.")
    answer = fill(rng, rng.choice(wordings), noun)
    return Case(question_for(noun), truths.yes_no(rng, rng.random() < 0.5), answer, None)


def _undecided(templates: tuple[str, ...], rng: Random) -> Case:
    noun = rng.choice(OBJECTS)
    target = truths.yes_no(rng, rng.random() < 0.5)
    return Case(question_for(noun), target, fill(rng, rng.choice(templates), noun), None)


ECHOES = (
    ("Is the man wearing a hat?", "The man is wearing a hat", "The man is not wearing a hat"),
    ("Is the woman holding an umbrella?", "She is holding an umbrella", "She isn't holding one"),
    ("Is the cat under the table?", "The cat is under the table", "The cat isn't under the table"),
    ("Does the river flow through Hungary?", "It flows through Hungary", "It does not flow there"),
    ("Does the sign have a border?", "The sign has a border", "The sign does not have a border"),
    ("Do the shapes have equal areas?", "Their areas are equal", "Their areas are not equal"),
    ("Can you see a clock here?", "I can see a clock", "I can't see a clock"),
    ("Was this photo taken outdoors?", "It was taken outdoors", "It was not taken outdoors"),
    ("Are the children playing?", "The children are playing", "The children are not playing"),
    ("Is it raining in the image?", "It is raining", "It is not raining"),
    ("Does this car have a spare tire?", "The car has a spare tire", "The car has no spare tire"),
    ("Is there any text on the shirt?", "There is text on it", "There is no text on it"),
    ("Are there clouds in the sky?", "The sky has clouds", "There are no clouds in the sky"),
    ("Is the dog touching the ball?", "The dog is touching it", "The dog is not touching it"),
    ("Is anyone sitting on the bench?", "A man is sitting on it", "No one is sitting on it"),
    ("Is the train moving?", "The train is moving", "The train does not appear to be moving"),
)
"""Question, the statement that affirms it, the statement that denies it."""


def _statement_of(rng: Random) -> Case:
    question, affirms, denies = rng.choice(ECHOES)
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    sentence = f"{affirms if said else denies}."
    answer = rng.choice(
        (
            sentence,
            sentence,
            sentence.replace(".", ""),
            f"Based on the image, {after_prefix(sentence)}",
            f"{'Yes' if said else 'No'}, {after_prefix(sentence)}",
            f"{sentence} The rest of the image is out of focus.",
        )
    )
    return Case(question, truths.yes_no(rng, yes), answer, verdict(said == yes))


OPPOSITES = (
    ("Is the door {}?", "The door", ("open", "closed")),
    ("Is the floor {}?", "The floor", ("clean", "dirty")),
    ("Is the glass {}?", "The glass", ("empty", "full")),
    ("Is the road {}?", "The road", ("wet", "dry")),
    ("Is the lamp turned {}?", "The lamp", ("on", "off")),
    ("Is the man {}?", "The man", ("standing", "sitting", "lying down")),
    ("Is the woman {}?", "The woman", ("awake", "asleep")),
    ("Is the building {}?", "The building", ("old", "new")),
    ("Is the rope {}?", "The rope", ("long", "short")),
    ("Is the {} on the left side of the image?", "", ("left", "right")),
)


def _opposite(rng: Random) -> Case:
    asked, subject, values = rng.choice(OPPOSITES)
    value, other = two(rng, values)
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    if not subject:
        noun = rng.choice(OBJECTS).one
        question = f"Is the {noun} on the {value} side of the image?"
        sentence = f"The {noun} is on the {value if said else other} side of the image."
    else:
        question = asked.format(value)
        verb = "is turned" if value in ("on", "off") else "is"
        sentence = f"{subject} {verb} {value if said else other}."
    if rng.random() < 0.4:
        sentence = sentence.replace(" is ", " appears to be ", 1)
    return Case(question, truths.yes_no(rng, yes), sentence, verdict(said == yes))


def _another_value(rng: Random) -> Case:
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    if rng.random() < 0.5:
        color, other = two(rng, COLORS)
        thing = rng.choice(COLORED)
        question = f"Is the {thing} {color}?"
        value = color if said else other
        sentence = rng.choice(("The {} is {}.", "The {} in the image is {}.", "The {} is **{}**."))
        return Case(
            question,
            truths.yes_no(rng, yes),
            sentence.format(thing, value),
            verdict(said == yes),
        )
    noun, asked = rng.choice(OBJECTS), rng.randint(3, 8)
    question = f"Are there {NUMBERS[asked]} {noun.many} in the image?"
    count = asked if said else rng.randint(2, asked - 1)
    number = rng.choice((str(count), NUMBERS[count]))
    only = "" if said else rng.choice(("only ", ""))
    sentence = rng.choice(("There are {} {} in the image.", "I can see {} {}."))
    answer = sentence.format(f"{only}{number}", noun.many)
    return Case(question, truths.yes_no(rng, yes), answer, verdict(said == yes))


def _hidden_part(rng: Random) -> Case:
    question, part = rng.choice(
        (
            ("Is the dog's tail curled?", "The dog's tail"),
            ("Are the man's shoes black?", "The man's shoes"),
            ("Is the driver wearing glasses?", "The driver"),
            ("Is the back of the truck open?", "The back of the truck"),
            ("Are the horse's ears pointed forward?", "The horse's ears"),
            ("Is the engine running?", "The engine"),
        )
    )
    are = "are" if part.endswith(("shoes", "ears")) else "is"
    answer = rng.choice(
        (
            f"{part} {are} not visible in the image.",
            f"{part} cannot be seen.",
            f"{part} {are} hidden from view.",
            f"{part} {are} out of the frame.",
            f"I cannot see {part[0].lower() + part[1:]} in this image.",
            f"It is not possible to tell, because {part.lower()} {are} not visible.",
        )
    )
    return Case(question, truths.yes_no(rng, rng.random() < 0.5), answer, None)


def _negated_question(rng: Random) -> Case:
    noun, present, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    there, missing = f"There is {a(noun.one)} in the image", f"There is no {noun.one} in the image"
    question = rng.choice((f"Is there no {noun.one} in the image?", f"Isn't there {a(noun.one)}?"))
    first = "No" if present else "Yes"
    if question.startswith("Isn't"):
        first = "Yes" if present else "No"
    target = f"{first}; {there if present else missing}"
    sentence = rng.choice((there,) if said else (missing, f"I do not see {a(noun.one)} here"))
    return Case(question, target, f"{sentence}.", verdict(said == present))


SYNONYMS = (
    ("tv", "television"),
    ("couch", "sofa"),
    ("cell phone", "mobile phone"),
    ("airplane", "plane"),
    ("bicycle", "bike"),
    ("motorcycle", "motorbike"),
    ("refrigerator", "fridge"),
    ("donut", "doughnut"),
    ("hair drier", "hair dryer"),
    ("car", "automobile"),
    ("rabbit", "bunny"),
    ("woman", "lady"),
)
"""Two names of one thing."""


def _synonym(rng: Random) -> Case:
    pair = rng.choice(SYNONYMS)
    asked, named = pair if rng.random() < 0.7 else pair[::-1]
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    wordings = STATEMENT[0][:-2] if said else STATEMENT[1]
    template = rng.choice([w for w in wordings if not w.startswith("None")])
    many = "ladies" if named == "lady" else "women" if named == "woman" else f"{named}s"
    many = "bunnies" if named == "bunny" else many
    answer = fill(rng, template, Noun(named, many))
    return Case(
        f"Is there {a(asked)} in the image?", truths.yes_no(rng, yes), answer, verdict(said == yes)
    )


def _refused(rng: Random) -> Case:
    noun = rng.choice(OBJECTS)
    question, target = rng.choice(
        (
            (question_for(noun), truths.yes_no(rng, rng.random() < 0.5)),
            (f"What color is the {rng.choice(COLORED)}?", truths.words(rng, rng.choice(COLORS))),
            (f"How many {noun.many} are in the image?", str(rng.randint(1, 9))),
        )
    )
    return Case(question, target, rng.choice(REFUSALS), None)


FAMILIES = (
    *(Family(kind, partial(instructed, answering)) for kind, answering in POPE.items()),
    Family("yes and no: coded truth", _coded),
    Family("yes and no: boolean truth", _boolean),
    Family("yes and no: truth in sentences", _truth_in_sentences),
    Family("yes and no: statement that echoes", _statement_of),
    Family("yes and no: the opposite", _opposite),
    Family("yes and no: another value", _another_value),
    Family("yes and no: negated question", _negated_question),
    Family("yes and no: synonym", _synonym),
    Family("not to be told: hedge", partial(_undecided, HEDGES)),
    Family("not to be told: contradicts itself", partial(_undecided, CONTRADICTIONS)),
    Family("not to be told: only another object", _only_another),
    Family("not to be told: part out of sight", _hidden_part),
    Family("not to be told: refusal", _refused),
)
