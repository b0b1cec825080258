"""Every pixel format becomes the RGB a person sees, checked by its pixels."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .images import BLACK, BLUE, GREEN, RED, WHITE, corners, pixels, refusal, save


def test_palette(tmp_path: Path) -> None:
    assert pixels(save(corners().quantize(8), tmp_path / "a.png"))[0] == [RED, GREEN, BLUE]


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_transparency(tmp_path: Path, transparency: Any, suffix: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    if suffix == "gif":
        transparency = 0
    path = save(image, tmp_path / f"a.{suffix}", transparency=transparency)
    assert pixels(path) == [[WHITE, BLUE]], "the hidden red does not show"


def test_palette_half_transparent(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([*BLACK])
    assert pixels(save(image, tmp_path / "a.png", transparency=bytes([51]))) == [[(204, 204, 204)]]


def test_palette_that_holds_alpha() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0, 255, 255], "RGBA")
    image.putpixel((1, 0), 1)
    assert pixels(image) == [[WHITE, BLUE]]


def test_grey(tmp_path: Path) -> None:
    assert pixels(save(Image.new("L", (1, 1), 77), tmp_path / "a.png")) == [[(77, 77, 77)]]


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = Image.new("LA", (3, 1))
    for x, pixel in enumerate([(0, 0), (0, 51), (100, 255)]):
        image.putpixel((x, 0), pixel)
    expected = [[(255,) * 3, (204,) * 3, (100,) * 3]]
    assert pixels(save(image, tmp_path / "a.png")) == expected


def test_palette_with_alpha() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    alpha = Image.new("L", (2, 1), 255)
    alpha.putpixel((0, 0), 0)
    image.putalpha(alpha)
    assert image.mode == "PA"
    assert pixels(image) == [[WHITE, BLUE]]


def test_rgba(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(*RED, 0), (*BLACK, 51), (*BLUE, 255)]):
        image.putpixel((x, 0), pixel)
    expected = [[WHITE, (204, 204, 204), BLUE]]
    assert pixels(save(image, tmp_path / "a.png")) == expected
    assert pixels(image.convert("RGBa"))[0][2] == BLUE


@pytest.mark.parametrize(
    ("mode", "clear", "other", "seen"),
    [("RGB", RED, BLUE, BLUE), ("L", 9, 100, (100,) * 3), ("1", 0, 255, WHITE)],
)
def test_colour_key(tmp_path: Path, mode: str, clear: Any, other: Any, seen: Any) -> None:
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), other)
    path = save(image, tmp_path / "a.png", transparency=clear)
    assert pixels(path) == [[WHITE, seen]]


def test_one_bit(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(save(image, tmp_path / "a.png")) == [[BLACK, WHITE]]


@pytest.mark.parametrize(
    ("ink", "low", "high"),
    [
        ((0, 0, 0, 0), (250, 250, 250), WHITE),
        ((0, 255, 255, 0), (240, 0, 0), (255, 15, 15)),
        ((0, 0, 0, 255), BLACK, (5, 5, 5)),
    ],
)
def test_cmyk_jpeg(tmp_path: Path, ink: Any, low: Any, high: Any) -> None:
    path = save(Image.new("CMYK", (16, 16), ink), tmp_path / "a.jpg", quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    pixel = pixels(path)[8][8]
    assert all(a <= b <= c for a, b, c in zip(low, pixel, high, strict=True)), pixel


def deep() -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], dtype=np.uint16)


SIXTEEN = [[(0,) * 3, (0,) * 3, (1,) * 3, (127,) * 3, (255,) * 3]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey(tmp_path: Path, suffix: str) -> None:
    assert pixels(save(Image.fromarray(deep()), tmp_path / f"a.{suffix}")) == SIXTEEN


def test_sixteen_bit_grey_other_modes() -> None:
    assert pixels(Image.fromarray(deep().astype(np.int32))) == SIXTEEN
    big_endian = Image.frombytes("I;16B", (5, 1), deep().astype(">u2").tobytes())
    assert pixels(big_endian) == SIXTEEN


def test_sixteen_bit_grey_with_a_clear_shade(tmp_path: Path) -> None:
    path = save(Image.fromarray(deep()), tmp_path / "a.png", transparency=0x7FFF)
    with Image.open(path) as image:
        assert image.info["transparency"] == 0x7FFF
    assert pixels(path)[0][3:] == [WHITE, WHITE]
    assert pixels(path)[0][0] == BLACK


def test_sixteen_bit_colour_png(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(">HHH", 0xFFFF, 0x7FFF, 0x00FF))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    )
    assert pixels(path) == [[(255, 127, 0)]]


def test_more_than_sixteen_bits_is_stretched() -> None:
    wide = Image.fromarray(np.array([[-100, 0, 100]], dtype=np.int32))
    assert pixels(wide) == [[BLACK, (128,) * 3, WHITE]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([1000.0, 2000.0, 3000.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
    ],
)
def test_float_images(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    path = save(image, tmp_path / "a.tiff")
    assert pixels(path) == pixels(image) == [[(value,) * 3 for value in expected]]


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_colour_spaces(mode: str) -> None:
    pixel = pixels(Image.new("RGB", (1, 1), "red").convert(mode))[0][0]
    assert pixel[0] > 250
    assert max(pixel[1:]) < 5


def test_mode_without_a_way_to_rgb() -> None:
    assert "PIL image of mode La: cannot be decoded" in refusal(Image.new("La", (1, 1)))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue", "black")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert pixels(path)[0][0] == RED
