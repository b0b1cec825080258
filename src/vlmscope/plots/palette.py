"""The colours of all plots, by name, and the style of each plotted result.

A result has the same style in all figures, and its colour is unique: the selected probe, all layers
together, each representation, both outcomes. Baselines share the grey, each with its own dashes.

The first five colours are those of Okabe and Ito (2008), "Color universal design", darkened if
needed so that all have a contrast of 3 to 1 on white (WCAG 2.2, 1.4.11). Markers and dashes
distinguish the lines without colour vision too.

A page names them ``--plot-<name>`` and may set them; files use the light ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "ink": "#1f2933",
        "muted": "#59636e",
        "axis": "#868f99",
        "grid": "#e3e7ec",
        "paper": "#ffffff",
        "blue": "#0072b2",
        "vermilion": "#d55e00",
        "green": "#00936b",
        "purple": "#c76fa1",
        "orange": "#7d5a00",
        "red": "#a4133c",
        "cyan": "#00859b",
        "olive": "#6b7a00",
        "brown": "#8c4a2f",
        "violet": "#6a3fb5",
        "slate": "#4f6d8f",
        "pink": "#c2187a",
    }
)
"""Name → colour on white. All are distinct, because the name is looked up by the colour."""

DARK_PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "ink": "#e6eaef",
        "muted": "#a3adb8",
        "axis": "#79838e",
        "grid": "#343a42",
        "paper": "#14171a",
        "blue": "#56b4e9",
        "vermilion": "#f0763a",
        "green": "#1fc795",
        "purple": "#e5a3cb",
        "orange": "#f0c35a",
        "red": "#ff7d9c",
        "cyan": "#4fd3e6",
        "olive": "#c3cf4a",
        "brown": "#d9a081",
        "violet": "#b79bf2",
        "slate": "#9db8d6",
        "pink": "#ff8cc8",
    }
)
"""Name → colour on a dark page; ``paper`` is the background of the page."""


@dataclass(frozen=True, slots=True)
class LineStyle:
    """The style of a line: colour, marker and dashes."""

    colour: str
    """A name of the palette."""
    marker: str = ""
    """Matplotlib's letter; empty for none."""
    dashes: tuple[float, ...] = ()
    """Lengths on and off, in line widths; empty for a solid line."""

    width: float = 1.6
    """Line width in points."""


FAITHFUL = LineStyle("blue", "o")
"""Faithful answers."""

HALLUCINATED = LineStyle("vermilion", "s", (5, 1.6))
"""Hallucinated answers, and their share."""

SELECTED = LineStyle("ink", "o", width=1.9)
"""The probe whose layer was chosen inside training."""

COMBINED = LineStyle("red", "X", (3, 1, 1, 1))
"""The probe of all layers together."""

REPRESENTATIONS: Mapping[str, LineStyle] = MappingProxyType(
    {
        "query_token_representation": LineStyle("orange", "s", (5, 1.6)),
        "vision_token_representation": LineStyle("green", "^", (1.5, 1.3)),
        "vision_only_representation": LineStyle("purple", "D", (6, 1.5, 1.5, 1.5)),
        "last_question_token_representation": LineStyle("cyan", "v", (3, 1.2)),
        "image_mean_representation": LineStyle("olive", "P", (8, 1.5, 1.5, 1.5, 1.5, 1.5)),
        "first_image_token_representation": LineStyle("brown", "p"),
        "first_answer_token_representation": LineStyle("violet", "<", (8, 2)),
        "last_answer_token_representation": LineStyle("slate", ">", (4, 1, 1, 1, 1, 1)),
        "answer_mean_representation": LineStyle("pink", "h", (2, 1)),
    }
)
"""The probes of one representation, layer by layer."""

BASELINES: Mapping[str, LineStyle] = MappingProxyType(
    {
        "joint": LineStyle("muted", "", (4, 2), 1.2),
        "best": LineStyle("muted", "", (6, 1.6, 1.2, 1.6), 1.2),
        "question_words": LineStyle("muted", "", (10, 2.5), 1.2),
    }
)
"""What probes are compared with: everything known before the answer, the best of the single
baselines, the question's words."""

OPTIMUM = LineStyle("axis", width=1.1)
"""What nothing can beat."""

CHANCE = LineStyle("axis", "", (1, 2), 1.1)
"""What a coin would reach."""

LINE_STYLES: Mapping[str, LineStyle] = MappingProxyType(
    {
        "selected": SELECTED,
        "combined": COMBINED,
        "optimum": OPTIMUM,
        **REPRESENTATIONS,
        **BASELINES,
    }
)
"""Meaning of a line → its style: the same in every figure."""

_OTHERS = (
    LineStyle("muted", "", (2, 2), 1.2),
    LineStyle("muted", "", (1, 1), 1.2),
    LineStyle("muted", "", (12, 2, 2, 2), 1.2),
)


def line_style(meaning: str, index: int = 0) -> LineStyle:
    """Return the style of a line: by its meaning, or, of one that is not known, by its number."""
    return LINE_STYLES.get(meaning, _OTHERS[index % len(_OTHERS)])
