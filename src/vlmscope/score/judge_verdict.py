"""The judge's verdict, and how it is found in what a model wrote.

Endpoints that know no structured output wrap the JSON in prose or fences, and reasoning models
think aloud first. The last object that holds a verdict is the one the judge ended on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

Word = Literal["hallucinated", "faithful", "unclear"]
"""What the judge may say."""

WORDS: tuple[Word, ...] = get_args(Word)

_LONGEST_REASON = 500
_LONGEST_REPLY = 50_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of an answer."""

    word: Word | None
    """None where no verdict could be had: such a row is asked again next time."""
    reason: str
    """The judge's reason, or why there is no verdict."""

    @property
    def hallucinated(self) -> bool | None:
        """The verdict as a score has it: None where the judge cannot tell or was not heard."""
        return None if self.word in (None, "unclear") else self.word == "hallucinated"

    @property
    def evidence(self) -> str:
        """What a score quotes."""
        reason = self.reason or "the judge gave no reason"
        return f"unclear: {reason}" if self.word == "unclear" else reason


def verdict_of(record: Any) -> Verdict | None:
    r"""Return the verdict that a decoded JSON value holds, None if it holds none.

    >>> verdict_of({"verdict": " Faithful", "reason": "Both say\nyes."})
    Verdict(word='faithful', reason='Both say yes.')
    >>> verdict_of({"verdict": "maybe"}) is None
    True
    """
    if not isinstance(record, dict):
        return None
    said = str(record.get("verdict")).strip().lower()
    reason = record.get("reason")
    for word in WORDS:
        if said == word:
            return Verdict(word, _one_line(reason) if isinstance(reason, str) else "")
    return None


def read_verdict(reply: str) -> Verdict | None:
    r"""Return the last verdict in a reply, None if there is none.

    >>> read_verdict('Let me see: {"a": 1}. So: ```json\n{"verdict": "unclear"}```')
    Verdict(word='unclear', reason='')
    >>> read_verdict("faithful") is None
    True
    """
    reply = reply[-_LONGEST_REPLY:]
    decoder = json.JSONDecoder()
    start = reply.rfind("{")
    while start >= 0:
        try:
            verdict = verdict_of(decoder.raw_decode(reply, start)[0])
        except (ValueError, RecursionError):
            verdict = None
        if verdict is not None:
            return verdict
        start = reply.rfind("{", 0, start)
    return None


def _one_line(text: str) -> str:
    """Return ``text`` in one line of bounded length that every file can hold."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
