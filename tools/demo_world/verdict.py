"""Is an answer of the demo model right, and if not, does it claim what the picture does not show?

The model speaks in few forms, so a plain rule can judge it without a doubt left.
"""

from __future__ import annotations

import re

from tools.demo_world.scenes import NUMBERS

DENIALS = ("there is no ", "there are no ", "the picture does not ")
"""How answers begin that claim nothing."""


NEGATED = "negated-presence"
"""The category of the questions that ask whether something is *not* there."""


def judge(answer: str, accepted: str, answer_type: str, category: str = "") -> tuple[bool, bool]:
    """Return whether an answer is right, and whether it is a hallucination.

    A mere *No* about something that is there is a mistake, but it claims nothing. *No, it is in the
    left half* does, and so does *No* to *Is there not a circle?*

    Args:
        answer: What the model said.
        accepted: The right answers, ``; `` between them.
        answer_type: As in the table's column.
        category: Likewise.

    >>> judge("Yes, there is a fork.", "No", "yes/no")
    (False, True)
    >>> judge("There are two cups.", "2; two; There are two cups.", "number")
    (True, False)
    >>> judge("No.", "yes", "yes/no", "negated-presence")
    (False, True)
    """
    said = answer.strip().rstrip(".").lower()
    truths = [truth.strip().rstrip(".").lower() for truth in accepted.split("; ")]
    if answer_type == "yes/no":
        word = re.split(r"\W", said)[0]
        claims = word == ("no" if category == NEGATED else "yes") or said.startswith("no, it is ")
        return word == truths[0], word != truths[0] and claims
    right, denies = said in truths, said.startswith(DENIALS)
    if answer_type == "number" and not denies:
        more = not _numbers(said) or _numbers(said)[0] > int(truths[0])
        return right, not right and more
    return right, not right and not denies


def _numbers(said: str) -> list[int]:
    """Return the numbers in a sentence, written in digits or as words."""
    words = [word for word in said.split() if word.isdigit() or word in NUMBERS]
    return [int(word) if word.isdigit() else NUMBERS.index(word) for word in words]
