"""From a scene to a picture: background, things, and how the picture was taken.

A scene says what there is; the seed in it decides what is mere decoration. The same scene gives the
same bytes in the same environment.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tools.demo_world.icons import ICONS
from tools.demo_world.pen import INK, RGB, Pen, shade
from tools.demo_world.scenes import Look, Scene, Thing
from tools.demo_world.world import COLOURS

FINE = 3
"""Things are drawn this many times larger and then reduced: smooth edges."""

ROUGH = 2
"""The same for backgrounds, which are mostly straight."""

JITTER = 7
"""Most that a thing's colour is off its name's, in each channel: red must not turn orange."""

RIM = 0.36
"""How dark a thing's outline is beside its colour."""

MARGIN = 5
"""How far outline and shadow reach beyond a thing's box, in pixels."""

SHADOW = [round(0.4 * level) for level in range(256)]
"""Coverage of a thing's silhouette → that of its shadow."""

FOG: RGB = (196, 197, 200)
"""What fog looks like when nothing else can be seen."""


def draw(scene: Scene) -> Image.Image:
    """Draw a scene.

    Args:
        scene: What is in the picture, where, and how it was taken.

    Returns:
        The picture, mode RGB, ``scene.width`` × ``scene.height`` pixels.

    Raises:
        KeyError: When the place, a kind or a colour is not of this world.
    """
    picture = draw_place(scene.place, scene.width, scene.height, scene.seed)
    for number, thing in enumerate(scene.things):
        _put(picture, thing, random.Random(f"thing/{scene.seed}/{number}"))  # noqa: S311
    return _take(picture, scene.look, scene.seed)


def draw_icon(thing: Thing, edge: int, colour: RGB) -> Image.Image:
    """Draw a thing alone, its centre and size taken in pixels of a square canvas.

    Returns:
        The canvas, mode RGBA, ``edge`` × ``edge`` pixels, transparent where the thing is not.
    """
    # Where nothing is drawn, the colour is the outline's, for edges to fade into.
    fine = Image.new("RGBA", (FINE * edge, FINE * edge), (*shade(colour, RIM), 0))
    pen = Pen(ImageDraw.Draw(fine), FINE * thing.x, FINE * thing.y, FINE * thing.size, thing.angle)
    ICONS[thing.kind](pen, colour)
    # Reducing RGBA would weigh colours by coverage, at twice the time.
    icon = fine.convert("RGB").reduce(FINE)
    icon.putalpha(fine.getchannel("A").reduce(FINE))
    return icon


def draw_place(place: str, width: int, height: int, seed: int) -> Image.Image:
    """Draw an empty place.

    Returns:
        The picture, mode RGB, ``width`` × ``height`` pixels.
    """
    rng = random.Random(f"place/{seed}")  # noqa: S311
    rough = Image.new("RGB", (ROUGH * width, ROUGH * height))
    BACKGROUNDS[place](rough, rng)
    return rough.reduce(ROUGH)


def _put(picture: Image.Image, thing: Thing, rng: random.Random) -> None:
    """Lay a thing over the picture, with a soft shadow and a thin outline about it."""
    red, green, blue = (part + rng.randint(-JITTER, JITTER) for part in COLOURS[thing.colour])
    colour = (red, green, blue)
    turn = math.radians(thing.angle)
    reach = 0.5 * thing.size * (abs(math.cos(turn)) + abs(math.sin(turn))) + MARGIN
    left, top = math.floor(thing.x - reach), math.floor(thing.y - reach)
    moved = replace(thing, x=thing.x - left, y=thing.y - top)
    icon = draw_icon(moved, math.ceil(2 * reach) + 1, colour)
    body = icon.getchannel("A")
    outline = body.filter(ImageFilter.MaxFilter(3))
    shadow = ImageChops.offset(outline, 1, 2).filter(ImageFilter.BoxBlur(2))
    picture.paste(INK, (left, top), shadow.point(SHADOW))
    picture.paste(shade(colour, RIM), (left, top), outline)
    picture.paste(icon, (left, top), body)


def _take(picture: Image.Image, look: Look, seed: int) -> Image.Image:
    """Return the picture as it was taken: fog, light, blur, noise, grey."""
    # Fog and light act on each level alone, so both are one table per channel.
    clear, light = 1 - look.fog, look.light
    levels = [light * (clear * level + look.fog * haze) for haze in FOG for level in range(256)]
    picture = picture.point([min(255, round(level)) for level in levels])
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur))
    if look.noise:
        pixels = np.asarray(picture, dtype=np.float32)
        noise = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
        noise *= look.noise
        noise += pixels
        noise += 0.5  # the cast below cuts the fraction off
        picture = Image.fromarray(np.clip(noise, 0, 255, out=noise).astype(np.uint8))
    return picture.convert("L").convert("RGB") if look.grey else picture


def _tint(rng: random.Random, *colours: RGB) -> RGB:
    """Return one of the colours, a little off."""
    red, green, blue = rng.choice(colours)
    light = rng.randint(-12, 12)
    return (
        min(255, red + light + rng.randint(-6, 6)),
        min(255, green + light + rng.randint(-6, 6)),
        min(255, blue + light + rng.randint(-6, 6)),
    )


def _fade(image: Image.Image, top: int, bottom: int, above: RGB, below: RGB) -> None:
    """Fill the band between two heights with a gradient."""
    bottom = max(bottom, top + 1)
    ramp = Image.new("RGB", (1, 2))
    ramp.putdata([above, below])
    ramp = ramp.resize((1, bottom - top), Image.Resampling.BILINEAR, (0, 0.5, 1, 1.5))
    image.paste(ramp.resize((image.width, bottom - top), Image.Resampling.NEAREST), (0, top))


def _clouds(image: Image.Image, rng: random.Random, horizon: int, sky: RGB) -> None:
    """Draw a few flat clouds, hardly lighter than the sky."""
    pen, colour = ImageDraw.Draw(image), shade(sky, 1.35)
    for _ in range(rng.randint(0, 3)):
        x, y = rng.uniform(0, image.width), rng.uniform(0.05, 0.7) * horizon
        for _ in range(3):
            length, high = rng.uniform(20, 60), rng.uniform(4, 9)
            dx, dy = rng.uniform(-30, 30), rng.uniform(-5, 5)
            spot = (x + dx - length, y + dy - high, x + dx + length, y + dy + high)
            pen.rounded_rectangle(spot, high, fill=colour)


def _kitchen(image: Image.Image, rng: random.Random) -> None:
    """Draw a tiled wall over a table top."""
    width, height = image.size
    wall = _tint(rng, (196, 206, 204), (208, 203, 190), (190, 200, 210), (205, 196, 196))
    table = _tint(rng, (176, 156, 132), (160, 150, 142), (186, 172, 150), (150, 148, 152))
    top = round(height * rng.uniform(0.42, 0.66))
    image.paste(wall, (0, 0, width, height))
    pen = ImageDraw.Draw(image)
    tile, joint = rng.randint(34, 58), shade(wall, 0.92)
    offset, accent = rng.randint(0, tile), rng.randint(0, 4)
    for row, y in enumerate(range(top, -tile, -tile)):
        if row == accent:
            pen.rectangle((0, y - tile, width, y), fill=shade(wall, 0.95))
        pen.line((0, y - tile, width, y - tile), fill=joint, width=3)
        shift = offset + (tile // 2 if row % 2 else 0)
        for x in range(shift - tile, width, tile):
            pen.line((x, y - tile, x, y), fill=joint, width=3)
    pen.rectangle((0, top, width, height), fill=table)
    pen.rectangle((0, top, width, top + 7), fill=shade(table, 1.25))
    for _ in range(rng.randint(4, 9)):
        left, grain = rng.uniform(-0.2, 0.9) * width, rng.uniform(top + 14, height)
        right = left + rng.uniform(0.1, 0.5) * width
        pen.line((left, grain, right, grain), fill=shade(table, 0.94), width=2)


def _street(image: Image.Image, rng: random.Random) -> None:
    """Draw the grey outline of a town behind a pavement and a road."""
    width, height = image.size
    sky = _tint(rng, (186, 200, 214), (204, 206, 210), (214, 204, 196))
    kerb, road = round(height * rng.uniform(0.48, 0.6)), round(height * rng.uniform(0.64, 0.76))
    _fade(image, 0, kerb, shade(sky, 0.95), shade(sky, 1.2))
    _clouds(image, rng, kerb // 2, sky)
    pen = ImageDraw.Draw(image)
    town, x = _tint(rng, (164, 170, 180), (172, 168, 170)), -rng.randint(0, 60)
    while x < width:
        right, roof = x + rng.randint(50, 120), kerb - round(height * rng.uniform(0.14, 0.42))
        facade = shade(town, rng.uniform(0.93, 1.07))
        pen.rectangle((x, roof, right, kerb), fill=facade)
        for y in range(roof + 14, kerb - 14, 22):
            pen.line((x + 10, y, right - 10, y), fill=shade(facade, 0.95), width=5)
        x = right
    tar = _tint(rng, (122, 124, 130), (136, 134, 134))
    pen.rectangle((0, kerb, width, road), fill=_tint(rng, (178, 174, 168), (168, 168, 172)))
    pen.rectangle((0, road, width, height), fill=tar)
    pen.rectangle((0, road, width, road + 5), fill=shade(tar, 0.85))
    middle, dash = (road + height) // 2, rng.randint(40, 70)
    for x in range(-rng.randint(0, dash), width, 2 * dash):
        pen.rectangle((x, middle - 3, x + dash, middle + 3), fill=shade(tar, 1.4))


def _garden(image: Image.Image, rng: random.Random) -> None:
    """Draw a sky and far hills over a mown lawn."""
    width, height = image.size
    sky = _tint(rng, (188, 208, 220), (206, 214, 216), (216, 210, 200))
    horizon = round(height * rng.uniform(0.3, 0.5))
    _fade(image, 0, horizon, shade(sky, 0.95), shade(sky, 1.25))
    _clouds(image, rng, horizon, sky)
    lawn = _tint(rng, (160, 184, 140), (172, 186, 142), (150, 176, 146))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 3)):
        x, reach, rise = rng.uniform(0, width), rng.uniform(0.3, 0.7) * width, rng.uniform(8, 40)
        pen.ellipse((x - reach, horizon - rise, x + reach, horizon + rise), fill=shade(lawn, 1.18))
    _fade(image, horizon, height, shade(lawn, 1.1), shade(lawn, 0.95))
    stripe, step = float(horizon), rng.uniform(10, 16)
    while stripe < height:  # the stripes of the mower widen towards us
        pen.rectangle((0, stripe, width, stripe + step), fill=shade(lawn, 0.97))
        stripe, step = stripe + 2 * step, 1.3 * step
    for _ in range(rng.randint(5, 16)):
        x, y = rng.uniform(0, width), rng.uniform(horizon + 8, height)
        for lean in (-4, 0, 4):
            pen.line((x, y, x + lean, y - 9), fill=shade(lawn, 0.86), width=2)


def _seaside(image: Image.Image, rng: random.Random) -> None:
    """Draw a sky over water over sand."""
    width, height = image.size
    sky = _tint(rng, (190, 212, 224), (208, 214, 218), (220, 208, 198))
    horizon = round(height * rng.uniform(0.26, 0.42))
    beach = round(height * rng.uniform(0.62, 0.8))
    _fade(image, 0, horizon, shade(sky, 0.94), shade(sky, 1.3))
    _clouds(image, rng, horizon, sky)
    sea = _tint(rng, (126, 168, 184), (132, 160, 182), (136, 176, 174))
    sand = _tint(rng, (216, 202, 172), (208, 196, 176), (220, 208, 186))
    _fade(image, horizon, beach, shade(sea, 0.95), shade(sea, 1.2))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(5, 12)):
        x, y = rng.uniform(0, width), rng.uniform(horizon + 6, beach - 6)
        pen.line((x, y, x + rng.uniform(12, 60), y), fill=shade(sea, 1.3), width=3)
    bend, crest = rng.uniform(60, 140), rng.uniform(0, math.tau)
    shore = [(x, beach + 6 * math.sin(x / bend + crest)) for x in range(0, width + 16, 16)]
    foam = [(x, y - 7) for x, y in shore]
    pen.polygon([*foam, (width, height), (0, height)], fill=shade(sea, 1.7))
    pen.polygon([*shore, (width, height), (0, height)], fill=sand)
    for _ in range(rng.randint(10, 40)):
        x, y = rng.uniform(0, width), rng.uniform(beach + 12, height)
        pen.ellipse((x - 2, y - 1, x + 2, y + 1), fill=shade(sand, 0.88))


BACKGROUNDS: dict[str, Callable[[Image.Image, random.Random], None]] = {
    "kitchen": _kitchen,
    "street": _street,
    "garden": _garden,
    "seaside": _seaside,
}
"""Key of ``PLACES`` → what fills an empty picture with it."""
