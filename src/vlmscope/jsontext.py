r"""Parsing of untrusted JSON, within limits that are the same everywhere.

``json.loads`` takes what the interpreter's stack has room for at the moment: the same text can be
read in one call and end in a ``RecursionError`` in the next, or when it is written, printed or
compared. Here a text nests at most ``DEEPEST`` levels, well below the limit of any of them.

The limits are for values; what contains them (a row of a table, the metadata of a row) adds one
level of its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

DEEPEST = 64
"""Most levels of lists and objects in a value."""

MOST_DIGITS = 640
"""Most digits of a whole number that Python converts to text and back in every configuration."""

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
    >>> load_json("[" + "9" * 5000 + "]")
    Traceback (most recent call last):
    ValueError: has a whole number of too many digits
    """
    if nests_deeper(text, levels):
        raise ValueError(f"nests deeper than {levels} levels")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python's names a function to call
        raise ValueError("has a whole number of too many digits") from error


def json_lines(file: IO[bytes], longest: int) -> Iterator[Any]:
    r"""Yield the values of a JSON Lines file that is appended to.

    A killed process leaves an incomplete line, and other users of a shared folder may write
    anything: lines that are not JSON, or have ``longest`` bytes or more, are left out.

    Args:
        file: The file, at the start of a line.
        longest: Bytes that no line written by vlmscope reaches.

    >>> from io import BytesIO
    >>> list(json_lines(BytesIO(b'{"a": 1}\n{"a": 2\n[3]\n{"a'), 100))
    [{'a': 1}, [3]]
    """
    complete = True
    while line := file.readline(longest):
        ends = line.endswith(b"\n")
        if complete and (ends or len(line) < longest):
            with suppress(ValueError):
                yield load_json(line.decode())
        complete = ends


def line_break(file: IO[bytes]) -> bytes:
    r"""Return what to write before an appended line: a line break, if the last line is incomplete.

    Args:
        file: The file, which can be read; its position is moved.

    >>> from io import BytesIO
    >>> line_break(BytesIO()), line_break(BytesIO(b"{}\n")), line_break(BytesIO(b'{"a'))
    (b'', b'', b'\n')
    """
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def nests_deeper(text: str, levels: int = DEEPEST) -> bool:
    """Return whether a JSON text nests deeper than ``levels``.

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
    """Return JSON text without what nests too deep to be parsed, and with too long numbers cut.

    Enough stays to show that it was there: an empty list or object on level ``levels + 1``, and a
    whole number of more than ``MOST_DIGITS`` digits. So one such value can be refused by itself,
    and the rest of the document can be read.

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
    """Return whether a whole number has more than ``MOST_DIGITS`` digits."""
    return abs(number) >= _BEYOND_DIGITS
