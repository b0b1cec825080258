"""One small drawing for each kind of thing; those of the garden are in ``icons_garden``.

The silhouettes are made to be told apart at 30 pixels, though not always easily: a cup is near a
kettle, a car near a bus. The given colour covers more of a thing than any other does, since the
questions ask for it.
"""

from __future__ import annotations

import math

from tools.demo_world import icons_garden as garden
from tools.demo_world.pen import (
    EYE,
    GLASS,
    GLOW,
    INK,
    LEAF,
    RGB,
    WOOD,
    Icon,
    Pen,
    contrast,
    mirrored,
    shade,
)


def cup(pen: Pen, colour: RGB) -> None:
    """A mug with its handle to the right."""
    pen.arc(colour, 10, 73, 52, 21, 24, range(-100, 101, 10))
    pen.blob(colour, "6 20, 40 16, 74 20, 75 50, 70 82, 62 95, 40 97, 18 95, 10 82, 5 50")
    pen.disc(shade(colour, 0.8), 40, 19, 35, 11)
    pen.disc((96, 62, 44), 40, 21, 28, 7)
    pen.box(shade(colour, 1.3), 15, 42, 22, 80, 3.5)


def plate(pen: Pen, colour: RGB) -> None:
    """A plate from above: a rim and a well."""
    pen.disc(colour, 50, 50, 49)
    pen.disc(shade(colour, 0.8), 50, 50, 33)
    pen.disc(shade(colour, 1.12), 50, 50, 30)
    pen.arc(shade(colour, 1.4), 3, 50, 50, 41, 41, range(190, 251, 10))


def fork(pen: Pen, colour: RGB) -> None:
    """A fork, its four prongs up."""
    for left in (26, 39.7, 53.3, 67):
        pen.box(colour, left, 1, left + 8, 38, 4)
    pen.blob(colour, "26 30, 50 31, 74 30, 74 42, 62 53, 50 57, 38 53, 26 42")
    pen.area(colour, "44 48, 56 48, 57 60, 43 60")
    pen.box(colour, 42, 56, 58, 99, 8)
    pen.box(shade(colour, 1.35), 47, 64, 51, 92, 2)


def bottle(pen: Pen, colour: RGB) -> None:
    """A bottle with a cork and a label."""
    pen.box(WOOD, 42, 1, 58, 14, 2)
    pen.blob(
        colour, "40 10, 60 10, 60 28, 70 40, 74 54, 74 90, 66 98, 34 98, 26 90, 26 54, 30 40, 40 28"
    )
    pen.box(shade(colour, 0.85), 38, 9, 62, 15, 2)
    pen.box(contrast(colour), 27, 58, 73, 78)
    pen.box(shade(colour, 1.35), 33, 44, 37, 54, 2)


def apple(pen: Pen, colour: RGB) -> None:
    """An apple with its stalk and a leaf."""
    pen.stroke(WOOD, 5, "50 28, 51 14, 56 4")
    pen.blob(LEAF, "54 17, 66 5, 84 4, 76 16, 64 20")
    pen.blob(
        colour, "50 26, 68 19, 88 28, 95 50, 86 76, 68 96, 50 93, 32 96, 14 76, 5 50, 12 28, 32 19"
    )
    pen.blob(shade(colour, 0.75), "40 25, 50 29, 60 25, 50 33")
    pen.disc(shade(colour, 1.4), 25, 44, 6, 12, 20)


def kettle(pen: Pen, colour: RGB) -> None:
    """A kettle for the stove: spout to the left, handle above, a knob on the lid."""
    pen.arc(INK, 7, 56, 40, 33, 34, range(-170, -9, 10))
    pen.area(colour, "38 60, 12 32, 1 36, 3 43, 9 44, 28 84")
    pen.blob(colour, "56 34, 76 38, 88 56, 96 84, 90 95, 56 97, 22 95, 18 84, 26 56, 36 38")
    pen.box(shade(colour, 0.75), 20, 88, 94, 97, 4)
    pen.blob(shade(colour, 0.85), "38 41, 56 32, 74 41, 56 45")
    pen.disc(INK, 56, 30, 6)
    pen.disc(shade(colour, 1.4), 40, 62, 4, 11, 15)


def car(pen: Pen, colour: RGB) -> None:
    """A car from the side, its nose to the right."""
    pen.area(colour, "16 46, 28 22, 36 18, 62 18, 70 22, 84 46")
    pen.box(colour, 1, 42, 99, 72, 11)
    pen.area(GLASS, "24 44, 33 26, 46 26, 46 44")
    pen.area(GLASS, "52 26, 64 26, 75 44, 52 44")
    pen.box(shade(colour, 0.8), 2, 62, 98, 67)
    pen.box(GLOW, 92, 48, 99, 56, 2)
    for x in (24, 76):
        _wheel(pen, x, 71, 14)


def bus(pen: Pen, colour: RGB) -> None:
    """A bus from the side: a long box with a row of windows and a door."""
    pen.box(colour, 1, 8, 99, 80, 8)
    for left in (8, 26, 44, 62):
        pen.box(GLASS, left, 18, left + 14, 40, 3)
    pen.box(GLASS, 81, 18, 94, 72, 3)
    pen.box(colour, 87, 18, 88.5, 72)
    pen.box(contrast(colour), 1, 49, 77, 54)
    for x in (22, 64):
        _wheel(pen, x, 80, 12)


def house(pen: Pen, colour: RGB) -> None:
    """A house with a gable, a chimney, a door and two windows."""
    pen.box((120, 100, 98), 70, 8, 81, 36)
    pen.box(colour, 12, 40, 88, 98)
    pen.area((88, 84, 98), "50 2, 99 46, 93 50, 7 50, 1 46")
    pen.area(colour, "50 17, 78 42, 22 42")
    pen.disc(GLASS, 50, 35, 6)
    pen.box(shade(WOOD, 0.8), 42, 66, 58, 98, 2)
    for left in (19, 65):
        pen.box((250, 248, 240), left, 58, left + 17, 76)
        pen.box(GLASS, left + 2, 60, left + 15, 74)


def lamp(pen: Pen, colour: RGB) -> None:
    """A street lamp: a lantern on a post."""
    pen.box(colour, 44, 44, 56, 92)
    pen.blob(colour, "44 84, 56 84, 66 94, 72 99, 28 99, 34 94")
    pen.box(colour, 34, 52, 66, 58, 3)
    pen.area(colour, "24 16, 76 16, 64 50, 36 50")
    pen.area(shade(colour, 0.7), "30 18, 70 18, 61 47, 39 47")
    pen.area((255, 246, 212), "33 20, 67 20, 59 45, 41 45")
    pen.box(colour, 48, 18, 52, 48)
    pen.blob(colour, "50 3, 66 8, 80 18, 50 20, 20 18, 34 8")
    pen.disc(colour, 50, 4, 4)


def bicycle(pen: Pen, colour: RGB) -> None:
    """A bicycle from the side, its handlebar to the right."""
    for x in (23, 77):
        pen.arc(INK, 3, x, 68, 21.5, 21.5, range(0, 361, 10))
        pen.arc(colour, 6, x, 68, 17.5, 17.5, range(0, 361, 10))
        for turn in (30, 90, 150):
            across, down = 16 * math.cos(math.radians(turn)), 16 * math.sin(math.radians(turn))
            pen.stroke((150, 150, 155), 1, f"{x - across} {68 - down}, {x + across} {68 + down}")
    for tube in ("23 68, 37 38, 68 38, 48 68, 23 68", "34 30, 48 68", "64 24, 77 68"):
        pen.stroke(colour, 6.5, tube)
    pen.stroke(INK, 5, "62 22, 70 19, 78 22, 77 28")
    pen.blob(INK, "22 25, 34 24, 44 27, 36 32, 26 31")
    pen.disc(INK, 48, 68, 6)


def cone(pen: Pen, colour: RGB) -> None:
    """A traffic cone with two bands, on its foot."""
    pen.area(colour, "44 3, 56 3, 82 88, 18 88")
    pen.area(contrast(colour), "39.4 18, 60.6 18, 65.5 34, 34.5 34")
    pen.area(contrast(colour), "30.2 48, 69.8 48, 75 65, 25 65")
    pen.box(shade(colour, 0.85), 3, 86, 97, 98, 4)


def boat(pen: Pen, colour: RGB) -> None:
    """A sailing boat with two sails."""
    pen.box(WOOD, 47, 1, 51, 72)
    pen.area(colour, "53 4, 72 24, 84 44, 90 61, 53 64")
    pen.area(shade(colour, 1.3), "45 12, 45 64, 12 61, 28 40")
    pen.blob(colour, "3 69, 30 71, 70 71, 97 69, 92 84, 80 97, 50 98, 20 97, 8 84")
    pen.area(contrast(colour), "6 79, 94 79, 92 85, 8 85")


def duck(pen: Pen, colour: RGB) -> None:
    """A duck that swims to the right: head high, tail up."""
    pen.blob((222, 118, 48), "82 28, 99 30, 99 37, 82 42")
    pen.blob(
        colour,
        "2 44, 14 50, 34 56, 50 48, 50 30, 56 14, 72 8, 86 16, 90 32, 82 48, 88 66, 78 86, "
        "50 94, 22 88, 8 70",
    )
    pen.blob(shade(colour, 0.83), "22 62, 44 58, 66 62, 60 76, 42 82, 26 76")
    pen.disc(INK, 75, 25, 4)
    pen.disc(EYE, 76, 24, 1.5)


def lighthouse(pen: Pen, colour: RGB) -> None:
    """A banded tower on a rock, with a lantern and a roof."""
    pen.blob((128, 128, 132), "10 98, 14 90, 34 85, 66 85, 86 90, 90 98")
    pen.area(colour, "36 32, 64 32, 74 90, 26 90")
    band = contrast(colour)
    pen.area(band, "34 45, 66 45, 68.5 58, 31.5 58")
    pen.area(band, "29.5 71, 70.5 71, 72.5 81, 27.5 81")
    pen.box(GLOW, 38, 15, 62, 30)
    pen.box(INK, 48, 15, 52, 30)
    pen.box(INK, 28, 28, 72, 34, 2)
    pen.area(colour, "50 1, 70 17, 30 17")


def fish(pen: Pen, colour: RGB) -> None:
    """A fish that swims to the left: forked tail, fins, one eye."""
    pen.blob(shade(colour, 0.85), "34 32, 48 12, 66 16, 68 36")
    pen.blob(shade(colour, 0.85), "42 66, 50 86, 64 82, 60 64")
    pen.area(colour, "66 50, 98 20, 91 50, 98 80")
    pen.blob(colour, "1 51, 16 34, 40 25, 62 32, 80 50, 62 68, 40 76, 16 68")
    pen.stroke(shade(colour, 0.75), 3, "31 31, 36 42, 36 58, 31 70")
    for x in (48, 60):
        pen.stroke(shade(colour, 0.75), 2.5, f"{x} 40, {x + 4} 50, {x} 60")
    pen.disc(EYE, 18, 45, 6)
    pen.disc(INK, 17, 45, 3.5)


def crab(pen: Pen, colour: RGB) -> None:
    """A crab from the front: a wide shell, claws held up, six legs, eyes on stalks."""
    claw = "76 36, 66 24, 68 8, 80 1, 81 17, 90 5, 99 15, 95 31, 86 40"
    for side in (str, mirrored):
        for leg in ("72 62, 94 62, 98 76", "70 72, 88 74, 91 90", "64 80, 76 84, 77 98"):
            pen.stroke(shade(colour, 0.85), 6, side(leg))
        pen.stroke(colour, 9, side("74 60, 88 50, 84 34"))
        pen.blob(colour, side(claw))
        pen.stroke(INK, 4, side("59 50, 59 32"))
    pen.blob(colour, "50 40, 72 44, 84 58, 76 80, 50 88, 24 80, 16 58, 28 44")
    for x in (41, 59):
        pen.disc(EYE, x, 31, 7)
        pen.disc(INK, x, 31, 3.5)
    pen.stroke(INK, 3, "38 68, 44 73, 56 73, 62 68")


def starfish(pen: Pen, colour: RGB) -> None:
    """Five blunt arms with rows of dots."""
    rim = []
    for step in range(5):
        for turn, radius in ((-13, 44), (0, 50), (13, 44), (36, 20)):
            angle = math.radians(72 * step + turn - 90)
            rim.append(f"{50 + radius * math.cos(angle):.1f} {53 + radius * math.sin(angle):.1f}")
    pen.blob(colour, ", ".join(rim))
    for step in range(5):
        angle = math.radians(72 * step - 90)
        for radius, size in ((14, 4), (26, 3.3), (37, 2.6)):
            x, y = 50 + radius * math.cos(angle), 53 + radius * math.sin(angle)
            pen.disc(contrast(colour), x, y, size)


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    """Draw a tyre with its hub."""
    pen.disc(INK, x, y, radius)
    pen.disc((178, 180, 186), x, y, 0.45 * radius)


ICONS: dict[str, Icon] = {
    icon.__name__: icon
    for icon in (
        *(cup, plate, fork, bottle, apple, kettle),
        *(car, house, bus, lamp, bicycle, cone),
        *(garden.tree, garden.flower, garden.bench, garden.mushroom, garden.butterfly, garden.bird),
        *(boat, duck, lighthouse, fish, crab, starfish),
    )
}
"""Key of ``KINDS`` → its drawing."""
