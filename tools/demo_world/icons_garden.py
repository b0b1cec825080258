"""The icons of the garden; ``icons`` has the rest."""

from __future__ import annotations

import math

from tools.demo_world.pen import EYE, INK, LEAF, RGB, WOOD, Pen, contrast, mirrored, shade


def tree(pen: Pen, colour: RGB) -> None:
    """A broad crown on a short trunk."""
    pen.area(shade(WOOD, 0.85), "44 55, 56 55, 58 88, 65 99, 35 99, 42 88")
    pen.blob(
        colour, "50 1, 74 10, 83 26, 96 42, 88 64, 66 72, 50 68, 34 72, 12 64, 4 42, 17 26, 26 10"
    )
    pen.disc(shade(colour, 1.2), 36, 24, 11, 8, -25)
    pen.disc(shade(colour, 0.87), 68, 54, 12, 7, -20)
    pen.disc(shade(colour, 0.87), 34, 56, 10, 6, 15)


def flower(pen: Pen, colour: RGB) -> None:
    """Six petals about a heart, on a stem with two leaves."""
    pen.stroke(LEAF, 6, "50 50, 50 96")
    pen.disc(LEAF, 63, 87, 14, 6, -28)
    pen.disc(LEAF, 37, 87, 14, 6, 28)
    for step in range(6):
        turn = math.radians(60 * step - 90)
        x, y = 50 + 23 * math.cos(turn), 39 + 22.5 * math.sin(turn)
        pen.disc(shade(colour, 0.8), x, y, 15, 13, 60 * step - 90)
        pen.disc(colour, x, y, 13.5, 11.5, 60 * step - 90)
    warm = min(colour[:2]) > 195 > colour[2]
    pen.disc((120, 76, 40) if warm else (247, 208, 70), 50, 39, 12)


def bench(pen: Pen, colour: RGB) -> None:
    """A park bench from the front: slats on dark iron legs."""
    for x in (14, 80):
        pen.box(INK, x, 14, x + 6, 96, 2)
    for left, right in ((8, 20), (80, 92)):
        pen.box(INK, left - 4, 90, right + 4, 97, 3)
    for top in (16, 31, 46):
        pen.box(colour, 3, top, 97, top + 11, 4)
    pen.box(INK, 3, 68, 97, 73, 2)
    pen.area(colour, "8 60, 92 60, 99 70, 1 70")
    pen.box(shade(colour, 0.85), 1, 70, 99, 76, 2)


def mushroom(pen: Pen, colour: RGB) -> None:
    """A spotted cap on a pale foot."""
    pen.blob((232, 220, 196), "38 50, 62 50, 63 76, 70 94, 50 98, 30 94, 37 76")
    pen.blob(colour, "50 3, 78 13, 96 40, 92 57, 50 61, 8 57, 4 40, 22 13")
    pen.blob(shade((232, 220, 196), 0.85), "14 56, 50 52, 86 56, 50 62")
    spot = contrast(colour)
    for x, y, radius in ((50, 20, 9), (26, 36, 8), (74, 37, 8), (50, 43, 5)):
        pen.disc(spot, x, y, radius, 0.85 * radius)


def butterfly(pen: Pen, colour: RGB) -> None:
    """Four wings from above, a dark body, two feelers."""
    for side in (str, mirrored):
        pen.stroke(INK, 3, side("50 30, 58 12, 64 8"))
        pen.blob(colour, side("51 48, 66 20, 90 10, 99 26, 92 48, 72 56"))
        pen.blob(shade(colour, 0.9), side("51 50, 74 54, 90 66, 84 88, 66 90, 54 70"))
    for x in (18, 82):
        pen.disc(contrast(colour), x, 30, 7)
        pen.disc(contrast(colour), x + (50 - x) * 0.22, 75, 5)
    pen.disc(INK, 50, 54, 5, 27)
    pen.disc(INK, 50, 27, 6)


def bird(pen: Pen, colour: RGB) -> None:
    """A songbird that looks to the left: round breast, long tail, thin legs."""
    for x in (42, 54):
        pen.stroke(INK, 3.5, f"{x} 78, {x} 96, {x - 8} 97")
    pen.area(shade(colour, 0.85), "66 46, 98 62, 99 74, 90 78, 62 70")
    pen.area((232, 150, 60), "18 24, 1 33, 18 38")
    pen.blob(colour, "30 9, 46 18, 54 34, 76 50, 78 68, 58 83, 36 82, 18 66, 15 46, 13 26, 18 13")
    pen.blob(shade(colour, 1.45), "18 48, 34 58, 46 78, 34 80, 20 66")
    pen.blob(shade(colour, 0.8), "44 46, 62 46, 80 62, 84 70, 58 70, 46 60")
    pen.disc(EYE, 27, 26, 5)
    pen.disc(INK, 26, 26, 3.2)
