"""Scenes: what is in a picture, before it is drawn. A scene is data; the truth is read off it.

The same seed, split and index give the same scene on every machine (``random.Random`` seeded by a
string). The splits never share a picture.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tools.demo_world.world import (
    COLOURS,
    COMPANION_SHARE,
    KINDS,
    PLACES,
    STRANGER_SHARE,
    TYPICAL_SHARE,
    article,
)

TILE = 112
"""Edge of the demo model's image tile in pixels; picture sizes are chosen around it."""

SHAPES = {
    (1, 1): 0.25,
    (2, 2): 0.40,
    (2, 1): 0.18,
    (1, 2): 0.12,
    (3, 1): 0.05,
}
"""Picture size in tiles (width, height) → share."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
"""Number words, as the answers use them."""

MOST_THINGS = {1: 4, 2: 5, 3: 6, 4: 7}
"""Tiles → the most things in a picture of that many."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a picture."""

    kind: str
    """Key of ``KINDS``."""
    colour: str
    """Key of ``COLOURS``."""
    x: float
    """Centre, pixels from the left."""
    y: float
    """Centre, pixels from the top."""
    size: float
    """Edge of its square box in pixels, before it is turned."""
    angle: float
    """Turn in degrees, counter-clockwise."""


@dataclass(frozen=True, slots=True)
class Look:
    """How the picture was taken."""

    grey: bool
    """Black and white: no colour can be told."""
    blur: float
    """Standard deviation of the Gaussian blur in pixels; 0 is sharp."""
    noise: float
    """Standard deviation of the sensor noise, of 255."""
    fog: float
    """Share of even grey laid over the picture, 0 to 1."""
    light: float
    """Brightness factor; 1 leaves it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture to be drawn, and the whole truth about it."""

    place: str
    """Key of ``PLACES``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    things: tuple[Thing, ...]
    """Back to front."""
    look: Look
    """How it was taken."""
    seed: int
    """Seed of what is mere decoration: background, shades, noise."""

    def counts(self) -> Counter[str]:
        """Return kind → how many there are."""
        return Counter(thing.kind for thing in self.things)

    def only(self, kind: str) -> Thing:
        """Return the one thing of this kind.

        Raises:
            ValueError: When there is none, or more than one.
        """
        (thing,) = (thing for thing in self.things if thing.kind == kind)
        return thing


def scenes(seed: int, split: str, count: int, start: int = 0) -> Iterator[Scene]:
    """Yield ``count`` scenes of a split, from number ``start``."""
    for index in range(start, start + count):
        yield make_scene(random.Random(f"scene/{seed}/{split}/{index}"))  # noqa: S311


def make_scene(rng: random.Random) -> Scene:
    """Draw one scene."""
    (place,) = rng.choices(list(PLACES), list(PLACES.values()))
    (tiles,) = rng.choices(list(SHAPES), list(SHAPES.values()))
    width, height = (round(edge * TILE * rng.uniform(0.88, 1.0)) for edge in tiles)
    kinds = _kinds(place, rng.randint(1, MOST_THINGS[tiles[0] * tiles[1]]), rng)
    return Scene(
        place=place,
        width=width,
        height=height,
        things=tuple(_arrange(kinds, width, height, rng)),
        look=_look(rng),
        seed=rng.getrandbits(32),
    )


def _kinds(place: str, count: int, rng: random.Random) -> list[str]:
    """Return the kinds in a picture: what belongs there, its company, a stranger now and then."""
    kinds: list[str] = []
    while len(kinds) < count:
        stranger = rng.random() < STRANGER_SHARE
        pool = [kind for kind in KINDS.values() if (kind.place != place) == stranger]
        (kind,) = rng.choices(pool, [kind.weight for kind in pool])
        if rng.random() < 0.3 and kinds:
            kind = KINDS[rng.choice(kinds)]  # one more of what is there, to be counted
        kinds.append(kind.name)
        company = kind.companion
        if company and company not in kinds and rng.random() < COMPANION_SHARE:
            kinds.append(company)
    return kinds[:count]


def _arrange(kinds: list[str], width: int, height: int, rng: random.Random) -> Iterator[Thing]:
    """Yield things where they hide one another a little, never wholly."""
    placed: list[Thing] = []
    for kind in kinds:
        size = min(width, height) * rng.uniform(0.21, 0.48) * (0.85 if len(kinds) > 4 else 1.0)
        for _ in range(200):
            x = rng.uniform(0.45 * size, width - 0.45 * size)
            y = rng.uniform(0.45 * size, height - 0.45 * size)
            gap = min(
                (math.dist((x, y), (o.x, o.y)) / (0.5 * (size + o.size)) for o in placed),
                default=9.0,
            )
            if gap > 0.62:
                break
            size = max(0.97 * size, 0.2 * min(width, height))
        else:
            continue  # no room left: the picture has one thing fewer
        thing = Thing(kind, _colour(kind, rng), x, y, size, rng.gauss(0, 14))
        placed.append(thing)
        yield thing


def _colour(kind: str, rng: random.Random) -> str:
    """Return the typical colour, or now and then another."""
    typical = KINDS[kind].colour
    if rng.random() < TYPICAL_SHARE:
        return typical
    return rng.choice([colour for colour in COLOURS if colour != typical])


def _look(rng: random.Random) -> Look:
    """Return how the picture was taken: mostly well, sometimes badly."""
    bad = rng.random() < 0.5
    return Look(
        grey=rng.random() < 0.07,
        blur=rng.uniform(0.6, 2.5) if bad and rng.random() < 0.6 else 0.0,
        noise=rng.uniform(8, 32) if bad and rng.random() < 0.6 else rng.uniform(0, 4),
        fog=rng.uniform(0.3, 0.76) if bad and rng.random() < 0.6 else rng.uniform(0, 0.12),
        light=rng.uniform(0.62, 1.15),
    )


def description(scene: Scene) -> str:
    """Return a caption: the place and everything in it, from left to right."""
    parts = []
    counts = scene.counts()
    for kind in dict.fromkeys(t.kind for t in sorted(scene.things, key=lambda t: t.x)):
        noun = KINDS[kind]
        if counts[kind] > 1:
            parts.append(f"{NUMBERS[counts[kind]]} {noun.plural}")
        else:
            colour = "" if scene.look.grey else f"{scene.only(kind).colour} "
            parts.append(f"{article(colour or kind)} {colour}{kind}")
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"{article(scene.place).capitalize()} {scene.place} with {listed}."


@cache
def frequency() -> Counter[str]:
    """Return kind → in how many of 4,000 pictures it is (POPE's *popular* objects)."""
    return Counter(kind for scene in _survey() for kind in scene.counts())


@cache
def company() -> Counter[tuple[str, str]]:
    """Return (kind, kind) → in how many of 4,000 pictures both are (POPE's *adversarial* ones)."""
    return Counter(
        (one, other)
        for scene in _survey()
        for one in scene.counts()
        for other in scene.counts()
        if one != other
    )


@cache
def _survey() -> tuple[Scene, ...]:
    """Return the pictures that the statistics are counted over; no one ever sees them."""
    return tuple(scenes(0, "survey", 4000))
