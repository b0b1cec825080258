"""Multiple choice: letters and words in every layout, indices, and letters that are names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import sheet_truths as truths
from sheet_forms import Case, Family, verdict


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with options, and a sentence that says one of them."""

    question: str
    options: tuple[str, ...]
    sentence: str


CHOICES = (
    Choice("Is the window open or shut?", ("Open", "Shut"), "The window is {}."),
    Choice("Is the man sitting or standing?", ("Sitting", "Standing"), "The man is {}."),
    Choice("Is the cup full or empty?", ("Full", "Empty"), "The cup is {}."),
    Choice("Is the cat facing left or right?", ("Left", "Right"), "The cat is facing {}."),
    Choice(
        "Which animal is in the image?",
        ("Cat", "Dog", "Horse", "Rabbit"),
        "The animal in the image is a {}.",
    ),
    Choice(
        "What is the man holding?",
        ("A book", "A cup", "A phone", "An umbrella"),
        "The man is holding {}.",
    ),
    Choice(
        "What is the weather like?",
        ("Sunny", "Rainy", "Snowy", "Foggy"),
        "The weather is {}.",
    ),
    Choice("What shape is the sign?", ("Round", "Square", "Triangular"), "The sign is {}."),
    Choice(
        "Which country is highlighted on the map?",
        ("Peru", "Chile", "Kenya", "Norway"),
        "The highlighted country is {}.",
    ),
    Choice(
        "What is the bench made of?", ("Wood", "Metal", "Stone", "Plastic"), "It is made of {}."
    ),
    Choice(
        "Where is the ball?",
        ("On the table", "Under the chair", "In the basket"),
        "The ball is {}.",
    ),
    Choice(
        "What is the main color of the wall?",
        ("Red", "Green", "Blue", "Yellow"),
        "The wall is {}.",
    ),
    Choice(
        "What will the woman most likely do next?",
        ("Close the door", "Open the window", "Leave the room", "Sit down"),
        "She will most likely {}.",
    ),
)

COUNTED = (
    Choice("How many birds are on the wire?", ("2", "3", "4", "5"), "There are {} birds."),
    Choice("How many cups are on the shelf?", ("7", "5", "8", "6"), "There are {} cups."),
)
"""Options that are numbers: neither letters nor indices."""

LETTERS = "ABCD"

_DIRECTLY = "Answer with the option's letter from the given choices directly."
_LAYOUTS = (
    ("{q} {o}", "({l}) {t}", " "),
    ("{q}\n{o}", "({l}) {t}", "\n"),
    ("{q}\nSelect from the following choices.\n{o}", "({l}) {t}", "\n"),
    (f"{{q}}\n{{o}}\n{_DIRECTLY}", "{l}. {t}", "\n"),
    ("{q}\n{o}", "{l}. {t}", "\n"),
    ("{q}\n{o}", "{l}) {t}", "\n"),
    ("Question: {q}\nOptions: {o}", "({l}) {t}", " "),
    ("Question: {q}\nChoices:\n{o}", "({l}) {t}", "\n"),
    ("{q}\nOptions:\n{o}\nPlease select the correct answer from the options above.", "{l}. {t}",
     "\n"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Asked:
    """A choice laid out, with the option that is true and the one that the model means."""

    choice: Choice
    question: str
    lower: bool
    true: int
    said: int

    def letter(self, index: int) -> str:
        return LETTERS[index].lower() if self.lower else LETTERS[index]

    @property
    def words(self) -> str:
        return self.choice.options[self.said]

    @property
    def agrees(self) -> bool:
        return self.said == self.true


def lay_out(rng: Random, question: str, options: Sequence[str], lower: bool = False) -> str:
    """The question with its options, as benchmarks print them."""
    around, option, between = rng.choice(_LAYOUTS)
    letters = LETTERS.lower() if lower else LETTERS
    lines = (option.format(l=l, t=t) for l, t in zip(letters, options, strict=False))  # noqa: E741
    return around.format(q=question, o=between.join(lines))


def ask(rng: Random, choices: Sequence[Choice] = CHOICES) -> _Asked:
    choice = rng.choice(choices)
    lower = rng.random() < 0.25
    true, other = rng.sample(range(len(choice.options)), 2)
    said = true if rng.random() < 0.5 else other
    return _Asked(choice, lay_out(rng, choice.question, choice.options, lower), lower, true, said)


_LETTER_ANSWERS = (
    *("{L}", "{L}.", "({L})", "{L})", "({l})", "Option {L}", "**{L}**", "Answer: {L}", "{L}\n"),
    *("The answer is {L}.", "The correct answer is ({L}).", "The correct option is {L}."),
    *("\\boxed{{{L}}}", "The best answer is {L}.", "I would choose {L}.", "{L} is correct."),
    *("Option ({L}) is the correct answer.", "The answer is option {L}", "Answer: ({L})"),
    *("The correct choice is {L}.", "**Answer:** {L}", "Based on the image, the answer is {L}."),
)

_BOTH_ANSWERS = (
    *("{L}. {w}", "({L}) {w}", "({l}) {w}", "{L}) {w}", "{L}: {w}", "**{L}. {w}**"),
    *("The answer is ({L}) {w}.", "The correct answer is {L}. {w}", "Option {L}: {w}"),
    *("The correct answer is **{L}. {w}**.", "Answer: {L}. {w}", "{w} ({L})", "Option {L}, {w}."),
    "({L}) {w}\n\nThis can be seen clearly in the image.",
    "The best answer is {L}, {w}.",
    "{s} The answer is {L}.",
    "{s} So the correct option is ({L}).",
)

_WORD_ANSWERS = (
    *("{w}", "{w}.", "{v}", "**{w}**", "The answer is {v}.", "{s}", "{s}", "The correct answer is"
      " {v}."),
    *("Based on the image, {r}", "Answer: {w}", "{s} This can be seen clearly in the image."),
)  # fmt: skip


def say(rng: Random, templates: Sequence[str], asked: _Asked) -> str:
    letter = LETTERS[asked.said]
    proper = asked.words in ("Peru", "Chile", "Kenya", "Norway")
    lower = asked.words if proper else asked.words[0].lower() + asked.words[1:]
    sentence = asked.choice.sentence.format(lower)
    return rng.choice(templates).format(
        L=letter,
        l=letter.lower(),
        w=asked.words,
        v=lower,
        s=sentence,
        r=sentence[0].lower() + sentence[1:],
    )


def for_letter(choices: Sequence[Choice], answers: Sequence[str]) -> Callable[[Random], Case]:
    """Return what draws a case whose truth is a letter, with an answer of one of these forms."""

    def draw(rng: Random) -> Case:
        asked = ask(rng, choices)
        target = truths.letter(rng, asked.letter(asked.true))
        return Case(asked.question, target, say(rng, answers, asked), verdict(asked.agrees))

    return draw


def _letter_for_words(rng: Random) -> Case:
    asked = ask(rng)
    templates = _LETTER_ANSWERS + _BOTH_ANSWERS
    answer = say(rng, templates, asked)
    return Case(asked.question, asked.choice.options[asked.true], answer, verdict(asked.agrees))


def _letter_and_reason(rng: Random) -> Case:
    """The letter, then a sentence that names another option to reject it."""
    asked = ask(rng)
    others = [i for i in range(len(asked.choice.options)) if i != asked.said]
    rejected = rng.choice(others) if asked.agrees else asked.true
    letter, wrong = LETTERS[asked.said], LETTERS[rejected]
    answer = rng.choice(
        (
            f"{letter}. {asked.words}\n\nOption {wrong} does not fit the image.",
            f"The answer is ({letter}). ({wrong}) is incorrect.",
            f"({letter}) {asked.words}, not ({wrong}) {asked.choice.options[rejected]}.",
            f"Option {wrong} is wrong, so the correct answer is {letter}.",
            f"({wrong}) does not fit. ({letter}) matches the image. The answer is ({letter}).",
            f"The correct answer is {letter}, because {wrong} does not match the image.",
        )
    )
    target = truths.letter(rng, asked.letter(asked.true))
    return Case(asked.question, target, answer, verdict(asked.agrees))


def _self_correction(rng: Random) -> Case:
    asked = ask(rng)
    others = [i for i in range(len(asked.choice.options)) if i != asked.said]
    first = LETTERS[rng.choice(others) if asked.agrees else asked.true]
    last = LETTERS[asked.said]
    answer = rng.choice(
        (
            f"{first}. Wait, no, the answer is {last}.",
            f"{first}, no, actually {last}.",
            f"({first})... Looking again, the correct answer is ({last}).",
            f"The answer is {first}. Correction: the answer is {last}.",
            f"{first} - sorry, I mean {last}.",
        )
    )
    target = truths.letter(rng, asked.letter(asked.true))
    return Case(asked.question, target, answer, verdict(asked.agrees))


def _prompt_inside(rng: Random) -> Case:
    asked = ask(rng)
    reply = say(rng, ("{L}", "({L})", "{L}. {w}", "({L}) {w}", "The answer is {L}."), asked)
    answer = rng.choice(
        (
            "USER: {q}\nASSISTANT: {r}",
            "User: {q}\nAssistant: {r}",
            "{q}\nAnswer: {r}",
            "### Human: {q}\n### Assistant: {r}",
        )
    ).format(q=asked.question, r=reply)
    target = truths.letter(rng, asked.letter(asked.true))
    return Case(asked.question, target, answer, verdict(asked.agrees))


def _index(rng: Random) -> Case:
    """ScienceQA counts its options from zero."""
    asked = ask(rng)
    answer = say(rng, (*_LETTER_ANSWERS, *_BOTH_ANSWERS, *_WORD_ANSWERS), asked)
    return Case(asked.question, str(asked.true), answer, verdict(asked.agrees))


def _letter_and_words_disagree(rng: Random) -> Case:
    """The right letter with the words of another option, or the other way round."""
    asked = ask(rng)
    other = asked.said if not asked.agrees else (asked.true + 1) % len(asked.choice.options)
    letter, words = (asked.true, other) if rng.random() < 0.5 else (other, asked.true)
    answer = rng.choice(("({L}) {w}", "{L}. {w}", "The answer is ({L}) {w}.", "**{L}. {w}**"))
    answer = answer.format(L=LETTERS[letter], w=asked.choice.options[words])
    return Case(asked.question, truths.letter(rng, asked.letter(asked.true)), answer, None)


def _two_letters(rng: Random) -> Case:
    asked = ask(rng)
    other = asked.said if not asked.agrees else (asked.true + 1) % len(asked.choice.options)
    first, second = rng.sample((LETTERS[asked.true], LETTERS[other]), 2)
    answer = rng.choice(
        (
            f"{first} or {second}",
            f"It could be ({first}) or ({second}).",
            f"The answer is either {first} or {second}.",
            f"I am not sure whether {first} or {second} is correct.",
            f"Both {first} and {second} seem possible.",
            "None of the information in the image lets me choose an option.",
            "I'm sorry, I cannot choose between these options.",
        )
    )
    return Case(asked.question, truths.letter(rng, asked.letter(asked.true)), answer, None)


COMPARED_NAMES = (
    ("Which solution has more particles?", "Solution {}"),
    ("Which team scored more points?", "Team {}"),
    ("Which pair of magnets attracts more strongly?", "Pair {}"),
    ("Which point is higher?", "Point {}"),
    ("Which sample has the higher temperature?", "Sample {}"),
)
NAMED = (
    *COMPARED_NAMES,
    ("Which vitamin is shown on the label?", "Vitamin {}"),
    ("From which gate does the flight leave?", "Gate {}"),
)
"""Questions whose answers are names that end in a letter."""


def _letter_as_name(rng: Random) -> Case:
    question, name = rng.choice(NAMED)
    true, other = rng.sample("ABCD", 2)
    agrees = rng.random() < 0.5
    said = name.format(true if agrees else other)
    answer = rng.choice(
        (said, f"{said}.", f"The correct answer is {said}.", f"It is {said}.", f"**{said}**",
         f"Based on the image, it is {said}.", f"A closer look shows that it is {said}.")
    )  # fmt: skip
    target = rng.choice((name.format(true), f"{name.format(true)}."))
    return Case(question, target, answer, verdict(agrees))


def _named_options(rng: Random) -> Case:
    """Options that are themselves called A and B: their letters in the list are others."""
    question, name = rng.choice(COMPARED_NAMES)
    options = ["Neither; they are the same", name.format("A"), name.format("B")]
    true, said = rng.choice(((1, 1), (2, 2), (1, 2), (2, 1)))
    letter, words = LETTERS[said], options[said]
    asked = lay_out(rng, question, options)
    if rng.random() < 0.5:
        target = truths.letter(rng, LETTERS[true])
        answer = rng.choice(
            (
                words,
                f"The answer is {words}.",
                f"({letter}) {words}",
                f"{letter}.",
                f"({letter})",
                f"{letter}. {words}",
            )
        )
    else:
        target = options[true]
        answer = rng.choice(
            (
                words,
                f"The answer is {words}.",
                f"({letter}) {words}",
                f"({letter})",
                f"The answer is ({letter}).",
            )
        )
    return Case(asked, target, answer, verdict(said == true))


def _blink(rng: Random) -> Case:
    """BLINK's points: the options are sentences that begin with letters."""
    question = "Which point is closer to the camera?\nSelect from the following choices.\n"
    question += "(A) A is closer\n(B) B is closer"
    true, said = rng.choice("AB"), rng.choice("AB")
    other = "B" if said == "A" else "A"
    answer = rng.choice(
        (
            f"({said})",
            f"{said}",
            f"({said}) {said} is closer",
            f"{said} is closer",
            f"Point {said} is closer to the camera.",
            f"{said} is closer to the camera than {other}.",
            f"The answer is ({said}).",
            f"Point {said} is closer to the camera than point {other}.",
            f"({said}) {said} is closer.\n\nPoint {other} is further away.",
        )
    )
    return Case(question, f"({true})", answer, verdict(said == true))


FAMILIES = (
    Family("choice: letter for letter", for_letter(CHOICES + COUNTED, _LETTER_ANSWERS)),
    Family("choice: letter and words", for_letter(CHOICES + COUNTED, _BOTH_ANSWERS)),
    Family("choice: words for letter", for_letter(CHOICES + COUNTED, _WORD_ANSWERS)),
    Family("choice: letter for words", _letter_for_words),
    Family("choice: reason names another", _letter_and_reason),
    Family("choice: self-correction", _self_correction),
    Family("choice: prompt in the answer", _prompt_inside),
    Family("choice: index", _index),
    Family("choice: letter as a name", _letter_as_name),
    Family("choice: options named by letters", _named_options),
    Family("choice: points A and B", _blink),
    Family("not to be told: letter against words", _letter_and_words_disagree),
    Family("not to be told: two letters", _two_letters),
)
