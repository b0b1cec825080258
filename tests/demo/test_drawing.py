"""Pictures show what the scene says, in the named colours, and nothing else moves."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tools.demo_world.drawing import JITTER, MARGIN, draw, draw_icon, draw_place
from tools.demo_world.icons import ICONS
from tools.demo_world.pen import contrast, shade
from tools.demo_world.scenes import Look, Scene, Thing, scenes
from tools.demo_world.world import COLOURS, KINDS, PLACES

CLEAR = Look(grey=False, blur=0.0, noise=0.0, fog=0.0, light=1.0)
THINGS = (
    Thing("house", "brown", 60.0, 62.5, 70.0, -9.0),
    Thing("car", "red", 150.3, 70.0, 62.0, 12.0),
    Thing("cone", "orange", 110.0, 155.0, 50.0, 0.0),
)
SCENE = Scene("street", 210, 197, THINGS, CLEAR, 7)


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(draw(scene), dtype=int)


def nearest(colour: tuple[int, ...]) -> str:
    return min(COLOURS, key=lambda name: math.dist(COLOURS[name], colour))


@pytest.mark.first(1)
@pytest.mark.parametrize("count", [12, 60])
def test_a_picture_has_the_scenes_size_and_draws_the_same_again(count: int) -> None:
    for scene in scenes(3, "train", count):
        picture = draw(scene)
        assert picture.mode == "RGB"
        assert picture.size == (scene.width, scene.height)
        assert picture.tobytes() == draw(scene).tobytes()


@pytest.mark.first(1)
@pytest.mark.parametrize("count", [4, 15])
def test_everything_can_be_seen(count: int) -> None:
    for scene in scenes(0, "demo", count):
        plain = replace(scene, look=CLEAR)
        for thing in scene.things:
            others = tuple(other for other in scene.things if other is not thing)
            alone = replace(plain, things=(thing,))
            shown = np.abs(pixels(plain) - pixels(replace(plain, things=others))).max(-1) > 12
            whole = np.abs(pixels(alone) - pixels(replace(plain, things=()))).max(-1) > 12
            assert shown.sum() > 0.25 * whole.sum(), (scene, thing)


def test_every_kind_has_an_icon_and_every_place_a_background() -> None:
    assert set(ICONS) == set(KINDS)
    for place in PLACES:
        first, second = (np.asarray(draw_place(place, 90, 70, seed), dtype=int) for seed in (1, 2))
        assert first.shape == (70, 90, 3)
        assert first.std() > 4, "not a plain surface"
        assert np.abs(first - second).mean() > 2, "the seed varies it"


@pytest.mark.parametrize("kind", KINDS)
def test_an_icon_fills_its_box(kind: str) -> None:
    icon = draw_icon(Thing(kind, "blue", 50, 50, 80, 0), 100, COLOURS["blue"])
    alpha = np.asarray(icon.getchannel("A"), dtype=float) / 255
    assert 0.12 < alpha[10:90, 10:90].mean() < 0.95
    alpha[9:91, 9:91] = 0
    assert not alpha.any(), "nothing is drawn outside the box"
    left, top, right, bottom = icon.getchannel("A").getbbox() or (0, 0, 0, 0)
    assert max(right - left, bottom - top) > 74


@pytest.mark.first(6)
@pytest.mark.parametrize("kind", KINDS)
def test_the_colour_that_covers_most_is_the_named_one(kind: str) -> None:
    for name, (red, green, blue) in COLOURS.items():
        for off in (-JITTER, JITTER):
            wanted = (red + off, green, blue - off)
            rgba = np.asarray(draw_icon(Thing(kind, name, 30, 30, 54, 20), 60, wanted))
            seen = rgba[rgba[..., 3] == 255][:, :3].tolist()
            ((most, _),) = Counter(map(tuple, seen)).most_common(1)
            assert nearest(most) == name
            assert _names(seen).most_common(1)[0][0] == name


def _names(seen: list[list[int]]) -> Counter[str]:
    """Return colour name → how many pixels are nearest to it; outlines and tyres have no name."""
    table = np.array(list(COLOURS.values()))
    array = np.array(seen)
    near = np.linalg.norm(array[:, None] - table, axis=2).argmin(axis=1)
    kept = near[(array.max(axis=1) > 60)]
    return Counter(np.array(list(COLOURS))[kept].tolist())


def test_two_kinds_never_have_the_same_silhouette() -> None:
    icons = [
        np.asarray(
            draw_icon(Thing(kind, "red", 30, 30, 56, 0), 60, COLOURS["red"]).getchannel("A"), int
        )
        for kind in KINDS
    ]
    for i, one in enumerate(icons):
        for other in icons[:i]:
            union = np.maximum(one, other).sum()
            assert np.minimum(one, other).sum() / union < 0.9


@pytest.mark.parametrize("number", range(len(THINGS)))
def test_changing_a_thing_changes_only_the_pixels_near_it(number: int) -> None:
    thing = THINGS[number]
    changed = [replace(t, kind="fish") if t is thing else t for t in THINGS]
    rows, columns = np.nonzero(
        (pixels(SCENE) != pixels(replace(SCENE, things=tuple(changed)))).any(2)
    )
    assert len(rows) > 200
    reach = (thing.size / 2 + MARGIN) * math.sqrt(2)  # half the diagonal of its box
    assert np.hypot(columns + 0.5 - thing.x, rows + 0.5 - thing.y).max() < reach


def test_a_turn_is_counter_clockwise() -> None:
    icon = draw_icon(Thing("tree", "green", 50, 50, 80, 90), 100, COLOURS["green"])
    alpha = np.asarray(icon.getchannel("A"), dtype=float)
    crown, trunk = alpha[:, :50].sum(), alpha[:, 50:].sum()
    assert crown > 1.2 * trunk, "a tree that is turned by 90 degrees has its crown to the left"


def test_things_are_drawn_back_to_front() -> None:
    behind, front = Thing("plate", "red", 50, 50, 60, 0), Thing("plate", "blue", 50, 50, 60, 0)
    scene = Scene("kitchen", 100, 100, (behind, front), CLEAR, 0)
    assert nearest(tuple(pixels(scene)[50, 50])) == "blue"


def test_a_thing_may_stand_over_the_edge() -> None:
    scene = replace(SCENE, things=(Thing("bus", "yellow", 2, 195, 90, 30),))
    assert draw(scene).size == (210, 197)


def test_grey_is_strictly_grey() -> None:
    for noise in (0.0, 20.0):
        grey = pixels(replace(SCENE, look=replace(CLEAR, grey=True, noise=noise)))
        assert (grey == grey[..., :1]).all()
        assert grey.std() > 5


def test_the_look_does_what_it_says() -> None:
    clear = pixels(SCENE)

    def look(**changes: Any) -> np.ndarray:
        return pixels(replace(SCENE, look=replace(CLEAR, **changes)))

    assert look(fog=0.6).std() < 0.5 * clear.std()
    assert look(light=0.5).mean() == pytest.approx(0.5 * clear.mean(), rel=0.02)
    assert np.abs(np.diff(look(blur=2.0), axis=0)).mean() < np.abs(np.diff(clear, axis=0)).mean()
    difference = look(noise=5.0) - clear
    assert difference.std() == pytest.approx(5.0, rel=0.05)
    assert abs(difference.mean()) < 0.2, "the noise neither lightens nor darkens"


def test_shades() -> None:
    assert shade((100, 200, 50), 0.5) == (50, 100, 25)
    assert shade((100, 200, 55), 2.0) == (255, 255, 255)
    assert max(contrast(COLOURS["white"])) < 170 < min(contrast(COLOURS["yellow"]))
