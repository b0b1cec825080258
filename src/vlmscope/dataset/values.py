"""Conversion of cell values to text and JSON, and what counts as missing, for every format."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from vlmscope.dataset.encoded import holds_image
from vlmscope.errors import shortened
from vlmscope.jsontext import DEEPEST, MOST_DIGITS, is_long, load_json, nests_deeper
from vlmscope.locking import warnings_lock
from vlmscope.shown import encodable

DIGEST_BYTES = 16
"""Size of the hash of a row, or of bytes in a cell; 16 MB for a million rows."""

LEFT_OUT: Final = object()
"""Result of ``to_json`` for values that are not metadata: bytes, and unknown objects."""


class CellError(ValueError):
    """A cell's value cannot be stored in a run; the message is the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A cell whose value has no Python equivalent: a date in the year 20000."""

    why: str
    """The library's error."""


def kind_name(value: object) -> str:
    """Return the kind of an unexpected value as text.

    >>> kind_name([1]), kind_name(Unreadable("OverflowError: year 20000"))
    ('a list', 'not readable (OverflowError: year 20000)')
    """
    if isinstance(value, Unreadable):
        return f"not readable ({value.why})"
    if isinstance(value, int) and is_long(value):
        return f"a number of more than {MOST_DIGITS} digits"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def shown_name(name: str, longest: int = 60) -> str:
    r"""Return a name from a table for a message: quoted, on one line, shortened.

    >>> shown_name("a\nb"), shown_name("x" * 90, 4)
    ("'a\\nb'", "'xxxx…'")
    """
    return repr(shortened(name, longest))


_LONGEST_PATH = 200


def shown_path(path: Path) -> str:
    """Return a path for a message: a long one without its middle."""
    text = encodable(str(path))
    return text if len(text) <= _LONGEST_PATH else f"{text[:60]}…{text[-(_LONGEST_PATH - 60) :]}"


def is_null(value: object) -> bool:
    """Return whether a cell is missing: None or NaN.

    >>> is_null(None), is_null(float("nan")), is_null("")
    (True, True, False)
    """
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_blank(value: object) -> bool:
    """Return whether a cell is missing, or text of white space only."""
    return is_null(value) or (isinstance(value, str) and not value.strip())


def to_text(value: object) -> str | None:
    """Return a cell as text: text verbatim, numbers by ``str``, dates in ISO form.

    Returns:
        The text, or None for values without one: lists, structs, bytes, a whole number of more than
        ``MOST_DIGITS`` digits.

    >>> to_text("007"), to_text(3), to_text(12.0), to_text(True), to_text([1])
    ('007', '3', '12.0', 'True', None)
    """
    if isinstance(value, str):
        return value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, int) and is_long(value):
        return None
    if isinstance(value, int | float | Decimal):
        return str(value)
    return None


def to_target(value: object, missing: frozenset[str]) -> str | None:
    """Return a ground truth as text: empty if missing, JSON for a list or struct.

    Args:
        value: the cell.
        missing: texts that mean "no value" in this format.

    Returns:
        The text, or None for values without one: bytes.

    Raises:
        CellError: no run can store it.

    >>> to_target(float("nan"), frozenset()), to_target(["a", "é"], frozenset())
    ('', '["a", "é"]')
    """
    if is_null(value) or (isinstance(value, str) and value in missing):
        return ""
    text = to_text(value)
    if text is not None:
        return text
    plain = to_json(value)
    return None if plain is LEFT_OUT else json.dumps(plain, ensure_ascii=False)


def to_json(value: Any, levels: int = DEEPEST) -> Any:
    """Convert a cell to what ``json.dumps(..., allow_nan=False)`` accepts.

    NaN becomes None, infinities and decimals become text, dates and times ISO text, numpy and
    pandas scalars Python values; bytes, images written as text and unknown objects are left out,
    inside lists and structs too.

    Args:
        value: the cell.
        levels: how deep it may nest.

    Returns:
        The plain value, or ``LEFT_OUT``.

    Raises:
        CellError: it nests deeper, or contains a number that is too long or a value without a
            Python equivalent.

    >>> to_json({"when": date(2024, 5, 1), "score": float("nan"), "raw": b"x", "tags": ("a", b"y")})
    {'when': '2024-05-01', 'score': None, 'tags': ['a']}
    """
    if isinstance(value, str):
        return LEFT_OUT if holds_image(value) else value
    if isinstance(value, dict | list | tuple):
        return _nested_json(value, levels)
    if is_null(value):
        return None
    if isinstance(value, Unreadable) or (isinstance(value, int) and is_long(value)):
        raise CellError(f"is {kind_name(value)}")
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = to_text(value)
    if text is not None or not hasattr(value, "tolist"):
        return LEFT_OUT if text is None else text
    plain = value.tolist()
    return LEFT_OUT if type(plain) is type(value) else to_json(plain, levels)  # a long double


def _nested_json(value: dict[Any, Any] | list[Any] | tuple[Any, ...], levels: int) -> Any:
    """Convert a container as ``to_json`` does."""
    if not levels:
        raise CellError(f"nests deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        items = ((str(key), to_json(item, levels - 1)) for key, item in value.items())
        return {key: item for key, item in items if item is not LEFT_OUT}
    plain = (to_json(item, levels - 1) for item in value)
    return [item for item in plain if item is not LEFT_OUT]


_A_TEXT = re.compile(r"'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\"", re.DOTALL)
_NEXT_TEXT = re.compile(r"\s*[bBuUrRfF]{0,2}['\"]")
_LONGEST_LIST = 64 * 2**20
_MOST_ITEMS = 10_000


def printed_list(text: str) -> Any:
    """Return the list printed in a text, as JSON or as Python prints it; else None.

    NumPy prints a list of texts without commas.

    >>> printed_list('["a"]'), printed_list("['a', 'b']"), printed_list("['a' 'b']")
    (['a'], ['a', 'b'], ['a', 'b'])
    >>> printed_list("[a].png"), printed_list("['a' 'b', 'c']")
    (None, None)
    """
    body = text.strip()
    if not body.startswith("[") or not body.endswith("]") or len(body) > _LONGEST_LIST:
        return None
    try:
        return load_json(body)
    except ValueError:
        pass
    if nests_deeper(body) or body.count(",") > _MOST_ITEMS:
        return None
    texts = list(_A_TEXT.finditer(body))
    if any(_NEXT_TEXT.match(body, found.end()) for found in texts):
        # Python would join two texts without a comma between them.
        is_of_numpy = len(texts) <= _MOST_ITEMS and not _A_TEXT.sub("", body)[1:-1].strip()
        body = f"[{','.join(found[0] for found in texts)}]" if is_of_numpy else ""
    try:
        with warnings_lock(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about backslashes in the text
            return ast.literal_eval(body)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def unstorable(text: str) -> str | None:
    r"""Return what makes a text unstorable: NUL, or a lone surrogate; else None.

    >>> unstorable("a\0"), unstorable("\ud83d"), unstorable("köln/a.b")
    ('a NUL character', 'a lone surrogate', None)
    """
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate"
    return None


def cells_as_bytes(cells: Any) -> bytes:
    """Return bytes that are equal for equal cells within this process."""
    return repr(_without_bytes(cells)).encode()


def _without_bytes(value: Any) -> Any:
    """Return cells with digests instead of bytes, whose text would be four times as long."""
    if isinstance(value, bytes):
        return blake2b(value, digest_size=DIGEST_BYTES).hexdigest()
    if isinstance(value, dict):
        return {name: _without_bytes(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_bytes(each) for each in value]
    if hasattr(value, "tolist"):  # the text of a large array has no middle
        return [type(value).__name__, value.tolist()]
    return value
