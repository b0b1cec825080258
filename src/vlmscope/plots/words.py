"""Texts from the data on a plot: cleaned of what no file can hold, measured, and cut to their room.

A category may be called anything, in any script. Widths are those of matplotlib's own DejaVu Sans,
which is wider than the fonts that browsers choose, so what fits here fits there.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from vlmscope.locking import warnings_lock

FONT = "DejaVu Sans"
"""Ships with matplotlib: nothing has to be installed."""

LONGEST = 80
"""Characters beyond which no text is measured: nothing that long fits anywhere."""


@contextmanager
def quiet_glyphs() -> Iterator[None]:
    """Let matplotlib draw a box for a character that its font lacks, without a warning of each."""
    with warnings_lock(), warnings.catch_warnings():
        for message in (r"Glyph .* missing from", r"Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def clean(text: str) -> str:
    r"""Return a text in one line, without the characters that XML or UTF-8 cannot hold.

    >>> clean("two\nlines and a \x00")
    'two lines and a �'
    """
    return "".join("�" if _unwritable(char) else char for char in " ".join(text.split()))


def _unwritable(char: str) -> bool:
    """Say whether a character is a control, half a surrogate pair, or none at all."""
    return unicodedata.category(char) in ("Cc", "Cs") or ord(char) & 0xFFFE == 0xFFFE


def cut(text: str, longest: int) -> str:
    """Return a text, its end replaced by an ellipsis if it has more characters than ``longest``.

    >>> cut("spatial relations", 8), cut("colour", 8)
    ('spatial…', 'colour')
    """
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def width(text: str, size: float) -> float:
    """Return the width of a text in inches, at a font size in points."""
    # DejaVu has no wide characters; a dash is as wide as the fonts that do make them.
    wide = "".join("—" if unicodedata.east_asian_width(c) in "WF" else c for c in text)
    with quiet_glyphs():
        font = FontProperties(family=FONT, size=size)
        points, _, _ = text_to_path.get_text_width_height_descent(wide, font, False)
    return float(points) / 72


def fit(text: str, room: float, size: float) -> str:
    """Return a text, cut so that it is at most ``room`` inches wide."""
    text = cut(text, LONGEST)
    longest = len(text)
    while longest > 1 and width(shorter := cut(text, longest), size) > room:
        longest = len(shorter) - 1
    return cut(text, longest)
