"""The API key, kept out of whatever is stored or shown.

An endpoint may echo what it was sent: in an error, a redirect, or the reason of a verdict. So every
text that comes from it is written through a ``Mask``, which finds the key also where its case was
changed, white space was put into it, or it was written for a URL, in JSON or in base64.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

SHORTEST_KEY = 8
"""Shorter keys are placeholders for endpoints that ask for none, and may be parts of words."""

MASKED = "***"
"""What is shown instead."""

_LONGEST_TEXT = 2**16
"""Characters that are looked through: many times more than is ever shown."""

_LONGEST_SIGN = 16
"""Characters that one character of a key is written with, at most."""

_BETWEEN = "[ \\u00ad\\u200b-\\u200d\\u2060\\ufeff]{0,2}"
"""What may stand between two characters of a key; other white space is a blank by then."""


class Mask:
    """Writes texts without some secrets.

    Args:
        secrets: What to leave out; those shorter than ``SHORTEST_KEY`` are no secrets.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({s for s in secrets if len(s) >= SHORTEST_KEY}, key=len)

    def line(self, text: str, longest: int) -> str:
        r"""Return a text on one line that every file can hold, shortened, without the secrets.

        >>> Mask(["sk-012345"]).line("The key\nis SK-0 12345.", 80)
        'The key is ***.'
        """
        line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
        if self._secrets:
            line = self._without_secrets(line)
        return line if len(line) <= longest else f"{line[:longest]}…"

    def _without_secrets(self, line: str) -> str:
        masked = self._pattern.sub(MASKED, line[:_LONGEST_TEXT])
        if len(line) <= _LONGEST_TEXT:
            return masked
        # The text may have been cut within a secret, of which the end would then be shown.
        return masked[: max(0, len(masked) - _LONGEST_SIGN * len(self._secrets[-1]))]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        forms = (form for secret in reversed(self._secrets) for form in _forms(secret))
        return re.compile("|".join(forms), re.IGNORECASE)


def _forms(secret: str) -> Iterator[str]:
    """Yield patterns of everything that a secret may be written as."""
    data = secret.encode()
    yield _BETWEEN.join(map(_sign, secret))
    yield _BETWEEN.join(map(re.escape, data.hex()))
    for before in range(3):  # where it begins within three bytes decides how base64 writes it
        whole = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        first = -(-before * 4 // 3)
        last = len(whole) if (before + len(data)) % 3 == 0 else -1
        inner = whole[first:last]
        yield _BETWEEN.join("[+-]" if c == "+" else "[/_]" if c == "/" else c for c in inner)


def _sign(character: str) -> str:
    r"""Return a pattern of one character: as it is, or as URLs, JSON and HTML write it.

    >>> [bool(re.fullmatch(_sign("-"), text)) for text in ("-", "%2d", "\\u002d", "&#45;", "x")]
    [True, True, True, True, False]
    """
    code = ord(character)
    backslashes = "\\\\{1,4}" if character == "\\" else "\\\\{0,4}" if character in '"/' else ""
    plain = "" if character == "\\" else re.escape(character)
    return (
        f"(?:{backslashes}{plain}|%(?:25){{0,3}}{code:02x}|\\\\{{1,4}}(?:u00|x){code:02x}"
        f"|&#(?:0{{0,4}}{code}|x0{{0,4}}{code:x});)"
    )
