"""*Yes* and *no* in other languages: only the word itself is read."""

from __future__ import annotations

import re
from typing import Literal

_YES = re.compile(
    r"(?:да|sí|si|sì|oui|ja|sim|tak|evet|ya)(?=$|[,.!;:])|(?:是的|是|对|有)(?!不|没|否)|はい"
    r"|(?:네|예)(?=$|[,. ])"
)
_NO = re.compile(
    r"(?:нет|nein|nee|não|nao|nie|hayır|tidak|non)(?=$|[,.!;:])|(?:没有|不是|不|没|否)|いいえ|아니[요오]?"
)
_NOT = re.compile(
    r"\b(?:no|не|нет|nicht|keine?[mnrs]?|pas|não|nie|non|niet|geen|ni|aucune?|ningun[ao]?|değil"
    r"|aber|pero|mais|но|però)\b|[没不無无]|ません|ない|없|아니"
)
_ALSO_YES = re.compile(r"\b(?:да|sí|oui|sim|doch|aber|pero|mais|но|però)\b|但")


def foreign_side(text: str) -> Literal["yes", "no"] | None:
    """Return the side that the first word of an answer in another language takes.

    >>> [foreign_side(text) for text in ("Да, есть.", "Nein.", "没有。", "是的,有。", "Si on")]
    ['yes', 'no', 'no', 'yes', None]
    >>> foreign_side("Oui, mais il n'y en a pas.") is None
    True
    """
    line = " ".join(text[:300].lower().split()).lstrip("*\"'«„“¿¡ ")
    for side, opening, against in (("yes", _YES, _NOT), ("no", _NO, _ALSO_YES)):
        if found := opening.match(line):
            rest = line[found.end() :]
            return None if against.search(rest) else "yes" if side == "yes" else "no"
    return None
