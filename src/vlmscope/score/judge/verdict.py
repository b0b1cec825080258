"""Verdicts, their parsing from a model's reply, and masking of the API key.

Endpoints without structured output wrap the JSON in prose or fences, and reasoning models write
their reasoning first. The last object that contains a verdict counts. A verdict in unfinished
reasoning, or one that occurs verbatim in the row itself, is ignored: an answer may contain one, and
a judge may quote it. So is a copy of the example in the prompt.

An endpoint may echo the API key: in an error, a redirect, or the reason of a verdict. Every text
from it goes through a ``Mask``, which also finds the key in another case, with white space in it,
or encoded for a URL, JSON, HTML, hex or base64.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

from vlmscope.shown import encodable

SHORTEST_KEY = 8
"""Shorter keys are placeholders for endpoints without keys, and may occur in ordinary words."""

MASKED = "***"
"""Replacement of a key."""

_LONGEST_TEXT = 2**16
"""Most characters searched for a key: many times more than is ever shown."""

_LONGEST_FORM = 16
"""Most characters that one character of a key is encoded with."""

_BETWEEN = "[ \\u00ad\\u200b-\\u200d\\u2060\\ufeff]{0,2}"
"""Characters allowed between two characters of a key; other white space is already a space."""


class Mask:
    """Mask of secrets in texts.

    Args:
        secrets: Texts to mask; those shorter than ``SHORTEST_KEY`` are not secrets.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({s for s in secrets if len(s) >= SHORTEST_KEY}, key=len)

    def line(self, text: str, longest: int) -> str:
        r"""Return a text on one line of valid Unicode, shortened, without the secrets.

        >>> Mask(["sk-012345"]).line("The key\nis SK-0 12345.", 80)
        'The key is ***.'
        """
        line = " ".join(encodable(text).split())
        if self._secrets:
            line = self._without_secrets(line)
        return line if len(line) <= longest else f"{line[:longest]}…"

    def _without_secrets(self, line: str) -> str:
        masked = self._pattern.sub(MASKED, line[:_LONGEST_TEXT])
        if len(line) <= _LONGEST_TEXT:
            return masked
        # The text may have been cut within a secret, whose start would then be shown.
        return masked[: max(0, len(masked) - _LONGEST_FORM * len(self._secrets[-1]))]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        forms = (form for secret in reversed(self._secrets) for form in _forms(secret))
        return re.compile("|".join(forms), re.IGNORECASE)


NOTHING_MASKED: Final = Mask()


def _forms(secret: str) -> Iterator[str]:
    """Yield patterns of every encoding of a secret."""
    data = secret.encode()
    yield _BETWEEN.join(map(_character, secret))
    yield _BETWEEN.join(map(re.escape, data.hex()))
    for before in range(3):  # the offset within three bytes decides how base64 encodes it
        whole = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        first = -(-before * 4 // 3)
        last = len(whole) if (before + len(data)) % 3 == 0 else -1
        inner = whole[first:last]
        yield _BETWEEN.join("[+-]" if c == "+" else "[/_]" if c == "/" else c for c in inner)


def _character(character: str) -> str:
    r"""Return a pattern of one character: as it is, or as URLs, JSON and HTML encode it.

    >>> [bool(re.fullmatch(_character("-"), text)) for text in ("-", "%2d", "\\u002d", "&#45;")]
    [True, True, True, True]
    >>> bool(re.fullmatch(_character("-"), "x"))
    False
    """
    code = ord(character)
    backslashes = "\\\\{1,4}" if character == "\\" else "\\\\{0,4}" if character in '"/' else ""
    plain = "" if character == "\\" else re.escape(character)
    return (
        f"(?:{backslashes}{plain}|%(?:25){{0,3}}{code:02x}|\\\\{{1,4}}(?:u00|x){code:02x}"
        f"|&#(?:0{{0,4}}{code}|x0{{0,4}}{code:x});)"
    )


Word = Literal["hallucinated", "faithful", "unclear"]
"""Possible verdicts."""

WORDS: tuple[Word, ...] = get_args(Word)

FORM = "one short sentence that names the agreement or the contradiction"
"""The reason in the example of a reply that the prompt shows."""

LONGEST_REASON = 500
"""Most characters stored of a reason."""

_DATA = re.compile(r"<data>\n(.*)\n</data>", re.DOTALL)
_LONGEST_REPLY = 50_000
_MOST_OBJECTS = 1_000  # that are tried, from the end


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's verdict on an answer."""

    word: Word | None
    """None if there is no verdict: such a row is requested again next time."""
    reason: str
    """The judge's reason, or why there is no verdict."""

    @property
    def hallucinated(self) -> bool | None:
        """The verdict as in a score: None if it is unclear or there is none."""
        return None if self.word in (None, "unclear") else self.word == "hallucinated"

    @property
    def evidence(self) -> str:
        """The evidence of the score."""
        reason = self.reason or "the judge gave no reason"
        return f"unclear: {reason}" if self.word == "unclear" else reason


Messages = list[dict[str, str]]
"""A chat: ``role`` and ``content`` of each message."""

Keep = Callable[[Verdict], None]
"""Called with a verdict as soon as it arrives, to store it."""


def verdict_of(record: Any, mask: Mask = NOTHING_MASKED) -> Verdict | None:
    r"""Return the verdict in a decoded JSON value, None if there is none.

    Args:
        record: The value.
        mask: What the reason is shown through.

    >>> verdict_of({"verdict": " Faithful", "reason": "Both say\nyes."})
    Verdict(word='faithful', reason='Both say yes.')
    >>> verdict_of({"Verdict": "unclear."}).word, verdict_of({"verdict": "maybe"})
    ('unclear', None)
    """
    if not isinstance(record, dict):
        return None
    fields = {str(name).strip().lower(): value for name, value in record.items()}
    given, reason = fields.get("verdict"), fields.get("reason")
    if not isinstance(given, str):
        return None
    for word in WORDS:
        if given.strip(" \t\n.!*\"'").lower() == word:
            shown = mask.line(reason, LONGEST_REASON) if isinstance(reason, str) else ""
            return Verdict(word, shown)
    return None


def read_verdict(
    reply: str, mask: Mask = NOTHING_MASKED, sent: Sequence[Mapping[str, str]] = ()
) -> Verdict | None:
    r"""Return the last verdict in a reply, None if there is none.

    Args:
        reply: The judge's reply.
        mask: What the reason is shown through.
        sent: The messages that it replies to; a verdict quoted from their row does not count.

    >>> read_verdict('Let me see: {"a": 1}. So: ```json\n{"verdict": "unclear"}```')
    Verdict(word='unclear', reason='')
    >>> read_verdict("faithful"), read_verdict('<think>{"verdict": "faithful"} or not')
    (None, None)
    """
    reply = reply[-_LONGEST_REPLY:].rpartition("</think>")[2].partition("<think>")[0]
    quotable = _row_text(sent)
    decoder = json.JSONDecoder(strict=False)  # a reason may span several lines
    start = reply.rfind("{")
    for _ in range(_MOST_OBJECTS):
        if start < 0:
            return None
        try:
            record, end = decoder.raw_decode(reply, start)
            quoted = "".join(reply[start:end].split()) in quotable
            verdict = None if quoted else verdict_of(record, mask)
            verdict = None if verdict and verdict.reason == FORM else verdict
        except (ValueError, RecursionError):
            verdict = None
        if verdict is not None:
            return verdict
        start = reply.rfind("{", 0, start)
    return None


def _row_text(sent: Sequence[Mapping[str, str]]) -> str:
    r"""Return the texts of the row in some messages, without white space; empty if there is none.

    >>> _row_text([{"role": "user", "content": '<data>\n{"answer": "a b"}\n</data>'}])
    'ab'
    """
    for message in sent:
        if found := _DATA.fullmatch(message["content"]):
            try:
                row = json.loads(found[1])
            except (ValueError, RecursionError):
                return ""
            texts = row.values() if isinstance(row, dict) else ()
            return "\n".join("".join(text.split()) for text in texts if isinstance(text, str))
    return ""
