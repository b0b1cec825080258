"""Questions about numbers, in further wordings."""

from __future__ import annotations

from random import Random

import sheet_truths as truths
from sheet_forms import COLORS, NUMBERS, OBJECTS, Case, Family, capital, said_and_true, verdict
from sheet_more_open import said_in
from sheet_numbers import SMALL


def _count(rng: Random) -> Case:
    said, true = said_and_true(rng, SMALL)
    noun = rng.choice(OBJECTS)
    number = rng.choice((said, NUMBERS[int(said)]))
    named, are = (noun.one, "is") if said == "1" else (noun.many, "are")
    question = rng.choice(
        (f"How many {noun.many} can you see?", f"What is the number of {noun.many}?",
         f"Count the {noun.many} in the image.", f"How many {noun.many} are shown?")
    )  # fmt: skip
    sentence = rng.choice(
        (
            f"I see {number} {named}.",
            f"{capital(number)} {named}.",
            f"In total, there {are} {number} {named}.",
            f"There {are} {number} of them.",
            f"The answer is {number} {named}.",
            f"You can see {number} {named} here.",
            f"Exactly {number}.",
            f"The image contains {number} {named}.",
            f"{capital(number)} {named} {are} visible.",
            f"There {are} {number} {named} altogether.",
            f"I counted {number} {named}.",
            f"Just {number} {named}.",
            f"Number of {noun.many}: {number}",
        )
    )
    target = rng.choice((true, true, NUMBERS[int(true)]))
    return Case(question, target, said_in(rng, sentence, number), verdict(said == true))


def _count_of_another_thing(rng: Random) -> Case:
    counted, near = rng.sample([n for n in OBJECTS if " " not in n.one], 2)
    said, other = rng.sample(range(2, 11), 2)
    agrees = rng.random() < 0.5
    s, o = NUMBERS[said], NUMBERS[other]
    answer = rng.choice(
        (
            f"Next to the {o} {near.many} there are {s} {counted.many}.",
            f"There are {s} {counted.many}, {o} {near.many} and a wall.",
            f"I count {s} {counted.many} and {o} {near.many}.",
            f"The image shows {o} {near.many} and {s} {counted.many}.",
            f"There are {s} {counted.many}. I also see {o} {near.many}.",
            f"{capital(s)} {counted.many} and {o} {near.many}.",
            f"There are {o} {near.many}, but {s} {counted.many}.",
            f"While there are {o} {near.many}, there are {s} {counted.many}.",
            f"There are {s} {counted.many}, compared to {o} {near.many}.",
            f"There are {s} {counted.many} in {o} boxes.",
            f"{said} (not {other}).",
            f"There are {s} {counted.many}, one of them in front.",
        )
    )
    target = truths.words(rng, str(said if agrees else other))
    question = f"How many {counted.many} are in the image?"
    return Case(question, target, answer, verdict(agrees))


_Forms = tuple[str, str, str, tuple[str, ...]]


def _forms(rng: Random) -> _Forms:
    n, m = rng.sample(range(2, 10), 2)
    return rng.choice(
        (
            ("How many seats are there?", f"1{n}", f"1{m}",
             (f"1{n} seats", f"a total of 1{n}", f"There are 1{n} seats.", f"1{n}.")),
            ("How many seats are there?", "100", "10",
             ("a hundred", "one hundred", "There are a hundred seats.", "100 seats")),
            ("How many people live there?", f"{n}000000", f"{n}000",
             (f"{NUMBERS[n]} million", f"{n} million", f"{n},000,000", f"{n} million people")),
            ("What is the value of the bar?", f"0.{n}", f"0.{m}",
             (f"0.{n}", f".{n}", f"It is 0.{n}0.", f"The value is 0.{n}.")),
            ("What fraction is colored?", "1/4", "1/3",
             ("a quarter", "one quarter", "one fourth", "25%", "1/4 is colored.")),
            ("Which floor is it?", "3", "5", ("third", "the third floor", "3rd", "floor 3")),
            ("How many eggs are there?", "24", "12",
             ("two dozen", "24 eggs", "twenty-four", "Two dozen eggs.")),
            ("How many wheels are there?", "2", "4",
             ("a pair", "two wheels", "both", "There are 2 wheels.")),
            ("What is the sum?", f"{n}{m}", f"{m}{n}",
             (f"= {n}{m}", f"The sum is {n}{m}.", f"${n}{m}$", f"It equals {n}{m}.")),
            ("What is the temperature?", f"-{n}", str(n),
             (f"minus {n}", f"-{n}", f"It is -{n} degrees.", f"{n} below zero")),
            ("How old is the boy?", str(n), str(m),
             (f"{n} years old", f"He is {NUMBERS[n]}.", f"{NUMBERS[n]} years", f"aged {n}")),
            ("What number comes next?", f"2{n}", f"2{m}",
             (f"twenty-{NUMBERS[n]}", f"Twenty {NUMBERS[n]}", f"2{n} comes next.", f"It is 2{n}.")),
        )
    )  # fmt: skip


def _number_form(rng: Random) -> Case:
    question, true, other, forms = _forms(rng)
    if "both" in forms:
        forms = tuple(form for form in forms if form != "both")
    agrees = rng.random() < 0.5
    return Case(question, true if agrees else other, rng.choice(forms), verdict(agrees))


def _clock(rng: Random) -> Case:
    hour, minute = rng.randint(1, 11), rng.choice((0, 5, 20, 25, 35, 40, 50))
    agrees = rng.random() < 0.5
    time = f"{hour}:{minute:02d}"
    h, nxt = NUMBERS[hour], NUMBERS[hour + 1]
    spoken = {
        0: f"{h} o'clock", 5: f"five past {h}", 20: f"twenty past {h}",
        25: f"twenty-five past {h}", 35: f"twenty-five to {nxt}", 40: f"twenty to {nxt}",
        50: f"ten to {nxt}",
    }[minute]  # fmt: skip
    said = rng.choice((time, time, spoken))
    answer = rng.choice(
        (
            f"It shows {said}.",
            f"The clock reads {said}.",
            f"The time on the clock is {said}.",
            f"The clock says it is {said}.",
            f"{capital(said)}.",
            f"It's {said}.",
            f"The clock in the image shows {said}.",
            f"According to the clock, it is {said}.",
            f"The time shown is {said}.",
            f"**{said}**",
            f"The clock indicates {said}.",
        )
    )
    other = f"{hour % 11 + 1}:{minute:02d}"
    wrong = other if other != time and rng.random() < 0.5 else f"{hour}:{(minute + 15) % 60:02d}"
    question = rng.choice(("What time is shown on the clock?", "What time is it?"))
    return Case(question, time if agrees else wrong, answer, verdict(agrees))


UNITS = (
    ("How tall is the tree?", "{n} m", "{n} meters|{n}m|{n} metres", "{m} m|{n} cm|{n} feet"),
    ("How far is it?", "{n} km", "{n} kilometers|{n} kilometres|{n}km", "{m} km|{n} miles|{n} m"),
    ("How much does it weigh?", "{n} g", "{n} grams|{n}g", "{m} g|{n} kg"),
    ("What does it cost?", "\N{EURO SIGN}{n}", "{n} euros|{n} EUR|\N{EURO SIGN}{n}.00",
     "${n}|\N{EURO SIGN}{m}|{m} euros"),
    ("What is the share?", "{n}%", "{n} per cent|{n}%|{n} percent", "{m}%|{m} percent"),
    ("How much milk is in it?", "{n} ml", "{n} milliliters|{n}ml", "{m} ml|{n} liters"),
    ("How fast is it?", "{n} mph", "{n} mph|{n} miles per hour", "{m} mph|{n} km/h"),
    ("How long does it take?", "{n} minutes", "{n} min|{n} mins", "{n} hours|{m} minutes"),
    ("What is the temperature?", "{n}\N{DEGREE SIGN}C", "{n} \N{DEGREE SIGN}C|{n}\N{DEGREE SIGN}C",
     "{m}\N{DEGREE SIGN}C"),
    ("What is the area?", "{n} cm\N{SUPERSCRIPT TWO}",
     "{n} square centimeters|{n} cm\N{SUPERSCRIPT TWO}|{n} cm^2", "{m} cm\N{SUPERSCRIPT TWO}"),
)  # fmt: skip


def _unit(rng: Random) -> Case:
    n, m = rng.sample(range(13, 98), 2)
    question, true, right, wrong = rng.choice(UNITS)
    agrees = rng.random() < 0.5
    said = rng.choice((right if agrees else wrong).split("|")).format(n=n, m=m)
    answer = rng.choice(
        (f"{said}.", f"That is {said}.", f"It's {said}.", f"The answer is {said}", f"It is {said}.",
         f"In the image, it is {said}.", f"Answer: {said}")
    )  # fmt: skip
    return Case(question, true.format(n=n), answer, verdict(agrees))


LISTS = (
    ("Which two colors does the shirt have?", COLORS),
    ("Name the two animals in the image.", ("cat", "dog", "horse", "cow", "sheep")),
    ("Which two fruits are on the table?", ("apple", "pear", "plum", "peach", "fig")),
    ("Which two days are marked?", ("Monday", "Tuesday", "Friday", "Sunday")),
)


def _list_of_all(rng: Random) -> Case:
    question, values = rng.choice(LISTS)
    first, second, third = rng.sample(values, 3)
    agrees = rng.random() < 0.5
    target = rng.choice(
        (f"['{first}', '{second}']", f"{first} and {second}", f"{first}, {second}",
         f'["{first}", "{second}"]')
    )  # fmt: skip
    second = second if agrees else rng.choice((third, ""))
    named = [first, second] if rng.random() < 0.6 else [second, first]
    kept = [name for name in named if name]
    both = " and ".join(kept)
    answer = rng.choice(
        (
            f"{both}",
            f"{capital(both)}.",
            f"They are {both}." if len(kept) > 1 else f"It is {both}.",
            ", ".join(kept),
            "\n".join(f"- {name}" for name in kept),
            " & ".join(kept),
            "\n".join(f"{i}. {name}" for i, name in enumerate(kept, 1)),
            f"I can see {both}.",
            f"The answer is {both}.",
            f"Both {both}." if len(kept) > 1 else f"Only {both}.",
        )
    )
    return Case(question, target, answer, verdict(agrees))


def _year(rng: Random) -> Case:
    year = rng.randint(1990, 2015)
    gap = rng.choice((1, 2, 3, 5))
    later = year + gap
    agrees = rng.random() < 0.5
    answer = rng.choice(
        (
            f"It was built in {year}.",
            f"The bridge was built in {year}.",
            f"The year is {year}.",
            f"In the year {year}.",
            f"{year}, according to the plaque.",
            f"It was built in {year} and opened in {later}.",
            f"Built in {year}, the bridge was opened in {later}.",
            f"The plaque shows {year} as the year it was built.",
            f"The bridge was built in {year}, not in {later}.",
            f"That was in {year}.",
            f"It was built {NUMBERS[gap]} years before {later}, in {year}.",
        )
    )
    question = rng.choice(("In which year was the bridge built?", "When was the bridge built?"))
    return Case(question, str(year if agrees else later), answer, verdict(agrees))


FAMILIES = (
    Family("count", _count),
    Family("count of another thing", _count_of_another_thing),
    Family("number form", _number_form),
    Family("clock", _clock),
    Family("unit and symbol", _unit),
    Family("list of all", _list_of_all),
    Family("year", _year),
)
