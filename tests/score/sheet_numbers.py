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


def _number_form(rng: Random) -> Case:
    agrees = rng.random() < 0.5
    tens, unit = rng.randint(2, 9), rng.randint(1, 9)
    value = 10 * tens + unit
    wrong = rng.choice([n for n in range(21, 99) if n != value])
    hundred, thousand = rng.randint(2, 9), rng.randint(2, 9)
    question, true, other, forms = rng.choice(
        (
            (
                "How many dots are on the chart?",
                str(value),
                str(wrong),
                (
                    f"{_TENS[tens]}-{NUMBERS[unit]}",
                    f"{capital(_TENS[tens])} {NUMBERS[unit]}.",
                    f"There are {_TENS[tens]}-{NUMBERS[unit]} ({value}) dots.",
                    f"{value}.0",
                ),
            ),
            (
                "How many people attended?",
                f"{hundred}00",
                f"{hundred}000",
                (
                    f"{NUMBERS[hundred]} hundred",
                    f"{hundred}00 people",
                    f"{hundred}00 people attended.",
                ),
            ),
            (
                "How many copies were sold?",
                f"{thousand}{hundred}00",
                f"{thousand}{hundred}0",
                (
                    f"{thousand},{hundred}00",
                    f"{thousand},{hundred}00 copies were sold.",
                    f"The chart shows {thousand}{hundred}00 copies.",
                ),
            ),
            (
                "What is the temperature on the display?",
                f"-{value}",
                str(value),
                (f"\N{MINUS SIGN}{value}", f"minus {value}", f"The display reads -{value}."),
            ),
            (
                "What fraction of the shape is shaded?",
                "1/2",
                "1/4",
                ("one half", "1/2 of the shape is shaded.", "\\frac{1}{2}", "0.5"),
            ),
            (
                "In which place did the red car finish?",
                "2nd",
                "3rd",
                ("second", "It finished second.", "The red car finished in 2nd place."),
            ),
            (
                "What number is on the shirt?",
                str(unit),
                str(wrong),
                (f"No. {unit}", f"The shirt has No. {unit} on it.", f"#{unit}", f"number {unit}"),
            ),
            (
                "How many eggs are in the box?",
                "12",
                "10",
                ("a dozen", "There are a dozen eggs in the box.", "There are twelve eggs."),
            ),
        )
    )
    return Case(question, true if agrees else other, rng.choice(forms), verdict(agrees))


def _clock(rng: Random) -> Case:
    hour, (minute, spoken) = (
        rng.randint(1, 11),
        rng.choice(
            (
                (0, "{0} o'clock"),
                (15, "quarter past {0}"),
                (30, "half past {0}"),
                (45, "quarter to {1}"),
                (10, "ten past {0}"),
            )
        ),
    )
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


def _unit(rng: Random) -> Case:
    n, m = rng.sample(range(13, 98), 2)
    question, true, right, wrong = rng.choice(
        (
            (
                "How much is the discount?",
                f"{n}%",
                (f"{n} percent", f"{n} %", f"{n}%"),
                (f"${n}", f"{m}%", f"{m} percent"),
            ),
            (
                "What is the price?",
                f"${n}",
                (f"{n} dollars", f"${n}.00", f"${n}"),
                (f"{n}%", f"${m}", f"\N{EURO SIGN}{n}", f"{n} cents"),
            ),
            (
                "How long is the line?",
                f"{n} cm",
                (f"{n} centimeters", f"{n}cm", f"{n} cm"),
                (f"{n} m", f"{m} cm", f"{n} inches"),
            ),
            (
                "How heavy is the bag?",
                f"{n} kg",
                (f"{n} kilograms", f"{n}kg"),
                (f"{m} kg", f"{n} grams"),
            ),
            (
                "What is the angle at the top?",
                f"{n}\N{DEGREE SIGN}",
                (f"{n} degrees", f"{n}\N{DEGREE SIGN}"),
                (f"{m} degrees", f"{m}\N{DEGREE SIGN}"),
            ),
            (
                "What is the length of AB?",
                f"{n % 9 + 2}\N{SQUARE ROOT}3",
                (
                    f"{n % 9 + 2}\\sqrt{{3}}",
                    f"\\({n % 9 + 2}\\sqrt{{3}}\\)",
                    f"{n % 9 + 2}\N{SQUARE ROOT}3",
                ),
                (f"{n % 9 + 2}", f"{n % 9 + 2}\N{SQUARE ROOT}2", "3"),
            ),
        )
    )
    agrees = rng.random() < 0.5
    said = rng.choice(right if agrees else wrong)
    answer = rng.choice((said, f"It is {said}.", f"The answer is {said}.", f"**{said}**"))
    return Case(question, true, answer, verdict(agrees))


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
