"""The judge's verdict, and how it is found in what a model wrote.

Endpoints that know no structured output wrap the JSON in prose or fences, and reasoning models
think aloud first. The last object that holds a verdict is the one the judge ended on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from vlmscope.score.judge_mask import Mask

NOTHING_MASKED: Final = Mask()

Word = Literal["hallucinated", "faithful", "unclear"]
"""What the judge may say."""

WORDS: tuple[Word, ...] = get_args(Word)

LONGEST_REASON = 500
"""Characters of a reason that are kept."""

_LONGEST_REPLY = 50_000
_MOST_OBJECTS = 1_000  # that are looked at, from the end


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


def verdict_of(record: Any, mask: Mask = NOTHING_MASKED) -> Verdict | None:
    r"""Return the verdict that a decoded JSON value holds, None if it holds none.

    Args:
        record: The value.
        mask: What the reason is written through.

    >>> verdict_of({"verdict": " Faithful", "reason": "Both say\nyes."})
    Verdict(word='faithful', reason='Both say yes.')
    >>> verdict_of({"verdict": "maybe"}) is None
    True
    """
    if not isinstance(record, dict):
        return None
    said, reason = record.get("verdict"), record.get("reason")
    if not isinstance(said, str):
        return None
    for word in WORDS:
        if said.strip().lower() == word:
            shown = mask.line(reason, LONGEST_REASON) if isinstance(reason, str) else ""
            return Verdict(word, shown)
    return None


def read_verdict(reply: str, mask: Mask = NOTHING_MASKED) -> Verdict | None:
    r"""Return the last verdict in a reply, None if there is none.

    >>> read_verdict('Let me see: {"a": 1}. So: ```json\n{"verdict": "unclear"}```')
    Verdict(word='unclear', reason='')
    >>> read_verdict("faithful") is None
    True
    """
    reply = reply[-_LONGEST_REPLY:]
    decoder = json.JSONDecoder()
    start = reply.rfind("{")
    for _ in range(_MOST_OBJECTS):
        if start < 0:
            return None
        try:
            verdict = verdict_of(decoder.raw_decode(reply, start)[0], mask)
        except (ValueError, RecursionError):
            verdict = None
        if verdict is not None:
            return verdict
        start = reply.rfind("{", 0, start)
    return None
