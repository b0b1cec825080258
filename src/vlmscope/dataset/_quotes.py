"""Whether the quotation marks of a delimited text quote, or are part of the text.

pandas and Excel quote a field that holds a quotation mark; other programs write TSV as it comes,
where a mark at the beginning of a field quotes nothing. Read with quoting, such a mark swallows
everything up to the next one, rows and all, and nothing looks wrong. What a file does is decided
once, from the whole file; where it cannot be decided, the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WELL_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_DIGITS = re.compile(r"\d+")
_BREAK = re.compile(r"\r\n|\r|\n")

DELIMITERS = "\t,;|"
"""Characters that may stand between fields."""


def find_delimiter(header: str, declared: str) -> str:
    """Return the delimiter of a table by its header: the declared one, where it has that.

    >>> find_delimiter("id;image;question", ","), find_delimiter("id", ",")
    (';', ',')
    """
    line = header.rstrip("\r\n")
    if declared in line:
        return declared
    return max(DELIMITERS, key=lambda mark: (line.count(mark), mark == declared))


def is_quoted(lines: Iterable[str], delimiter: str) -> bool:
    r"""Return whether quotation marks quote in a text, its lines as they stand in the file.

    They do not, where every line has as many fields as the header even if they quote nothing, and
    one field has marks as no writer that quotes would write them.

    >>> is_quoted(['a\tb', '1\t"x"'], "\t"), is_quoted(['a\tb', '1\t"x', '2\ty"'], "\t")
    (True, False)
    """
    expected = None
    malformed = False
    for line in lines:
        bare = line.rstrip("\r\n")
        if not bare:
            continue
        count = bare.count(delimiter)
        if expected is None:
            expected = count
        if count != expected:
            return True
        if '"' in bare and not malformed:
            malformed = any(
                '"' in field and not _WELL_QUOTED.fullmatch(field)
                for field in bare.split(delimiter)
            )
    return not malformed


def looks_swallowed(fields: Sequence[str], delimiter: str, expected: int) -> bool:
    r"""Return whether what was read as one row are several rows.

    They are, where each line has the header's number of fields by itself, and the lines look alike
    apart from the field in which a quotation mark opens or closes: the numbers may differ.

    Args:
        fields: The fields of the row, one of which holds a line break.
        delimiter: What stands between fields.
        expected: Fields of the header.

    >>> looks_swallowed(["1", "a1.png", "Is it?\n2,a2.png,Is it?"], ",", 3)
    True
    >>> looks_swallowed(["1", "a1.png", "Look:\nred, green, or blue?"], ",", 3)
    False
    """
    text = delimiter.join(f'"{field}"' if _BREAK.search(field) else field for field in fields)
    rows = [line.split(delimiter) for line in _BREAK.split(text)]
    if any(len(row) != expected for row in rows):
        return False
    if delimiter == "\t":
        return True
    shapes = [[_DIGITS.sub("0", field) for field in row if '"' not in field] for row in rows]
    return any(one == other for one, other in zip(shapes[0], shapes[-1], strict=False))
