"""The answer proper: without the prompt, the markup and the phrases around it.

Models repeat the prompt, continue with another turn, write their reasoning first, answer in JSON,
or end with *The answer is 5*. Chat models add greetings, *based on the image* and offers to help.
The rules read the remaining text.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import Any

from vlmscope.jsontext import load_json, nests_deeper

_OPENERS = re.compile(
    r"^\s*(?:(?:sure(?: thing)?|certainly|of course|absolutely|(?:great|good) question"
    r"|thank(?:s| you) for[^.!?,]{1,60}|(?:i am |i'm )?happy to help|hello|hi|hey"
    r"|let(?:'s| me| us) (?:take a |have a )?(?:look|see|check|think)[^.!?,]{0,60}|okay|ok|well|so"
    r"|i have (?:analy[sz]ed|looked at|examined)[^.!?,]{1,60}|here is (?:what i found|my answer)"
    r"|overall|therefore|thus|hence|indeed|interesting)[!.,:]\s+)+",
    re.IGNORECASE,
)
_ADVERBIAL = re.compile(
    r"^\s*(?:based on|in|from|according to|judging by|looking|upon|on|after|having|as|to answer"
    r"|given|with a)\b(?=[^,.!?]{0,70}\b(?:image|picture|photo|photograph|scene|inspection|look"
    r"|looking|see|seen|tell|question|analysis|angle|view|closely)\b)[^,.!?]{0,70}, ",
    re.IGNORECASE,
)
_CLAUSES = re.compile(
    r"^\s*(?:most likely|probably just|it (?:appears|seems)(?: that)?(?! to\b)|it looks like|i"
    r" (?:think|believe|would say"
    r"|'d say)(?: that)?|(?:i|you|we|one) can (?:clearly )?(?:see|confirm|say|tell) that"
    r"|it is (?:clear|evident|obvious|true) that|a closer look (?:shows|reveals) that"
    r"|the (?:image|picture|photo) (?:shows|reveals|indicates) that),? ",
    re.IGNORECASE,
)
_CLOSERS = re.compile(
    r"(?:(?<=[.!?\n*\"'”)}])|^)\s*(?:(?:i )?hope (?:this|that|it) (?:helps|answers)[^.!?]{0,40}"
    r"|(?:please )?let me know[^.!?]{0,80}|is there anything else[^.!?]{0,60}"
    r"|(?:please )?feel free to[^.!?]{0,60}|(?:do|would) you (?:want|have|need|like)[^.!?]{1,80}"
    r"|if you (?:need|have|want)[^.!?]{1,80}|thank(?:s| you)[^.!?]{0,40}"
    r"|this (?:can be seen|is visible|is (?:very )?clear)(?: clearly)? (?:in|from) the \w+)"
    r"[.!?]*\s*$",
    re.IGNORECASE,
)


def strip_frame(text: str) -> str:
    """Return a text without the words that a chat model puts around its answer.

    >>> strip_frame("Sure! Based on the image, the kite is red. I hope this helps!")
    'the kite is red.'
    >>> strip_frame("In 1999, it was red.")
    'In 1999, it was red.'
    """
    if len(text) > 4_000:
        return text
    rest = text
    for _ in range(3):
        before = rest
        for pattern in (_OPENERS, _ADVERBIAL, _CLAUSES, _CLOSERS):
            shorter = pattern.sub("", rest, count=1)
            rest = shorter if re.search(r"\w", shorter) else rest
        if rest == before:
            break
    return rest


_CONTRAST = re.compile(
    r"(?:, (?:and |but )?not|,? (?:rather than|instead of|as opposed to)) "
    r"(?!(?:only|just|very|too|so|quite|all|every|that|in|on|at|with|because|sure|to)\b)"
    r"(?:an? |the )?[\w'-]+(?: (?!(?:is|are|was|were|has|have|can|but|and|or)\b)[\w'-]+){0,3}"
    r"(?=[.!]*\s*$|, )",
    re.IGNORECASE,
)
_NOT_BUT = re.compile(
    r"^\W*(?:it|they|he|she|this|that|(?:the|this) (?:[\w'-]+ ){1,2}?)\s?(?:is|are)(?: not|n't|n’t)"
    r" (?:an? |the )?[\w'-]+[,;] (?:but )?(?=(?:it|they|he|she|this|that)(?:'s|’s| is| are|'re) )",
    re.IGNORECASE,
)
_REASON = re.compile(r",? (?:because|since|due to the fact that) .*$", re.IGNORECASE | re.DOTALL)


def strip_contrast(text: str) -> str:
    """Return a sentence without the alternative that it rejects.

    >>> strip_contrast("It is a chair, not a bench.")
    'It is a chair.'
    >>> strip_contrast("It isn't open, it is closed.")
    'it is closed.'
    >>> strip_contrast("It is not a chair."), strip_contrast("There is a dog, not only a cat.")
    ('It is not a chair.', 'There is a dog, not only a cat.')
    """
    if len(text) > 300 or "\n" in text.strip():
        return text
    rest = _NOT_BUT.sub("", text)
    shorter = _CONTRAST.sub("", rest, count=1)
    negated = re.search(r"\b(?:not|no|neither|never)\b|n['’]t\b", shorter, re.IGNORECASE)
    return rest if negated or not re.search(r"\w", shorter) else shorter


def strip_reason(text: str) -> str:
    """Return a sentence without the reason that it gives for its answer.

    >>> strip_reason("The hawk, since no other animal eats it.")
    'The hawk'
    """
    shorter = _REASON.sub("", text) if len(text) < 300 else text
    return shorter if re.search(r"\w", shorter) else text


_LONGEST = 20_000
"""Most characters of an answer that are read."""

_ROLES = (
    (re.compile(r"<\|(user|assistant|system|human|model)\|>|<start_of_turn>(user|model)"),
     r"\n\1\2\n"),
    (re.compile(r"\[INST\]"), "\nuser\n"),
    (re.compile(r"\[/INST\]"), "\nassistant\n"),
    (re.compile(r"<\|(?:im_end|end|endoftext|eot_id|end_of_text)\|>|</s>|<end_of_turn>|<eos>"
                r"|<end_of_utterance>"), "\n"),
    (re.compile(r"<\|[^|<>]{1,40}\|>|<s>|<(?:pad|bos|image)>|</?(?:b|i|u|em|strong|p)>"), " "),
)  # fmt: skip
"""Markers of chat templates, and their plain-text equivalents."""

_THOUGHT = re.compile(
    r"^.*?</think(?:ing)?>|^.*?\u25c1/think\u25b7"
    r"|<(?P<tag>think|thinking|thought|reasoning|reflection|analysis|rationale)>.*?</(?P=tag)>",
    re.DOTALL | re.IGNORECASE,
)
_UNFINISHED = re.compile(r"^\s*(?:<think(?:ing)?>|\u25c1think\u25b7)", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ASKER = r"user|human|question|q|instruction|query"
_ANSWERER = r"assistant|short answer|answer|gpt|bot|model|ai|response|reply|a"
_TURN = re.compile(
    rf"(?:^|(?<=[\n.?!]))[ \t]*(?:#+ *|\*\*|\[)?(?:(?P<asker>{_ASKER})|(?P<answerer>{_ANSWERER}))"
    r"(?:\*\*|\])?(?::(?:\*\*)?|(?<=[\nqa ][qa])\.(?=\s)|(?<=^[qa])\.(?=\s)|[ \t]*(?=\n))",
    re.IGNORECASE,
)
_TURN_IN_LINE = re.compile(r"(?<=\S)[ \t]+(?=(?:USER|ASSISTANT|User|Assistant|Human): )")
_SYSTEM = re.compile(
    r"^\s*system[ \t]*\n[^\n]{0,400}\n(?=[ \t]*\W*(?:user|human|instruction"
    r"|question)\b)",
    re.I,
)
_ECHO = re.compile(
    r"\W*(?:you (?:asked|ask|are asking|want to know)|(?:to|regarding|as for|answering) (?:the"
    r"|your)"
    r" question|(?:the|your) question(?: is| was)?|question|q)?\W*",
    re.IGNORECASE,
)
"""Text before a repeated question."""

_SAID_FIRST = (
    r"i (?:(?:first|initially|at first|originally) )?(?:thought|believed|assumed|counted|said|saw)"
    r"|at first(?: glance| sight)?|initially|(?:it|that) (?:first )?looked"
    r"|my (?:first|initial) (?:answer|guess|thought|impression|count) was"
)
_CORRECTION = re.compile(
    r"\bcorrection *[:,]|\b(?:sorry|no|wait|hmm|actually)[,:.]? +i meant?\b|, *i mean\b"
    r"|\bscratch that\b|\blet me correct (?:that|this|myself)\b|\bor rather\b"
    r"|\bon second thoughts?\b|\b(?:up)?on (?:a )?closer (?:inspection|look)\b"
    r"|\b(?:looking|counting) (?:again|closer|more closely)\b|\bno,? +wait\b"
    r"|(?<=[.…!?,–—-] )wait\b|(?<=…)wait\b|(?<=[.…!?,–—-] )hold on\b(?! (?:tight|to)\b)"
    r"|\b(?:my mistake|my bad|i made a mistake|i was (?:wrong|mistaken)|i stand corrected"
    r"|i take (?:that|it) back|i misspoke)\b(?= *[:,.;!–—-])"
    r"|\blet me (?:look|check|count|think|see) (?:again|once more|more closely)\b"
    rf"|(?:^\s*|(?<=[.!?…] ))(?:{_SAID_FIRST})\b[^.\n]{{1,80}}?,? but\b(?: now\b)?"
    r"|^\W{0,9}(?!(?:in|from|based|looking|judging|according|as|upon|on|so|well|oh|to|after"
    r"|having|given|let|sorry|hmm)\b)"
    r"(?:[\w'-]{1,30} ){0,5}[\w'-]{1,30}(?:,| -| –) no, (?=\w)|(?<=[.!?…] )sorry, (?=(?:it|the"
    r"|there|that) )"
    r"|(?:(?<=\byes)|(?<=\bno)|(?<=\b[A-J]))(?:\W{1,5}|\W{1,5}(?:oh|hmm|um|sorry|ah)\W{1,5})"
    r"(?:actually|wait|sorry|hmm|oh)\b(?=\W{1,5}(?:yes|no|[A-J])\b)"
    r"|(?<=\.\.\. )(?:oh|ah|hmm|no)\b(?= *,)|(?<=… )(?:oh|ah|hmm|no)\b(?= *,)",
    re.IGNORECASE,
)
"""Words that retract the preceding text."""

_ANSWER_KEYS = ("answer", "final_answer", "response", "result", "prediction", "output", "reply")
_TRUE_KEYS = ("present", "exists", "visible", "found", "is_present", "contains", "detected")
_REASON_KEYS = ("reason", "reasoning", "explanation", "description", "thought", "rationale")
_FENCED = re.compile(
    r"^\s*(?:```)?(?:json|python|text)?\s*(?P<body>[\[{].*[\]}])\s*(?:```)?\s*$", re.DOTALL
)

_MARKS = re.compile(r"\W+")

_FINAL = re.compile(
    r"(?:\b(?:final |correct |right |best )?(?:answer|choice|option)"
    r"(?: (?:to|for|of) (?:the|this|your) \w+)?(?: (?:is|would be|must be|should be)(?: therefore)?"
    r"|:)\**:?|####|\bchoose|\bselect|\bgo with)\s*\**\s*(?P<answer>[^\n]{1,200})",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]{0,80}\}){1,200})\}")
_RESULT = re.compile(r"=\s*(-?[$€£]?[\d,./√]*\d[%°]?)\s*\$?[.]?\s*$")
_POWER = re.compile(r"(?:^|[\s(])[A-Za-z]{1,3}(?:²|³|\^\{?\d\}?)\s*=[^,;\n]*$")
"""*AC² = 169* gives the square of a length, not the length."""

_STYLE = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_END = re.compile(r"(?<=[\w)}*\"'])[.!](?:\s|$)|\s(?:because|since|as)\s")


def read_reply(text: str, question: str = "") -> str:
    r"""Return the answer in a text that may contain the prompt or further turns as well.

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
    if any(mark in text for mark in "<[\u25c1"):
        for pattern, form in _ROLES:
            text = pattern.sub(form, text)
        text = _THOUGHT.sub("", text)
        if _UNFINISHED.match(text):
            return ""
        if len(set(tagged := _TAGGED.findall(text))) == 1:
            text = tagged[0]
    text = _SYSTEM.sub("", text)
    text = _TURN_IN_LINE.sub("\n", text)
    text = _strip_question(_answer_turn(text, question), question)
    return _after_correction(_record_answer(text)).strip()


def _record_answer(text: str) -> str:
    """Return the answer, preceded by its reason, of a text that is JSON or a Python literal."""
    stripped = text.strip()
    found = _FENCED.match(stripped) if stripped[-1:] in ("]", "}", "`") else None
    if found is None or nests_deeper(found["body"]):
        return text
    try:
        record: Any = load_json(found["body"])
    except ValueError:
        try:
            record = ast.literal_eval(found["body"])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return text
    if isinstance(record, list) and len(record) == 1:
        record = {"answer": record[0]} if not isinstance(record[0], dict) else record[0]
    if not isinstance(record, dict):
        return text
    fields = {str(key).lower().replace(" ", "_"): value for key, value in record.items()}
    keys = [key for key in (*_ANSWER_KEYS, *_TRUE_KEYS) if key in fields]
    if not keys:
        return text
    answer = fields[keys[0]]
    if isinstance(answer, bool):
        answer = "Yes" if answer else "No"
    if not isinstance(answer, (str, int, float)):
        return text
    reasons = [fields[key] for key in _REASON_KEYS if isinstance(fields.get(key), str)]
    return "\n".join((*reasons, f"The answer is {answer}")) if reasons else str(answer)


def _after_correction(text: str) -> str:
    """Return the text after the last words that retract something."""
    *_, last = [None, *_CORRECTION.finditer(text)]
    rest = "" if last is None else text[last.end() :].lstrip(" ,:.;!…-–—")
    return rest if re.search(r"\w", rest) else text


def final_answer(text: str) -> str | None:
    r"""Return the answer that a text concludes with, or None if there is none.

    >>> final_answer("3 + 4 = 7. So the answer is 7."), final_answer("It is red.")
    ('7', None)
    >>> final_answer(r"Thus $\boxed{12}$.")
    '12'
    """
    boxed = _BOXED.findall(text)
    if boxed:
        results = [_STYLE.sub(r"\1", found).strip() for found in boxed]
        return results[-1] if len(set(results)) == 1 else None
    named = [found["answer"] for found in _FINAL.finditer(text)]
    if not named:
        result = None if _POWER.search(text[-200:]) else _RESULT.search(text[-200:])
        return result[1] if result else None
    return (
        str(_END.split(named[-1], maxsplit=1)[0])
        .strip(" *.\"'")
        .strip("$" if named[-1].count("$") > 1 else "")
        or None
    )


_SO = re.compile(
    r"(?:^|[.,;:]\s+|\s)(?:so|therefore|thus|hence|which (?:gives|makes|leaves)|giving|leaving"
    r"|making)\b,? (?P<x>[^,;=]{1,100})$",
    re.IGNORECASE,
)


def calculation_result(text: str) -> str | None:
    """Return the result in the last sentence of a calculation, or None.

    >>> calculation_result("9 - 2 = 7. Therefore, 7 objects are left.")
    '7 objects are left'
    >>> calculation_result("5 + 4 = 9 balls.")
    '9 balls'
    >>> calculation_result("The bar is 60.") is None
    True
    """
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z$\\(])|\n+", text[-1_000:].strip())
    last = re.sub(r"\\?\$|\\[()\[\]]|\*\*", "", parts[-1]).strip(" .!")
    if re.search(r"\b(?:not|no|never|if|or|about|approximately)\b|n't|≈|≠|[<>]", last):
        return None
    if _POWER.search(last):
        return None
    if found := _SO.search(last):
        return found["x"].strip()
    head, equals, tail = last.rpartition("=")
    calculated = re.search(r"[\d)][ ]*[-+*/×÷·−][ ]*[\d(]", head)
    return tail.strip() if equals and calculated and 0 < len(tail.split()) <= 3 else None


def _answer_turn(text: str, question: str) -> str:
    """Return the answer's turn of a dialogue: the one after the question, else the first."""
    turns = list(_TURN.finditer(text)) if ":" in text or "\n" in text else []
    letters = {turn[0].strip(" \t*#:.[]").lower() for turn in turns}
    if "q" not in letters:  # "A: red" chooses an option
        turns = [turn for turn in turns if turn[0].strip(" \t*#:.[]").lower() != "a"]
    if not turns or (len(turns) == 1 and turns[0]["asker"] is None and turns[0].start() > 0
                     and not text[: turns[0].start()].strip().endswith("?")):  # fmt: skip
        return text
    before = text[: turns[0].start()]
    answered = bool(_letters_only(before)) and not before.lstrip(" #*").startswith("system")
    repeated = " ".join(question.lower().split()) in " ".join(before.lower().split())
    answered = answered and not (repeated and _letters_only(question))
    if answered and turns[0]["asker"]:
        return before
    ends = [turn.start() for turn in turns[1:]] + [len(text)]
    asked, replies = before, []
    for turn, end in zip(turns, ends, strict=True):
        turn_text = text[turn.end() : end]
        if turn["asker"]:
            asked = turn_text
        else:
            replies.append((asked, turn_text))
    own = [
        turn_text
        for asked, turn_text in replies
        if _letters_only(question) and _letters_only(question) in _letters_only(asked)
    ]
    return own[-1] if own else replies[0][1] if replies else text


def _strip_question(text: str, question: str) -> str:
    """Return a text without the question repeated at its start."""
    asked = question.strip().lower()
    at = text.lower().find(asked) if len(asked) > 3 else -1
    if at < 0 or len(text.lower()) != len(text) or not _ECHO.fullmatch(text[:at]):
        return text
    rest = text[at + len(asked) :].lstrip(" *\"'\n,:;=>\u2192\u201d–—-")
    return rest if re.search(r"\w", rest) else text


@lru_cache(1 << 10)
def _letters_only(text: str) -> str:
    return _MARKS.sub("", text.lower())
