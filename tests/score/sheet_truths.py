"""How files hold a truth: POPE, AMBER, HaloQuest, letters, codes, and ten annotators' records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random

import numpy as np
from sheet_forms import capital

AMBER = {True: "y, e, s", False: "n, o"}


def yes_no(rng: Random, yes: bool) -> str:
    """A yes or no as POPE and AMBER hold it."""
    word = "yes" if yes else "no"
    return rng.choice((word, word, capital(word), AMBER[yes]))


def coded(rng: Random, yes: bool) -> str:
    """A yes or no as HallusionBench holds it."""
    return str(int(yes))


def words(rng: Random, value: str, *sentences: str) -> str:
    """A truth in words; ``sentences`` say the same, as HaloQuest's "A; B; C" does."""
    if sentences and rng.random() < 0.4:
        several = [value, *sentences]
        rng.shuffle(several)
        return "; ".join(several)
    if sentences and rng.random() < 0.2:
        return f"{sentences[0]}."
    return rng.choice((value, value, capital(value), f"{capital(value)}.", json.dumps([value])))


def several(rng: Random, *sentences: str) -> str:
    """HaloQuest's "A; B; C": sentences of one meaning, one or more of them."""
    count = rng.randint(1, len(sentences))
    return "; ".join(rng.sample(sentences, count))


def letter(rng: Random, letter: str) -> str:
    """The letter of an option as MMVP, BLINK, MMBench and others hold it."""
    return rng.choice(("({})", "{}", "{}.", "{})")).format(letter)


def annotators(rng: Random, votes: Mapping[str, int]) -> str:
    """Ten annotators' answers as a file of VQAv2 or VizWiz holds them.

    JSON, as Python prints it, or as NumPy prints it; the answers alone, a list of records, or the
    columns that ``datasets`` makes of such a list.
    """
    answers = [answer for answer, count in votes.items() for _ in range(count)]
    rng.shuffle(answers)
    records = [
        {
            "answer": answer,
            "answer_confidence": rng.choices(("yes", "maybe", "no"), (8, 2, 1))[0],
            "answer_id": number,
        }
        for number, answer in enumerate(answers, 1)
    ]
    form = rng.randrange(8)
    if form == 0:
        return json.dumps(answers)
    if form == 1:
        return json.dumps(records)
    if form == 2:
        return str(answers)
    if form == 3:
        return str(records)
    if form == 4:
        return str(np.array(answers, dtype=object))
    if form == 5:
        return str(np.array(records, dtype=object))
    columns = {name: [record[name] for record in records] for name in records[0]}
    if form == 6:
        return json.dumps(columns)
    return str({name: np.array(values, dtype=object) for name, values in columns.items()})
