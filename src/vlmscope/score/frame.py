"""The words that a chat model puts around its answer: greetings, *based on the image*, offers."""

from __future__ import annotations

import re

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


def unframed(text: str) -> str:
    """Return a text without the words that a chat model puts around its answer.

    >>> unframed("Sure! Based on the image, the kite is red. I hope this helps!")
    'the kite is red.'
    >>> unframed("In 1999, it was red.")
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


def uncontrasted(text: str) -> str:
    """Return a sentence without what it sets its answer against.

    >>> uncontrasted("It is a chair, not a bench."), uncontrasted("It isn't open, it is closed.")
    ('It is a chair.', 'it is closed.')
    >>> uncontrasted("It is not a chair."), uncontrasted("There is a dog, not only a cat.")
    ('It is not a chair.', 'There is a dog, not only a cat.')
    """
    if len(text) > 300 or "\n" in text.strip():
        return text
    rest = _NOT_BUT.sub("", text)
    shorter = _CONTRAST.sub("", rest, count=1)
    negated = re.search(r"\b(?:not|no|neither|never)\b|n['’]t\b", shorter, re.IGNORECASE)
    return rest if negated or not re.search(r"\w", shorter) else shorter


def without_reason(text: str) -> str:
    """Return a sentence without the reason that it gives for its answer.

    >>> without_reason("The hawk, since no other animal eats it.")
    'The hawk'
    """
    shorter = _REASON.sub("", text) if len(text) < 300 else text
    return shorter if re.search(r"\w", shorter) else text
