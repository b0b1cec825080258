"""Questions about numbers: counts, spelled numbers, clock times, units, years, lists."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import (
    COLORS,
    NUMBERS,
    OBJECTS,
    Case,
    Family,
    bare,
    capital,
    said_and_true,
    verdict,
    wrapped,
)

SMALL = tuple(str(n) for n in range(1, 13))


def _count(rng: Random) -> Case:
    said, true = said_and_true(rng, SMALL)
    noun = rng.choice(OBJECTS)
    number = rng.choice((said, NUMBERS[int(said)]))
    named, are = (noun.one, "is") if said == "1" else (noun.many, "are")
    question = rng.choice(
        (f"How many {noun.many} are in the image?", f"How many {noun.many} are there?")
    )
    in_words = NUMBERS[int(true)]
    target = rng.choice((true, true, in_words, f"{true} {noun.one if true == '1' else noun.many}"))
    sentence = rng.choice(
        (
            f"There {are} {number} {named} in the image.",
            f"There {are} a total of {number} {named} in the image.",
            f"There {are} {number}.",
            f"I count {number} {named}.",
            f"I can see {number} {named} in the image.",
            f"The image shows {number} {named}.",
            f"The number of {noun.many} in the image is {number}.",
            f"There {are} {NUMBERS[int(said)]} ({said}) {named} in the image.",
            f"{capital(number)} {named} can be seen.",
            f"There {are} exactly {number} {named} visible in the image.",
            f"The total number of {noun.many} is \\boxed{{{said}}}.",
        )
    )
    answer = bare(rng, number) if rng.random() < 0.3 else wrapped(rng, sentence, number)
    return Case(question, target, answer, verdict(said == true))


def _count_of_another_thing(rng: Random) -> Case:
    counted, near = rng.sample([n for n in OBJECTS if " " not in n.one], 2)
    said, other = rng.sample(range(2, 11), 2)
    agrees = rng.random() < 0.5
    true = said if agrees else other
    number, distracts = NUMBERS[said], NUMBERS[other]
    question = f"How many {counted.many} are in the image?"
    half = said * 2
    options = [
        f"There are {number} {counted.many} and {distracts} {near.many} in the image.",
        f"There are {distracts} {near.many} next to {number} {counted.many}.",
        f"{capital(number)}. There are also {distracts} {near.many}.",
        f"The {distracts} {near.many} are surrounded by {said} {counted.many}.",
        f"I can see {said} {counted.many} near the {other} {near.many}.",
        f"There are {number} {counted.many} and no {near.many} in the image.",
    ]
    answer = rng.choice(options)
    if rng.random() < 0.25:  # a sum: the parts are numbers too
        true = half if agrees else said
        answer = rng.choice(
            (
                f"There are {half} {counted.many}: {said} on the left and {said} on the right.",
                f"{said} + {said} = {half}, so there are {half} {counted.many} in the image.",
                f"There are {said} {counted.many} on the left and {said} on the right, "
                f"for a total of {half} {counted.many}.",
            )
        )
    return Case(question, truths.words(rng, str(true)), answer, verdict(agrees))


_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


_Forms = tuple[str, str, str, tuple[str, ...]]
"""A question, a number as files have it, another number, and forms of the first in answers."""


def _spelled(rng: Random) -> _Forms:
    tens, unit = rng.randint(2, 9), rng.randint(1, 9)
    value = 10 * tens + unit
    other = rng.choice([n for n in range(21, 99) if n != value])
    name, spelled = _TENS[tens], f"{_TENS[tens]}-{NUMBERS[unit]}"
    forms = (
        spelled,
        f"{capital(name)} {NUMBERS[unit]}.",
        f"There are {spelled} ({value}) dots.",
        f"There are {name} {NUMBERS[unit]} dots on the chart.",
        f"{value}.0",
    )
    return "How many dots are on the chart?", str(value), str(other), forms


def _hundreds(rng: Random) -> _Forms:
    n = rng.randint(2, 9)
    forms = (f"{NUMBERS[n]} hundred", f"{n}00", f"{capital(NUMBERS[n])} hundred people attended.")
    return "How many people attended?", f"{n}00", f"{n}000", forms


def _thousands(rng: Random) -> _Forms:
    n, m = rng.randint(2, 9), rng.randint(1, 9)
    forms = (
        f"{n},{m}00",
        f"{n},{m}00 copies were sold.",
        f"The chart shows {n}{m}00 copies.",
    )
    return "How many copies were sold?", f"{n}{m}00", f"{n}{m}0", forms


def _negative(rng: Random) -> _Forms:
    n = rng.randint(2, 40)
    forms = (f"\N{MINUS SIGN}{n}", f"minus {n}", f"The display reads -{n}.", f"-{n}")
    return "What number is on the display?", f"-{n}", str(n), forms


def _fraction(rng: Random) -> _Forms:
    forms = ("one half", "1/2 of the shape is shaded.", "\\frac{1}{2}", "0.5", "1/2")
    return "What fraction of the shape is shaded?", "1/2", rng.choice(("1/4", "2/3")), forms


def _ordinal(rng: Random) -> _Forms:
    short, spelled = rng.choice((("1st", "first"), ("2nd", "second"), ("4th", "fourth")))
    forms = (spelled, f"It finished {spelled}.", f"The red car finished in {short} place.")
    return "In which place did the red car finish?", short, "3rd", forms


def _numbered(rng: Random) -> _Forms:
    n, other = rng.sample(range(2, 60), 2)
    forms = (f"No. {n}", f"The shirt has No. {n} on it.", f"#{n}", f"number {n}", f"Number {n}.")
    return "What number is on the shirt?", str(n), str(other), forms


def _dozen(rng: Random) -> _Forms:
    forms = ("a dozen", "There are a dozen eggs in the box.", "There are twelve eggs.")
    return "How many eggs are in the box?", "12", rng.choice(("10", "6", "2")), forms


def _number_form(rng: Random) -> Case:
    draw = rng.choice(
        (_spelled, _hundreds, _thousands, _negative, _fraction, _ordinal, _numbered, _dozen)
    )
    question, true, other, forms = draw(rng)
    agrees = rng.random() < 0.5
    return Case(question, true if agrees else other, rng.choice(forms), verdict(agrees))


_SPOKEN = (
    (0, "{0} o'clock"),
    (10, "ten past {0}"),
    (15, "quarter past {0}"),
    (30, "half past {0}"),
    (45, "quarter to {1}"),
)


def _clock(rng: Random) -> Case:
    hour, (minute, spoken) = rng.randint(1, 11), rng.choice(_SPOKEN)
    agrees = rng.random() < 0.5
    time = f"{hour}:{minute:02d}"
    wrong = rng.choice([f"{h}:{minute:02d}" for h in range(1, 12) if h not in (hour, hour + 1)])
    if rng.random() < 0.4:
        wrong = f"{hour}:{rng.choice([m for m in (5, 20, 25, 35, 50) if m != minute]):02d}"
    said = rng.choice((time, spoken.format(NUMBERS[hour], NUMBERS[hour + 1])))
    answer = rng.choice(
        (said, capital(said), f"The clock shows {said}.", f"It is {said}.", f"The time is {said}.")
    )
    question = rng.choice(("What time does the clock show?", "What time is it?"))
    return Case(question, time if agrees else wrong, answer, verdict(agrees))


UNITS = (
    ("How much is the discount?", "{n}%", "{n} percent|{n} %|{n}%", "${n}|{m}%|{m} percent"),
    (
        "What is the price?",
        "${n}",
        "{n} dollars|${n}.00|${n}",
        "{n}%|${m}|{n} euros|{n} cents",
    ),
    ("How long is the line?", "{n} cm", "{n} centimeters|{n}cm|{n} cm", "{n} m|{m} cm|{n} inches"),
    ("How heavy is the bag?", "{n} kg", "{n} kilograms|{n}kg", "{m} kg|{n} grams"),
    (
        "What is the angle at the top?",
        "{n}\N{DEGREE SIGN}",
        "{n} degrees|{n}\N{DEGREE SIGN}",
        "{m} degrees|{m}\N{DEGREE SIGN}",
    ),
    (
        "What is the length of AB?",
        "{n}\N{SQUARE ROOT}3",
        "{n}\\sqrt{{3}}|\\({n}\\sqrt{{3}}\\)|{n}\N{SQUARE ROOT}3",
        "{n}|{n}\N{SQUARE ROOT}2|3|{m}\N{SQUARE ROOT}3",
    ),
)
"""Question, truth, what says the same, and what says something else."""


def _unit(rng: Random) -> Case:
    n, m = rng.sample(range(13, 98), 2)
    question, true, right, wrong = rng.choice(UNITS)
    agrees = rng.random() < 0.5
    said = rng.choice((right if agrees else wrong).split("|")).format(n=n, m=m)
    answer = rng.choice((said, f"It is {said}.", f"The answer is {said}.", f"**{said}**"))
    return Case(question, true.format(n=n), answer, verdict(agrees))


def _list_of_all(rng: Random) -> Case:
    agrees = rng.random() < 0.5
    if rng.random() < 0.5:
        first, second, third = (str(y) for y in sorted(rng.sample(range(1995, 2020), 3)))
        question = "In which two years is the value at its highest?"
        target = rng.choice(
            (
                f"[{first}, {second}]",
                f"{first} and {second}",
                f"['{first}', '{second}']",
                f"{first}, {second}",
            )
        )
    else:
        first, second, third = rng.sample(COLORS, 3)
        question = "Which two colors are on the flag?"
        target = rng.choice(
            (
                f"['{first}', '{second}']",
                f"{first} and {second}",
                f'["{first}", "{second}"]',
                f"{first}, {second}",
            )
        )
    if not agrees:
        second = rng.choice((third, ""))
    both = " and ".join(filter(None, (first, second)))
    flag = "It has" if "flag" in question else "It is highest in"
    answer = rng.choice((capital(both), f"{flag} {both}.", f"The answer is {both}."))
    if second and rng.random() < 0.3:
        answer = f"{capital(second)} and {first}."
    return Case(question, target, answer, verdict(agrees))


def _year(rng: Random) -> Case:
    year = rng.randint(1990, 2015)
    later, gap = rng.choice([(year + k, k) for k in (1, 2, 3, 4)])
    agrees = rng.random() < 0.5
    question, answer, distracts = rng.choice(
        (
            ("In which year did sales peak?", f"Sales peaked in {year}.", later),
            ("In which year did sales peak?", f"{year}", later),
            ("In which year did sales peak?", f"In {year}.", later),
            ("In which year did sales peak?", f"Sales peaked in {year}, before falling by {later}.",
             later),
            ("In which year did sales peak?",
             f"Sales peaked in {later}, {NUMBERS[gap]} years after {year}.", -1),
            ("What year is on the coin?", f"The coin shows the year {year}.", later),
            ("What year is on the coin?", f"The year on the coin is **{year}**.", later),
        )
    )  # fmt: skip
    said, other = (year, later) if distracts > 0 else (later, year)
    return Case(question, str(said if agrees else other), answer, verdict(agrees))


FAMILIES = (
    Family("count", _count),
    Family("count of another thing", _count_of_another_thing),
    Family("number form", _number_form),
    Family("clock", _clock),
    Family("unit and symbol", _unit),
    Family("list of all", _list_of_all),
    Family("year", _year),
)
