"""Other questions of yes and no, in further wordings."""

from __future__ import annotations

from functools import partial
from random import Random

import sheet_truths as truths
from sheet_forms import OBJECTS, Case, Family, Noun, a, after_prefix, two, verdict
from sheet_pope import fill, question_for, worded
from sheet_pope_more import POPE, STATEMENT, WORD_AND_SENTENCE, any_plain
from sheet_yes_no import instructed

HEDGES = (
    "It might be {a}, but I can't be sure.",
    "There could be {a} {spot}.",
    "Possibly, there is {a} {spot}.",
    "Perhaps {a} is hidden {spot}.",
    "It's hard to say whether there is {a}.",
    "I can't rule out that there is {a}.",
    "The object {spot} could be {a} or {b}.",
    "It is possible that there is {a} in the {image}.",
    "There's a chance that {a} is {spot}.",
    "I think it may be {a}, though it could also be {b}.",
    "If there is {a}, it is too small to see.",
    "The {image} might show {a}.",
    "I'm unsure if that is {a}.",
)


CONTRADICTIONS = (
    "Yes, I don't see any {many}.",
    "No, I can see {a} {spot}.",
    "Yes. No.",
    "{A} is {spot}. The {image} contains no {many}.",
    "The answer is yes. There is no {one} in the {image}.",
    "The answer is no. There is {a} {spot}.",
    "No {one} is visible. The {one} is {spot}.",
    "Yes, {a} is absent from the {image}.",
    "No, the {image} features {a} {spot}.",
    "**No**, there are two {many} {spot}.",
    '{{"answer": "yes", "explanation": "There is no {one}."}}',
)


REFUSALS = (
    "I cannot answer this question.",
    "I'm not able to see the image you mention.",
    "Unfortunately, I can't process images at the moment.",
    "It seems that the image did not load.",
    "I can only answer questions about text.",
    "Please provide the image.",
    "My apologies, but I am unable to assist with that.",
    "As a text-based model, I have no access to images.",
    "I don't have the ability to view pictures.",
    "There is no image attached.",
    "The image failed to load, so I cannot answer.",
)


def _coded(rng: Random) -> Case:
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    answer = any_plain(rng, noun, said)
    return Case(question_for(noun), truths.coded(rng, yes), answer, verdict(said == yes))


def _boolean(rng: Random) -> Case:
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    target = rng.choice((str(yes), str(yes).lower()))
    return Case(question_for(noun), target, any_plain(rng, noun, said), verdict(said == yes))


def _truth_in_sentences(rng: Random) -> Case:
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    sentences = (worded(WORD_AND_SENTENCE, rng, noun, yes) for _ in range(2))
    target = truths.several(rng, *sentences, "Yes" if yes else "No")
    return Case(question_for(noun), target, any_plain(rng, noun, said), verdict(said == yes))


LOOKALIKES = (
    ("dog", "A dog house is {spot}."),
    ("bear", "A bearded man is {spot}."),
    ("bus", "There are bushes {spot}."),
    ("cat", "There is a catalog {spot}."),
    ("car", "A cardboard box is {spot}."),
    ("boat", "There is a boathouse {spot}."),
    ("cup", "The cupboard is {spot}."),
    ("train", "A training ground is visible {spot}."),
    ("book", "There is a bookcase {spot}."),
    ("bird", "A birdhouse hangs {spot}."),
    ("horse", "There is a horse trailer {spot}."),
    ("toilet", "There is toilet paper {spot}."),
    ("bottle", "A bottle opener lies {spot}."),
    ("orange", "An orange flag is visible {spot}."),
    ("chair", "The chairman is {spot}."),
    ("elephant", "There is an elephant statue {spot}."),
    ("mouse", "The cat is chasing a toy mouse {spot}."),
)
"""An object, and a sentence that names another whose name holds it."""


def _only_another(rng: Random) -> Case:
    target = truths.yes_no(rng, rng.random() < 0.5)
    if rng.random() < 0.5:
        asked, wording = rng.choice(LOOKALIKES)
        noun = Noun(asked, f"{asked}s")
        return Case(question_for(noun), target, fill(rng, wording, noun), None)
    noun = rng.choice(OBJECTS)
    wordings = (
        "I can see {b} {spot}.",
        "The {image} features {scene} and {b}.",
        "The {other} is next to a wall.",
        "There are several {others} {spot}.",
    )
    return Case(question_for(noun), target, fill(rng, rng.choice(wordings), noun), None)


def _undecided(templates: tuple[str, ...], rng: Random) -> Case:
    noun = rng.choice(OBJECTS)
    target = truths.yes_no(rng, rng.random() < 0.5)
    return Case(question_for(noun), target, fill(rng, rng.choice(templates), noun), None)


ECHOES = (
    ("Is the boy holding a ball?", "The boy is holding a ball", "The boy is not holding a ball"),
    ("Is the cup on the table?", "The cup is on the table", "The cup is not on the table"),
    ("Does the man have a beard?", "The man has a beard", "The man does not have a beard"),
    ("Does the shop sell bread?", "The shop sells bread", "The shop does not sell bread"),
    ("Are the lights on?", "The lights are on", "The lights are not on"),
    ("Is the woman smiling?", "The woman is smiling", "The woman is not smiling"),
    ("Do both men wear ties?", "Both men wear ties", "Neither man wears a tie"),
    ("Is there snow on the roof?", "There is snow on the roof", "There is no snow on the roof"),
    ("Is anyone swimming?", "Someone is swimming", "Nobody is swimming"),
    ("Can you see the moon?", "The moon can be seen", "The moon cannot be seen"),
    ("Does the bird have its wings spread?", "Its wings are spread", "Its wings are not spread"),
    ("Is the tower taller than the tree?", "The tower is taller than the tree",
     "The tower is not taller than the tree"),
    ("Are there people in the boat?", "There are people in the boat", "The boat is empty"),
    ("Is the number of dogs even?", "The number of dogs is even", "The number of dogs is odd"),
    ("Was the bread sliced?", "The bread was sliced", "The bread was not sliced"),
    ("Is this a photo of a kitchen?", "This is a photo of a kitchen", "This is not a kitchen"),
)  # fmt: skip
"""Question, the statement that affirms it, the statement that denies it."""


def _statement_of(rng: Random) -> Case:
    question, affirms, denies = rng.choice(ECHOES)
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    sentence = f"{affirms if said else denies}."
    answer = rng.choice(
        (
            sentence,
            sentence,
            f"In this image, {after_prefix(sentence)}",
            f"I would say that {after_prefix(sentence)}",
            f"**{sentence}**",
            f"{'Yes' if said else 'No'}. {sentence}",
            f"{sentence} This is clear from the image.",
        )
    )
    return Case(question, truths.yes_no(rng, yes), answer, verdict(said == yes))


OPPOSITES = (
    ("Is the window {}?", "The window", ("open", "shut")),
    ("Is the water {}?", "The water", ("hot", "cold")),
    ("Is the wall {}?", "The wall", ("smooth", "rough")),
    ("Is the tree {}?", "The tree", ("alive", "dead")),
    ("Is the room {}?", "The room", ("bright", "dark")),
    ("Is the child {}?", "The child", ("happy", "sad")),
    ("Is the fruit {}?", "The fruit", ("ripe", "unripe")),
    ("Is the line {}?", "The line", ("straight", "curved")),
    ("Is the gate {}?", "The gate", ("locked", "unlocked")),
    ("Is the bag {}?", "The bag", ("heavy", "light")),
    ("Is the image {}?", "The image", ("blurry", "sharp")),
    ("Is the tea {}?", "The tea", ("sweet", "bitter")),
)


def _opposite(rng: Random) -> Case:
    asked, subject, values = rng.choice(OPPOSITES)
    value, other = two(rng, values)
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    named = value if said else other
    sentence = rng.choice(
        (
            f"{subject} is {named}.",
            f"{subject} looks {named}.",
            f"{subject} seems to be {named}.",
            f"{subject} in the image is {named}.",
            f"I can see that {subject.lower()} is {named}.",
        )
    )
    return Case(asked.format(value), truths.yes_no(rng, yes), sentence, verdict(said == yes))


def _negated_question(rng: Random) -> Case:
    noun, present, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    question = rng.choice(
        (f"Does the image show no {noun.one}?", f"Doesn't the image show {a(noun.one)}?",
         f"Are there no {noun.many} in the image?", f"Aren't there any {noun.many} in the image?")
    )  # fmt: skip
    first = present if "n't" in question else not present
    sentence = fill(rng, "There is {a} in the image" if present else "There is no {one}", noun)
    answer = rng.choice(
        ("There is {a} {spot}.", "The image shows {a}.", "There are {many} in the image.",
         "I can see {a} in the image.", "{A} is visible.")
        if said
        else ("The image does not show {a}.", "There are no {many} in the image.",
              "No {one} is visible.", "I can't see {a}.", "There isn't {a} in the image.")
    )  # fmt: skip
    target = f"{'Yes' if first else 'No'}; {sentence}"
    return Case(question, target, fill(rng, answer, noun), verdict(said == present))


SYNONYMS = (
    ("laptop", "notebook computer"),
    ("truck", "lorry"),
    ("child", "kid"),
    ("man", "gentleman"),
    ("taxi", "cab"),
    ("trash can", "garbage can"),
    ("remote", "remote control"),
    ("stove", "cooker"),
    ("tv", "tv set"),
    ("stone", "rock"),
    ("photo frame", "picture frame"),
)
"""Two names of one thing."""


def _synonym(rng: Random) -> Case:
    pair = rng.choice(SYNONYMS)
    asked, named = pair if rng.random() < 0.7 else pair[::-1]
    yes, said = rng.random() < 0.5, rng.random() < 0.5
    templates = [w for w in STATEMENT[not said] if "not hard" not in w and "Nothing" not in w]
    many = "lorries" if named == "lorry" else f"{named}s"
    many = {"man": "men", "child": "children", "gentleman": "gentlemen"}.get(named, many)
    answer = fill(rng, rng.choice(templates), Noun(named, many))
    question = f"Is there {a(asked)} in the image?"
    return Case(question, truths.yes_no(rng, yes), answer, verdict(said == yes))


HIDDEN = (
    ("Is the cat's collar red?", "The cat's collar", "is"),
    ("Are the boy's shoelaces tied?", "The boy's shoelaces", "are"),
    ("Is the door of the shed open?", "The door of the shed", "is"),
    ("Are the car's headlights on?", "The car's headlights", "are"),
    ("Is the man's tie striped?", "The man's tie", "is"),
)
_OUT_OF_SIGHT = (
    "{p} {are} cut off by the edge of the image.",
    "{p} {are} blocked by another object.",
    "{p} {are} not shown.",
    "{p} {are} not in the picture.",
    "One cannot see {l}.",
    "We can't see {l} from this angle.",
    "{p} {are} too far away to see.",
    "{p} {are} obscured.",
    "Unfortunately, {l} {are} not visible here.",
    "From this angle, {l} cannot be seen.",
)


def _hidden_part(rng: Random) -> Case:
    question, part, are = rng.choice(HIDDEN)
    answer = rng.choice(_OUT_OF_SIGHT).format(p=part, l=after_prefix(part), are=are)
    return Case(question, truths.yes_no(rng, rng.random() < 0.5), answer, None)


def _refused(rng: Random) -> Case:
    noun = rng.choice(OBJECTS)
    question, target = rng.choice(
        (
            (question_for(noun), truths.yes_no(rng, rng.random() < 0.5)),
            (f"What is the {noun.one} made of?", truths.words(rng, "wood")),
            (f"How many {noun.many} can you see?", str(rng.randint(1, 9))),
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
    Family("yes and no: negated question", _negated_question),
    Family("yes and no: synonym", _synonym),
    Family("not to be told: hedge", partial(_undecided, HEDGES)),
    Family("not to be told: contradicts itself", partial(_undecided, CONTRADICTIONS)),
    Family("not to be told: only another object", _only_another),
    Family("not to be told: part out of sight", _hidden_part),
    Family("not to be told: refusal", _refused),
)
