r"""JSON that somebody else may have written, parsed within limits that hold everywhere.

``json.loads`` takes what the interpreter's stack has room for at the moment: the same text can be
read in one place and end in a ``RecursionError`` in the next, or when it is written, printed or
compared. Here a text nests at most ``DEEPEST`` levels, well below what any of them can take.

The limits are for values; what contains them (a row of a table, the metadata of a row) adds one
level of its own.
"""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 64
"""Levels of lists and objects that a value may nest."""

MOST_DIGITS = 640
"""Digits of a whole number that Python turns into text and back, however it is configured."""

_BEYOND_DIGITS: int = 10**MOST_DIGITS

_TOKEN = re.compile(
    r'"(?:[^"\\]++|\\.)*+"?'  # a text, whatever is in it
    r"|[\[{\]}]"
    rf"|(?<![\w.+-])-?\d{{{MOST_DIGITS + 1},}}+(?![.eE])",  # a whole number that is too long
    re.DOTALL,
)


def load_json(text: str, *, levels: int = DEEPEST) -> Any:
    """Parse JSON that nests at most ``levels`` deep.

    Raises:
        ValueError: It nests deeper, has a number too long for Python, or is not JSON.

    >>> load_json('{"a": [1]}')
    {'a': [1]}
    >>> load_json("[" * 500 + "]" * 500)
    Traceback (most recent call last):
    ValueError: nests deeper than 64 levels
    """
    if nests_deeper(text, levels):
        raise ValueError(f"nests deeper than {levels} levels")
    return json.loads(text)


def nests_deeper(text: str, levels: int = DEEPEST) -> bool:
    """Tell whether a JSON text nests deeper than ``levels``.

    >>> nests_deeper("[[]]", 2), nests_deeper("[[[]]]", 2), nests_deeper('["[[["]', 2)
    (False, True, False)
    """
    if text.count("[") + text.count("{") <= levels:  # almost always, and far faster
        return False
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "[{":
            depth += 1
            if depth > levels:
                return True
        elif mark in "]}":
            depth -= 1
    return False


def cut_json(text: str, levels: int) -> str:
    """Leave out what nests too deep to be parsed, and the end of numbers too long for it.

    Enough stays to show that it was there: an empty list or object on level ``levels + 1``, and a
    whole number of more than ``MOST_DIGITS`` digits. So one such value can be refused where it
    stands, and what is around it can be read.

    >>> cut_json('{"a": [[["x]"], 1]], "b": 2}', 2)
    '{"a": [[]], "b": 2}'
    """
    kept = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "[{":
            depth += 1
            if depth == levels + 1:
                kept.append(text[start : token.end()])
        elif mark in "]}":
            if depth == levels + 1:
                start = token.start()
            depth -= 1
        elif mark != '"' and depth <= levels:
            kept.append(text[start : min(token.end(), token.start() + MOST_DIGITS + 2)])
            start = token.end()
    if depth <= levels:
        kept.append(text[start:])
    return "".join(kept)


def is_long(number: int) -> bool:
    """Tell whether a whole number has more than ``MOST_DIGITS`` digits."""
    return abs(number) >= _BEYOND_DIGITS
