"""Every colour of every plot, by name, and the looks that tell lines apart without colour.

The colours are those of Okabe and Ito (2008), "Color universal design", darkened where they fall
short of a contrast of 3 to 1 on white (WCAG 2.2, 1.4.11). Readers of the common colour-vision
deficiencies can tell them apart; markers and dashes say the same again.

A page names them ``--plot-<name>`` and may set them; files have the light ones.
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
    }
)
"""Name → colour on white. No two are equal: a page finds the name by the colour."""

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
    }
)
"""Name → colour on a dark page; ``paper`` is the page's own."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a line is told from the others: by colour, by marker, and by dashes."""

    colour: str
    """A name of the palette."""
    marker: str = ""
    """Matplotlib's letter; empty for none."""
    dashes: tuple[float, ...] = ()
    """Lengths on and off, in line widths; empty for a whole line."""
    width: float = 1.6
    """Of the line, in points."""


SERIES = (
    Look("blue", "o"),
    Look("vermilion", "s", (5, 1.6)),
    Look("green", "^", (1.5, 1.3)),
    Look("purple", "D", (6, 1.5, 1.5, 1.5)),
    Look("ink", "v", (3, 1.2)),
    Look("orange", "P", (8, 1.5, 1.5, 1.5, 1.5, 1.5)),
    Look("blue", "X", (3, 1, 1, 1)),
    Look("vermilion", "p"),
    Look("green", "<", (8, 2)),
)
"""What is measured, one look a line; after the last they start again."""

BASELINES = (
    Look("muted", "", (4, 2), 1.2),
    Look("muted", "", (6, 1.6, 1.2, 1.6), 1.2),
    Look("muted", "", (10, 2.5), 1.2),
    Look("muted", "", (2, 2), 1.2),
)
"""What is compared with."""

OPTIMUM = Look("green", width=1.1)
"""What nothing can beat."""

CHANCE = Look("axis", "", (1, 2), 1.1)
"""What a coin would reach."""


def series(index: int) -> Look:
    """Return the look of the n-th line, from 0."""
    return SERIES[index % len(SERIES)]


def baseline(index: int) -> Look:
    """Return the look of the n-th baseline, from 0."""
    return BASELINES[index % len(BASELINES)]
