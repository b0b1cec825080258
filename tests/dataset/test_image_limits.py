"""What is no image, or would cost far more than its size, is refused in one line before it does."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmscope.dataset import hash_image, load_image
from vlmscope.dataset.images import file as image_file
from vlmscope.dataset.images import jpeg
from vlmscope.dataset.images import pixels as pixel_formats
from vlmscope.errors import RowError

from .images import corners, pixels, refusal, save

READ = "vlmscope reads JPEG, PNG, WebP, GIF, BMP, TIFF, PPM and AVIF"
PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    with BytesIO() as buffer:
        image.save(buffer, kind, **options)
        return buffer.getvalue()


def noise(width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_with(*, before: bytes = b"", amid: bytes = b"") -> bytes:
    """A PNG of 8×8 with more chunks before its pixels, or among them."""
    whole = encoded(Image.new("RGB", (8, 8)), "PNG")
    at = whole.index(b"IDAT") - 4
    return whole[:at] + before + amid + whole[at:]


def tiff_with(tags: list[tuple[int, int, int, int]], pixels: bytes = b"") -> bytes:
    """A TIFF of one directory; the pixels follow it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


# Formats


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("MPO", {"quality": 100, "subsampling": 0, "save_all": True, "append_images": [noise()]}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
        *(
            ("TIFF", {"compression": way})
            for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_people_have_is_read(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    image = Image.new("RGB", (64, 48), (250, 10, 20))
    path = tmp_path / "no-suffix"
    path.write_bytes(encoded(image, kind, **options))
    read = np.asarray(load_image(path), dtype=int)
    assert np.abs(read - np.asarray(image, dtype=int)).max() <= 4
    assert np.array_equal(read, np.asarray(load_image(path.read_bytes())))


def icon() -> bytes:
    return encoded(corners(), "ICO", sizes=[(3, 2)])


def fits() -> bytes:
    """A FITS image whose pixels are a gzip stream of zeros."""

    def block(*cards: tuple[str, str]) -> bytes:
        text = b"".join(f"{name:<8}= {value:>20}".ljust(80).encode() for name, value in cards)
        text += b"END".ljust(80)
        return text.ljust(-(-len(text) // 2880) * 2880)

    first = block(("SIMPLE", "T"), ("BITPIX", "8"), ("NAXIS", "0"))
    second = block(
        ("XTENSION", "'BINTABLE'"), ("BITPIX", "8"), ("NAXIS", "2"), ("NAXIS1", "8"),
        ("NAXIS2", "1"), ("PCOUNT", "0"), ("GCOUNT", "1"), ("ZIMAGE", "T"),
        ("ZCMPTYPE", "'GZIP_1  '"), ("ZBITPIX", "8"), ("ZNAXIS", "2"), ("ZNAXIS1", "40"),
        ("ZNAXIS2", "40"),
    )  # fmt: skip
    return first + second + bytes(8) + gzip.compress(bytes(1600))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (lambda: encoded(corners(), "EPS"), "an EPS or PostScript file"),
        (lambda: b"\xc5\xd0\xd3\xc6" + bytes(40), "an EPS file"),
        (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
        (lambda: b"8BPS\0\1" + bytes(60), "a Photoshop document (PSD)"),
        (fits, "a FITS image"),
        (lambda: encoded(corners(), "JPEG2000"), "a JPEG 2000 image"),
        (lambda: encoded(corners(), "JPEG2000", no_jp2=True), "a JPEG 2000 image"),
        (lambda: b"\xff\x0a" + bytes(20), "a JPEG XL image"),
        (icon, "an icon (ICO)"),
        (lambda: encoded(corners(), "QOI"), "a QOI image"),
        (lambda: encoded(corners(), "DDS"), "a DDS texture"),
        (lambda: b"\0\0\0\x18ftypheic" + bytes(20), "an HEIC image"),
        (lambda: b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(20), "an HEIC image"),
        (lambda: b"\0\0\0\x18ftypisom" + bytes(20), "a video (MP4 or QuickTime)"),
        (lambda: b"\x1aE\xdf\xa3" + bytes(20), "a video (Matroska or WebM)"),
        (lambda: bytes(128) + b"DICM" + bytes(20), "a DICOM image"),
        (lambda: b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', "an SVG drawing"),
        (lambda: b"  <SVG width='1'/>", "an SVG drawing"),
        (lambda: b"<!DOCTYPE html>\n<title>404</title>", "a page of HTML or XML"),
        (lambda: gzip.compress(b"x"), "a gzip file"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid x", "a Git LFS pointer"),
    ],
)
def test_other_formats_are_named_and_not_opened(
    tmp_path: Path, data: Callable[[], bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data())
    monkeypatch.setattr(Image, "open", None)
    remedies = ("convert it, for example to PNG", "extract a frame", "fetch the file again",
                "run 'git lfs pull'")  # fmt: skip
    text = refusal(path)
    assert text.startswith(f"image {path}: is {name}; {READ}: ")
    assert text.endswith(remedies)
    assert f": is {name}; {READ}" in refusal(path.read_bytes())


def test_a_format_without_a_signature_is_refused_too(tmp_path: Path) -> None:
    assert "is not an image of a known format, starts with b'\\x00\\x00\\x02" in refusal(
        save(corners(), tmp_path / "a.tga")
    )


@pytest.mark.parametrize("kind", ["TGA", "SGI", "PCX", "SPIDER", "ICNS", "JPEG2000", "ICO"])
def test_only_the_formats_of_the_list_are_tried(kind: str) -> None:
    image = Image.new("L", (64, 64), 7) if kind == "SPIDER" else Image.new("RGB", (64, 64))
    assert READ in refusal(encoded(image, kind))


# Files


def test_a_file_may_have_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(corners(), tmp_path / "a.png")
    size = path.stat().st_size
    monkeypatch.setattr(image_file, "MAX_IMAGE_BYTES", size)
    assert pixels(path) == pixels(path.read_bytes())
    monkeypatch.setattr(image_file, "MAX_IMAGE_BYTES", size - 1)
    limit = f"has {size} bytes, the limit is {size - 1}; save it as JPEG or PNG, or scale"
    assert f"image {path}: {limit}" in refusal(path)
    assert f"image of {size} bytes: {limit}" in refusal(path.read_bytes())


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF", "TIFF"])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(encoded(corners(), kind))
    os.truncate(path, 6 * 2**30)  # a hole: it takes no room
    tracemalloc.start()
    try:
        assert "has 6,442,450,944 bytes, the limit is 268,435,456; " in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("grown", [b"more", None], ids=["grown", "cut"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, grown: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(corners(), tmp_path / "a.png")

    def changes(_size: int, _what: str) -> None:
        path.write_bytes(b"" if grown is None else path.read_bytes() + grown)

    monkeypatch.setattr(image_file, "check_size", changes)
    assert "changed while it was read; wait until it is complete" in refusal(path)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as line:
        line.bind(path.name)


@pytest.mark.parametrize(
    "make",
    [make_fifo, make_socket, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "socket", "device"],
)
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file(
    tmp_path: Path, make: Callable[[Path], None], linked: bool
) -> None:
    path = tmp_path / "a.png"
    make(path)
    if linked:
        path = tmp_path / "link.png"
        path.symlink_to("a.png")
    assert refusal(path) == (f"image {path}: is a pipe, socket or device; name a regular file")


def test_a_file_that_has_become_a_pipe_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save(corners(), tmp_path / "a.png").stat()
    make_fifo(tmp_path / "pipe.png")
    monkeypatch.setattr(image_file, "_stat", lambda _path: before)
    assert "is a pipe, socket or device" in refusal(tmp_path / "pipe.png")


def test_a_file_of_the_kernel_that_says_it_is_empty() -> None:
    assert "is empty, 0 bytes" in refusal("/proc/self/environ")


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000, "a.png/b.png"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    save(corners(), tmp_path / "a.png")
    assert "not found; correct the path" in refusal(f"{tmp_path}/{name}")


# What the header declares


def test_tiles_larger_than_the_image_count_as_pixels() -> None:
    data = zlib.compress(bytes(1000))
    tags = [
        (256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (277, 3, 1, 1), (284, 3, 1, 1), (322, 4, 1, 32_768), (323, 4, 1, 32_768),
        (324, 4, 1, 146), (325, 4, 1, len(data)),
    ]  # fmt: skip
    assert "bomb (tiles of 32768×32768, limit 89478485 pixels)" in refusal(tiff_with(tags, data))


def test_small_tiles_are_read() -> None:
    data = zlib.compress(bytes([9]) * 64 * 64)
    tags = [
        (256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (277, 3, 1, 1), (284, 3, 1, 1), (322, 4, 1, 64), (323, 4, 1, 64),
        (324, 4, 1, 146), (325, 4, 1, len(data)),
    ]  # fmt: skip
    assert pixels(tiff_with(tags, data))[15][15] == (9, 9, 9)


def gif_with(comment: bytes) -> bytes:
    whole = encoded(Image.new("L", (8, 8)), "GIF")
    at = whole.index(b",", 13 + 3 * 2 ** (1 + (whole[10] & 7)))
    return whole[:at] + b"!\xfe" + comment + b"\0" + whole[at:]


MANY_PARTS = {
    "tags of a TIFF": lambda: tiff_with(
        [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
         (273, 4, 1, 8), *((tag, 1, 400_000, 8) for tag in range(500, 40_000))],
        bytes(1000),
    ),
    "chunks of a PNG": lambda: png_with(before=chunk(b"abCd") * 10_000),
    "blocks of a GIF": lambda: gif_with(b"\1a" * 20_000),
    "bytes that are no marker of a JPEG": lambda: encoded(noise(), "JPEG").replace(
        b"\xff\xdb", bytes(30_000) + b"\xff\xdb", 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MANY_PARTS)
def test_a_header_of_very_many_parts(name: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        assert "has so many small parts" in refusal(MANY_PARTS[name]())
    assert not said


def runs(width: int, height: int) -> bytes:
    """A BMP whose pixels are runs of one."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    start = struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024)
    row = b"\1\7" * width + b"\0\0"
    return b"BM" + start + header + bytes(1024) + row * height + b"\0\1"


@pytest.mark.parametrize(
    "data",
    [
        lambda: png_with(amid=chunk(b"IDAT") * 2_000),
        lambda: runs(60, 60),
        lambda: b"P6 60 60 100\n" + bytes(60 * 60 * 3),
    ],
    ids=["png", "bmp", "ppm"],
)
def test_pixels_in_very_many_parts(
    data: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_image(data()).width in (8, 60)
    monkeypatch.setattr(image_file, "PIXEL_READS", 3_000)
    assert "has so many small parts" in refusal(data())


def test_a_ppm_written_in_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"P3 2 1 255\n1 2 3 4 5 6\n"
    assert pixels(data) == [[(1, 2, 3), (4, 5, 6)]]
    monkeypatch.setattr(image_file, "MAX_PLAIN_BYTES", len(data) - 1)
    assert "is a PPM written in digits of 23 bytes, the limit for these is 22" in refusal(data)


def progressive(again: int) -> bytes:
    """A JPEG whose last scan comes again and again."""
    whole = encoded(noise(), "JPEG", progressive=True)
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:end] + whole[last:end] * again + whole[end:]


def test_a_jpeg_may_have_so_many_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_image(progressive(300)).size == (64, 48), "a small one is decoded at once"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2 * 64 * 48)
    assert load_image(progressive(54)).size == (64, 48)
    text = refusal(progressive(55))
    assert "a JPEG of 64×48 pixels in 65 scans, 32 scans of 6,144 pixels are the limit" in text
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(progressive(55)).size == (64, 48)


def test_what_only_looks_like_a_scan_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48)
    thumbnail = b"\xff\xe1" + struct.pack(">H", 20_002) + b"\xff\xda" * 10_000
    whole = encoded(noise(), "JPEG", progressive=True)
    assert load_image(whole[:2] + thumbnail + whole[2:]).size == (64, 48)
    movie = b"\xff\xda" * 1_000  # of a phone's "live" photo, after the image
    assert load_image(whole + movie).size == (64, 48)
    pages = encoded(noise(), "MPO", save_all=True, append_images=[noise()] * 40)
    assert load_image(pages).size == (64, 48)


@pytest.mark.parametrize(
    ("name", "limit", "filler"),
    [
        ("MAX_EXIF_BYTES", 150_000, b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0"),
        ("MAX_SEGMENTS", 15, b"\xff\xe5" + struct.pack(">H", 2)),
    ],
)
def test_a_jpeg_of_very_many_segments(
    name: str, limit: int, filler: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler += bytes(int.from_bytes(filler[2:4], "big") + 2 - len(filler))
    whole = encoded(noise(), "JPEG")
    data = whole[:2] + filler * 9 + whole[2:]
    assert load_image(data).size == (64, 48)
    monkeypatch.setattr(jpeg, name, limit)
    assert "save it again" in refusal(data)


def test_exif_that_declares_far_more_than_it_has_is_ignored() -> None:
    block = b"II*\0" + struct.pack("<IH", 8, 3000)
    block += b"".join(struct.pack("<HHII", tag, 1, 30_000, 8) for tag in range(500, 3500))
    with warnings.catch_warnings(record=True) as said:
        assert load_image(png_with(before=chunk(b"eXIf", block))).size == (8, 8)
    assert not said


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["zTXt", "iCCP", "iTXt"])
def test_a_png_whose_texts_expand(kind: str) -> None:
    head = {"zTXt": b"k\0\0", "iCCP": b"k\0\0", "iTXt": b"k\0\1\0\0\0"}[kind]
    data = png_with(before=chunk(kind.encode(), head + zlib.compress(bytes(50_000_000), 9)))
    tracemalloc.start()
    try:
        assert "Decompressed data too large" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(65_500, 1), (1, 65_500)])
def test_a_long_strip(width: int, height: int) -> None:
    assert load_image(encoded(Image.new("L", (width, height)), "JPEG")).size == (width, height)


def test_a_gif_whose_screen_is_larger_than_its_frame() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8)), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    assert "too many pixels" in refusal(bytes(data))
    data[6:10] = struct.pack("<HH", 4, 4)  # or smaller: the frame makes it larger
    assert load_image(bytes(data)).size == (8, 8)


def small(kind: str) -> bytes:
    options = {"progressive": True} if kind == "JPEG" else {}
    frames = {"save_all": True, "append_images": [corners()]} if kind == "MPO" else {}
    return encoded(corners(), kind, **options, **frames)


SMALL = {
    kind: small(kind)
    for kind in ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "PPM", "WEBP", "AVIF")
}


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.data())
def test_any_damage_is_refused_in_a_line_or_gives_an_image(data: st.DataObject) -> None:
    content = bytearray(SMALL[data.draw(st.sampled_from(sorted(SMALL)))])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=8))
    try:
        image = load_image(bytes(content))
    except RowError:
        refusal(bytes(content))
    else:
        assert image.mode == "RGB"


# Memory


def deep_images() -> dict[str, Image.Image]:
    rng = np.random.default_rng(1)
    wide = rng.normal(0, 1000, (40, 30))
    holes = np.where(wide > 900, np.nan, wide).astype(np.float32)
    clear = Image.fromarray(rng.integers(0, 9, (40, 30), dtype=np.uint16) * 7000)
    clear.info["transparency"] = 21_000
    palette = Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8), "P")
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tolist())
    palette.info["transparency"] = bytes(range(256))
    alpha = rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)
    return {
        "I": Image.fromarray((wide * 100).astype(np.int32)),
        "I of 16 bits": Image.fromarray(np.abs(wide).astype(np.int32)),
        "I;16": Image.fromarray(np.abs(wide).astype(np.uint16)),
        "I;16B": Image.frombytes("I;16B", (30, 40), np.abs(wide).astype(">u2").tobytes()),
        "I;16 with a clear shade": clear,
        "F": Image.fromarray(wide.astype(np.float32)),
        "F with holes": Image.fromarray(holes),
        "F from 0 to 1": Image.fromarray((np.abs(wide) / 9000).astype(np.float32)),
        "RGBA": Image.fromarray(alpha, "RGBA"),
        "LA": Image.fromarray(alpha[..., :2].copy(), "LA"),
        "P with alpha": palette,
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", deep_images())
def test_bands_make_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = deep_images()[name]
    whole = load_image(image)
    assert len(np.unique(np.asarray(whole))) > 3
    for rows in (1, 7, 39):
        monkeypatch.setattr(pixel_formats, "BAND_PIXELS", rows * image.width)
        banded = load_image(image)
        assert banded.tobytes() == whole.tobytes()
        assert hash_image(banded) == hash_image(whole)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_deep_pixels_take_no_more_than_a_band(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_formats, "BAND_PIXELS", 10_000)
    image = Image.fromarray(np.arange(1_000_000).reshape(1000, 1000).astype(dtype))
    tracemalloc.start()
    try:
        hash_image(load_image(image))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000, "a byte a pixel"
    finally:
        tracemalloc.stop()
