"""The pen that the icons are drawn with.

An icon is a function that draws one kind of thing with a pen, in a box of 100 by 100 units, so that
a picture needs no image files and a thing can stand anywhere, in any size, colour and turn. The pen
turns the outlines, not the pixels: nothing is resampled twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

RGB = tuple[int, int, int]
"""8-bit sRGB."""

INK: RGB = (45, 42, 50)
"""Outlines, tyres, eyes: a soft black."""
WOOD: RGB = (112, 78, 52)
LEAF: RGB = (84, 138, 78)
EYE: RGB = (250, 250, 248)
GLASS: RGB = (186, 214, 228)
GLOW: RGB = (255, 240, 190)


def shade(colour: RGB, factor: float) -> RGB:
    """Return the colour darkened (``factor`` below 1) or moved towards white (above 1)."""
    if factor <= 1:
        red, green, blue = (round(factor * part) for part in colour)
    else:
        red, green, blue = (round(part + (factor - 1) * (255 - part)) for part in colour)
    return red, green, blue


def contrast(colour: RGB) -> RGB:
    """Return what shows on the colour: near-white, or mid-grey when the colour is near-white."""
    return (150, 152, 158) if min(colour) > 185 else (246, 244, 238)


def mirrored(path: str) -> str:
    """Return a path with left and right exchanged.

    >>> mirrored("10 20, 50 60")
    '90 20, 50 60'
    """
    spots = (spot.split() for spot in path.split(","))
    return ", ".join(f"{100 - float(x):g} {y}" for x, y in spots)


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws shapes given in units of a box of 100 by 100, (0, 0) being its upper left corner.

    Paths are strings of coordinates, ``"x y, x y, ..."``, so that a shape reads as one line.
    """

    canvas: ImageDraw.ImageDraw
    """What is drawn on; shapes replace what is under them."""
    x: float
    """Centre of the box on the canvas, pixels from the left."""
    y: float
    """Centre of the box on the canvas, pixels from the top."""
    edge: float
    """Edge of the box in pixels of the canvas."""
    angle: float = 0.0
    """Turn of the box about its centre in degrees, counter-clockwise."""

    def area(self, colour: RGB, path: str) -> None:
        """Fill the polygon with these corners."""
        self._fill(colour, _corners(path))

    def blob(self, colour: RGB, path: str) -> None:
        """Fill the smooth closed curve through these points."""
        self._fill(colour, _curve(path))

    def disc(
        self, colour: RGB, x: float, y: float, rx: float, ry: float = 0, lean: float = 0
    ) -> None:
        """Fill an ellipse (a circle without ``ry``) that leans by degrees, clockwise."""
        self._fill(colour, _ellipse(x, y, rx, ry or rx, lean))

    def box(
        self, colour: RGB, left: float, top: float, right: float, bottom: float, corner: float = 0
    ) -> None:
        """Fill a rectangle whose corners are rounded with this radius."""
        self._fill(colour, _rectangle(left, top, right, bottom, corner))

    def stroke(self, colour: RGB, width: float, path: str) -> None:
        """Draw a line of this width through these points, with round joints and ends."""
        spots = self._place(_corners(path))
        self.canvas.line(spots, fill=colour, width=max(1, round(width / 100 * self.edge)))
        radius = width / 200 * self.edge
        for x, y in zip(spots[::2], spots[1::2], strict=True):
            self.canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def arc(
        self, colour: RGB, width: float, x: float, y: float, rx: float, ry: float, turns: range
    ) -> None:
        """Draw part of an ellipse as a line; ``turns`` are degrees, clockwise from the right."""
        self.stroke(colour, width, _arc(x, y, rx, ry, turns))

    def _fill(self, colour: RGB, points: NDArray[np.float64]) -> None:
        """Fill the polygon with these corners, in units."""
        self.canvas.polygon(self._place(points), fill=colour)

    def _place(self, points: NDArray[np.float64]) -> list[float]:
        """Return points, (n, 2) in units, as x, y, x, y, ... in pixels of the canvas."""
        scale, angle = self.edge / 100, math.radians(self.angle)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        across, down = points[:, 0] - 50, points[:, 1] - 50
        spots = np.empty_like(points)
        spots[:, 0] = self.x + cos * across + sin * down
        spots[:, 1] = self.y - sin * across + cos * down
        flat: list[float] = spots.ravel().tolist()
        return flat


Icon = Callable[[Pen, RGB], None]
"""Draws one kind of thing with a pen, mainly in the colour that is given."""


@cache
def _arc(x: float, y: float, rx: float, ry: float, turns: range) -> str:
    """Return the path along an ellipse."""
    angles = map(math.radians, turns)
    return ", ".join(f"{x + rx * math.cos(a):.2f} {y + ry * math.sin(a):.2f}" for a in angles)


@cache
def _corners(path: str) -> NDArray[np.float64]:
    """Return the points of a path, (n, 2)."""
    return np.array([[float(part) for part in spot.split()] for spot in path.split(",")])


@cache
def _curve(path: str) -> NDArray[np.float64]:
    """Return a closed Catmull-Rom spline through the points of a path, eight steps between two."""
    corners = _corners(path)
    before, after, beyond = (np.roll(corners, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    spline = (
        2 * corners
        + (after - before) * t
        + (2 * before - 5 * corners + 4 * after - beyond) * t**2
        + (3 * corners - before - 3 * after + beyond) * t**3
    ) / 2
    return np.ascontiguousarray(spline.transpose(1, 0, 2)).reshape(-1, 2)


@cache
def _ellipse(x: float, y: float, rx: float, ry: float, lean: float) -> NDArray[np.float64]:
    """Return the outline of an ellipse, (32, 2)."""
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    across, down, angle = rx * np.cos(turn), ry * np.sin(turn), math.radians(lean)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + cos * across - sin * down, y + sin * across + cos * down], axis=1)


@cache
def _rectangle(
    left: float, top: float, right: float, bottom: float, corner: float
) -> NDArray[np.float64]:
    """Return the outline of a rectangle with rounded corners."""
    if not corner:
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    middles = (
        (right, bottom, -1, -1),
        (left, bottom, 1, -1),
        (left, top, 1, 1),
        (right, top, -1, 1),
    )
    outline = [
        (x + corner * (inx + math.cos(turn)), y + corner * (iny + math.sin(turn)))
        for quarter, (x, y, inx, iny) in enumerate(middles)
        for turn in (math.radians(90 * quarter + 22.5 * step) for step in range(5))
    ]
    return np.array(outline)
