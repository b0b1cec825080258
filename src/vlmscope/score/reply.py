"""What an answer says itself: without the prompt, the turns and the marks around it.

Models repeat the prompt, go on with a next turn, think aloud, or end with *The answer is 5*. The
rules read what is left.
"""

from __future__ import annotations

import re
from functools import lru_cache

_LONGEST = 20_000
"""Characters of an answer that are read."""

_SPECIAL = re.compile(
    r"<\|[^|<>]{1,40}\|>|</?s>|<(?:pad|bos|eos|end_of_utterance|image)>|\[/?INST\]"
)
_THOUGHT = re.compile(r"^.*?</think(?:ing)?>", re.DOTALL)
_ASKER = r"user|human|question|q"
_ANSWERER = r"assistant|answer|gpt|bot|model|a"
_TURN = re.compile(
    rf"(?:^|(?<=[\n.?!]))[ \t]*(?:#+ *|\*\*)?(?:(?P<asker>{_ASKER})|(?P<answerer>{_ANSWERER}))"
    r"(?:\*\*)?(?::(?:\*\*)?|[ \t]*(?=\n))",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\bcorrection *[:,]|\b(?:sorry|no|wait|hmm|actually)[,:.]? +i meant?\b|, *i mean\b"
    r"|\bscratch that\b|\blet me correct (?:that|this|myself)\b|\bor rather\b"
    r"|\bon second thoughts?\b|\b(?:up)?on (?:a )?closer (?:inspection|look)\b"
    r"|\b(?:looking|counting) (?:again|closer|more closely)\b|\bno,? +wait\b"
    r"|(?<=[.…!?] )wait\b|\bi (?:first|initially) thought\b[^.\n]{1,80}?,? but\b",
    re.IGNORECASE,
)
"""What takes back what was said before."""

_MARKS = re.compile(r"\W+")

_FINAL = re.compile(
    r"(?:\b(?:final |correct |right |best )?(?:answer|choice|option)"
    r"(?: (?:to|for|of) (?:the|this|your) \w+)?(?: (?:is|would be|must be|should be)(?: therefore)?"
    r"|:)\**:?|####|\bchoose|\bselect|\bgo with)\s*\**\s*(?P<said>[^\n]{1,200})",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]{0,80}\}){1,200})\}")
_RESULT = re.compile(r"=\s*(-?[$€£]?[\d,./√]*\d[%°]?)\s*\$?[.]?\s*$")
_STYLE = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_END = re.compile(r"(?<=[\w)}*\"'])[.!](?:\s|$)|\s(?:because|since|as)\s")


def read_reply(text: str, question: str = "") -> str:
    r"""Return the answer in a text that may hold the prompt or further turns as well.

    >>> read_reply("User: Is there a cup?\nAssistant: No.", "Is there a cup?")
    'No.'
    >>> read_reply("No.\nQuestion: Is there a dog?\nAnswer: Yes.", "Is there a cup?")
    'No.'
    >>> read_reply("Is there a cup? Yes.", "Is there a cup?")
    'Yes.'
    >>> read_reply("Yes, sorry, I mean no."), read_reply("It is red. Correction: it is blue.")
    ('no.', 'it is blue.')
    """
    text = text[:_LONGEST]
    if "<" in text or "[" in text:
        text = _THOUGHT.sub("", _SPECIAL.sub(" ", text), count=1)
    text = _without_question(_of_turns(text, question), question)
    return _corrected(text).strip()


def _corrected(text: str) -> str:
    """Return what stands after the last words that take something back."""
    *_, last = [None, *_CORRECTION.finditer(text)]
    rest = "" if last is None else text[last.end() :].lstrip(" ,:.…-–—")
    return rest if re.search(r"\w", rest) else text


def final_answer(text: str) -> str | None:
    r"""Return what a text gives as its answer at last, or None where it does not say so.

    >>> final_answer("3 + 4 = 7. So the answer is 7."), final_answer("It is red.")
    ('7', None)
    >>> final_answer(r"Thus $\boxed{12}$.")
    '12'
    """
    boxed = _BOXED.findall(text)
    if boxed:
        said = [_STYLE.sub(r"\1", found).strip() for found in boxed]
        return said[-1] if len(set(said)) == 1 else None
    named = [found["said"] for found in _FINAL.finditer(text)]
    if not named:
        result = _RESULT.search(text[-200:])
        return result[1] if result else None
    return str(_END.split(named[-1], maxsplit=1)[0]).strip(" *.\"'$") or None


def _of_turns(text: str, question: str) -> str:
    """Return the answer's turn of a dialogue: the one after the question, else the first."""
    turns = list(_TURN.finditer(text)) if ":" in text or "\n" in text else []
    letters = {turn[0].strip(" \t*#:").lower() for turn in turns}
    if "q" not in letters:  # "A: red" chooses an option
        turns = [turn for turn in turns if turn[0].strip(" \t*#:").lower() != "a"]
    if not turns or (len(turns) == 1 and turns[0]["asker"] is None and turns[0].start() > 0
                     and not text[: turns[0].start()].strip().endswith("?")):  # fmt: skip
        return text
    before = text[: turns[0].start()]
    answered = bool(_bare(before)) and not before.lstrip(" #*").startswith("system")
    answered = answered and (not _bare(question) or _bare(question) not in _bare(before))
    if answered and turns[0]["asker"]:
        return before
    ends = [turn.start() for turn in turns[1:]] + [len(text)]
    asked, replies = before, []
    for turn, end in zip(turns, ends, strict=True):
        said = text[turn.end() : end]
        if turn["asker"]:
            asked = said
        else:
            replies.append((asked, said))
    own = [said for asked, said in replies if _bare(question) and _bare(question) in _bare(asked)]
    return own[-1] if own else replies[0][1] if replies else text


def _without_question(text: str, question: str) -> str:
    """Return a text without the question that it begins with."""
    asked = question.strip()
    if len(asked) > 3 and text.lstrip(" *\"'\n").lower().startswith(asked.lower()):
        rest = text.lstrip(" *\"'\n")[len(asked) :].lstrip(" *\"'\n")
        return rest if re.search(r"\w", rest) else text
    return text


@lru_cache(1 << 10)
def _bare(text: str) -> str:
    return _MARKS.sub("", text.lower())
