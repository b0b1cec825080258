"""Placeholders of images in questions.

MMMU's files number them, ``<image 1>``: the image is inserted there if the chat template of the
model accepts images between texts. LLaVA's files write ``<image>``, other programs other marks:
these do not define which image they refer to. Left in the question, such a mark would be a control
token for one family of models, and silently noise for all others.
"""

from __future__ import annotations

import re

_KINDS = r"(?:image|img|picture|video|audio)"
_MORE = r"(?:here|[_ -]?(?:placeholder|context|pad|token|soft_token|start|end|content))?"
_NUMBER = r"[\s_-]{0,3}\d{0,3}\s?"
_ANYWHERE = re.compile(
    rf"<\|?\s?/?image{_MORE}{_NUMBER}\|?>"
    rf"|<\|{_KINDS}{_MORE}{_NUMBER}\|>"
    rf"|</?\s?(?:img|picture)[\s_-]{{0,3}}\d{{1,3}}\s?>"
    r"|<\|vision_(?:start|end|pad)\|>|<(?:start|end)_of_image>|<img_context>",
    re.IGNORECASE,
)
_ALONE = re.compile(
    r"^\s*(?:<(?:img|video|audio|picture)>|\[img\])|<(?:img|video|audio)>\s*$",
    re.IGNORECASE | re.MULTILINE,
)
"""Marks that are also names of HTML elements are placeholders only if they are on their own."""

_NUMBERED = re.compile(
    r"<\s?(?:image|img|picture)[\s_-]{0,3}(\d{1,3})\s?>|<\|image[\s_-]{0,3}(\d{1,3})\s?\|>",
    re.IGNORECASE | re.ASCII,
)


def image_mark(question: str) -> str:
    r"""Return the first placeholder without an image number; empty for none.

    >>> image_mark("<image>\\nWhat is it?"), image_mark("Which is in <image 2>?")
    ('<image>', '')
    >>> image_mark("Is x < y?"), image_mark("What does the <img> tag do?")
    ('', '')
    """
    if "<" not in question and "[" not in question:
        return ""
    found = (each[0] for each in _ANYWHERE.finditer(question))
    mark = next((text for text in found if not _NUMBERED.fullmatch(text)), "")
    if not mark and (alone := _ALONE.search(question)):
        mark = alone[0]
    return mark.strip()


def numbered_mark(question: str) -> str:
    """Return the first numbered placeholder of an image in a question; empty for none.

    >>> numbered_mark("Which is in <image 2>?"), numbered_mark("<image>")
    ('<image 2>', '')
    """
    found = _NUMBERED.search(question) if "<" in question else None
    return found[0] if found else ""


def split_at_images(question: str) -> tuple[str | int, ...]:
    """Return a question split at its numbered placeholders: texts, and the numbers of images.

    >>> split_at_images("Is <image 2> like <image 1>?"), split_at_images("What is it?")
    (('Is ', 2, ' like ', 1, '?'), ('What is it?',))
    """
    if "<" not in question:
        return (question,)
    parts: list[str | int] = []
    end = 0
    for match in _NUMBERED.finditer(question):
        parts += [question[end : match.start()], int(match[1] or match[2])]
        end = match.end()
    parts.append(question[end:])
    return tuple(part for part in parts if part != "")
