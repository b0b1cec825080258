"""Copies of images that are found, and different images that stay apart."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import sklearn
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from vlmscope.dataset import Thumbnails, image_thumbnail, read_thumbnails
from vlmscope.probes import image_groups, near_copies
from vlmscope.probes.alignment import pyramid, same_image

ROOT = Path(__file__).parents[2]
PHOTOS = (
    *sorted((ROOT / "benchmarks" / "photos").glob("*.jpg")),
    *sorted((Path(sklearn.__file__).parent / "datasets" / "images").glob("*.jpg")),
    Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg",
)
WHITE, BLACK = "white", "black"
TWICE = "mirrored, 90% of each side"


def thumbnails(images: Iterable[Image.Image]) -> Thumbnails:
    return read_thumbnails([image_thumbnail(image) for image in images])


def joined(*parts: Thumbnails) -> Thumbnails:
    columns = ("luma", "low", "high", "colour")
    return Thumbnails(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))


def groups(images: Thumbnails) -> np.ndarray:
    names = [f"{i:05}" for i in range(len(images))]
    pairs = [(names[a], names[b]) for a, b in near_copies(images)]
    return np.asarray(image_groups(names, copies=pairs))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    box = (width * left, height * top, width * (1 - right), height * (1 - bottom))
    return image.crop(tuple(map(round, box)))  # type: ignore[arg-type]


def bordered(image: Image.Image, share: float, colour: str) -> Image.Image:
    return ImageOps.expand(image, (round(image.width * share), round(image.height * share)), colour)


def turned(image: Image.Image, degrees: float, colour: str) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=colour)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 30": lambda image: jpeg(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "another aspect": lambda image: image.resize((200, 260)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.75),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "95% of each side": lambda image: cut(image, 0.05, 0.05, 0, 0),
    "90% of each side": lambda image: cut(image, 0.05, 0.05, 0.05, 0.05),
    "85% of each side": lambda image: cut(image, 0, 0, 0.15, 0.15),
    "border of 5%": lambda image: bordered(image, 0.05, WHITE),
    "border of 10%": lambda image: bordered(image, 0.10, BLACK),
    "turned by 2°": lambda image: turned(image, 2, BLACK),
    "turned by 5°": lambda image: turned(image, -5, WHITE),
    "mirrored": ImageOps.mirror,
    TWICE: lambda image: ImageOps.mirror(cut(image, 0.1, 0, 0, 0.1)),
    "upside down": ImageOps.flip,
    "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Photographs, whole and in halves: 20 in all."""
    whole = {path.stem: Image.open(path).convert("RGB") for path in PHOTOS}
    del whole["hubble_deep_field"]  # lights at night, that is: no scene
    halves = []
    for name, image in whole.items():
        image.thumbnail((480, 480))
        if name not in ("flower", "grace_hopper"):  # on nothing
            halves += [cut(image, 0.5, 0, 0, 0), cut(image, 0, 0, 0.5, 0)]
    return [*whole.values(), *halves]


@pytest.fixture(scope="module")
def originals(photos: list[Image.Image]) -> Thumbnails:
    return thumbnails(photos)


def test_different_photos_stay_apart(originals: Thumbnails) -> None:
    assert len(originals) == 20
    assert len(near_copies(originals)) == 0


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_photos_are_found(
    kind: str, photos: list[Image.Image], originals: Thumbnails
) -> None:
    copies = thumbnails(COPIES[kind](image) for image in photos)
    found = groups(joined(originals, copies))
    one, other = np.split(found, 2)
    least = 0.85 if kind == TWICE else 0.9
    assert (one == other).mean() >= least, [i for i in range(len(one)) if one[i] != other[i]]
    assert len(np.unique(one)) == len(one), "no two photographs become one through their copies"


def easy_images() -> list[Image.Image]:
    return [
        Image.open(p).convert("RGB") for p in sorted((ROOT / "tests/easy-vqa/images").iterdir())
    ]


def test_one_shape_each_on_a_pale_ground_is_another_image_each() -> None:
    images = easy_images()
    found = groups(thumbnails(images))
    assert len(images) == 250
    assert len(np.unique(found)) >= 249


@pytest.mark.exhaustive
def test_copies_in_place_of_sparse_images_are_found() -> None:
    images = easy_images()[:120]
    for copy in (lambda i: i.resize((128, 128), Image.Resampling.BICUBIC), lambda i: jpeg(i, 85)):
        found = groups(joined(thumbnails(images), thumbnails(map(copy, images))))
        one, other = np.split(found, 2)
        assert (one == other).mean() >= 0.9
        assert len(np.unique(one)) == len(one)


@pytest.mark.exhaustive
def test_scenes_of_the_demo_world_are_different() -> None:
    paths = sorted((ROOT / "src/vlmscope/demo/images").glob("*.jpg"))[::2]
    found = groups(thumbnails(Image.open(path).convert("RGB") for path in paths))
    assert len(paths) > 100
    assert len(np.unique(found)) >= len(paths) - 1


def shape(
    x: int, y: int, size: int = 20, colour: str = "red", kind: str = "ellipse"
) -> Image.Image:
    image = Image.new("RGB", (100, 100), "white")
    getattr(ImageDraw.Draw(image), kind)((x, y, x + size, y + size), fill=colour)
    return image


def test_a_sparse_image_elsewhere_or_of_another_colour_is_another() -> None:
    images = [
        shape(40, 40), shape(50, 40), shape(40, 44), shape(40, 40, 26),
        shape(20, 40), shape(60, 40),
        shape(40, 40, colour="blue"), shape(40, 40, colour="green"), shape(40, 40, colour="gray"),
        shape(40, 40, kind="rectangle"),
    ]  # fmt: skip
    assert len(near_copies(thumbnails(images))) == 0, "mirrored, shifted, scaled, recoloured"
    assert near_copies(thumbnails([*images, jpeg(shape(40, 40), 90)])).tolist() == [[0, 10]]


def page(lines: Iterable[int]) -> Image.Image:
    image = Image.new("RGB", (620, 877), "white")
    drawing = ImageDraw.Draw(image)
    for number, width in enumerate(lines):
        drawing.rectangle((60, 80 + 30 * number, 60 + width, 90 + 30 * number), fill="black")
    return image


@pytest.mark.exhaustive
def test_pages_and_night_scenes_stay_apart() -> None:
    rng = np.random.default_rng(0)
    pages = [page(rng.integers(150, 500, rng.integers(4, 24))) for _ in range(30)]
    nights = []
    for _ in range(30):
        noise = rng.normal(6, 2, (120, 160, 3)).clip(0, 255).astype(np.uint8)
        night = Image.fromarray(noise)
        for x, y in rng.integers((0, 30), (150, 110), (3, 2)):
            ImageDraw.Draw(night).ellipse((x, y, x + 6, y + 6), fill=(255, 240, 180))
        nights.append(night)
    assert len(near_copies(thumbnails(pages + nights))) == 0
    copies = thumbnails(jpeg(image, 80) for image in pages)
    one, other = np.split(groups(joined(thumbnails(pages), copies)), 2)
    assert (one == other).all()
    assert len(np.unique(one)) == len(pages)


@pytest.mark.exhaustive
def test_many_copies_of_one_image_are_one_group_and_plain_images_by_their_colour() -> None:
    photo = Image.open(PHOTOS[0]).convert("RGB").resize((200, 200))
    rng = np.random.default_rng(0)
    many = [
        jpeg(cut(photo, *rng.uniform(0, 0.06, 4)), int(rng.integers(40, 95))) for _ in range(60)
    ]
    plain = [Image.new("RGB", (9 + i, 9), colour) for i in range(3) for colour in ("white", "navy")]
    found = groups(thumbnails([photo, *many, *plain]))
    assert len(set(found[:61].tolist())) == 1
    assert found[61:].tolist() == [1, 2] * 3


def test_few_images_or_none() -> None:
    photo = Image.open(PHOTOS[0]).convert("RGB").resize((200, 200))
    assert near_copies(thumbnails([])).shape == (0, 2)
    assert near_copies(thumbnails([photo])).shape == (0, 2)
    assert near_copies(thumbnails([photo, ImageOps.mirror(photo)])).tolist() == [[0, 1]]


@pytest.mark.exhaustive
def test_the_same_pairs_whatever_the_order(originals: Thumbnails) -> None:
    photo = Image.open(PHOTOS[0]).convert("RGB").resize((200, 200))
    images = joined(originals, thumbnails([photo, ImageOps.mirror(photo)]))
    order = np.random.default_rng(3).permutation(len(images))
    columns = ("luma", "low", "high", "colour")
    shuffled = Thumbnails(*(getattr(images, name)[order] for name in columns))
    found = {tuple(sorted(pair)) for pair in order[near_copies(shuffled)].tolist()}
    assert found == {tuple(pair) for pair in near_copies(images).tolist()} != set()


@pytest.mark.exhaustive
def test_thousands_of_sparse_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    luma = np.full((4000, 24, 24), 255, dtype=np.uint8)
    for image, (x, y) in zip(luma, rng.integers(2, 18, (4000, 2)), strict=True):
        image[y : y + 4, x : x + 4] = 0
    colour = rng.integers(-60, 60, (4000, 2, 8, 8), dtype=np.int8)
    images = Thumbnails(luma, np.zeros(4000, np.float32), np.full(4000, 255, np.float32), colour)
    start = time.perf_counter()
    assert len(near_copies(images)) == 0
    assert time.perf_counter() - start < 10


def test_the_photographs_of_a_small_table_are_compared() -> None:
    """Candidates of which none is similar, so that nothing is left to compare more closely."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(2, 24, 24)).astype(np.float32) for _ in range(2))
    identity = np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1))
    for count in (0, 2):
        one, other = pyramid(first[:count]), pyramid(second[:count])
        assert not same_image(one, other, identity[:count]).any()
    assert same_image(pyramid(first), pyramid(first), identity).all()
    photos = [
        Image.open(path).convert("RGB")
        for path in sorted((ROOT / "benchmarks" / "photos").glob("*.jpg"))
    ]
    assert len(photos) == 6
    assert list(near_copies(thumbnails(photos))) == []
