"""Multiple choice in further wordings."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_choices import LETTERS, NAMED, Choice, ask, for_letter, lay_out, say
from sheet_forms import Case, Family, verdict

CHOICES = (
    Choice("Is the light on or off?", ("On", "Off"), "The light is {}."),
    Choice("Which fruit is in the bowl?", ("Apple", "Pear", "Plum"), "The fruit is {}."),
    Choice("What is the dog doing?", ("Sleeping", "Running", "Eating"), "The dog is {}."),
    Choice("Where is the cup?", ("On the shelf", "In the sink"), "The cup is {}."),
    Choice("Which season is it?", ("Spring", "Summer", "Autumn", "Winter"), "It is {}."),
    Choice("What is the roof made of?", ("Tiles", "Straw", "Tin"), "The roof is made of {}."),
    Choice("Who is at the door?", ("A nurse", "A clown", "A pilot"), "{} is at the door."),
    Choice("What sport is it?", ("Golf", "Hockey", "Tennis"), "The sport is {}."),
)
COUNTED = (Choice("How many trees are there?", ("3", "9", "6", "1"), "There are {} trees."),)

_LETTER_ANSWERS = (
    *("[{L}]", "{L}:", "It is {L}.", "It's ({L}).", "My answer is {L}.", "I pick {L}.", "#{L}"),
    *("Choice {L}", "So, {L}.", "{L}, obviously.", "The right one is {L}.", '{{"answer": "{L}"}}'),
    *(
        "<answer>{L}</answer>",
        "Final answer: ({L})",
        "$\\boxed{{\\text{{{L}}}}}$",
        "`{L}`",
        "'{L}'",
    ),
    *("I'd go with {L}.", "The answer would be {L}.", "<think>Hm.</think>{L}", "Answer is {L}"),
)
_BOTH_ANSWERS = (
    *("{L} - {w}", "{L} ({w})", "[{L}] {w}", "Option {L} ({w})", "{L}, {v}", "{L} | {w}"),
    *("It is {L}, {v}.", "{w}, so {L}.", "The answer is {L}: {w}", "I'd say {L}. {w}", "{L}\n{w}"),
    "{L}. {w}. This can be seen in the image.",
    "**Answer: {L}) {w}**",
)
_WORD_ANSWERS = (
    *("It's {v}.", "{w}!", "I think it is {v}.", "The correct option is {v}.", '"{w}"', "- {w}"),
    *("Looking at the image, {r}", "In the image, {r}", "Final answer: {w}", "It is clearly {v}."),
    *("{s} That is easy to see.", "<think>Let me look.</think>{s}"),
)


def _letter_for_words(rng: Random) -> Case:
    asked = ask(rng, CHOICES)
    answer = say(rng, _LETTER_ANSWERS + _BOTH_ANSWERS, asked)
    return Case(asked.question, asked.choice.options[asked.true], answer, verdict(asked.agrees))


def _letter_and_reason(rng: Random) -> Case:
    asked = ask(rng, CHOICES)
    others = [i for i in range(len(asked.choice.options)) if i != asked.said]
    rejected = rng.choice(others) if asked.agrees else asked.true
    letter, wrong = LETTERS[asked.said], LETTERS[rejected]
    answer = rng.choice(
        (
            f"{letter}, not {wrong}.",
            f"It is {letter} and not {wrong}.",
            f"{letter} rather than {wrong}.",
            f"The answer is {letter}, since {wrong} is wrong.",
            f"Not ({wrong}), but ({letter}).",
            f"({letter}). Option ({wrong}) can be ruled out.",
            f"{wrong} is not correct. The answer is {letter}.",
            f"I rule out {wrong}. So the answer is {letter}.",
            f"The answer is {letter} ({asked.words}). {wrong} cannot be right.",
            f"{letter} is right and {wrong} is wrong.",
        )
    )
    target = truths.letter(rng, asked.letter(asked.true))
    return Case(asked.question, target, answer, verdict(asked.agrees))


def _self_correction(rng: Random) -> Case:
    asked = ask(rng, CHOICES)
    others = [i for i in range(len(asked.choice.options)) if i != asked.said]
    first = LETTERS[rng.choice(others) if asked.agrees else asked.true]
    last = LETTERS[asked.said]
    answer = rng.choice(
        (
            f"{first}. No, {last}.",
            f"{first} - wait, {last}.",
            f"{first}, or rather {last}.",
            f"({first}). Scratch that, ({last}).",
            f"I first thought {first}, but it is {last}.",
            f"{first}... hmm, no, {last}.",
            f"The answer is {first}. On second thought, the answer is {last}.",
            f"At first glance {first}, but the correct answer is {last}.",
            f"{first}. I take that back: {last}.",
            f"{first}? No, the answer is {last}.",
        )
    )
    target = truths.letter(rng, asked.letter(asked.true))
    return Case(asked.question, target, answer, verdict(asked.agrees))


def _prompt_inside(rng: Random) -> Case:
    asked = ask(rng, CHOICES)
    reply = say(rng, ("{L}", "({L})", "{L}. {w}", "The answer is {L}."), asked)
    answer = rng.choice(
        (
            "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{r}<|im_end|>",
            "<s>[INST] {q} [/INST] {r}</s>",
            "### Instruction:\n{q}\n\n### Response:\n{r}",
            "user\n{q}\nassistant\n{r}",
            "{r}\n\nUser: Why?\nAssistant: Because.",
            "Human: {q}\n\nAssistant: {r}",
            "Instruction: {q}\nResponse: {r}",
            "{r}<|im_end|>\n<|im_start|>user\nAre you sure?<|im_end|>",
            "{q}\n{r}",
            "{q}\n\nAnswer: {r}",
        )
    ).format(q=asked.question, r=reply)
    target = truths.letter(rng, asked.letter(asked.true))
    return Case(asked.question, target, answer, verdict(asked.agrees))


def _letter_as_name(rng: Random) -> Case:
    question, name = rng.choice(NAMED)
    true, other = rng.sample("ABCD", 2)
    agrees = rng.random() < 0.5
    letter = true if agrees else other
    said = name.format(letter)
    answer = rng.choice(
        (
            f"It's {said}.", f"The answer is {said}", f"I think it is {said}.", letter,
            f"The {said}.", f"{said} is the one.", f"It would be {said}.", f"Answer: {said}",
            f'{{"answer": "{said}"}}', f"In the image, it is {said}.", said.lower(),
        )
    )  # fmt: skip
    return Case(question, name.format(true), answer, verdict(agrees))


def _named_options(rng: Random) -> Case:
    options = ["Both", "Sample A", "Sample B"]
    true, said = rng.choice(((1, 1), (2, 2), (1, 2), (2, 1)))
    letter, words = LETTERS[said], options[said]
    asked = lay_out(rng, "Which sample is heavier?", options)
    target = rng.choice((truths.letter(rng, LETTERS[true]), options[true]))
    answer = rng.choice(
        (f"{words}.", f"It is {words}.", f"({letter}).", f"{letter}) {words}", f"[{letter}]",
         f"{words} is heavier.", f"Option {letter}: {words}", f"{letter}: {words}",
         f"Answer: {words}", f"The heavier one is {words}.")
    )  # fmt: skip
    return Case(asked, target, answer, verdict(said == true))


def _blink(rng: Random) -> Case:
    question = "Which point is closer to the camera?\n(A) Point A\n(B) Point B"
    true, said = rng.choice("AB"), rng.choice("AB")
    other = "B" if said == "A" else "A"
    answer = rng.choice(
        (
            f"({said}) Point {said}",
            f"{said}.",
            f"Point {said}",
            f"Point {said} is closer.",
            f"The point closer to the camera is {said}.",
            f"{said} is nearer to the camera.",
            f"It is point {said}.",
            f"Point {other} is farther away than point {said}.",
            f"Point {said}, because it is nearer.",
            f"The closer point is {said}, and {other} is farther away.",
        )
    )
    return Case(question, f"({true})", answer, verdict(said == true))


def _two_letters(rng: Random) -> Case:
    asked = ask(rng, CHOICES)
    other = asked.said if not asked.agrees else (asked.true + 1) % len(asked.choice.options)
    first, second = rng.sample((LETTERS[asked.true], LETTERS[other]), 2)
    answer = rng.choice(
        (
            f"{first}/{second}",
            f"{first}, {second}",
            f"({first}) and ({second})",
            f"I'm torn between {first} and {second}.",
            f"Either ({first}) or ({second}).",
            f"Maybe {first}, maybe {second}.",
            f"{first} or possibly {second}.",
            f"Options {first} and {second} both fit.",
            f"Could be {first} or {second}.",
            "None of the above.",
            "I don't know.",
        )
    )
    return Case(asked.question, truths.letter(rng, asked.letter(asked.true)), answer, None)


FAMILIES = (
    Family("choice: letter for letter", for_letter(CHOICES + COUNTED, _LETTER_ANSWERS)),
    Family("choice: letter and words", for_letter(CHOICES + COUNTED, _BOTH_ANSWERS)),
    Family("choice: words for letter", for_letter(CHOICES + COUNTED, _WORD_ANSWERS)),
    Family("choice: letter for words", _letter_for_words),
    Family("choice: reason names another", _letter_and_reason),
    Family("choice: self-correction", _self_correction),
    Family("choice: prompt in the answer", _prompt_inside),
    Family("choice: letter as a name", _letter_as_name),
    Family("choice: options named by letters", _named_options),
    Family("choice: points A and B", _blink),
    Family("not to be told: two letters", _two_letters),
)
