"""The little world of the demo: four places, twenty-four kinds of things, eight colours.

What stands where, with what, and in which colour is skewed on purpose, as it is in photographs: a
fork lies beside a plate, an apple is red. A model that learns these habits is tempted to see a fork
beside every plate; that is the hallucination of object and attribute which POPE (Li et al., 2023),
AMBER (Wang et al., 2023) and HaloQuest (Wang et al., 2024) measure on large models.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = {
    "red": (205, 45, 45),
    "orange": (240, 135, 35),
    "yellow": (245, 210, 60),
    "green": (60, 155, 75),
    "blue": (50, 105, 205),
    "purple": (140, 75, 175),
    "brown": (130, 85, 50),
    "white": (240, 240, 238),
}
"""Colour name → middle of its range, 8-bit sRGB."""

TYPICAL_SHARE = 0.68
"""How often a thing has its kind's typical colour; the other colours share the rest evenly."""

STRANGER_SHARE = 0.12
"""How often a thing belongs to another place than the picture's."""

COMPANION_SHARE = 0.55
"""How often a kind brings its companion along."""

PLACES = {"kitchen": 0.36, "street": 0.28, "garden": 0.21, "seaside": 0.15}
"""Place → its share of the pictures."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing."""

    name: str
    """Singular, as the questions say it."""
    plural: str
    """Plural."""
    place: str
    """Where it belongs."""
    weight: float
    """How common it is there; relative."""
    colour: str
    """Its typical colour."""
    companion: str = ""
    """The kind that it tends to bring along."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("cup", "cups", "kitchen", 30, "blue", "kettle"),
        Kind("plate", "plates", "kitchen", 26, "white", "fork"),
        Kind("fork", "forks", "kitchen", 8, "brown"),
        Kind("bottle", "bottles", "kitchen", 16, "green", "cup"),
        Kind("apple", "apples", "kitchen", 14, "red", "plate"),
        Kind("kettle", "kettles", "kitchen", 6, "white"),
        Kind("car", "cars", "street", 32, "red", "cone"),
        Kind("house", "houses", "street", 24, "brown", "lamp"),
        Kind("bus", "buses", "street", 16, "yellow", "car"),
        Kind("lamp", "lamps", "street", 8, "green"),
        Kind("bicycle", "bicycles", "street", 13, "blue", "house"),
        Kind("cone", "cones", "street", 7, "orange"),
        Kind("tree", "trees", "garden", 30, "green", "bird"),
        Kind("flower", "flowers", "garden", 26, "purple", "butterfly"),
        Kind("bench", "benches", "garden", 15, "brown", "tree"),
        Kind("mushroom", "mushrooms", "garden", 13, "red", "flower"),
        Kind("butterfly", "butterflies", "garden", 8, "orange"),
        Kind("bird", "birds", "garden", 8, "blue"),
        Kind("boat", "boats", "seaside", 30, "white", "fish"),
        Kind("duck", "ducks", "seaside", 22, "yellow", "boat"),
        Kind("lighthouse", "lighthouses", "seaside", 18, "red", "crab"),
        Kind("fish", "fish", "seaside", 10, "orange"),
        Kind("crab", "crabs", "seaside", 9, "red"),
        Kind("starfish", "starfish", "seaside", 11, "purple", "lighthouse"),
    )
}
"""Name → kind."""


def article(noun: str) -> str:
    """Return ``a`` or ``an``.

    >>> article("apple"), article("cup")
    ('an', 'a')
    """
    return "an" if noun[0] in "aeiou" else "a"
