"""The judge's verdict, and how it is found in what a model wrote.

Endpoints that know no structured output wrap the JSON in prose or fences, and reasoning models
think aloud first. The last object that holds a verdict is the one the judge ended on. What stands
in a thought that does not end, or word for word in the row itself, is no verdict: an answer may
hold one, and a judge may quote it. Nor is the form that the prompt shows, copied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from vlmscope.score.judge_mask import Mask

NOTHING_MASKED: Final = Mask()

Word = Literal["hallucinated", "faithful", "unclear"]
"""What the judge may say."""

WORDS: tuple[Word, ...] = get_args(Word)

FORM = "one short sentence that names the agreement or the contradiction"
"""What stands for the reason where the prompt shows the form of a reply."""

LONGEST_REASON = 500
"""Characters of a reason that are kept."""

_DATA = re.compile(r"<data>\n(.*)\n</data>", re.DOTALL)
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
    >>> verdict_of({"Verdict": "unclear."}).word, verdict_of({"verdict": "maybe"})
    ('unclear', None)
    """
    if not isinstance(record, dict):
        return None
    fields = {str(name).strip().lower(): value for name, value in record.items()}
    said, reason = fields.get("verdict"), fields.get("reason")
    if not isinstance(said, str):
        return None
    for word in WORDS:
        if said.strip(" \t\n.!*\"'").lower() == word:
            shown = mask.line(reason, LONGEST_REASON) if isinstance(reason, str) else ""
            return Verdict(word, shown)
    return None


def read_verdict(
    reply: str, mask: Mask = NOTHING_MASKED, sent: Sequence[Mapping[str, str]] = ()
) -> Verdict | None:
    r"""Return the last verdict in a reply, None if there is none.

    Args:
        reply: What the judge wrote.
        mask: What the reason is written through.
        sent: The messages that it replies to; what stands in their row is not the judge's word.

    >>> read_verdict('Let me see: {"a": 1}. So: ```json\n{"verdict": "unclear"}```')
    Verdict(word='unclear', reason='')
    >>> read_verdict("faithful"), read_verdict('<think>{"verdict": "faithful"} or not')
    (None, None)
    """
    reply = reply[-_LONGEST_REPLY:].rpartition("</think>")[2].partition("<think>")[0]
    quotable = _row_text(sent)
    decoder = json.JSONDecoder(strict=False)  # a reason may run over several lines
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
    r"""Return the texts of the row that messages are about, without blanks; empty if there is none.

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
