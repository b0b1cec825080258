"""Placeholders of images in questions: what another program's prompt puts an image in place of.

LLaVA's files write ``<image>``, MMMU's ``<image 1>``. vlmscope puts the images before the question,
so a placeholder would stay in it as a text: a control token for one family of models, and noise for
all others, without a word.
"""

from __future__ import annotations

import re

_KINDS = r"(?:image|img|picture|video|audio)"
_MORE = r"(?:here|[_ -]?(?:placeholder|context|pad|token|soft_token|start|end|content))?"
_ANYWHERE = re.compile(
    rf"<\|?\s?image{_MORE}[_ -]?\d{{0,3}}\s?\|?>"
    rf"|<\|{_KINDS}{_MORE}[_ -]?\d{{0,3}}\|>"
    r"|<\|vision_(?:start|end|pad)\|>|<(?:start|end)_of_image>|<img_context>",
    re.IGNORECASE,
)
_ALONE = re.compile(
    r"^\s*(?:<(?:img|video|audio|picture)>|\[img\])|<(?:img|video|audio)>\s*$",
    re.IGNORECASE | re.MULTILINE,
)
"""Those that are names of HTML too count where they stand by themselves."""


def image_mark(question: str) -> str:
    r"""Return the first placeholder of an image in a question; empty for none.

    >>> image_mark("<image>\\nWhat is it?"), image_mark("Which is in <image 2>?")
    ('<image>', '<image 2>')
    >>> image_mark("Is x < y?"), image_mark("What does the <img> tag do?")
    ('', '')
    """
    if "<" not in question and "[" not in question:
        return ""
    found = _ANYWHERE.search(question) or _ALONE.search(question)
    return found[0].strip() if found else ""
