"""Opening an image: what may be passed in, which way is up, and every refusal."""

from __future__ import annotations

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from tools.demo_world.drawing import draw
from tools.demo_world.scenes import Look, scenes
from vlmscope.dataset import difference_hash, load_image

from .images import BLACK, BLUE, GREEN, RED, WHITE, corners, pixels, refusal, save


def test_path_text_bytes_and_pil_agree(tmp_path: Path) -> None:
    path = save(corners(), tmp_path / "a.png")
    expected = [[RED, GREEN, BLUE], [WHITE, BLACK, BLACK]]
    assert pixels(path) == pixels(str(path)) == pixels(path.read_bytes()) == expected
    assert pixels(corners()) == expected


def test_pil_image_is_copied() -> None:
    image = corners()
    loaded = load_image(image)
    loaded.putpixel((0, 0), BLACK)
    assert image.getpixel((0, 0)) == RED


def test_file_is_closed_again(tmp_path: Path) -> None:
    loaded = load_image(save(corners(), tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    assert loaded.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[RED, GREEN, BLUE], [WHITE, BLACK, BLACK]]),
        (2, [[BLUE, GREEN, RED], [BLACK, BLACK, WHITE]]),
        (3, [[BLACK, BLACK, WHITE], [BLUE, GREEN, RED]]),
        (4, [[WHITE, BLACK, BLACK], [RED, GREEN, BLUE]]),
        (5, [[RED, WHITE], [GREEN, BLACK], [BLUE, BLACK]]),
        (6, [[WHITE, RED], [BLACK, GREEN], [BLACK, BLUE]]),
        (7, [[BLACK, BLUE], [BLACK, GREEN], [WHITE, RED]]),
        (8, [[BLUE, BLACK], [GREEN, BLACK], [RED, WHITE]]),
        (9, [[RED, GREEN, BLUE], [WHITE, BLACK, BLACK]]),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, upright: Any, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(corners(), tmp_path / f"a.{suffix}", exif=exif, **options)
    assert pixels(path) == upright
    assert pixels(load_image(path)) == upright, "turned once, whoever loads it next"
    with Image.open(path) as opened:
        assert pixels(opened) == upright


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGB", (32, 16), "red")
    image.paste("blue", (16, 0, 32, 16))
    loaded = load_image(save(image, tmp_path / "a.jpg", exif=exif, quality=95))
    assert loaded.size == (16, 32)
    top, bottom = np.asarray(loaded)[4, 8], np.asarray(loaded)[28, 8]
    assert top[0] > 240
    assert bottom[2] > 240


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\1", b"x"])
def test_damaged_exif_does_not_spoil_the_image(tmp_path: Path, exif: bytes) -> None:
    assert pixels(save(corners(), tmp_path / "a.png", exif=exif))[0] == [RED, GREEN, BLUE]


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "none.png"
    assert refusal(path) == f"image {path}: not found; correct the path, or pass --images DIR"


def test_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"image {tmp_path}: is a folder; name a file in it"


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    assert refusal(path) == f"image {path}: is empty, 0 bytes; fetch the file again"
    assert refusal(b"").startswith("image of 0 bytes: is empty")


def test_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no such file here")
    assert (
        f"image {path}: is not an image of a known format, starts with b'no such file'"
        in refusal(path)
    )


def test_name_too_long_for_a_file() -> None:
    assert "cannot be decoded" in refusal("x" * 5000) or "not found" in refusal("x" * 5000)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_cut_short(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert str(path) in refusal(path)
    assert "image of" in refusal(path.read_bytes())


def test_damaged_inside(tmp_path: Path) -> None:
    path = save(corners().resize((64, 64)), tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[50:60] = bytes(10)
    path.write_bytes(content)
    assert f"image {path}: cannot be decoded (" in refusal(path)


@pytest.mark.parametrize("limit", [5, 2])
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = save(corners(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 6 pixels; Pillow itself refuses at 2×
    text = refusal(path)
    assert f"image {path}: too many pixels, may be a decompression bomb (" in text
    assert "scale the image down" in text
    assert "PIL image of mode RGB: too many pixels" in refusal(corners())


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = save(Image.new("1", (1, 1)), tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 10_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    assert "(10000×10000, limit 89478485 pixels)" in refusal(path)


def test_no_limit_means_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixels(save(corners(), tmp_path / "a.png"))[0][0] == RED


def test_no_pixels() -> None:
    assert "has no pixels, 0×3" in refusal(Image.new("RGB", (0, 3)))


def test_closed_image(tmp_path: Path) -> None:
    with Image.open(save(corners(), tmp_path / "a.png")) as image:
        pass
    assert "cannot be decoded" in refusal(image)


def test_pillow_is_left_as_it_was(tmp_path: Path) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    refusal(b"x")
    load_image(save(corners(), tmp_path / "a.png"))
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert after == before


def test_threads_keep_the_warning_filters(tmp_path: Path) -> None:
    content = save(corners(), tmp_path / "a.png").read_bytes()
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: load_image(content), range(400)))
    assert all(image.getpixel((0, 0)) == RED for image in loaded)
    assert list(warnings.filters) == before


def test_images_that_look_alike_have_near_perceptual_hashes() -> None:
    scene = next(scenes(0, "demo", 1, start=7))
    image = draw(replace(scene, look=Look(False, 0.0, 0.0, 0.0, 1.0)))
    half = image.resize((image.width // 2, image.height // 2))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=50)
    other = draw(next(scenes(0, "demo", 1, start=8)))

    def distance(one: Image.Image) -> int:
        bits = int(difference_hash(one), 16) ^ int(difference_hash(image), 16)
        return bits.bit_count()

    assert distance(half) <= 4
    assert distance(Image.open(buffer)) <= 4
    assert distance(other) > 12
